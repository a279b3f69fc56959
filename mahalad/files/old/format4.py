"""Format 4: images were counted, not parts; there were no names, thumbnails, checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.files.layouts import N_PIXELS

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

_DETECTOR = {"autoencoder": None}
_CLASSIFIER = {"search": None, "n_self_trained": 0}


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 5 of format 4: every calibration score has the weight 1, as it had then.

    Votes of a classifier get a checksum of 0, which says that the vector is not known.

    Parameters
    ----------
    header, arrays
        As in a file of format 4.
    """
    kind = header.get("kind")
    if kind == "metric-knn":
        n = len(arrays["held_out/ids"]) if "held_out/ids" in arrays else 0
        header = header | {k: v for k, v in _CLASSIFIER.items() if k not in header}
        return header, arrays | {"held_out/checksums": np.zeros(n, dtype=np.uint64)}
    if kind is not None:
        return header, arrays
    new, more = header | {k: v for k, v in _DETECTOR.items() if k not in header}, dict(arrays)
    if "fit" in header and "calibration" in header:
        new["held_out"] = _store("held_out", {"groups": None}, more)
        new["fit"] = _store("fit", header["fit"], more)
        new["calibration"] = _calibration(header, more)
    return new, more


def _store(name: str, record: Mapping[str, Any], arrays: Arrays) -> Header:
    """Complete a record, and add thumbnails that are like no others."""
    keys = arrays.get(f"{name}/keys", np.empty(0, np.uint64))
    if len(keys):
        arrays[f"{name}/looks"] = np.zeros((len(keys), N_PIXELS), np.uint8)
    new: Header = {}
    if name == "held_out":
        new = {"n_images": len(keys), "n_stored": len(keys)}
    new |= {"names": [f"image {i + 1}" for i in range(len(keys))], "limit": None, **record}
    if "groups" in record:
        given = record["groups"] is not None
        new["grouped"] = given
        new["whole_groups"] = not given or record.get("n_stored") == record.get("n_images")
        if not given:  # each picture was its own
            new["groups"] = sorted({f"{key:016x}" for key in keys.tolist()})
    return new


def _calibration(header: Header, arrays: Arrays) -> Header:
    """Weights of 1; the scores are of the images of the fit, in their order, if they may be."""
    fit, calibration = header["fit"], header["calibration"]
    n = len(arrays.get("calibration/scores", ()))
    groups = fit.get("groups")
    arrays["calibration/weights"] = np.ones(n)
    arrays["calibration/keys"] = np.empty(0, np.uint64)
    keys = arrays.get("fit/keys", ())
    if calibration.get("method") in ("leave-one-out", "cross-fit") and len(keys) == n:
        arrays["calibration/keys"] = np.asarray(keys)
    return {
        **calibration,
        "n_keys": len(arrays["calibration/keys"]),
        "n_independent": float(n),
        "counts_parts": groups is None or len(groups) == fit.get("n_images"),
    }

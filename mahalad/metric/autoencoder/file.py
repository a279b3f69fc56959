"""A fitted autoencoder as JSON and arrays, as a file, and back: functions over values."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import ModelFileError
from mahalad.features.golden import GOLDEN_SEED
from mahalad.files.container import read_model, write_model
from mahalad.metric.autoencoder.networks import (
    SIZES,
    AutoencoderNetwork,
    get_weights,
    make_network,
    set_weights,
)
from mahalad.result import Result

GOLDEN_RTOL = 1e-4
"""Largest change of what golden images give, relative to its root mean square."""

_PREFIX = "weights/"
_VERSIONED = ("torch", "numpy", "pillow", "safetensors")

Arrays = dict[str, NDArray[Any]]


def write(path: str | Path, about: dict[str, Any], arrays: Arrays) -> None:
    """Write what `describe` gave to a file, atomically."""
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        **about,
    }
    write_model(path, header, arrays)


def read(path: str | Path) -> tuple[dict[str, Any], Arrays]:
    """Read what `write` wrote.

    Raises
    ------
    ModelFileError
        Not an autoencoder, damaged, or from a newer version.
    """
    header, arrays = read_model(path)
    if header.get("kind") != "autoencoder":
        found = header.get("kind") or header.get("class") or "something else"
        raise ModelFileError(f"{path}: holds no autoencoder ({found})")
    return header, arrays


def describe(
    network: AutoencoderNetwork,
    *,
    params: dict[str, Any],
    record: dict[str, Any],
    n_images: int,
    history: list[dict[str, Any]],
    unreadable: list[Result],
    golden: Arrays,
) -> tuple[dict[str, Any], Arrays]:
    """Describe a fitted autoencoder as JSON and named arrays.

    Parameters
    ----------
    network : AutoencoderNetwork
    params : dict
        Parameters of the training.
    record : dict
        See `Autoencoder.record`.
    n_images, history, unreadable
        See the attributes of `Autoencoder`.
    golden : dict of str to ndarray
        What golden images give, by the names the arrays have in the file.
    """
    about = {
        "kind": "autoencoder",
        "params": params,
        "record": record,
        "fit": {
            "n_images": n_images,
            "history": history,
            "unreadable": [{"name": r.name, "error": r.error} for r in unreadable],
        },
        "golden": {"seed": GOLDEN_SEED, "rtol": GOLDEN_RTOL},
    }
    arrays = {f"{_PREFIX}{name}": value for name, value in get_weights(network).items()}
    return about, arrays | golden


def network_of(about: dict[str, Any], arrays: Arrays) -> AutoencoderNetwork:
    """Make the network that `describe` described, on the CPU.

    Raises
    ------
    KeyError, TypeError, ValueError
        Something is missing, or of a wrong type or shape.
    """
    sizes = {name: int(about["record"][name]) for name in SIZES}
    network = make_network(**sizes, random_state=0)
    set_weights(network, {n.removeprefix(_PREFIX): value for n, value in arrays.items()})
    return network


def unreadable_of(about: dict[str, Any]) -> list[Result]:
    """Give the images that the training had to leave out."""
    return [Result(r["name"], error=r["error"]) for r in about["fit"]["unreadable"]]


def check(about: dict[str, Any], arrays: Arrays, record: dict[str, Any], golden: Arrays) -> None:
    """Check that a restored autoencoder has the record and the golden values that it had.

    Raises
    ------
    ModelFileError
        The weights are not those that were saved, or golden images give other values.
    """
    if record["weights_sha256"] != about["record"]["weights_sha256"]:
        raise ModelFileError("the weights are damaged: their hash is not that of the header")
    rtol = float(about["golden"]["rtol"])
    for name, found in golden.items():
        wanted = arrays[name]
        allowed = rtol * float(np.sqrt(np.mean(wanted.astype(float) ** 2)))
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= allowed:
            raise ModelFileError(
                "the autoencoder does not give here what it gave where it was saved: the "
                f"{name.removeprefix('golden/')} of its check images differ by more than "
                f"{allowed:.3g}. Another precision, library version or device may be the reason"
            )

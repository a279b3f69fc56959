"""What model files of format 10 are made up of: the header of each kind, and its arrays.

`docs/model-format.md` says what it all means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mahalad.choices import OUTSIDE, VOTES
from mahalad.files.schema import AnyOf, ListOf, MapOf, Maybe, OneOf, Optional

Header = dict[str, Any]

CONTEXT = "(context)"
"""Stands for the context of maps among the levels of a scorer."""

N_PIXELS = 768
"""Numbers of a thumbnail, 16 x 16 pixels of three colours."""

CONTEXT_STEPS = 4
"""Positions of the coarsest grid along a side of a place of the context."""

BLOCK_STEPS = 4
"""Positions of the coarsest grid along a side of a block that shares a metric."""

N_PATCHES = 200
"""Images, at most, whose patches a file has."""

N_CHANGED = 8
"""Images, at most, of which a file knows what harmless changes do to them."""

_SUMS = ("shift", "s1", "q1")
_PLAIN = AnyOf((str, int, float, bool))
_FILE = {"mahalad_version": str, "versions": MapOf(str)}
_UNREADABLE = ListOf({"name": str, "error": str})

_STORE = {
    "n_images": int,
    "n_stored": int,
    "groups": ListOf(str),
    "names": ListOf(str),
    "limit": Maybe(int),
    "whole_groups": bool,
}

RECORD = {
    "backbone": str,
    "levels": ListOf(str),
    "maps": ListOf(str),
    "region": Maybe(str),
    "outside": Optional(OneOf(OUTSIDE)),
    "input_size": int,
    "mean": ListOf(float),
    "std": ListOf(float),
    "interpolation": str,
    "resize": str,
    "tiles": Optional(int),
    "orientations": Optional(int),
    "weights_source": str,
    "weights_origin": str,
    "weights_sha256": str,
    "weights_dtype": str,
    "weights_embedded": Optional(bool),
    "engine": Optional(OneOf(("torch", "onnx", "openvino"))),
}
"""What identifies the features of a network."""

ABOUT_AUTOENCODER = {
    "kind": OneOf(("autoencoder",)),
    "params": dict,
    "record": {"bottleneck": int, "width": int, "input_size": int, "weights_sha256": str},
    "fit": {"n_images": int, "history": ListOf(dict), "unreadable": _UNREADABLE},
    "golden": {"seed": int, "rtol": float},
}
AUTOENCODER = {**_FILE, **ABOUT_AUTOENCODER}

DETECTOR = {
    "class": OneOf(("AnomalyDetector", "KNNDetector", "MahalanobisDetector")),
    **_FILE,
    "params": dict,
    "features": Maybe(RECORD),
    "autoencoder": Maybe(ABOUT_AUTOENCODER),
    "scorer": Maybe(
        {
            "groups": ListOf(ListOf(str)),
            "pooled": ListOf(str),
            "n_active": int,
            "scale": ListOf(float, 2),
            "boxed": Optional(bool),
            "maps": Optional(MapOf(ListOf(float, 2))),
            "context_weight": Optional(float),
            "nearest": Optional(ListOf(str)),
            "blend": Optional(float),
            "common": Optional(float),
            "finer": Optional({"grid": str, "weight": float, "n_largest": int}),
            "image_tolerance": Optional(float),
        }
    ),
    "fit": {
        **_STORE,
        "levels": MapOf(ListOf(int)),
        "turned": Optional(bool),
        "grouped": bool,
        "columns": Optional(ListOf(str)),
        "unreadable": _UNREADABLE,
        "depths": Optional(MapOf(str)),
        "date": Optional(str),
    },
    "held_out": _STORE,
    "calibration": {
        "method": OneOf(("leave-one-out", "cross-fit", "holdout", "none")),
        "n": int,
        "n_keys": int,
        "n_independent": float,
        "counts_parts": bool,
    },
    "golden": {"seed": int, "rtol": float, "atol": float, "scores": ListOf(float)},
}

CLASSIFIER = {
    "class": OneOf(("MetricKNNClassifier",)),
    **_FILE,
    "params": dict,
    "classes": ListOf(_PLAIN),
    "encoder": Maybe({"class": OneOf(("Autoencoder", "BackboneFeatures"))}),
    "projection": Maybe({"params": dict, "state": {"n_features": int, "classes": ListOf(_PLAIN)}}),
    "levels": MapOf(int),
    "depths": Optional(MapOf(str)),
    "about": Maybe(dict),
    "index": {
        "where": Optional(Maybe(str)),
        "state": Optional(
            {"n_features": int, "distance": str, "about": Maybe(dict), "labels": ListOf(str)}
        ),
    },
    "search": Maybe(
        {
            "chosen": dict,
            "validation_f1": float,
            "default_f1": Maybe(float),
            "candidates": ListOf(dict),
        }
    ),
    "operating_point": Maybe({"threshold": float, "precision": float, "recall": float}),
    "calibration": {
        "method": OneOf(("cross-fit", "leave-one-out")),
        "n_neighbors": int,
        "weights": OneOf(VOTES),
    },
    "n_self_trained": int,
    "unreadable": _UNREADABLE,
    "date": Optional(str),
    "golden": {"seed": int, "rtol": float},
}
OF_AUTOENCODER = {"params": dict, "state": ABOUT_AUTOENCODER}
OF_BACKBONE = {"spec": dict, "record": RECORD}
"""What an encoder has beside its class."""


@dataclass(frozen=True)
class Row:
    """An array that must be there.

    Attributes
    ----------
    name : str
    kinds : str
        Kinds of dtype that it may have: "f" float, "i" and "u" whole numbers.
    shape : tuple of int and str
        Each a number, or the name of one: the same name is the same number in all arrays.
    values : {"finite", "positive", "shares", "half"}
        "positive" numbers may be infinite: a deviation is where a place is not judged. "shares" are
        above 0, and 1 at most. "half" are within the range of float16.
    below : int or None
        Codes: whole numbers from 0 to below this.
    first : tuple of int
        What the first number of the shape may be; empty where nothing more is known of it.
    most : int or None
        What the last number of the shape may be at most.
    part, what : str
        The part of the file that it belongs to, and what it is, for messages.
    """

    name: str
    kinds: str
    shape: tuple[int | str, ...]
    values: str = "finite"
    below: int | None = None
    first: tuple[int, ...] = ()
    most: int | None = None
    part: str = "the model file"
    what: str = ""


@dataclass(frozen=True)
class Weights:
    """Arrays of a network below a prefix, at least one: their names are the network's own."""

    prefix: str


@dataclass(frozen=True)
class Together:
    """Rows that are all there or none of them."""

    prefix: str
    rows: tuple[Row, ...]


Layout = Iterator[Row | Weights | Together]


def of_detector(header: Header) -> Layout:
    """Arrays of a detector."""
    fit, calibration, scorer = header["fit"], header["calibration"], header["scorer"]
    levels: Mapping[str, list[int]] = fit["levels"]
    n = calibration["n"]
    yield Row("calibration/scores", "f", (n,), what="calibration scores")
    yield Row("calibration/weights", "f", (n,), "shares", what="calibration weights")
    yield Row("calibration/keys", "u", (calibration["n_keys"],))
    for name in ("fit", "held_out"):
        if header[name]["n_stored"]:
            yield from _store(name, header[name], levels)
    rows = [
        Row(f"changes/differences/{n}", "f", ("n_changed", "n_ways", *shape), "half")
        for n, shape in levels.items()
    ]
    yield Together("changes/", (Row("changes/keys", "u", ("n_changed",), most=N_CHANGED), *rows))
    if scorer is None:
        lengths = {n: math.prod(shape) for n, shape in levels.items()}
        sums = tuple(row for n, size in lengths.items() for row in _moments(n, (), size))
        # Of features that are not there, or not all of them, the sums are.
        yield from sums if fit["n_stored"] < fit["n_images"] else [Together("moments/", sums)]
    else:
        yield from _scorer(scorer, levels)
    if header["features"] is not None:
        yield from _backbone(header["features"])
    if header["autoencoder"] is not None:
        yield from of_autoencoder(header["autoencoder"], "autoencoder/")


def of_autoencoder(header: Header, prefix: str = "") -> Layout:
    """Arrays of an autoencoder, below a prefix where it is part of another model."""
    yield Weights(f"{prefix}weights/")
    size = header["record"]["bottleneck"]
    yield Row(f"{prefix}golden/embeddings", "f", ("n_golden", size))
    yield Row(f"{prefix}golden/errors", "f", ("n_golden",))


def of_classifier(header: Header) -> Layout:
    """Arrays of a classifier by nearest neighbours."""
    n_features, state = sum(header["levels"].values()), header["index"].get("state")
    size = "n_components" if state is None else state["n_features"]
    yield Row("mean", "f", (n_features,))
    yield Row("scale", "f", (n_features,), "positive")
    yield Row("golden/embeddings", "f", ("n_golden", size))
    yield Row("held_out/ids", "iu", ("n_held_out",))
    # Votes that are kept know the labels of their time; further ones may have come since.
    yield Row("held_out/probabilities", "f", ("n_held_out", "n_voted"), most=len(header["classes"]))
    yield Row("held_out/distances", "f", ("n_held_out",))
    yield Row("held_out/checksums", "u", ("n_held_out",))
    encoder = header["encoder"]
    if encoder is not None and encoder["class"] == "Autoencoder":
        yield from of_autoencoder(encoder["state"], "encoder/")
    elif encoder is not None:
        yield from _backbone(encoder["record"])
    if header["projection"] is not None:
        yield Weights("projection/")
    if state is not None:
        part, n_labels = "the index in the model file", len(state["labels"])
        yield Row("index/vectors", "f", ("n_points", size), part=part)
        yield Row("index/ids", "iu", ("n_points",), part=part)
        yield Row("index/codes", "iu", ("n_points",), below=n_labels, part=part)
        yield Row("index/paths", "u", ("n_bytes",), part=part)


def _store(prefix: str, record: Header, levels: Mapping[str, list[int]]) -> Iterator[Row]:
    n = record["n_stored"]
    yield Row(f"{prefix}/keys", "u", (n,))
    yield Row(f"{prefix}/groups", "iu", (n,), below=len(record["groups"]))
    yield Row(f"{prefix}/looks", "u", (n, N_PIXELS))
    for name, shape in levels.items():
        yield Row(f"{prefix}/features/{name}", "fiu", (n, f"copies in {prefix}", *shape))


def _scorer(scorer: Header, levels: Mapping[str, list[int]]) -> Layout:
    """Arrays of a per-position scorer."""
    maps = scorer.get("maps", {})
    sizes = {
        group[0]: (levels[group[0]][:2], sum(levels[name][-1] for name in group))
        for group in scorer["groups"]
    }
    coarsest = scorer["groups"][-1][0]
    n_places = {name: math.prod(grid) for name, (grid, _) in sizes.items()}
    n_features = {name: size for name, (_, size) in sizes.items()}
    if CONTEXT in maps:
        n_places[CONTEXT] = math.prod(side // CONTEXT_STEPS for side in sizes[coarsest][0])
        n_features[CONTEXT] = n_features[coarsest]
    yield Row("scorer/joint/location", "f", (n_places[coarsest],))
    yield Row("scorer/joint/scale", "f", (n_places[coarsest],), "positive")
    if finer := scorer.get("finer"):
        places = n_places[finer["grid"]]
        yield Row("scorer/finer/location", "f", (places,))
        yield Row("scorer/finer/scale", "f", (places,), "positive")
    if maps:
        yield Row("scorer/map_maxima", "f", ("n_maps",))
    sums: list[Row] = []
    compared = scorer.get("nearest", [])
    for name, size in n_features.items():
        stem, n, places = f"scorer/levels/{name}", f"Gaussians of {name}", n_places[name]
        if name in compared:
            yield from _nearest(name, sizes[name][0][0], size)
        if name not in compared or (name == coarsest and "blend" in scorer):
            # One Gaussian for each place, or one of all places together.
            yield Row(f"{stem}/location", "f", (n, size), first=(1, places))
            yield Row(f"{stem}/whitening", "f", (n, size * (size + 1) // 2))
        if name in maps:
            yield Row(f"{stem}/map_deviation", "f", (places,), "positive")
        sums.extend(_moments(name, (n,), size))
    for name in scorer["pooled"]:
        stem, size, rank = f"scorer/levels/{name}", levels[name][0], f"rank of {name}"
        yield Row(f"{stem}/location", "f", (size,))
        yield Row(f"{stem}/variances", "f", (rank,))
        yield Row(f"{stem}/basis", "f", (size, rank))
        yield Row(f"{stem}/ridge", "f", (1,))
        sums.extend(_moments(name, (), size))
    if compared:
        shapes = {name: (_n_patches(name), n_places[name], n_features[name]) for name in compared}
        rows = (Row(f"patches/{name}/features", "f", shape) for name, shape in shapes.items())
        yield Together("patches/", tuple(rows))
    yield Together("moments/", tuple(sums))


def _n_patches(name: str) -> str:
    return f"n_patches of {name}"


def _nearest(name: str, side: int, size: int) -> Iterator[Row]:
    """Good patches of a grid, and the metric of its blocks."""
    n, stem = _n_patches(name), f"scorer/nearest/{name}"
    n_blocks = max(1, side // BLOCK_STEPS) ** 2
    yield Row(f"{stem}/keys", "u", (n,))
    yield Row(
        f"{stem}/patches", "fi", (n, side**2, size), "half", first=tuple(range(1, N_PATCHES + 1))
    )
    yield Row(f"{stem}/inside", "u", (n, side**2), below=2)
    yield Row(f"{stem}/location", "f", (side**2, size))
    yield Row(f"{stem}/scale", "f", (size,), "positive")
    yield Row(f"{stem}/precisions", "f", (n_blocks, size * (size + 1) // 2))


def _moments(name: str, lead: tuple[int | str, ...], size: int) -> Iterator[Row]:
    for key in _SUMS:
        yield Row(f"moments/{name}/{key}", "f", (*lead, size))
    yield Row(f"moments/{name}/s2", "f", (*lead, size, size))
    yield Row(f"moments/{name}/scalars", "f", (3, *lead))


def _backbone(record: Header) -> Layout:
    if record.get("weights_embedded", False):
        yield Weights("weights/")
    if record["region"] is not None:
        yield Row("region", "u", ("side of the region", "side of the region"))

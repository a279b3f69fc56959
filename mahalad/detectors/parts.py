"""Readers of parts of a fit, sent to other processes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mahalad.detectors.file import has_learned, read_params
from mahalad.detectors.fitting import FitReader
from mahalad.errors import InputError
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.file import describe_features
from mahalad.files.classes import class_named
from mahalad.files.container import packed, unpacked

_KIND = "reader of a fit"


def pack_reader(reader: FitReader, *, include_weights: bool = True) -> bytes:
    """Make a reader ready to be sent, with its weights unless an installed package has them.

    Without weights, it is for `open_reader` with ``build=False``.

    Raises
    ------
    InputError
        Its detector takes features instead of images.
    """
    if reader.features is None:
        raise InputError(
            "this detector takes features, not images: other processes read images; give it a "
            "feature extractor (BackboneFeatures)"
        )
    record = learned = None
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(reader.features, BackboneFeatures):
        record, arrays = describe_features(reader.features, include_weights)
    elif has_learned(reader.features):
        learned, own = reader.features.state()
        if include_weights:
            arrays = {f"autoencoder/{name}": values for name, values in own.items()}
    header = {
        "kind": _KIND,
        "class": reader.detector,
        "params": dict(reader.params),
        "features": record,
        "autoencoder": learned,
    }
    return packed(header, arrays)


def open_reader(content: bytes, *, build: bool = True) -> FitReader:
    """Make the reader of what `pack_reader` gave.

    Without `build` it has no network: it can pack and unpack states, but read none.

    Raises
    ------
    ModelFileError
        It has parts from outside mahalad, or the network here is another one (other weights in an
        installed package, say).
    """
    header, arrays = unpacked(content, _KIND)
    detector: Any = class_named(header["class"])(**read_params(header, arrays, {}))
    if not build:
        header = {**header, "features": None, "autoencoder": None}
    reader: FitReader = detector.reader(header, arrays)
    return reader

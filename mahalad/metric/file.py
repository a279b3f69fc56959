"""A classifier by nearest neighbours as header and arrays of a model file, and back.

Functions over values: the classifier itself writes what `describe` gives, and makes itself of what
`read` gives.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from mahalad.arrays import below
from mahalad.errors import InputError, ModelFileError
from mahalad.features.copying import copy_extractor
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.file import describe_features, engines_of, restore_features
from mahalad.features.golden import (
    ANOTHER,
    GOLDEN_RTOL,
    GOLDEN_SEED,
    N_GOLDEN,
    golden_images,
)
from mahalad.files.checksum import hash_rows
from mahalad.files.classes import is_known
from mahalad.files.container import VERSIONED, read_model
from mahalad.files.damage import naming
from mahalad.files.spec import EMBEDDED, from_spec, to_spec
from mahalad.index.contract import VectorIndex
from mahalad.index.memory import MemoryIndex
from mahalad.index.opening import open_index
from mahalad.metric.embedding import Arrays, Embedding, embedding_distance
from mahalad.metric.operating import OperatingPoint
from mahalad.metric.parameters import check_classifier
from mahalad.metric.search_record import Search, record_of
from mahalad.metric.state import Calibration, Fitted
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.votes import HeldOut
from mahalad.result import Result

KIND = "metric-knn"
_OWN = ("encoder", "projection", "cache")  # not among the parameters: parts, and a local folder
_AUTOENCODER = "Autoencoder"
_VOTES = ("ids", "probabilities", "distances")


@dataclass(frozen=True)
class Saved:
    """What a model file holds.

    Attributes
    ----------
    params : dict
        Parameters of the classifier, its unfitted parts included.
    fitted : Fitted
    point : OperatingPoint or None
    """

    params: dict[str, Any]
    fitted: Fitted
    point: OperatingPoint | None


def describe(
    class_name: str,
    params: Mapping[str, Any],
    fitted: Fitted,
    point: OperatingPoint | None,
    *,
    include_weights: bool,
) -> tuple[dict[str, Any], Arrays]:
    """Describe a fitted classifier by header and arrays, from its parameters and its state.

    Raises
    ------
    InputError
        A part that a file cannot hold, or an index that is neither in memory nor named by the
        parameters.
    """
    embedding, calibration = fitted.embedding, fitted.calibration
    encoder, arrays = _describe_encoder(embedding.encoder, include_weights)
    projection, own = _describe_projection(embedding.projection)
    where, stored = _describe_index(fitted.index, params["index"])
    arrays |= own | stored
    arrays |= {"mean": embedding.mean, "scale": embedding.scale}
    arrays |= {f"held_out/{name}": getattr(calibration.votes, name) for name in _VOTES}
    arrays["held_out/checksums"] = calibration.checksums
    arrays |= {"golden/embeddings": golden(embedding)}
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "kind": KIND,
        "class": class_name,
        "params": {name: to_spec(value) for name, value in params.items() if name not in _OWN},
        "classes": fitted.classes.tolist(),
        "encoder": encoder,
        "projection": projection,
        "levels": embedding.level_sizes,
        **({} if embedding.depths is None else {"depths": dict(embedding.depths)}),
        "about": fitted.index.about,
        "index": where,
        "search": record_of(fitted.search, params),
        "operating_point": None if point is None else vars(point),
        "calibration": {
            "method": calibration.method,
            "n_neighbors": int(calibration.n_neighbors),
            "weights": calibration.weights,
        },
        "n_self_trained": fitted.n_self_trained,
        "unreadable": [{"name": r.name, "error": r.error} for r in fitted.unreadable],
        **({} if fitted.date is None else {"date": fitted.date}),
        "golden": {"seed": GOLDEN_SEED, "rtol": GOLDEN_RTOL},
    }
    return header, arrays


def read(
    path: str | Path,
    *,
    weights: str | Path | None,
    device: str | None,
    index: str | None,
    engine: str | None = None,
) -> Saved:
    """Read a model file, check its golden embeddings, and open its index.

    Parameters and errors are those of `MetricKNNClassifier.load`.
    """
    header, arrays = read_model(path)
    if header.get("kind") != KIND:
        found = header.get("kind") or header.get("class") or "something else"
        raise ModelFileError(f"{path}: holds no classifier by nearest neighbours, but {found}")
    with naming(path, RuntimeError):
        if index is not None and "state" in header["index"]:
            raise InputError(f"{path}: its index is in the file itself, and not in {index}")
        given = {"device": device, "engine": engine}
        asked = {name: value for name, value in given.items() if value is not None}
        return _restore(header, arrays, weights, asked, index)


def read_index(path: str | Path) -> VectorIndex:
    """Open the index of a model file, in the file or where it refers to, without the model."""
    header, arrays = read_model(path)
    if header.get("kind") != KIND:
        raise ModelFileError(f"{path}: holds no classifier by nearest neighbours, and no index")
    try:
        if "state" in header["index"]:
            return MemoryIndex.restore(header["index"]["state"], below("index/", arrays))
        return open_index(header["index"]["where"], about=header["about"], create=False)
    except KeyError as error:
        raise ModelFileError(f"{path}: the model file lacks {error}") from error


def _restore(
    header: dict[str, Any],
    arrays: Arrays,
    weights: str | Path | None,
    asked: dict[str, str],
    where: str | None,
) -> Saved:
    own = {name: from_spec(spec) for name, spec in header["params"].items()}
    check_classifier(own, ModelFileError)
    encoder, built = _restore_encoder(header["encoder"], arrays, weights, asked)
    projection = _restore_projection(header["projection"], below("projection/", arrays), asked)
    params = own | ({} if where is None else {"index": where})
    params |= {"encoder": encoder, "projection": None if projection is None else clone(projection)}
    embedding = Embedding(built, projection)
    embedding.level_sizes = {name: int(size) for name, size in header["levels"].items()}
    embedding.mean, embedding.scale = arrays["mean"], arrays["scale"]
    embedding.depths = header.get("depths")
    engines = engines_of(embedding.encoder, (header["encoder"] or {}).get("record"))
    _check_golden(embedding, header["golden"], arrays["golden/embeddings"], engines)
    point, search = header["operating_point"], header["search"]
    chosen = None if point is None else OperatingPoint(**point)
    calibration = header["calibration"]
    unreadable = [Result(r["name"], error=r["error"]) for r in header["unreadable"]]
    searched = None if search is None else Search(**search)
    votes = HeldOut(*(arrays[f"held_out/{name}"] for name in _VOTES))
    opened = _restore_index(header, arrays, params)  # last: it holds a folder or a connection
    fitted = Fitted(
        embedding=embedding,
        classes=np.array(header["classes"]),
        calibration=Calibration(
            calibration["method"],
            votes,
            _known(arrays["held_out/checksums"], votes.ids, opened),
            calibration["n_neighbors"],
            calibration["weights"],
        ),
        n_self_trained=int(header["n_self_trained"]),
        unreadable=unreadable,
        search=searched,
        index=opened,
        date=header.get("date"),
    )
    return Saved(params, fitted, chosen)


def _describe_index(index: VectorIndex, where: str | None) -> tuple[dict[str, Any], Arrays]:
    """An index in memory as JSON and arrays, or the place of any other."""
    if isinstance(index, MemoryIndex):
        state, arrays = index.state()
        return {"state": state}, {f"index/{name}": values for name, values in arrays.items()}
    if where is None:
        raise InputError(
            "the index in use is not in memory, and index=None does not say where it is: "
            "set_params(index=...) to its folder or address before saving"
        )
    return {"where": where}, {}


def _restore_index(header: dict[str, Any], arrays: Arrays, params: dict[str, Any]) -> VectorIndex:
    if "state" in header["index"]:
        return MemoryIndex.restore(header["index"]["state"], below("index/", arrays))
    return open_index(
        params["index"],
        n_features=arrays["golden/embeddings"].shape[1],
        distance=embedding_distance(params["distance"], params["projection"]),
        about=header["about"],
        create=False,
    )


def _known(
    checksums: NDArray[np.uint64], ids: NDArray[np.int64], index: VectorIndex
) -> NDArray[np.uint64]:
    """Checksums of the voted vectors; where an older file has none (0), those of the vectors that
    are stored under their ids now."""
    stored = index.get(ids[checksums == 0])
    found = dict(zip(stored.ids.tolist(), hash_rows(stored.vectors).tolist(), strict=True))
    pairs = zip(ids.tolist(), checksums.tolist(), strict=True)
    return np.array([known or found.get(id_, 0) for id_, known in pairs], dtype=np.uint64)


def _describe_encoder(encoder: Any, include_weights: bool) -> tuple[dict[str, Any] | None, Arrays]:
    """The encoder as JSON and arrays, with weights that cannot be had from a package."""
    if encoder is None:
        return None, {}
    if not isinstance(encoder, BackboneFeatures):
        return _describe_autoencoder(encoder)
    record, arrays = describe_features(encoder, include_weights)
    return {"class": "BackboneFeatures", "spec": to_spec(encoder), "record": record}, arrays


def _describe_autoencoder(encoder: Any) -> tuple[dict[str, Any], Arrays]:
    known = (cls for cls in type(encoder).__mro__ if cls.__name__ == _AUTOENCODER)
    if not any(map(is_known, known)):
        raise InputError(
            f"an encoder {encoder!r} cannot be saved in a model file; BackboneFeatures and "
            "Autoencoder can"
        )
    own, state = encoder.state()
    spec = {"class": _AUTOENCODER, "params": _plain_params(encoder), "state": own}
    return spec, {f"encoder/{name}": values for name, values in state.items()}


def _restore_encoder(
    spec: dict[str, Any] | None,
    arrays: Arrays,
    weights: str | Path | None,
    asked: dict[str, str],
) -> tuple[Any, Any]:
    """The encoder as a parameter, and ready for use."""
    if spec is None:
        return None, None
    if spec["class"] == _AUTOENCODER:
        if "engine" in asked:
            raise InputError(
                f"engine={asked['engine']!r} was given, and an autoencoder has torch alone: leave "
                "it out"
            )
        encoder = from_spec({"class": _AUTOENCODER, "params": spec["params"] | asked})
        encoder.restore(spec["state"], below("encoder/", arrays))
        return encoder, copy_extractor(encoder)
    given = from_spec(spec["spec"]).set_params(**asked)
    built = clone(given, safe=False)
    restore_features(built, spec["record"], arrays, weights)
    if isinstance(given.roi, str) and given.roi == EMBEDDED:
        given.set_params(roi=built.region_)
    return given, built


def _describe_projection(projection: Any) -> tuple[dict[str, Any] | None, Arrays]:
    if projection is None:
        return None, {}
    own, state = projection.state()
    spec = {"params": _plain_params(projection), "state": own}
    return spec, {f"projection/{name}": values for name, values in state.items()}


def _restore_projection(spec: dict[str, Any] | None, arrays: Arrays, asked: dict[str, str]) -> Any:
    if spec is None:
        return None
    params = spec["params"] | {n: value for n, value in asked.items() if n == "device"}
    return TripletProjection(**params).restore(spec["state"], arrays)


def _plain_params(estimator: Any) -> dict[str, Any]:
    """Parameters of an estimator that are numbers, texts and None."""
    params: dict[str, Any] = estimator.get_params(deep=False)
    plain = {name: to_spec(value) for name, value in params.items()}
    odd = [name for name, value in plain.items() if isinstance(value, dict)]
    if odd:
        raise InputError(
            f"{type(estimator).__name__}: {', '.join(odd)} cannot be saved in a model file, which "
            "holds numbers and texts only"
        )
    return plain


def golden(embedding: Embedding) -> NDArray[np.float32]:
    """Compute embeddings of inputs generated from a fixed seed, (N_GOLDEN, n_components)."""
    if embedding.encoder is None:
        rng = np.random.default_rng(GOLDEN_SEED)
        return embedding.embed(rng.normal(size=(N_GOLDEN, len(embedding.mean))))
    features = embedding.encoder.transform(golden_images(embedding.encoder))
    columns = [np.asarray(features[name], dtype=np.float64) for name in embedding.level_sizes]
    return embedding.embed(np.hstack(columns))


def _check_golden(
    embedding: Embedding, expected: dict[str, Any], wanted: NDArray[Any], engines: str
) -> None:
    """Raise `ModelFileError` unless the golden inputs are embedded as they were when saved."""
    found = golden(embedding)
    off = np.inf
    if found.shape == wanted.shape:
        off = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)
    if not off <= expected["rtol"]:
        raise ModelFileError(
            "the model does not embed here as it did where it was saved: its check inputs "
            f"are off by {off:.2g} of their length (allowed: {expected['rtol']:g}). "
            f"{engines or ANOTHER}; `mahalad info` shows the versions it was saved with"
        )

"""A classifier by nearest neighbours as a model file, and back, with its embeddings checked."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from mahalad.errors import InputError, MahaladError, ModelFileError
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.file import build_features
from mahalad.features.golden import GOLDEN_RTOL, GOLDEN_SEED, N_GOLDEN, golden_images
from mahalad.files.container import VERSIONED, below, read_model, write_model
from mahalad.files.spec import EMBEDDED, from_spec, to_spec
from mahalad.index.contract import VectorIndex
from mahalad.index.memory import MemoryIndex
from mahalad.index.opening import open_index
from mahalad.metric.embedding import Arrays, Embedding
from mahalad.metric.held_out import HeldOut
from mahalad.metric.operating import OperatingPoint
from mahalad.metric.search_record import Search, record_of
from mahalad.result import Result

if TYPE_CHECKING:
    from mahalad.metric.classifier import MetricKNNClassifier

    C = TypeVar("C", bound=MetricKNNClassifier)

KIND = "metric-knn"
_OWN = ("encoder", "projection", "cache")  # not among the parameters: parts, and a local folder


def save(classifier: MetricKNNClassifier, path: str | Path, *, include_weights: bool) -> None:
    """Write a fitted classifier; see `MetricKNNClassifier.save`."""
    embedding, index, point = (
        classifier.embedding_, classifier.index_, classifier.operating_point_
    )  # fmt: skip
    params = classifier.get_params(deep=False)
    encoder, arrays = _describe_encoder(classifier, include_weights)
    projection = None
    if embedding.projection is not None:
        own, state = embedding.projection.state()
        arrays |= {f"projection/{name}": values for name, values in state.items()}
        projection = {"params": _plain_params(embedding.projection), "state": own}
    where: dict[str, Any] = {"where": classifier.index}
    if classifier.index is None and not isinstance(index, MemoryIndex):
        raise InputError(
            "the index in use is not in memory, and index=None does not say where it is: "
            "set_params(index=...) to its folder or address before saving"
        )
    if isinstance(index, MemoryIndex):
        where, state = {"state": index.state()[0]}, index.state()[1]
        arrays |= {f"index/{name}": values for name, values in state.items()}
    held_out = classifier._cross_fitted
    arrays |= {
        "mean": embedding.mean,
        "scale": embedding.scale,
        "held_out/ids": held_out.ids,
        "held_out/probabilities": held_out.probabilities,
        "held_out/distances": held_out.distances,
        "golden/embeddings": golden(embedding),
    }
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "kind": KIND,
        "class": type(classifier).__name__,
        "params": {name: to_spec(value) for name, value in params.items() if name not in _OWN},
        "classes": classifier.classes_.tolist(),
        "encoder": encoder,
        "projection": projection,
        "levels": embedding.level_sizes,
        "about": index.about,
        "index": where,
        "search": record_of(classifier),
        "operating_point": None if point is None else vars(point),
        "calibration": {
            "method": classifier.calibration_method_,
            "n_neighbors": int(classifier._cross_fitted_for[0]),
            "weights": classifier._cross_fitted_for[1],
        },
        "n_self_trained": classifier.n_self_trained_,
        "unreadable": [{"name": r.name, "error": r.error} for r in classifier.unreadable_],
        "golden": {"seed": GOLDEN_SEED, "rtol": GOLDEN_RTOL},
    }
    write_model(path, header, arrays)


def load(
    cls: type[C],
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    index: str | None = None,
) -> C:
    """Read a classifier and check its golden embeddings; see `MetricKNNClassifier.load`."""
    header, arrays = read_model(path)
    if header.get("kind") != KIND:
        found = header.get("kind") or header.get("class") or "something else"
        raise ModelFileError(f"{path}: holds no classifier by nearest neighbours, but {found}")
    try:
        return _restore(cls, path, header, arrays, weights, device, index)
    except ModelFileError as error:  # of a part, which does not know the file
        if str(path) in str(error):
            raise
        raise ModelFileError(f"{path}: {error}") from error
    except MahaladError:
        raise
    except KeyError as error:
        raise ModelFileError(f"{path}: the model file lacks {error}") from error
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error


def read_index(path: str | Path) -> VectorIndex:
    """The index of a model file, in the file or where it refers to, without the model itself."""
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
    cls: type[C],
    path: str | Path,
    header: dict[str, Any],
    arrays: Arrays,
    weights: str | Path | None,
    device: str | None,
    where: str | None,
) -> C:
    encoder, built = _restore_encoder(path, header["encoder"], arrays, weights, device)
    projection = _restore_projection(header["projection"], below("projection/", arrays), device)
    params = {name: from_spec(spec) for name, spec in header["params"].items()}
    if where is not None:
        if "state" in header["index"]:
            raise InputError(f"{path}: its index is in the file itself, and not in {where}")
        params["index"] = where
    unfitted = None if projection is None else clone(projection)
    classifier = cls(encoder, unfitted, **params)
    embedding = Embedding(built, projection)
    embedding.level_sizes = {name: int(size) for name, size in header["levels"].items()}
    embedding.mean, embedding.scale = arrays["mean"], arrays["scale"]
    _check_golden(embedding, path, header["golden"], arrays["golden/embeddings"])
    held_out = [arrays[f"held_out/{name}"] for name in ("ids", "probabilities", "distances")]
    point = header["operating_point"]
    classifier.embedding_ = embedding
    if header.get("search") is not None:
        classifier.search_ = Search(**header["search"])
    classifier._point_for = str(classifier.positive), classifier._voting()
    classifier.classes_ = np.array(header["classes"])
    classifier.operating_point_ = None if point is None else OperatingPoint(**point)
    calibration = header["calibration"]
    classifier.calibration_method_ = calibration["method"]
    classifier._cross_fitted = HeldOut(*held_out)
    classifier._cross_fitted_for = calibration["n_neighbors"], calibration["weights"]
    classifier.n_self_trained_ = int(header.get("n_self_trained", 0))
    classifier.unreadable_ = [Result(r["name"], error=r["error"]) for r in header["unreadable"]]
    if "state" in header["index"]:
        classifier.use_index(MemoryIndex.restore(header["index"]["state"], below("index/", arrays)))
        return classifier
    n_features = arrays["golden/embeddings"].shape[1]
    external = open_index(
        classifier.index, n_features=n_features, distance=classifier._distance(),
        about=header["about"], create=False,
    )  # fmt: skip
    classifier.use_index(external)
    return classifier


def _describe_encoder(
    classifier: MetricKNNClassifier, include_weights: bool
) -> tuple[dict[str, Any] | None, Arrays]:
    """The encoder as JSON and arrays, with weights that cannot be had from a package."""
    encoder = classifier.embedding_.encoder
    if encoder is None:
        return None, {}
    if not isinstance(encoder, BackboneFeatures):
        _check_is_autoencoder(encoder)
        own, state = encoder.state()
        return {"class": "Autoencoder", "params": _plain_params(encoder), "state": own}, {
            f"encoder/{name}": values for name, values in state.items()
        }
    arrays: Arrays = {}
    record = encoder.record()
    if include_weights and record["weights_source"] != "package":
        arrays |= {f"weights/{n}": values for n, values in encoder.backbone_.state().items()}
        record["weights_embedded"] = True
    if encoder.region_ is not None:
        arrays["region"] = encoder.region_.astype(np.uint8)
    return {"class": "BackboneFeatures", "spec": to_spec(encoder), "record": record}, arrays


def _restore_encoder(
    path: str | Path,
    spec: dict[str, Any] | None,
    arrays: Arrays,
    weights: str | Path | None,
    device: str | None,
) -> tuple[Any, Any]:
    """The encoder as a parameter, and ready for use."""
    if spec is None:
        return None, None
    if spec["class"] == "Autoencoder":
        from mahalad.metric.autoencoder.autoencoder import Autoencoder

        params = spec["params"] | ({} if device is None else {"device": device})
        encoder = Autoencoder(**params).restore(spec["state"], below("encoder/", arrays))
        return encoder, encoder
    given = from_spec(spec["spec"])
    if device is not None:
        given.set_params(device=device)
    built = clone(given, safe=False)
    build_features(built, path, spec["record"], arrays, weights)
    if isinstance(given.roi, str) and given.roi == EMBEDDED:
        given.set_params(roi=built.region_)
    return given, built


def _restore_projection(spec: dict[str, Any] | None, arrays: Arrays, device: str | None) -> Any:
    if spec is None:
        return None
    from mahalad.metric.triplets.projection import TripletProjection

    params = spec["params"] | ({} if device is None else {"device": device})
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


def _check_is_autoencoder(encoder: Any) -> None:
    from mahalad.metric.autoencoder.autoencoder import Autoencoder

    if not isinstance(encoder, Autoencoder):
        raise InputError(
            f"an encoder {encoder!r} cannot be saved in a model file; BackboneFeatures and "
            "Autoencoder can"
        )


def golden(embedding: Embedding) -> NDArray[np.float32]:
    """Embeddings of inputs that are generated from a fixed seed, (N_GOLDEN, n_components)."""
    if embedding.encoder is None:
        rng = np.random.default_rng(GOLDEN_SEED)
        return embedding.embed(rng.normal(size=(N_GOLDEN, len(embedding.mean))))
    features = embedding.encoder.transform(golden_images(embedding.encoder))
    columns = [np.asarray(features[name], dtype=np.float64) for name in embedding.level_sizes]
    return embedding.embed(np.hstack(columns))


def _check_golden(
    embedding: Embedding, path: str | Path, expected: dict[str, Any], wanted: NDArray[Any]
) -> None:
    """Raise `ModelFileError` unless the golden inputs are embedded as they were when saved."""
    found = golden(embedding)
    off = np.inf
    if found.shape == wanted.shape:
        off = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)
    if not off <= expected["rtol"]:
        raise ModelFileError(
            f"{path}: the model does not embed here as it did where it was saved: its check inputs "
            f"are off by {off:.2g} of their length (allowed: {expected['rtol']:g}). Another "
            "precision, library version or device may be the reason; `mahalad info` shows the "
            "versions it was saved with"
        )

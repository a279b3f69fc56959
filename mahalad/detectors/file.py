"""A fitted detector as a model file, and back, with its scores checked on the way."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors import fitting
from mahalad.detectors.reservoir import (
    fill_store,
    group_names,
    store_arrays,
)
from mahalad.errors import MahaladError, ModelFileError
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.file import build_features
from mahalad.features.golden import GOLDEN_RTOL, GOLDEN_SEED, N_GOLDEN, golden_images
from mahalad.files.container import VERSIONED, below, read_model, write_model
from mahalad.files.spec import EMBEDDED, from_spec, is_known, params_spec, to_spec
from mahalad.protocols import Floats
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.file import sums_of_scorer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mahalad.detectors.detector import AnomalyDetector

GOLDEN_ATOL = 1e-9

_SINCE_FORMAT_2 = {"MahalanobisDetector": {"scope": "image"}}
"""Parameters that files of format 1 do not have, with what they were."""


def describe(detector: AnomalyDetector, what: str) -> Any:
    """JSON description of a fitted detector's features or scorer."""
    if what == "scorer":
        return to_spec(detector._make_parts()[1])
    extractor = detector.features_
    if hasattr(extractor, "record"):  # two with the same parameters may have other weights
        record = extractor.record()
        return {k: v for k, v in record.items() if k not in ("weights_origin", "weights_source")}
    return to_spec(extractor)


def save(
    detector: AnomalyDetector,
    path: str | Path,
    *,
    include_features: bool,
    include_weights: bool,
) -> None:
    """Write a fitted detector; see `AnomalyDetector.save`."""
    store, extractor = detector._store, detector.features_
    arrays: dict[str, NDArray[Any]] = {"calibration/scores": detector.calibration_scores_}
    if include_features:
        arrays |= store_arrays("fit", store) | store_arrays("held_out", detector._held_out)
    about = None
    if capabilities_of(detector.scorer_).standardizes:
        about, state = detector.scorer_.state()
        arrays |= {f"scorer/{name}": values for name, values in state.items()}
    if capabilities_of(detector.scorer_).standardizes:
        # A slim model read back has neither features nor sums: it stays one.
        if include_features and not store.is_complete and detector.scorer_.has_sums_:
            arrays |= detector.scorer_.sums()
    elif not (include_features and store.is_complete):
        arrays |= sums_of_scorer(detector.scorer_)
    record = None
    if isinstance(extractor, BackboneFeatures):
        record = extractor.record()
        if include_weights and record["weights_source"] != "package":
            state = extractor.backbone_.state()
            arrays |= {f"weights/{name}": values for name, values in state.items()}
            record["weights_embedded"] = True
        if extractor.region_ is not None:
            arrays["region"] = extractor.region_.astype(np.uint8)
    autoencoder = _autoencoder_of(extractor)
    learned = None
    if autoencoder is not None:
        learned, state = autoencoder.state()
        arrays |= {f"autoencoder/{name}": values for name, values in state.items()}
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "class": type(detector).__name__,
        "params": params_spec(detector),
        "features": record,
        "autoencoder": learned,
        "scorer": about,
        "fit": {
            "n_images": store.n_seen,
            "n_stored": store.n_kept if include_features else 0,
            "levels": _level_sizes(detector),
            "groups": group_names(store) if detector._grouped else None,
            "unreadable": [{"name": r.name, "error": r.error} for r in detector.unreadable_],
        },
        "calibration": {
            "method": detector.calibration_method_,
            "n": len(detector.calibration_scores_),
        },
        "golden": {
            "seed": GOLDEN_SEED,
            "rtol": GOLDEN_RTOL,
            # Scores in standard deviations of good images pass through 0; distances do not.
            "atol": GOLDEN_ATOL if about is None else GOLDEN_RTOL,
            "scores": golden(detector).tolist(),
        },
    }
    write_model(path, header, arrays)


def load(
    path: str | Path,
    classes: Mapping[str, type[AnomalyDetector]],
    weights: str | Path | None,
    device: str | None,
    parts: dict[str, Any],
) -> AnomalyDetector:
    """Read a detector and check its golden scores; see `AnomalyDetector.load`."""
    header, arrays = read_model(path)
    try:
        detector = classes[header["class"]](**_read_params(path, header, parts))
        if device is not None:
            _set_device(detector, device)
        _restore(detector, path, header, arrays, weights)
        check_golden(detector, path, header["golden"])
    except MahaladError:
        raise
    except KeyError as error:
        raise ModelFileError(f"{path}: the model file lacks {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error
    return detector


def _set_device(detector: AnomalyDetector, device: str) -> None:
    """Ask for another device than at fit: a parameter of the detector or of its features."""
    holder = detector if "device" in detector.get_params(deep=False) else detector.features
    holder = _autoencoder_of(holder) or holder
    if holder is not None:
        holder.set_params(device=device)


def _level_sizes(detector: AnomalyDetector) -> dict[str, list[int]]:
    """Shape of each level, (n_features,) or (h, w, n_features), in the order of the fit."""
    if detector._store.is_empty:
        return detector._level_sizes
    features = detector._store.features
    return {name: list(features[name].shape[2:]) for name in detector._level_names}


def golden(detector: AnomalyDetector) -> Floats:
    """Anomaly scores of inputs that are generated from a fixed seed, shape (N_GOLDEN,)."""
    rng = np.random.default_rng(GOLDEN_SEED)
    if detector.features_ is None:
        sizes = _level_sizes(detector)
        return detector._score(
            {name: rng.normal(size=(N_GOLDEN, 1, *shape)) for name, shape in sizes.items()}
        )[0]
    features = detector.features_.transform(golden_images(detector.features_))
    return detector._score({name: values[:, None] for name, values in features.items()})[0]


def check_golden(detector: AnomalyDetector, path: str | Path, expected: dict[str, Any]) -> None:
    """Raise `ModelFileError` unless the golden inputs score as they did when saved."""
    scores, wanted = golden(detector), np.array(expected["scores"])
    if not np.allclose(
        scores, wanted, rtol=expected["rtol"], atol=expected.get("atol", GOLDEN_ATOL)
    ):
        raise ModelFileError(
            f"{path}: the model does not score here as it did where it was saved: its check "
            f"inputs give {scores.tolist()} instead of {wanted.tolist()} (allowed: relative "
            f"{expected['rtol']:g}). Another precision, library version or device may be the "
            "reason; `mahalad info` shows the versions it was saved with"
        )


def _read_params(path: str | Path, header: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if header["format_version"] < 2:
        params |= _SINCE_FORMAT_2.get(header["class"], {})
    for name, spec in header["params"].items():
        if parts.get(name) is not None:
            params[name] = parts[name]
            continue
        try:
            params[name] = from_spec(spec)
        except LookupError as error:
            raise ModelFileError(
                f"{path}: its {name} is {error}, which is not part of mahalad, and a model file "
                f"holds no code: give it again, unfitted: load(path, {name}=...)"
            ) from error
    return params


def _restore(
    detector: AnomalyDetector,
    path: str | Path,
    header: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    weights: str | Path | None,
) -> None:
    detector._check_parameters(None)
    fitting.reset(detector)
    _restore_autoencoder(detector, path, header.get("autoencoder"), arrays)
    detector.features_, detector._scorer = detector._make_parts()
    if header["features"] is not None:
        build_features(detector.features_, path, header["features"], arrays, weights)
        _give_region(detector)
    elif detector.features_ is not None:
        detector.features_.build()
    fit = header["fit"]
    detector._grouped = fit["groups"] is not None
    detector._level_sizes = {
        name: [shape] if isinstance(shape, int) else shape for name, shape in fit["levels"].items()
    }
    detector._level_names = levels = tuple(fit["levels"])
    fill_store(detector._store, "fit", arrays, levels, fit["groups"])
    fill_store(detector._held_out, "held_out", arrays, levels, None)
    detector._store.n_seen = fit["n_images"]
    detector._calibration_method = header["calibration"]["method"]
    scores = arrays["calibration/scores"]
    if scores.shape != (header["calibration"]["n"],) or not np.isfinite(scores).all():
        raise ModelFileError(f"{path}: the model file is damaged (calibration scores)")
    detector._calibration_scores = scores
    if header.get("scorer") is not None:
        own = below("scorer/", arrays)
        detector._scorer.restore(header["scorer"], own)
        detector._scorer.restore_sums(arrays)
    elif any(name.startswith("moments/") for name in arrays):
        detector._scorer.restore(levels, arrays)
    else:
        fitting.fit_from_store(detector)
    detector._stale = False


def _autoencoder_of(extractor: Any) -> Any:
    """The autoencoder that a feature extractor is, or looks at; None for any other."""
    name = type(extractor).__name__
    if name not in ("Autoencoder", "ReconstructionError") or not is_known(type(extractor)):
        return None
    return extractor if name == "Autoencoder" else extractor.autoencoder


def _restore_autoencoder(
    detector: AnomalyDetector,
    path: str | Path,
    about: dict[str, Any] | None,
    arrays: dict[str, NDArray[Any]],
) -> None:
    """Give the autoencoder among the features what it learned, unless it is a fitted one."""
    autoencoder = _autoencoder_of(getattr(detector, "features", None))
    if about is None or autoencoder is None or hasattr(autoencoder, "network_"):
        return
    try:
        autoencoder.restore(about, below("autoencoder/", arrays))
    except ModelFileError as error:  # it does not know the file
        raise ModelFileError(f"{path}: {error}") from error


def _give_region(detector: AnomalyDetector) -> None:
    """Put a region that was given as an array back in its place, so that `fit` finds it again."""
    extractor = detector.features_
    if isinstance(extractor.roi, str) and extractor.roi == EMBEDDED:
        holder = detector if "roi" in detector.get_params(deep=False) else detector.features
        for part in (holder, extractor):
            part.set_params(roi=extractor.region_)

"""A fitted detector as header and arrays of a model file, and back.

The functions take and return values; none of them knows a detector.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import below
from mahalad.detectors.calibrating import fit_scorer, tolerating
from mahalad.detectors.changes import changes_arrays, read_changes
from mahalad.detectors.reservoir import FeatureStore, read_store, store_arrays, store_record
from mahalad.detectors.scoring import score
from mahalad.detectors.state import Calibrated, FitRecipe, FitState, MakeScorer
from mahalad.errors import ModelFileError
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.file import describe_features, region_in
from mahalad.features.golden import ANOTHER, GOLDEN_RTOL, GOLDEN_SEED, golden_features
from mahalad.files.classes import is_known
from mahalad.files.container import VERSIONED
from mahalad.files.spec import from_spec, to_spec
from mahalad.protocols import Floats
from mahalad.result import Result
from mahalad.scorers.capabilities import capabilities_of, has_sums
from mahalad.scorers.file import sums_of_scorer
from mahalad.unfitted import NotFittedError

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

GOLDEN_ATOL = 1e-9
NO_IDENTITY = ("weights_origin", "weights_source", "engine")


def describe(
    class_name: str,
    params: Mapping[str, Any],
    features: Any,
    state: FitState,
    calibrated: Calibrated,
    *,
    include_features: bool,
    include_weights: bool,
) -> tuple[Header, Arrays]:
    """Describe a fitted detector by a header and arrays.

    Parameters
    ----------
    class_name : str
    params : mapping of str to JSON
        All parameters of the detector.
    features : built feature extractor or None
    state : FitState
    calibrated : Calibrated
    include_features, include_weights : bool
        See `AnomalyDetector.save`.

    Raises
    ------
    InputError
        The scorer learns from features that are to be left out.
    """
    store = state.store
    about, arrays = _describe_scorer(state, calibrated.scorer, include_features)
    arrays |= {
        "calibration/scores": calibrated.scores,
        "calibration/weights": calibrated.weights,
        "calibration/keys": calibrated.keys,
    }
    if include_features:
        arrays |= store_arrays("fit", store) | store_arrays("held_out", state.held_out)
    if include_features or about is None:  # a scorer that is made anew needs them
        arrays |= changes_arrays(state.changes)
    record = learned = None
    if isinstance(features, BackboneFeatures):
        record, own = describe_features(features, include_weights)
        arrays |= own
    elif has_learned(features):
        learned, own = features.state()
        arrays |= {f"autoencoder/{name}": values for name, values in own.items()}
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "class": class_name,
        "params": dict(params),
        "features": record,
        "autoencoder": learned,
        "scorer": about,
        "fit": {
            **_describe_store(store, include_features),
            "levels": {name: list(shape) for name, shape in state.levels.items()},
            **({"turned": True} if state.turned else {}),
            "grouped": state.grouped,
            "columns": list(state.columns),
            "unreadable": [{"name": r.name, "error": r.error} for r in state.unreadable],
            **_describe_depths(state.depths, include_features),
            **({} if calibrated.date is None else {"date": calibrated.date}),
        },
        "held_out": _describe_store(state.held_out, include_features),
        "calibration": {
            "method": calibrated.method,
            "n": len(calibrated.scores),
            "n_keys": len(calibrated.keys),
            "n_independent": float(calibrated.weights.sum()),
            "counts_parts": calibrated.counts_parts,
        },
        "golden": {
            "seed": GOLDEN_SEED,
            "rtol": GOLDEN_RTOL,
            # Scores in standard deviations of good images pass through 0; distances do not.
            "atol": GOLDEN_ATOL if about is None else GOLDEN_RTOL,
            "scores": golden_scores(features, state, calibrated.scorer).tolist(),
        },
    }
    return header, arrays


def _describe_store(store: FeatureStore, include_features: bool) -> Header:
    """Describe what a file keeps of a store: of its images nothing, if their features stay away."""
    record = store_record(store)
    if not include_features:
        record |= {"groups": [], "names": []}
    return {**record, "n_stored": store.n_kept if include_features else 0}


def _describe_depths(depths: Mapping[str, str] | None, include_features: bool) -> Header:
    """Describe how images are stored, with an example of each if images are named at all."""
    if depths is None:
        return {}
    return {"depths": dict(depths) if include_features else dict.fromkeys(depths, "")}


def _describe_scorer(
    state: FitState, scorer: Any, include_features: bool
) -> tuple[Header | None, Arrays]:
    """Describe what the features alone do not give back: units, and sums of images left out."""
    whole = include_features and state.store.is_complete
    if capabilities_of(scorer).standardizes:
        about, own = scorer.state()
        arrays = {f"scorer/{name}": values for name, values in own.items()}
        # A slim model read back has neither features nor sums: it stays one.
        if include_features and not whole and has_sums(scorer):
            arrays |= scorer.sums()
        return about, arrays
    return None, {} if whole else sums_of_scorer(scorer)


def class_of(header: Mapping[str, Any]) -> str:
    """Read the class of the saved detector.

    Raises
    ------
    ModelFileError
        The file holds no detector.
    """
    kind = header.get("kind")
    if kind == "autoencoder":
        raise ModelFileError(
            "holds no detector but an autoencoder: mahalad.metric.autoencoder.Autoencoder.load "
            "reads it"
        )
    if kind is not None:
        raise ModelFileError(f"holds no detector but a {header.get('class', kind)}: mahalad.load")
    name: str = header["class"]
    return name


def read_params(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the parameters of the saved detector; those in `given` that are not None go first.

    Raises
    ------
    ModelFileError
        A part is not from this library, and is not given.
    """
    region = region_in(arrays)
    embedded = {} if region is None else {"embedded": region}
    params: dict[str, Any] = {}
    for name, spec in header["params"].items():
        if given.get(name) is not None:
            params[name] = given[name]
            continue
        try:
            params[name] = from_spec(spec, **embedded)
        except LookupError as error:
            raise ModelFileError(
                f"its {name} is {error}, which is not part of mahalad, and a model file holds no "
                f"code: give it again, unfitted: load(path, {name}=...)"
            ) from error
    return params


def restore(
    header: Mapping[str, Any],
    arrays: Arrays,
    recipe: FitRecipe,
    make_scorer: MakeScorer,
) -> tuple[FitState, Calibrated]:
    """Return the state and the calibrated scorer that `describe` was given.

    Parameters
    ----------
    header, arrays
        Content of the file.
    recipe : FitRecipe
        The recipe that the parameters in the header make.
    make_scorer : callable
        Makes a fresh scorer.
    """
    fit = header["fit"]
    levels = {name: list(shape) for name, shape in fit["levels"].items()}
    state = FitState(
        read_store("fit", fit, arrays, tuple(levels), capacity=recipe.capacity, salt=recipe.salt),
        read_store("held_out", header["held_out"], arrays, tuple(levels)),
        levels=levels,
        turned=fit.get("turned", False),
        grouped=fit["grouped"],
        unreadable=tuple(Result(r["name"], error=r["error"]) for r in fit["unreadable"]),
        columns=tuple(fit.get("columns", ())),
        changes=read_changes(arrays, tuple(levels)),
        depths=fit.get("depths"),
    )
    if not header["calibration"]["n_keys"]:  # of an older version, which knew no near-copies
        recipe = replace(recipe, near_copies="separate")
    scorer = _restore_scorer(header, arrays, state, recipe, make_scorer)
    if recipe.streams and has_sums(scorer):
        state = replace(state, scorer=scorer)
    about, found = header["calibration"], below("calibration/", arrays)
    calibrated = Calibrated(
        scorer,
        about["method"],
        found["scores"],
        found["weights"],
        found["keys"],
        about["counts_parts"],
        fit.get("date"),
    )
    return state, calibrated


def _restore_scorer(
    header: Mapping[str, Any],
    arrays: Arrays,
    state: FitState,
    recipe: FitRecipe,
    make_scorer: MakeScorer,
) -> Any:
    if header["scorer"] is not None:
        scorer = make_scorer().restore(header["scorer"], below("scorer/", arrays))
        return tolerating(scorer.restore_sums(arrays), state)
    if any(name.startswith("moments/") for name in arrays):
        return tolerating(make_scorer().restore(tuple(state.levels), arrays), state)
    return fit_scorer(state, recipe, make_scorer)


def has_learned(features: Any) -> bool:
    """Whether features are of the library's own and learn something, as an autoencoder's do."""
    return is_known(type(features)) and not isinstance(features, BackboneFeatures)


def restore_learned(features: Any, about: Header, arrays: Arrays) -> None:
    """Give features that learn what the file says, unless they are fitted already."""
    if not has_learned(features):
        return
    try:
        features.build()
    except NotFittedError:
        features.restore(about, below("autoencoder/", arrays))


def build_outside(features: Any) -> None:
    """Build features of which a file has no record: they are not the library's own.

    Raises
    ------
    ModelFileError
        They are a network, of which every file that `save` wrote has a record: without one,
        weights would come from anywhere.
    """
    if isinstance(features, BackboneFeatures):
        raise ModelFileError("the model file is damaged (features is None, and params has some)")
    if features is not None:
        features.build()


def identity_of(features: Any) -> Any:
    """Say as JSON what identifies features; those of another identity must not be mixed in.

    For features with a record, it matters what the weights are, not where they came from; and no
    engine is used that computes other features.
    """
    if hasattr(features, "record"):  # two with the same parameters may have other weights
        record = features.record()
        return {k: v for k, v in record.items() if k not in NO_IDENTITY}
    return to_spec(features)


def describe_difference(mine: Any, theirs: Any) -> str:
    """Say in what two identities differ."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return f"{mine} and {theirs}"
    differs = [name for name in mine | theirs if mine.get(name) != theirs.get(name)]
    return "; ".join(f"{n} is {mine.get(n)!r} and {theirs.get(n)!r}" for n in differs)


def golden_scores(features: Any, state: FitState, scorer: Any) -> Floats:
    """Score the golden inputs: anomaly scores, shape (N_GOLDEN,)."""
    found = golden_features(features, state.levels)
    copies = {name: values[:, None] for name, values in found.items()}
    return score(scorer, copies, tuple(state.levels))[0]


def check_golden(found: Floats, expected: Mapping[str, Any], engines: str = "") -> None:
    """Raise `ModelFileError` unless the golden inputs score as they did when saved.

    `engines` says what computed the features then and what does now, if these differ.
    """
    wanted = np.array(expected["scores"])
    if not np.allclose(found, wanted, rtol=expected["rtol"], atol=expected["atol"]):
        raise ModelFileError(
            f"the model does not score here as it did where it was saved: its check inputs give "
            f"{found.tolist()} instead of {wanted.tolist()} (allowed: relative "
            f"{expected['rtol']:g}). {engines or ANOTHER}; `mahalad info` shows the versions it "
            "was saved with"
        )

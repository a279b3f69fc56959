"""The audit of model files: sound files of every kind pass, and no damage gets by or breaks it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_text
from safetensors.torch import save_file as save_tensors

from mahalad import (
    AnomalyDetector,
    Autoencoder,
    BackboneFeatures,
    LedoitWolfGaussian,
    LevelSum,
    MahalanobisDetector,
    MetricKNNClassifier,
    load,
)
from mahalad.errors import ModelFileError
from mahalad.files.audit import audit
from mahalad.files.container import FORMAT_VERSION, read_model
from mahalad.files.layouts import (
    AUTOENCODER,
    CLASSIFIER,
    CONTEXT,
    CONTEXT_STEPS,
    DETECTOR,
    OF_AUTOENCODER,
    OF_BACKBONE,
)
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.positions import grids
from mahalad.scorers.positions.scorer import PatchScorer

DATA = Path(__file__).parent / "data"
STORED = sorted(path.stem for path in DATA.glob("*.mahalad"))
OFTEN = ["arrays", "arrays_slim", "classifier", "encoder", "holdout", "image", "positions_slim",
         "reservoir", "reservoir_slim", "autoencoder"]  # fmt: skip
"""Stored examples of format 5 that hold something that no other does."""

OF_NO_KNOWN_LENGTH = {
    "scorer/map_maxima",  # of the images of the fit, which may be others than those stored
    "index/paths",  # text; who reads it finds it cut
    "golden/embeddings",  # compared with what the model gives
}
ANY_NUMBERS = ("fit/features/", "held_out/features/")
OPTIONAL = {
    "depths",
    "8-bit",
    "date",
    "boxed",
    "maps",
    "context_weight",
    "tiles",
    "orientations",
    "weights_embedded",
    "columns",
}
UNREAD = {"licence", "precision", "kind"}
"""Keys of records that nothing but `mahalad info` reads."""


def stored(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_model(DATA / f"format7_{name}.mahalad")


def refusal(header: dict[str, Any], arrays: dict[str, Any]) -> str:
    """The message with which a file of such a content is refused; empty when it passes."""
    try:
        audit(json.loads(json.dumps(header)), arrays)
    except ModelFileError as error:
        return str(error)
    return ""


def write(path: Path, header: dict[str, Any], arrays: dict[str, Any]) -> Path:
    """A file of that content, with the checksum of it."""
    return write_text(path, json.dumps(header), arrays)


def is_weight(name: str) -> bool:
    return name.startswith(("projection/", "weights/", "encoder/weights/", "autoencoder/weights/"))


# -- sound files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORED)
def test_stored_files_pass(name):
    header, _ = read_model(DATA / f"{name}.mahalad")
    assert header["format_version"] == FORMAT_VERSION


def test_detectors_of_every_kind_pass(rng, tmp_path):
    rows, maps = rng.normal(size=(30, 3)), {"m": rng.normal(size=(30, 4, 4, 2)), "p": rng.normal(
        size=(30, 3))}  # fmt: skip
    for X, detector in [
        (rows, AnomalyDetector(threshold="chi2-nominal")),
        (rows, AnomalyDetector(threshold="holdout", fpr=0.2)),
        (rows.astype(np.float32), AnomalyDetector(scorer=make_scorer("knn"), fpr=0.1)),
        ((rows * 100).astype(int), AnomalyDetector(fpr=0.1, max_stored=10)),
        (maps, AnomalyDetector(scorer=PatchScorer(neighbourhood="all"), fpr=0.1)),
        (maps, AnomalyDetector(scorer=PatchScorer(), fpr=0.1, max_stored=20)),
        (maps, AnomalyDetector(scorer=PatchScorer(), fpr=0.2, threshold="holdout")),
    ]:
        fitted = detector.fit(X)
        fitted.save(tmp_path / "m")
        again = load(tmp_path / "m")
        wanted = fitted.anomaly_score(X)
        np.testing.assert_allclose(again.anomaly_score(X), wanted, rtol=1e-6, atol=1e-9)
        again.save(tmp_path / "again")
        load(tmp_path / "again")


def test_detectors_on_networks_pass(small_weights, picture_folder, tmp_path):
    region = np.zeros((64, 64), dtype=bool)
    region[:, :40] = True
    for options in (
        {"scope": "image", "orientations": 1, "roi": region},
        {"scope": "positions", "resize": "pad", "max_stored": 20},
    ):
        options.pop("orientations", None)
        MahalanobisDetector(
            "test_efficientnet", weights=small_weights, input_size=64, fpr=0.1, **options
        ).fit(picture_folder / "good").save(tmp_path / "m")
        header, arrays = read_model(tmp_path / "m")
        assert header["features"]["weights_embedded"]
        assert any(name.startswith("weights/") for name in arrays)
        assert ("region" in arrays) == ("roi" in options)
        load(tmp_path / "m")


def test_classifiers_of_every_kind_pass(rng, tmp_path, small_weights):
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = ["a", "b"] * 6
    backbone = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=32)
    learned = Autoencoder(bottleneck=3, width=2, input_size=32, epochs=1).fit(images)
    for encoder, X, y in [
        (None, rng.normal(size=(12, 3)), [1, 2] * 6),
        (backbone, images, labels),
        (learned, images, labels),
    ]:
        MetricKNNClassifier(encoder, n_neighbors=1, novelty_fpr=0.5).fit(X, y).save(tmp_path / "m")
        header, _ = read_model(tmp_path / "m")
        assert header["kind"] == "metric-knn"
        load(tmp_path / "m")


def test_files_of_other_kinds_are_left_to_what_reads_them():
    audit({"kind": "somebody's", "class": 3}, {"x": np.full(3, np.nan)})


def test_the_context_is_that_of_the_scorer():
    assert (CONTEXT, CONTEXT_STEPS) == (grids.CONTEXT, grids.CONTEXT_STEPS)


def test_what_is_refused_names_the_file(tmp_path):
    header, arrays = stored("arrays")
    del header["fit"]["n_images"]
    path = write(tmp_path / "part.mahalad", header, arrays)
    with pytest.raises(
        ModelFileError, match=r"part\.mahalad: the model file lacks 'fit\.n_images'"
    ):
        read_model(path)


# -- damaged headers -----------------------------------------------------------------------


def places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys down to every value below a header, but parameters: those are the classes' own."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if key in ("params", "spec", "versions", "format_version", "history", "about", "state"):
            continue
        if keys[:1] == ("search",) or key == "where":
            continue
        yield (*keys, key)
        if isinstance(item, (dict, list)) and item:
            yield from places(item, (*keys, key))


def at(value: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


@pytest.mark.parametrize("name", OFTEN)
def test_a_key_that_is_missing_is_named(name):
    header, arrays = stored(name)
    for keys in places(header):
        if keys[-1] in OPTIONAL | UNREAD:
            continue
        if isinstance(at(header, keys[:-1]), list):
            continue
        changed = copy.deepcopy(header)
        del at(changed, keys[:-1])[keys[-1]]
        message = refusal(changed, arrays)
        if len(keys) > 1 and keys[-2] in ("levels", "maps"):  # of any names: the arrays tell
            assert message or keys[-1] == "picture/box", keys
        elif keys[-2:-1] == ("record",) or keys[:1] == ("features",):
            known = {"backbone", "resize", "scale", "interpolation", "input_size"}
            assert "lacks" in message or keys[-1] in known, keys
        else:
            path = ".".join(str(key) for key in keys)
            assert message == f"the model file lacks {path!r}"


@pytest.mark.parametrize("name", OFTEN)
def test_a_value_of_another_type_is_refused(name):
    header, arrays = stored(name)
    for keys in places(header):
        value = at(header, keys)
        if value is None or keys[-1] in UNREAD or keys[:1] == ("classes",):
            continue
        odd = {str: 5, bool: "x", int: 1.5, float: "x", dict: [], list: {}}[type(value)]
        changed = copy.deepcopy(header)
        at(changed, keys[:-1])[keys[-1]] = odd
        message = refusal(changed, arrays)
        if keys[-2:-1] == ("record",) and keys[-1] in ("interpolation", "resize", "scale"):
            continue  # of an autoencoder: for `mahalad info`
        if keys[-3:-1] == ("record", "scale"):
            continue
        assert message, (keys, odd)
        assert repr(odd) in message or "expected" in message, message


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "1e999", "9" * 400])
def test_numbers_that_are_none_are_refused(odd, tmp_path):
    header, arrays = stored("arrays")
    text = json.dumps({**header, "golden": {**header["golden"], "rtol": "HERE"}})
    write_text(tmp_path / "m", text.replace('"HERE"', odd), arrays)
    with pytest.raises(ModelFileError, match=r"m: .*golden.rtol is .* expected a finite number"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("arrays", ("fit", "n_images"), 39, "fit.n_stored is 40, expected 0 to fit.n_images, 39"),
        ("arrays", ("fit", "n_stored"), -1, "fit.n_stored is -1"),
        ("arrays", ("fit", "n_stored"), 39, "fit.names has 40 names, expected fit.n_stored, 39"),
        ("arrays", ("fit", "names"), ["a"], "fit.names has 1 names, expected fit.n_stored, 40"),
        ("arrays", ("fit", "limit"), -1, "fit.limit is -1"),
        ("arrays", ("held_out", "n_stored"), 3, "held_out.n_stored is 3, expected 0 to"),
        ("arrays_slim", ("fit", "n_stored"), 40, "fit.names has 0 names"),
        ("arrays", ("fit", "levels"), {}, "fit.levels has shapes of none"),
        ("arrays", ("fit", "levels"), {"features": [7]}, r"\(40, 1, 6\), expected .*\(40, 1, 7\)"),
        ("arrays", ("fit", "levels"), {"features": [2, 3]}, "fit.levels has shapes"),
        ("arrays", ("fit", "groups"), ["a"], "fit/groups has values from 0 to 19, expected 0 to 0"),
        ("arrays", ("calibration", "n"), 41, "calibration.n_keys is 40, expected 0 or calib"),
        ("arrays", ("calibration", "n_keys"), 0, r"calibration/keys .*\(40,\), expected .*\(0\)"),
        ("arrays", ("calibration", "method"), "guess", "calibration.method is 'guess', expected '"),
        ("arrays", ("class",), "Popen", "class is 'Popen', expected 'AnomalyDetector' or"),
        ("image", ("features", "region"), "abc", "lacks 'region'"),
        ("image", ("features", "weights_embedded"), True, "lacks 'weights/...'"),
        ("reservoir", ("scorer", "groups"), [], "scorer.groups is"),
        ("reservoir", ("scorer", "groups"), [["fine"], ["whole"]], "scorer.groups is"),
        ("reservoir", ("scorer", "groups"), [["fine", "coarse"]], "levels of one grid together"),
        ("reservoir", ("scorer", "pooled"), ["fine"], "scorer.pooled is"),
        ("reservoir", ("scorer", "pooled"), [], "was not expected"),
        ("reservoir", ("scorer", "maps"), {"fine": [1, 2]}, "scorer.maps is of"),
        ("reservoir", ("scorer", "scale"), [1.0], "scorer.scale is .* expected a list of 2"),
        ("reservoir", ("scorer",), None, "moments/fine/shift is .* expected"),
        ("classifier", ("classes",), ["defect"], r"held_out/probabilities .*expected .*1\)"),
        ("classifier", ("levels",), {"features": 5}, r"mean is float64 of shape \(6,\)"),
        ("classifier", ("index",), {}, "expected where it is or its state"),
        ("classifier", ("index", "state", "labels"), ["a"], "the index in the model file is dam"),
        ("classifier", ("index", "state", "n_features"), 4, r"expected shape \(2, 4\)"),
        ("classifier", ("projection",), None, "projection/1.bias .*was not expected"),
        ("classifier", ("encoder",), {"class": "Autoencoder"}, "lacks 'encoder.params'"),
        ("classifier", ("encoder",), {"class": "Popen"}, "encoder.class is 'Popen'"),
        ("encoder", ("record", "bottleneck"), 5, r"golden/embeddings .*expected shape \(2, 5\)"),
    ],
)  # fmt: skip
def test_what_disagrees_is_refused(name, keys, value, message):
    header, arrays = stored(name)
    at(header, keys[:-1])[keys[-1]] = value
    assert re.search(message, refusal(header, arrays))


def classes(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a header names the classes of parameters."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            if isinstance(item, dict) and "class" in item:
                yield (*keys, key)
            yield from classes(item, (*keys, key))


@pytest.mark.parametrize("name", ["npca", "knn", "shared", "autoencoder"])
def test_classes_from_outside_are_refused(name):
    header, arrays = stored(name)
    found = list(classes(header["params"], ("params",)))
    assert found
    for keys in found:
        for odd in ("Popen", "os.system", "", None, ["LevelSum"], "AnomalyDetector "):
            changed = copy.deepcopy(header)
            at(changed, keys)["class"] = odd
            assert f"is of class {odd!r}, which no model file" in refusal(changed, arrays)
        changed = copy.deepcopy(header)
        del at(changed, keys)["params"]
        assert "lacks" in refusal(changed, arrays)


def test_a_part_from_outside_is_asked_for_again(tmp_path):
    header, arrays = stored("arrays")
    header["params"]["scorer"] = {"custom": "Mine()"}
    path = write(tmp_path / "m", header, arrays)
    with pytest.raises(ModelFileError, match=r"m: its scorer is Mine\(\), which is not part of"):
        load(path)
    load(path, scorer=LevelSum(LedoitWolfGaussian()))
    header, arrays = stored("classifier")
    header["params"]["weights"] = {"custom": "Mine()"}
    assert "params.weights is Mine(), which is not part" in refusal(header, arrays)


# -- damaged arrays ------------------------------------------------------------------------


def changes(name: str, values: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What may happen to an array, each with the arrays that take its place."""
    yield "dropped", {}
    yield "renamed", {f"{name}2": values}
    yield "of one axis more", {name: values[None]}
    if values.ndim:
        yield "one shorter", {name: values[:-1]}
        yield "one longer", {name: np.concatenate([values, values[-1:]])}
    if values.ndim > 1 and values.shape[-1] > 1:
        yield "less wide", {name: values[..., :-1]}
    if values.dtype.kind == "f":
        for odd in (np.nan, np.inf, -np.inf):
            changed = values.copy()
            changed.reshape(-1)[-1:] = odd
            yield f"with {odd}", {name: changed}
        yield "of whole numbers", {name: values.astype(np.int32)}
    else:
        yield "of floats", {name: values.astype(np.float32)}
    yield "of truth values", {name: values.astype(bool)}


def may_pass(name: str, what: str) -> bool:
    """Changes that nothing in the file speaks against, or that say something."""
    if is_weight(name):  # the hash of the weights, or the network, tells
        return "with" not in what or what == "less wide"
    if name.endswith(("joint/scale", "map_deviation", "scale")) and what == "with inf":
        return True  # a place that is not judged
    if name == "held_out/probabilities" and what == "less wide":
        return True  # labels that came after these votes
    if what.startswith("one ") and name in OF_NO_KNOWN_LENGTH:
        return True
    return name.startswith(ANY_NUMBERS) and what in ("of whole numbers", "of floats")


@pytest.mark.parametrize("name", OFTEN)
def test_damaged_arrays_are_refused(name):
    header, arrays = stored(name)
    weights = sorted(filter(is_weight, arrays))
    for array in sorted(arrays.keys() - set(weights[2:])):  # all weights are looked at alike
        values = arrays[array]
        rest = {other: a for other, a in arrays.items() if other != array}
        for what, new in changes(array, values):
            message = refusal(header, rest | new)
            assert message or may_pass(array, what), (array, what)


def test_arrays_that_do_not_belong_are_refused():
    for name in OFTEN:
        header, arrays = stored(name)
        message = refusal(header, arrays | {"zzz": np.zeros((2, 3))})
        assert "zzz is float64 of shape (2, 3), which was not expected" in message


@pytest.mark.parametrize("path", sorted(DATA.glob("*.mahalad")), ids=lambda path: path.stem)
def test_a_nan_in_any_array_is_refused(path, tmp_path):
    header, arrays = read_model(path)
    rng = np.random.default_rng(9)
    for name, values in arrays.items():
        if values.dtype.kind != "f":
            continue
        odd = values.copy()
        odd.reshape(-1)[rng.integers(odd.size)] = np.nan
        write(tmp_path / "m", header, arrays | {name: odd})
        with pytest.raises(ModelFileError, match=f"{re.escape(name)} holds nan"):
            read_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "array", "odd"),
    [("arrays", "fit/groups", 20), ("arrays", "fit/groups", -1), ("classifier", "index/codes", 2)],
)
def test_codes_out_of_range_are_refused(name, array, odd):
    header, arrays = stored(name)
    arrays[array] = arrays[array].copy()
    arrays[array][3] = odd
    assert f"{array} has values" in refusal(header, arrays)


def test_the_last_of_many_numbers_is_looked_at():
    """Long arrays are looked at in pieces."""
    n = (1 << 20) + 3
    header, arrays = stored("arrays")
    header["calibration"] |= {"n": n, "n_keys": 0}
    arrays |= {f"calibration/{name}": np.ones(n) for name in ("scores", "weights")}
    arrays["calibration/keys"] = np.empty(0, np.uint64)
    audit(header, arrays)
    arrays["calibration/scores"][-1] = np.nan
    with pytest.raises(ModelFileError, match=r"calibration scores: .* holds nan, expected finite"):
        audit(header, arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "complex64"])
def test_numbers_that_no_model_has_are_refused(dtype, tmp_path):
    header, _ = stored("arrays")
    scores = {"calibration/scores": torch.ones(40, dtype=getattr(torch, dtype))}
    save_tensors(scores, tmp_path / "m", metadata={"mahalad": json.dumps(header)})
    with pytest.raises(ModelFileError, match="m: the model file is damaged"):
        load(tmp_path / "m")


# -- anything ------------------------------------------------------------------------------

VALUES = [None, True, 0, -1, 1 << 70, 0.5, "", "x", [], {}, [[]], {"class": "LevelSum"}]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["arrays", "arrays_slim", "reservoir_slim", "classifier", "knn"])
def test_whatever_happens_to_a_file_it_loads_or_is_refused(name, seed, tmp_path):
    """Many changes at random, all the way to the detector: no other error than of the file."""
    rng = np.random.default_rng(seed)
    header, arrays = stored(name)
    found = list(places(header))
    n_refused = n_passed = 0
    for _ in range(25):
        changed, others = copy.deepcopy(header), dict(arrays)
        keys = found[rng.integers(len(found))]
        if rng.random() < 0.7:
            at(changed, keys[:-1])[keys[-1]] = VALUES[rng.integers(len(VALUES))]
        else:
            array = sorted(others)[rng.integers(len(others))]
            values = others.pop(array)
            new = list(changes(array, values))
            others |= new[rng.integers(len(new))][1]
        path = write(tmp_path / "part.mahalad", changed, others)
        try:
            load(path)
        except ModelFileError as error:
            n_refused += str(error).startswith(f"{path}: ")
        else:
            n_passed += 1
    assert n_refused + n_passed == 25
    assert n_refused > 15


# -- documentation -------------------------------------------------------------------------


def keys_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, own in schema.items():
            yield key
            yield from keys_of(own)
    elif hasattr(schema, "of"):
        yield from keys_of(schema.of)


def test_every_key_and_array_of_the_format_is_documented():
    page = (DATA.parent.parent / "docs" / "model-format.md").read_text()
    named = set(re.findall(r"`([^`]+)`", page))
    schemas = (DETECTOR, CLASSIFIER, AUTOENCODER, OF_AUTOENCODER, OF_BACKBONE)
    for key in {key for schema in schemas for key in keys_of(schema)}:
        assert key in named, key
    for name in OFTEN:
        header, arrays = stored(name)
        levels = [*header.get("fit", {}).get("levels", {}), CONTEXT]
        for array in filter(lambda array: not is_weight(array), arrays):
            generic = {array.removeprefix("autoencoder/")}
            for level in levels:
                before, found, after = array.rpartition(f"/{level}")
                if found:
                    generic |= {f"{before}/{what}{after}" for what in ("LEVEL", "GRID", "POOLED")}
            assert generic & named, array

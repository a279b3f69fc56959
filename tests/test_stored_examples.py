"""Model files of every format that was released: they load, and say what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mahalad import load
from mahalad.errors import ModelFileError
from mahalad.files.container import FORMAT_VERSION, read_header, read_model
from mahalad.files.old.upgrade import STEPS, upgrade
from mahalad.metric.autoencoder.autoencoder import Autoencoder

DATA = Path(__file__).parent / "data"
NEWER = ("format4", "format5", "format6", "format7")
EXPECTED = {
    stem: json.loads((DATA / f"{stem}.json").read_text())
    for stem in (*NEWER, "format8", "format9", "format10")
}
DETECTORS = [
    (stem, name)
    for stem in EXPECTED
    for name in EXPECTED[stem]
    if name not in ("classifier", "encoder")
]
TOLERANCE = 1e-9
"""Of everything that is summed in float64: other threads and kernels change the last digits."""
OF_POSITIONS = 1e-5
"""Of distances per position: products of matrices in float32, for which every CPU has its kernels
(two differed by 8e-7)."""
OF_NETWORKS = 1e-4
"""Of everything that went through a network, in float32."""
OLD = sorted(path.stem for path in DATA.glob("format[123]_*.mahalad"))


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The script that wrote the examples, for the images that it asked about."""
    sys.path.insert(0, str(DATA))
    try:
        import make_format10
    finally:
        sys.path.remove(str(DATA))
    return make_format10


def images_of(name: str, made: ModuleType) -> tuple[object, float]:
    kind = name.removesuffix("_slim")
    if kind in ("image", "positions", "autoencoder", "region", "tolerant", "neighbours", "places"):
        return made.squares(2, 6), OF_NETWORKS
    if kind in ("whole", "reservoir", "shared", "parts", "nearest", "nearest_reservoir"):
        return made.maps(2, 6), OF_POSITIONS
    return made.rows(2, 6), TOLERANCE


def assert_close(found: object, wanted: object, tolerance: float) -> None:
    """The same keys, texts and numbers."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_close(found[key], wanted[key], tolerance)
    elif np.asarray(wanted).dtype.kind == "U":
        assert found == wanted
    else:
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("stem", "name"), DETECTORS)
def test_a_detector_says_what_it_said(stem, name, made):
    path = DATA / f"{stem}_{name}.mahalad"
    assert f"format{read_header(path)['format_version']}" == stem
    images, tolerance = images_of(name, made)
    assert_close(made.answers_of(load(path), images), EXPECTED[stem][name], tolerance)


@pytest.mark.parametrize("stem", NEWER)
def test_a_classifier_says_what_it_said(stem, made):
    model = load(DATA / f"{stem}_classifier.mahalad")
    answers = made.labelled_answers(model, made.rows(6, 6))
    assert_close(answers, EXPECTED[stem]["classifier"], 1e-5)


@pytest.mark.parametrize("stem", NEWER)
def test_an_autoencoder_says_what_it_said(stem, made):
    learned = Autoencoder.load(DATA / f"{stem}_encoder.mahalad")
    embeddings = learned.embed(made.squares(2, 6)).tolist()
    assert_close({"embeddings": embeddings}, EXPECTED[stem]["encoder"], OF_NETWORKS)


# -- older formats -------------------------------------------------------------------------


def raw(name: str) -> tuple[dict, dict]:
    path = DATA / f"{name}.mahalad"
    return read_header(path), load_file(path)


def test_every_older_format_has_a_step_to_the_next():
    assert sorted(STEPS) == list(range(1, FORMAT_VERSION))
    stored = {path.name.split("_")[0] for path in DATA.glob("*.mahalad")}
    assert stored == {f"format{version}" for version in (*STEPS, FORMAT_VERSION)}


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_an_older_format_reads_as_one_of_the_present(name):
    before, arrays = raw(name)
    copy = json.loads(json.dumps(before))
    header, read = read_model(DATA / f"{name}.mahalad")
    assert header["format_version"] == FORMAT_VERSION
    assert header["autoencoder"] is None
    assert header["golden"]["atol"] == before["golden"].get("atol", 1e-9)
    assert all(isinstance(shape, list) for shape in header["fit"]["levels"].values())
    assert read_header(DATA / f"{name}.mahalad") == before == copy  # `mahalad info` shows it
    changed = {"format_version", "fit", "calibration", "golden", "scorer", "params", "features"}
    for key in before.keys() - changed:
        assert header[key] == before[key]
    assert {name for name in read if name not in arrays} <= {
        "calibration/weights", "calibration/keys", "fit/looks", "held_out/looks",
        "scorer/levels/whole/ridge", "scorer/levels/whole/variances",
    }  # fmt: skip
    assert (read["calibration/weights"] == 1).all()  # verdicts stay
    for array in read.keys() & arrays.keys():
        np.testing.assert_array_equal(read[array], arrays[array])
    assert upgrade(header, read) == (header, read)  # nothing is left to do


def test_what_format_1_did_not_say():
    header, _ = read_model(DATA / "format1_images.mahalad")
    assert header["params"]["scope"] == "image"
    assert header["fit"]["levels"] == {"stem": [32], "blocks.0": [16]}
    assert (header["features"]["maps"], header["features"]["region"]) == ([], None)
    header, _ = read_model(DATA / "format1_arrays.mahalad")
    assert "scope" not in header["params"] and header["features"] is header["scorer"] is None


def test_maps_of_format_2_are_left_out():
    header, arrays = read_model(DATA / "format2_reservoir.mahalad")
    gone = raw("format2_reservoir")[1].keys() - arrays.keys()
    assert gone == {"scorer/map_maxima"} | {
        f"scorer/levels/{level}/{key}"
        for level in ("fine", "coarse")
        for key in ("mean", "deviation")
    } | {"scorer/levels/whole/scalars", "scorer/levels/whole/eigenvalues"}
    assert "maps" not in header["scorer"] and "context_weight" not in header["scorer"]


def test_maps_of_format_3_have_a_context_without_weight():
    header, _ = read_model(DATA / "format3_whole.mahalad")
    assert header["scorer"]["context_weight"] == 0
    assert list(header["scorer"]["maps"]) == ["fine", "coarse"]


def test_a_classifier_of_before_the_search_reads_as_one_without(tmp_path):
    header, arrays = raw("format4_classifier")
    del header["search"], header["n_self_trained"]
    save_file(
        arrays,
        tmp_path / "m",
        metadata={"mahalad": json.dumps({**header, "format_version": 3})},
    )
    header, _ = read_model(tmp_path / "m")
    assert (header["search"], header["n_self_trained"]) == (None, 0)
    assert load(tmp_path / "m").n_self_trained_ == 0


@pytest.mark.parametrize("odd", [{"fit": 3}, {"params": []}, {"golden": "x"}, {"scorer": 5}])
def test_an_older_file_with_an_odd_header_is_refused(tmp_path, odd):
    for name in ("format1_images", "format3_slim"):
        header, arrays = raw(name)
        save_file(arrays, tmp_path / "m", metadata={"mahalad": json.dumps({**header, **odd})})
        with pytest.raises(ModelFileError, match="m: the model file is damaged"):
            load(tmp_path / "m")


@pytest.mark.parametrize("version", ["4", 4.0, 0, -1, True, None])
def test_a_format_is_a_whole_number_from_1(tmp_path, version):
    header, arrays = raw("format4_arrays")
    metadata = {"mahalad": json.dumps({**header, "format_version": version})}
    save_file(arrays, tmp_path / "m", metadata=metadata)
    with pytest.raises(ModelFileError, match=r"header is damaged \(format_version is"):
        read_header(tmp_path / "m")

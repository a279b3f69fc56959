"""Exported models: what onnxruntime says of images is what the detector says."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image
from sklearn.svm import OneClassSVM

from mahalad import AnomalyDetector, BackboneFeatures, KNNDetector, MahalanobisDetector, load
from mahalad.errors import CalibrationError, InputError, MissingExtraError, ModelFileError
from mahalad.export import export, writing
from mahalad.export.checking import compare
from mahalad.files.onnx import KEY, decode, encode, sealed
from mahalad.files.recognition import is_export
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.report.rows import row_of
from mahalad.runtime import OnnxDetector
from mahalad.runtime import load as load_exported
from mahalad.scorers.level_sum import LevelSum, make_scorer

pytest.importorskip("onnxruntime", reason='no onnxruntime (pip install "mahalad[onnx]")')
onnx = pytest.importorskip("onnx", reason='no onnx (pip install "mahalad[onnx]")')

GOOD = [np.asarray(make_picture(seed)) for seed in range(30)]
TEST = [np.asarray(make_picture(seed, spot=seed % 2 == 0)) for seed in range(100, 106)]
REGION = np.zeros((64, 64), bool)
REGION[8:60, 4:50] = True


@pytest.fixture(scope="module")
def fitted(small_weights):
    def fit(images=GOOD, **options):
        options = {"scope": "image", "input_size": 64, "fpr": 0.1, "device": "cpu"} | options
        return MahalanobisDetector("test_efficientnet", weights=small_weights, **options).fit(
            images
        )

    return fit


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    """A detector of positions, and its export."""
    detector = fitted(scope="positions", input_size=128)
    path = tmp_path_factory.mktemp("exported") / "part.onnx"
    export(detector, path)
    return detector, path


def assert_same(detector, exported, X):
    parity = compare(detector, exported, X)
    assert parity.holds, str(parity)
    assert parity.p_value <= 1e-5
    for found, wanted in zip(exported.inspect(X), detector.inspect(X), strict=True):
        row, expected = row_of(found), row_of(wanted)
        assert row.keys() == expected.keys()
        if "error" not in row:
            assert row["score"] == pytest.approx(expected["score"], rel=1e-4, abs=1e-4)
            assert row["p_value"] == pytest.approx(expected["p_value"], rel=1e-3)
        for name in row.keys() - {"score", "p_value"}:
            assert row[name] == expected[name], name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "npca"},
        {"reduction": "pca"},
        {"roi": REGION},
        {"tiles": 2},
        {"threshold": "chi2"},
        {"threshold": "chi2-nominal"},
        {"threshold": "tolerance", "fpr": 0.2},
        {"threshold": "holdout", "fpr": 0.2},
        {"scope": "positions", "input_size": 128, "neighbourhood": 0},
        {"scope": "positions", "input_size": 128, "neighbourhood": 1},
        {"scope": "positions", "input_size": 128, "neighbourhood": "all"},
        {"scope": "positions", "input_size": 128, "neighbourhood": "nearest"},
        {"scope": "positions", "neighbourhood": "nearest", "tiles": 2},
        {"scope": "positions", "input_size": 72, "neighbourhood": "nearest"},
        {"scope": "positions", "input_size": 128, "neighbourhood": 0, "roi": REGION},
        {"scope": "positions", "input_size": 128, "image_weight": 0.0},
        {"scope": "positions", "input_size": 100, "top_fraction": 0.0},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items() if k != "roi"),
)
def test_scores_p_values_verdicts_and_maps_are_those_of_the_detector(fitted, options, tmp_path):
    detector = fitted(**options)
    done = export(detector, tmp_path / "part.onnx", check_on=TEST)
    assert done.golden.holds and done.images.n == len(TEST)
    exported = load_exported(tmp_path / "part.onnx")
    assert exported.threshold_ == pytest.approx(detector.threshold_, rel=1e-12)
    assert_same(detector, exported, [*TEST, GOOD[0]])  # one is of the fit
    assert exported.has_maps == ("reduction" not in options)
    assert str(exported.guarantee_) == str(detector.guarantee_)


@pytest.mark.parametrize("options", [{}, {"scope": "positions", "input_size": 128},
                                     {"roi": REGION}])  # fmt: skip
@pytest.mark.parametrize("neighbourhood", [0, "nearest"])
def test_padded_pictures_of_any_shape(fitted, options, neighbourhood, tmp_path):
    if options.get("scope") is None and neighbourhood:
        pytest.skip("there are no patches of whole images")
    if options.get("scope"):
        options = options | {"neighbourhood": neighbourhood}
    detector = fitted([image[:44] for image in GOOD], resize="pad", **options)
    tests = [image[:44] for image in TEST] + [TEST[0][:, :30], TEST[1][:, :50]]
    export(detector, tmp_path / "part.onnx")
    assert_same(detector, load_exported(tmp_path / "part.onnx"), tests)


def test_orientations(small_weights, tmp_path):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64,
                                orientations=8, device="cpu")  # fmt: skip
    detector = AnomalyDetector(features, fpr=0.1).fit(GOOD)
    export(detector, tmp_path / "part.onnx")
    exported = load_exported(tmp_path / "part.onnx")
    assert_same(detector, exported, TEST)
    with pytest.raises(InputError, match="no anomaly maps"):
        exported.anomaly_map(TEST)


@pytest.mark.parametrize("name", ["l2", "sed"])
def test_other_distances(small_weights, name, tmp_path):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    detector = AnomalyDetector(features, make_scorer(name), fpr=0.1).fit(GOOD)
    export(detector, tmp_path / "part.onnx")
    assert_same(detector, load_exported(tmp_path / "part.onnx"), TEST)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance": "cosine", "n_neighbors": 3},
        {"distance": "euclidean", "n_neighbors": 4, "reduce": "mean", "resize": "pad"},
        {"reduction": "npca", "n_neighbors": 2, "roi": REGION},
        {"tiles": 2, "threshold": "holdout", "fpr": 0.2},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items() if k != "roi"),
)
def test_nearest_neighbours(small_weights, options, tmp_path):
    options = {"input_size": 64, "fpr": 0.1} | options
    detector = KNNDetector("test_efficientnet", weights=small_weights, **options).fit(GOOD)
    done = export(detector, tmp_path / "part.onnx", check_on=TEST)
    assert done.golden.holds and done.images.n == len(TEST)
    exported = load_exported(tmp_path / "part.onnx")
    assert_same(detector, exported, TEST)
    in_fit = [x for x, found in zip(GOOD, detector.inspect(GOOD), strict=True) if found.in_fit]
    assert compare(detector, exported, in_fit).holds  # with "holdout" they are at distance 0
    assert str(exported.guarantee_) == str(detector.guarantee_)
    with pytest.raises(InputError, match="no anomaly maps"):
        exported.anomaly_map(TEST)
    detector, exported = detector.set_fpr(0.3), exported.set_fpr(0.3)
    assert exported.threshold_ == detector.threshold_
    np.testing.assert_array_equal(exported.predict(TEST), detector.predict(TEST))


def test_equally_near_neighbours_and_images_of_the_fit_in_the_graph(small_weights, tmp_path):
    """The graph knows no images of the fit: it measures their distance, to themselves too."""
    options = {"weights": small_weights, "input_size": 64, "fpr": 0.2, "near_copies": "separate"}
    twice = [*GOOD[:12], GOOD[0].copy()]
    with pytest.warns(UserWarning, match="2 images are copies"):
        detector = KNNDetector("test_efficientnet", n_neighbors=2, **options).fit(twice)
    export(detector, tmp_path / "part.onnx")
    session = load_exported(tmp_path / "part.onnx").features_.session
    squares = np.stack([detector.features_.prepare(image) for image in [GOOD[0], *TEST]])
    found = session.run(np.ascontiguousarray(squares.transpose(0, 3, 1, 2)))
    features = detector.features_.transform(squares)
    wanted = -detector.scorer_.score_samples(features)
    assert found["score"][0] < 1e-3 * found["score"][1:].min()  # twice in the fit
    np.testing.assert_allclose(found["score"][1:], wanted[1:], rtol=1e-4)


def test_the_held_out_image_that_set_the_threshold(fitted, tmp_path):
    """Its score is the threshold: rounding alone says whether it is above."""
    detector = fitted(threshold="holdout", fpr=0.2)
    done = export(detector, tmp_path / "part.onnx", check_on=GOOD)
    assert done.images.holds and done.images.n == len(GOOD)
    scores = detector.anomaly_score(GOOD)
    assert np.isclose(scores, detector.threshold_, rtol=1e-6).any()


def test_images_of_16_bits_and_floats(model):
    detector, path = model
    deep = [image.astype(np.uint16) * 257 + 77 for image in TEST[:3]]
    exported = load_exported(path).set_params(bits=16)
    wanted = load_detector(detector).set_params(bits=16)
    assert_same(wanted, exported, [*deep, (TEST[0] / np.float32(260)).astype(np.float32)])


def load_detector(detector):
    import copy

    return copy.deepcopy(detector)


def test_the_rate_is_changed_without_another_export(model):
    detector, path = model
    exported = load_exported(path)
    for fpr in (0.05, 0.3):
        detector, exported = load_detector(detector).set_fpr(fpr), exported.set_fpr(fpr)
        assert exported.threshold_ == detector.threshold_
        np.testing.assert_array_equal(exported.predict(TEST), detector.predict(TEST))
    with pytest.raises(InputError, match="fpr must be a number between 0 and 1"):
        exported.set_fpr(2)
    with pytest.raises(CalibrationError, match="a conformal threshold at fpr=0"):
        list(exported.set_fpr(0.001).inspect(TEST))


def test_the_graph_alone_judges_too(model):
    """Whoever has another language feeds pixels, and may give the threshold of another rate."""
    import onnxruntime

    detector, path = model
    session = onnxruntime.InferenceSession(path)
    squares = np.stack([detector.features_.prepare(image) for image in TEST])
    pixels = {"pixels": squares.transpose(0, 3, 1, 2)}
    names = [x.name for x in session.get_outputs()]
    found = dict(zip(names, session.run(None, pixels), strict=True))
    np.testing.assert_allclose(found["score"], detector.anomaly_score(TEST), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["p_value"], detector.p_values(TEST), rtol=1e-12)
    np.testing.assert_array_equal(found["anomaly"], detector.predict(TEST) == -1)
    np.testing.assert_allclose(found["map"], detector.anomaly_map(TEST), atol=1e-3)
    none = session.run(["anomaly"], {**pixels, "threshold": np.array(1e9)})[0]
    assert not none.any()
    assert session.run(["score"], {"pixels": pixels["pixels"][:1]})[0].shape == (1,)


@pytest.mark.parametrize("n", [1, 3])
def test_unreadable_images_are_rows_with_an_error(model, tmp_path, n):
    detector, path = model
    (tmp_path / "bad.png").write_bytes(b"nothing")
    for k in range(n):
        Image.fromarray(TEST[k]).save(tmp_path / f"{k}.png")
    exported = load_exported(path)
    names = [str(tmp_path / "bad.png"), *(str(tmp_path / f"{k}.png") for k in range(n))]
    assert_same(detector, exported, names)
    assert next(iter(exported.inspect(names))).error is not None


# -- the command line ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_command(fit_by_command, tmp_path_factory, picture_folder):
    path = fit_by_command("part.mahalad", "--size", "128")
    out = tmp_path_factory.mktemp("onnx") / "part.onnx"
    done = run("export", path, "-o", out, "--check", picture_folder / "test")
    assert done.exit_code == 0, done.output
    assert "golden inputs: 2 images: scores differ by" in done.output
    assert "--check: 16 images: scores differ by" in done.output
    return path, out


def test_score_and_report_take_an_exported_model(by_command, picture_folder, tmp_path):
    path, exported = by_command
    rows = {}
    for name in (path, exported):
        out = tmp_path / f"{name.name}.jsonl"
        done = run("score", picture_folder / "test", "-m", name, "-o", out,
                   "--maps", tmp_path / name.suffix)  # fmt: skip
        assert done.exit_code == 0, done.output
        rows[name] = [json.loads(line) for line in out.read_text().splitlines()]
    for wanted, found in zip(*rows.values(), strict=True):
        assert found["score"] == pytest.approx(wanted["score"], rel=1e-4, abs=1e-4)
        for key in ("path", "threshold", "p_value", "anomaly", "in_fit"):
            assert found[key] == wanted[key]
        one, other = (np.asarray(Image.open(row["map"])).astype(int) for row in (wanted, found))
        assert np.abs(one - other).max() <= 1
    assert run("score", picture_folder / "test", "-m", exported, "--fdr", "0.1").exit_code == 0
    done = run("report", picture_folder / "test", "-m", exported, "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert "test_efficientnet" in (tmp_path / "page.html").read_text()
    assert "opset 17" in run("info", exported).output
    assert json.loads(run("info", exported, "--json").output)["scope"] == "positions"


def test_options_that_an_exported_model_has_within_are_refused(by_command, picture_folder):
    for option in (["--engine", "torch"], ["--device", "cpu"]):
        done = run("score", picture_folder / "test", "-m", by_command[1], *option)
        assert done.exit_code == 2 and f"leave out {option[0][2:]}" in done.output


def test_an_output_replaces_an_export_alone(by_command, tmp_path):
    path, exported = by_command
    again = shutil.copy(exported, tmp_path / "again.onnx")
    assert run("export", path, "-o", again).exit_code == 0
    shutil.copy(path, tmp_path / "model.onnx")
    done = run("export", path, "-o", tmp_path / "model.onnx", "--force")
    assert done.exit_code == 2 and "not a model of `export`" in done.output
    assert run("export", path, "-o", path).exit_code == 2


@pytest.mark.parametrize("opset", [16, 9, 99])
def test_opsets_out_of_reach(by_command, tmp_path, opset):
    done = run("export", by_command[0], "-o", tmp_path / "x.onnx", "--opset", opset)
    assert done.exit_code == 2 and f"opset {opset} is too" in done.output
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("opset", [18, 20])
def test_newer_opsets(model, tmp_path, opset):
    export(model[0], tmp_path / "x.onnx", opset=opset)
    assert_same(model[0], load_exported(tmp_path / "x.onnx"), TEST)


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_export_without_a_package_says_how_to_install_it(model, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'pip install "mahalad\[onnx\]"'):
        export(model[0], tmp_path / "x.onnx")
    if package == "onnxruntime":
        with pytest.raises(MissingExtraError, match="pip install onnxruntime"):
            load_exported(model[1])


@pytest.mark.parametrize("place", [100, -3000, -200, -30])
def test_an_edited_file_is_refused(model, tmp_path, place):
    content = bytearray(model[1].read_bytes())
    content[place] ^= 1
    (tmp_path / "edited").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"damaged, or was edited|changed by another"):
        load_exported(tmp_path / "edited")


@pytest.mark.parametrize("length", [0, 10, 5000, -1, -100])
def test_a_truncated_file_is_refused(model, tmp_path, length):
    (tmp_path / "cut.onnx").write_bytes(model[1].read_bytes()[:length])
    with pytest.raises(ModelFileError, match="cut short"):
        load(tmp_path / "cut.onnx")


def test_other_files_are_refused(model, tmp_path, small_weights):
    with pytest.raises(ModelFileError, match="no such model file"):
        load_exported(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="not a model of `mahalad export`"):
        load_exported(small_weights)
    plain = onnx.load(model[1])
    del plain.metadata_props[:]
    (tmp_path / "plain.onnx").write_bytes(sealed(plain.SerializeToString()))
    with pytest.raises(ModelFileError, match="an ONNX model, but not one of mahalad"):
        load_exported(tmp_path / "plain.onnx")
    (tmp_path / "nonsense.onnx").write_bytes(sealed(b"nonsense"))
    with pytest.raises(ModelFileError, match=r"onnxruntime .* cannot open it"):
        load_exported(tmp_path / "nonsense.onnx")


def changed_record(path, change):
    """An export whose record was changed, with a new checksum."""
    found = onnx.load(path)
    entry = next(entry for entry in found.metadata_props if entry.key == KEY)
    record = json.loads(entry.value)
    change(record)
    entry.value = json.dumps(record)
    del [e for e in found.metadata_props if e.key != KEY][:]
    return sealed(found.SerializeToString())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda record: record.update(format_version=99), "exported in format 99 .* pip install"),
        (lambda record: record.pop("images"), "the record of the model is damaged"),
        (lambda record: record.update(fpr=3), "fpr must be"),
        (lambda record: record["fit"].update(keys={}), "an array of the record is damaged"),
        (lambda record: record["golden"].update(scores=[1.0, 2.0]),
         r"its check inputs give \[.*\] instead of \[1.0, 2.0\]"),
    ],
)  # fmt: skip
def test_a_record_that_is_odd(model, tmp_path, change, text):
    (tmp_path / "odd.onnx").write_bytes(changed_record(model[1], change))
    with pytest.raises((ModelFileError, InputError), match=text):
        load_exported(tmp_path / "odd.onnx")


def test_pixels_of_another_shape_or_type(model):
    session = load_exported(model[1]).features_.session
    good = np.zeros((2, 3, 128, 128), np.uint8)
    assert session.run(good)["score"].shape == (2,)
    for odd in (good[0], good[:, :, :64], good.transpose(0, 2, 3, 1), good.astype(np.float64),
                good.astype(np.int32)):  # fmt: skip
        with pytest.raises(InputError, match=r"takes pixels of shape \(n, 3, 128, 128\), of uint8"):
            session.run(odd)
    with pytest.raises(InputError, match=r"float32 must be in \[0, 1\]"):
        session.run(good.astype(np.float32) + 2)
    with pytest.raises(InputError, match="knows no boxes"):
        session.run(good, np.zeros((2, 4), np.float32))


def test_boxes_are_needed_of_padded_pictures(fitted, tmp_path):
    detector = fitted([image[:44] for image in GOOD], resize="pad")
    export(detector, tmp_path / "part.onnx")
    session = load_exported(tmp_path / "part.onnx").features_.session
    with pytest.raises(InputError, match="needs the boxes of padded pictures"):
        session.run(np.zeros((2, 3, 64, 64), np.uint8))
    with pytest.raises(InputError, match=r"takes boxes of shape \(2, 4\), got \(1, 4\)"):
        session.run(np.zeros((2, 3, 64, 64), np.uint8), np.zeros((1, 4)))


def test_models_that_cannot_be_exported(small_weights, tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 4))
    common = {"weights": small_weights, "input_size": 64}
    features = BackboneFeatures("test_efficientnet", **common)
    turned = BackboneFeatures("test_efficientnet", resize="pad", orientations=4, **common)
    for detector, text in [
        (AnomalyDetector(fpr=0.1).fit(rows), "with no network cannot be exported"),
        (AnomalyDetector(features, LevelSum(OneClassSVM()), fpr=0.1).fit(GOOD[:12]),
         "whose scorer is OneClassSVM.* cannot be exported: Gaussians can"),
        (MetricKNNClassifier(n_neighbors=1, novelty_fpr=0.5).fit(rows, ["a", "b"] * 15),
         "a MetricKNNClassifier with no encoder cannot be exported"),
        (AnomalyDetector(turned, fpr=0.1).fit(GOOD[:12]), "several orientations of padded"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=text):
            export(detector, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_an_export_that_says_something_else_is_not_written(model, tmp_path, monkeypatch):
    import copy

    class Odd(writing.Graph):
        def forward(self, *given):
            _score, *rest = super().forward(*given)
            levels = rest[0] * 1.01
            return (levels.sum(dim=1), levels, *rest[1:])

    monkeypatch.setattr(writing, "Graph", Odd)
    monkeypatch.setattr(OnnxDetector, "check_golden", lambda self: self)
    with pytest.raises(ModelFileError, match="not say what the detector says of golden inputs"):
        export(copy.deepcopy(model[0]), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_arrays_of_a_record():
    for array in (np.arange(6.0).reshape(2, 3), np.array([2**63], np.uint64), np.zeros(0, bool)):
        found = decode(json.loads(json.dumps(encode(array))), "file")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    with pytest.raises(ModelFileError, match="an array of the record is damaged"):
        decode({"dtype": "|O", "shape": [0], "base64": ""}, "file")


# -- without torch -------------------------------------------------------------------------

_FORBIDDEN = ("torch", "timm", "sklearn", "scipy", "safetensors", "onnx", "click", "matplotlib",
              "threadpoolctl", "tqdm")  # fmt: skip
_ALONE = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Forbid())
import json
from mahalad.runtime import load
from mahalad.report.rows import row_of
model = load({path!r})
model.set_fpr(0.2)
rows = [row_of(result) for result in model.inspect({images!r}, maps=True)]
print(json.dumps([rows, model.anomaly_map({images!r}).shape, model.predict({images!r}).tolist()]))
"""


def test_the_runtime_needs_numpy_pillow_and_onnxruntime_alone(model, picture_folder):
    detector, path = model
    images = str(picture_folder / "test")
    code = _ALONE.format(forbidden=_FORBIDDEN, path=str(path), images=images)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, shape, verdicts = json.loads(done.stdout)
    detector = load_detector(detector).set_fpr(0.2)
    assert shape == [16, 128, 128] and verdicts == detector.predict(images).tolist()
    for row, result in zip(rows, detector.inspect(images), strict=True):
        wanted = row_of(result)
        assert row.pop("score") == pytest.approx(wanted.pop("score"), rel=1e-4, abs=1e-4)
        assert row == wanted


@pytest.mark.slow
def test_in_an_environment_without_torch(model, picture_folder, tmp_path):
    """As docs/export.md says: three packages, and this one without its dependencies."""
    root = Path(__file__).parents[1]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "mahalad", tmp_path / "mahalad")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [python, "-m", "pip", "install", "--quiet"]
    done = subprocess.run([*install, "numpy", "pillow", "onnxruntime"], capture_output=True)
    if done.returncode:
        pytest.skip("no package index to install the runtime from")
    subprocess.run([*install, "--no-deps", tmp_path], capture_output=True, check=True)
    images = str(picture_folder / "test")
    code = _ALONE.format(forbidden=(), path=str(model[1]), images=images)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code + "\nprint(sorted(sys.modules))"], env=environment,
                          capture_output=True, text=True, cwd=tmp_path / "venv")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, modules = done.stdout.splitlines()
    assert not set(_FORBIDDEN) & set(ast.literal_eval(modules))
    wanted = load_detector(model[0]).set_fpr(0.2).predict(images).tolist()
    assert json.loads(answer)[2] == wanted


def test_a_threshold_that_needs_more_says_so(fitted, tmp_path):
    export(fitted(threshold="chi2"), tmp_path / "part.onnx")
    code = _ALONE.format(forbidden=_FORBIDDEN, path=str(tmp_path / "part.onnx"), images="none")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "its threshold (chi2) needs the package" in done.stderr
    assert "pip install scipy scikit-learn" in done.stderr


def test_exports_are_known(model, tmp_path, small_weights):
    assert is_export(model[1]) and is_export(tmp_path / "x.onnx") and not is_export(small_weights)
    assert isinstance(load(model[1]), OnnxDetector)


@pytest.mark.parametrize("name", ["other.onnx", "other.xml", "other.bin"])
def test_a_model_is_read_whatever_its_name(fitted, tmp_path, name):
    detector = fitted()
    detector.save(tmp_path / name)
    again = load(tmp_path / name)
    np.testing.assert_allclose(again.anomaly_score(TEST), detector.anomaly_score(TEST), rtol=1e-6)
    assert run("info", tmp_path / name).exit_code == 0
    with pytest.raises(
        ModelFileError, match=r"a model of `mahalad fit` or `tune`, not an exported"
    ):
        load_exported(tmp_path / name)


def test_no_export_ends_as_weights_of_openvino(model, tmp_path):
    with pytest.raises(InputError, match=r"part\.bin: ends as the weights of an OpenVINO model"):
        export(model[0], tmp_path / "part.bin")
    assert not list(tmp_path.iterdir())


def test_an_exported_model_is_neither_changed_nor_exported_again(
    by_command, picture_folder, tmp_path
):
    path = by_command[1]
    before = path.read_bytes()
    for arguments in (
        ("export", path, "-o", tmp_path / "again.onnx"),
        ("update", path, picture_folder / "test/good"),
        ("remove", path, picture_folder / "good/000.png"),
        ("merge", path, by_command[0], "-o", tmp_path / "both.mahalad"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert f"{path}: an exported model, which judges images" in result.stderr
    assert path.read_bytes() == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize("threads", [0, -1, 1.5, "a", True, 10**6])
def test_threads_are_checked(model, threads):
    with pytest.raises(InputError, match="threads must be None or a whole number from 1 to 1024"):
        load_exported(model[1], threads=threads)


def test_a_folder_is_no_model(tmp_path):
    for suffix in (".onnx", ".xml", ".mahalad"):
        folder = tmp_path / f"model{suffix}"
        folder.mkdir()
        for reads in (load, load_exported):
            with pytest.raises(ModelFileError, match="is a folder; a model is a file"):
                reads(folder)


def test_verdicts_at_the_threshold_are_counted_apart(model):
    parity = replace(compare(model[0], load_exported(model[1])), n_at_threshold=1)
    assert parity.holds and str(parity).endswith("verdicts changed: 0 (1 at the threshold itself)")


def test_a_score_that_is_the_threshold_does_not_count_and_is_said(model):
    class Asked:
        """A detector whose verdict on every image is another one, at the threshold."""

        def inspect(self, X, **options):
            found = load_exported(model[1]).inspect(X, **options)
            return [replace(r, threshold=r.score, anomaly=not r.anomaly) for r in found]

    parity = compare(Asked(), load_exported(model[1]), TEST)
    assert (parity.n_changed, parity.n_at_threshold) == (0, len(TEST)) and parity.holds

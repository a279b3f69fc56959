"""Models exported for OpenVINO: the two files say what the detector says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_picture, run

from mahalad import KNNDetector, MahalanobisDetector, load
from mahalad.errors import InputError, MissingExtraError, ModelFileError
from mahalad.export import export
from mahalad.export.checking import compare
from mahalad.files.openvino import sealed_pair
from mahalad.files.recognition import is_export, recognize
from mahalad.report.rows import row_of
from mahalad.runtime import load as load_exported

pytest.importorskip("openvino", reason='no openvino (pip install "mahalad[openvino]")')
pytest.importorskip("onnx", reason='no onnx (pip install "mahalad[openvino]")')

GOOD = [np.asarray(make_picture(seed)) for seed in range(24)]
TEST = [np.asarray(make_picture(seed, spot=seed % 2 == 0)) for seed in range(100, 106)]
REGION = np.zeros((64, 64), bool)
REGION[8:60, 4:50] = True


@pytest.fixture(scope="module")
def fitted(small_weights):
    def fit(kind=MahalanobisDetector, images=GOOD, **options):
        options = {"input_size": 64, "fpr": 0.1, "device": "cpu"} | options
        return kind("test_efficientnet", weights=small_weights, **options).fit(images)

    return fit


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    """A detector of positions, and its export."""
    detector = fitted(input_size=128)
    path = tmp_path_factory.mktemp("exported") / "part.xml"
    export(detector, path, format="openvino")
    return detector, path


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "image"},
        {"scope": "image", "reduction": "npca"},
        {"neighbourhood": 0, "roi": REGION, "input_size": 128},
        {"input_size": 64, "tiles": 2},
        {"kind": KNNDetector, "n_neighbors": 2},
    ],
    ids=lambda options: " ".join(options),
)
def test_scores_p_values_verdicts_and_maps_are_those_of_the_detector(fitted, options, tmp_path):
    detector = fitted(**options)
    done = export(detector, tmp_path / "part.xml", check_on=TEST)
    assert done.golden.holds and done.images.holds and done.images.p_value <= 1e-5
    assert done.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    exported = load_exported(tmp_path / "part.xml")
    assert exported.threshold_ == detector.threshold_
    assert compare(detector, exported, [*TEST, GOOD[0]]).holds  # one is of the fit


@pytest.mark.parametrize("neighbourhood", [0, "nearest"])
def test_padded_pictures_of_any_shape(fitted, neighbourhood, tmp_path):
    images = [image[:44] for image in GOOD]
    detector = fitted(images=images, resize="pad", neighbourhood=neighbourhood, input_size=128)
    tests = [image[:44] for image in TEST] + [TEST[0][:, :30], TEST[1][:, :50]]
    assert export(detector, tmp_path / "part.xml", check_on=tests).images.holds


def test_images_of_16_bits(model):
    import copy

    detector, path = model
    deep = [image.astype(np.uint16) * 257 + 77 for image in TEST[:3]]
    exported = load_exported(path).set_params(bits=16)
    assert compare(copy.deepcopy(detector).set_params(bits=16), exported, deep).holds


def test_the_commands_take_both_files_as_a_model(fit_by_command, picture_folder, tmp_path):
    path = fit_by_command("part.mahalad", "--scope", "image", "--size", "64")
    out = tmp_path / "part.xml"
    for _ in range(2):  # again: they are replaced
        done = run("export", path, "-o", out, "--check", picture_folder / "test")
        assert done.exit_code == 0, done.output
        assert "--check: 16 images: scores differ by" in done.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part.bin", "part.xml"]
    rows = {}
    for name in (path, out):
        done = run("score", picture_folder / "test", "-m", name, "--format", "jsonl")
        rows[name] = [json.loads(line) for line in done.stdout.splitlines()]
    for wanted, found in zip(*rows.values(), strict=True):
        assert found["score"] == pytest.approx(wanted["score"], rel=1e-4)
        for key in ("path", "p_value", "anomaly", "in_fit"):
            assert found[key] == wanted[key]
    assert "MahalanobisDetector" in run("info", out).output


def test_other_files_are_not_replaced(fit_by_command, tmp_path):
    path = fit_by_command("part.mahalad", "--scope", "image", "--size", "64")
    (tmp_path / "part.bin").write_bytes(b"\0mine")
    done = run("export", path, "-o", tmp_path / "part.xml", "--force")
    assert done.exit_code == 2 and "part.bin: is there already" in done.output
    weights = shutil.copy(path, tmp_path / "other.bin")
    done = run("export", weights, "-o", tmp_path / "other.xml")
    assert done.exit_code == 2 and "uses already" in done.output
    assert (tmp_path / "part.bin").read_bytes() == b"\0mine"


@pytest.mark.parametrize(
    ("name", "format", "text"),
    [
        ("part.onnx", "openvino", "the graph of an OpenVINO model ends in .xml"),
        ("part.xml", "onnx", "ends as a model of OpenVINO"),
        ("part.onnx", "tflite", "format must be"),
    ],
)
def test_a_name_of_another_format(model, tmp_path, name, format, text):
    with pytest.raises(InputError, match=text):
        export(model[0], tmp_path / name, format=format)


def test_without_openvino(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    for ask in (lambda: load_exported(model[1]), lambda: export(model[0], tmp_path / "x.xml")):
        with pytest.raises(MissingExtraError, match=r'pip install "mahalad\[openvino\]"'):
            ask()
    assert not any(tmp_path.iterdir())


def copied(model, folder):
    for suffix in (".xml", ".bin"):
        shutil.copy(model[1].with_suffix(suffix), folder)
    return folder / "part.xml"


@pytest.mark.parametrize(
    ("suffix", "change", "text"),
    [
        (".xml", lambda content: content.replace(b"pixels", b"pixelz", 1), "was edited"),
        (".xml", lambda content: content[:-1], "cut short"),
        (".xml", lambda content: content[:5000], "cut short"),
        (".bin", lambda content: content[:100] + b"?" + content[101:], "was edited"),
        (".bin", lambda content: content[:-100], "cut short"),
        (".bin", lambda content: b"", "cut short"),
    ],
)
def test_files_that_are_not_as_they_were_written(model, tmp_path, suffix, change, text):
    path = copied(model, tmp_path)
    changed = path.with_suffix(suffix)
    changed.write_bytes(change(changed.read_bytes()))
    with pytest.raises(ModelFileError, match=rf"{changed.name}: .*{text}"):
        load(path)


def test_weights_of_another_export_or_none(model, fitted, tmp_path):
    path = copied(model, tmp_path)
    export(fitted(scope="image"), tmp_path / "other.xml")
    shutil.copy(tmp_path / "other.bin", tmp_path / "part.bin")
    with pytest.raises(ModelFileError, match=r"part.bin: the weights of another export"):
        load_exported(path)
    (tmp_path / "part.bin").unlink()
    with pytest.raises(ModelFileError, match=r"part.bin: the weights of part.xml are missing"):
        load_exported(path)


def test_a_graph_of_another_origin(tmp_path):
    for path, content in zip(("x.xml", "x.bin"), sealed_pair(b"<net></net>", b""), strict=True):
        (tmp_path / path).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"OpenVINO .* cannot open it"):
        load_exported(tmp_path / "x.xml")
    with pytest.raises(ModelFileError, match="no such model file"):
        load_exported(tmp_path / "none.xml")
    with pytest.raises(ModelFileError, match=r"weights of an OpenVINO model: give .*x\.xml"):
        load_exported(tmp_path / "x.bin")


def test_files_are_known(model):
    for suffix in (".xml", ".bin"):
        assert is_export(model[1].with_suffix(suffix))
        assert recognize(model[1].with_suffix(suffix)).product == "export"


_ALONE = """
import sys
for name in ("torch", "timm", "sklearn", "scipy", "onnx", "onnxruntime", "click"):
    sys.modules[name] = None
import json
from mahalad.runtime import load
from mahalad.report.rows import row_of
model = load({path!r})
print(json.dumps([row_of(result) for result in model.inspect({images!r}, maps=True)]))
"""


def test_the_runtime_needs_numpy_pillow_and_openvino_alone(model, picture_folder):
    detector, path = model
    images = str(picture_folder / "test")
    code = _ALONE.format(path=str(path), images=images)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row, result in zip(json.loads(done.stdout), detector.inspect(images), strict=True):
        wanted = row_of(result)
        assert row.pop("score") == pytest.approx(wanted.pop("score"), rel=1e-4, abs=1e-4)
        assert row == wanted

"""Exported classifiers: embeddings by the graph, votes by the runtime, the same answers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_picture, run

from mahalad import BackboneFeatures, MetricKNNClassifier, load
from mahalad.errors import InputError, ModelFileError
from mahalad.export import export
from mahalad.export.checking import compare_labels
from mahalad.files.onnx import KEY, sealed
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.report.rows import row_of
from mahalad.runtime import OnnxClassifier
from mahalad.runtime import load as load_exported

pytest.importorskip("onnxruntime", reason='no onnxruntime (pip install "mahalad[onnx]")')
onnx = pytest.importorskip("onnx", reason='no onnx (pip install "mahalad[onnx]")')

IMAGES = [np.asarray(make_picture(seed, spot=seed % 3 == 0)) for seed in range(30)]
LABELS = ["spot" if seed % 3 == 0 else "good" for seed in range(30)]
TEST = [np.asarray(make_picture(seed, spot=seed % 2 == 0)) for seed in range(100, 106)]


@pytest.fixture(scope="module")
def fitted(small_weights):
    def fit(projection=None, labels=LABELS, images=IMAGES, encoder=(), **options):
        features = BackboneFeatures(
            "test_efficientnet", weights=small_weights, input_size=64, device="cpu", **dict(encoder)
        )
        options = {"n_neighbors": 3, "novelty_fpr": 0.2} | options
        return MetricKNNClassifier(features, projection, **options).fit(images, labels)

    return fit


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    classifier = fitted(TripletProjection(8, max_epochs=3, validation_fraction=0), positive="spot",
                        weights="distance", calibration_folds=2)  # fmt: skip
    classifier.set_operating_point(recall=0.9)
    path = tmp_path_factory.mktemp("exported") / "beans.onnx"
    export(classifier, path, check_on=TEST)
    return classifier, path


def assert_same(classifier, exported, X):
    parity = compare_labels(classifier, exported, X)
    assert parity.holds and parity.n == len(X), str(parity)
    for wanted, found in zip(classifier.inspect(X), exported.inspect(X), strict=True):
        row, expected = row_of(found), row_of(wanted)
        assert row.keys() == expected.keys()
        for name in ("path", "label", "novel", "anomaly", "p_value", "threshold"):
            assert row[name] == expected[name], name
        for name in ("score", "probability", "distance"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
        neighbours = [(near.path, near.label) for near in wanted.neighbours]
        assert [(near.path, near.label) for near in found.neighbours] == neighbours
    np.testing.assert_array_equal(exported.predict(X), classifier.predict(X))
    np.testing.assert_allclose(exported.predict_proba(X), classifier.predict_proba(X), atol=1e-3)


def test_answers_are_those_of_the_classifier(model):
    classifier, path = model
    exported = load_exported(path)
    assert isinstance(exported, OnnxClassifier) and isinstance(load(path), OnnxClassifier)
    assert_same(classifier, exported, TEST)
    assert exported.operating_point_ == classifier.operating_point_
    assert exported.novelty_threshold_ == classifier.novelty_threshold_
    assert len(exported.index_) == 30


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": "balanced", "labels": [int(label == "spot") for label in LABELS]},
        {"projection": TripletProjection(4, hidden=6, distance="cosine", max_epochs=2,
                                         validation_fraction=0), "calibration_folds": None},
        {"encoder": {"resize": "pad"}, "images": [image[:44] for image in IMAGES]},
        {"encoder": {"orientations": 4}, "distance": "cosine"},
        {"novelty_fpr": 0.001},
    ],
)  # fmt: skip
def test_all_kinds_of_classifiers(fitted, options, tmp_path):
    classifier = fitted(**options)
    done = export(classifier, tmp_path / "beans.onnx", check_on=TEST)
    assert done.golden.holds and "embeddings differ by" in str(done.images)
    exported = load_exported(tmp_path / "beans.onnx")
    assert_same(classifier, exported, TEST)
    assert exported.classes_.dtype.kind == classifier.classes_.dtype.kind


def test_for_openvino(model, tmp_path):
    pytest.importorskip("openvino", reason='no openvino (pip install "mahalad[openvino]")')
    export(model[0], tmp_path / "beans.xml", check_on=TEST)
    assert_same(model[0], load_exported(tmp_path / "beans.xml"), TEST)


def test_an_index_elsewhere_is_within_the_file(fitted, tmp_path):
    pytest.importorskip("qdrant_edge", reason='no qdrant-edge-py (pip install "mahalad[qdrant]")')
    classifier = fitted(index=str(tmp_path / "index"))
    classifier.remove([3, 4])
    export(classifier, tmp_path / "beans.onnx")
    exported = load_exported(tmp_path / "beans.onnx")
    assert exported.index_.counts() == classifier.index_.counts()
    assert_same(classifier, exported, TEST)
    classifier.index_.close()


def test_what_can_be_changed(model):
    exported = load_exported(model[1]).set_params(novelty_fpr=0.5, batch_size=2)
    assert exported.novelty_fpr == 0.5
    with pytest.raises(InputError, match="n_neighbors of an exported model cannot be changed"):
        exported.set_params(n_neighbors=2)
    with pytest.raises(InputError, match="no anomaly maps"):
        next(exported.inspect(TEST, maps=True))


def test_unreadable_images_are_rows_with_an_error(model, tmp_path):
    (tmp_path / "0.png").write_bytes(b"nothing")
    make_picture(5).save(tmp_path / "1.png")
    names = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    parity = compare_labels(model[0], load_exported(model[1]), names)
    assert parity.holds and (parity.n, parity.n_unreadable) == (1, 1)
    first, second = load_exported(model[1]).inspect(names)
    assert first.error is not None and second.label == "good"


def test_a_file_that_embeds_otherwise_is_refused(model, tmp_path):
    stored = onnx.load(model[1])
    entry = next(entry for entry in stored.metadata_props if entry.key == KEY)
    for change, text in [
        (lambda record: record["golden"].update(rtol=1e-12), "does not embed here as it did"),
        (lambda record: record["index"].pop("about"), "the record of the model is damaged"),
    ]:
        record = json.loads(entry.value)
        change(record)
        changed = onnx.ModelProto()
        changed.CopyFrom(stored)
        del changed.metadata_props[:]
        changed.metadata_props.add(key=KEY, value=json.dumps(record))
        (tmp_path / "odd.onnx").write_bytes(sealed(changed.SerializeToString()))
        with pytest.raises(ModelFileError, match=text):
            load_exported(tmp_path / "odd.onnx")


def test_the_commands_take_it_as_a_model(model, picture_folder, tmp_path):
    model[0].save(tmp_path / "beans.mahalad")
    out, images = tmp_path / "beans.onnx", picture_folder / "test"
    done = run("export", tmp_path / "beans.mahalad", "-o", out, "--check", images, "--fpr", "0.3")
    assert done.exit_code == 0, done.output
    assert "--check: 16 images: embeddings differ by" in done.output
    rows = []
    for name in (tmp_path / "beans.mahalad", out):
        done = run("score", images, "-m", name, "--fpr", "0.3", "--format", "csv")
        assert done.exit_code == 0, done.output
        rows.append([line.split(",")[0] + line.split(",")[-1] for line in done.stdout.splitlines()])
    assert rows[0] == rows[1]
    page = tmp_path / "page.html"
    assert run("report", images, "-m", out, "-o", page).exit_code == 0
    assert "test_efficientnet" in page.read_text()
    assert "30 labelled images" in run("info", out).output
    for option in (["--fdr", "0.1"], ["--maps", tmp_path / "maps"]):
        done = run("score", images, "-m", out, *option)
        assert done.exit_code == 2 and "classifier" in done.output


_ALONE = """
import sys
for name in ("torch", "timm", "sklearn", "scipy", "safetensors", "onnx", "click", "qdrant_client"):
    sys.modules[name] = None
import json
from mahalad.runtime import load
model = load({path!r})
print(json.dumps([result.label for result in model.inspect({images!r})]))
"""


def test_the_runtime_needs_numpy_pillow_and_onnxruntime_alone(model, picture_folder):
    images = str(picture_folder / "test")
    code = _ALONE.format(path=str(model[1]), images=images)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == model[0].predict(images).tolist()

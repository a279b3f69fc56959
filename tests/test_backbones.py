"""Levels and features of networks: published widths, and timm's own modules as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from conftest import register_patch14

import mahalad.features.backbones as backbones
from mahalad.errors import BackboneError, WeightsError
from mahalad.features.backbones import build_backbone
from mahalad.features.extractor import BackboneFeatures
from mahalad.features.folding import fold_batch_norms

# Channels of the nine levels, from the EfficientNet paper's width multipliers.
EFFICIENTNET_WIDTHS = {
    "tf_efficientnet_b0": [32, 16, 24, 40, 80, 112, 192, 320, 1280],
    "tf_efficientnet_b1": [32, 16, 24, 40, 80, 112, 192, 320, 1280],
    "tf_efficientnet_b2": [32, 16, 24, 48, 88, 120, 208, 352, 1408],
    "tf_efficientnet_b3": [40, 24, 32, 48, 96, 136, 232, 384, 1536],
    "tf_efficientnet_b4": [48, 24, 32, 56, 112, 160, 272, 448, 1792],
    "tf_efficientnet_b5": [48, 24, 40, 64, 128, 176, 304, 512, 2048],
    "tf_efficientnet_b6": [56, 32, 40, 72, 144, 200, 344, 576, 2304],
    "tf_efficientnet_b7": [64, 32, 48, 80, 160, 224, 384, 640, 2560],
    "tf_efficientnetv2_b0": [32, 16, 32, 48, 96, 112, 192, 1280],
    "resnet18": [64, 64, 128, 256, 512],
    "resnet50": [64, 256, 512, 1024, 2048],
    "wide_resnet50_2": [64, 256, 512, 1024, 2048],
}


@pytest.mark.parametrize("name", EFFICIENTNET_WIDTHS)
def test_published_level_widths(name):
    network = timm.create_model(name, pretrained=False)
    backbone = build_backbone(name, weights=network.state_dict(), input_size=32)
    pooled = backbone.extract(np.zeros((1, 32, 32, 3), np.uint8))
    assert [v.shape[1] for v in pooled.values()] == EFFICIENTNET_WIDTHS[name]


def test_native_sizes():
    for name, size in [
        ("tf_efficientnet_b4.aa_in1k", 380),
        ("tf_efficientnet_lite0", 224),
        ("tf_efficientnetv2_b0", 224),  # tested at 224, trained at 192
        ("resnet18.tv_in1k", 224),
        ("resnet18.a1_in1k", 288),  # likewise
    ]:
        state = timm.create_model(name, pretrained=False).state_dict()
        assert build_backbone(name, weights=state).input_size == size


def oracle_maps(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps by hooks on timm's own forward pass."""
    maps: list[torch.Tensor] = []
    modules = (
        [network.bn1, *network.blocks, network.bn2]
        if hasattr(network, "blocks")
        else [network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]
    )
    handles = [m.register_forward_hook(lambda _m, _i, out: maps.append(out)) for m in modules]
    with torch.inference_mode():
        network(x)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize(
    ("name", "n_norms"),
    [("test_efficientnet", 13), ("resnet18", 20), ("tf_efficientnetv2_b0", 59)],
)
def test_folding_changes_nothing_but_rounding(name, n_norms):
    torch.manual_seed(2)
    network = timm.create_model(name, pretrained=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.uniform_(-0.5, 0.5)
    network = network.double()  # rounding apart, the two must be the same function
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        before = network.forward_features(x)
        assert fold_batch_norms(network) == n_norms
        after = network.forward_features(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert float((after - before).abs().max() / before.abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet18"])
def test_features_are_float64_means_of_timms_own_maps(name, rng):
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False).eval()
    images = rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    backbone = build_backbone(name, weights=network.state_dict(), input_size=96)
    mean = np.array(backbone.mean)[:, None, None]
    std = np.array(backbone.std)[:, None, None]
    x = (images.transpose(0, 3, 1, 2) / 255.0 - mean) / std
    maps = oracle_maps(network.double(), torch.from_numpy(x))
    pooled = backbone.extract(images)
    assert len(pooled) == len(maps)
    for values, level in zip(pooled.values(), maps, strict=True):
        wanted = level.numpy().mean(axis=(2, 3))
        np.testing.assert_allclose(values, wanted, rtol=2e-4, atol=2e-5 * np.abs(wanted).max())


def test_float_images_equal_8_bit_ones(small_weights, rng):
    backbone = build_backbone("test_efficientnet", weights=small_weights, input_size=64)
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    a = backbone.extract(images)
    b = backbone.extract((images / 255).astype(np.float32))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_batch_size_order_and_threads_do_not_matter(small_weights, rng):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64).build()
    images = list(rng.integers(0, 256, (7, 64, 64, 3), dtype=np.uint8))
    whole = features.transform(images)
    single = [features.transform([image]) for image in images]
    backwards = features.transform(images[::-1])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_thread = features.transform(images)
    finally:
        torch.set_num_threads(n_threads)
    for name, values in whole.items():
        for other in (
            np.concatenate([s[name] for s in single]),
            backwards[name][::-1],
            one_thread[name],
        ):
            np.testing.assert_allclose(other, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        (None, ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("all", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("layer2", ["layer2"]),
        ([-1, "stem"], ["stem", "layer4"]),
        ([1, "layer1", 1], ["layer1"]),
        (0, ["stem"]),
    ],
)
def test_choosing_levels(levels, names):
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    chosen = build_backbone("resnet18", weights=state, levels=levels)
    assert list(chosen.level_names) == names
    images = np.zeros((1, 224, 224, 3), np.uint8)
    everything = build_backbone("resnet18", weights=state).extract(images)
    for name, values in chosen.extract(images).items():
        np.testing.assert_allclose(values, everything[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "layer9"}, "resnet18 has no level 'layer9'; it has stem, layer1"),
        ({"levels": [7]}, "has no level 7"),
        ({"levels": []}, "no level given"),
        ({"input_size": 4}, "input_size must be a whole number >= 8, got 4"),
        ({"input_size": 224.5}, "got 224.5"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not usable here"),
        ({"device": "abacus"}, "device 'abacus' is not usable here"),
        (
            {"device": "vulkan"},
            r"^device 'vulkan' is not usable here \(.{1,204}\); give",
        ),
    ],
)
def test_bad_options(options, message):
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    with pytest.raises(BackboneError, match=message):
        build_backbone("resnet18", weights=state, **options)


def test_networks_are_frozen_and_in_eval_mode(small_weights):
    backbone = build_backbone("test_efficientnet", weights=small_weights)
    assert not any(module.training for module in backbone.network.modules())
    assert not any(p.requires_grad for p in backbone.network.parameters())


def test_other_families_through_timms_intermediates():
    for name, n_levels in [
        ("test_vit", 6),
        ("convnext_atto", 4),
        ("mobilenetv3_small_050", 5),
        ("repvgg_a0", 5),
        ("selecsls42", 6),
    ]:
        network = timm.create_model(name, pretrained=False).eval()
        backbone = build_backbone(name, weights=network.state_dict())
        images = np.zeros((1, backbone.input_size, backbone.input_size, 3), np.uint8)
        pooled = backbone.extract(images)
        assert len(pooled) == n_levels
        assert all(v.ndim == 2 and np.isfinite(v).all() for v in pooled.values())


# -- maps ----------------------------------------------------------------------------------


def random_state(name, seed=1):
    register_patch14()
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False).state_dict()


def test_kept_weights_of_a_resized_network_are_used_again(rng):
    """Position embeddings of another input size have another shape than timm makes."""
    first = build_backbone("test_vit", weights=random_state("test_vit"), input_size=96)
    kept = {name: torch.from_numpy(value) for name, value in first.state().items()}
    images = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    again = build_backbone("test_vit", weights=kept, input_size=96)
    assert again.weights.sha256 == first.weights.sha256
    for name, values in first.extract(images).items():
        np.testing.assert_array_equal(again.extract(images)[name], values)
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 37, 64\) instead of \(1, 65, 64\)"):
        build_backbone("test_vit", weights=kept, input_size=128)


@pytest.mark.parametrize(
    ("name", "size", "names", "sides"),
    [
        # two of stride 16; stride 4 is averaged to stride 8
        (
            "tf_efficientnet_lite0",
            64,
            ["blocks.1", "blocks.2", "blocks.3", "blocks.4"],
            [8, 8, 4, 4],
        ),
        ("test_efficientnet", 64, ["blocks.1", "blocks.2", "blocks.3"], [8, 8, 4]),
        ("resnet18", 64, ["stem", "layer1", "layer2", "layer3"], [8, 8, 8, 4]),
        ("test_resnet", 64, ["stem", "layer1", "layer2", "layer3"], [8, 8, 8, 4]),
        # all blocks of one stride: half and three quarters deep
        ("test_vit", 160, ["blocks.3", "blocks.4"], [10, 10]),
        # no stride of 4, 8 or 16
        ("patch14_of_tests", 140, ["blocks.3", "blocks.4"], [10, 10]),
        ("vit_small_patch14_reg4_dinov2", 42, ["blocks.6", "blocks.9"], [3, 3]),
        ("convnext_atto", 64, ["stages.0", "stages.1", "stages.2"], [8, 8, 4]),
    ],
)
def test_levels_of_maps_chosen_by_stride(name, size, names, sides):
    for maps in ("auto", None):
        chosen = build_backbone(
            name, weights=random_state(name), levels=(), maps=maps, input_size=size
        )
        found = chosen.extract(np.zeros((1, size, size, 3), np.uint8))
        assert chosen.level_names == ()
        assert list(found) == [f"maps/{n}" for n in chosen.map_names]
        assert list(chosen.map_names) == names
        assert [v.shape[1:3] for v in found.values()] == [(s, s) for s in sides]


def test_pooled_and_mapped_levels_are_chosen_apart(small_weights):
    chosen = build_backbone(
        "test_efficientnet", weights=small_weights, levels=[-1], maps=["blocks.2", 0]
    )
    assert (chosen.level_names, chosen.map_names) == (("head",), ("stem", "blocks.2"))
    both = build_backbone("test_efficientnet", weights=small_weights, levels="stem", maps="stem")
    assert (both.level_names, both.map_names) == (("stem",), ("stem",))
    with pytest.raises(BackboneError, match=r"has no level 'layer1'; it has stem, blocks\.0"):
        build_backbone("test_efficientnet", weights=small_weights, maps=["layer1"])
    with pytest.raises(BackboneError, match="at 24 px has no feature map of at least 2 x 2"):
        build_backbone("test_efficientnet", weights=small_weights, maps="auto", input_size=24)


def averaged(x):
    """Mean over each position and its neighbours, those beyond the edge not counted: loops."""
    h, w = x.shape[2:]
    found = np.empty_like(x)
    for i in range(h):
        for j in range(w):
            around = x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            found[:, :, i, j] = around.mean(axis=(2, 3))
    return found


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet18"])
def test_maps_are_timms_own_averaged_projected_and_on_a_bounded_grid(name, rng):
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False).eval()
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    backbone = build_backbone(name, weights=network.state_dict(), maps="all", input_size=64)
    mean = np.array(backbone.mean)[:, None, None]
    std = np.array(backbone.std)[:, None, None]
    x = (images.transpose(0, 3, 1, 2) / 255.0 - mean) / std
    own = oracle_maps(network.double(), torch.from_numpy(x))
    found = backbone.extract(images)
    for level, raw in zip(backbone.map_names, own, strict=True):
        raw = raw.numpy()
        smooth = averaged(raw)
        np.testing.assert_allclose(
            smooth,
            torch.nn.functional.avg_pool2d(
                torch.from_numpy(raw), 3, stride=1, padding=1, count_include_pad=False
            ),
            rtol=1e-12,
        )
        side = smooth.shape[2]
        if side > 8:  # 64 pixels / 8: blocks of positions are averaged
            k = side // 8
            smooth = smooth.reshape(2, -1, 8, k, 8, k).mean(axis=(3, 5))
        want = smooth.transpose(0, 2, 3, 1)
        if want.shape[-1] > 128:
            want = want @ backbone._projections[level].numpy().astype(float)
        values = found[f"maps/{level}"]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, want, rtol=3e-4, atol=2e-5 * np.abs(want).max())
        pooled = raw.mean(axis=(2, 3))
        np.testing.assert_allclose(
            found[level], pooled, rtol=2e-4, atol=2e-5 * np.abs(pooled).max()
        )


def test_projections_are_orthonormal_and_the_same_every_time():
    state, other = random_state("resnet18"), random_state("resnet18", seed=2)
    first, again, elsewhere = (
        build_backbone("resnet18", weights=weights, levels=(), maps="all", input_size=size)
        for weights, size in ((state, 64), (state, 64), (other, 96))
    )
    assert list(first._projections) == ["layer3", "layer4"]  # 256 and 512 channels
    for name, basis in first._projections.items():
        n_channels = {"layer3": 256, "layer4": 512}[name]
        assert basis.shape == (n_channels, 128)
        np.testing.assert_allclose(basis.T.double() @ basis.double(), np.eye(128), atol=1e-6)
        np.testing.assert_array_equal(basis, again._projections[name])
        np.testing.assert_array_equal(basis, elsewhere._projections[name])
    single = build_backbone("resnet18", weights=state, levels=(), maps="layer3", input_size=64)
    np.testing.assert_array_equal(single._projections["layer3"], first._projections["layer3"])
    np.testing.assert_allclose(  # pinned: stored models depend on it
        first._projections["layer3"][:2, :2],
        [[-0.0076774, -0.0089916], [0.0347169, -0.0689961]],
        atol=1e-6,
    )


def test_maps_do_not_change_what_is_pooled_nor_levels_the_maps(small_weights, rng):
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    options = {"weights": small_weights, "input_size": 64}
    plain = build_backbone("test_efficientnet", **options).extract(images)
    both = build_backbone("test_efficientnet", maps="auto", **options)
    alone = build_backbone("test_efficientnet", levels=(), maps="auto", **options)
    found = both.extract(images)
    assert list(found) == [*plain, *alone.extract(images)]
    for name, values in (plain | alone.extract(images)).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_unpooled_maps_and_weights_give_what_is_pooled(small_weights, rng):
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    roi = np.zeros((64, 64), bool)
    roi[5:40, 9:50] = True  # cuts through positions: these count by their share
    backbone = build_backbone("test_efficientnet", weights=small_weights, input_size=64)
    for region in (None, roi):
        pooled = backbone.extract(images, region)
        for name, (maps, weights) in backbone.unpooled(images, region).items():
            h, w = weights.shape
            share = np.ones((h, w))
            if region is not None:
                share = region.reshape(h, 64 // h, w, 64 // w).mean(axis=(1, 3))
            np.testing.assert_allclose(weights, share / share.sum(), rtol=1e-5)
            want = (maps.astype(float) * weights).sum(axis=(2, 3))
            scale = np.abs(maps).max()
            np.testing.assert_allclose(pooled[name], want, rtol=1e-4, atol=1e-6 * scale)


def test_the_largest_maps_are_on_a_grid_of_an_eighth_of_the_size(small_weights):
    for size in (64, 100):
        backbone = build_backbone(
            "test_efficientnet", weights=small_weights, levels=(), maps="stem", input_size=size
        )
        values = backbone.extract(np.zeros((1, size, size, 3), np.uint8))["maps/stem"]
        assert values.shape[1:3] == (size // 8, size // 8)
    assert (backbones.FINEST_STRIDE, backbones.MAX_MAP_FEATURES) == (8, 128)

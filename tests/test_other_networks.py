"""ViTs of any patch, and weights that end below the last level: from fit to the model file."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import make_picture, register_patch14, run
from safetensors.torch import save_file

from mahalad import MahalanobisDetector, load
from mahalad.errors import BackboneError, InputSizeWarning, ModelFileError, WeightsError
from mahalad.features.backbones import build_backbone
from mahalad.files.container import read_header

GOOD = [make_picture(seed) for seed in range(20)]
ODD = make_picture(300, spot=True)


def weights_below(tmp_path, network, *left_out):
    """Random weights of a network, in a file, without those below some of its modules."""
    torch.manual_seed(0)
    state = timm.create_model(network, pretrained=False).state_dict()
    path = tmp_path / f"{network}.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith(left_out)}, path)
    return path


def test_networks_of_patches_of_14_pixels_work_as_they_come(patch14, tmp_path):
    detector = MahalanobisDetector("patch14_of_tests", weights=patch14, tolerate=())
    with pytest.warns(InputSizeWarning, match="=320: patch14_of_tests has patches of 14 pixels"):
        detector.fit(GOOD)
    record = detector.features_.record()
    assert record["input_size"] == 322
    assert (record["levels"], record["maps"]) == (["blocks.5"], ["blocks.3", "blocks.4"])
    maps = detector.anomaly_map([ODD])
    assert maps.shape == (1, 322, 322)
    scores = detector.anomaly_score([*GOOD[:3], ODD])
    assert scores[3] > scores[:3].max()
    detector.save(tmp_path / "vit.mahalad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was taken was said by the fit
        loaded = load(tmp_path / "vit.mahalad")
    np.testing.assert_allclose(loaded.anomaly_score([*GOOD[:3], ODD]), scores, rtol=1e-6)
    np.testing.assert_allclose(loaded.anomaly_map([ODD]), maps, rtol=1e-5, atol=1e-6)
    loaded.partial_fit([make_picture(seed) for seed in range(50, 54)])
    assert loaded.n_images_ == 24


@pytest.mark.parametrize(
    ("name", "asked", "taken"),
    [
        ("patch14_of_tests", 98, 98),
        ("patch14_of_tests", 100, 98),
        ("patch14_of_tests", 106, 112),
        ("patch14_of_tests", 8, 14),
        ("test_vit", 100, 96),  # patches of 16
        ("test_efficientnet", 100, 100),
        ("convnext_atto", 100, 100),
    ],
)
def test_images_become_a_whole_number_of_patches(name, asked, taken):
    register_patch14()
    state = timm.create_model(name, pretrained=False).state_dict()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        backbone = build_backbone(name, weights=state, levels=-1, input_size=asked)
    assert (backbone.input_size, backbone.side) == (taken, taken)
    said = [str(one.message) for one in given if one.category is InputSizeWarning]
    assert len(said) == (asked != taken)
    assert all(f"input_size={asked}" in text and f"so {taken} is taken" in text for text in said)
    # No pixel is left over: the last row of the square counts.
    images = np.zeros((2, taken, taken, 3), np.uint8)
    images[1, -1] = 255
    plain, other = next(iter(backbone.extract(images).values()))
    assert not np.array_equal(plain, other)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
def test_position_embeddings_of_dino_networks_are_interpolated(name, rng):
    """As timm does that is made at that size, whose embeddings are resized by its own loading."""
    state = timm.create_model(name, pretrained=False).state_dict()
    patch = 14 if "14" in name else 16
    backbone = build_backbone(
        name, weights=dict(state), levels=["blocks.3"], maps=None, input_size=5 * patch
    )
    assert backbone.map_names == ("blocks.6", "blocks.9")
    images = rng.integers(0, 256, (1, 5 * patch, 5 * patch, 3), dtype=np.uint8)
    own = timm.create_model(name, pretrained=False, dynamic_img_size=True).eval()
    own.load_state_dict(state)
    with torch.inference_mode():
        want = own.forward_intermediates(
            backbone.normalised(images).cpu(), indices=[3], norm=False, intermediates_only=True
        )[0]
    assert want.shape[2:] == (5, 5)
    np.testing.assert_allclose(
        backbone.extract(images)["blocks.3"], want.mean(dim=(2, 3)), rtol=1e-3, atol=1e-4
    )


def test_the_command_line_takes_networks_of_patches(patch14, picture_folder, tmp_path):
    model = tmp_path / "vit.mahalad"
    network = ["--backbone", "patch14_of_tests", "--weights", patch14, "--size", "60"]
    fitted = run("fit", picture_folder / "good", "-o", model, *network)
    assert fitted.exit_code == 0, fitted.output
    assert "has patches of 14 pixels, so 56 is taken" in fitted.stderr
    scored = run("score", picture_folder / "test", "-m", model)
    assert scored.exit_code in (0, 1), scored.output
    assert "patches" not in scored.stderr
    assert len(scored.stdout.splitlines()) >= 16


def test_networks_that_cannot_take_a_size_say_so():
    state = timm.create_model("cait_xxs24_224", pretrained=False).state_dict()
    with pytest.raises(BackboneError, match=r"cannot take input_size=64 \(.*: give its own, 224"):
        build_backbone("cait_xxs24_224", weights=state, input_size=64)
    with pytest.raises(BackboneError, match="several intermediate features of this network one"):
        build_backbone("crossvit_9_240", weights=state)


# -- weights that end below the last level ---------------------------------------------------


def test_weights_up_to_the_highest_map_are_enough(tmp_path):
    weights = weights_below(tmp_path, "resnet18", "layer4", "fc")
    whole = tmp_path / "whole.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), whole)
    for levels, maps in (
        (["layer2", "layer3"], ["layer2", "layer3"]),
        (None, ["stem", "layer1", "layer2", "layer3"]),
        (["layer2"], ["layer2"]),
    ):
        detector = MahalanobisDetector(
            "resnet18", weights=weights, levels=levels, input_size=64, tolerate=()
        ).fit(GOOD)
        record = detector.features_.record()
        assert (record["levels"], record["maps"]) == (["layer3"], maps)
        scores = detector.anomaly_score([ODD])
        detector.save(tmp_path / "model.mahalad")
        np.testing.assert_allclose(
            load(tmp_path / "model.mahalad").anomaly_score([ODD]), scores, rtol=1e-6
        )
    # With more in the file, the image as a whole is judged by the network's last level, as ever.
    assert build_backbone("resnet18", weights=whole, levels="highest").level_names == ("layer4",)
    # A model without its weights takes them from a file that has more.
    detector.save(tmp_path / "slim.mahalad", include_weights=False)
    np.testing.assert_allclose(
        load(tmp_path / "slim.mahalad", weights=whole).anomaly_score([ODD]), scores, rtol=1e-6
    )
    torch.manual_seed(1)
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), whole)
    with pytest.raises(ModelFileError, match="weights_sha256 was"):
        load(tmp_path / "slim.mahalad", weights=whole)


@pytest.mark.parametrize(
    ("network", "left_out", "options", "message"),
    [
        (
            "resnet18",
            ("layer4", "fc"),
            {"scope": "image"},
            r"missing \(first: layer4.*end at level layer3\?.*--levels stem,layer1,layer2,layer3",
        ),
        ("resnet18", ("layer4", "fc"), {"levels": "layer4"}, r"end at level layer3\?"),
        (
            "resnet18",
            ("layer3", "layer4", "fc"),
            {},  # the usual maps
            r"missing \(first: layer3.*end at level layer2\?.*--levels stem,layer1,layer2\)",
        ),
        (
            "test_efficientnet",
            ("blocks.3", "blocks.4", "conv_head", "bn2", "classifier"),
            {"levels": ["blocks.2", "blocks.3"]},
            r"missing \(first: blocks\.3.*end at level blocks\.2\?",
        ),
        (
            "resnet18",
            ("layer1", "layer4"),
            {},
            r"missing \(first: layer1\.0.*together$",
        ),  # never below
        (
            "resnet18",
            ("layer4.1",),
            {},
            r"missing \(first: layer4\.1.*together$",
        ),  # a part of a level
        ("test_vit", ("blocks.5",), {"levels": "blocks.5"}, r"end at level blocks\.4\?"),
    ],
)
def test_weights_that_lack_more_are_refused(tmp_path, network, left_out, options, message):
    weights = weights_below(tmp_path, network, *left_out)
    detector = MahalanobisDetector(network, weights=weights, input_size=64, **options)
    with pytest.raises(WeightsError, match=message):
        detector.fit(GOOD)


def test_the_command_line_takes_weights_that_end_at_layer_3(tmp_path, picture_folder):
    weights, model = weights_below(tmp_path, "resnet18", "layer4", "fc"), tmp_path / "m.mahalad"
    network = ["--backbone", "resnet18", "--weights", weights, "--size", "64"]
    fit = ["fit", picture_folder / "good", "-o", model, *network, "--tolerate", "none"]
    fitted = run(*fit, "--levels", "layer2,layer3")
    assert fitted.exit_code == 0, fitted.output
    assert read_header(model)["features"]["levels"] == ["layer3"]
    refused = run(*fit, "--force", "--scope", "image")
    assert refused.exit_code == 2
    assert "--levels stem,layer1,layer2,layer3" in refused.stderr
    fitted = run(*fit, "--force", "--scope", "image", "--levels", "stem,layer1,layer2,layer3")
    assert fitted.exit_code == 0, fitted.output


# -- the shared weights ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "file", "options", "side"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224.fp16", {"input_size": 100}, 96),
        ("resnet18", "resnet18.layer3_features", {"levels": ["layer2", "layer3"]}, 96),
        ("resnet18", "resnet18.layer3_features", {}, 96),
    ],
)
@pytest.mark.filterwarnings("ignore::mahalad.errors.InputSizeWarning")
def test_shared_weights_find_a_spot(shared, tmp_path, network, file, options, side):
    weights = shared / "weights" / f"{file}.safetensors"
    if not weights.is_file():
        pytest.skip(f"no weights {weights}")
    options = {"input_size": 96, "tolerate": (), **options}
    detector = MahalanobisDetector(network, weights=weights, **options).fit(GOOD)
    assert detector.features_.record()["input_size"] == side
    assert detector.predict([ODD]).tolist() == [-1]
    where = np.unravel_index(detector.anomaly_map([ODD])[0].argmax(), (side, side))
    assert all(0.2 < place / side < 0.65 for place in where)  # the spot is at 0.33 to 0.5
    detector.save(tmp_path / "model.mahalad")
    np.testing.assert_allclose(
        load(tmp_path / "model.mahalad").anomaly_score([ODD]),
        detector.anomaly_score([ODD]),
        rtol=1e-6,
    )

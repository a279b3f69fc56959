"""Shared fixtures: seeds, small networks, small pictures, and the shared data where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import save_file

from mahalad.files.checksum import hash_content
from mahalad.files.container import CHECKSUM, read_model

SHARED = Path(os.environ.get("MAHALAD_SHARED", Path(__file__).parents[2] / "shared"))

DATA = Path(__file__).parent / "data"
"""Stored model files."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20201)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of shared data and weights; skips the test where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared data in {SHARED} (set MAHALAD_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, saved to a file, of timm's smallest EfficientNet (`test_efficientnet`)."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", pretrained=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that are not 0 and 1
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def patch14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, saved to a file, of a small ViT of patches of 14 pixels.

    It is one of timm's networks, as `patch14_of_tests`, while the tests run.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    register_patch14()
    torch.manual_seed(0)
    network = timm.create_model("patch14_of_tests", pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "patch14.safetensors"
    save_file(network.state_dict(), path)
    return path


def register_patch14() -> None:
    """Make `patch14_of_tests` one of timm's networks: as DINOv2's, but six blocks of 32 numbers."""
    import timm
    from timm.models import VisionTransformer, register_model

    if timm.is_model("patch14_of_tests"):
        return

    def patch14_of_tests(pretrained: bool = False, **options: Any) -> VisionTransformer:
        network = VisionTransformer(
            img_size=98, patch_size=14, embed_dim=32, depth=6, num_heads=2, num_classes=0,
            init_values=1e-2, reg_tokens=2,
        )  # fmt: skip
        config = {"input_size": (3, 98, 98), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        network.pretrained_cfg = {**config, "interpolation": "bicubic", "license": "none"}
        return network

    register_model(patch14_of_tests)


def make_picture(seed: int, *, side: int = 64, spot: bool = False) -> Image.Image:
    """A smooth picture of random light; a bright spot makes it abnormal."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 166, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    if spot:
        picture.paste((255, 255, 255), (side // 3, side // 3, side // 2, side // 2))
    return picture


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 good pictures in ``good``; 8 good and 8 abnormal ones in ``test``."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, seeds, spot in (
        ("good", range(40), False),
        ("test/good", range(100, 108), False),
        ("test/spot", range(200, 208), True),
    ):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            make_picture(seed, spot=spot).save(folder / name / f"{seed:03}.png")
    return folder


def run(*arguments: object) -> Result:
    """A command line of mahalad, run in this process."""
    from mahalad.cli import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fit_by_command(picture_folder, small_weights, tmp_path_factory):
    """Fit to a few pictures with a tiny network by the command line; gives the model file."""
    folder = tmp_path_factory.mktemp("models")

    def make(name, *options):
        network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
        path = folder / name
        result = run("fit", picture_folder / "good", "-o", path, *network, *options)
        assert result.exit_code == 0, result.output
        return path

    return make


def write_text(path: Path, header: str, arrays: dict[str, np.ndarray]) -> Path:
    """A model file with any text as its header; its checksum is right."""
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    checksum = {CHECKSUM: hash_content(header, arrays)}
    save_file(arrays | checksum, path, metadata={"mahalad": header})
    return path


def assert_same_entries(stored: Path, load: Callable[[Path], Any], again: Path) -> None:
    """What a stored model file is, once loaded and saved: the same entries of header and arrays."""
    load(stored).save(again)
    (header, arrays), (found_header, found) = read_model(stored), read_model(again)
    assert keys_of(found_header) == keys_of(header)
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        name: (a.dtype, a.shape) for name, a in arrays.items()
    }
    for name, array in arrays.items():
        if name == "held_out/checksums" and not array.any():
            continue  # an older file has none
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def keys_of(value: Any) -> Any:
    """The keys of nested mappings, in their order."""
    return [(k, keys_of(v)) for k, v in value.items()] if isinstance(value, dict) else None

"""A few images at a time through the network, each few on a thread of their own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mahalad import BackboneFeatures
from mahalad.features.backbones import Backbone, build_backbone
from mahalad.features.threads import extract_in_parts, parts_of


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_images", "side", "sizes"),
    [
        (32, 320, [2] * 16),
        (7, 320, [2, 2, 2, 1]),
        (4, 320, [2, 2]),
        (3, 320, [1, 1, 1]),
        (2, 320, [2]),  # fewer than threads: these share each layer
        (1, 960, [1]),
        (6, 960, [1] * 6),
        (32, 224, [4] * 8),
        (32, 64, [11, 11, 10]),  # each thread has some
    ],
)
def test_parts(three_threads, n_images, side, sizes):
    parts = parts_of(n_images, side)
    assert [rows.stop - rows.start for rows in parts] == sizes
    assert np.concatenate([np.arange(n_images)[rows] for rows in parts]).tolist() == [
        *range(n_images)
    ]


def test_parts_of_one_thread_stay_on_it(three_threads):
    torch.set_num_threads(1)
    assert len(parts_of(5, 320)) == 3
    where = extract_in_parts(lambda rows: {"thread": threading.get_ident()}, parts_of(5, 320))
    assert [found["thread"] for found in where] == [threading.get_ident()] * 3


def test_threads_are_held_to_one_each_and_no_others_are(three_threads):
    inside = extract_in_parts(lambda rows: {"n": torch.get_num_threads()}, parts_of(12, 320))
    assert [found["n"] for found in inside] == [1] * 6
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_part_is_raised(three_threads):
    def fail(rows):
        raise RuntimeError(f"at {rows.start}")

    with pytest.raises(RuntimeError, match="at 0"):
        extract_in_parts(fail, parts_of(12, 320))


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_features_are_those_of_each_image(three_threads, small_weights, rng, resize, monkeypatch):
    """Padded images have a region each, which goes with them."""
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, maps=["blocks.1"], input_size=64, resize=resize
    ).build()
    shapes = [(40, 64), (64, 30), (64, 64), (20, 64), (64, 50), (64, 64), (64, 8)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    passes, levels = [], Backbone.levels_of
    monkeypatch.setattr(
        Backbone, "levels_of", lambda self, x: passes.append(len(x)) or levels(self, x)
    )
    together = features.transform(images)
    assert sorted(passes) == [1, 3, 3]
    for i, image in enumerate(images):
        for name, values in features.transform([image]).items():
            np.testing.assert_allclose(together[name][i], values[0], rtol=1e-4, atol=1e-5)


def test_features_need_no_gradients(three_threads, small_weights, rng):
    """Threads do not inherit torch's modes."""
    backbone = build_backbone("test_efficientnet", weights=small_weights, input_size=64)
    seen, run = [], backbone.run
    backbone.run = lambda x: seen.append(torch.is_inference_mode_enabled()) or run(x)
    backbone.extract(rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    assert seen == [True] * 3

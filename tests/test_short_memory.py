"""Memory of a device that does not do for a whole batch: half of it goes on, said once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import make_picture

from mahalad import BackboneFeatures, KNNDetector
from mahalad.errors import BackboneError
from mahalad.features.backbones import Backbone
from mahalad.features.short_memory import WithinMemory, is_out_of_memory

PICTURES = [np.asarray(make_picture(seed)) for seed in range(20)]


@pytest.fixture
def roomy(monkeypatch):
    """Lets a number of images through the network at once, and logs how many were tried."""

    whole = Backbone.levels_of

    def let_through(n_images, error=torch.OutOfMemoryError):
        tried = []

        def levels_of(self, x):
            tried.append(len(x))
            if len(x) > n_images:
                raise error("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
            return whole(self, x)

        monkeypatch.setattr("mahalad.features.backbones.parts_of", lambda n, side: [slice(0, n)])
        monkeypatch.setattr(Backbone, "levels_of", levels_of)
        return tried

    return let_through


@pytest.fixture
def features(small_weights):
    def make(**options):
        options = {"maps": ["blocks.1"], "input_size": 64, "batch_size": 8} | options
        return BackboneFeatures("test_efficientnet", weights=small_weights, **options).build()

    return make


@pytest.mark.parametrize("resize", ["squash", "pad"])  # padded: each has a region of its own
def test_half_as_many_images_go_together_from_then_on(features, roomy, resize):
    extractor = features(resize=resize)
    images = [image[: 62 - 2 * i, :62] for i, image in enumerate(PICTURES)]
    wanted = extractor.transform(images)
    tried = roomy(3)
    with pytest.warns(UserWarning, match=r"out of memory on cpu with 8 images of 64 x 64") as said:
        found = extractor.transform(images)
    assert len(said) == 1 and "2 at once from now on" in str(said[0].message)
    assert "batch_size=2" in str(said[0].message)
    assert tried == [8, 4, *[2] * 10]
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_maps_of_levels_that_are_pooled(features, roomy, resize):
    extractor = features(resize=resize, maps=())
    prepared = [extractor.prepare(image) for image in PICTURES[:5]]
    wanted = extractor.unpooled(prepared)
    roomy(2)
    with pytest.warns(UserWarning, match="2 at once from now on"):
        found = extractor.unpooled(prepared)
    for name, (maps, weights) in wanted.items():
        np.testing.assert_allclose(found[name][0], maps, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[name][1], weights)


def test_a_fit_and_its_scores_go_on(small_weights, roomy):
    options = {"weights": small_weights, "input_size": 64, "fpr": 0.2, "batch_size": 8}
    wanted = KNNDetector("test_efficientnet", **options).fit(PICTURES)
    roomy(4)
    with pytest.warns(UserWarning, match="4 at once from now on"):
        found = KNNDetector("test_efficientnet", **options).fit(PICTURES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said at the fit
        results = list(found.inspect(PICTURES[::-1]))
    np.testing.assert_allclose(found.calibration_scores_, wanted.calibration_scores_, rtol=1e-4)
    assert [r.name for r in results] == [f"X[{i}]" for i in range(20)]


def test_memory_that_does_not_do_for_one_image_is_an_error(features, roomy):
    tried = roomy(0)
    with pytest.raises(BackboneError, match=r"single image of 64 x 64 pixels .*input_size"):
        features().transform(PICTURES[:3])
    assert tried == [3, 1]


def test_another_device_begins_with_all(features, roomy):
    extractor = features()
    roomy(4)
    with pytest.warns(UserWarning, match="4 at once from now on"):
        extractor.transform(PICTURES[:8])
    tried = roomy(8)
    extractor.device = "cpu:0"
    extractor.transform(PICTURES[:8])
    assert tried == [8]


def test_other_errors_are_raised(features, roomy):
    tried = roomy(4, RuntimeError)
    with pytest.warns(UserWarning, match="4 at once"):
        features().transform(PICTURES[:8])
    assert tried == [8, 4, 4]
    memory = WithinMemory()
    with pytest.raises(RuntimeError, match="illegal instruction"):
        memory.parts(fail("illegal instruction"), 4, "cuda:0", 64)
    assert memory.limit is None


def fail(text):
    def work(rows):
        raise RuntimeError(text)

    return work


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (Exception("[ONNXRuntimeError] BFCArena: Failed to allocate memory for buffer"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_engines_say_of_memory(error, is_one):
    assert is_out_of_memory(error) is is_one


def test_no_images_are_one_pass():
    assert WithinMemory().parts(lambda rows: rows, 0, "cpu", 64) == [slice(0, 0)]

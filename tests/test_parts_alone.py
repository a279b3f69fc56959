"""Parts used without a detector: a feature extractor takes images as everything else does."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

from mahalad import AnomalyDetector, BackboneFeatures
from mahalad.errors import ImageReadError, ImageValueError, InputError
from mahalad.images import iter_sources, open_image, resize_square
from mahalad.unfitted import NotFittedError

SIDE = 64


@pytest.fixture(scope="module")
def features(small_weights):
    return BackboneFeatures("test_efficientnet", weights=small_weights, input_size=SIDE).build()


@pytest.fixture(scope="module")
def padded(small_weights):
    network = {"backbone": "test_efficientnet", "weights": small_weights, "input_size": SIDE}
    return BackboneFeatures(**network, resize="pad").build()


def picture(seed=0):
    return np.array(make_picture(seed, side=100))[:70]


def saved(array, **options):
    """A picture as `Image.open` gives it."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return Image.open(file)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(np.rot90(picture()).copy(), exif=exif)


def with_alpha():
    return np.dstack([picture(), np.full((70, 100), 255, np.uint8)])


@pytest.mark.parametrize("resize", ["squash", "pad"])
@pytest.mark.parametrize(
    "make",
    [
        picture,
        lambda: Image.fromarray(picture()),
        lambda: saved(picture()),
        turned,
        with_alpha,
        lambda: Image.fromarray(with_alpha()),
        lambda: open_image(next(iter_sources([picture()]))),
        lambda: open_image(next(iter_sources([turned()]))),
        lambda: (picture() / 255).astype(np.float32),
        lambda: picture() / 255,
        lambda: picture().astype(np.uint16) * np.uint16(257),
    ],
)
def test_prepare_takes_images_in_memory(features, padded, resize, make):
    extractor = features if resize == "squash" else padded
    expected = extractor.prepare(open_image(next(iter_sources([picture()]))))
    assert len(np.unique(expected)) > 20
    found = extractor.prepare(make())
    assert found.shape == expected.shape
    scale = 1 if found.dtype == np.uint8 else 255
    np.testing.assert_allclose(found * float(scale), expected, atol=1.5)  # rounded twice


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("part.png", InputError, r"not str; a file is one by open_image\(next\(iter_sources\(path"),
        (None, InputError, "an image in memory is asked for .*, not NoneType"),
        ([picture()], InputError, "not list"),
        (picture().astype(np.float32), ImageValueError, r"values from \d+ to \d+; .*maximum \(255"),
        (np.full((4, 4), np.nan, np.float32), ImageValueError, "float values"),
        (picture().astype(np.int64), ImageValueError, "array of type int64; .*cast to uint8"),
        (picture().transpose(2, 0, 1), ImageValueError, r"channel-first: give array\.transpose"),
    ],
)
def test_prepare_refuses_what_is_no_image(features, image, error, message):
    with pytest.raises(error, match=message):
        features.prepare(image)


@pytest.mark.parametrize("values", [picture(), picture().astype(np.float32)])
def test_resizing_refuses_values_that_are_no_floats_of_a_picture(values):
    with pytest.raises(ImageValueError, match=r"allowed are .*floats in \[0, 1\]|allowed are fin"):
        resize_square(values, 8)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_transform_takes_images_as_everything_else_does(features, padded, tmp_path, resize):
    extractor = features if resize == "squash" else padded
    pictures = [picture(seed) for seed in range(3)]
    for i, one in enumerate(pictures):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"))
    expected = extractor.transform([extractor.prepare(one) for one in pictures])
    for X in (
        *(tmp_path, str(tmp_path), paths, [str(path) for path in paths], iter(paths)),
        *(pictures, np.stack(pictures), [Image.open(path) for path in paths]),
        [one / 255 for one in pictures],
    ):
        found = extractor.transform(X)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-2, atol=1e-3, err_msg=name)
    assert all(len(np.unique(values, axis=0)) == 3 for values in expected.values())


def test_transform_reads_more_images_than_a_batch(features):
    small = BackboneFeatures(**features.get_params() | {"batch_size": 2}).build()
    pictures = [picture(seed) for seed in range(5)]
    found, expected = small.transform(pictures), features.transform(pictures)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (["gone.png"], ImageReadError, r"^gone\.png: no such file"),
        ("gone", InputError, "^gone: no such file or folder"),
        ([], InputError, "^no images"),
        (None, InputError, "X is of type NoneType"),
        (picture(), InputError, r"give \[array\] for one image"),
        ([np.full((SIDE, SIDE, 3), 200, np.float32)], ImageValueError, "float values from 200 to"),
        ([np.zeros((SIDE, SIDE, 3), np.int32)], ImageValueError, "array of type int32"),
    ],
)
def test_transform_refuses_what_is_no_image(features, X, error, message):
    with pytest.raises(error, match=message):
        features.transform(X)


def test_before_build_there_is_no_network(small_weights):
    features = BackboneFeatures("test_efficientnet", weights=small_weights)
    for ask in (features.prepare, lambda image: features.transform([image])):
        with pytest.raises(NotFittedError, match=r"no network yet: call build\(\)"):
            ask(picture())


def test_a_detector_on_features_that_were_kept(features):
    good, new = ([picture(seed) for seed in range(a, b)] for a, b in ((0, 24), (50, 54)))
    images = AnomalyDetector(features, fpr=0.1).fit(good)
    kept = AnomalyDetector(fpr=0.1).fit(features.transform(good))
    np.testing.assert_allclose(
        kept.anomaly_score(features.transform(new)), images.anomaly_score(new), rtol=1e-3
    )

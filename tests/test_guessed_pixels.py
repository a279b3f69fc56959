"""Pixels whose meaning nothing states: how many of 16 bits are used, which colour comes first, and
alpha that nobody used."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mahalad import AnomalyDetector, BackboneFeatures, KNNDetector, MahalanobisDetector, load
from mahalad.errors import ImageReadError, ImageValueError, InputError
from mahalad.features.cache import CachedFeatures
from mahalad.images.decoding import open_image
from mahalad.images.pixels import Pixels
from mahalad.images.reading import read_batches
from mahalad.images.sources import ImageSource

GUESSED = "images stored in 16 bits never exceed"
SWAPPED = "normal with red and blue swapped"


def decode(value, **options):
    path = value if isinstance(value, Path) else None
    return np.asarray(open_image(ImageSource("part", path, value), Pixels(**options)))


def frames(seeds, *, spot=False):
    """Orange parts, uint8, as RGB."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        light = rng.normal(0, 6, (64, 64, 1)) + rng.normal(0, 4)
        image = np.array([210.0, 120.0, 40.0]) + light
        image[20:44, 16:48] -= (60, 10, -30)
        if spot:
            image[26:34, 24:32] = 0
        found.append(np.clip(image, 0, 255).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def options(small_weights):
    return {"backbone": "test_efficientnet", "weights": small_weights, "input_size": 64}


@pytest.fixture(scope="module")
def fitted(options):
    """A detector that was fitted to arrays of RGB."""
    return MahalanobisDetector(**options).fit(frames(range(30)))


def quiet(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


# -- the order of colours --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("n", [3, 4])
def test_arrays_of_blue_first_are_turned_and_alpha_stays(rng, dtype, n):
    rgb = rng.integers(0, 256, (5, 6, n)).astype(dtype)
    rgb = rgb / np.asarray(255, dtype) if dtype.startswith("f") else rgb * rgb.dtype.type(1)
    bgr = np.ascontiguousarray(rgb[:, :, [2, 1, 0, 3][:n]])
    np.testing.assert_array_equal(decode(bgr, channels="bgr"), decode(rgb))
    assert not np.array_equal(decode(bgr), decode(rgb))


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)])
def test_grey_arrays_have_no_order(rng, shape):
    grey = rng.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decode(grey, channels="bgr"), decode(grey))


@pytest.mark.parametrize("kind", ["file", "PIL image"])
def test_files_and_pil_images_state_their_order(tmp_path, rng, kind):
    picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    path = tmp_path / "part.png"
    picture.save(path)
    value = path if kind == "file" else picture
    np.testing.assert_array_equal(decode(value, channels="bgr"), np.asarray(picture))


def test_an_order_that_there_is_not(options):
    with pytest.raises(InputError, match="channels must be one of rgb, bgr, got 'gbr'"):
        MahalanobisDetector(**options, channels="gbr").fit(frames(range(6)))
    with pytest.raises(InputError, match="channels must be one of rgb, bgr, got 'BGR'"):
        KNNDetector(**options, channels="BGR").fit(frames(range(6)))
    with pytest.raises(InputError, match="channels must be one of rgb, bgr, got None"):
        BackboneFeatures(channels=None).build()


def of_opencv(images):
    return [np.ascontiguousarray(image[:, :, ::-1]) for image in images]


@pytest.mark.parametrize("kind", ["mahalanobis", "knn", "composed"])
def test_a_detector_of_blue_first_is_one_of_red_first(options, tmp_path, kind):
    """At fit, when asked, saved and loaded; for arrays alone."""

    def make(**more):
        if kind == "composed":
            return AnomalyDetector(BackboneFeatures(**options, **more))
        return {"mahalanobis": MahalanobisDetector, "knn": KNNDetector}[kind](**options, **more)

    good, new = frames(range(24)), frames(range(100, 104))
    plain = make().fit(good)
    turned = make(channels="bgr").fit(of_opencv(good))
    wanted = plain.anomaly_score(new)
    np.testing.assert_array_equal(turned.anomaly_score(of_opencv(new)), wanted)
    turned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.anomaly_score(of_opencv(new)), wanted, rtol=1e-5)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, new, strict=True):
        Image.fromarray(image).save(path)
    np.testing.assert_allclose(again.anomaly_score(paths), wanted, rtol=1e-5)
    assert len(plain.merge(turned).copies_) == 24  # the same features, of the same images


def test_the_order_may_be_said_after_a_fit_to_files(options, tmp_path):
    for i, image in enumerate(frames(range(12))):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    detector = MahalanobisDetector(**options, fpr=0.2).fit(tmp_path)
    new = frames(range(100, 103))
    wanted = detector.anomaly_score(new)
    found = detector.set_params(channels="bgr").anomaly_score(of_opencv(new))
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(InputError, match="channels must be one of"):
        detector.set_params(channels="grb").anomaly_score(new)


def test_features_alone_and_cached_know_the_order(options):
    new = [image[:50] for image in frames(range(3))]  # of another shape than prepared ones
    wanted = BackboneFeatures(**options).build().transform(new)
    turned = BackboneFeatures(**options, channels="bgr").build()
    for name, values in turned.transform(of_opencv(new)).items():
        np.testing.assert_array_equal(values, wanted[name])
    assert CachedFeatures(turned).pixels == Pixels(channels="bgr")
    np.testing.assert_array_equal(
        turned.prepare(of_opencv(new)[0]), BackboneFeatures(**options).build().prepare(new[0])
    )


# -- red and blue that have changed places are recognised --------------------------------------


def asked(detector, how, images):
    """What is said of a lot, by one of the ways to ask."""
    if how == "inspect":
        return {result.remark for result in detector.inspect(images)}
    if how == "stream":
        return {result.remark for result in detector.inspect(iter(images))}
    if how == "lot":
        lot = detector.judge_lot(images)
        assert lot.remark is None or lot.remark in str(lot)
        return {lot.remark}
    getattr(detector, how)(images)
    return set()


WAYS = ["inspect", "stream", "lot", "predict", "p_values", "anomaly_score"]


@pytest.mark.parametrize("how", WAYS)
def test_a_lot_of_opencv_says_what_it_is(fitted, how):
    with pytest.warns(UserWarning, match=rf"{SWAPPED}: .*OpenCV's order.*channels='bgr'") as found:
        remarks = asked(fitted, how, of_opencv(frames(range(100, 120))))
    assert len(found) == 1
    remarks -= {None} if how == "stream" else set()  # of the first few nothing is known yet
    assert all(SWAPPED in remark for remark in remarks)
    assert how not in ("inspect", "stream", "lot") or len(remarks) == 1


@pytest.mark.parametrize("how", WAYS)
def test_other_lots_say_nothing(fitted, how):
    grey = [np.repeat(image[:, :, :1], 3, axis=2) for image in frames(range(100, 110))]
    for images in (frames(range(100, 120)), frames(range(100, 120), spot=True), grey,
                   of_opencv(frames(range(100, 104)))):  # fmt: skip
        assert quiet(lambda images=images: asked(fitted, how, images)) <= {None}


def test_defects_among_swapped_images_do_not_hide_it(fitted):
    images = of_opencv([*frames(range(100, 112)), *frames(range(200, 202), spot=True)])
    with pytest.warns(UserWarning, match=SWAPPED):
        fitted.predict(images)


def test_red_first_where_blue_was_said(options):
    detector = MahalanobisDetector(**options, channels="bgr").fit(of_opencv(frames(range(30))))
    with pytest.warns(UserWarning, match=rf"{SWAPPED}: .*red first.*channels='rgb'"):
        detector.predict(frames(range(100, 110)))


def test_files_asked_of_a_fit_to_arrays_of_opencv(options, tmp_path):
    detector = MahalanobisDetector(**options).fit(of_opencv(frames(range(30))))
    for i, image in enumerate(frames(range(100, 110))):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match=rf"{SWAPPED}: .*fit again with channels='bgr'"):
        detector.predict(tmp_path)


def test_few_images_are_scored_once_more(options):
    detector = MahalanobisDetector(**options).fit(frames(range(30)))
    asked_of = []
    transform = detector.features_.transform
    detector.features_.transform = lambda prepared: (
        asked_of.append(len(prepared)) or transform(prepared)
    )
    n = 200
    blue = [np.full((64, 64, 3), (0, 0, 255), np.uint8) - i for i in range(n)]
    detector.predict(blue)
    assert sum(asked_of) <= n + 2 * 8


# -- bits ----------------------------------------------------------------------------------


def deep(seeds, bits, *, grey=False):
    """Parts as a camera of some bits has them in uint16."""
    images = [image.astype(np.float64) / 255 * (2**bits - 1) for image in frames(seeds)]
    images = [np.rint(image).astype(np.uint16) for image in images]
    return [image[:, :, 0] for image in images] if grey else images


def save(values, path):
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values, photometric="minisblack")
    return path


SOURCES = [
    "array",
    "colour array",
    "png",
    "tif",
    "miniswhite tif",
    "PIL image",
    "mode I",
    "int32 tif",
]


def stored(kind, values, folder):
    """Grey values of 16 bits, stored in one of the ways."""
    path = folder / "part.tif"
    if kind == "array":
        return values
    if kind == "colour array":
        return np.repeat(values[:, :, None], 3, axis=2)
    if kind == "png":
        return save(values, folder / "part.png")
    if kind == "tif":
        return save(values, path)
    if kind == "miniswhite tif":
        tifffile.imwrite(path, values, photometric="miniswhite")
        return path
    if kind == "int32 tif":
        return save(values.astype(np.int32), path)
    picture = Image.fromarray(values)
    return picture if kind == "PIL image" else picture.convert("I")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_bits_say_what_white_is(tmp_path, rng, kind, bits):
    white = 2**bits - 1
    values = rng.integers(0, white + 1, (6, 7)).astype(np.uint16)
    values[0, :2] = 0, white
    value = stored(kind, values, tmp_path)
    wanted = values / white if kind != "miniswhite tif" else 1 - values / white
    found = decode(value, bits=bits)
    np.testing.assert_allclose(found if found.ndim == 2 else found[:, :, 1], wanted, atol=1e-6)
    if bits < 16:
        with pytest.raises(ImageValueError, match=rf"part: values up to {white}, and of bits="):
            decode(value, bits=bits - 1)


@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_says_nothing_of_the_bits(opaque):
    """It has all 16 bits, or as many as the colours."""
    values = np.full((4, 5, 4), 4095, np.uint16)
    values[:, :, 0], values[:, :, 3] = 0, opaque
    found = decode(values, bits=12)
    np.testing.assert_allclose(found, np.broadcast_to([0.0, 1.0, 1.0], (4, 5, 3)), atol=1e-6)
    with pytest.warns(UserWarning, match=rf"{GUESSED} 4095 .*Give bits=12"):
        read([values])


@pytest.mark.parametrize("kind", ["P2", "P5"])
@pytest.mark.parametrize("maximum", [1000, 4095])
def test_a_stated_maximum_stays(tmp_path, kind, maximum):
    path = tmp_path / "part.pgm"
    values = np.array([[0, maximum // 2, maximum]])
    content = values.astype(">u2").tobytes()
    if kind == "P2":
        content = " ".join(map(str, values[0])).encode()
    path.write_bytes(f"{kind}\n3 1\n{maximum}\n".encode() + content)
    np.testing.assert_allclose(decode(path, bits=10), decode(path))
    assert decode(path).max() == 1


def test_a_tiff_of_12_bits_and_jpeg_2000_state_theirs(tmp_path):
    from test_stored_pixels import tiff

    path = tmp_path / "part.tif"
    path.write_bytes(tiff(np.arange(0, 4096, 39)[None, :104], 12, 1))
    np.testing.assert_array_equal(decode(path, bits=10), decode(path))
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 60_000, np.uint16)).save(buffer, "JPEG2000")
    with Image.open(buffer) as picture:
        assert decode(picture, bits=12).max() == pytest.approx(60_000 / 65535, abs=1e-3)


@pytest.mark.parametrize("bits", [10, 12])
def test_pictures_of_8_bits_and_floats_stay(rng, bits):
    for values in (rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), rng.random((5, 6, 3))):
        np.testing.assert_array_equal(decode(values, bits=bits), decode(values))


def colour_png(bits, alpha=False):
    """A PNG of 16 bits a channel, of which some are used."""
    from test_stored_pixels import COLOUR, COLOUR_ALPHA, png

    values = np.full((6, 7, 4 if alpha else 3), 2**bits - 1)
    values[:, :, 3:] = 65535
    return png(values, COLOUR_ALPHA if alpha else COLOUR, 16)


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_files_of_16_bits_have_lost_the_lower_ones(tmp_path, alpha):
    path = tmp_path / "part.png"
    path.write_bytes(colour_png(12, alpha))
    with pytest.raises(ImageValueError, match=r"part: stores 16 bits .* bits=12: give its pixels"):
        decode(path, bits=12)
    assert decode(path, bits=16).max() == 15


@pytest.mark.parametrize("bits", [0, 7, 17, 12.0, "12", True])
def test_bits_that_there_are_not(options, bits):
    with pytest.raises(InputError, match="bits must be None or a whole number from 8 to 16"):
        MahalanobisDetector(**options, bits=bits).fit(frames(range(6)))


def read(X, **options):
    batches = read_batches(X, np.asarray, batch_size=4, pixels=Pixels(**options))
    return [image for batch in batches for image in batch]


@pytest.mark.parametrize(
    ("used", "said"), [(8, 8), (9, 10), (10, 10), (12, 12), (13, 14), (14, 14)]
)
@pytest.mark.parametrize("kind", SOURCES)
def test_dark_lots_are_warned_of(tmp_path, kind, used, said):
    values = np.full((4, 5), 2**used - 1, np.uint16)
    value = stored(kind, values, tmp_path)
    with pytest.warns(UserWarning, match=rf"{GUESSED} {2**used - 1} .*Give bits={said}") as found:
        read([value, values // 2])
    assert len(found) == 1
    quiet(lambda: read([value], bits=16))


def test_dark_colour_files_are_warned_of(tmp_path):
    (tmp_path / "dark.png").write_bytes(colour_png(12, alpha=True))
    with pytest.warns(UserWarning, match=rf"{GUESSED} 4095 .*dark\.png.*Give bits=12"):
        read(tmp_path)


def test_what_comes_near_white_is_not_warned_of(rng):
    dark, bright = np.full((4, 5), 900, np.uint16), np.full((4, 5), 16384, np.uint16)
    quiet(lambda: read([dark, bright]))
    quiet(lambda: read([np.full((4, 5), 200, np.uint8), rng.random((4, 5))]))


def test_a_camera_that_never_ends_is_warned_of():
    def camera():
        while True:
            yield np.full((4, 5), 4000, np.uint16)

    batches = read_batches(camera(), np.asarray, batch_size=1)
    with pytest.warns(UserWarning, match=GUESSED) as found:
        _ = [next(batches) for _ in range(120)]
    assert len(found) == 1
    batches.close()


def folder_of(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        save(image, folder / f"{i:02}.png")
    return folder


def test_a_fit_of_12_bits_is_one_of_8(options, tmp_path):
    """Said at the fit, kept in the file, for files and arrays; values beyond are refused."""
    good = folder_of(tmp_path / "good", deep(range(20), 12, grey=True))
    detector = quiet(lambda: MahalanobisDetector(**options, bits=12).fit(good))
    detector.save(tmp_path / "model")
    again = load(tmp_path / "model")
    new = deep(range(100, 110), 12, grey=True)
    wanted = quiet(lambda: detector.anomaly_score(new))
    files = folder_of(tmp_path / "new", new)
    np.testing.assert_allclose(quiet(lambda: again.anomaly_score(files)), wanted, rtol=1e-5)
    full = deep(range(100, 110), 16, grey=True)
    with pytest.raises(ImageValueError, match=r"X\[0\]: values up to \d+, and of bits=12"):
        again.anomaly_score(full)
    np.testing.assert_allclose(again.set_params(bits=16).anomaly_score(full), wanted, rtol=0.02)
    results = list(load(tmp_path / "model").inspect([new[0], full[0], new[1]]))
    assert [result.error is None for result in results] == [True, False, True]


def test_fit_and_scoring_warn_of_dark_lots(options, tmp_path):
    good = folder_of(tmp_path / "good", deep(range(12), 12, grey=True))
    with pytest.warns(UserWarning, match=rf"{GUESSED} \d+ .*good.*Give bits=12"):
        detector = MahalanobisDetector(**options, fpr=0.2).fit(good)
    with pytest.warns(UserWarning, match=GUESSED):
        detector.predict(deep(range(100, 104), 12, grey=True))
    with pytest.warns(UserWarning, match=GUESSED):
        list(detector.inspect(deep(range(100, 104), 12)))
    with pytest.warns(UserWarning, match=r"4 images are of 8 bits, and all of the fit were stored"):
        detector.predict(frames(range(100, 104)))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", ["array", "png", "tif", "colour png"])
def test_16_bits_are_refused_by_a_fit_to_8_unless_told(fitted, tmp_path, kind, loaded):
    detector = fitted
    if loaded:
        fitted.save(tmp_path / "model", include_features=False)
        detector = load(tmp_path / "model")
    value = tmp_path / "deep.png"
    if kind == "colour png":
        value.write_bytes(colour_png(16))
    elif kind == "array":
        value = deep([100], 16)[0]
    else:
        value = save(deep([100], 16, grey=True)[0], value.with_suffix(f".{kind}"))
    good = frames([100])[0]
    first, second = detector.inspect([value, good])
    assert "is stored in 16 bits, and no image of the fit was: say how many" in first.error
    assert second.error is None
    with pytest.raises(ImageValueError, match=r"(deep\.\w+|X\[0\]): is stored in 16 bits"):
        detector.predict([value])
    try:
        told = detector.set_params(bits=16).anomaly_score([value])
    finally:
        detector.set_params(bits=None)
    assert np.isfinite(told).all()
    if kind == "array":
        np.testing.assert_allclose(told, detector.anomaly_score([good]), rtol=0.05)


def test_a_camera_of_8_bits_asks_a_model_of_16(options):
    detector = MahalanobisDetector(**options, fpr=0.2).fit(deep(range(12), 16))
    results = detector.inspect(frames([seed])[0] for seed in [*range(100, 110)] * 6)
    with pytest.warns(UserWarning, match="images are of 8 bits, and all of the fit were stored"):
        _ = [next(results) for _ in range(52)]
    results.close()


def test_16_bits_are_refused_by_a_fit_to_floats(options):
    images = [image / 255 for image in frames(range(12))]
    detector = MahalanobisDetector(**options, fpr=0.2).fit(images)
    with pytest.raises(ImageValueError, match="is stored in 16 bits"):
        detector.predict(deep([100], 12))
    quiet(lambda: detector.predict(frames([100])))


def test_several_depths_in_a_fit_are_said(options, tmp_path):
    eight, sixteen = frames(range(8)), deep(range(20, 28), 16)
    mixture = r"stored in several ways: 8-bit \(X\[0\]\), 16-bit \(X\[8\]\)"
    with pytest.warns(UserWarning, match=mixture):
        detector = MahalanobisDetector(**options, fpr=0.2).fit([*eight, *sixteen])
    detector.predict(sixteen[:1])  # it was fitted to such
    quiet(lambda: MahalanobisDetector(**options, bits=16, fpr=0.2).fit([*eight, *sixteen]))
    detector = MahalanobisDetector(**options, fpr=0.2).fit(eight)
    with pytest.warns(UserWarning, match=mixture.replace(r"X\[8", r"X\[0")):
        detector.partial_fit(sixteen)
    detector.save(tmp_path / "model")
    quiet(lambda: load(tmp_path / "model").partial_fit(frames([50])))  # it was said before
    other = MahalanobisDetector(**options, fpr=0.2).fit(sixteen)
    with pytest.warns(UserWarning, match="stored in several ways"):
        MahalanobisDetector(**options, fpr=0.2).fit(eight).merge(other)
    with pytest.warns(UserWarning, match="stored in several ways"):
        MahalanobisDetector(**options, threshold="holdout", fpr=0.2).fit(eight, calibration=sixteen)


def test_a_model_of_before_scores_16_bits_as_it_did(fitted, tmp_path):
    """Its file does not say how the images of the fit were stored."""
    import json

    from conftest import write_text

    from mahalad.files.container import CHECKSUM, read_model

    fitted.save(tmp_path / "model")
    header, arrays = read_model(tmp_path / "model")
    assert header["fit"].pop("depths") == {"8-bit": "X[0]"}
    for name in ("bits", "channels"):
        del header["params"][name]
    arrays.pop(CHECKSUM, None)
    older = load(write_text(tmp_path / "older", json.dumps(header), arrays))
    new = deep(range(100, 103), 16)
    np.testing.assert_allclose(
        older.anomaly_score(new), older.anomaly_score(frames(range(100, 103))), rtol=0.05
    )
    older.partial_fit(frames([60]))
    older.anomaly_score(new)  # still not known


# -- alpha -----------------------------------------------------------------------------------

UNUSED = "its alpha is 0 everywhere"


def alpha_picture(mode, alpha):
    if mode == "PA":
        picture = Image.new("P", (4, 3), 1)
        picture.putpalette([0, 0, 0, 90, 90, 90])
        picture.info["transparency"] = bytes([0, alpha])
        return picture.convert("PA")
    grey = mode == "LA"
    colour = Image.new("L", (4, 3), 90) if grey else Image.new("RGB", (4, 3), (90, 60, 30))
    picture = colour.convert(mode)
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA"])
def test_unused_alpha_of_pictures(mode):
    with pytest.warns(UserWarning, match=f"part: {UNUSED}"):
        found = decode(alpha_picture(mode, 0))
    np.testing.assert_array_equal(found[0, 0], (90, 60, 30) if mode == "RGBA" else (90, 90, 90))
    assert (quiet(lambda: decode(alpha_picture(mode, 1))) > 250).all()  # used, if hardly


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_unused_alpha_of_premultiplied_pictures(mode):
    picture = Image.new(mode, (4, 3), (90, 0) if mode == "La" else (90, 60, 30, 0))
    with pytest.warns(UserWarning, match=UNUSED):
        assert decode(picture)[0, 0, 0] == 90


@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
def test_unused_alpha_of_files(tmp_path, extension):
    path = tmp_path / f"part.{extension}"
    options = {"lossless": True, "exact": True} if extension == "webp" else {}
    alpha_picture("RGBA", 0).save(path, **options)
    with pytest.warns(UserWarning, match=f"part: {UNUSED}"):
        np.testing.assert_array_equal(decode(path)[0, 0], (90, 60, 30))


def test_unused_alpha_of_a_palette(tmp_path):
    path = tmp_path / "part.png"
    picture = Image.new("P", (4, 3), 1)
    picture.putpalette([0, 0, 0, 90, 60, 30])
    picture.save(path, transparency=bytes([0, 0]))
    with pytest.warns(UserWarning, match=UNUSED):
        np.testing.assert_array_equal(decode(path)[0, 0], (90, 60, 30))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_unused_alpha_of_arrays(dtype, channels):
    values = np.zeros((3, 4, 4), dtype)
    values[:, :, :3] = 1
    with pytest.warns(UserWarning, match=f"part: {UNUSED}"):
        found = decode(values, channels=channels)
    white = {"uint8": 1, "uint16": 1 / 65535, "float32": 1}[np.dtype(dtype).name]
    np.testing.assert_allclose(found, white)


def test_16_bit_pngs_of_unused_alpha(tmp_path):
    from test_stored_pixels import COLOUR_ALPHA, GREY_ALPHA, png

    path = tmp_path / "part.png"
    for colour_type, n in ((COLOUR_ALPHA, 4), (GREY_ALPHA, 2)):
        values = np.full((3, 4, n), 90 * 257)
        values[:, :, -1] = 0
        path.write_bytes(png(values, colour_type, 16))
        with pytest.warns(UserWarning, match=UNUSED):
            np.testing.assert_array_equal(decode(path), 90)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_that_pillow_has_lost_are_refused(tmp_path, dtype):
    """Where alpha is multiplied in, Pillow makes what has none black."""
    path = tmp_path / "part.tif"
    values = np.full((16, 16, 4), np.iinfo(dtype).max // 2, dtype)
    values[:, :, 3] = 0
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(ImageReadError, match=f"part: {UNUSED} and multiplied into the colours"):
        decode(path)


def test_one_visible_pixel_makes_alpha_used():
    picture = alpha_picture("RGBA", 0)
    picture.putpixel((0, 0), (90, 60, 30, 255))
    found = quiet(lambda: decode(picture))
    np.testing.assert_array_equal(found[0, :2], [(90, 60, 30), (255, 255, 255)])


def test_a_lot_with_unused_alpha_is_scored(fitted, tmp_path):
    path = tmp_path / "four channels.png"
    picture = Image.fromarray(frames([100])[0])
    picture.putalpha(0)
    picture.save(path)
    with pytest.warns(UserWarning, match=rf"four channels\.png: {UNUSED}"):
        found = fitted.anomaly_score([path])
    np.testing.assert_allclose(found, fitted.anomaly_score(frames([100])))

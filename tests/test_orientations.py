"""Features that are means over the orientations of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image
from sklearn.base import clone

from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector
from mahalad.errors import InputError, ModelFileError
from mahalad.images.geometry import turn

TRANSPOSITIONS = (
    None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.TRANSPOSE, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
)  # fmt: skip


def features(small_weights, **options):
    return BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, **options
    ).build()


def test_the_eight_orientations_are_those_of_the_square():
    picture = np.arange(12).reshape(3, 4)
    found = {turn(picture, k).tobytes() + bytes(turn(picture, k).shape) for k in range(8)}
    assert len(found) == 8
    for k in range(4):
        np.testing.assert_array_equal(turn(picture, k), np.rot90(picture, k))
        np.testing.assert_array_equal(turn(picture, k + 4), np.rot90(picture, k)[:, ::-1])


@pytest.mark.parametrize("number", [4, 8])
def test_features_are_means_over_turned_pictures(small_weights, number):
    pictures = [make_picture(seed) for seed in (1, 2, 3)]
    plain, several = features(small_weights), features(small_weights, orientations=number)
    found = several.transform([several.prepare(picture) for picture in pictures])
    want = dict.fromkeys(found, 0.0)
    for how in TRANSPOSITIONS[:number]:
        turned = [p if how is None else p.transpose(how) for p in pictures]
        for name, values in plain.transform([plain.prepare(p) for p in turned]).items():
            want[name] = want[name] + values.astype(np.float64) / number
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, want[name], rtol=1e-4, atol=1e-5)


def test_a_turned_picture_scores_the_same(small_weights, picture_folder):
    picture = make_picture(7, spot=True)
    turned = [picture, picture.transpose(Image.Transpose.ROTATE_90),
              picture.transpose(Image.Transpose.TRANSVERSE)]  # fmt: skip
    spread = {}
    for number in (1, 8):
        extractor = BackboneFeatures(
            "test_efficientnet", weights=small_weights, input_size=64, orientations=number
        )
        scores = AnomalyDetector(extractor, fpr=0.1).fit(picture_folder / "good")
        found = scores.anomaly_score(turned)
        spread[number] = np.ptp(found) / found.mean()
    assert spread[8] < 1e-4 < 1e-2 < spread[1]


def test_the_number_is_part_of_the_model(small_weights, picture_folder, tmp_path):
    extractor = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, orientations=4
    )
    detector = AnomalyDetector(extractor, fpr=0.1).fit(picture_folder / "good")
    detector.save(tmp_path / "m")
    again = AnomalyDetector.load(tmp_path / "m")
    assert again.features_.record()["orientations"] == 4
    test = picture_folder / "test"
    np.testing.assert_allclose(again.anomaly_score(test), detector.anomaly_score(test), rtol=1e-5)
    assert "orientations" not in features(small_weights).record()
    plain = AnomalyDetector(clone(extractor).set_params(orientations=1), fpr=0.1)
    with pytest.raises(InputError, match="cannot merge fits with different features"):
        detector.merge(plain.fit(picture_folder / "good"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orientations": 2}, "orientations must be one of 1, 4, 8, got 2"),
        ({"orientations": True}, "orientations must be one of 1, 4, 8, got True"),
        ({"orientations": 8, "maps": None}, "is for pooled levels without a region"),
        ({"orientations": 8, "maps": ["blocks.0"]}, "is for pooled levels without a region"),
        ({"orientations": 4, "roi": np.ones((8, 8), bool)}, "is for pooled levels without"),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_is_refused(small_weights, options, message):
    with pytest.raises(InputError, match=message):
        features(small_weights, **options)


def test_there_are_no_exact_maps(small_weights, picture_folder):
    extractor = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, orientations=4
    )
    detector = AnomalyDetector(extractor, fpr=0.1).fit(picture_folder / "good")
    with pytest.raises(InputError, match="no exact maps of features that are means over orient"):
        detector.anomaly_map([make_picture(1)])


def test_tune_takes_them_and_info_says_so(small_weights, tmp_path):
    for name, seeds in (("good", range(8)), ("spot", range(50, 58))):
        (tmp_path / "beans" / name).mkdir(parents=True)
        for seed in seeds:
            picture = make_picture(seed, spot=name == "spot")
            picture.save(tmp_path / "beans" / name / f"{seed}.png")
    model = tmp_path / "m.mahalad"
    result = run("tune", tmp_path / "beans", "-o", model, "--backbone", "test_efficientnet",
                 "--weights", small_weights, "--size", "64", "--orientations", "8",
                 "--no-projection", "--neighbors", "3", "--fpr", "0.2")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "64 px, 8 orientations" in run("info", model).stdout
    assert run("score", tmp_path / "beans/spot", "-m", model).exit_code == 0


def test_weights_must_be_the_same_number_of_orientations(small_weights, picture_folder, tmp_path):
    """A file that claims another number than its features have is refused."""
    from mahalad.files.container import read_model, write_model

    extractor = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, orientations=4
    )
    AnomalyDetector(extractor, fpr=0.1).fit(picture_folder / "good").save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["features"]["orientations"] = 8
    write_model(tmp_path / "m", header, arrays)
    with pytest.raises(ModelFileError, match="orientations was 8, is 4"):
        MahalanobisDetector.load(tmp_path / "m")

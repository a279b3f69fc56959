"""What scikit-learn's users expect of an outlier detector, and false-positive rates at the ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import make_picture

from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.errors import CalibrationError, InputError
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.thresholds.guarantee import conformal_needs, guarantee_of, tolerance_needs
from mahalad.thresholds.rules import RULES
from mahalad.unfitted import NotFittedError


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, values: np.ndarray, columns: list[str]) -> None:
        self.values, self.columns = values, columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.values, dtype=dtype)

    def __getitem__(self, columns: list[str]) -> Frame:
        return Frame(self.values[:, [self.columns.index(name) for name in columns]], columns)


@pytest.fixture
def rows(rng):
    return rng.normal(size=(40, 3))


def pictures(seeds: range) -> list[np.ndarray]:
    return [np.asarray(make_picture(seed)) for seed in seeds]


# -- fit_predict ---------------------------------------------------------------------------


def test_fit_predict_judges_the_images_of_the_fit(rows):
    rows[7] += 20
    verdicts = AnomalyDetector(fpr=0.1).fit_predict(rows)
    np.testing.assert_array_equal(verdicts, AnomalyDetector(fpr=0.1).fit(rows).predict(rows))
    assert set(verdicts) == {1, -1} and verdicts[7] == -1
    groups = np.repeat(range(20), 2)
    np.testing.assert_array_equal(
        AnomalyDetector(fpr=0.1).fit_predict(rows, groups=groups),
        AnomalyDetector(fpr=0.1).fit(rows, groups=groups).predict(rows),
    )


def test_fit_predict_of_an_iterator_reads_it_once(small_weights):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=32, fpr=0.1
    )
    verdicts = detector.fit_predict(iter(pictures(range(12))))
    np.testing.assert_array_equal(verdicts, detector.predict(pictures(range(12))))


def test_fit_predict_of_a_camera_with_one_buffer(small_weights):
    frames = pictures(range(12))
    buffer = np.empty_like(frames[0])

    def camera():
        for frame in frames:
            buffer[:] = frame
            yield buffer

    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=32, fpr=0.1
    )
    wanted = detector.fit_predict(frames)
    np.testing.assert_array_equal(detector.fit_predict(camera()), wanted)
    assert detector.copies_ == []


# -- features ------------------------------------------------------------------------------


def test_the_number_of_features_is_known_of_an_array_alone(rows, small_weights, tmp_path):
    detector = AnomalyDetector(fpr=0.1)
    with pytest.raises(NotFittedError):
        _ = detector.n_features_in_
    assert detector.fit(rows).n_features_in_ == 3
    assert not hasattr(detector, "feature_names_in_")
    detector.save(tmp_path / "m")
    assert load(tmp_path / "m").n_features_in_ == 3
    assert not hasattr(AnomalyDetector(fpr=0.1).fit({"a": rows, "b": rows}), "n_features_in_")
    network = MahalanobisDetector("test_efficientnet", weights=small_weights, scope="image",
                                  input_size=32, fpr=0.2).fit(pictures(range(8)))  # fmt: skip
    assert not hasattr(network, "n_features_in_")


def test_columns_of_a_data_frame_keep_their_order(rows, tmp_path):
    frame = Frame(rows, ["a", "b", "c"])
    fitted = AnomalyDetector(fpr=0.1).fit(frame)
    fitted.save(tmp_path / "m")
    for detector in (fitted, load(tmp_path / "m")):
        assert detector.feature_names_in_.tolist() == ["a", "b", "c"]
        asks = [detector.predict, detector.p_values, lambda X, d=detector: list(d.inspect(X)),
                detector.partial_fit]  # fmt: skip
        for ask in asks:
            with pytest.raises(InputError, match="has its columns in another order: the fit was"):
                ask(frame[["b", "a", "c"]])
            with pytest.raises(InputError, match=r"the data frame lacks \['c'\]"):
                ask(frame[["a", "b"]])
        np.testing.assert_array_equal(
            detector.anomaly_score(frame[["b", "a", "c"]][["a", "b", "c"]]),
            AnomalyDetector(fpr=0.1).fit(rows).anomaly_score(rows),
        )
        with pytest.warns(UserWarning, match=r"have no names, and those of the fit had some"):
            detector.predict(rows)
    with pytest.warns(UserWarning, match="have names, and those of the fit had none"):
        AnomalyDetector(fpr=0.1).fit(rows).predict(frame)


# -- labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, np.array, lambda y: np.array(y, dtype=object)])
def test_abnormal_images_are_not_fitted_as_good_ones(rows, kind):
    y = kind([1] * 35 + [-1] * 5)
    detector = AnomalyDetector(fpr=0.1)
    for ask in (detector.fit, detector.partial_fit, detector.fit_predict):
        with pytest.raises(InputError, match=r"5 of 40 images have the label -1 .* fit\(X\[y == 1"):
            ask(rows, y)
    assert detector.fit(rows, np.ones(40)).n_images_ == 40
    with pytest.raises(InputError, match="label -1"):
        detector.partial_fit(rows, y)
    assert detector.n_images_ == 40


# -- one image at a time -------------------------------------------------------------------


def test_a_stream_may_start_with_one_image(rows):
    detector = AnomalyDetector(fpr=0.1)
    assert detector.partial_fit(rows[:1]).n_images_ == 1
    with pytest.raises(InputError, match="needs at least 2 good images that can be read, and has"):
        detector.predict(rows)
    for row in rows[1:]:
        detector.partial_fit(row[None])
    whole = AnomalyDetector(fpr=0.1).fit(rows)
    np.testing.assert_allclose(detector.anomaly_score(rows), whole.anomaly_score(rows), rtol=1e-9)
    assert detector.threshold_ == pytest.approx(whole.threshold_, rel=1e-9)
    with pytest.raises(InputError, match="at least 2 good images"):
        AnomalyDetector(fpr=0.1).fit(rows[:1])


def test_a_stream_of_maps_may_start_with_one_image(rng):
    X = {"m": rng.normal(size=(12, 3, 3, 4))}
    detector = AnomalyDetector(scorer=PatchScorer(), fpr=0.2)
    for i in range(12):
        detector.partial_fit({"m": X["m"][i : i + 1]})
    whole = AnomalyDetector(scorer=PatchScorer(), fpr=0.2).fit(X)
    np.testing.assert_allclose(detector.anomaly_score(X), whole.anomaly_score(X), rtol=1e-6)


# -- rates at the ends ---------------------------------------------------------------------

NEARLY_1 = [1 - 1e-9, 1 - 1e-12, 1 - 1e-13, float(np.nextafter(1, 0))]
NEARLY_0 = [1e-9, 1e-300, float(np.nextafter(0, 1))]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fpr", NEARLY_1)
def test_a_rate_of_nearly_1_flags_all_above_the_lowest(rule, fpr, rows):
    detector = AnomalyDetector(threshold=rule, fpr=fpr).fit(rows)
    scores = detector.calibration_scores_
    flagged = detector.predict(rows) == -1
    if len(scores) and rule != "chi2":
        assert detector.threshold_ == scores.min()
    assert flagged.mean() > 0.9
    np.testing.assert_array_equal(flagged, detector.anomaly_score(rows) > detector.threshold_)
    bound = detector.guarantee_.bound
    assert bound is None or 0.99 < bound < 1
    assert str(detector.guarantee_)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fpr", NEARLY_0)
def test_a_rate_of_nearly_0_needs_more_images_or_flags_none(rule, fpr, rows, recwarn):
    detector = AnomalyDetector(threshold=rule, fpr=fpr).fit(rows)
    if rule.startswith("chi2"):
        assert (detector.predict(rows) == 1).all()
    else:
        with pytest.raises(CalibrationError, match=r"needs (at least )?\d+"):
            detector.predict(rows)
    assert detector.guarantee_.bound is None


def test_no_rate_needs_less_than_one_image():
    for fpr in NEARLY_1:
        assert conformal_needs(fpr) == tolerance_needs(fpr) == 1
    assert guarantee_of("conformal", "holdout", 0, NEARLY_1[-1]).reason

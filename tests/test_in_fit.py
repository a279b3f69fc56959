"""Images of the fit, bad ones among them, and lots that are like none of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_picture, run

from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.detectors.suspects import is_shifted
from mahalad.errors import InputError
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.positions.scorer import PatchScorer

D = 8


def samples(n, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, size=(n, D))


def maps(n, seed=0):
    rng = np.random.default_rng(seed)
    return {"m": rng.normal(size=(n, 4, 4, 6)).astype(np.float32)}


DETECTORS = {
    "gaussian": (lambda: AnomalyDetector(fpr=0.1), samples),
    "positions": (lambda: AnomalyDetector(scorer=PatchScorer(), fpr=0.1), maps),
    "npca": (lambda: AnomalyDetector(scorer=make_scorer("gaussian", "npca"), fpr=0.1), samples),
    "neighbours": (lambda: AnomalyDetector(scorer=make_scorer("knn"), fpr=0.1), samples),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_of_the_fit_is_scored_as_if_it_was_not(name):
    make, images = DETECTORS[name]
    good = images(30)
    detector = make().fit(good)
    np.testing.assert_array_equal(detector.anomaly_score(good), detector.calibration_scores_)
    results = list(detector.inspect(good))
    assert all(result.in_fit and result.level_scores is None for result in results)
    assert [result.score for result in results] == detector.calibration_scores_.tolist()
    assert not any(result.in_fit for result in detector.inspect(images(5, seed=1)))
    # A fit that has seen it says less: that is what the score would be otherwise.
    in_sample = detector.level_scores(good).sum(axis=1)
    assert in_sample.mean() < detector.calibration_scores_.mean()


def test_a_bad_image_of_the_fit_is_flagged():
    good = np.concatenate([samples(40), samples(3, seed=9, shift=4)])
    detector = AnomalyDetector(fpr=0.1).fit(good)
    assert detector.predict(good[-3:]).tolist() == [-1, -1, -1]
    names = [result.name for result in detector.suspects_]
    assert sorted(names) == ["X[40]", "X[41]", "X[42]"]
    assert all(result.in_fit and result.anomaly for result in detector.suspects_)
    scores = [result.score for result in detector.suspects_]
    assert scores == sorted(scores, reverse=True)


def test_a_part_with_many_images_makes_no_suspects_of_others():
    Z = np.concatenate([samples(30), samples(1, seed=5).repeat(200, axis=0)])
    with pytest.warns(UserWarning, match="200 images are copies"):
        assert len(AnomalyDetector(fpr=0.1).fit(Z).suspects_) <= 2


def test_a_nominal_rule_scores_as_it_judges():
    """Its verdicts are by the fit as it is, whatever rule the fit had."""
    X = samples(40)
    changed = AnomalyDetector(fpr=0.1).fit(X).set_params(threshold="chi2-nominal")
    plain = AnomalyDetector(threshold="chi2-nominal", fpr=0.1).fit(X)
    np.testing.assert_array_equal(changed.anomaly_score(X), plain.anomaly_score(X))
    assert next(changed.inspect(X)).in_fit


def test_few_good_images_are_suspected():
    """About 1 %: 40 fits to 100 images."""
    n = sum(len(AnomalyDetector().fit(samples(100, seed)).suspects_) for seed in range(40))
    assert n <= 40 + 2 * np.sqrt(40)


@pytest.mark.parametrize("name", DETECTORS)
def test_removal_is_exact(name, tmp_path):
    make, images = DETECTORS[name]
    good = images(30)
    part = {k: v[:25] for k, v in good.items()} if isinstance(good, dict) else good[:25]
    gone = {k: v[25:] for k, v in good.items()} if isinstance(good, dict) else good[25:]
    whole, fresh = make().fit(good), make().fit(part)
    whole.save(tmp_path / "m")
    for detector in (load(tmp_path / "m"), whole):
        detector.remove(gone)
        assert detector.n_images_ == 25
        new = images(10, seed=1)
        np.testing.assert_allclose(detector.anomaly_score(new), fresh.anomaly_score(new), rtol=1e-6)
        np.testing.assert_allclose(
            detector.calibration_scores_, fresh.calibration_scores_, rtol=1e-6
        )
        assert not any(result.in_fit for result in detector.inspect(gone))


@pytest.mark.parametrize("name", ["gaussian", "positions"])
def test_sums_subtract_where_not_all_images_are_kept(name):
    make, images = DETECTORS[name]
    good = images(60)
    detector = make().set_params(max_stored=40).fit(good)
    gone = detector._state.store.kept
    names = gone.names[:10].tolist()
    where = [int(name[2:-1]) for name in names]

    def at(rows):
        return {k: v[rows] for k, v in good.items()} if isinstance(good, dict) else good[rows]

    rest = np.setdiff1d(np.arange(60), where)
    fresh = make().fit(at(rest))
    detector.remove(at(np.array(where)))
    assert (detector.n_images_, len(detector.calibration_scores_)) == (50, 30)
    new = images(10, seed=1)
    if name == "gaussian":  # the standards of positions are those of the images that are kept
        np.testing.assert_allclose(detector.anomaly_score(new), fresh.anomaly_score(new), rtol=1e-9)
    else:
        mine, theirs = (d.scorer_.patch_gaussians_["m"].moments_ for d in (detector, fresh))
        np.testing.assert_allclose(mine.covariance(), theirs.covariance(), atol=1e-9)


def test_what_cannot_be_removed_is_said(tmp_path):
    detector = AnomalyDetector(fpr=0.1).fit(samples(30))
    for X, message in (
        (samples(2, seed=1), r"X\[0\] is not among the images of the fit: nothing was removed"),
        (samples(30), "every image of the fit would be removed"),
    ):
        with pytest.raises(InputError, match=message):
            detector.remove(X)
        assert detector.n_images_ == 30
    detector.save(tmp_path / "slim", include_features=False)
    slim = load(tmp_path / "slim")
    with pytest.raises(InputError, match="saved without the features"):
        slim.remove(samples(1))
    assert next(slim.inspect(samples(1))).in_fit  # it still knows them


def test_images_fitted_beside_those_held_out_are_marked():
    detector = AnomalyDetector(threshold="holdout", fpr=0.2).fit(
        samples(30), calibration=samples(20, 5)
    )
    assert all(result.in_fit for result in detector.inspect(samples(30)))
    assert not any(result.in_fit for result in detector.inspect(samples(20, 5)))
    assert detector.suspects_ == []


# -- lots that are like none of the good images --------------------------------------------


def test_a_lot_that_has_changed_says_so():
    detector = AnomalyDetector(fpr=0.05).fit(samples(100))
    changed = detector.judge_lot(samples(40, seed=3, shift=3))
    assert changed.shifted and changed.n_above == 40
    assert "40 of 40 images are at the smallest possible p-value" in str(changed)
    assert not detector.judge_lot(samples(40, seed=3)).shifted
    some = np.concatenate([samples(20, seed=3, shift=3), samples(20, seed=4)])
    assert not detector.judge_lot(some).shifted  # half of them are bad


def test_chance_is_no_shift():
    """Of 2,000 lots of 5 images like 20 good ones, fewer than 1 in 500 is said to be shifted."""
    rng = np.random.default_rng(0)
    calibration, lots = rng.normal(size=(2000, 20)), rng.normal(size=(2000, 5))
    above = (lots > calibration.max(axis=1, keepdims=True)).sum(axis=1)
    assert np.mean([is_shifted(int(n), 5, 20) for n in above]) < 1 / 500


# -- the command line ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 good pictures, and two with a bright spot and a dark one among them."""
    folder = tmp_path_factory.mktemp("line") / "good"
    folder.mkdir()
    for seed in range(24):
        make_picture(seed).save(folder / f"{seed:02d}.png")
    for seed in (100, 101):
        picture = make_picture(seed, spot=True)
        picture.paste((0, 0, 0), (40, 40, 54, 54))
        picture.save(folder / f"odd{seed}.png")
    return folder


def test_fit_names_images_that_do_not_fit_and_leaves_them_out(folder, small_weights, tmp_path):
    options = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", 64]
    model = tmp_path / "m.mahalad"
    first = run("fit", folder, "-o", model, *options, "--fpr", 0.12)
    assert "2 of the images do not fit the others" in first.output
    assert "odd100.png" in first.output and "--without IMAGE" in first.output
    scored = run("score", folder, "-m", model, "--format", "jsonl")
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert all(row["in_fit"] for row in rows)
    assert {row["path"][-10:] for row in rows if row["anomaly"]} >= {"odd100.png", "odd101.png"}
    assert "(26 in the fit, scored as if they were not)" in scored.output
    page = tmp_path / "page.html"
    assert run("report", folder, "-m", model, "-o", page).exit_code == 0
    html = page.read_text()
    assert "Do not fit the others" in html and "in the fit" in html
    cards = [part.split("</b>")[0][-10:] for part in html.split("<b title")[1:]]
    assert {card[-10:] for card in cards[:2]} == {"odd100.png", "odd101.png"}
    names = tmp_path / "odd.txt"
    names.write_text(f"{folder / 'odd100.png'}\n\n{folder / 'odd101.png'}\n")
    second = run("fit", folder, "-o", model, *options, "--fpr", 0.12, "--without", names)
    assert "2 of 26 images left out" in second.output
    assert "do not fit the others" not in second.output
    assert load(model).n_images_ == 24
    wrong = run("fit", folder, "-o", model, *options, "--without", "other.png")
    assert wrong.exit_code == 2 and "is none of the images" in wrong.output
    missing = run("fit", folder, "-o", model, *options, "--without", tmp_path / "none.txt")
    assert missing.exit_code == 2 and "none.txt: cannot be read (No such file" in missing.output


def test_score_and_report_ask_what_has_changed(folder, small_weights, tmp_path):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, input_size=64, fpr=0.1
    )
    detector.fit([make_picture(seed) for seed in range(24)]).save(tmp_path / "m")
    dark = tmp_path / "dark"
    dark.mkdir()
    for seed in range(10):
        make_picture(200 + seed).point(lambda value: value // 2).save(dark / f"{seed}.png")
    for command in (("score", dark), ("report", dark, "-o", tmp_path / "page.html")):
        output = run(*command, "-m", tmp_path / "m").output
        assert "10 of 10 images are at the smallest possible p-value" in output
    assert "has the camera" in (tmp_path / "page.html").read_text()

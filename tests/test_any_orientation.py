"""Parts that lie at any angle: a fit finds that out, and counts images in their quarter turns."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate
from sklearn.base import clone

from mahalad import AnomalyDetector, KNNDetector, MahalanobisDetector
from mahalad.cli import main
from mahalad.commands import progress
from mahalad.detectors.turning import FEWEST, MOST, lies_at_any_angle
from mahalad.errors import InputError, ModelFileError
from mahalad.features.extraction import extract
from mahalad.files.container import read_model, write_model
from mahalad.images.augment import quarter_turns

SIDE = 64


def part(rng, *, angle=0.0, scratch=False, ground=150.0, width=SIDE, noise=3.0):
    """A plate with a bright corner and a dark bar on a plain ground, turned by some degrees."""
    pixels = np.full((SIDE, width), ground)
    middle = pixels[:, (width - SIDE) // 2 :]
    middle[18:46, 14:50] = 90
    middle[20:30, 16:26] = 220
    middle[36:40, 28:48] = 30
    if scratch:
        middle[24:27, 30:46] = 110
    pixels = rotate(pixels, angle, reshape=False, order=1, mode="nearest")
    noisy = gaussian_filter(pixels, 0.6) + rng.normal(0, noise, pixels.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def at_any_angle(rng, n, **kind):
    return [part(rng, angle=rng.uniform(0, 360), **kind) for _ in range(n)]


def in_place(rng, n, **kind):
    return [part(rng, angle=rng.uniform(-3, 3), **kind) for _ in range(n)]


@pytest.fixture
def detector():
    """With the default network: a random one tells little of angles."""
    return MahalanobisDetector(input_size=2 * SIDE)


@pytest.fixture
def small(small_weights):
    """What is turned because that is asked for: here a quick network will do."""
    network = {"weights": small_weights, "input_size": SIDE}
    return MahalanobisDetector("test_efficientnet", any_orientation=True, **network)


@pytest.fixture
def turned(rng):
    return at_any_angle(rng, 24)


def test_quarter_turns_move_pixels_and_change_none(rng):
    image = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    first, second, third = quarter_turns(image)
    np.testing.assert_array_equal(second, image[::-1, ::-1])
    np.testing.assert_array_equal(first, image.swapaxes(0, 1)[::-1])
    np.testing.assert_array_equal(quarter_turns(first)[0], second)
    np.testing.assert_array_equal(quarter_turns(third)[0], image)


@pytest.mark.parametrize("shape", [(96, 144), (144, 96)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_squashed_images_are_turned_as_they_were(rng, shape, dtype):
    """Of a picture that is not square, what lies in it turns, not the picture."""
    picture = np.full((*shape, 3), 140.0)
    middle = picture[shape[0] // 2 - 32 :, shape[1] // 2 - 32 :][:64, :64]
    middle[:] = part(rng)
    turned = picture.copy()
    turned[shape[0] // 2 - 32 :, shape[1] // 2 - 32 :][:64, :64] = np.rot90(middle)
    top = 255 if dtype == np.float32 else 1

    def squashed(pixels):
        image = Image.fromarray(pixels.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        return (np.asarray(image) / top).astype(dtype)

    first, second, third = quarter_turns(squashed(picture), shape[1] / shape[0])
    assert first.dtype == second.dtype == third.dtype == dtype
    near = np.abs(first.astype(float) - squashed(turned)) * top
    as_it_is = np.abs(np.rot90(squashed(picture)).astype(float) - squashed(turned)) * top
    assert near.mean() < as_it_is.mean() / 3
    back = quarter_turns(third, shape[1] / shape[0])[0].astype(float) - squashed(picture)
    assert np.abs(back).mean() * top < as_it_is.mean() / 2
    np.testing.assert_array_equal(second, squashed(picture)[::-1, ::-1])


@pytest.mark.parametrize(("resize", "stretch"), [("squash", 1.5), ("pad", 1.0)])
def test_how_far_an_image_is_squashed(small, rng, resize, stretch):
    features = small.set_params(resize=resize).unfitted_parts()[0].build()
    wide = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    ((images, _),) = extract([wide, Image.fromarray(wide), wide[:, :60].copy()], features, salt=0)
    assert [image.stretch for image in images] == pytest.approx([stretch, stretch, 1], abs=0.02)


def test_parts_at_any_angle_in_pictures_that_are_not_square(detector, rng):
    features, scorer = detector.set_params(input_size=160).unfitted_parts()
    features.build()
    for draw, at_any in ((at_any_angle, True), (in_place, False)):
        wide = draw(rng, 20, width=SIDE * 3 // 2, noise=0.0)
        assert lies_at_any_angle(wide, features, scorer, None, salt=0) == at_any


@pytest.mark.parametrize("ground", [150.0, 255.0])
def test_a_fit_finds_out_whether_parts_lie_at_any_angle(detector, rng, ground):
    assert detector.fit(at_any_angle(rng, 12, ground=ground)).any_orientation_
    assert not detector.fit(in_place(rng, 12, ground=ground)).any_orientation_


def test_parts_that_lie_two_ways_do_not_lie_at_any_angle(detector, rng):
    half = [part(rng, angle=180 * rng.integers(2)) for _ in range(12)]
    assert not detector.fit(half).any_orientation_


def test_more_defects_are_found_of_parts_at_any_angle(detector, rng):
    """Of 12 images, AUROCs were 0.98 to 1.00 after 0.73 to 0.78 with three seeds."""
    good, new = at_any_angle(rng, 12), at_any_angle(rng, 40)
    bad = at_any_angle(rng, 40, scratch=True)
    found = {}
    for choice in (True, False):
        detector.set_params(any_orientation=choice).fit(good)
        scores = detector.anomaly_score([*new, *bad])
        found[choice] = (scores[40:, None] > scores[:40]).mean()
    assert found[True] > max(0.95, found[False] + 0.1)


def test_turned_images_are_those_that_one_would_turn_oneself(small, turned):
    """But for harmless changes, which are those of the images as they are."""
    small.set_params(tolerate=()).fit(turned[:20])
    by_hand = [copy for image in turned[:20] for copy in (image, *quarter_turns(image))]
    groups = np.arange(20).repeat(4)
    other = clone(small).set_params(any_orientation=False).fit(by_hand, groups=groups)
    assert small.n_images_ == 20
    np.testing.assert_allclose(
        other.anomaly_score(turned[20:]), small.anomaly_score(turned[20:]), atol=2e-5
    )
    of_images = other.calibration_scores_.reshape(20, 4)[:, 0]
    np.testing.assert_allclose(small.calibration_scores_, of_images, atol=2e-5)


def test_images_are_added_and_removed_with_their_turns(small, turned):
    whole = clone(small).fit(turned).calibration_scores_
    parts = clone(small).fit(turned[:20]).partial_fit(turned[20:])
    np.testing.assert_allclose(np.sort(parts.calibration_scores_), np.sort(whole), atol=2e-5)
    merged = clone(small).fit(turned[:12]).merge(clone(small).fit(turned[12:]))
    np.testing.assert_allclose(np.sort(merged.calibration_scores_), np.sort(whole), atol=2e-5)
    small.set_params(tolerate=())  # other images would be changed without those removed
    fewer = clone(small).fit(turned[:20]).calibration_scores_
    rest = clone(small).fit(turned).remove(turned[20:])
    assert rest.any_orientation_
    np.testing.assert_allclose(np.sort(rest.calibration_scores_), np.sort(fewer), atol=2e-5)


def test_images_that_someone_has_turned_are_one_part_with_the_others(small, turned, rng):
    """Left apart, each would be scored by a fit that knows it: all scores would be near 0."""
    by_hand = [copy for image in turned for copy in (image, *quarter_turns(image))]
    with pytest.warns(UserWarning, match="96 images are copies .* count as 24 independent ones"):
        small.fit(by_hand)
    assert small.guarantee_.n_independent == 24
    alone = clone(small).fit(turned)
    found, wanted = np.median(small.calibration_scores_), np.median(alone.calibration_scores_)
    assert found == pytest.approx(wanted, rel=0.3)
    held, new = clone(small).set_params(threshold="holdout"), at_any_angle(rng, 20)
    with pytest.warns(UserWarning, match="10 of 30 calibration images show parts"):
        held.fit(turned, calibration=[*by_hand[1:40:4], *new])
    assert held.guarantee_.n_independent == 20


def test_what_was_found_holds_for_images_that_are_added(detector, turned, rng):
    detector.fit(turned[:12]).partial_fit(in_place(rng, 2))
    assert detector.any_orientation_
    assert detector.n_images_ == 14


@pytest.mark.parametrize("slim", [False, True])
def test_a_file_says_what_was_found(small, turned, rng, slim, tmp_path):
    path = tmp_path / "part.mahalad"
    small.fit(turned[:20]).save(path, include_features=not slim)
    loaded = MahalanobisDetector.load(path)
    assert loaded.any_orientation_
    np.testing.assert_allclose(
        loaded.anomaly_score(turned[20:]), small.anomaly_score(turned[20:]), atol=2e-5
    )
    if not slim:
        small.partial_fit(turned[20:])
        loaded.partial_fit(turned[20:])
        np.testing.assert_allclose(loaded.calibration_scores_, small.calibration_scores_, atol=2e-5)
    told = CliRunner().invoke(main, ["info", str(path)])
    assert "each image counts in its four quarter turns" in told.output


def test_a_file_in_which_that_is_no_yes_or_no_is_refused(small, turned, tmp_path):
    small.set_params(tolerate=()).fit(turned[:12])
    small.save(tmp_path / "part.mahalad")
    header, arrays = read_model(tmp_path / "part.mahalad")
    header["fit"]["turned"] = "yes"
    write_model(tmp_path / "part.mahalad", header, arrays)
    with pytest.raises(ModelFileError, match="turned"):
        MahalanobisDetector.load(tmp_path / "part.mahalad")


def test_fits_of_which_one_is_turned_merge_as_they_are(detector, turned, rng):
    alone = clone(detector).set_params(any_orientation=False).fit([*turned[:12], *turned[12:20]])
    few = clone(detector).fit(turned[12:20])  # too few to look at
    merged = clone(detector).fit(turned[:12])
    assert merged.any_orientation_
    assert not few.any_orientation_
    with pytest.warns(UserWarning, match="takes images as they are"):
        merged.merge(few)
    assert not merged.any_orientation_
    np.testing.assert_allclose(
        np.sort(merged.calibration_scores_), np.sort(alone.calibration_scores_), atol=2e-5
    )
    other = clone(detector).set_params(any_orientation=True).fit(turned[12:])
    with pytest.raises(InputError, match="different any_orientation"):
        merged.merge(other)


def test_what_is_not_looked_at(detector, turned):
    """Too few, too many, images that come one after the other, and parts that are few."""
    features, scorer = detector.unfitted_parts()
    features.build()

    def found(images, groups=None):
        return lies_at_any_angle(images, features, scorer, groups, salt=0)

    assert found(turned)
    assert not found(turned[: FEWEST - 1])
    assert not found(iter(turned))
    assert found(turned[::-1])
    assert found(dict(enumerate(turned)).values())
    assert found(turned, groups=np.arange(len(turned)))
    assert not found(turned, groups=np.arange(len(turned)) // 4)
    assert not found(turned * 5)


@pytest.mark.parametrize(
    "params",
    [
        {"roi": np.ones((8, 8), bool)},
        {"neighbourhood": 0},
        {"scope": "image"},
        {"resize": "pad"},
    ],
)
def test_where_nobody_looks(detector, turned, params):
    assert not detector.set_params(**params).fit(turned[:12]).any_orientation_


@pytest.mark.parametrize(
    "params", [{"scope": "image"}, {"neighbourhood": 0}, {"resize": "pad"}, {"tiles": 2}]
)
def test_images_are_turned_where_that_is_asked_for(small, turned, params):
    small.set_params(**params).fit(turned[:12])
    assert small.any_orientation_
    assert {F.shape[:2] for F in small._state.store.features.values()} == {(12, 4)}
    alone = clone(small).set_params(any_orientation=False).fit(turned[:12])
    both = [one.anomaly_score(turned[12:]) for one in (small, alone)]
    assert (np.abs(both[0] - both[1]) > 1e-3).all()


def test_what_a_list_gives_is_not_read_before_it_must_be(detector):
    """More images than are looked at are drawn by nobody but the fit."""
    drawn = []

    class Lazy(Sequence):
        def __getitem__(self, i):
            drawn.append(i)
            return np.zeros((8, 8, 3), np.uint8)

        def __len__(self):
            return 10 * MOST

    features, scorer = detector.unfitted_parts()
    assert not lies_at_any_angle(Lazy(), features.build(), scorer, None, salt=0)
    assert len(drawn) == MOST + 1


def test_a_reader_knows_the_parameters_of_now(small, turned, rng):
    """Not what an earlier fit found."""
    assert small.reader().recipe.turned
    small.fit(turned[:12]).set_params(any_orientation="auto")
    assert not small.reader().recipe.turned
    small.set_params(any_orientation=False)
    assert not small.reader().recipe.turned
    small.fit(turned[:12]).set_params(any_orientation=True)
    reader = small.reader()
    assert small.fit_state(reader, reader.read(turned[:12])).any_orientation_


def test_a_fit_that_goes_on_is_as_it_was_begun(detector, tmp_path, rng):
    for i, image in enumerate(at_any_angle(rng, 24)):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    names, kept = sorted(map(str, tmp_path.glob("*.png"))), tmp_path / "kept"
    detector.set_params(batch_size=4, tolerate=())
    assert detector.fit(names[:20], checkpoint=kept, checkpoint_every=4).any_orientation_
    for rest in (iter(names), names):
        detector.fit(rest, checkpoint=kept, checkpoint_every=4)
        assert detector.any_orientation_
        assert detector.n_images_ == 24


def test_one_unreadable_image_does_not_keep_a_fit_from_looking(detector, rng, tmp_path):
    for i, image in enumerate(at_any_angle(rng, 24, noise=1.0)):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    (tmp_path / "00.png").write_bytes(b"none")
    with pytest.warns(UserWarning, match=r"00\.png"):
        assert detector.fit(tmp_path).any_orientation_
    assert detector.n_images_ == 23


@pytest.mark.parametrize("value", ["yes", None, 4, ()])
def test_what_any_orientation_may_be(detector, turned, value):
    with pytest.raises(InputError, match="any_orientation must be one of auto, True, False"):
        detector.set_params(any_orientation=value).fit(turned)


def test_what_cannot_be_turned(detector, turned, rng):
    with pytest.raises(InputError, match="does not go with a region of interest"):
        detector.set_params(any_orientation=True, roi=np.ones((8, 8), bool)).fit(turned)
    with pytest.raises(InputError, match="needs a feature extractor"):
        AnomalyDetector(any_orientation=True).fit(rng.normal(size=(30, 4)))
    assert (
        not AnomalyDetector(any_orientation="auto").fit(rng.normal(size=(30, 4))).any_orientation_
    )


def test_a_detector_that_knows_no_turns_has_none(turned):
    assert not KNNDetector(input_size=SIDE).fit(turned[:12]).any_orientation_


@pytest.fixture
def folder(turned, tmp_path):
    for i, image in enumerate(turned[:12]):
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "good" / f"{i:02}.png")
    return tmp_path


def fit(folder, *options):
    output = ["-o", str(folder / "part.mahalad"), "--size", str(2 * SIDE)]
    return CliRunner().invoke(main, ["fit", str(folder / "good"), *output, *options])


def test_images_under_a_progress_bar_can_be_looked_at(detector, turned, monkeypatch):
    """A list of them can be read twice, with a bar each time."""
    terminal = SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True))
    bars = []
    monkeypatch.setattr(progress, "sys", terminal)
    monkeypatch.setattr(progress, "progress_bar", lambda label: lambda X, n: bars.append(n) or X)
    shown = progress.with_progress(turned, "fit")
    features, scorer = detector.unfitted_parts()
    assert lies_at_any_angle(shown, features.build(), scorer, None, salt=0)
    assert bars == []
    assert len(list(shown)) == len(turned)
    assert bars == [len(turned)]


def test_fit_says_that_parts_lie_at_any_angle(folder):
    told = fit(folder)
    assert told.exit_code == 0, told.output
    assert "the parts lie at any angle: each image counts in its four quarter turns" in told.output
    as_they_are = fit(folder, "--any-orientation", "no", "--force")
    assert "quarter turns" not in as_they_are.output
    assert not MahalanobisDetector.load(folder / "part.mahalad").any_orientation_
    asked = fit(folder, "--any-orientation", "yes", "--force")
    assert asked.exit_code == 0, asked.output
    assert MahalanobisDetector.load(folder / "part.mahalad").any_orientation_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--any-orientation", "maybe"], "'maybe' is not auto, yes or no"),
        (["--any-orientation", "yes", "--scorer", "knn"], "is for --scorer gaussian, not knn"),
    ],
)
def test_what_fit_cannot_turn(folder, options, message):
    told = fit(folder, *options)
    assert told.exit_code == 2
    assert message in told.output

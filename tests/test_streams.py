"""Images that come one after the other: read before their source moves on, judged at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image, ImageSequence

from mahalad import BackboneFeatures, KNNDetector, MahalanobisDetector, MetricKNNClassifier, load
from mahalad.errors import InputError
from mahalad.images import reading
from mahalad.images.reading import read_batches


def frames(seed, n, dtype=np.uint8):
    """Pictures as a camera gives them."""
    found = [np.array(make_picture(seed + i)) for i in range(n)]
    if dtype == np.uint8:
        return found
    scale = 257 if dtype == np.uint16 else 1 / 255
    return [(frame * np.float64(scale)).astype(dtype) for frame in found]


def one_buffer(pictures):
    buffer = np.empty_like(pictures[0])
    for picture in pictures:
        buffer[:] = picture
        yield buffer
    buffer[:] = 0


def views_of_one_buffer(pictures):
    large = np.zeros((2, *pictures[0].shape), pictures[0].dtype)
    for i, picture in enumerate(pictures):
        large[i % 2] = picture
        yield large[i % 2]
        large[i % 2] = 0


def batches_in_one_buffer(pictures):
    buffer = np.empty((2, *pictures[0].shape), pictures[0].dtype)
    for i in range(0, len(pictures), 2):
        buffer[:] = pictures[i : i + 2]
        yield buffer
        buffer[:] = 0


def pictures_over_one_buffer(pictures):
    buffer = np.zeros((*pictures[0].shape[:2], 4), np.uint8)
    picture = Image.frombuffer("RGBX", buffer.shape[1::-1], buffer, "raw", "RGBX", 0, 1)
    for values in pictures:
        buffer[:, :, :3] = values
        yield picture


def one_picture(pictures):
    canvas = Image.new("RGB", pictures[0].shape[1::-1])
    for picture in pictures:
        canvas.paste(Image.fromarray(picture))
        yield canvas
    canvas.close()


class Camera:
    """Neither a sequence nor an iterator: each `for` starts it."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __iter__(self):
        return one_buffer(self.pictures)


MOVING = [
    *(one_buffer, views_of_one_buffer, batches_in_one_buffer),
    *(pictures_over_one_buffer, one_picture, Camera),
]


def read(X, batch_size=8, ahead=0):
    batches = read_batches(X, np.array, batch_size=batch_size, ahead=ahead)
    return [image.prepared for batch in batches for image in batch]


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("moving", MOVING)
def test_what_is_read_is_what_was_there_when_it_was_drawn(moving, ahead):
    pictures = frames(0, 12)
    for found, expected in zip(read(moving(pictures), ahead=ahead), pictures, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, bool])
def test_buffers_of_other_types(dtype):
    pictures = [frame > 128 for frame in frames(0, 6)] if dtype is bool else frames(0, 6, dtype)
    found, expected = read(one_buffer(pictures)), read(pictures)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(np.stack(found).reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "GIF", "PNG"])
@pytest.mark.parametrize("by", ["sequence", "seek"])
def test_pages_are_read_before_the_next_one_is_sought(tmp_path, kind, by):
    pictures = [Image.fromarray(frame) for frame in frames(0, 5)]
    path = tmp_path / "pages"
    lossless = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], **lossless)

    def sought(stored):
        for number in range(stored.n_frames):
            stored.seek(number)
            yield stored

    expected = []
    with Image.open(path) as stored:
        for number in range(5):
            stored.seek(number)
            expected.append(np.array(stored.convert("RGB")))
    with Image.open(path) as stored:
        found = read(ImageSequence.Iterator(stored) if by == "sequence" else sought(stored))
    np.testing.assert_array_equal(found, expected)


def test_pictures_that_are_closed_when_the_next_one_is_opened(tmp_path):
    for i, frame in enumerate(frames(0, 5)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")

    def opened():
        for i in range(5):
            with Image.open(tmp_path / f"{i}.png") as picture:
                yield picture

    np.testing.assert_array_equal(read(opened()), frames(0, 5))


class CameraError(Exception):
    """What a driver raises."""


def failing(pictures, error=CameraError):
    yield from pictures
    raise error("cable")


def drawn_before(error, match, values):
    """What an iterator gives before it raises an error."""
    found = []
    values = (found.append(value) or value for value in values)
    with pytest.raises(error, match=match):
        for _ in values:
            pass
    return found


@pytest.mark.parametrize("n", [0, 1, 8, 11])
@pytest.mark.parametrize("ahead", [0, 2])
def test_what_came_before_a_failure_is_delivered(n, ahead):
    pictures = frames(0, n)
    camera = failing(one_buffer(pictures) if n else [])
    batches = read_batches(camera, np.array, batch_size=4, ahead=ahead)
    found = drawn_before(CameraError, "cable", (image for batch in batches for image in batch))
    for one, expected in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(one.prepared, expected)


def test_an_interrupt_is_not_kept_waiting():
    batches = read_batches(failing(frames(0, 3), KeyboardInterrupt), np.array, batch_size=8)
    assert drawn_before(KeyboardInterrupt, "cable", batches) == []


def test_a_wrong_item_ends_what_is_read_after_what_came_before():
    batches = read_batches([*frames(0, 2), 3, *frames(9, 1)], np.array, batch_size=8)
    (batch,) = drawn_before(InputError, r"^X\[2\] is of type int", batches)
    assert [image.source.name for image in batch] == ["X[0]", "X[1]"]


def test_few_pictures_are_held_decoded(monkeypatch):
    """Lazily opened large ones, in a large batch; as many as there are threads."""
    monkeypatch.setattr(reading, "N_THREADS", 2)
    large = np.zeros((1000, 1000, 3), np.uint8)
    tracemalloc.start()
    try:
        for _ in read_batches(
            (large for _ in range(60)), lambda image: np.zeros(4), batch_size=30, ahead=1
        ):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * large.nbytes  # of 60


# -- the parts that read images ------------------------------------------------------------


@pytest.fixture(scope="module")
def small(small_weights):
    return {"backbone": "test_efficientnet", "weights": small_weights, "input_size": 64}


@pytest.fixture(scope="module")
def detector(small):
    return MahalanobisDetector(**small, fpr=0.1).fit(frames(0, 24))


@pytest.mark.parametrize("make", [MahalanobisDetector, KNNDetector])
def test_detectors_fit_and_score_a_camera_that_reuses_its_buffer(small, make):
    good, more, new = frames(0, 20), frames(50, 6), frames(100, 6)
    expected = make(**small, fpr=0.1).fit(good).partial_fit(more)
    found = make(**small, fpr=0.1).fit(one_buffer(good)).partial_fit(one_buffer(more))
    scores = expected.anomaly_score(new)
    assert len(np.unique(scores)) == 6
    np.testing.assert_allclose(found.calibration_scores_, expected.calibration_scores_, rtol=1e-6)
    np.testing.assert_allclose(found.anomaly_score(one_buffer(new)), scores, rtol=1e-6)
    inspected = [result.score for result in found.inspect(one_buffer(new))]
    np.testing.assert_allclose(inspected, scores, rtol=1e-5, atol=2e-5)
    lot = [result.score for result in found.judge_lot(one_buffer(new)).results]
    np.testing.assert_allclose(lot, scores, rtol=1e-6)


def test_calibration_images_of_a_camera(small):
    made = [
        MahalanobisDetector(**small, threshold="holdout", fpr=0.1).fit(
            frames(0, 12), calibration=calibration
        )
        for calibration in (frames(50, 12), one_buffer(frames(50, 12)))
    ]
    one, other = (detector.calibration_scores_ for detector in made)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(np.unique(one)) == 12


def test_a_fit_to_a_camera_that_fails_is_an_error(small):
    detector = MahalanobisDetector(**small, fpr=0.1)
    with pytest.raises(CameraError, match="cable"):
        detector.fit(failing(one_buffer(frames(0, 20))))
    assert not hasattr(detector, "features_")


@pytest.fixture(scope="module")
def classifier(small_weights):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    labelled = frames(0, 12)
    classifier = MetricKNNClassifier(features, n_neighbors=1, random_state=0)
    return classifier.fit(labelled, [str(i % 2) for i in range(12)])


@pytest.mark.parametrize("asked", ["detector", "classifier"])
def test_each_result_comes_before_the_next_image_is_drawn(asked, request):
    asked = request.getfixturevalue(asked)
    log = []

    def camera():
        for i, frame in enumerate(one_buffer(frames(100, 4))):
            log.append(f"frame {i}")
            yield frame

    for i, _ in enumerate(asked.inspect(camera())):
        log.append(f"result {i}")
    assert log == [f"{what} {i}" for i in range(4) for what in ("frame", "result")]
    log.clear()
    for i, _ in enumerate(asked.inspect(camera(), batch_size=3)):
        log.append(f"result {i}")
    drawn = [f"frame {i}" for i in range(3)]
    assert log == [*drawn, "result 0", "result 1", "result 2", "frame 3", "result 3"]


@pytest.mark.parametrize("asked", ["detector", "classifier"])
def test_results_of_a_failing_stream_come_before_its_error(asked, request):
    camera = failing(one_buffer(frames(100, 5)))
    results = request.getfixturevalue(asked).inspect(camera, batch_size=4)
    found = drawn_before(CameraError, "cable", results)
    assert [result.name for result in found] == [f"X[{i}]" for i in range(5)]


def passes(detector, monkeypatch):
    """Numbers of images of the detector's passes through the network, from now on."""
    found = []
    run = type(detector.features_).transform

    def count(self, prepared):
        found.append(len(prepared))
        return run(self, prepared)

    monkeypatch.setattr(type(detector.features_), "transform", count)
    return found


def test_what_has_a_length_is_judged_in_batches(detector, monkeypatch, tmp_path):
    from tqdm import tqdm

    for i, frame in enumerate(frames(100, 6)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"))
    found = passes(detector, monkeypatch)
    expected = list(detector.inspect(paths))
    bar = tqdm(paths, disable=True)
    for X in (tmp_path, tuple(paths), np.stack(frames(100, 6)), str(tmp_path / "*.png"), bar):
        scores = [result.score for result in detector.inspect(X)]
        np.testing.assert_allclose(scores, [result.score for result in expected], rtol=1e-5)
    assert found == [6] * 6
    found.clear()
    list(detector.inspect(paths, batch_size=4))
    list(detector.inspect(iter(paths), batch_size=4))
    list(detector.inspect(iter(paths)))
    list(detector.inspect(tqdm((path for path in paths), disable=True)))
    assert found == [4, 2, 4, 2, *[1] * 12]


def test_batch_size_set_after_a_fit_takes_effect(detector, monkeypatch, tmp_path):
    detector.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    found = passes(loaded, monkeypatch)
    loaded.set_params(batch_size=2)
    list(loaded.inspect(frames(100, 5)))
    loaded.anomaly_score(iter(frames(100, 3)))
    assert found == [2, 2, 1, 2, 1]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("asked", ["detector", "classifier"])
def test_batch_sizes_are_whole_numbers(asked, request, batch_size):
    asked = request.getfixturevalue(asked)
    with pytest.raises(InputError, match=r"^batch_size must be a whole number >= 1, got "):
        next(asked.inspect(frames(0, 1), batch_size=batch_size))

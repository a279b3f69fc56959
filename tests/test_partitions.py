"""A fit in parts is the fit to the whole, however images are parted and in whatever order."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from conftest import make_picture
from PIL import Image

from mahalad import AnomalyDetector, KNNDetector, MahalanobisDetector
from mahalad.detectors.fitting import merged_states
from mahalad.detectors.parts import open_reader, pack_reader
from mahalad.distributed.room import Room
from mahalad.scorers import make_scorer

N_IMAGES = 26


def saved_again(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


pytestmark = pytest.mark.filterwarnings("ignore:.*copies of each other")


@pytest.fixture(scope="module")
def pictures():
    """Pictures of which some are there twice, and some are others saved again."""
    found = [make_picture(seed) for seed in range(N_IMAGES)]
    found[7] = found[21].copy()
    found[11] = saved_again(found[3], 90)
    found[22] = saved_again(found[3], 80)
    return found


@pytest.fixture(autouse=True)
def one_thread():
    """Features of an image alone on one thread are the same bit for bit, whatever is beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(small_weights):
    return {"backbone": "test_efficientnet", "weights": small_weights, "input_size": 64}


def parted(rng: np.random.Generator, n: int, n_parts: int) -> list[np.ndarray]:
    """Places of n images in any order, in parts of any sizes; none is empty."""
    cuts = np.sort(rng.choice(np.arange(1, n), n_parts - 1, replace=False))
    return np.split(rng.permutation(n), cuts)


def taken(X, places):
    return X[places] if isinstance(X, np.ndarray) else [X[i] for i in places]


def merged(make, X, parts, groups=None):
    """The fit to states of parts, sent as bytes and merged two at a time."""
    reader = make().reader()
    if reader.features is not None:
        reader = open_reader(pack_reader(reader))
    states = []
    for part in parts:
        own = None if groups is None else [groups[i] for i in part]
        states.append(reader.unpack(reader.pack(reader.read(taken(X, part), own))))
    while len(states) > 1:
        states = [merged_states(states[i : i + 2]) for i in range(0, len(states), 2)]
    return make().fit_state(reader, states[0])


def assert_same(found, whole, X):
    np.testing.assert_allclose(
        np.sort(found.calibration_scores_), np.sort(whole.calibration_scores_), rtol=1e-10
    )
    np.testing.assert_allclose(found.threshold_, whole.threshold_, rtol=1e-10)
    np.testing.assert_allclose(found.anomaly_score(X), whole.anomaly_score(X), rtol=1e-10)
    np.testing.assert_array_equal(found.p_values(X), whole.p_values(X))
    assert found.n_images_ == whole.n_images_
    assert len(found.copies_) == len(whole.copies_)


NEW = [make_picture(seed, spot=seed % 2 == 0) for seed in range(100, 108)]

DETECTORS = {
    "positions": {},
    "gaussians": {"neighbourhood": 1},
    "image": {"scope": "image"},
    "reservoir": {"max_stored": 12},
    "image reservoir": {"scope": "image", "max_stored": 12},
    "copies": {"scope": "image", "n_augment": 2, "tolerate": ("light", "noise")},
    "reduction": {"scope": "image", "reduction": "pca"},
    "holdout": {"scope": "image", "threshold": "holdout", "fpr": 0.2},
    "padded": {"resize": "pad"},
}


@pytest.mark.parametrize("options", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("grouped", [False, True], ids=["", "groups"])
def test_any_parts_in_any_order_are_the_whole(options, grouped, network, pictures, rng):
    def make():
        return MahalanobisDetector(**network, batch_size=1, **{"fpr": 0.2, **options})

    groups = [f"part {i % 17}" for i in range(N_IMAGES)] if grouped else None
    whole = make().fit(pictures, groups=groups)
    found = merged(make, pictures, parted(rng, N_IMAGES, 7), groups)
    assert_same(found, whole, NEW)


@pytest.mark.parametrize("options", [{}, {"scope": "image"}], ids=["positions", "image"])
@pytest.mark.parametrize("grouped", [False, True], ids=["", "groups"])
def test_parts_bring_only_what_there_is_room_for(options, grouped, network, pictures, rng):
    """Told of what is kept of the parts before, they drop what cannot stay; the fit is the same."""

    def make():
        return MahalanobisDetector(**network, batch_size=1, max_stored=6, fpr=0.4, **options)

    groups = [f"part {i % 17}" for i in range(N_IMAGES)] if grouped else None
    whole = make().fit(pictures, groups=groups)
    reader, room, states = make().reader(), Room(6), []
    parts = np.array_split(rng.permutation(N_IMAGES), 13)
    for number, part in enumerate(parts):
        own = None if groups is None else [groups[i] for i in part]
        state = reader.read(taken(pictures, part), own, bounds=room.bounds())
        for _ in range(2):  # work that is done again is counted once
            room.tell(0, number, state.store.hashes, state.bounds)
        states.append(reader.unpack(reader.pack(state)))
    kept = [state.store.n_kept for state in states]
    assert sum(kept) < N_IMAGES - 5 and max(kept) == 2
    merged = merged_states(states[::-1])
    assert_same(make().fit_state(reader, merged), whole, NEW)
    assert merged.bounds.kept == room.bounds().kept
    assert merged.store.n_kept <= 6 < merged.store.n_seen == N_IMAGES


def test_a_state_that_is_sent_knows_what_it_dropped(network, pictures):
    """Also if it had more than it keeps until then; else a later image could take that room."""
    detector = MahalanobisDetector(**network, scope="image", max_stored=20, fpr=0.1)
    reader = detector.reader()
    sent = reader.unpack(reader.pack(reader.read(pictures[:24], [i // 3 for i in range(24)])))
    assert sent.store.n_seen == 24 and sent.store.n_kept == 18
    assert sent.store.hashes.max() < sent.bounds.kept


def test_features_merge_exactly_whatever_the_scorer(rng):
    X = rng.normal(size=(80, 6)) * [1, 2, 3, 4, 5, 100] + 50
    new = rng.normal(size=(5, 6)) + 50
    for scorer in (make_scorer("gaussian"), make_scorer("sed"), make_scorer("knn")):
        whole = AnomalyDetector(scorer=scorer).fit(X)
        for n_parts in (2, 9):
            parts = parted(rng, len(X), n_parts)
            found = merged(lambda scorer=scorer: AnomalyDetector(scorer=scorer), X, parts)
            assert_same(found, whole, new)


def test_neighbours_merge_exactly(network, pictures, rng):
    def make():
        return KNNDetector(**network, batch_size=1, fpr=0.1)

    whole = make().fit(pictures)
    found = merged(make, pictures, parted(rng, N_IMAGES, 5))
    assert_same(found, whole, NEW)

"""From files to scores: images are decoded while the network works, a bounded number of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from conftest import make_picture

from mahalad import MahalanobisDetector
from mahalad.features.backbones import Backbone
from mahalad.features.extractor import BackboneFeatures

PATIENCE = 20  # seconds after which a test gives up


@pytest.fixture(scope="module")
def detector(small_weights):
    return MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64, batch_size=4,
        fpr=0.2, device="cpu",
    ).fit([make_picture(seed) for seed in range(12)])  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """16 files, of which the sixth is none."""
    for i in range(16):
        make_picture(100 + i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "05.png").write_bytes(b"nothing")
    return [str(path) for path in sorted(tmp_path.iterdir())]


class Decoding:
    """Counts images that are prepared, and lets others wait for a number of them."""

    def __init__(self, monkeypatch):
        self.n, self.changed = 0, threading.Condition()
        prepare = BackboneFeatures.prepare

        def counting(features, image):
            prepared = prepare(features, image)
            with self.changed:
                self.n += 1
                self.changed.notify_all()
            return prepared

        monkeypatch.setattr(BackboneFeatures, "prepare", counting)

    def wait_for(self, n):
        with self.changed:
            return self.changed.wait_for(lambda: self.n >= n, PATIENCE)


def test_the_next_batch_is_decoded_while_the_network_works_on_one(detector, files, monkeypatch):
    decoding, levels_of = Decoding(monkeypatch), Backbone.levels_of
    decoded_meanwhile = []

    def working(self, x):
        # 11 of the first three batches can be read, and 15 of all four.
        wanted = 15 if decoded_meanwhile else 11
        decoded_meanwhile.append(decoding.wait_for(wanted))
        return levels_of(self, x)

    monkeypatch.setattr(Backbone, "levels_of", working)
    results = list(detector.inspect(files))
    assert decoded_meanwhile and all(decoded_meanwhile)
    assert [result.name for result in results] == files


def test_results_come_before_further_images_are_decoded(detector, files, monkeypatch):
    decoding = Decoding(monkeypatch)
    results = detector.inspect(files)
    for i, result in enumerate(results):
        batch = i // 4
        assert decoding.n <= 4 * (batch + 3)  # the batch that is judged, and the next two
        assert (result.error is None) == (i != 5)


def test_scores_are_those_without_reading_ahead_bit_for_bit(detector, files, monkeypatch):
    found = list(detector.inspect(files))
    assert sum(result.error is not None for result in found) == 1
    readable = [name for name, result in zip(files, found, strict=True) if result.error is None]
    scores = detector.anomaly_score(readable)
    monkeypatch.setattr(BackboneFeatures, "read_ahead", 0)
    for one, other in zip(found, detector.inspect(files), strict=True):
        assert one == other
    np.testing.assert_array_equal(detector.anomaly_score(readable), scores)

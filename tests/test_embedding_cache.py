"""The cache of features: equal values, nothing computed twice, nothing trusted that is damaged."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from sklearn.base import clone

from mahalad.arrays import originals
from mahalad.errors import ImageReadError, InputError
from mahalad.features.cache import CachedFeatures, CacheWarning, hash_record
from mahalad.features.extraction import extract


class Extractor:
    """Mean and deviation of each channel; counts what it is asked for."""

    batch_size, read_ahead = 4, 0

    def __init__(self, factor=1.0, **more):
        self.factor, self.more, self.n_seen = factor, more, 0

    def build(self):
        return self

    def prepare(self, image):
        return np.asarray(image)

    def transform(self, prepared):
        self.n_seen += len(prepared)
        means = np.stack([p.mean(axis=(0, 1)) for p in prepared]).astype(np.float32)
        return {"mean": self.factor * means, "map": np.stack(prepared)[:, ::4, ::4].astype("f4")}

    def record(self):
        return {"factor": self.factor, "weights_origin": "anywhere", **self.more}


@pytest.fixture
def images(rng):
    images = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    images[7] = images[2]  # the same picture twice
    return images


def assert_equal(found, images, factor=1.0):
    wanted = Extractor(factor).transform(list(images))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def cached_features(X, extractor, folder):
    """Names of images and their features, by way of the cache; the first bad image is raised."""
    names, parts = [], []
    for images, features in extract(X, CachedFeatures(extractor, folder), 0):
        for image in images:
            if image.error is not None:
                raise image.error
            names.append(image.source.name)
        parts.append(originals(features))
    return names, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_the_second_time_nothing_is_computed(images, tmp_path):
    first, second = Extractor(), Extractor()
    names, found = cached_features(images, first, tmp_path)
    assert names == [f"X[{i}]" for i in range(10)]
    assert_equal(found, images)
    assert first.n_seen == 9
    assert_equal(cached_features(images[::-1], second, tmp_path)[1], images[::-1])
    assert second.n_seen == 0


def test_only_what_is_new_is_computed(images, tmp_path):
    cached_features(images[:6], Extractor(), tmp_path)
    more = Extractor()
    assert_equal(cached_features(images, more, tmp_path)[1], images)
    assert more.n_seen == 3


def test_other_networks_and_preprocessing_have_their_own(images, tmp_path):
    cached_features(images, Extractor(), tmp_path)
    other = Extractor(2.0)
    assert_equal(cached_features(images, other, tmp_path)[1], images, 2.0)
    assert other.n_seen == 9
    moved = Extractor(weights_source="file")
    cached_features(images, moved, tmp_path)
    assert moved.n_seen == 0  # equal weights, wherever they are from
    assert hash_record({"a": 1, "b": 2}) == hash_record({"b": 2, "a": 1})
    assert hash_record({"a": 1}) != hash_record({"a": 2})


def test_type_and_shape_are_part_of_the_key(tmp_path):
    flat, tall = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    cache = CachedFeatures(Extractor(), tmp_path)
    for image in (flat, tall, flat.astype(np.float32)):
        cache.transform([image])
    assert cache.n_computed == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_file_is_computed_again(images, tmp_path, damage):
    cached_features(images, Extractor(), tmp_path)
    shard = next(tmp_path.rglob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    shard.write_bytes({"cut": content[:-9], "empty": b""}.get(damage, content))
    again = Extractor()
    with pytest.warns(CacheWarning, match=f"{shard.name}: ignored, a damaged file"):
        found = cached_features(images, again, tmp_path)[1]
    assert_equal(found, images)
    assert 0 < again.n_seen < 9
    repaired = Extractor()
    assert_equal(cached_features(images, repaired, tmp_path)[1], images)
    assert repaired.n_seen == 0


def test_threads_and_processes_may_share_a_folder(images, tmp_path):
    found = {}

    def work(i):
        found[i] = cached_features(images, Extractor(), tmp_path)[1]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for features in found.values():
        assert_equal(features, images)
    early, late = (CachedFeatures(Extractor(), tmp_path) for _ in range(2))
    fresh = [images[0] // 2]
    early.transform(fresh)
    late.transform(fresh)  # made before the other wrote
    assert (early.n_computed, late.n_computed) == (1, 0)


def test_a_full_disk_is_reported_once(images, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mahalad.files.container.os.fsync", full)
    with pytest.warns(CacheWarning, match="not kept.*No space left") as caught:
        assert_equal(cached_features(images, Extractor(), tmp_path)[1], images)
    assert len(caught) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_features_are_kept_in_memory_without_a_folder(images):
    network = Extractor()
    cache = CachedFeatures(network)
    for _ in range(2):
        assert_equal(cache.transform(list(images)), images)
    assert clone(cache) is cache  # fits to the same images share it
    assert (network.n_seen, cache.n_computed) == (9, 9)  # one of the ten is there twice


def test_some_levels_come_from_the_same_cache(images):
    network = Extractor()
    cache = CachedFeatures(network)
    part = cache.at_levels(["map"])
    np.testing.assert_array_equal(part.transform(list(images))["map"], images[:, ::4, ::4])
    assert list(part.transform(list(images))) == ["map"]
    assert list(cache.transform(list(images))) == ["mean", "map"]
    assert network.n_seen == 9


def test_errors(images, tmp_path):
    with pytest.raises(InputError, match="no record"):
        CachedFeatures(object(), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no folder for a cache"):
        CachedFeatures(Extractor(), tmp_path / "file")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match="is empty"):
        cached_features([tmp_path / "empty.png"], Extractor(), tmp_path / "cache")


def test_features_of_a_network(small_weights, picture_folder, tmp_path):
    from mahalad import BackboneFeatures

    network = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64).build()
    X = sorted((picture_folder / "good").iterdir())[:5]
    _, computed = cached_features(X, network, tmp_path)
    _, read = cached_features(X, network, tmp_path)
    assert computed.keys() == read.keys()
    for name, values in computed.items():
        np.testing.assert_array_equal(values, read[name])

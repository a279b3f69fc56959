"""Fits and scores by Ray on two nodes: the results are those of one process."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from mahalad import MahalanobisDetector
from mahalad.distributed import Pool, fit, score

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")

POOL = Pool(n_workers=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of two CPUs each, of a session of this module alone."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(autouse=True)
def one_thread():
    """Features are those of workers with one thread each, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(small_weights):
    def make(**options):
        network = {"weights": small_weights, "input_size": 64, "batch_size": 8}
        return MahalanobisDetector("test_efficientnet", **network, fpr=0.1, **options)

    return make


def assert_same(found, whole, X):
    np.testing.assert_allclose(found.calibration_scores_, whole.calibration_scores_, rtol=1e-10)
    np.testing.assert_allclose(found.threshold_, whole.threshold_, rtol=1e-10)
    np.testing.assert_array_equal(found.p_values(X), whole.p_values(X))


def test_a_fit_is_the_local_one(cluster, make, picture_folder):
    good = picture_folder / "good"
    whole = make().fit(good)
    found = fit(make(), good, pool=POOL, part_size=8)
    assert found.n_images_ == 40
    assert_same(found, whole, picture_folder / "test")


def test_scores_are_the_local_ones(cluster, make, picture_folder, tmp_path):
    detector = make(scope="image").fit(picture_folder / "good")
    (picture_folder / "test" / "broken.png").write_bytes(b"none")
    scored = score(detector, picture_folder / "test", tmp_path / "rows", pool=POOL, part_size=4)
    rows = list(scored.rows())
    wanted = list(detector.inspect(picture_folder / "test"))
    assert [row["path"] for row in rows] == [result.name for result in wanted]
    assert [row["error"] is None for row in rows] == [r.error is None for r in wanted]
    print(scored)

"""Fits and scores by Ray on several nodes: the results are those of one process."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from conftest import make_picture, run

from mahalad import MahalanobisDetector
from mahalad.distributed import Pool, Scored, fit, score
from mahalad.distributed import pool as distributed_pool
from mahalad.distributed.working import Setting
from mahalad.errors import ClusterError, InputError
from mahalad.features import BackboneFeatures
from mahalad.features.extraction import Extracted
from mahalad.files.container import read_model
from mahalad.metric.classifier import MetricKNNClassifier

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*copies of each other", "ignore::DeprecationWarning"),
]

ONE, TWO = Pool(1, cpus=0.9), Pool(2, cpus=0.9)


NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """A head without a CPU and a node with one, of a session of this module alone."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 8}
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**NODE)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def kill_a_node(cluster):
    """Add a node, and give what loses it, with one of two workers on it, when first called."""
    node = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    lost = []

    def kill() -> None:
        if not lost:
            lost.append(node)
            cluster.remove_node(node, allow_graceful=False)

    yield kill
    assert lost, "the work was over before a node was lost"


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
    assert found.n_images_ == whole.n_images_
    np.testing.assert_allclose(found.calibration_scores_, whole.calibration_scores_, rtol=1e-10)
    np.testing.assert_allclose(found.threshold_, whole.threshold_, rtol=1e-10)
    np.testing.assert_array_equal(found.p_values(X), whole.p_values(X))


def test_a_fit_is_the_local_one_though_a_node_is_lost(
    cluster, kill_a_node, make, picture_folder, tmp_path
):
    """Groups span parts, some images are there twice, one cannot be read, and not all are kept."""
    paths = [tmp_path / f"{i:03}.png" for i in range(104)]
    for i, path in enumerate(paths):
        make_picture(1000 + i % 98).save(path)
    paths[50].write_bytes(b"none")
    groups = [str(i * 7 % 31) for i in range(len(paths))]
    manifest = tmp_path / "good.csv"
    lines = [f"{path.name},{group}" for path, group in zip(paths, groups, strict=True)]
    manifest.write_text("\n".join(["path,group", *lines]) + "\n")
    with pytest.warns(UserWarning, match="left out of the fit"):
        whole = make(max_stored=60).fit([str(path) for path in paths], groups=groups)
    done = []

    def progress(n):
        done.append(n)
        kill_a_node()

    with pytest.warns(UserWarning, match=r"1 images are left out.*good\.csv, row 51: .*050\.png"):
        found = fit(make(max_stored=60), manifest, pool=TWO, part_size=8, progress=progress)
    assert sum(done) == 104
    assert_same(found, whole, picture_folder / "test")


def test_scores_are_the_local_ones_though_a_node_and_the_driver_are_lost(
    cluster, kill_a_node, make, picture_folder, tmp_path
):
    detector = make(scope="image").fit(picture_folder / "good")
    (tmp_path / "broken.png").write_bytes(b"none")
    images = [*map(str, sorted(picture_folder.rglob("*.png"))), str(tmp_path / "broken.png")] * 2
    done = []

    def run(images, **options):
        given = {"pool": ONE, "part_size": 8, "style": "jsonl", **options}
        return score(detector, images, tmp_path / "rows", **given)

    def break_off(n):
        kill_a_node()
        done.append(n)
        if len(done) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(images, pool=TWO, progress=break_off)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    assert len(before) == 1 + 5
    again = run(images)
    assert (again.n_parts, again.n_parts_before) == (15, 5)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    rows, wanted = list(again.rows()), list(detector.inspect(images))
    assert [row["path"] for row in rows] == images
    good = [(row, result) for row, result in zip(rows, wanted, strict=True) if not result.error]
    assert len(good) == 56 * 2 and all(rows[i]["error"] for i in range(56, len(rows), 57))
    scores = np.array([(row["score"], result.score) for row, result in good])
    np.testing.assert_allclose(*scores.T, rtol=1e-10)
    for name in ("p_value", "anomaly", "in_fit"):
        assert [row[name] for row, _ in good] == [getattr(result, name) for _, result in good]
    with pytest.raises(InputError, match="results of other images"):
        run(images[::-1])
    with pytest.raises(InputError, match="results of more images"):
        run(images[:56])
    with pytest.raises(InputError, match=r"results of another run: fpr was None, is 0\.2"):
        run(images, fpr=0.2)


DRIVER = """
    import os, signal, sys
    from mahalad import MahalanobisDetector
    from mahalad.detectors import checkpoints
    from mahalad.distributed import Pool, fit
    address, weights, good, state = sys.argv[1:]
    write = checkpoints.Checkpoint.write
    def written(self, *given):
        write(self, *given)
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.Checkpoint.write = written
    detector = MahalanobisDetector("test_efficientnet", weights=weights, input_size=64,
                                   batch_size=8, scope="image", fpr=0.1, max_stored=30)
    fit(detector, good, checkpoint=state, checkpoint_every=24, address=address,
        pool=Pool(1, cpus=0.9), part_size=8)
"""


def test_a_fit_whose_driver_is_killed_goes_on(
    cluster, make, small_weights, picture_folder, tmp_path
):
    """After its first checkpoint; `benchmarks/distributed.py killed` does it at random points."""
    good, state = picture_folder / "good", tmp_path / "state"
    given = map(str, (cluster.address, small_weights, good, state))
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(DRIVER), *given])
    assert killed.returncode == -signal.SIGKILL and state.exists()
    done = []
    options = {"checkpoint": state, "checkpoint_every": 24, "part_size": 8, "pool": ONE}
    found = fit(make(scope="image", max_stored=30), good, **options, progress=done.append)
    assert done[0] == 24 and sum(done) == 40
    whole = make(scope="image", max_stored=30).fit(good)
    assert_same(found, whole, picture_folder / "test")


def test_workers_that_cannot_start_are_not_started_for_ever(
    cluster, make, picture_folder, monkeypatch
):
    class Broken:
        """Ends the process of a worker; it is sent by value."""

        def take_over(self):
            import os

            os._exit(3)

    monkeypatch.setattr(distributed_pool, "MOST_RESTARTS", 1)
    monkeypatch.setattr(Setting, "here", lambda n_threads: Broken())
    with pytest.raises(ClusterError, match=r"a worker failed for good .*worker process has died"):
        fit(make(), picture_folder / "good", pool=ONE)


def test_a_ray_dataset_of_images(cluster, make, picture_folder, tmp_path):
    """Their pixels come from Ray; what is done with them is the same."""
    cluster.add_node(**NODE)  # for the tasks that read
    cluster.wait_for_nodes()
    good = ray.data.read_images(str(picture_folder / "good"), include_paths=True)
    whole = make(scope="image").fit(picture_folder / "good")
    found = fit(make(scope="image"), good, pool=Pool(1), part_size=16)
    np.testing.assert_allclose(
        np.sort(found.calibration_scores_), np.sort(whole.calibration_scores_), rtol=1e-4
    )
    with pytest.raises(InputError, match="checkpoint is for paths"):
        fit(make(), good, checkpoint=tmp_path / "state")
    with pytest.raises(InputError, match="has the columns id: it needs path"):
        fit(make(), ray.data.range(3))


def test_what_is_refused_before_the_work(cluster, make, picture_folder, tmp_path):
    good = picture_folder / "good"
    with pytest.raises(InputError, match=r"take every one of the cluster's \d CPUs.*44687"):
        fit(make(), good, pool=Pool(n_workers=30))
    with pytest.raises(InputError, match="is in memory"):
        fit(make(), [np.zeros((8, 8, 3), np.uint8)], pool=ONE)
    (tmp_path / "notes.txt").write_text("-")
    detector = make(scope="image").fit(good)
    with pytest.raises(InputError, match=r"something else in it \(notes\.txt\)"):
        score(detector, good, tmp_path)


def test_a_classifier_is_tuned_to_features_of_the_cluster(
    cluster, picture_folder, small_weights, tmp_path
):
    """One image cannot be read; the model is that of features of this machine."""
    if ray.cluster_resources()["CPU"] < 2:  # this test runs alone
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
    labelled, models = tmp_path / "labelled", [tmp_path / "here", tmp_path / "there"]
    shutil.copytree(picture_folder / "test", labelled)
    (labelled / "spot" / "999.png").write_bytes(b"none")
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64",
               "--levels", "head", "--batch-size", "8", "--neighbors", "3"]  # fmt: skip
    for model, told in zip(models, ([], ["--ray", "auto", "--workers", "1"]), strict=True):
        result = run("tune", labelled, "-o", model, "--no-projection", *network, *told)
        assert result.exit_code == 3, result.output
        assert "16 labelled images (good 8, spot 8)" in result.stderr
        assert "999.png" in result.stderr
    (header, arrays), (wanted_header, wanted) = map(read_model, models)
    assert header == wanted_header and arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)
    result = run("tune", labelled, "-o", tmp_path / "x", "--ray", "auto", "--cache", tmp_path)
    assert result.exit_code == 2 and "--cache is of this machine" in result.stderr


def test_features_of_another_encoder_are_refused(small_weights, picture_folder):
    features = {"head": np.ones((16, 4))}
    found = Extracted([], features, {"backbone": "another"})
    encoder = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    with pytest.raises(InputError, match="are of another encoder"):
        MetricKNNClassifier(encoder).fit(found, ["a", "b"] * 8)


def test_command_lines(cluster, picture_folder, small_weights, tmp_path):
    """The cluster of this process is used: `--ray` finds the session that there is."""
    good, model = picture_folder / "good", tmp_path / "model"
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64",
               "--scope", "image", "--batch-size", "8"]  # fmt: skip
    rows = [f"{path},train,good" for path in sorted(good.glob("*.png"))]
    rows += [f"{path},test," for path in sorted((picture_folder / "test").rglob("*.png"))]
    manifest = tmp_path / "parts.csv"
    manifest.write_text("\n".join(["path,split,label", *rows, "none.png,test,"]) + "\n")
    state = tmp_path / "state"
    told = ["--ray", "auto", "--workers", "1"]
    result = run("fit", manifest, "-o", model, "--checkpoint", state, *network, *told)
    assert result.exit_code == 0, result.output
    assert "fitted to 40 images" in result.stderr
    folder = tmp_path / "rows"
    result = run("score", manifest, "--split", "test", "-m", model, "-o", folder, *told)
    assert result.exit_code == 3, result.output
    assert "16 images scored" in result.stderr and "row 57: " in result.stderr
    local = run("score", manifest, "--split", "test", "-m", model, "--format", "jsonl")
    assert local.exit_code == 3
    wanted = [json.loads(line) for line in local.stdout.splitlines()]
    found = list(Scored(str(folder)).rows())
    assert [row["path"] for row in found] == [row["path"] for row in wanted]
    assert [row["p_value"] for row in found] == [row["p_value"] for row in wanted]
    result = run("score", manifest, "--split", "test", "-m", model, "-o", folder, *told)
    assert result.exit_code == 0 and "1 of 1 files were there already" in result.stderr

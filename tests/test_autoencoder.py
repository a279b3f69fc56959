"""The autoencoder: what it computes, and that a broken training goes on as an unbroken one."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from conftest import DATA, assert_same_entries, make_picture, run
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

import mahalad.files.container
from mahalad import AnomalyDetector, load
from mahalad.errors import (
    BackboneError,
    ImageReadError,
    InputError,
    ModelFileError,
    UnreadableImageWarning,
)
from mahalad.files.container import read_header, read_model, write_model
from mahalad.images import spool
from mahalad.images.spool import Pictures
from mahalad.metric.autoencoder.autoencoder import Autoencoder
from mahalad.metric.autoencoder.networks import AutoencoderNetwork, make_encoder, make_network
from mahalad.metric.autoencoder.pretraining import Training, as_batch, shuffled_batches
from mahalad.metric.autoencoder.reconstruction import AsIs, ReconstructionError
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.protocols import FeatureExtractor
from mahalad.unfitted import NotFittedError

SMALL = {"bottleneck": 8, "width": 4, "input_size": 32, "batch_size": 8, "device": "cpu"}
small = partial(Autoencoder, **SMALL)


def pictures(seeds, **options):
    return [make_picture(seed, side=40, **options) for seed in seeds]


GOOD = pictures(range(20))
NEW = pictures(range(100, 140))
ODD = pictures(range(200, 212), spot=True)


@pytest.fixture(scope="module")
def fitted():
    return small(epochs=15, learning_rate=3e-3).fit(GOOD)


@pytest.fixture(scope="module")
def unbroken():
    """Four epochs in one go."""
    return small(epochs=4).fit(GOOD)


def broken_off(n_images):
    """A progress callback that breaks the training off once it saw so many images."""

    def progress(items, total):
        for i, item in enumerate(items):
            if i == n_images:
                raise KeyboardInterrupt
            yield item

    return progress


def assert_same(one, other):
    """Every weight, every statistic and every loss, bit for bit."""
    theirs = other.network_.state_dict()
    for name, value in one.network_.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert [h["loss"] for h in one.history_] == [h["loss"] for h in other.history_]


# -- the network ---------------------------------------------------------------------------


def test_the_encoder_of_width_64_is_a_resnet18():
    resnet = timm.create_model("resnet18", pretrained=False).eval()
    theirs = list(resnet.state_dict().values())
    trunk = make_encoder(128, 64, 64)[:-2].eval()
    ours = trunk.state_dict()
    trunk.load_state_dict(dict(zip(ours, theirs[: len(ours)], strict=True)))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x), resnet.forward_features(x))


@pytest.mark.parametrize(("width", "side"), [(2, 32), (3, 96)])
def test_the_decoder_undoes_the_encoder(width, side):
    network = AutoencoderNetwork(7, width, side).eval()
    x = torch.rand(2, 3, side, side)
    assert network.encoder(x).shape == (2, 7)
    grids = []
    h = network.encoder(x)
    for layer in network.decoder:
        h = layer(h)
        grids += [tuple(h.shape[1:])] if h.ndim == 4 else []
    ends = [grid for grid, after in pairwise(grids) if grid[1] < after[1]]
    assert grids[0] == (8 * width, side // 32, side // 32) and h.shape == x.shape
    assert [grid[1] for grid in ends] == [side // 2**k for k in (5, 4, 3, 2, 1)]
    assert h.min() >= 0 and h.max() <= 1


def test_making_a_network_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = make_network(4, 2, 32, 1), make_network(4, 2, 32, 2)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(one.encoder[0].weight, other.encoder[0].weight)


# -- training ------------------------------------------------------------------------------


def test_the_loss_falls(fitted):
    losses = [epoch["loss"] for epoch in fitted.history_]
    assert [epoch["epoch"] for epoch in fitted.history_] == list(range(1, 16))
    assert losses[-1] < 0.5 * losses[0]
    assert all(epoch["seconds"] > 0 for epoch in fitted.history_)


def test_new_images_are_drawn_better_than_by_the_best_constant_picture(rng):
    ramp = np.linspace(-1, 1, 32)
    a, b, c = rng.uniform(-1, 1, (3, 60, 1, 1, 1))  # light from a random direction
    grey = 0.5 + 0.2 * a + 0.15 * b * ramp[:, None, None] + 0.15 * c * ramp[:, None]
    images = np.repeat(np.rint(grey * 255).astype(np.uint8), 3, axis=3)
    X, new = images[:40], images[40:]
    constant = np.mean((new / 255 - (X / 255).mean(axis=0)) ** 2)
    # After 15 epochs the ratio is 0.44 to 0.62, with the seed and the number of threads; after 40,
    # 0.31 to 0.37.
    autoencoder = small(epochs=40, learning_rate=3e-3).fit(X)
    assert autoencoder.reconstruction_errors(new).mean() < 0.5 * constant


def test_one_step_by_hand(fitted):
    """The loss is the mean squared error; the step is Adam's."""
    network = make_network(8, 4, 32, 3)
    prepared = [fitted.prepare(picture) for picture in GOOD[:4]]
    twin = make_network(8, 4, 32, 3).train()
    x = torch.from_numpy(np.stack(prepared).transpose(0, 3, 1, 2) / 255).float()
    loss = ((twin(x) - x) ** 2).mean()
    loss.backward()
    training = Training(network.train(), 0.01)
    assert training.step(prepared) == pytest.approx(loss.item(), rel=1e-5)
    for before, after in zip(twin.parameters(), network.parameters(), strict=True):
        g = before.grad
        moved = 0.01 * g / (g.abs() + 1e-8)  # Adam's first step: both moments are unbiased to g
        clear = g.abs() > 1e-4  # below, rounding decides the sign
        torch.testing.assert_close((before - after)[clear], moved[clear], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("n", "size"), [(2, 2), (3, 2), (5, 2), (9, 4), (24, 8), (7, 64)])
def test_batches(n, size):
    batches = shuffled_batches(n, size, 0, 3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert all(2 <= len(batch) <= size + 1 for batch in batches)
    again = shuffled_batches(n, size, 0, 3)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_every_epoch_and_seed_has_its_own_order():
    orders = {tuple(np.concatenate(shuffled_batches(20, 8, s, e))) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


def test_the_order_of_the_images_has_no_effect(unbroken):
    assert_same(small(epochs=4).fit(iter(GOOD[::-1])), unbroken)


def test_images_beyond_the_bound_wait_in_a_file(unbroken, monkeypatch):
    size = 32 * 32 * 3
    monkeypatch.setattr(spool, "MAX_IN_MEMORY", 5 * size)
    assert_same(small(epochs=4).fit(GOOD), unbroken)
    kept = Pictures(2 * size + 1)
    values = [np.random.default_rng(i).random((32, 32, 3), np.float32) for i in range(3)]
    values.insert(1, np.full((32, 32, 3), 7, np.uint8))
    for i, value in enumerate(values):
        kept.add(value, 10 - i)
    kept.sort()
    for i, value in enumerate(reversed(values)):
        assert kept[i].dtype == value.dtype
        np.testing.assert_array_equal(kept[i], value)


def test_no_room_for_the_temporary_file(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(spool, "MAX_IN_MEMORY", 4000)
    with pytest.raises(InputError, match=r"image 2 of the fit .*No space left on device.*TMPDIR"):
        small().fit(GOOD)


def test_deep_images_keep_their_depth():
    dark = np.linspace(0, 0.01, 32 * 32 * 3).reshape(32, 32, 3)  # all of it within 3 of 255 steps
    eight_bits = np.full((32, 32, 3), 51, np.uint8)
    batch = as_batch([dark.astype(np.float32), eight_bits], torch.device("cpu"))
    np.testing.assert_allclose(batch[0].permute(1, 2, 0), dark, rtol=1e-6)
    np.testing.assert_allclose(batch[1], 0.2, rtol=1e-6)


# -- checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_images", [20, 47, 79])  # after epoch 1, within 3, within 4
def test_a_broken_training_goes_on_as_an_unbroken_one(unbroken, tmp_path, n_images):
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        small(epochs=4).fit(GOOD, checkpoint=path, progress=broken_off(n_images))
    assert len(read_header(path)["history"]) == n_images // 20
    totals = []

    def progress(items, total):
        totals.append(total)
        return items

    resumed = small(epochs=4).fit(GOOD, checkpoint=path, progress=progress)
    assert totals == [80 - n_images // 20 * 20]
    assert_same(resumed, unbroken)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is for POSIX systems")
def test_a_killed_training_goes_on_as_an_unbroken_one(unbroken, tmp_path):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_autoencoder import GOOD, small

        def progress(items, total):
            for i, item in enumerate(items):
                if i == 50:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield item

        small(epochs=4).fit(GOOD, checkpoint={str(tmp_path / "state")!r}, progress=progress)
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = small(epochs=4).fit(GOOD, checkpoint=tmp_path / "state")
    assert_same(resumed, unbroken)


def test_a_finished_checkpoint_is_only_read(unbroken, tmp_path):
    small(epochs=4).fit(GOOD, checkpoint=tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    again = small(epochs=4).fit(GOOD, checkpoint=tmp_path / "state")
    assert_same(again, unbroken)
    assert again.history_ == json.loads(json.dumps(read_header(tmp_path / "state")["history"]))
    assert (tmp_path / "state").read_bytes() == before


def test_a_finished_checkpoint_goes_on_with_more_epochs(unbroken, tmp_path):
    short = small(epochs=2).fit(GOOD, checkpoint=tmp_path / "state")
    longer = small(epochs=4).fit(GOOD, checkpoint=tmp_path / "state")
    assert_same(longer, unbroken)
    assert longer.history_[:2] == short.history_
    with pytest.raises(InputError, match=r"state: 4 epochs are done there, more than epochs=2"):
        small(epochs=2).fit(GOOD, checkpoint=tmp_path / "state")


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    path = tmp_path / "state"
    small(epochs=1).fit(GOOD, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"state: .*on other images: 20 were read then and 19 now"):
        small(epochs=2).fit(GOOD[1:], checkpoint=path)
    with pytest.raises(InputError, match=r"learning_rate was 0.001, is 0.01; random_state was 0,"):
        small(epochs=2, learning_rate=0.01, random_state=1).fit(GOOD, checkpoint=path)
    assert path.read_bytes() == before


def test_files_that_are_no_checkpoints(fitted, tmp_path):
    path = tmp_path / "state"
    path.write_text("notes")
    with pytest.raises(ModelFileError, match=r"state: not a mahalad model, or cut short"):
        small().fit(GOOD, checkpoint=path)
    assert path.read_text() == "notes"
    fitted.save(path)
    with pytest.raises(ModelFileError, match=r"state: holds no checkpoint .*\(autoencoder\)"):
        small().fit(GOOD, checkpoint=path)
    small(epochs=1).fit(GOOD, checkpoint=tmp_path / "other")
    header, arrays = read_model(tmp_path / "other")
    del arrays["exp_avg/encoder.0.weight"]
    write_model(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"state: the checkpoint is damaged .*exp_avg"):
        small(epochs=2).fit(GOOD, checkpoint=path)
    with pytest.raises(ModelFileError, match=r"the folder .*missing is missing"):
        small().fit(GOOD, checkpoint=tmp_path / "missing" / "state")


def test_a_full_disk_keeps_the_last_checkpoint(unbroken, tmp_path, monkeypatch):
    path, real, calls = tmp_path / "state", os.fsync, []

    def full_at_the_third(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(mahalad.files.container.os, "fsync", full_at_the_third)
        with pytest.raises(ModelFileError, match=r"state: .*No space left.*old file is intact"):
            small(epochs=4).fit(GOOD, checkpoint=path)
    assert os.listdir(tmp_path) == ["state"] and len(read_header(path)["history"]) == 2
    assert_same(small(epochs=4).fit(GOOD, checkpoint=path), unbroken)


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"input_size": 100}, "input_size must be a multiple of 32, .* got 100: take 96 or 128"),
        ({"input_size": 16}, "input_size must be a whole number >= 32, got 16"),
        ({"batch_size": 1}, "batch_size must be a whole number >= 2, got 1"),
        ({"bottleneck": 2.5}, "bottleneck must be a whole number >= 1, got 2.5"),
        ({"width": True}, "width must be a whole number >= 1, got True"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number > 0, got nan"),
        ({"random_state": 2**32}, "random_state must be None or a whole number from 0 to .*, got"),
        ({"random_state": -1}, "random_state must be None or a whole number from 0 to .*, got -1"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(InputError, match=message):
        small().set_params(**parameters).fit(GOOD)


def test_a_device_that_is_not_there():
    with pytest.raises(BackboneError, match="device 'abacus' is not usable"):
        small().set_params(device="abacus").fit(GOOD)


def test_unreadable_images_are_reported_and_left_out(unbroken, tmp_path):
    for i, picture in enumerate(GOOD):
        picture.save(tmp_path / f"{i:02}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.warns(UnreadableImageWarning, match=r"left out of the fit: .*bad\.png: not an"):
        autoencoder = small(epochs=4).fit(tmp_path)
    assert_same(autoencoder, unbroken)
    assert autoencoder.n_images_ == 20
    assert [result.name for result in autoencoder.unreadable_] == [str(tmp_path / "bad.png")]
    with pytest.raises(ImageReadError, match=r"bad\.png: not an image"):
        autoencoder.embed(tmp_path)


def test_too_few_images(fitted, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with (
        pytest.warns(UnreadableImageWarning, match=r"bad\.png"),
        pytest.raises(InputError, match=r"at least 2 images .* has 1; 1 could not be read"),
    ):
        small().fit([GOOD[0], tmp_path / "bad.png"])


def test_a_training_that_diverges(monkeypatch):
    monkeypatch.setattr(Training, "step", lambda *_: float("nan"))
    autoencoder = small(learning_rate=3.0)
    with pytest.raises(InputError, match=r"in epoch 1 the loss became nan; learning_rate=3 is too"):
        autoencoder.fit(GOOD)
    with pytest.raises(NotFittedError, match="this Autoencoder is not fitted: call fit"):
        autoencoder.embed(GOOD)


# -- features ------------------------------------------------------------------------------


def test_embeddings_do_not_depend_on_the_batch(fitted):
    assert isinstance(fitted, FeatureExtractor)
    prepared = [fitted.prepare(picture) for picture in NEW[:9]]
    together = fitted.transform(prepared)["bottleneck"]
    alone = np.concatenate([fitted.transform([one])["bottleneck"] for one in prepared])
    assert together.dtype == np.float32 and together.shape == (9, 8)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.embed(NEW[:9]), together, rtol=1e-4, atol=1e-5)
    spread = together.std(axis=0) / np.abs(together).mean(axis=0)
    assert spread.min() > 1e-3  # different images, different numbers


def test_the_record_tells_networks_apart(fitted, unbroken):
    one, other = fitted.record(), unbroken.record()
    assert json.loads(json.dumps(one)) == one
    assert {name for name in one if one[name] != other[name]} == {"weights_sha256"}


def test_before_the_fit():
    for ask in (small().build, small().state, lambda: small().reconstruct(GOOD)):
        with pytest.raises(NotFittedError, match="this Autoencoder is not fitted"):
            ask()


def test_a_clone_is_unfitted(fitted):
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not hasattr(copied, "network_") and not hasattr(copied, "n_images_")
    with pytest.raises(NotFittedError, match="this Autoencoder is not fitted"):
        copied.build()


@pytest.mark.parametrize("around", [ReconstructionError, lambda autoencoder: autoencoder])
def test_models_and_their_clones_use_a_fitted_autoencoder_as_it_is(fitted, around):
    """They use the one that they were given, whatever is done to it afterwards."""
    mine = copy.copy(fitted)
    scorer = AsIs() if around is ReconstructionError else None
    detector = AnomalyDetector(around(mine), scorer, fpr=0.1).fit(NEW)
    labels = ["a", "b"] * 20
    knn = MetricKNNClassifier(mine, n_neighbors=3).fit(NEW, labels)
    scores, embeddings = detector.anomaly_score(ODD), knn.embed(ODD)
    copies = clone(detector), clone(knn)
    np.testing.assert_array_equal(clone(copies[0]).fit(NEW).anomaly_score(ODD), scores)
    np.testing.assert_array_equal(clone(copies[1]).fit(NEW, labels).embed(ODD), embeddings)
    mine.set_params(epochs=1).fit(GOOD[:4])
    assert not np.allclose(mine.embed(NEW[:2]), fitted.embed(NEW[:2]))
    assert fitted.n_images_ == 20 and mine.n_images_ == 4 and fitted.epochs == 15
    np.testing.assert_array_equal(detector.anomaly_score(ODD), scores)
    np.testing.assert_array_equal(knn.embed(ODD), embeddings)
    np.testing.assert_array_equal(copies[0].fit(NEW).anomaly_score(ODD), scores)
    with pytest.raises(NotFittedError, match="this Autoencoder is not fitted"):
        MetricKNNClassifier(small(), n_neighbors=3).fit(NEW, labels)


# -- reconstructions -----------------------------------------------------------------------


def test_reconstruction_errors_by_hand(fitted):
    drawn = fitted.reconstruct(NEW[:3])
    assert drawn.shape == (3, 32, 32, 3) and drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() <= 1
    errors = fitted.reconstruction_errors(NEW[:3])
    assert errors.dtype == np.float64
    for i in range(3):
        square = np.asarray(NEW[i].resize((32, 32), Image.Resampling.BICUBIC)) / 255
        assert errors[i] == pytest.approx(np.mean((drawn[i] - square) ** 2), rel=1e-5)


def test_the_grid_shows_originals_above_reconstructions(fitted, tmp_path):
    path = tmp_path / "grid.png"
    grid = np.asarray(fitted.reconstruction_grid(NEW, path, max_images=10))
    assert grid.shape == (2 * (32 + 2 + 32) + 2 * 2, 8 * 34 - 2, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), grid)
    drawn = fitted.reconstruct(NEW[:10])
    for i in (0, 7, 8, 9):
        top, left = i // 8 * 70, i % 8 * 34
        np.testing.assert_array_equal(
            grid[top : top + 32, left : left + 32], fitted.prepare(NEW[i])
        )
        below = grid[top + 34 : top + 66, left : left + 32]
        assert np.abs(below - drawn[i] * 255).max() < 0.51
    assert (grid[70:, 2 * 34 :] == 255).all()
    assert fitted.reconstruction_grid(NEW[:3]).size == (3 * 34 - 2, 66)


def test_grids_that_cannot_be_written(fitted, tmp_path):
    with pytest.raises(InputError, match=r"grid\.xyz: no picture can be written as '\.xyz'"):
        fitted.reconstruction_grid(NEW[:2], tmp_path / "grid.xyz")
    with pytest.raises(ModelFileError, match=r"grid\.png: cannot be written"):
        fitted.reconstruction_grid(NEW[:2], tmp_path / "missing" / "grid.png")
    with pytest.raises(InputError, match="max_images must be a whole number >= 1, got 0"):
        fitted.reconstruction_grid(NEW, max_images=0)


def test_odd_images_are_reconstructed_badly(fitted):
    errors = fitted.reconstruction_errors([*NEW, *ODD])
    assert roc_auc_score([0] * len(NEW) + [1] * len(ODD), errors) > 0.99


@pytest.fixture(scope="module")
def detector(fitted):
    return AnomalyDetector(ReconstructionError(fitted), AsIs(), fpr=0.1).fit(NEW)


def test_the_detector_calibrates_the_errors(fitted, detector):
    errors = fitted.reconstruction_errors(NEW)
    np.testing.assert_allclose(detector.anomaly_score(NEW), errors, rtol=1e-6)
    np.testing.assert_allclose(detector.calibration_scores_, errors, rtol=1e-6)
    # Conformal: a new image is flagged if at most 0.1 * 41 - 1 = 3 of the 40 are as abnormal.
    assert detector.threshold_ == pytest.approx(np.sort(errors)[-4], rel=1e-6)
    assert detector.predict(ODD).tolist() == [-1] * len(ODD)


def test_the_detector_as_a_file(fitted, detector, tmp_path):
    detector.save(tmp_path / "part.mahalad")
    parts = {"features": ReconstructionError(fitted), "scorer": AsIs()}
    for given in ({}, parts, {"features": ReconstructionError(small())}):
        loaded = load(tmp_path / "part.mahalad", **given)
        np.testing.assert_allclose(loaded.p_values(ODD), detector.p_values(ODD), rtol=1e-9)
        assert loaded.features_.record() == detector.features_.record()
    loaded.set_fpr(0.2).save(tmp_path / "again.mahalad")
    again = load(tmp_path / "again.mahalad", device="cpu")
    np.testing.assert_array_equal(again.anomaly_score(ODD), loaded.anomaly_score(ODD))
    other = ReconstructionError(small(epochs=1).fit(GOOD))
    with pytest.raises(ModelFileError, match="does not score here as it did"):
        load(tmp_path / "part.mahalad", **parts | {"features": other})


def test_the_command_line_scores_by_reconstruction_errors(detector, tmp_path):
    detector.save(tmp_path / "part.mahalad")
    for i, picture in enumerate(ODD[:3]):
        picture.save(tmp_path / f"{i}.png")
    result = run("score", tmp_path / "*.png", "-m", tmp_path / "part.mahalad", "--format", "jsonl",
                 "--device", "cpu")  # fmt: skip
    assert result.exit_code == 0, result.output
    scores = [json.loads(line)["score"] for line in result.stdout.splitlines()]
    np.testing.assert_allclose(scores, detector.anomaly_score(ODD[:3]), rtol=1e-6)
    about = run("info", tmp_path / "part.mahalad").stdout
    assert "autoencoder  32 px, trained on 20 images (in the model file)" in about
    report = run("report", tmp_path / "*.png", "-m", tmp_path / "part.mahalad", "-o",
                 tmp_path / "page.html")  # fmt: skip
    assert report.exit_code == 0, report.output


def test_damaged_weights_of_an_autoencoder_are_found(detector, tmp_path):
    path = tmp_path / "part.mahalad"
    detector.save(path)
    header, arrays = read_model(path)
    name = next(n for n in arrays if n.startswith("autoencoder/weights/") and arrays[n].ndim)
    arrays[name] = arrays[name] + 1
    write_model(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"part\.mahalad: the weights are damaged"):
        load(path)


def test_embeddings_as_features_of_a_detector(fitted, tmp_path):
    detector = AnomalyDetector(fitted, fpr=0.1).fit(NEW)
    by_hand = AnomalyDetector(fpr=0.1).fit(fitted.embed(NEW))
    assert detector.features_.record() == fitted.record()
    np.testing.assert_allclose(
        detector.anomaly_score(ODD), by_hand.anomaly_score(fitted.embed(ODD)), rtol=1e-4
    )
    assert detector.threshold_ == pytest.approx(by_hand.threshold_, rel=1e-4)
    detector.save(tmp_path / "part.mahalad", include_features=False)
    loaded = load(tmp_path / "part.mahalad")
    np.testing.assert_allclose(loaded.anomaly_score(ODD), detector.anomaly_score(ODD), rtol=1e-9)


def test_as_is_takes_one_feature():
    np.testing.assert_array_equal(AsIs().fit([[1], [2]]).score_samples([[3], [-4]]), [-3, 4])
    with pytest.raises(InputError, match=r"one feature, \(n_samples, 1\), got shape \(1, 2\)"):
        AsIs().fit([[1, 2]])


# -- files ---------------------------------------------------------------------------------


def test_round_trip(fitted, tmp_path):
    fitted.save(tmp_path / "enc")
    loaded = Autoencoder.load(tmp_path / "enc")
    assert_same(loaded, fitted)
    assert loaded.record() == fitted.record() and loaded.get_params() == fitted.get_params()
    assert loaded.history_ == fitted.history_ and loaded.n_images_ == 20
    np.testing.assert_array_equal(loaded.embed(NEW), fitted.embed(NEW))
    np.testing.assert_array_equal(loaded.reconstruct(NEW[:2]), fitted.reconstruct(NEW[:2]))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "enc").read_bytes()
    assert (tmp_path / "enc").stat().st_size < 1.2 * sum(
        value.nbytes for value in fitted.network_.state_dict().values()
    ) + 50_000  # the weights once, and nothing of the optimizer


def test_a_stored_file_written_again_has_the_same_entries(tmp_path):
    assert_same_entries(DATA / "format4_encoder.mahalad", Autoencoder.load, tmp_path / "again")


def test_by_pickle(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.embed(NEW[:3]), fitted.embed(NEW[:3]))


def test_a_state_survives_json(fitted):
    about, arrays = fitted.state()
    about = json.loads(json.dumps(about))
    again = Autoencoder(**about["params"]).restore(about, arrays)
    np.testing.assert_array_equal(again.embed(NEW[:3]), fitted.embed(NEW[:3]))


def test_parameters_changed_after_the_fit(fitted, tmp_path):
    changed = copy.copy(fitted).set_params(bottleneck=16)
    with pytest.raises(InputError, match="bottleneck was changed by set_params after the fit"):
        changed.save(tmp_path / "enc")


def altered(fitted, path, change):
    """A saved autoencoder after a change to its header and arrays."""
    fitted.save(path)
    header, arrays = read_model(path)
    change(header, arrays)
    write_model(path, header, arrays)


def scale(name, factor):
    return lambda header, arrays: arrays.update({name: arrays[name] * np.float32(factor)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale("weights/decoder.0.weight", 1.0001), "enc: the weights are damaged: their hash"),
        (scale("golden/embeddings", 1.01), "enc: .*not give here .* the embeddings of its check"),
        (scale("golden/errors", 1.01), "enc: .*not give here .* the errors of its check"),
        (lambda h, a: a.pop("weights/encoder.0.weight"), "enc: the model file lacks .*encoder"),
        (
            lambda h, a: h["record"].update(width=5),
            r"enc: the model file is damaged \(encoder.0.weight is of shape \(4, 3",
        ),
        (lambda h, a: h["params"].update(unknown=5), "enc: the model file is damaged .*unknown"),
        (lambda h, a: h.update(kind="tree"), r"enc: holds no autoencoder \(tree\)"),
    ],
)
def test_damaged_files(fitted, tmp_path, change, message):
    altered(fitted, tmp_path / "enc", change)
    with pytest.raises(ModelFileError, match=message):
        Autoencoder.load(tmp_path / "enc")


def test_foreign_and_short_files(fitted, tmp_path):
    path = tmp_path / "enc"
    with pytest.raises(ModelFileError, match="enc: no such model file"):
        Autoencoder.load(path)
    small(epochs=1).fit(GOOD, checkpoint=path)
    with pytest.raises(ModelFileError, match=r"holds no autoencoder \(autoencoder checkpoint\)"):
        Autoencoder.load(path)
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="enc: not a mahalad model, or cut short"):
        Autoencoder.load(path)
    fitted.save(path)
    with pytest.raises(BackboneError, match="device 'abacus' is not usable"):
        Autoencoder.load(path, device="abacus")

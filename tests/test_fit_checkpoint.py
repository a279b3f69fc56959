"""A fit that is broken off goes on from its checkpoint, to the result of one that was not."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import make_picture

from mahalad import AnomalyDetector, MahalanobisDetector
from mahalad.errors import InputError, ModelFileError
from mahalad.files.container import read_model

PICTURES = [make_picture(seed) for seed in range(37)]


@pytest.fixture
def make(small_weights):
    def make(**options):
        given = {"weights": small_weights, "input_size": 64, "batch_size": 4, "fpr": 0.1}
        return MahalanobisDetector("test_efficientnet", **{**given, **options})

    return make


def broken_off(n):
    """Pictures until the process is killed."""
    yield from PICTURES[:n]
    raise KeyboardInterrupt


def entries(detector, path):
    detector.save(path)
    header, arrays = read_model(path)
    header["fit"].pop("date")
    return header, arrays


@pytest.mark.parametrize("options", [{}, {"scope": "image"}, {"max_stored": 12}])
def test_the_result_is_that_of_an_unbroken_run(make, options, tmp_path):
    kept = {"checkpoint": tmp_path / "state", "checkpoint_every": 8}
    whole = make(**options).fit(iter(PICTURES), checkpoint=tmp_path / "whole", checkpoint_every=8)
    for n in (13, 26, 37):
        with pytest.raises(KeyboardInterrupt):
            make(**options).fit(broken_off(n), **kept)
    found = make(**options).fit(iter(PICTURES), **kept)
    (header, arrays), (wanted_header, wanted) = (
        entries(d, tmp_path / "model") for d in (found, whole)
    )
    assert header == wanted_header and arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)


def test_it_is_the_fit_without_a_checkpoint(make, tmp_path):
    groups = [i // 2 for i in range(len(PICTURES))]
    whole = make().fit(PICTURES, groups=groups)
    found = make().fit(PICTURES, groups=groups, checkpoint=tmp_path / "state", checkpoint_every=8)
    np.testing.assert_allclose(found.calibration_scores_, whole.calibration_scores_, rtol=1e-10)


def test_a_process_that_is_killed(small_weights, tmp_path):
    for i, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"{i:02}.png")
    script = f"""
        import os, sys, signal
        sys.path.insert(0, {str(tmp_path)!r})
        from mahalad import MahalanobisDetector
        from mahalad.detectors import checkpoints
        from pathlib import Path
        write = checkpoints.Checkpoint.write
        def written(self, *given):
            write(self, *given)
            if {{limit}} and given[1].n >= {{limit}}:
                os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.Checkpoint.write = written
        detector = MahalanobisDetector("test_efficientnet", weights={str(small_weights)!r},
            input_size=64, batch_size=4, scope="image", fpr=0.1)
        paths = sorted(map(str, Path({str(tmp_path)!r}).glob("*.png")))
        detector.fit(paths, checkpoint={str(tmp_path / "state")!r}, checkpoint_every=8)
        print(detector.n_images_, repr(detector.threshold_))
    """

    def run(limit):
        code = textwrap.dedent(script).format(limit=limit)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert run(16).returncode == -9
    resumed = run(0)
    (tmp_path / "state").unlink()
    assert resumed.stdout == run(0).stdout and resumed.stdout.startswith("37 ")


def test_other_images_or_parameters_are_refused(make, tmp_path):
    kept = {"checkpoint": tmp_path / "state", "checkpoint_every": 8}
    make().fit(PICTURES, **kept)
    with pytest.raises(InputError, match=r"to other images: 37 were read then.*first 20"):
        make().fit(PICTURES[:20], **kept)
    with pytest.raises(InputError, match=r"another fit: .*scope was 'positions', is 'image'"):
        make(scope="image").fit(PICTURES, **kept)
    groups = [0, *range(36)]
    with pytest.raises(InputError, match="to other images"):
        make().fit(PICTURES, groups=groups, **kept)


def test_files_that_are_no_checkpoints(make, tmp_path):
    with pytest.raises(ModelFileError, match=r"no checkpoint can be written: .* is missing"):
        make().fit(PICTURES, checkpoint=tmp_path / "none" / "state")
    make(scope="image").fit(PICTURES).save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"no checkpoint of a fit \(MahalanobisDetector\)"):
        make(scope="image").fit(PICTURES, checkpoint=tmp_path / "model")
    (tmp_path / "notes").write_text("-")
    with pytest.raises(ModelFileError, match="not a mahalad model"):
        make().fit(PICTURES, checkpoint=tmp_path / "notes")
    with pytest.raises(InputError, match="only images are read in parts"):
        AnomalyDetector().fit(np.eye(5), checkpoint=tmp_path / "state")
    with pytest.raises(InputError, match="images of a part"):
        make().fit(PICTURES, checkpoint=tmp_path / "state", checkpoint_every=0)

"""Model files of every format that was released: they load, and say what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mahalad import load
from mahalad.files.container import read_header
from mahalad.metric.autoencoder.autoencoder import Autoencoder

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "format4.json").read_text())
TOLERANCE = 1e-9
"""Of everything that is summed in float64: other threads and kernels change the last digits."""
OF_NETWORKS = 1e-4
"""Of everything that went through a network, in float32."""


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The script that wrote the examples, for the images that it asked about."""
    sys.path.insert(0, str(DATA))
    try:
        import make_format4
    finally:
        sys.path.remove(str(DATA))
    return make_format4


def images_of(name: str, made: ModuleType) -> tuple[object, float]:
    kind = name.removesuffix("_slim")
    if kind in ("image", "positions", "autoencoder"):
        return made.squares(2, 6), OF_NETWORKS
    return (made.maps if kind in ("whole", "reservoir", "shared") else made.rows)(2, 6), TOLERANCE


def assert_close(found: object, wanted: object, tolerance: float) -> None:
    """The same keys, texts and numbers."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_close(found[key], wanted[key], tolerance)
    elif np.asarray(wanted).dtype.kind == "U":
        assert found == wanted
    else:
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in EXPECTED if n not in ("classifier", "encoder")])
def test_a_detector_of_format_4_says_what_it_said(name, made):
    path = DATA / f"format4_{name}.mahalad"
    assert read_header(path)["format_version"] == 4
    images, tolerance = images_of(name, made)
    assert_close(made.answers_of(load(path), images), EXPECTED[name], tolerance)


def test_a_classifier_of_format_4_says_what_it_said(made):
    model = load(DATA / "format4_classifier.mahalad")
    answers = made.labelled_answers(model, made.rows(6, 6))
    assert_close(answers, EXPECTED["classifier"], 1e-5)


def test_an_autoencoder_of_format_4_says_what_it_said(made):
    learned = Autoencoder.load(DATA / "format4_encoder.mahalad")
    embeddings = learned.embed(made.squares(2, 6)).tolist()
    assert_close({"embeddings": embeddings}, EXPECTED["encoder"], OF_NETWORKS)

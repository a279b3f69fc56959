"""The public names: all that were importable once still are, and are what they were."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import mahalad

NAMES = {
    "mahalad": {
        "AnomalyDetector": "class",
        "Autoencoder": "class",
        "BackboneFeatures": "class",
        "ChiSquareThreshold": "class",
        "CollapseError": "class",
        "ConformalThreshold": "class",
        "FineTuner": "class",
        "KNNDetector": "class",
        "LedoitWolfGaussian": "class",
        "LevelSum": "class",
        "MahaladError": "class",
        "MahalanobisDetector": "class",
        "MeanDistance": "class",
        "MetricKNNClassifier": "class",
        "NearestNeighborDistance": "class",
        "NominalChiSquareThreshold": "class",
        "PatchGaussian": "class",
        "PatchScorer": "class",
        "PrincipalComponents": "class",
        "Result": "class",
        "StandardizedDistance": "class",
        "ToleranceThreshold": "class",
        "TripletProjection": "class",
        "__version__": "str",
        "copy_index": "function",
        "load": "function",
        "open_index": "function",
    },
    "mahalad.images": {
        "FloatImage": "alias",
        "IMAGE_EXTENSIONS": "tuple",
        "INTERPOLATIONS": "dict",
        "ImageListing": "class",
        "ImageSource": "class",
        "Pixels": "class",
        "find_images": "function",
        "image_extensions": "function",
        "iter_sources": "function",
        "open_image": "function",
        "resize_image": "function",
        "resize_square": "function",
    },
    "mahalad.export": {"export": "function"},
    "mahalad.runtime": {"OnnxClassifier": "class", "OnnxDetector": "class", "load": "function"},
    "mahalad.features": {"BackboneFeatures": "class", "turn": "function"},
    "mahalad.scorers": {
        "LevelSum": "class",
        "MeanDistance": "class",
        "NearestNeighborDistance": "class",
        "SCORERS": "dict",
        "StandardizedDistance": "class",
        "as_input_of": "function",
        "make_scorer": "function",
        "per_level": "function",
        "take": "function",
    },
    "mahalad.thresholds": {
        "ChiSquareThreshold": "class",
        "ConformalThreshold": "class",
        "Guarantee": "class",
        "NominalChiSquareThreshold": "class",
        "RULES": "dict",
        "ToleranceThreshold": "class",
        "check_fpr": "function",
        "check_threshold": "function",
        "fit_threshold": "function",
        "plan": "function",
    },
    "mahalad.distributed": {
        "Pool": "class",
        "Scored": "class",
        "add": "function",
        "extract": "function",
        "fit": "function",
        "score": "function",
    },
    "mahalad.metric.autoencoder": {"Autoencoder": "class", "INTERPOLATION": "str"},
    "mahalad.metric.finetuning": {
        "FineTuner": "class",
        "SUFFIX": "str",
        "check_suffix": "function",
    },
}
"""Module that users import from to its names, each with its kind."""


def kind_of(value: object) -> str:
    if inspect.isclass(value):
        return "class"
    if inspect.isroutine(value):
        return "function"
    return type(value).__name__ if type(value).__module__ == "builtins" else "alias"


@pytest.mark.parametrize("module", list(NAMES))
def test_public_names_are_what_they_were(module):
    face = importlib.import_module(module)
    assert {name: kind_of(getattr(face, name)) for name in NAMES[module]} == NAMES[module]
    assert set(NAMES[module]) <= set(face.__all__)


def test_the_package_hands_on_these_names_and_no_others():
    assert sorted(mahalad.__all__) == sorted(NAMES["mahalad"])
    with pytest.raises(AttributeError, match="module 'mahalad' has no attribute 'nonsense'"):
        _ = mahalad.nonsense


@pytest.mark.parametrize("module", list(NAMES))
def test_a_name_is_one_object_wherever_it_is_taken_from(module):
    """A class that two modules hand on would not be known by its name in a model file."""
    face = importlib.import_module(module)
    classes = {name for name, kind in NAMES[module].items() if kind == "class"}
    for name in classes & set(NAMES["mahalad"]):
        assert getattr(face, name) is getattr(mahalad, name)


@pytest.mark.parametrize("module", list(NAMES))
def test_to_import_a_module_of_public_names_is_light(module):
    code = f"import sys, {module}; print({{'torch', 'sklearn', 'scipy', 'PIL'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

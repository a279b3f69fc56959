"""Damaged files, with fixed seeds: refused by the library's own errors, or read as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mahalad import AnomalyDetector, MetricKNNClassifier, load
from mahalad.errors import ModelFileError
from mahalad.files.container import read_header

N_ROWS = 30


def rows(seed: int, n: int = N_ROWS) -> np.ndarray:
    """Features of images, (n, 4)."""
    return np.random.default_rng(seed).normal(size=(n, 4))


def saved(kind: str, path: Path) -> Path:
    """A small model of a kind, in a file."""
    if kind == "classifier":
        model: Any = MetricKNNClassifier(n_neighbors=3).fit(rows(0), ["a", "b"] * (N_ROWS // 2))
        model.save(path)
    else:
        AnomalyDetector(fpr=0.1).fit(rows(0)).save(path, include_features=kind != "slim")
    return path


def answers(model: Any) -> list[dict[str, Any]]:
    """All that a model says of a few images."""
    return [vars(result) for result in model.inspect(rows(1, 5))]


def survives(path: Path, said: list[dict[str, Any]]) -> bool:
    """Whether a file is read, and then says the same; False if it is refused by its name."""
    message = ""
    try:
        model = load(path)
    except ModelFileError as error:
        message = str(error)
    if not message:
        assert answers(model) == said
    return not message or str(path) not in message


# -- changed bits --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*labelled images")
@pytest.mark.parametrize("kind", ["whole", "slim", "classifier"])
def test_a_changed_bit_is_noticed(kind, tmp_path):
    path = saved(kind, tmp_path / "m")
    said, content = answers(load(path)), path.read_bytes()
    n_header = 8 + int.from_bytes(content[:8], "little")  # safetensors: length, JSON, arrays
    rng = np.random.default_rng(12)
    places = [*rng.integers(n_header, size=150), *rng.integers(n_header, len(content), size=150)]
    n_read = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        n_read += survives(path, said)
    assert n_read <= 3  # spaces after the header, say


@pytest.mark.parametrize("what", ["no checksum", "another checksum"])
def test_a_file_without_its_checksum_is_refused(what, tmp_path):
    path = saved("whole", tmp_path / "m")
    arrays = load_file(path)
    if what == "no checksum":
        del arrays["mahalad_sha256"]
    else:
        arrays["mahalad_sha256"][3] ^= 1
    save_file(arrays, path, metadata={"mahalad": json.dumps(read_header(path))})
    with pytest.raises(ModelFileError, match=r"m: the model file is damaged \(it.* SHA-256.* copy"):
        load(path)

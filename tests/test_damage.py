"""Damaged files, with fixed seeds: refused by the library's own errors, or read as they were."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, make_picture, write_text
from PIL import Image
from safetensors.numpy import load_file, save_file

from mahalad import AnomalyDetector, MetricKNNClassifier, load
from mahalad.errors import ImageReadError, ImageValueError, MahaladError, ModelFileError
from mahalad.files.container import read_header, read_model
from mahalad.files.damage import naming
from mahalad.images.decoding import open_image
from mahalad.images.sources import iter_sources

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


@pytest.mark.parametrize("odd", [IndexError("of a list"), ZeroDivisionError("by 0"), KeyError("x")])
def test_whatever_odd_entries_lead_to_names_the_file(odd):
    refused = pytest.raises(ModelFileError, match=r"^m: the model file (is damaged|lacks 'x')")
    with refused, naming("m"):
        raise odd


# -- changed headers -----------------------------------------------------------------------

ODD = [None, True, False, 0, -1, 2, 1 << 70, 0.5, -1e300, "", "x", "0", [], {}, [[]], [0], {"a": 1}]


def places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys down to every value below a header."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*keys, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*keys, key))


def changed(header: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A header with another value, another number, another letter, or something missing."""
    header = copy.deepcopy(header)
    found = list(places(header))
    *way, last = found[rng.integers(len(found))]
    holder: Any = header
    for key in way:
        holder = holder[key]
    value, kind = holder[last], rng.integers(4)
    if kind == 0:
        del holder[last]
    elif kind == 1 and type(value) in (int, float):
        holder[last] = value + type(value)(rng.choice([-1, 1, 1000]))
    elif kind == 1 and isinstance(value, str) and value:
        place = rng.integers(len(value))
        holder[last] = value[:place] + chr(rng.integers(32, 127)) + value[place + 1 :]
    else:
        holder[last] = ODD[rng.integers(len(ODD))]
    return header


@pytest.mark.parametrize(
    ("kind", "n", "least_read"),
    [("whole", 120, 10), ("slim", 120, 10), ("classifier", 120, 10), ("positions", 25, 3)],
)
@pytest.mark.filterwarnings("ignore:.*labelled images")
def test_a_changed_header_is_refused_or_scores_as_before(kind, n, least_read, tmp_path):
    """The checksum is right, so that it is the audit and what follows it that is asked."""
    if kind == "positions":
        path, asked = DATA / "format4_positions_slim.mahalad", [make_picture(1), make_picture(2)]
    else:
        path, asked = saved(kind, tmp_path / "m"), rows(1, 5)
    said = scores(load(path), asked)
    header, arrays = read_model(path)
    rng, n_read = np.random.default_rng(7), 0
    for _ in range(n):
        header_text = json.dumps(changed(header, rng))
        write_text(tmp_path / "changed", header_text, arrays)
        try:
            model = load(tmp_path / "changed")
            found = scores(model, asked)
        except MahaladError:
            continue
        np.testing.assert_allclose(found, said, rtol=1e-6, err_msg=header_text)
        n_read += 1
    assert least_read <= n_read <= n / 2


def scores(model: Any, asked: Any) -> Any:
    """What an image is, without what rates, neighbours or names make of it."""
    list(model.inspect(asked))
    return model.embed(asked) if hasattr(model, "embed") else model.anomaly_score(asked)


# -- damaged images ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_damaged_image_is_an_error_of_its_own_or_a_picture(suffix, tmp_path):
    buffer, rng = io.BytesIO(), np.random.default_rng(3)
    picture = make_picture(1).resize((24, 20))
    options = {"compression": "tiff_lzw"} if suffix == "tif" else {}
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
    picture.save(buffer, kind, **options)
    content = buffer.getvalue()
    path = tmp_path / f"image.{suffix}"
    n_refused = 0
    for i in range(90):
        odd = bytearray(content)
        if i % 3 == 0:
            del odd[rng.integers(len(odd)) :]
        else:  # more often where the file says what it is
            for place in rng.integers(len(odd) if i % 3 == 1 else 120, size=rng.integers(1, 5)):
                odd[place] = rng.integers(256)
        path.write_bytes(odd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on what it mends
            try:
                found = open_image(next(iter(iter_sources(path))))
            except (ImageReadError, ImageValueError) as error:
                assert str(path) in str(error)  # noqa: PT017
                n_refused += 1
            else:
                assert isinstance(found, (Image.Image, np.ndarray))
                np.asarray(found)
    assert 20 < n_refused < 90

"""What a model file holds, checked before anything is made of it.

Every value of the header that is read, every class that it names, and name, type, shape and values
of every array must be what `layouts` says. A file that passes can still be another model than
the one that was saved: that is what its checksum and its golden inputs are for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import ModelFileError
from mahalad.files import layouts
from mahalad.files.classes import PART_NAMES
from mahalad.files.layouts import CONTEXT, Header, Row, Weights
from mahalad.files.schema import AnyOf, ListOf, MapOf, Maybe, OneOf, Optional
from mahalad.protocols import Floats

Arrays = Mapping[str, NDArray[Any]]

_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    dict: "an object",
    list: "a list",
}

_CHUNK = 1 << 20  # numbers looked at together: a mask of a whole array would take memory
_FITS: Mapping[str, Callable[[Floats], Any]] = {
    "finite": np.isfinite,
    "positive": lambda values: values > 0,
    "shares": lambda values: (values > 0) & (values <= 1),
    "half": lambda values: np.abs(values) <= np.finfo(np.float16).max,
}
_VALUES = {
    "finite": "finite numbers",
    "positive": "positive numbers",
    "shares": "numbers above 0 up to 1",
    "half": "numbers that 16-bit floats can be",
}
_KINDS = {"f": "floats", "i": "whole numbers", "u": "whole numbers from 0", "b": "true or false"}


def audit(header: Header, arrays: Arrays) -> None:
    """Check a file of the present format, of a kind that is known here.

    Files of other kinds (caches, checkpoints) are checked by what reads them.

    Parameters
    ----------
    header : dict
    arrays : mapping of str to ndarray

    Raises
    ------
    ModelFileError
        What was found, and what was expected. It does not name the file.
    """
    kind = header.get("kind")
    if kind is None:
        check_json(header, layouts.DETECTOR)
        _check_detector(header)
        check_spec(header["params"], "params", outside=True)
        _check_arrays(arrays, layouts.of_detector(header))
    elif kind == "autoencoder":
        check_json(header, layouts.AUTOENCODER)
        check_spec(header["params"], "params")
        _check_arrays(arrays, layouts.of_autoencoder(header))
    elif kind == "metric-knn":
        check_json(header, layouts.CLASSIFIER)
        _check_classifier(header)
        check_spec(header["params"], "params")
        _check_arrays(arrays, layouts.of_classifier(header))


def check_spec(value: Any, where: str, outside: bool = False) -> None:
    """Check that a description of parameters names known classes alone.

    Parameters
    ----------
    value : JSON
    where : str
        Keys down to the value, for the message.
    outside : bool, default=False
        Whether parts from outside the library may be named: the caller gives them again.
    """
    if isinstance(value, list):
        for position, item in enumerate(value):
            check_spec(item, f"{where}[{position}]", outside)
    elif isinstance(value, dict) and "class" in value:
        name = value["class"]
        if not isinstance(name, str) or name not in PART_NAMES:
            raise ModelFileError(
                f"{where} is of class {name!r}, which no model file of this version of mahalad "
                "holds"
            )
        check_json(value, {"params": dict}, where)
        check_spec(value["params"], where, outside)
    elif isinstance(value, dict) and "custom" in value:
        check_json(value, {"custom": str}, where)
        if not outside:
            raise ModelFileError(f"{where} is {value['custom']}, which is not part of mahalad")
    elif isinstance(value, dict):
        for name, item in value.items():
            check_spec(item, f"{where}.{name}", outside)


def _check_detector(header: Header) -> None:
    fit, scorer = header["fit"], header["scorer"]
    levels: Mapping[str, list[int]] = fit["levels"]
    odd = {name: shape for name, shape in levels.items() if len(shape) not in (1, 3)}
    if odd or not levels:
        raise _damaged(f"fit.levels has shapes {odd or 'of none'}, expected (n_features,) or maps")
    for name in ("fit", "held_out"):
        _check_store(header[name], name)
    if header["calibration"]["n_keys"] not in (0, header["calibration"]["n"]):
        raise _damaged(
            f"calibration.n_keys is {header['calibration']['n_keys']}, expected 0 or calibration.n"
        )
    if scorer is None:
        return
    groups = scorer["groups"]
    grids = [name for group in groups for name in group]
    known = {name: len(shape) for name, shape in levels.items()}
    if not groups or not all(groups) or any(known.get(name) != 3 for name in grids):
        raise _damaged(f"scorer.groups is {groups}, expected levels of fit.levels that are maps")
    if any(levels[name][:2] != levels[group[0]][:2] for group in groups for name in group):
        raise _damaged(f"scorer.groups is {groups}, expected levels of one grid together")
    if any(known.get(name) != 1 for name in scorer["pooled"]):
        raise _damaged(f"scorer.pooled is {scorer['pooled']}, expected levels that are no maps")
    maps, leading = scorer.get("maps", {}), [group[0] for group in groups]
    if maps and set(maps) - {CONTEXT} != set(leading):
        raise _damaged(f"scorer.maps is of {list(maps)}, expected one of each of {leading}")
    if maps and "context_weight" not in scorer:
        raise ModelFileError("the model file lacks 'scorer.context_weight'")
    compared = scorer.get("nearest", [])
    if set(compared) - set(leading):
        raise _damaged(f"scorer.nearest is {compared}, expected some of {leading}")
    finer = scorer.get("finer")
    if finer is not None and finer["grid"] not in set(compared) - {leading[-1]}:
        raise _damaged(
            f"scorer.finer.grid is {finer['grid']!r}, expected a finer one of {compared}"
        )
    if finer is not None:
        n_places = math.prod(levels[finer["grid"]][:2])
        if not (1 <= finer["n_largest"] <= n_places and 0 <= finer["weight"] < math.inf):
            raise _damaged(
                f"scorer.finer is {finer}, expected n_largest of 1 to {n_places}, and a weight >= 0"
            )


def _check_store(record: Header, name: str) -> None:
    n_stored, n_images = record["n_stored"], record["n_images"]
    if not 0 <= n_stored <= n_images:
        raise _damaged(f"{name}.n_stored is {n_stored}, expected 0 to {name}.n_images, {n_images}")
    if len(record["names"]) != n_stored:
        raise _damaged(
            f"{name}.names has {len(record['names'])} names, expected {name}.n_stored, {n_stored}"
        )
    if record["limit"] is not None and not 0 <= record["limit"] < 2**64:
        raise _damaged(f"{name}.limit is {record['limit']}, expected 0 to 2^64 - 1")


def _check_classifier(header: Header) -> None:
    encoder, index = header["encoder"], header["index"]
    if ("where" in index) == ("state" in index):
        raise _damaged(f"index has {list(index)}, expected where it is or its state")
    if encoder is None:
        return
    if encoder["class"] == "Autoencoder":
        check_json(encoder, layouts.OF_AUTOENCODER, "encoder")
        return
    check_json(encoder, layouts.OF_BACKBONE, "encoder")
    check_spec(encoder["spec"], "encoder.spec")
    if encoder["spec"].get("class") != "BackboneFeatures":
        raise _damaged("encoder.spec is no BackboneFeatures, as encoder.class says")


def _check_arrays(arrays: Arrays, layout: layouts.Layout) -> None:
    """Check that there are the arrays of a layout, and no others."""
    rest = dict(arrays)
    numbers: dict[str, int] = {}
    for entry in layout:
        if isinstance(entry, Weights):
            names = [name for name in rest if name.startswith(entry.prefix)]
            if not names:
                raise ModelFileError(f"the model file lacks '{entry.prefix}...'")
            for name in names:
                _check_values(Row(name, "fiub", ()), rest.pop(name))
        elif isinstance(entry, Row):
            _check_row(entry, rest, numbers)
        elif any(name.startswith(entry.prefix) for name in rest):
            for row in entry.rows:
                _check_row(row, rest, numbers)
    if rest:
        name = min(rest)
        raise _damaged(
            f"{_described(name, rest[name])}, which was not expected: its header has no such array"
        )


def _check_row(row: Row, rest: dict[str, NDArray[Any]], numbers: dict[str, int]) -> None:
    if row.name not in rest:
        raise ModelFileError(f"the model file lacks {row.name!r}")
    array = rest.pop(row.name)
    fits = array.ndim == len(row.shape)
    if fits:
        for size, wanted in zip(array.shape, row.shape, strict=True):
            if isinstance(wanted, str):
                wanted = numbers.setdefault(wanted, size)
            fits &= size == wanted
        fits &= not row.first or array.shape[0] in row.first
        fits &= row.most is None or 1 <= array.shape[-1] <= row.most
    if not fits:
        sizes = [str(numbers.get(size, size)) for size in row.shape]  # type: ignore[arg-type]
        if row.most is not None:
            sizes[-1] = f"1 to {row.most}"
        shape = ", ".join(sizes)
        raise _damaged(f"{_described(row.name, array)}, expected shape ({shape})", row)
    _check_values(row, array)


def _check_values(row: Row, array: NDArray[Any]) -> None:
    if array.dtype.kind not in row.kinds:
        kinds = " or ".join(_KINDS[kind] for kind in row.kinds)
        raise _damaged(f"{_described(row.name, array)}, expected {kinds}", row)
    if row.below is not None and array.size:
        lowest, highest = int(array.min()), int(array.max())
        if lowest < 0 or highest >= row.below:
            raise _damaged(
                f"{row.name} has values from {lowest} to {highest}, expected 0 to {row.below - 1}",
                row,
            )
    if array.dtype.kind != "f":
        return
    flat = array.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        fits = _FITS[row.values](chunk)
        if not fits.all():
            worst = chunk[~fits][0]
            raise _damaged(f"{row.name} holds {worst}, expected {_VALUES[row.values]}", row)


def _described(name: str, array: NDArray[Any]) -> str:
    return f"{name} is {array.dtype} of shape {array.shape}"


def _damaged(what: str, row: Row | None = None) -> ModelFileError:
    part = "the model file" if row is None else row.part
    label = f"{row.what}: " if row is not None and row.what else ""
    return ModelFileError(f"{part} is damaged ({label}{what})")


def check_json(value: Any, schema: Any, where: str = "") -> None:
    """Check a value against a schema; keys that the schema does not know are let pass.

    Parameters
    ----------
    value : JSON
    schema
        See `mahalad.files.schema`.
    where : str
        Keys down to the value, joined by dots.

    Raises
    ------
    ModelFileError
        A key is missing, or a value is another than it may be. It does not name the file.
    """
    if isinstance(schema, Maybe):
        if value is not None:
            check_json(value, schema.of, where)
    elif isinstance(schema, Mapping):
        _expect(isinstance(value, dict), value, _WORDS[dict], where or "the header")
        _check_keys(value, schema, where)
    elif isinstance(schema, ListOf):
        found = isinstance(value, list) and schema.length in (None, len(value))
        count = "" if schema.length is None else f" of {schema.length}"
        _expect(found, value, f"a list{count}", where)
        for position, item in enumerate(value):
            check_json(item, schema.of, f"{where}[{position}]")
    elif isinstance(schema, MapOf):
        _expect(isinstance(value, dict), value, _WORDS[dict], where)
        for key, item in value.items():
            check_json(item, schema.of, f"{where}.{key}")
    elif isinstance(schema, OneOf):
        _expect(value in schema.values, value, " or ".join(map(repr, schema.values)), where)
    else:
        types = schema.types if isinstance(schema, AnyOf) else (schema,)
        wanted = " or ".join(_WORDS[each] for each in types)
        _expect(any(_is(value, each) for each in types), value, wanted, where)


def _check_keys(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    for key, own in schema.items():
        path = f"{where}.{key}" if where else key
        if key in value:
            check_json(value[key], own.of if isinstance(own, Optional) else own, path)
        elif not isinstance(own, Optional):
            raise ModelFileError(f"the model file lacks {path!r}")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # NaN is not
    return type(value) is kind  # True is no number


def _expect(fits: bool, value: Any, wanted: str, where: str) -> None:
    if not fits:
        shown = repr(value)
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        raise ModelFileError(f"the model file is damaged ({where} is {shown}, expected {wanted})")

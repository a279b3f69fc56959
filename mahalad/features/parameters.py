"""Parameters of a fit: those that were changed since, and those that take effect at any time.

`set_params` changes an estimator, or an estimator among its parameters, after a fit as before it.
What was fitted stays, so an estimator compares its parameters with those of the fit before it
answers. Batch size and device change no answer, and how arrays and 16 bits are read is a matter of
the images that are given, not of those of the fit: its parts are given the present ones.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator

from mahalad.errors import InputError
from mahalad.features.copying import is_trained
from mahalad.files.spec import to_spec

RUNNING = ("batch_size", "device", "bits", "channels")
"""Parameters of feature extractors (and others that run networks) that may change at any time: they
change no answer, or say how the images that are given now are read."""


def comparable_params(params: Mapping[str, Any], parts: Sequence[str] = ()) -> dict[str, Any]:
    """Give parameters in a form that can be compared, by the names that `set_params` takes.

    Parameters
    ----------
    params : mapping of str to object
        As ``get_params(deep=False)`` gives them.
    parts : sequence of str
        Those of them whose own `RUNNING` parameters may change at any time; those in `params`
        itself may always.

    Returns
    -------
    dict of str to object
        Numbers, texts, and lists of these. Arrays and pictures are known by their content; an
        object that is no estimator is known by its class and `repr`.
    """
    found: dict[str, Any] = {}
    for name, value in params.items():
        found |= _flat(name, value)
    return {name: value for name, value in found.items() if not _runs(name, parts)}


def changed_params(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of parameters that differ; of a part that was exchanged, the part's name alone."""
    names = [*now, *(n for n in before if n not in now)]
    changed = [n for n in names if n not in now or n not in before or now[n] != before[n]]
    return [n for n in changed if not any(n.startswith(f"{other}__") for other in changed)]


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `InputError`, naming the parameters, unless they are those of the fit."""
    changed = changed_params(before, now)
    if changed:
        plain = {n: before[n] for n in changed if n in before and _is_plain(before[n])}
        back = ", ".join(f"{name}={value!r}" for name, value in plain.items())
        raise InputError(
            f"{', '.join(changed)} changed by set_params after the fit: fit again, or set "
            + (f"it back ({back})" if back else "it back")
        )


def run_as_asked(part: Any, params: Mapping[str, Any], name: str) -> None:
    """Give a fitted part what its owner has now of `RUNNING`.

    Parameters
    ----------
    part : feature extractor or None
        It is changed in place.
    params : mapping of str to object
        As ``get_params()`` of the owner gives them.
    name : str
        Name of the part among them. Parameters of the owner itself are for the part too.
    """
    if not isinstance(part, BaseEstimator):
        return
    asked = {
        key.removeprefix(f"{name}__"): value for key, value in params.items() if _runs(key, (name,))
    }
    own = part.get_params()
    differs = {key: value for key, value in asked.items() if key in own and own[key] != value}
    if differs:
        part.set_params(**differs)


def ask_for(owner: Any, name: str, value: Any, parts: Sequence[str]) -> None:
    """Set one of the `RUNNING` parameters, the owner's own or that of its parts.

    Parameters
    ----------
    owner : estimator
        It is changed in place.
    name : str
    value : object
    parts : sequence of str
        Names of parameters that may have it.

    Raises
    ------
    InputError
        Neither the owner nor a part has such a parameter.
    """
    known = [key for key in owner.get_params() if key.split("__")[-1] == name]
    names = [key for key in known if key == name or key.split("__")[0] in parts]
    if not names:
        raise InputError(f"{name}={value!r} was given, but the features have no such parameter")
    owner.set_params(**dict.fromkeys(names, value))


def _runs(name: str, parts: Sequence[str]) -> bool:
    first, *_, last = name.split("__") if "__" in name else (name, name)
    return last in RUNNING and (name == last or first in parts)


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A parameter, and below its name those that it has itself.

    One that was trained before, as an autoencoder is, has no part in the fit but what it learned:
    a model keeps a copy of it, whatever is done to it afterwards.
    """
    if not isinstance(value, BaseEstimator):
        return {name: _comparable(value)}
    found: dict[str, Any] = {name: _class_of(value)}
    if is_trained(value):
        return found
    for own, each in value.get_params(deep=False).items():
        found |= _flat(f"{name}__{own}", each)
    return found


def _comparable(value: Any) -> Any:
    if isinstance(value, BaseEstimator):  # in a list, as the steps of a pipeline
        return _flat("", value)
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _comparable(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, Image.Image)):
        array = np.asarray(value)
        if array.dtype != object:
            digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
            return [str(array.dtype), list(array.shape), digest]
    spec = to_spec(value)
    if isinstance(spec, float) and math.isnan(spec):
        return "nan"  # which equals itself
    if isinstance(spec, dict) or not _is_plain(spec):
        # A copy of the object has another address.
        return [_class_of(value), re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))]
    return spec


def _class_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

"""A fit to some of the images, before it is calibrated, as header and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from mahalad.arrays import below
from mahalad.detectors.changes import changes_arrays, read_changes
from mahalad.detectors.reservoir import read_store, store_arrays, store_record
from mahalad.detectors.state import FitRecipe, FitState, MakeScorer
from mahalad.errors import InputError, ModelFileError
from mahalad.result import Result
from mahalad.scorers.capabilities import capabilities_of

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def describe_state(state: FitState) -> tuple[Header, Arrays]:
    """Describe a state by a header and arrays: all of it but images held out, and parameters.

    Raises
    ------
    InputError
        Its scorer cannot be sent to another process.
    """
    header: Header = {
        "store": store_record(state.store),
        "levels": {name: list(shape) for name, shape in state.levels.items()},
        "turned": state.turned,
        "grouped": state.grouped,
        "unreadable": [{"name": r.name, "error": r.error} for r in state.unreadable],
        "columns": list(state.columns),
        "depths": None if state.depths is None else dict(state.depths),
        "scorer": None,
    }
    arrays = store_arrays("fit", state.store) | changes_arrays(state.changes)
    if state.scorer is not None:
        if not capabilities_of(state.scorer).travels:
            raise InputError(
                f"{type(state.scorer).__name__} is merged from parts, but is not of mahalad and "
                "cannot be sent to another process or written to a checkpoint"
            )
        header["scorer"], own = state.scorer.summed()
        arrays |= {f"scorer/{name}": values for name, values in own.items()}
    return header, arrays


def restore_state(
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    recipe: FitRecipe,
    make_scorer: MakeScorer,
) -> FitState:
    """Return the state that `describe_state` was given.

    Raises
    ------
    ModelFileError
        Header and arrays are not those of a state.
    """
    try:
        levels = {name: list(shape) for name, shape in header["levels"].items()}
        scorer = None
        if header["scorer"] is not None:
            scorer = make_scorer().restore_summed(header["scorer"], below("scorer/", arrays))
        return FitState(
            read_store(
                "fit",
                header["store"],
                arrays,
                tuple(levels),
                capacity=recipe.capacity,
                salt=recipe.salt,
            ),
            scorer=scorer,
            levels=levels,
            turned=bool(header.get("turned", False)),
            grouped=bool(header["grouped"]),
            unreadable=tuple(Result(r["name"], error=r["error"]) for r in header["unreadable"]),
            columns=tuple(header["columns"]),
            depths=header["depths"],
            changes=read_changes(arrays, tuple(levels)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelFileError(f"damaged ({error!r})") from error

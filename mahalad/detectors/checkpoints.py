"""A fit that goes on after a kill: what is read so far, in one file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mahalad.detectors.state import Bounds, FitRecipe, FitState, MakeScorer
from mahalad.detectors.state_file import describe_state, restore_state
from mahalad.errors import InputError, ModelFileError
from mahalad.files.container import read_header, read_model, write_model
from mahalad.images.listing import warn_of_folders
from mahalad.images.manifests import Entry
from mahalad.images.sources import iter_sources

KIND = "fit checkpoint"

_log = logging.getLogger(__name__)

ReadPart = Callable[[Iterator[Entry], FitState | None], FitState | None]
"""Reads all images that it is given into a state of their own; None if there are none.

It is also given the state of the images before them, None if there are none.
"""


class Drawn:
    """Iterate over images, and know how many were drawn, and their names by a hash."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = iter(entries)
        self._hash = hashlib.blake2b(digest_size=16)
        self.n = 0

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        entry = next(self._entries)
        text = json.dumps([entry.source.name, entry.group])
        self._hash.update(text.encode())
        self.n += 1
        return entry

    @property
    def digest(self) -> str:
        """Hash of the names and groups so far."""
        return self._hash.hexdigest()


class Checkpoint:
    """The file of a fit that may be broken off.

    Parameters
    ----------
    path : str or Path
        Need not exist; its folder must.
    recipe : FitRecipe
    make_scorer : callable
        Makes a fresh scorer.
    identity : dict
        Parameters and features of the fit, as JSON.

    Raises
    ------
    ModelFileError
        The folder is missing or not writable; the file is no checkpoint of a fit.
    InputError
        It is that of a fit with other parameters or features.
    """

    def __init__(
        self,
        path: str | Path,
        recipe: FitRecipe,
        make_scorer: MakeScorer,
        identity: Mapping[str, Any],
    ) -> None:
        self._path, self._recipe, self._make_scorer = Path(path), recipe, make_scorer
        self._identity = json.loads(json.dumps(identity))
        folder = self._path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            what = "is missing" if not folder.is_dir() else "is not writable"
            raise ModelFileError(
                f"{path}: no checkpoint can be written: the folder {folder} {what}"
            )
        if os.path.lexists(self._path):
            self._check(read_header(self._path))

    @property
    def turned(self) -> bool | None:
        """Whether the fit that is kept takes images in their quarter turns; None if none is kept.

        Raises
        ------
        ModelFileError
            The file is damaged.
        """
        if not os.path.lexists(self._path):
            return None
        about = read_header(self._path).get("state")
        return bool(about.get("turned")) if isinstance(about, dict) else False

    def resume(self, drawn: Drawn) -> FitState | None:
        """Give what was read, and draw the images that it was read from; None if nothing was.

        Raises
        ------
        InputError
            It was read from other images.
        ModelFileError
            The file is damaged.
        """
        if not os.path.lexists(self._path):
            return None
        header, arrays = read_model(self._path)
        try:
            n, digest = int(header["images"]["n"]), str(header["images"]["digest"])
            state = restore_state(header["state"], arrays, self._recipe, self._make_scorer)
        except (KeyError, TypeError, ValueError, ModelFileError) as error:
            raise ModelFileError(f"{self._path}: the checkpoint is damaged ({error})") from error
        for _ in islice(drawn, n):
            pass
        if drawn.n != n or drawn.digest != digest:
            raise InputError(
                f"{self._path}: the checkpoint of a fit to other images: {n:,} were read then, and "
                f"the first {drawn.n:,} now have other names or another order. Give the same "
                "images, or another file to start again"
            )
        _log.info("%s: goes on after %d images", self._path, n)
        return state

    def write(self, state: FitState, drawn: Drawn) -> None:
        """Keep what was read, whole or not at all.

        Raises
        ------
        ModelFileError
            The file cannot be written; the one before is intact.
        """
        about, arrays = describe_state(state)
        images = {"n": drawn.n, "digest": drawn.digest}
        header = {"kind": KIND, "identity": self._identity, "images": images, "state": about}
        write_model(self._path, header, arrays)

    def _check(self, header: Mapping[str, Any]) -> None:
        if header.get("kind") != KIND:
            found = header.get("kind") or header.get("class") or "something else"
            raise ModelFileError(
                f"{self._path}: holds no checkpoint of a fit ({found}): give another file"
            )
        before = header.get("identity")
        if before != self._identity:
            stored = before if isinstance(before, dict) else {}
            flat, now = _flat(stored), _flat(self._identity)
            differs = [name for name in flat | now if flat.get(name) != now.get(name)]
            raise InputError(
                f"{self._path}: the checkpoint of another fit: "
                + "; ".join(f"{n} was {flat.get(n)!r}, is {now.get(n)!r}" for n in differs)
                + ". Go on with the same parameters, or give another file to start again"
            )


def read_in_turns(
    entries: Iterable[Entry],
    read_part: ReadPart,
    every: int,
    checkpoint: Checkpoint | None = None,
    on_resumed: Callable[[int], object] = lambda n: None,
) -> FitState:
    """Read images into one state, `every` of them at a time.

    Parameters
    ----------
    entries : iterable of Entry
    read_part : callable
    every : int
    checkpoint : Checkpoint, optional
        What it knows is not read again, and it is written after each turn.
    on_resumed : callable
        Is told how many images the checkpoint knows.

    Raises
    ------
    InputError
        No images.
    """
    drawn = Drawn(entries)
    state = None if checkpoint is None else checkpoint.resume(drawn)
    on_resumed(drawn.n)
    while (first := next(drawn, None)) is not None:
        found = read_part(chain([first], islice(drawn, every - 1)), state)
        if found is not None:
            state = found if state is None else state.merge(found)
        if checkpoint is not None and state is not None:
            checkpoint.write(state, drawn)
    if state is None:
        raise InputError("no images")
    return state


def read_with_checkpoint(
    read: Callable[..., FitState],
    X: Any,
    groups: Sequence[Any] | None,
    every: int,
    checkpoint: Checkpoint,
    *,
    stacklevel: int = 3,
) -> FitState:
    """Read images into a state, and go on from a file after a kill.

    Parameters
    ----------
    read : callable
        `FitReader.read` of the fit.
    X : images
    groups : sequence of length n_images or None
    every : int
        Images after which the file is written.
    checkpoint : Checkpoint
    stacklevel : int, default=3
        Of the warnings: 3 blames the caller of the function that calls this one.

    Raises
    ------
    InputError
        `groups` and `X` differ in length, or the file is of other images.
    """
    warn_of_folders(X, stacklevel=stacklevel + 1)

    def read_part(entries: Iterator[Entry], before: FitState | None) -> FitState:
        own = list(entries)
        told = None if groups is None else [entry.group for entry in own]
        bounds = Bounds() if before is None else before.bounds
        sources = [entry.source for entry in own]
        return read(sources, told, bounds=bounds, stacklevel=stacklevel + 2)

    return read_in_turns(_entries(X, groups), read_part, every, checkpoint)


def _entries(X: Any, groups: Sequence[Any] | None) -> Iterator[Entry]:
    n = 0
    for n, source in enumerate(iter_sources(X), start=1):
        if groups is not None and n > len(groups):
            raise InputError(f"groups has {len(groups)} entries, but X has more images")
        yield Entry(source, n, "" if groups is None else str(groups[n - 1]))
    if groups is not None and n != len(groups):
        raise InputError(f"groups has {len(groups)} entries, but X has {n} images")


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Names and values of parameters, and of what identifies features."""
    found = dict(identity.get("params") or {})
    features = identity.get("features")
    own = features if isinstance(features, dict) else {"": features}
    return found | {f"features {name}".strip(): value for name, value in own.items()}

"""An exported graph in an engine: arrays in, arrays out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, MissingExtraError, ModelFileError, first_line
from mahalad.features.engines.packages import sending_nothing
from mahalad.files.onnx import read_record


class Runner(Protocol):
    """An engine that has a graph.

    Attributes
    ----------
    record : str or None
        What the file says of the model, as JSON.
    inputs, outputs : tuple of str
    """

    record: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, given: dict[str, NDArray[Any]], names: Sequence[str]) -> list[NDArray[Any]]:
        """Compute the outputs with these names; inputs with defaults need not be given."""
        ...


def imported(package: str, what: str, extra: str) -> Any:
    """Import the package of an engine, which a model of some kind needs.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        with sending_nothing():
            return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs the package {package}, which is not installed: "
            f'pip install {package}, or pip install "mahalad[{extra}]"'
        ) from error


@contextmanager
def opening(name: str, engine: str, package: Any, oldest: str) -> Iterator[None]:
    """Say which file an engine cannot open, and the oldest version of it that can.

    Raises
    ------
    ModelFileError
        In place of any error within.
    """
    try:
        yield
    except Exception as error:  # engines have kinds of their own
        raise ModelFileError(
            f"{name}: {engine} {package.__version__} cannot open it ({first_line(error)}): it "
            f"needs {oldest} or newer (pip install --upgrade {package.__name__}), or export the "
            "model again"
        ) from error


class Session:
    """An exported graph, and what its file says of it.

    Parameters
    ----------
    runner : Runner
    name : str
        Of the file, for errors.

    Attributes
    ----------
    record : dict
        What the file says of the model.
    inputs, outputs : tuple of str

    Raises
    ------
    ModelFileError
        The file is of another origin.
    """

    def __init__(self, runner: Runner, name: str) -> None:
        self.record = read_record(runner.record, name)
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner, self._name = runner, name

    @property
    def side(self) -> int:
        """Side S, in pixels, of the squares that go in."""
        return int(self.record["images"]["side"])

    def run(
        self,
        pixels: NDArray[Any],
        boxes: NDArray[Any] | None = None,
        *,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the graph on squares.

        Parameters
        ----------
        pixels : ndarray of shape (n, 3, S, S)
            uint8, or, of deeper images, float32 in [0, 1]; red first.
        boxes : ndarray of shape (n, 4), optional
            Where pictures lie in their squares, as shares of the side: left, top, right, bottom.
            For models of padded images, and only these.
        outputs : sequence of str, optional
            None for all.

        Raises
        ------
        InputError
            An array of another shape or type.
        """
        pixels = np.asarray(pixels)
        shape = (3, self.side, self.side)
        if pixels.ndim != 4 or pixels.shape[1:] != shape or pixels.dtype not in (
            np.uint8, np.float32,
        ):  # fmt: skip
            raise InputError(
                f"{self._name}: takes pixels of shape (n, 3, {self.side}, {self.side}), of uint8, "
                f"or float32 in [0, 1]; got {pixels.dtype} of shape {pixels.shape}"
            )
        given: dict[str, NDArray[Any]] = {}
        if pixels.dtype == np.float32:
            if not (pixels.min(initial=0) >= 0 and pixels.max(initial=1) <= 1):
                raise InputError(f"{self._name}: pixels of float32 must be in [0, 1]")
            deep = pixels * np.float32(255)
            pixels = deep.astype(np.uint8)
            given["fraction"] = deep - pixels
        given["pixels"] = pixels
        if ("box" in self.inputs) != (boxes is not None):
            text = "needs the boxes of" if boxes is None else "knows no boxes, as it has no"
            raise InputError(f"{self._name}: {text} padded pictures")
        if boxes is not None:
            boxes = np.asarray(boxes, dtype=np.float32)
            if boxes.shape != (len(pixels), 4):
                raise InputError(
                    f"{self._name}: takes boxes of shape ({len(pixels)}, 4), got {boxes.shape}"
                )
            given["box"] = boxes
        names = list(self.outputs if outputs is None else outputs)
        return dict(zip(names, self._runner.run(given, names), strict=True))

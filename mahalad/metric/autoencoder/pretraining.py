"""How an autoencoder is trained: the images it sees, the steps it takes, the order of both."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mahalad.errors import InputError
from mahalad.images.spool import Pictures
from mahalad.metric.autoencoder.networks import AutoencoderNetwork, get_weights, set_weights
from mahalad.progress import Progress

_log = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")
_PREFIX = "network/"


def as_batch(prepared: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Stack prepared images, uint8 or float32 in [0, 1], to (n, 3, S, S), float32 in [0, 1]."""
    if any(image.dtype != np.uint8 for image in prepared):
        prepared = [
            image / np.float32(255) if image.dtype == np.uint8 else image for image in prepared
        ]
    x = torch.from_numpy(np.stack(prepared)).to(device).permute(0, 3, 1, 2)  # (n, 3, S, S)
    scale = 255.0 if x.dtype == torch.uint8 else 1.0
    return x.to(torch.float32, memory_format=torch.channels_last) / scale


class Training:
    """A network, its optimizer (Adam) and what was done so far: what a checkpoint holds.

    Attributes
    ----------
    history : list of dict
        Of each epoch done: its number from 1, the mean loss, and the seconds it took.
    n_steps : int
        Steps of the optimizer.
    """

    def __init__(self, network: AutoencoderNetwork, learning_rate: float) -> None:
        self.network = network
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.history: list[dict[str, Any]] = []
        self.n_steps = 0
        self._device = next(network.parameters()).device

    def step(self, prepared: Sequence[NDArray[Any]]) -> float:
        """Take one step, and return the loss before it."""
        x = as_batch(prepared, self._device)
        self.optimizer.zero_grad()
        loss = functional.mse_loss(self.network(x), x)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.n_steps += 1
        return loss.item()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the weights, and the optimizer's two moments of every parameter's gradient."""
        found = {f"{_PREFIX}{n}": value for n, value in get_weights(self.network).items()}
        for name, parameter in self.network.named_parameters():
            for moment in _MOMENTS:
                value = self.optimizer.state[parameter][moment]
                found[f"{moment}/{name}"] = value.cpu().numpy()
        return found

    def restore(
        self, arrays: dict[str, NDArray[Any]], history: list[dict[str, Any]], n_steps: int
    ) -> None:
        """Become what `arrays` described.

        Raises
        ------
        KeyError, RuntimeError, ValueError
            An array is missing, or of another shape.
        """
        set_weights(self.network, {n.removeprefix(_PREFIX): v for n, v in arrays.items()})
        for name, parameter in self.network.named_parameters():
            # As the optimizer makes them, in the memory layout of the parameter: the same
            # arithmetic over another layout may round in another way.
            moments = {moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS}
            for moment, value in moments.items():
                value.copy_(torch.from_numpy(arrays[f"{moment}/{name}"]))
            self.optimizer.state[parameter] = {"step": torch.tensor(float(n_steps)), **moments}
        self.history, self.n_steps = list(history), n_steps


def train(
    training: Training,
    pictures: Pictures,
    *,
    epochs: int,
    batch_size: int,
    random_state: int,
    after_epoch: Callable[[], None],
    progress: Progress,
) -> None:
    """Train until `epochs` are done, counted with those before.

    All that is random is drawn from `random_state` and the number of the epoch, so a training
    that is taken up again needs no state of a generator. The learning rate is constant: so a
    training of 10 epochs that goes on to 20 is one of 20. (On 2,800 pictures of coffee beans, one
    that falls along half a cosine gave a loss only 5 % smaller.)

    Parameters
    ----------
    after_epoch : callable
        Called after each epoch, to write a checkpoint.
    progress : callable
        Wraps an iterable with one item for every image of every epoch still to be done.

    Raises
    ------
    InputError
        The loss is no longer a finite number.
    """
    n, first = len(pictures), len(training.history)
    total = n * (epochs - first)
    ticks = iter(progress(range(total), total))
    training.network.train()
    for epoch in range(first, epochs):
        start, loss_sum = time.perf_counter(), 0.0
        for rows in shuffled_batches(n, batch_size, random_state, epoch):
            loss = training.step([pictures[row] for row in rows.tolist()])
            if not math.isfinite(loss):
                raise InputError(
                    f"the training diverged: in epoch {epoch + 1} the loss became {loss}; "
                    f"learning_rate={training.learning_rate:g} is too large: give a smaller one"
                )
            loss_sum += loss * len(rows)
            for _ in islice(ticks, len(rows)):
                pass
        seconds = round(time.perf_counter() - start, 3)
        training.history.append({"epoch": epoch + 1, "loss": loss_sum / n, "seconds": seconds})
        _log.info("epoch %d of %d: loss %.4g, %.1f s", epoch + 1, epochs, loss_sum / n, seconds)
        after_epoch()
    for _ in ticks:  # a progress bar ends when it is asked for more
        pass


def shuffled_batches(
    n: int, batch_size: int, random_state: int, epoch: int
) -> list[NDArray[np.intp]]:
    """Put rows 0 to n - 1 (n >= 2) in a random order, in batches of nearly equal size.

    No batch has a single image, of which batch normalization may have no variance; a batch may
    have one image more than `batch_size` for that.
    """
    order = np.random.default_rng([random_state, epoch]).permutation(n)
    return np.array_split(order, min(math.ceil(n / batch_size), n // 2))

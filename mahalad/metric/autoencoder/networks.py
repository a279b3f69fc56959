"""The autoencoder's network: an encoder like ResNet-18, and a decoder that mirrors it.

Both have four stages of two residual blocks. Where the encoder halves the grid by a stride, the
decoder doubles it by repeating pixels and convolving: a transposed convolution, whose steps
overlap unevenly, would leave a checkerboard (Odena et al., 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

STRIDE = 32
"""Pixels of the image per position of the encoder's last grid."""

SIZES = ("bottleneck", "width", "input_size")
"""What makes one such network differ in shape from another."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the grid is halved, kept or doubled.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    stride : int, default=1
        2 halves the grid.
    enlarge : int, default=1
        2 doubles the grid.

    References
    ----------
    K. He et al., "Deep Residual Learning for Image Recognition", 2015, figure 5 (left).
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, enlarge: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.enlarge: nn.Module = nn.Identity()
        if enlarge > 1:
            self.enlarge = nn.Upsample(scale_factor=enlarge)  # nearest
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if n_in != n_out or stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, h, w) to (n, n_out, h', w')."""
        main = torch.relu(self.bn1(self.conv1(self.enlarge(x))))
        # Every second position is taken before the 1x1 convolution, not by a stride of it: with
        # torch 2.14 on CPUs without AVX-512, the gradient of a strided one with fewer than 8
        # channels in channels_last memory is wrong, and writes beyond its memory.
        reduced = x[:, :, :: self.stride, :: self.stride]
        # The shortcut is enlarged last: 1x1 convolutions cost a quarter on the small grid.
        shortcut = self.enlarge(self.shortcut(reduced))
        return torch.relu(self.bn2(self.conv2(main)) + shortcut)


def make_encoder(bottleneck: int, width: int, input_size: int) -> nn.Sequential:
    """Make ResNet-18 with a linear layer over its last grid: (n, 3, S, S) to (n, bottleneck).

    The last grid is not averaged over positions: 128 numbers must say where things are, too.
    """
    side = input_size // STRIDE
    return nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),  # (n, w, S/2, S/2)
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),  # (n, w, S/4, S/4)
        ResidualBlock(width, width),
        ResidualBlock(width, width),
        ResidualBlock(width, 2 * width, stride=2),  # (n, 2w, S/8, S/8)
        ResidualBlock(2 * width, 2 * width),
        ResidualBlock(2 * width, 4 * width, stride=2),  # (n, 4w, S/16, S/16)
        ResidualBlock(4 * width, 4 * width),
        ResidualBlock(4 * width, 8 * width, stride=2),  # (n, 8w, S/32, S/32)
        ResidualBlock(8 * width, 8 * width),
        nn.Flatten(),
        nn.Linear(8 * width * side**2, bottleneck),
    )


def make_decoder(bottleneck: int, width: int, input_size: int) -> nn.Sequential:
    """Make the encoder's stages in reverse: (n, bottleneck) to (n, 3, S, S) in [0, 1]."""
    side, half = input_size // STRIDE, max(width // 2, 1)
    return nn.Sequential(
        nn.Linear(bottleneck, 8 * width * side**2),
        nn.Unflatten(1, (8 * width, side, side)),  # (n, 8w, S/32, S/32)
        ResidualBlock(8 * width, 8 * width),
        ResidualBlock(8 * width, 4 * width, enlarge=2),  # (n, 4w, S/16, S/16)
        ResidualBlock(4 * width, 4 * width),
        ResidualBlock(4 * width, 2 * width, enlarge=2),  # (n, 2w, S/8, S/8)
        ResidualBlock(2 * width, 2 * width),
        ResidualBlock(2 * width, width, enlarge=2),  # (n, w, S/4, S/4)
        ResidualBlock(width, width),
        ResidualBlock(width, width),
        nn.Upsample(scale_factor=2),
        # Half the channels from here: a third of a step's time is spent on these two grids.
        nn.Conv2d(width, half, 3, padding=1, bias=False),  # (n, w/2, S/2, S/2)
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(half, 3, 3, padding=1),  # (n, 3, S, S)
        nn.Sigmoid(),
    )


class AutoencoderNetwork(nn.Module):
    """Encoder and decoder, with the sizes that belong to them."""

    def __init__(self, bottleneck: int, width: int, input_size: int) -> None:
        super().__init__()
        self.bottleneck, self.width, self.input_size = bottleneck, width, input_size
        self.encoder = make_encoder(bottleneck, width, input_size)
        self.decoder = make_decoder(bottleneck, width, input_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, 3, S, S) in [0, 1] to reconstructions of the same shape and range."""
        reconstructed: Tensor = self.decoder(self.encoder(x))
        return reconstructed


def make_network(
    bottleneck: int, width: int, input_size: int, random_state: int
) -> AutoencoderNetwork:
    """Make an untrained network on the CPU; torch's own random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(random_state)
        network = AutoencoderNetwork(bottleneck, width, input_size)
    return network.to(memory_format=torch.channels_last)


def get_weights(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Give weights and statistics of a network by name."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def set_weights(network: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Give a network the weights that `get_weights` took.

    Raises
    ------
    KeyError, ValueError
        The first that is missing, or of another shape.
    """
    own = network.state_dict()
    for name, value in own.items():
        if weights[name].shape != tuple(value.shape):
            raise ValueError(f"{name} is of shape {weights[name].shape}, not {tuple(value.shape)}")
    network.load_state_dict({name: torch.from_numpy(weights[name]) for name in own})

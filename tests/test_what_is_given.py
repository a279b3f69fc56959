"""What is given instead of images: the error has the line to write."""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mahalad.errors import InputError
from mahalad.images.decoding import open_image
from mahalad.images.sources import iter_sources


class Pairs(Dataset):
    """Images with labels, as data sets of torch are."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return torch.zeros(3, 8, 9), 0


class DataFrame:
    """As those of pandas and polars: iterating gives the names of the columns."""

    def __iter__(self):
        return iter(["path", "label"])


FLOATS = torch.rand(2, 3, 8, 9)
LAST = FLOATS.permute(0, 2, 3, 1)
UINT8 = (FLOATS * 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("X", "line"),
    [
        (b"png", "X is of type bytes; .* give PIL.Image.open(io.BytesIO(data))"),
        ([None], "X[0] is of type NoneType; .* OpenCV gives None for a file or frame that it"),
        ([b"png"], "X[0] is of type bytes; .* give PIL.Image.open(io.BytesIO(data))"),
        ([bytearray(b"png")], "X[0] is of type bytearray; .* give PIL.Image.open(io.BytesIO(data"),
        (io.BytesIO(b"png"), "X is of type BytesIO; .* give PIL.Image.open(file)"),
        ([io.BytesIO(b"png")], "X[0] is of type BytesIO; .* give PIL.Image.open(file)"),
        (FLOATS, "X is of type Tensor; .* float in [0, 1], give X.permute(0, 2, 3, 1).cpu().numpy"),
        (FLOATS[0], "X is of type Tensor; .* give [X.permute(1, 2, 0).cpu().numpy()]"),
        (list(FLOATS), "X[0] is of type Tensor; .* give (image.permute(1, 2, 0).cpu().numpy() for"),
        (LAST, "X is of type Tensor; .* channels last, uint8 or float in [0, 1], give X.cpu()"),
        (LAST[0], "X is of type Tensor; .* channels last, .* give [X.cpu().numpy()]"),
        (list(LAST), "X[0] is of type Tensor; .* give (image.cpu().numpy() for image in X)"),
        ([LAST], "X[0] is of type Tensor; .* give (images.cpu().numpy() for images in X)"),
        (torch.zeros(2, 1, 8, 3), "X is of type Tensor; .* give X.permute(0, 2, 3, 1).cpu()"),
        (
            DataLoader(FLOATS, batch_size=2),
            "X[0] is of type Tensor; .* give (images.permute(0, 2, 3, 1).cpu().numpy() for images",
        ),
        (
            DataLoader(TensorDataset(FLOATS, torch.zeros(2)), batch_size=2),
            "X[0] is of type list; .* give (image for image, label in X)",
        ),
        ([(np.zeros((8, 9, 3)), 0)], "X[0] is of type tuple; .* (image for image, label in X)"),
        (Pairs(), "X is of type Pairs; .* give (X[i] for i in range(len(X)))"),
        (DataFrame(), "X is of type DataFrame; .* give the column of paths, as X['path']"),
        (np.zeros((8, 9, 3)), "X is one array of shape (8, 9, 3), .* give [array] for one image"),
    ],
)
def test_the_error_has_the_line_to_write(X, line):
    with pytest.raises(InputError) as caught:
        list(iter_sources(X))
    start, *ends = line.split(" .* ")
    assert str(caught.value).startswith(start)
    assert all(end in str(caught.value) for end in ends)


@pytest.mark.parametrize("tensors", [FLOATS, UINT8])
def test_the_lines_do_what_they_say(tensors):
    expected = np.moveaxis((FLOATS if tensors is FLOATS else UINT8).numpy(), 1, 3)
    X = tensors
    given = [
        X.permute(0, 2, 3, 1).cpu().numpy(),
        (image.permute(1, 2, 0).cpu().numpy() for image in X),
        (images.permute(0, 2, 3, 1).cpu().numpy() for images in DataLoader(X, batch_size=2)),
        [*[X[0].permute(1, 2, 0).cpu().numpy()], *[X[1].permute(1, 2, 0).cpu().numpy()]],
    ]
    for images in given:
        found = [np.asarray(open_image(source)) for source in iter_sources(images)]
        np.testing.assert_array_equal(found, expected)


def test_a_column_of_paths_is_a_list(tmp_path):
    class Series:
        """As pandas': values, a length, no Sequence."""

        def __init__(self, values):
            self.values = values

        def __iter__(self):
            return iter(self.values)

        def __len__(self):
            return len(self.values)

    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (source,) = iter_sources(Series([str(tmp_path / "a.png")]))
    assert source.path == tmp_path / "a.png"


def views(buffer):
    """New arrays over the same memory, as drivers of cameras give them."""
    return [np.frombuffer(buffer, np.uint8).reshape(8, 9, 3) for _ in range(3)]


def pages(tmp_path):
    path = tmp_path / "pages.tif"
    Image.new("L", (2, 2)).save(path, save_all=True, append_images=[Image.new("L", (2, 2), 9)])
    return list(ImageSequence.Iterator(Image.open(path)))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: [np.zeros((8, 9, 3)), *[np.zeros((8, 9))] * 2], "2 .* (X[1], X[2])"),
        (lambda folder: views(bytearray(8 * 9 * 3)), "3 .* (X[0], X[1], ...)"),
        (pages, "2 .* (X[0], X[1])"),
    ],
)
def test_a_list_of_one_buffer_is_warned_of(tmp_path, make, told):
    start, end = (re.escape(part) for part in told.split(" .* "))
    images = make(tmp_path)
    match = rf"^{start} images of the list are one and the same in memory {end}: .* iterator"
    with pytest.warns(UserWarning, match=match):
        assert len(list(iter_sources(images))) == len(images)


def test_lists_of_several_buffers_are_not_warned_of():
    batch = np.zeros((3, 8, 9, 3), np.uint8)
    line = np.zeros((4, 12, 3), np.uint8)  # its crops start at other places
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (list(batch), [line[:, :4], line[:, 4:8], line[:, :6]], ["a.png"] * 2):
            assert len(list(iter_sources(images))) == len(images)
        assert len(list(iter_sources(image for image in [batch[0]] * 2))) == 2

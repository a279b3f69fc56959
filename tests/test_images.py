"""Sources, decoding rules and resizing: values against arithmetic done here by hand."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mahalad.errors import ImageReadError, ImageValueError, InputError, SeveralPagesWarning
from mahalad.images.decoding import open_image
from mahalad.images.resizing import resize_square
from mahalad.images.sources import ImageSource, iter_sources

WRITTEN = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm",
    ".gif",
)  # fmt: skip

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def decode(X):
    """Decode the only image in `X` to an array."""
    (source,) = iter_sources(X)
    return np.asarray(open_image(source))


def picture(rng, height=6, width=8):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(values, colour_type, bits, transparency=b""):
    """Write a PNG by the specification, for the kinds that Pillow cannot write."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width = values.shape[:2]
    rows = values.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", transparency) if transparency else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


# --- iter_sources ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tree with images, other files and hidden ones, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("parts/b.PNG", "parts/a.jpg", "parts/a/z.tif", "parts/a-b/y.webp", "parts/c.gif"),
        *("parts/notes.txt", "parts/.hidden.png", "parts/.cache/x.png", "parts/[1].png"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    return tmp_path


TREE = [
    "parts/[1].png", "parts/a/z.tif", "parts/a-b/y.webp", "parts/a.jpg", "parts/b.PNG",
    "parts/c.gif",
]  # fmt: skip


@pytest.mark.parametrize(
    ("X", "names"),
    [
        ("parts", TREE),
        (Path("parts"), TREE),
        ("parts/.cache", ["parts/.cache/x.png"]),
        (["parts"], TREE),
        ("parts/notes.txt", ["parts/notes.txt"]),
        ("./parts/b.PNG", ["./parts/b.PNG"]),
        ("parts/*.png", ["parts/[1].png"]),
        ("parts/*.txt", ["parts/notes.txt"]),
        ("parts/?.*", ["parts/a.jpg", "parts/b.PNG", "parts/c.gif"]),
        ("**/*.[tw][ie]*", ["parts/a/z.tif", "parts/a-b/y.webp"]),
        (
            "parts/**",
            sorted([*TREE, "parts/notes.txt"], key=lambda n: Path(n).parts),
        ),
        ("parts/[1].png", ["parts/[1].png"]),  # exists literally; as a pattern: parts/1.png
        (
            ["parts/b.PNG", "parts/a", "parts/*.gif"],
            ["parts/b.PNG", "parts/a/z.tif", "parts/c.gif"],
        ),
        (["gone.png", Path("a.jpg")], ["gone.png", "a.jpg"]),
        (["gone/*.png", "parts/a.jpg"], ["gone/*.png", "parts/a.jpg"]),
        (np.array(["parts/a.jpg", "parts/b.PNG"]), ["parts/a.jpg", "parts/b.PNG"]),
        (("parts/a.jpg" for _ in range(2)), ["parts/a.jpg", "parts/a.jpg"]),
        (Image.new("L", (2, 2)), ["X[0]"]),
        (
            ["parts/a.jpg", Image.new("L", (2, 2)), np.zeros((2, 2))],
            ["parts/a.jpg", "X[1]", "X[2]"],
        ),
        (np.zeros((2, 4, 4, 3)), ["X[0]", "X[1]"]),
        (np.zeros((1, 4, 4, 1)), ["X[0]"]),
        ([np.zeros((4, 4)), np.zeros((2, 4, 4, 3))], ["X[0]", "X[1][0]", "X[1][1]"]),
    ],
)
def test_sources_are_found_in_a_fixed_order(folder, X, names):
    sources = list(iter_sources(X))
    assert [source.name for source in sources] == names
    for source in sources:
        in_memory = source.name.startswith("X[")
        assert source.path == (None if in_memory else Path(source.name))
        assert in_memory or source.value == source.path


def test_linked_folders_are_followed_once(folder):
    os.symlink(folder / "parts", folder / "parts" / "a" / "up")
    os.symlink(folder / "parts", folder / "linked")
    assert [source.name for source in iter_sources("parts")] == TREE
    assert [s.name for s in iter_sources("linked")] == [n.replace("parts", "linked") for n in TREE]


def test_batch_items_are_the_rows(rng):
    batch = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    for source, row in zip(iter_sources(batch), batch, strict=True):
        np.testing.assert_array_equal(np.asarray(open_image(source)), row)


def test_an_iterator_is_never_consumed_ahead():
    taken = []

    def images():
        for k in range(3):
            taken.append(k)
            yield Image.new("L", (2, 2), k)

    sources = iter_sources(images())
    assert taken == []
    next(sources)
    assert taken == [0]
    next(sources)
    assert taken == [0, 1]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("gone.png", r"^gone\.png: no such file or folder \(tried /.*/gone\.png\)"),
        (Path("gone"), r"^gone: no such file or folder"),
        ("gone/*.png", r"^gone/\*\.png: no file matches this pattern"),
        ("part[s]", r"no file matches this pattern"),  # a folder only
        ("", r"X is '', which is not a path"),
        ([""], r"X\[0\] is '', which is not a path"),
        (
            "empty",
            r"^empty: no images in this folder \(.*extensions: 0; looked for \.png, ",
        ),
        ("texts", r"other extensions: 3 \(2 x \.txt, 1 x no extension\); .*\.tiff"),
        (["parts", "empty"], r"^empty: no images in this folder"),
        ([], r"^no images: X is an empty list"),
        ((), r"^no images: X is an empty tuple"),
        (iter([]), r"^no images: X is an empty list_iterator"),
        (np.zeros((0, 4, 4, 3)), r"^no images: X is an array of shape \(0, 4, 4, 3\)"),
        (np.zeros((4, 4)), r"shape \(4, 4\), .*give \[array\] for one image"),
        (np.zeros((4, 4, 3)), r"shape \(4, 4, 3\), .*give \[array\] for one image"),
        (np.zeros((2, 3, 8, 8)), r"\(2, 3, 8, 8\).*channel-first.*transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 5)), r"\(2, 8, 8, 5\); allowed are \(n, H, W, 3\)"),
        (np.zeros((1, 2, 8, 8, 3)), r"\(1, 2, 8, 8, 3\); allowed"),
        (np.array(1), r"shape \(\); allowed"),
        (3, r"^X is of type int; allowed are a file, a folder"),
        (None, r"^X is of type NoneType; allowed"),
        (b"a.png", r"^X is of type bytes; allowed"),
        ({"a": 1}, r"^X is of type dict; allowed"),
        ({"a.png"}, r"^X is of type set; allowed"),
        (io.BytesIO(), r"^X is of type BytesIO; allowed"),
        (["parts", None], r"^X\[1\] is of type NoneType; allowed"),
        ([["a.png"]], r"^X\[0\] is of type list; allowed"),
    ],
)
def test_unusable_input_is_refused(folder, X, message):
    for name in ("empty/.hidden.png", "texts/a.txt", "texts/b.TXT", "texts/c"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    with pytest.raises(InputError, match=message):
        list(iter_sources(X))


@pytest.fixture
def locked(folder, monkeypatch):
    """`parts/a-b` cannot be listed."""
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "a-b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_refused_where_nothing_else_is_given(locked):
    with pytest.raises(InputError, match=r"^parts/a-b: folder cannot be listed: Permission denied"):
        list(iter_sources("parts/a-b"))


@pytest.mark.parametrize("X", ["parts", ["parts"], [*TREE[:2], "parts/a-b", *TREE[3:]]])
def test_a_folder_within_that_cannot_be_listed_fails_when_it_is_opened(locked, X):
    sources = list(iter_sources(X))
    assert [s.name for s in sources] == [*TREE[:2], "parts/a-b", *TREE[3:]]
    with pytest.raises(ImageReadError, match=r"^parts/a-b: folder cannot be listed: Permission"):
        open_image(sources[2])


# --- open_image: files ----------------------------------------------------------------------


@pytest.mark.parametrize("extension", [*WRITTEN, ".dat"])
def test_every_extension_is_read(tmp_path, extension):
    path = tmp_path / f"picture{extension.upper()}"
    lossy = {".jpg", ".jpeg", ".jfif", ".webp"}
    kind = {".dat": "PNG", ".pgm": "PPM", ".jfif": "JPEG"}.get(extension)
    grey = extension == ".pgm"
    Image.new("L" if grey else "RGB", (16, 8), 100 if grey else (10, 100, 200)).save(path, kind)
    expected = (100, 100, 100) if grey else (10, 100, 200)
    result = decode(path)
    assert result.shape == (8, 16, 3)
    assert np.abs(result.astype(int) - expected).max() <= (4 if extension in lossy else 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "memory"])
@pytest.mark.parametrize(
    ("orientation", "undo"),  # the stored picture is undo(upright)
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, kind, orientation, undo):
    corners = np.array([[[0] * 3, [80] * 3, [80] * 3], [[160] * 3, [240] * 3, [240] * 3]], np.uint8)
    upright = corners.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    stored.save(path, "PNG" if kind == "memory" else kind, exif=exif)
    if kind == "memory":
        with Image.open(path) as given:
            result = decode(given)
            assert given.size == stored.size
    else:
        result = decode(path)
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).max() <= 3


def grey16():
    return np.array([[0, 1, 4095], [32768, 65534, 65535]], np.uint16)


@pytest.mark.parametrize(
    ("extension", "dtype", "mode"),
    [
        (".png", np.uint16, "I;16"),
        (".tif", np.uint16, "I;16"),
        (".tif", ">u2", "I;16B"),
        (".tif", np.int32, "I"),
        (".pgm", np.uint16, "I"),
    ],
)
def test_16_bit_grey_is_divided_by_65535(tmp_path, extension, dtype, mode):
    path = tmp_path / f"deep{extension}"
    Image.fromarray(grey16().astype(dtype)).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    result = decode(path)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, grey16().astype(np.float32) / np.float32(65535))


def test_a_16_bit_picture_is_not_white(tmp_path, rng):
    """`convert("RGB")` would clip every value above 255."""
    path = tmp_path / "deep.png"
    Image.fromarray(rng.integers(300, 65536, (32, 32), dtype=np.uint16)).save(path)
    result = resize_square(open_image(next(iter_sources(path))), 16)
    assert 0.4 < result.mean() < 0.6
    assert result.max() < 0.95


def test_a_12_bit_pgm_states_its_maximum(tmp_path):
    path = tmp_path / "camera.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    np.testing.assert_allclose(decode(path), [[0, 2048 / 4095, 1]], atol=1e-5)


def test_16_bit_grey_colour_key_is_white(tmp_path):
    path = tmp_path / "key.png"
    path.write_bytes(png(grey16(), 0, 16, transparency=struct.pack(">H", 4095)))
    np.testing.assert_allclose(decode(path)[0], [0, 1 / 65535, 1], rtol=1e-6)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_png_keeps_the_upper_8_bits(tmp_path, rng, colour_type, channels):
    values = rng.integers(0, 65536, (4, 5, channels), dtype=np.uint16)
    if channels != 3:
        values[:, :, -1] = 65535  # opaque
    path = tmp_path / "deep.png"
    path.write_bytes(png(values, colour_type, 16))
    upper = (values >> 8).astype(np.uint8)
    expected = upper[:, :, :3] if channels != 2 else upper[:, :, [0, 0, 0]]
    np.testing.assert_array_equal(decode(path), expected)


def test_float_tiff_keeps_its_values(tmp_path):
    values = np.array([[0, 0.25], [0.5, 1]], np.float32)
    path = tmp_path / "float.tif"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(decode(path), values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 4095]], np.float32), r"float values from 0 to 4095;.*sensor's maximum"),
        (np.array([[-0.5, 1]], np.float32), r"float values from -0\.5 to 1;.*sensor's maximum"),
        (np.array([[0, np.nan]], np.float32), r"float values from 0 to 0, 1 NaN or infinite;"),
        (np.array([[np.inf, np.nan]], np.float32), r"float values none finite, 2 NaN or infinite;"),
        (
            np.array([[0, 65536]], np.int32),
            r"integer values from 0 to 65536; allowed is 0\.\.65535",
        ),
        (np.array([[-1, 5]], np.int32), r"integer values from -1 to 5; allowed is 0\.\.65535"),
    ],
)
def test_deep_files_out_of_range_are_refused(tmp_path, values, message):
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(ImageValueError, match=f"^{re.escape(str(path))}: {message}"):
        decode(path)


def test_the_first_frame_is_taken(tmp_path):
    path = tmp_path / "frames.tif"
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, WHITE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(SeveralPagesWarning, match=r"frames\.tif: has 2 pages, and the first one"):
        assert (decode(path) == RED).all()


def test_8_bit_png_colour_keys_are_white(tmp_path):
    grey = np.array([[10, 20]], np.uint8)
    path = tmp_path / "key.png"
    path.write_bytes(png(grey, 0, 8, transparency=struct.pack(">H", 20)))
    np.testing.assert_array_equal(decode(path), [[[10] * 3, WHITE]])
    colour = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    path.write_bytes(png(colour, 2, 8, transparency=struct.pack(">HHH", 1, 2, 3)))
    np.testing.assert_array_equal(decode(path), [[WHITE, [4, 5, 6]]])


# --- open_image: modes in memory ------------------------------------------------------------


def palette_image(transparency=None):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def mix(value, alpha):
    return round((value * alpha + 255 * (255 - alpha)) / 255)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (1, 1), (1, 2, 3)), [(1, 2, 3)]),
        (Image.new("L", (1, 1), 7), [(7, 7, 7)]),
        (Image.new("1", (1, 1), 1), [WHITE]),
        (Image.new("1", (1, 1), 0), [(0, 0, 0)]),
        (palette_image(), [RED, (0, 0, 255)]),
        (palette_image(transparency=1), [RED, WHITE]),
        (palette_image(transparency=bytes([255, 128])), [RED, (mix(0, 128), mix(0, 128), 255)]),
        (Image.new("RGBA", (1, 1), (9, 9, 9, 0)), [(9, 9, 9)]),  # nobody used alpha
        (Image.new("RGBA", (1, 1), (9, 8, 7, 255)), [(9, 8, 7)]),
        (Image.new("RGBA", (1, 1), (0, 100, 200, 64)), [(mix(0, 64), mix(100, 64), mix(200, 64))]),
        (Image.new("LA", (1, 1), (40, 51)), [(mix(40, 51),) * 3]),
        (Image.new("LA", (1, 1), (40, 51)).convert("La"), [(mix(40, 51),) * 3]),
        (palette_image(transparency=1).convert("PA"), [RED, WHITE]),
        (Image.new("RGBa", (1, 1), (0, 0, 0, 0)), [(0, 0, 0)]),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [RED]),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), [(0, 0, 0)]),
        (Image.new("YCbCr", (1, 1), (76, 128, 128)), [(76, 76, 76)]),
        (Image.new("HSV", (1, 1), (0, 255, 255)), [RED]),
        (Image.new("LAB", (1, 1), (255, 128, 128)), [WHITE]),  # Pillow adds 128 to a and b
    ],
)
@pytest.mark.filterwarnings("ignore:.*its alpha is 0 everywhere")
def test_modes_become_rgb_by_the_stated_rules(image, expected):
    result = open_image(ImageSource("X[0]", None, image))
    assert isinstance(result, Image.Image)
    assert result.mode == "RGB"
    assert np.abs(np.asarray(result)[0].astype(int) - expected).max() <= 1


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    assert np.abs(decode(path).astype(int) - RED).max() <= 2


def test_the_given_picture_is_neither_changed_nor_closed(tmp_path):
    path = tmp_path / "frames.tif"
    Image.new("RGB", (2, 3), RED).save(
        path, save_all=True, append_images=[Image.new("RGB", (2, 3), WHITE)]
    )
    with Image.open(path) as given:
        result = open_image(ImageSource("X[0]", None, given))
        assert result is not given
        given.seek(1)
        assert given.getpixel((0, 0)) == WHITE
        assert np.asarray(result)[0, 0].tolist() == list(RED)


def test_an_empty_picture_is_refused():
    with pytest.raises(ImageValueError, match=r"^X\[0\]: picture of size \(0, 3\); allowed is 1 x"):
        decode(Image.new("RGB", (0, 3)))


# --- open_image: arrays ---------------------------------------------------------------------

HALF = np.full((2, 3, 4), 0.5)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 200]], np.uint8), np.array([[[0] * 3, [200] * 3]])),
        (np.array([[[0], [200]]], np.uint8), np.array([[[0] * 3, [200] * 3]])),
        (np.array([[[1, 2, 3]]], np.uint8), np.array([[[1, 2, 3]]])),
        (np.array([[[3, 2, 1]]], np.uint8)[:, :, ::-1], np.array([[[1, 2, 3]]])),
        (np.array([[[0, 100, 200, 51]]], np.uint8), np.array([[[204, 224, 244]]])),
        (np.array([[False, True]]), np.array([[[0] * 3, [255] * 3]])),
        (grey16(), grey16() / 65535),
        (grey16()[:, :, None].astype(">u2"), grey16() / 65535),
        (np.array([[[0, 13107, 65535, 13107]]], np.uint16), np.array([[[0.8, 0.84, 1]]])),
        (HALF[:, :, 0].astype(np.float16), np.full((2, 3), 0.5)),
        (HALF[:, :, :3].astype(np.float32), np.full((2, 3, 3), 0.5)),
        (HALF, np.full((2, 3, 3), 0.75)),
        (HALF[:, :, :1], np.full((2, 3), 0.5)),
    ],
)
def test_arrays_keep_their_values(array, expected):
    before = array.copy()
    result = open_image(ImageSource("X[0]", None, array))
    if array.dtype in (np.uint8, np.bool_):
        assert isinstance(result, Image.Image)
        np.testing.assert_array_equal(np.asarray(result), expected)
    else:
        assert result.dtype == np.float32
        assert result.flags.c_contiguous
        assert not np.shares_memory(result, array)
        np.testing.assert_allclose(result, expected, atol=1e-6, strict=False)
        assert result.shape == expected.shape
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.int64), r"array of type int64; .*cast to uint8"),
        (np.zeros((2, 2), np.uint32), r"array of type uint32; .*cast to uint8"),
        (np.zeros((2, 2), np.complex64), r"array of type complex64"),
        (np.array([["a.png"]]), r"array of type <U5"),
        (np.full((2, 2), 255.0), r"float values from 255 to 255; .*sensor's maximum \(255 for 8"),
        (np.array([[-1e-3, 1]]), r"float values from -0\.001 to 1;"),
        (np.array([[0.5, np.nan]]), r"from 0\.5 to 0\.5, 1 NaN or infinite"),
        (np.array([[0.5, -np.inf]], np.float16), r"from 0\.5 to 0\.5, 1 NaN or infinite"),
        (np.zeros(4), r"array of shape \(4,\); allowed are \(H, W\)"),
        (np.zeros((1, 1, 2, 2, 3)), r"array of shape \(1, 1, 2, 2, 3\)"),
        (np.zeros((4, 4, 2)), r"array of shape \(4, 4, 2\); allowed"),
        (np.zeros((0, 4, 3)), r"array of shape \(0, 4, 3\); .*not empty"),
        (np.zeros((3, 8, 9)), r"\(3, 8, 9\); .*channel-first: give array\.transpose\(1, 2, 0\)"),
    ],
)
def test_unusable_arrays_are_refused(array, message):
    _, source = iter_sources([np.zeros((2, 2)), array])
    with pytest.raises(ImageValueError, match=r"^X\[1\]: .*" + message):
        open_image(source)


# --- open_image: broken files ---------------------------------------------------------------


def encoded(kind, rng):
    file = io.BytesIO()
    Image.fromarray(picture(rng, 64, 64)).save(file, kind)
    return file.getvalue()


def break_file(path, kind):
    """Make `path` unreadable in one way; return what the message must say."""
    rng = np.random.default_rng(0)
    if kind == "missing":
        return r"no such file or folder \(tried /"
    if kind == "folder":
        path.mkdir()
        return "is a folder, not an image file"
    if kind == "pipe":
        os.mkfifo(path)
        return "is not a regular file"
    if kind == "dangling link":
        path.symlink_to("nowhere.png")
        return "no such file or folder"
    valid = {"JPEG": encoded("JPEG", rng), "PNG": encoded("PNG", rng), "TIFF": encoded("TIFF", rng)}
    content, message = {
        "empty": (b"", r"is empty \(0 bytes\)"),
        "text": (b"hello", r"not an image that Pillow can read; its first bytes are b'hello'"),
        "truncated JPEG": (valid["JPEG"][:-500], r"cannot be decoded: .*truncated"),
        "truncated PNG": (valid["PNG"][:5000], r"cannot be decoded: .*truncated"),
        "truncated TIFF": (valid["TIFF"][:5000], r"(cannot be decoded|not an image)"),
        "header only": (valid["PNG"][:20], r"(cannot be decoded|not an image)"),
        "damaged PNG": (
            valid["PNG"][:60] + bytes(100) + valid["PNG"][160:],
            r"cannot be decoded: .+",
        ),
    }[kind]
    path.write_bytes(content)
    return message


BROKEN = [
    *("missing", "folder", "pipe", "dangling link", "empty", "text", "truncated JPEG"),
    *("truncated PNG", "truncated TIFF", "header only", "damaged PNG"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, about the damaged TIFF
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path, kind):
    path = tmp_path / "part.png"
    message = break_file(path, kind)
    with pytest.raises(ImageReadError, match=f"^{re.escape(str(path))}: {message}") as caught:
        open_image(ImageSource(str(path), path, path))
    if kind not in ("empty", "folder", "pipe"):
        assert caught.value.__cause__ is not None


def test_a_missing_file_in_a_list_fails_only_when_opened(tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGB", (2, 2), RED).save(good)
    gone, pattern, last = iter_sources([tmp_path / "gone.png", str(tmp_path / "*.bmp"), good])
    with pytest.raises(ImageReadError, match=r"gone\.png: no such file or folder"):
        open_image(gone)
    with pytest.raises(ImageReadError, match=r"\*\.bmp: no file matches this pattern"):
        open_image(pattern)
    assert (np.asarray(open_image(last)) == RED).all()


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    """By a stand-in for `open`, since tests may run as root, who may read everything."""
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageReadError, match=r"secret\.png: no permission to read this file"):
        open_image(ImageSource(str(path), path, path))


def test_a_damaged_picture_in_memory_is_named_by_its_position(tmp_path):
    path = tmp_path / "cut.jpg"
    break_file(path, "truncated JPEG")
    with (
        Image.open(path) as given,
        pytest.raises(ImageReadError, match=r"^X\[0\]: cannot be decoded: .*truncated"),
    ):
        decode(given)


@pytest.mark.parametrize("unusual", [IndexError, KeyError, AssertionError, struct.error, EOFError])
def test_whatever_pillow_raises_is_converted(tmp_path, monkeypatch, unusual):
    path = tmp_path / "part.png"
    Image.new("RGB", (2, 2)).save(path)

    def fail(*_, **__):
        raise unusual

    monkeypatch.setattr("mahalad.images.decoding.Image.open", fail)
    with pytest.raises(ImageReadError, match=rf"part\.png: cannot be decoded: {unusual.__name__}"):
        decode(path)


@pytest.mark.parametrize(
    ("limit", "filters"),
    [
        (0.015e6, "ignore"),  # above the limit: Pillow warns, mahalad refuses
        (0.015e6, "error"),  # the same under `python -W error`
        (0.005e6, "ignore"),  # above twice the limit: Pillow refuses
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, recwarn, limit, filters):
    path = tmp_path / "bomb.png"
    Image.new("L", (200, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(limit))
    warnings.simplefilter(filters, Image.DecompressionBombWarning)
    message = rf"bomb\.png: holds 0\.02 megapixels, .* limit of {limit / 1e6:g}; .*MAX_IMAGE_PIXELS"
    with pytest.raises(ImageReadError, match=message):
        decode(path)


def test_no_limit_on_pixels(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("L", (200, 100), 3).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert (decode(path) == 3).all()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
@pytest.mark.parametrize("kind", ["good", "text", "truncated JPEG", "damaged PNG"])
def test_files_are_closed(tmp_path, kind):
    path = tmp_path / "part.png"
    if kind == "good":
        Image.new("RGB", (4, 4)).save(path)
    else:
        break_file(path, kind)
    try:
        kept = open_image(ImageSource(str(path), path, path))
    except ImageReadError as error:
        kept = error  # its traceback keeps the frames alive, so nothing is closed by chance
    names = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert kept is not None
    assert str(path) not in names


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_eight_threads_read_good_and_broken_files(tmp_path, rng):
    values = picture(rng)
    sources, expected = [], []
    for k, kind in enumerate([*BROKEN, *["good"] * len(BROKEN)]):
        path = tmp_path / f"{k}.png"
        if kind == "good":
            Image.fromarray(values).save(path)
        else:
            break_file(path, kind)
        sources.append(ImageSource(str(path), path, path))
        expected.append(kind == "good")

    def is_read(source):
        try:
            return bool((np.asarray(open_image(source)) == values).all())
        except ImageReadError as error:
            assert str(error).startswith(f"{source.name}: ")  # noqa: PT017 (in a thread)
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(is_read, sources * 5)) == expected * 5


# --- resize_square --------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_keeps_a_constant_and_the_size(interpolation):
    given = Image.new("RGB", (37, 11), (10, 20, 30))
    result = resize_square(given, 16, interpolation)
    assert result.dtype == np.uint8
    assert (result == (10, 20, 30)).all()
    assert result.shape == (16, 16, 3)
    assert result.flags.c_contiguous and result.flags.writeable
    deep = resize_square(np.full((11, 37, 3), 0.25, np.float32), 16, interpolation)
    assert deep.dtype == np.float32
    assert deep.shape == (16, 16, 3)
    assert deep.flags.c_contiguous and deep.flags.writeable
    np.testing.assert_allclose(deep, 0.25, rtol=1e-6)


def bilinear_weights(n_out, n_in):
    """The triangle filter, stretched by the scale when it shrinks: the rule of antialiasing."""
    scale = max(n_in / n_out, 1.0)
    weights = np.empty((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * n_in / n_out
        weights[i] = np.maximum(1 - abs(np.arange(n_in) + 0.5 - centre) / scale, 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(24, 36), (5, 9), (12, 12)])
def test_bilinear_against_the_formula(rng, shape):
    values = rng.random((*shape, 3)).astype(np.float32)
    rows, columns = (bilinear_weights(12, n) for n in shape)
    expected = np.einsum("ih,hwc,jw->ijc", rows, values, columns)
    np.testing.assert_allclose(resize_square(values, 12, "bilinear"), expected, atol=1e-5)
    np.testing.assert_allclose(
        resize_square(np.ascontiguousarray(values[:, :, 0]), 12, "bilinear"),
        expected[:, :, [0, 0, 0]],
        atol=1e-5,
    )


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("kind", ["smooth", "noise", "edges"])
def test_8_and_16_bit_versions_of_a_picture_agree(tmp_path, rng, interpolation, kind):
    grid = np.add.outer(np.arange(90), np.arange(120))
    values = {
        "smooth": np.rint(127.5 + 127.5 * np.sin(grid / 17)),
        "noise": rng.integers(0, 256, grid.shape),
        "edges": 255 * (grid // 7 % 2),
    }[kind].astype(np.uint8)
    shallow, deep = tmp_path / "8.png", tmp_path / "16.png"
    Image.fromarray(values).save(shallow)
    Image.fromarray(values.astype(np.uint16) * 257).save(deep)
    eight, sixteen = (
        resize_square(open_image(source), 48, interpolation)
        for source in iter_sources([shallow, deep])
    )
    assert sixteen.min() >= 0 and sixteen.max() <= 1
    assert np.abs(eight / 255 - sixteen).max() <= 1 / 255


@pytest.mark.parametrize(
    ("image", "size", "interpolation", "message"),
    [
        (
            Image.new("RGB", (2, 2)),
            2,
            "cubic",
            r"interpolation is 'cubic'; allowed are nearest, bil",
        ),
        (Image.new("RGB", (2, 2)), 0, "bicubic", r"size is 0; allowed is 1 pixel or more"),
        (Image.new("L", (2, 2)), 2, "bicubic", r"mode 'L'; allowed is 'RGB'"),
        (np.zeros((2, 2, 4), np.float32), 2, "bicubic", r"shape \(2, 2, 4\); allowed are \(H, W\)"),
    ],
)
def test_resize_refuses(image, size, interpolation, message):
    with pytest.raises(ValueError, match=message):
        resize_square(image, size, interpolation)


def test_import_does_not_load_torch():
    program = "import sys, mahalad.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

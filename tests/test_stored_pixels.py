"""Files of every way to store pixels: decoded to the values that another writer put there.

TIFFs are written by tifffile, or bit by bit as the specification says; PNGs by the specification.
Each is read right, or refused with an error; `docs/images.md` has the table.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mahalad.errors import ImageReadError, ImageValueError
from mahalad.images.decoding import open_image
from mahalad.images.sources import ImageSource

HEIGHT, WIDTH = 37, 50


def decode(value):
    """Decode a file or a picture to floats of 0..255, (H, W, 3)."""
    path = value if isinstance(value, Path) else None
    found = np.asarray(open_image(ImageSource("part", path, value)))
    values = found.astype(np.float64) * (1 if found.dtype == np.uint8 else 255)
    return values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)


def outcome(path, expected, tolerance):
    """What comes of a file: "read", the error, or, with the difference, "WRONG"."""
    if expected.ndim == 2:
        expected = np.repeat(expected[:, :, None], 3, axis=2)
    try:
        found = decode(path)
    except (ImageReadError, ImageValueError) as error:
        return str(error)
    assert found.shape == expected.shape
    difference = np.abs(found - 255 * expected).max()
    return "read" if difference <= tolerance else f"WRONG by {difference:.0f}"


def on_white(values, alpha):
    return values * alpha + (1 - alpha)


# -- TIFF by tifffile ----------------------------------------------------------------------

LAYOUTS = list(product("<>", [None, "zlib"], [None, (16, 16)]))
"""Byte orders, compressions and tiles."""

UNKNOWN = "not an image that Pillow can read"
PLANAR = r"is a TIFF whose channels \(.*\) are stored one after the other \(planar\).*: save it"
ORDER = r"is a compressed big-endian TIFF of signed integers or floats.*: save it as little-endian"
RAW = r"cannot be decoded: unknown raw mode"  # Pillow's own


def samples(rng, n, dtype):
    """Pixels, and what they are on a scale of 0..1."""
    shape = (HEIGHT, WIDTH) if n == 1 else (HEIGHT, WIDTH, n)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = rng.random(shape).astype(dtype)
        return values, values.astype(np.float64)
    most = {"bool": 1, "uint8": 255, "int8": 127, "int16": 32767}.get(dtype.name, 65535)
    values = rng.integers(0, most + 1, shape).astype(dtype)
    return values, values / (most if dtype.name in ("bool", "uint8", "int8") else 65535)


# Photometric, samples, extra samples, type: what must come of it, interleaved and planar.
# Of planar files: "read", an error, or one for those without and one for those with compression.
TIFFS = {
    **{("minisblack", 1, (), t): ("read",) for t in ("bool", "u1", "u2", "i2", "u4", "i4", "f4")},
    **{("miniswhite", 1, (), t): ("read",) for t in ("bool", "u1", "u2", "f4")},
    **{("minisblack", 1, (), t): (UNKNOWN,) for t in ("f2", "f8")},
    **{("miniswhite", 1, (), t): (UNKNOWN,) for t in ("i1", "i2", "u4", "i4", "f2", "f8")},
    ("minisblack", 1, (), "i1"): (r"is a TIFF of signed 8-bit integers.*: save it as unsigned",),
    ("palette", 1, (), "u1"): ("read",),
    ("palette", 1, (), "u2"): (UNKNOWN,),
    ("minisblack", 2, ("unassalpha",), "u1"): ("read", PLANAR),
    ("minisblack", 2, ("assocalpha",), "u1"): ("read", PLANAR),
    ("minisblack", 2, ("unspecified",), "u1"): ("read", (UNKNOWN, "read")),
    ("minisblack", 2, ("unassalpha",), "u2"): (UNKNOWN, UNKNOWN),
    ("minisblack", 2, ("unspecified",), "u2"): (UNKNOWN, (PLANAR, "read")),
    ("miniswhite", 2, ("unassalpha",), "u1"): (UNKNOWN, UNKNOWN),
    ("rgb", 3, (), "u1"): ("read", "read"),
    ("rgb", 3, (), "u2"): ("read", (PLANAR, "read")),
    **{("rgb", 3, (), t): (UNKNOWN, UNKNOWN) for t in ("i1", "i2", "u4", "i4", "f2", "f4", "f8")},
    ("rgb", 4, ("unassalpha",), "u1"): ("read", "read"),
    ("rgb", 4, ("unassalpha",), "u2"): ("read", (PLANAR, "read")),
    ("rgb", 4, ("assocalpha",), "u1"): ("read", (RAW, "read")),
    ("rgb", 4, ("assocalpha",), "u2"): ("read", (PLANAR, "read")),
    ("rgb", 4, ("unspecified",), "u1"): ("read", (UNKNOWN, "read")),
    ("rgb", 4, ("unspecified",), "u2"): ("read", (PLANAR, "read")),
    ("rgb", 5, ("unassalpha", "unspecified"), "u1"): ("read", None),
    ("separated", 4, (), "u1"): ("read", "read"),
    ("separated", 4, (), "u2"): ("read", (PLANAR, "read")),
    ("separated", 5, ("unspecified",), "u1"): ("read", (UNKNOWN, "read")),
    ("separated", 5, ("unassalpha",), "u1"): (UNKNOWN, UNKNOWN),
}  # fmt: skip


def meaning(photometric, scaled, extra, colours):
    """Values of 0..1 as they are to be seen, on white."""
    n_extra = len(extra)
    base = scaled if scaled.ndim == 2 else scaled[:, :, : scaled.shape[2] - n_extra]
    if photometric == "palette":
        base = colours
    if photometric == "miniswhite":
        base = 1 - base
    if photometric == "separated":
        base = (1 - base[:, :, :3]) * (1 - base[:, :, 3:])
    if extra and extra[0] != "unspecified":
        alpha = scaled[:, :, base.shape[2], None]
        base = on_white(base, alpha) if extra[0] == "unassalpha" else base + 1 - alpha
    return base[:, :, 0] if base.shape[2:] == (1,) else base


@pytest.mark.parametrize("kind", TIFFS, ids=lambda kind: " ".join(map(str, kind)))
def test_tiffs_are_read_right_or_refused(tmp_path, rng, kind):
    photometric, n, extra, dtype = kind
    for which, (order, compression, tile) in product(range(len(TIFFS[kind])), LAYOUTS):
        wanted = TIFFS[kind][which]
        if wanted is None or (dtype == "bool" and tile):
            continue
        wanted = wanted[compression is not None] if isinstance(wanted, tuple) else wanted
        if (
            (order, compression) == (">", "zlib")
            and wanted == "read"
            and dtype in ("i2", "i4", "f4")
        ):
            wanted = ORDER
        pixels, scaled = samples(rng, n, dtype)
        options, colours = {}, None
        if photometric == "palette":
            table = rng.integers(0, 256, (3, 256 if dtype == "u1" else 65536)).astype(np.uint16)
            options["colormap"], colours = table * 257, np.moveaxis(table[:, pixels], 0, 2) / 255
        if extra and extra[0] == "assocalpha":
            pixels[:, :, :-1] = np.minimum(pixels[:, :, :-1], pixels[:, :, -1:])
            scaled = pixels / np.iinfo(pixels.dtype).max
        path = tmp_path / "pixels.tif"
        tifffile.imwrite(
            path,
            np.moveaxis(pixels, 2, 0) if which else pixels,
            photometric=photometric,
            planarconfig=("contig", "separate")[which] if n > 1 else None,
            extrasamples=extra or None,
            byteorder=order,
            compression=compression,
            tile=tile,
            **options,
        )
        # Of 16 bits in colour, Pillow keeps 8 before it mixes alpha or black in.
        tolerance = 1.01 if n < 4 else 3.01
        found = outcome(path, meaning(photometric, scaled, extra, colours), tolerance)
        case = (which, order, compression, tile)
        assert re.search(wanted, found), (case, wanted, found)
        assert "WRONG" not in found, case


def test_tiffs_of_lab(tmp_path):
    lab = np.zeros((16, 4, 3), np.uint8)
    lab[:, :, 0] = [0, 128, 255, 136]
    lab[:, 3, 1:] = 80, 67  # sRGB's red
    path = tmp_path / "lab.tif"
    tifffile.imwrite(path, lab, photometric="cielab")
    found = decode(path)[0]
    np.testing.assert_allclose(found[:3], [[0] * 3, [119] * 3, [255] * 3], atol=2)
    np.testing.assert_allclose(found[3], [255, 0, 0], atol=12)
    tifffile.imwrite(path, np.moveaxis(lab, 2, 0), photometric="cielab", planarconfig="separate")
    with pytest.raises(ImageReadError, match=PLANAR):
        decode(path)


# -- TIFF by the specification: packed bits, reversed bits -----------------------------------


def packed(values, bits):
    """Rows of numbers of some bits each, the first in the highest; rows begin with a byte."""
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in values]
    digits = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return [row.tobytes() for row in np.packbits(digits.reshape(len(values), -1), axis=1)]


def tiff(values, bits, photometric, fill_order=1):
    """Write a grey TIFF of one strip, little-endian."""
    rows = values.astype("<u2").tobytes() if bits == 16 else b"".join(packed(values, bits))
    if fill_order == 2:
        digits = np.unpackbits(np.frombuffer(rows, np.uint8)[:, None], axis=1)
        rows = np.packbits(digits[:, ::-1], axis=1).tobytes()
    rows += bytes(len(rows) % 2)
    height, width = values.shape
    entries = [
        *((256, width), (257, height), (258, bits), (259, 1), (262, photometric)),
        *((266, fill_order), (273, 8), (277, 1), (278, height), (279, len(rows))),
    ]
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(rows))
    return head + rows + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_tiffs_of_all_depths(tmp_path, rng, bits, white_is_zero, fill_order):
    values = rng.integers(0, 2**bits, (9, 14))
    scaled = values / (2**bits - 1)
    path = tmp_path / "grey.tif"
    path.write_bytes(tiff(values, bits, 0 if white_is_zero else 1, fill_order))
    found = outcome(path, 1 - scaled if white_is_zero else scaled, tolerance=0.01)
    is_read = bits < 8 or (fill_order == 1 and not (bits == 12 and white_is_zero))
    if is_read:
        assert found == "read"
    else:
        assert re.search(f"read|{UNKNOWN}|{RAW}", found), found


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_opened_pictures_are_read_as_files_are(tmp_path, rng, white_is_zero, dtype):
    pixels, scaled = samples(rng, 1, dtype)
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, pixels, photometric="miniswhite" if white_is_zero else "minisblack")
    with Image.open(path) as picture:
        found = decode(picture)[:, :, 0] / 255
        np.testing.assert_array_equal(np.asarray(picture), pixels)  # as it was
    np.testing.assert_allclose(found, 1 - scaled if white_is_zero else scaled, atol=1e-6)


# -- PNG by the specification ----------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]  # fmt: skip


def png(values, colour_type, bits, *, transparency=b"", palette=b"", interlaced=False):
    """Write a PNG; `values` are (H, W) or (H, W, n)."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width = values.shape[:2]
    lines = b""
    for left, top, right, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = values[top::down, left::right]
        lines += b"".join(b"\0" + row for row in packed(part.reshape(len(part), -1), bits))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparency) if transparency else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
N_CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
PNGS = [
    *product([GREY], [1, 2, 4, 8, 16], [False, True]),
    *product([PALETTE], [1, 2, 4, 8], [False, True]),
    *product([COLOUR], [8, 16], [False, True]),
    *product([GREY_ALPHA, COLOUR_ALPHA], [8, 16], [False]),
]
"""Colour types, bits, and whether there is transparency that is no channel."""


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "bits", "transparent"), PNGS)
def test_pngs_are_read_right_or_refused(
    tmp_path, rng, colour_type, bits, transparent, interlaced, opened
):
    n = N_CHANNELS[colour_type]
    values = rng.integers(0, 2**bits, (9, 13) if n == 1 else (9, 13, n))
    scaled, options = values / (2**bits - 1), {}
    alpha = scaled[:, :, -1:] if n in (2, 4) else np.ones((9, 13, 1))
    if colour_type == PALETTE:
        palette = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
        alphas = rng.integers(0, 256, 2**bits, dtype=np.uint8)
        scaled, options["palette"] = palette[values] / 255, palette.tobytes()
        if transparent:
            alpha, options["transparency"] = alphas[values][:, :, None] / 255, alphas.tobytes()
    elif transparent:
        key = np.atleast_1d(values[3, 4])
        options["transparency"] = key.astype(">u2").tobytes()
        alpha = (values.reshape(9, 13, -1) != key).any(axis=2, keepdims=True).astype(float)
    colours = scaled if scaled.ndim == 3 else scaled[:, :, None]
    expected = on_white(colours[:, :, : n - 1] if n in (2, 4) else colours, alpha)
    expected = np.broadcast_to(expected, (9, 13, 3))
    path = tmp_path / "pixels.png"
    path.write_bytes(png(values, colour_type, bits, interlaced=interlaced, **options))
    if opened:
        with Image.open(path) as picture:
            found = outcome(picture, expected, 2)
    else:
        found = outcome(path, expected, 2)
    if (colour_type, bits, transparent) == (COLOUR, 16, True):
        assert re.search(r"is a PNG of 16 bits .* transparent colour, .*: save it with", found)
    else:
        assert found == "read"


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("key", [0, 1, 2, 3])
def test_the_transparent_grey_is_the_one_that_is_stored(tmp_path, bits, key):
    values = np.arange(2**bits)[None]
    path = tmp_path / "grey.png"
    path.write_bytes(png(values, GREY, bits, transparency=struct.pack(">H", key)))
    expected = np.where(values == key, 1, values / (2**bits - 1))
    np.testing.assert_array_equal(decode(path)[:, :, 0], 255 * expected)


def test_a_colour_of_small_16_bit_numbers_is_refused_too(tmp_path):
    values = np.full((2, 2, 3), 7)
    path = tmp_path / "colour.png"
    path.write_bytes(png(values, COLOUR, 16, transparency=struct.pack(">HHH", 7, 7, 7)))
    with pytest.raises(ImageReadError, match="part: is a PNG of 16 bits a channel"):
        decode(path)


# -- PNM: maxima that the header states ------------------------------------------------------


@pytest.mark.parametrize("maximum", [1, 15, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_pnm_states_its_maximum(tmp_path, rng, kind, maximum):
    n = 3 if kind in ("P3", "P6") else 1
    values = rng.integers(0, maximum + 1, (5, 7, n))
    values[0, 0], values[0, 1] = 0, maximum
    if kind in ("P2", "P3"):
        content = " ".join(map(str, values.ravel())).encode()
    else:
        content = values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    path = tmp_path / "pixels.pnm"
    path.write_bytes(f"{kind}\n7 5\n{maximum}\n".encode() + content)
    assert outcome(path, np.broadcast_to(values / maximum, (5, 7, 3)), 1.01) == "read"


# -- metadata that is broken, around good pixels ---------------------------------------------

BROKEN_EXIF = {
    "no header": b"Exif\0\0garbage that is no directory",
    "empty": b"Exif\0\0",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x20\0\x12\x01",
    "far offset": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "wrong type": b"Exif\0\0II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0")  # orientation as text
    + struct.pack("<HHII", 0x8769, 4, 1, 0x7FFFFFFF)  # a directory beyond the end
    + bytes(4),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("broken", BROKEN_EXIF)
def test_a_broken_exif_block_leaves_the_pixels(tmp_path, rng, kind, broken, opened):
    pixels = np.kron(rng.integers(0, 256, (2, 3, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    path = tmp_path / "part"
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    Image.fromarray(pixels).save(path, kind, exif=BROKEN_EXIF[broken], **options)
    if opened:
        with Image.open(path) as picture:
            found = decode(picture)
    else:
        found = decode(path)
    np.testing.assert_allclose(found, pixels, atol=4)


def test_a_broken_exif_block_is_warned_of(tmp_path):
    path = tmp_path / "part.png"
    Image.new("RGB", (16, 16)).save(path, exif=BROKEN_EXIF["no header"])
    with pytest.warns(UserWarning, match=r"^part: its EXIF block cannot be read \(.+\): the pic"):
        decode(path)


def test_a_sound_exif_block_with_odd_entries_still_turns(tmp_path):
    """Pillow's own way of turning writes the block again, and may fail at other entries."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x010F, 99, 4, b"")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    path = tmp_path / "part.png"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(path).shape == (16, 8, 3)

"""Rendered photographs of a machined part, for `mahalad demo`.

A turned steel flange on a wooden bench, all from a seed. Light, pose, texture and sensor noise
change far more pixels than any defect does. The part is a signed distance (its outline) and a
relief (its surface); a defect edits these maps before the light is computed, so that a dent
shades and a chip casts a shadow as the part itself does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from mahalad.checks import Either, IsNone, Limit, OneOf, Whole, check_parameters
from mahalad.errors import InputError

Picture = ArrayLike | Image.Image
Map = NDArray[np.floating[Any]]  # float32 throughout, but numpy's stubs widen some results

# The drawing of the part, in units of its radius.
BORE, HUB, BOLT_CIRCLE, BOLT_HOLE, BEVEL, PLATE = 0.25, 0.46, 0.72, 0.085, 0.035, 0.11
N_BOLT_HOLES = 6
STEEL = (0.97, 0.99, 1.02)


@dataclass(frozen=True)
class _Part:
    """Maps of shape (size, size), lengths in part radii."""

    u: Map  # the part's own coordinates
    v: Map
    angle: float  # from image to part coordinates
    pixel: float  # side of one pixel
    distance: Map  # to the edge of the metal, negative inside
    relief: Map  # height
    tint: Map  # (size, size, 3), multiplies the colour of the metal


def _smoothstep(x: Map) -> Map:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _length(x: Map, y: Map) -> Map:
    return np.sqrt(
        x * x + y * y
    )  # np.hypot guards against overflow, which takes three times as long


def _smooth_noise(rng: Generator, size: int, rows: int, columns: int) -> Map:
    """Return noise of unit scale, with `rows` by `columns` independent cells."""
    cells = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC))


def _bolt_hole(index: int) -> tuple[float, float]:
    angle = 2 * math.pi * index / N_BOLT_HOLES
    return BOLT_CIRCLE * math.cos(angle), BOLT_CIRCLE * math.sin(angle)


def _outline(u: Map, v: Map, missing: int | None = None) -> Map:
    radius = _length(u, v)
    keyway = np.maximum(np.abs(v) - 0.055, np.abs(u - 0.2) - 0.13)
    distance: Map = np.maximum(radius - 1, -np.minimum(radius - BORE, keyway))
    for index in {*range(N_BOLT_HOLES)} - {missing}:
        x, y = _bolt_hole(index)
        distance = np.maximum(distance, BOLT_HOLE - _length(u - x, v - y))
    return distance


def _good_part(rng: Generator, size: int) -> _Part:
    """Lay the part on the bench: any rotation, a small shift, scale and tilt."""
    angle, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.423, 0.437) * size
    shift_x, shift_y = (float(shift) for shift in rng.uniform(-0.012, 0.012, 2) * size)
    tilt = rng.uniform(0.988, 1)
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    x = (axis - shift_x)[None, :] / scale
    y = (axis - shift_y)[:, None] / (scale * tilt)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    radius = _length(u, v)
    hub = 0.035 * _smoothstep((HUB - radius) / 0.05 + 0.5)
    groove = -0.008 * np.exp(-(((radius - 0.9) / 0.012) ** 2))
    tint = np.full((size, size, 3), STEEL, np.float32)
    return _Part(u, v, angle, 1 / scale, _outline(u, v), hub + groove, tint)


def _along(part: _Part, start: tuple[float, float], heading: float) -> tuple[Map, Map]:
    """Return coordinates along and across a line from `start` in direction `heading`."""
    u, v = part.u - start[0], part.v - start[1]
    cosine, sine = math.cos(heading), math.sin(heading)
    return cosine * u + sine * v, cosine * v - sine * u


def _on_face(rng: Generator) -> tuple[float, float]:
    """Draw a point of the outer face between two bolt holes."""
    radius = rng.uniform(0.6, 0.82)
    angle = 2 * math.pi * (rng.integers(N_BOLT_HOLES) + rng.uniform(0.35, 0.65)) / N_BOLT_HOLES
    return radius * math.cos(angle), radius * math.sin(angle)


def _scratch(rng: Generator, part: _Part) -> _Part:
    x, y = _on_face(rng)
    # Within 50 degrees of the tangent: a radial scratch would leave the face too soon.
    heading = math.atan2(x, -y) + rng.uniform(-0.87, 0.87)
    along, across = _along(part, (0.85 * x, 0.85 * y), heading)
    taper = np.clip(1.2 - (along / rng.uniform(0.42, 0.65)) ** 2, 0, 1)
    across = across - rng.uniform(-0.5, 0.5) * along**2
    line = taper * np.exp(-((across / rng.uniform(0.014, 0.018)) ** 2))
    tint = part.tint * (1 + rng.uniform(1.2, 1.7) * line)[..., None]
    return replace(part, relief=part.relief - 0.012 * line, tint=tint)


def _dent(rng: Generator, part: _Part) -> _Part:
    along, across = _along(part, _on_face(rng), rng.uniform(0, 2 * math.pi))
    width = rng.uniform(0.06, 0.095)
    squared = (along / width) ** 2 + (across / (width * rng.uniform(0.7, 1))) ** 2
    bowl = (1 - 0.5 * squared) * np.exp(-squared)  # with a raised lip of displaced metal
    return replace(part, relief=part.relief - rng.uniform(0.75, 1.0) * width * bowl)


def _stain(rng: Generator, part: _Part) -> _Part:
    along, across = _along(part, _on_face(rng), rng.uniform(0, 2 * math.pi))
    width = rng.uniform(0.16, 0.24)
    edge = 1 + 0.35 * _smooth_noise(rng, len(part.u), 24, 24)
    blot = edge - _length(along / width, across / (0.7 * width))
    cover = rng.uniform(0.6, 0.9) * _smoothstep(2.5 * blot)
    absorbed = np.array([0.58, 0.73, 0.86], np.float32)
    return replace(part, tint=part.tint * (1 - cover[..., None] * absorbed))


def _missing_hole(rng: Generator, part: _Part) -> _Part:
    return replace(part, distance=_outline(part.u, part.v, int(rng.integers(N_BOLT_HOLES))))


def _chipped_edge(rng: Generator, part: _Part) -> _Part:
    heading, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.12)
    along, across = _along(part, (1.02 * math.cos(heading), 1.02 * math.sin(heading)), heading)
    rough = 0.18 * width * _smooth_noise(rng, len(part.u), 28, 28)
    bite = width - _length(along, across / rng.uniform(1.1, 1.7)) + rough
    return replace(part, distance=np.maximum(part.distance, bite))


def _crack(rng: Generator, part: _Part) -> _Part:
    x, y = _bolt_hole(int(rng.integers(N_BOLT_HOLES)))
    heading = math.atan2(y, x) + float(rng.choice([-1, 1])) * rng.uniform(1.5, 2.3)
    along, across = _along(part, (x, y), heading)
    length = BOLT_HOLE + rng.uniform(0.48, 0.62)
    path = np.cumsum([0, *rng.normal(0, 0.022, 8)])
    across = across - np.interp(along, np.linspace(0, length, 9), path).astype(np.float32)
    width = 0.032 * np.clip(1.25 - along / length, 0, 1) + 1e-3
    line = (along > 0) * (along < length) * np.exp(-((across / width) ** 2)).astype(np.float32)
    tint = part.tint * (1 - 0.85 * line)[..., None]
    return replace(part, relief=part.relief - 0.01 * line, tint=tint)


DEFECTS: tuple[str, ...] = ("scratch", "dent", "stain", "missing_hole", "chipped_edge", "crack")
_FUNCTIONS = (_scratch, _dent, _stain, _missing_hole, _chipped_edge, _crack)
_EDITS = dict(zip(DEFECTS, _FUNCTIONS, strict=True))
_SIZE = Whole(16)
_PART: dict[str, Limit] = {"defect": Either((OneOf(DEFECTS), IsNone())), "size": _SIZE}
_DATASET: dict[str, Limit] = {
    "n_train": Whole(),
    "n_test_good": Whole(),
    "n_test_per_defect": Whole(),
    "seed": Whole(),
    "size": _SIZE,
}


def _bench(rng: Generator, size: int) -> Map:
    """Return the colour of a wooden bench, shape (size, size, 3)."""
    grain = 0.5 * _smooth_noise(rng, size, 10, 3) + 0.5 * _smooth_noise(rng, size, size // 4, 4)
    grain += 0.5 * _smooth_noise(rng, size, size, size // 12)
    mix = np.clip(0.5 + 0.08 * grain, 0, 1)[..., None]
    dark = np.array([0.085, 0.045, 0.022], np.float32)
    light = np.array([0.27, 0.165, 0.09], np.float32)
    return np.multiply(dark + mix * (light - dark), np.float32(rng.uniform(0.94, 1.06)))


def _turning_marks(rng: Generator, part: _Part) -> Map:
    """Return the marks of the lathe: noise that is long around the axis and short across it."""
    marks = rng.standard_normal((160, 64), dtype=np.float32) * np.float32(0.6)
    marks += rng.standard_normal((160, 1), dtype=np.float32)
    row = np.minimum(_length(part.u, part.v) * 130, 159).astype(np.intp)
    column = ((np.arctan2(part.v, part.u) / (2 * math.pi) + 0.5) * 63.99).astype(np.intp)
    return np.asarray(marks[row, column] * rng.uniform(0.9, 1.1), np.float32)


def _shade(part: _Part, marks: Map, azimuth: float, elevation: float, gloss: float) -> Map:
    """Return the grey level of the metal under a lamp and a weaker fill (linear light)."""
    height = part.relief + BEVEL * _smoothstep(-part.distance / BEVEL)
    slope_y, slope_x = np.gradient(height, part.pixel)
    steepness = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    radius = _length(part.u, part.v) + 1e-3
    grey = np.zeros_like(height)
    for strength, toward, rise in ((1.0, azimuth, elevation), (0.3, azimuth + 2.2, 0.9)):
        x, y = math.cos(toward) * math.cos(rise), math.sin(toward) * math.cos(rise)
        toward_lamp = math.sin(rise) - slope_x * x - slope_y * y
        lit = np.maximum(toward_lamp, 0) * steepness
        # The camera looks straight down: the half vector is (x, y, 1 + sin(rise)).
        facing = np.maximum(1 + toward_lamp, 0) * steepness / math.sqrt(2 + 2 * math.sin(rise))
        # Turned metal shines where the marks run across the light (Kajiya and Kay, 1989).
        turn = toward - part.angle
        tangent = (part.u * math.sin(turn) - part.v * math.cos(turn)) / radius
        fan = (((1 - tangent * tangent) ** 2) ** 2) ** 2  # squares: ** 8 is slow in numpy
        shine = ((facing**2) ** 2) ** 2
        gleam = 0.35 * fan * shine * (1 + 0.09 * marks) + 0.25 * (shine * shine) ** 2
        grey += strength * (0.22 * lit * (1 + 0.02 * marks) + gloss * gleam)
    return grey


def _shadow(inside: Map, azimuth: float, reach: float) -> Map:
    """Return the plate's shadow in 0..1: its outline, `reach` pixels away from the lamp."""
    outline = Image.fromarray((255 * inside).astype(np.uint8))
    shift = (round(-reach * math.cos(azimuth)), round(-reach * math.sin(azimuth)))
    moved = Image.new("L", outline.size)
    moved.paste(outline.filter(ImageFilter.GaussianBlur(outline.width / 110)), shift)
    return np.asarray(moved, np.float32) / 255


def _changed(good: _Part, part: _Part) -> NDArray[np.bool_]:
    """Find where a defect is: where metal came or went, or by a fifth of its depth or colour."""
    where: NDArray[np.bool_] = (good.distance < 0) != (part.distance < 0)
    tint = np.abs(part.tint - good.tint).max(axis=2)
    for change in (np.abs(part.relief - good.relief), tint):  # what is beside the metal is not seen
        where |= (change > max(0.2 * float(change.max()), 1e-6)) & (part.distance < 0)
    return where


def _photograph(rng: Generator, defect: str | None, size: int) -> tuple[Map, NDArray[np.bool_]]:
    """Return the image in 0..255, shape (size, size, 3), of one part, and where its defect is."""
    # A stream of its own for the defect: it leaves light, pose, texture and noise as they are.
    rng, defect_rng = rng.spawn(2)
    part = _good_part(rng, size)
    bench, marks = _bench(rng, size), _turning_marks(rng, part)
    azimuth, elevation = rng.uniform(-2.8, -0.3), rng.uniform(0.8, 1.0)
    gloss, exposure = rng.uniform(0.88, 1.12), rng.uniform(0.92, 1.08)
    falloff = rng.uniform(0.1, 0.25)
    warmth = np.array([1 + 0.015 * rng.normal(), 1, 1 + 0.015 * rng.normal()], np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * rng.uniform(1.4, 1.8)
    good = part
    if defect is not None:
        part = _EDITS[defect](defect_rng, part)
    metal = _shade(part, marks, azimuth, elevation, gloss)
    inside = np.clip(0.5 - part.distance / part.pixel, 0, 1)
    reach = PLATE / math.tan(elevation) / part.pixel
    scene: Map = bench * (1 - 0.8 * _shadow(inside, azimuth, reach))[..., None]
    scene += inside[..., None] * (metal[..., None] * part.tint - scene)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    gradient = math.cos(azimuth) * axis + math.sin(azimuth) * axis[:, None]
    scene *= exposure * (1 + falloff * gradient)[..., None] * warmth
    # Square root: the display gamma, near enough, and ten times as fast as a power.
    noise += 255 * np.sqrt(np.clip(scene, 0, 1))
    return noise, np.zeros((size, size), bool) if part is good else _changed(good, part)


def render_part(rng: Generator, defect: str | None = None, size: int = 256) -> Image.Image:
    """Render one photograph of the part.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all variation. Equal generators give the same image with and without defect.
    defect : str or None, default=None
        One of `DEFECTS`; None is a good part.
    size : int, default=256
        Side of the square RGB image in pixels, 16 or more.

    Raises
    ------
    InputError
        An unknown defect, or a size below 16.

    Examples
    --------
    >>> render_part(default_rng(0), "dent", size=64).size
    (64, 64)
    """
    return render_masked(rng, defect, size)[0]


def render_masked(
    rng: Generator, defect: str | None = None, size: int = 256
) -> tuple[Image.Image, Image.Image]:
    """Render one photograph of the part, and the mask of its defect: white where it is.

    Parameters and errors are those of `render_part`.
    """
    check_parameters(_PART, {"defect": defect, "size": size})
    pixels, where = _photograph(rng, defect, size)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Image.fromarray(where)


def write_dataset(
    folder: Path,
    *,
    n_train: int,
    n_test_good: int,
    n_test_per_defect: int,
    seed: int,
    size: int = 256,
) -> Path:
    """Write a set of rendered images in the layout of MVTec AD and return `folder`.

    It receives `train/good`, `test/good` and `test/<defect>` with `000.png`, `001.png`, ..., and
    `ground_truth/<defect>` with the masks `000_mask.png`, ... Files of the same name are replaced,
    others left alone. Larger counts add images and change none. `InputError` for a count or seed
    below 0, or a size below 16.
    """
    given = {"n_train": n_train, "n_test_good": n_test_good, "seed": seed, "size": size}
    check_parameters(_DATASET, given | {"n_test_per_defect": n_test_per_defect})
    counts = {"train/good": n_train, "test/good": n_test_good}
    counts |= {f"test/{defect}": n_test_per_defect for defect in DEFECTS}
    seeds = SeedSequence(seed).spawn(len(counts))
    for group_seed, (name, count) in zip(seeds, counts.items(), strict=True):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        defect = target.name if target.name in DEFECTS else None
        masks = folder / "ground_truth" / target.name
        if defect is not None:
            masks.mkdir(parents=True, exist_ok=True)
        for index, image_seed in enumerate(group_seed.spawn(count)):
            image, mask = render_masked(default_rng(image_seed), defect, size)
            image.save(target / f"{index:03d}.png", compress_level=1)
            if defect is not None:
                mask.save(masks / f"{index:03d}_mask.png")
    return folder


def pixel_baseline_scores(train: Sequence[Picture], test: Sequence[Picture]) -> NDArray[np.float64]:
    """Score images by the Euclidean distance of their pixels to the mean training image.

    Returns one distance in grey levels for each test image, shape (n_test,), up = abnormal.
    All images have one shape; `InputError` if not, or if `train` is empty.
    """
    shapes = sorted({np.asarray(image).shape for image in (*train, *test)})
    if len(train) == 0 or len(shapes) > 1:
        raise InputError(f"need images, all of one shape; got {len(train)} for training, {shapes=}")
    # One image at a time: all of them at once as floats would be hundreds of megabytes.
    mean = sum(np.asarray(image, np.float64) for image in train) / len(train)
    return np.array([np.linalg.norm(np.asarray(image, np.float64) - mean) for image in test])

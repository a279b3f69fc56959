"""Options that commands share, and the detector that they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from mahalad.checks import BATCH_SIZE, FPR, INPUT_SIZE, N_AUGMENT, TILES, Whole
from mahalad.choices import (
    CHANGES,
    ENGINES,
    NEAR_COPIES,
    NEIGHBOURHOODS,
    RESIZE,
    SCOPES,
    SCORERS,
    THRESHOLDS,
)
from mahalad.commands.gathering import pages_option, yes_option
from mahalad.commands.lists import AnyOrientation, Tolerated, parse_levels

PRESETS = ("rippel2020",)
_SCORERS = tuple(name for name in SCORERS if name != "spade")  # which needs another threshold
_POOLED = {
    "scorer": _SCORERS[1:],
    "threshold": ("chi2-nominal",),
    "table": ("levels", "distances"),
}
"""Values of options that only features pooled over the image can have."""


class Fpr(click.ParamType[float]):
    """A rate between 0 and 1, exclusive, or in per cent: 0.05 or 5%."""

    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read a rate, or fail with what is allowed."""
        try:
            rate = float(_without_percent(value))
        except (TypeError, ValueError):
            rate = -1.0
        if not FPR.allows(rate):
            self.fail(
                f"{value!r} is not a rate between 0 and 1 (exclusive), for example 0.05 or 5%"
            )
        return rate


class Share(click.FloatRange):
    """A number in a range, or that number in per cent."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Read a share, or fail with what is allowed."""
        return super().convert(_without_percent(value), param, ctx)


def _without_percent(value: Any) -> Any:
    """Turn "5%" and "5 %" into 0.05; leave all else, and what is no number, as it is."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    try:
        return float(value.strip().removesuffix("%")) / 100
    except ValueError:
        return value


class Neighbourhood(click.ParamType[int | str]):
    """Steps from 0 to 5, "nearest" or "all"."""

    name = "steps"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """Read a number of steps, or fail with what is allowed."""
        text = str(value).strip()
        known = {str(steps): steps for steps in NEIGHBOURHOODS}
        if text not in known:
            most = max(steps for steps in NEIGHBOURHOODS if isinstance(steps, int))
            self.fail(
                f"{value!r} is neither a number of positions from 0 to {most} nor 'all' "
                "nor 'nearest'"
            )
        return known[text]


def _allow_pixels(ctx: click.Context, option: Any, value: int | None) -> None:
    """Set Pillow's limit, which holds for the process, while the command runs."""
    if value is None:
        return
    from PIL import Image

    ctx.call_on_close(partial(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS))
    Image.MAX_IMAGE_PIXELS = value


max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(min=1), default=None, metavar="N", expose_value=False,
    callback=_allow_pixels,
    help="Largest picture that is read, in pixels (width times height). Default: 89478485, as a "
         "small file may hold a picture that fills the memory.",
)  # fmt: skip


bits_option = click.option(
    "--bits", type=click.IntRange(8, 16), default=None, metavar="N",
    help="Bits that are used of pictures stored in 16, as 12 by many cameras: white is 2^N - 1. "
         "Default: as the model says; else 16, with a warning where that is a guess.",
)  # fmt: skip


engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), default="torch", show_default=True,
    help="What computes the network: torch; onnx or openvino, faster on a CPU (pip install "
         "'mahalad[onnx]' or 'mahalad[openvino]'); auto: the fastest that is installed.",
)  # fmt: skip
saved_engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), default=None,
    help="What computes the network, as for `fit`. Default: as at fit. Another one is refused if "
         "the model's check inputs score otherwise by it.",
)  # fmt: skip


def whole_range(limit: Whole) -> click.IntRange:
    """Give the range of an option from the limit of the library's parameter."""
    return click.IntRange(limit.least, limit.most)


def decorate(options: Iterable[Callable[[Any], Any]], command: Any) -> Any:
    """Decorate a command with options, in their order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


def network_options(command: Any) -> Any:
    """Add options that say which features are extracted."""
    return decorate(
        [
            click.option("--backbone", default="tf_efficientnet_lite0", show_default=True,
                         help="Any timm network, with a tag if wanted."),
            click.option("--weights", metavar="FILE|hub", default=None,
                         help="Weights file (.safetensors, .pth), or 'hub' for timm's. "
                              "Default: from the backbone's package, else timm's hub."),
            click.option("--levels", default=None,
                         help="Names or indices, separated by commas. Default: the maps of "
                              "strides 4, 8 and 16 (of a ViT those of two blocks); with --scope "
                              "image all levels ('all')."),
            click.option("--size", type=whole_range(INPUT_SIZE), default=None,
                         help="Side of the square that images become. Default: 320; with --scope "
                              "image the network's own size. For a ViT the nearest multiple of "
                              "its patches' side."),
            click.option("--resize", type=click.Choice(RESIZE), default="squash",
                         show_default=True,
                         help="How images become a square. squash: stretched. pad: aspect kept, "
                              "in the middle, edges repeated around; what is around does not "
                              "count."),
            click.option("--tiles", type=whole_range(TILES), default=1, show_default=True,
                         metavar="K",
                         help="For high-resolution images: K x K tiles of that size pass through "
                              "the network one by one (time, memory and file: K^2 times)."),
            click.option("--device", default="auto", show_default=True,
                         help="auto (CUDA where there is one), cpu, cuda, cuda:1, ..."),
            engine_option,
            click.option("--batch-size", type=whole_range(BATCH_SIZE), default=32,
                         show_default=True,
                         help="Images, or tiles, per pass through the network."),
            max_pixels_option,
        ],
        command,
    )  # fmt: skip


def detector_options(command: Any, published: Sequence[str] = ()) -> Any:
    """Add options that say how features are scored and judged; some have `published` scorers."""
    baselines = (
        f" Not so {' and '.join(published)}: the published methods, over maps, as baselines."
        if published
        else ""
    )
    return decorate(
        [
            click.option("--scope", type=click.Choice(SCOPES), default="positions",
                         show_default=True,
                         help="positions: place by place (small defects; parts in about "
                              "the same place). image: the paper's, of features pooled over the "
                              "whole image."),
            click.option("--neighbourhood", type=Neighbourhood(), default="nearest",
                         show_default=True, metavar="nearest|0..5|all",
                         help="What a place is compared with: the nearest good patch about it "
                              "(and, for scores, its Gaussian), or a Gaussian alone, of this place "
                              "and of those up to so many steps away (more work), or of all; for "
                              "--scope positions."),
            click.option("--tolerate", type=Tolerated(), default="auto", show_default=True,
                         metavar="auto|none|KINDS",
                         help="Harmless changes of pictures that shall not be taken for defects: "
                              f"{', '.join(CHANGES)}. auto: all, unless --reduction or "
                              "--threshold chi2-nominal; for --scorer gaussian or knn."),
            click.option("--any-orientation", type=AnyOrientation(), default="auto",
                         show_default=True, metavar="auto|yes|no",
                         help="Whether images of the fit count in their four quarter turns, for "
                              "parts that lie at any angle. auto: of 10 to 100 images, if these "
                              "are to each other, turned, as they are unturned; for --scorer "
                              "gaussian."),
            click.option("--reduction", default=None, metavar="pca|npca[:SHARE]",
                         help="Keep the first (pca) or last (npca) principal components; implies "
                              "--scope image."),
            click.option("--scorer", type=click.Choice((*_SCORERS, *published)),
                         default="gaussian", show_default=True,
                         help="Distance to the good images, per level; others than gaussian imply "
                              f"--scope image.{baselines}"),
            click.option("--augment", type=whole_range(N_AUGMENT), default=0, show_default=True,
                         help="Slightly changed copies of each image to fit as well."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                         help="Salt of the splits that calibration draws."),
        ],
        command,
    )  # fmt: skip


def fit_options(command: Any) -> Any:
    """Add further options of a detector that `fit` has."""
    return decorate(
        [
            click.option("--preset", type=click.Choice(PRESETS), default=None,
                         help="rippel2020: the paper's detector, --backbone "
                              "tf_efficientnet_b4.aa_in1k --scope image. Options that are given "
                              "as well win."),
            click.option("--roi", metavar="FILE", default=None,
                         help="Region of interest: a picture of the whole image, white = inspect; "
                              "all else is overwritten before the network sees it."),
            bits_option,
            click.option("--near-copies", type=click.Choice(NEAR_COPIES), default="group",
                         show_default=True,
                         help="Pictures that are another one saved again (another format or size, "
                              "frames of a camera that stands still). group: they count as one "
                              "part. separate: they show different parts."),
            click.option("--image-weight", type=click.FloatRange(min=0), default=0.1,
                         show_default=True,
                         help="Weight of the distance of the image as a whole, beside that of the "
                              "positions; for --scope positions."),
            click.option("--top-fraction", type=Share(0, 1), default=0.03,
                         show_default=True,
                         help="Share of the positions whose mean is the score, 0 for the most "
                              "abnormal one alone; for --scope positions."),
        ],
        command,
    )  # fmt: skip


threshold_option = click.option(
    "--threshold", type=click.Choice(THRESHOLDS), default="conformal", show_default=True,
    help="Rule that turns the rate into a threshold. conformal, holdout: the rate holds on average "
         "over fits; tolerance: for this fit, with 95 % confidence (`mahalad plan` says how many "
         "images that takes); chi2-nominal: the paper's, implies --scope image.",
)  # fmt: skip
fpr_option = click.option(
    "--fpr", type=Fpr(), default=None, metavar="RATE",
    help="Share of good images that may be flagged, e.g. 0.05 or 5% (of images that come as those "
         "of the fit came)."
)  # fmt: skip


def model_options(command: Any) -> Any:
    """Add options that say which detector judges: one of a file, or one that is fitted first."""
    return decorate(
        [
            click.option("-m", "--model", type=click.Path(), default=None,
                         help="Model file of `fit` (for `score`, of `tune` as well)."),
            click.option("--normals", metavar="IMAGES", default=None,
                         help="Good images to fit to first, instead of a model file."),
            fpr_option,
            click.option("--weights", metavar="FILE|hub", default=None,
                         help="Weights, for a model saved without them: a file, or `hub` to "
                         "fetch them."),
            click.option("--device", default=None,
                         help="Device to score on. Default: as at fit."),
            saved_engine_option,
            bits_option,
            max_pixels_option,
            pages_option,
            yes_option,
        ],
        command,
    )  # fmt: skip


def settle(options: dict[str, Any]) -> dict[str, Any]:
    """Apply the preset to detector options, choose the scope and parse the levels.

    Raises
    ------
    click.UsageError
        An option is for the other scope.
    """
    options = dict(options)
    preset = options.pop("preset", None)
    if preset is not None:
        options |= {n: v for n, v in _preset(preset).items() if not is_given(n)}
    pooled = [f"--{n} {options[n]}" for n, values in _POOLED.items() if options.get(n) in values]
    if options["reduction"] is not None:
        pooled.append(f"--reduction {options['reduction']}")
    if pooled and options["scope"] == "positions":
        if is_given("scope"):
            raise click.UsageError(
                f"{' '.join(pooled)} is for features pooled over the image: give --scope image, "
                "or leave --scope out"
            )
        options["scope"] = "image"
    tolerant = options["scorer"] in ("gaussian", "knn")
    if options["tolerate"] != "auto" and not tolerant and is_given("tolerate"):
        raise click.UsageError(
            f"--tolerate is for --scorer gaussian or knn, not {options['scorer']}"
        )
    if options["scorer"] != "gaussian" and is_given("any_orientation"):
        raise click.UsageError(
            f"--any-orientation is for --scorer gaussian, not {options['scorer']}"
        )
    if options["scope"] == "image":
        for name in ("neighbourhood", "image_weight", "top_fraction"):
            if name in options and is_given(name):
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for --scope positions, and the scope is image"
                )
    elif (options["levels"] or "").strip() == "all":
        raise click.UsageError(
            "--levels all is for --scope image; positions need maps: give levels by name, or "
            "leave --levels out"
        )
    options["levels"] = parse_levels(options["levels"])
    return options


def _preset(name: str) -> dict[str, Any]:
    from mahalad.detectors.mahalanobis import MahalanobisDetector

    detector = {"rippel2020": MahalanobisDetector.rippel2020}[name]()
    params = detector.get_params(deep=False)
    return {option: params[option] for option in ("backbone", "scope", "tolerate")}


def is_given(name: str) -> bool:
    """Say whether the user gave an option; False if it has its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)

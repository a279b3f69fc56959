"""`--ray`: its options, and the work of `fit` and `score` on many machines."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.options import decorate
from mahalad.commands.progress import counted_progress

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.distributed.results import Scored

_HERE = ""


def _check_address(ctx: click.Context, option: Any, value: str | None) -> str | None:
    """Refuse what is no address: an image that stands behind the option."""
    known = value is None or value in (_HERE, "auto", "local") or ":" in value
    if not known:
        raise click.BadParameter(
            f"{value!r} is no address (host:port, auto, local): give --ray "
            "behind the images, or --ray auto"
        )
    return value


def ray_options(command: Any) -> Any:
    """Add the options of work on many machines."""
    return decorate(
        [
            click.option("--ray", metavar="[ADDRESS]", is_flag=False, flag_value=_HERE,
                         default=None, callback=_check_address,
                         help="Work on the machines of a Ray cluster (pip install 'mahalad[ray]' "
                              "on each), of which this is one: host:port, or auto for the one "
                              "that runs here, or local to start one. Without an address: that of "
                              "RAY_ADDRESS, else auto, else local."),
            click.option("--workers", type=click.IntRange(min=1), default=None, metavar="N",
                         help="With --ray: processes that each hold the network. Default: one for "
                              "each GPU, else one less than there are CPUs."),
        ],
        command,
    )  # fmt: skip


def check_workers(ray: str | None, workers: int | None) -> None:
    """Refuse `--workers` without `--ray`."""
    if workers is not None and ray is None:
        raise click.UsageError("--workers is for --ray")


def fit_on_ray(
    detector: AnomalyDetector,
    dataset: Any,
    total: int | None,
    *,
    address: str | None,
    workers: int | None,
    split: str | None,
    checkpoint: str | None,
) -> None:
    """Fit a detector on many machines, under a progress bar."""
    from mahalad.distributed.fitting import fit
    from mahalad.distributed.pool import Pool

    quieten()
    with counted_progress("fit", total) as progress:
        fit(
            detector,
            dataset,
            split=split,
            address=address or None,
            pool=Pool(workers),
            checkpoint=checkpoint,
            progress=progress,
        )


def score_on_ray(
    model: Any,
    dataset: Any,
    output: str,
    total: int | None,
    *,
    address: str,
    workers: int | None,
    style: str,
    split: str | None,
    fpr: float | None,
    reading: dict[str, str | None],
) -> Scored:
    """Score images on many machines, under a progress bar."""
    from mahalad.distributed.pool import Pool
    from mahalad.distributed.scoring import score

    quieten()
    with counted_progress("score", total) as progress:
        return score(
            model,
            dataset,
            output,
            style=style,
            fpr=fpr,
            split=split,
            reading=reading,
            address=address or None,
            pool=Pool(workers),
            progress=progress,
        )


def quieten() -> None:
    """Keep what Ray Data tells from the terminal: errors come as ours. Without it, do nothing."""
    with suppress(ImportError):
        import ray.data  # noqa: F401  (it sets levels when it is imported)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)

"""`mahalad plan`: how many good images a false-positive rate needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.options import Fpr

if TYPE_CHECKING:
    from mahalad.thresholds.guarantee import Plan

_PROMISES = {
    "conformal": "the rate on average over fits (simulated)",
    "holdout": "the rate on average over fits (a theorem); held out, beside those of the fit",
    "tolerance": "the rate of this fit, with {confidence:g} % confidence",
    "chi2": "about the rate on average over fits, where tails are light",
}


@click.command()
@click.option("--fpr", type=Fpr(), required=True, metavar="RATE",
              help="Share of good images that may be flagged, e.g. 0.01.")  # fmt: skip
@click.option("--confidence", type=Fpr(), default=0.95, show_default=True, metavar="SHARE",
              help="Share of fits for which a bound holds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(fpr: float, confidence: float, as_json: bool) -> None:
    """Say how many good images a rate needs, and what bounds numbers of them give.

    A bound: with that confidence, the rate of the one fit at hand is at most that. Images must show
    different parts; several of one part count as one.
    """
    from mahalad.thresholds.guarantee import plan as make_plan

    found = make_plan(fpr, confidence)
    click.echo(json.dumps(asdict(found), indent=2) if as_json else _as_text(found))


def _as_text(found: Plan) -> str:
    """Write a plan as two tables."""
    from mahalad.report.tables import format_table

    about = {"confidence": 100 * found.confidence}
    needs = [[rule, f"{n:>6}", _PROMISES[rule].format(**about)] for rule, n in found.needs.items()]
    bounds = [
        [str(row["n_images"]), _percent(row["conformal"]), _percent(row["tolerance"])]
        for row in found.bounds
    ]
    return "\n".join(
        [
            f"{100 * found.fpr:g} % of good images may be flagged. Good images needed by rule:",
            "",
            format_table(["threshold", "images", "promises"], needs, n_keys=3),
            "",
            f"The rate of one fit is at most, with {about['confidence']:g} % confidence (- is too "
            "few images):",
            "",
            format_table(["images", "conformal, holdout", "tolerance"], bounds, n_keys=1),
        ]
    )


def _percent(rate: Any) -> str:
    return "-" if rate is None else f"{100 * rate:.3g} %"

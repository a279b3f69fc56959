"""`mahalad info`: what a model file holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mahalad.commands.descriptions import describe_classifier, describe_detector


@click.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The whole header as JSON.")
def info(model: str, as_json: bool) -> None:
    """Show what a model file holds."""
    from mahalad.files.container import info as read_info
    from mahalad.files.onnx import is_export

    if is_export(model):
        _show_export(model, as_json)
        return
    header = read_info(model)
    if as_json:
        click.echo(json.dumps(header, indent=2))
        return
    describe = describe_classifier if header.get("kind") == "metric-knn" else describe_detector
    for name, value in describe(header).items():
        if value not in (None, {}, ""):
            click.echo(f"{name:12} {value}")


def _show_export(path: str, as_json: bool) -> None:
    """Show what an exported model says of itself."""
    from mahalad.runtime.loading import load

    detector = load(path)
    record = detector.record_
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    lines = {
        "file": f"{path} ({Path(path).stat().st_size / 1e6:.1f} MB), exported by mahalad "
        f"{record['mahalad_version']}, opset {record['opset']}",
        "class": record["class"],
        "scope": record["scope"],
        "network": record["features"]["backbone"],
        "fitted to": f"{detector.n_images_} good images, {detector.fit_date_ or 'date unknown'}",
        "threshold": f"{record['threshold']} at fpr {detector.fpr:g}: {detector.threshold_:.6g}",
        "calibration": f"{detector.calibration_method_}, "
        f"{len(detector.calibration_scores_)} scores",
        "maps": "none" if record["maps"] is None else record["maps"]["kind"],
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name:12} {value}")

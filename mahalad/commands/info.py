"""`mahalad info`: what a model file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mahalad.commands.descriptions import describe_classifier, describe_detector

if TYPE_CHECKING:
    from mahalad.runtime.classifier import OnnxClassifier
    from mahalad.runtime.detector import OnnxDetector


@click.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The whole header as JSON.")
def info(model: str, as_json: bool) -> None:
    """Show what a model file holds."""
    from mahalad.files.container import info as read_info
    from mahalad.files.recognition import is_export

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
    from mahalad.files.openvino import is_pair, weights_beside
    from mahalad.runtime.detector import OnnxDetector
    from mahalad.runtime.loading import load

    model = load(path)
    record = model.record_
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    files = [Path(path), *([weights_beside(path)] if is_pair(path) else [])]
    size = sum(file.stat().st_size for file in files)
    describe = _about_detector if isinstance(model, OnnxDetector) else _about_classifier
    lines = {
        "file": f"{path} ({size / 1e6:.1f} MB), exported by mahalad "
        f"{record['mahalad_version']}, opset {record['opset']}",
        "class": record["class"],
        **describe(model),
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name:12} {value}")


def _about_detector(detector: OnnxDetector) -> dict[str, str | None]:
    record = detector.record_
    return {
        "scope": record["scope"],
        "network": record["features"]["backbone"],
        "fitted to": f"{detector.n_images_} good images, {detector.fit_date_ or 'date unknown'}",
        "threshold": f"{record['threshold']} at fpr {detector.fpr:g}: {detector.threshold_:.6g}",
        "calibration": f"{detector.calibration_method_}, "
        f"{len(detector.calibration_scores_)} scores",
        "maps": "none" if record["maps"] is None else record["maps"]["kind"],
    }


def _about_classifier(classifier: OnnxClassifier) -> dict[str, str | None]:
    counts = classifier.index_.counts()
    return {
        "network": classifier.record_["features"]["backbone"],
        "fitted to": f"{sum(counts.values())} labelled images, "
        f"{classifier.fit_date_ or 'date unknown'}",
        "labels": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "neighbours": f"{classifier.n_neighbors}, weights {classifier.weights}",
        "novel": f"at fpr {classifier.novelty_fpr:g}",
    }

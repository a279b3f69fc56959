"""What a page says in words of a detector or a classifier: what was asked, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mahalad.detectors.suspects import is_shifted, n_above_all
from mahalad.errors import CalibrationError, InputError
from mahalad.images.geometry import describe_input
from mahalad.images.words import GOOD
from mahalad.report.maps import MapUnits
from mahalad.report.pictures import ReportImage
from mahalad.result import LabelledResult
from mahalad.thresholds.guarantee import Guarantee

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.metric.classifier import MetricKNNClassifier

_SHOWN = 10


def asked_and_got(images: Sequence[ReportImage], promise: Guarantee) -> str:
    """Say which false-positive rate was asked for, its rule and bound, and what was flagged."""
    rate = f"{100 * promise.fpr:g} %"
    asked = f"Asked for: {rate} of good images flagged, by the rule {promise.rule}"
    if promise.bound is not None and promise.rule != "tolerance":
        asked += (
            f", on average over fits; at most {100 * promise.bound:.1f} % by this fit "
            f"({100 * promise.confidence:g} % confidence)"
        )
    good = [image for image in images if image.kind == GOOD]
    bad = [image for image in images if image.kind not in (None, GOOD)]
    got = []
    if bad:
        got.append(f"{_flagged(bad)} of {len(bad)} defects found")
    if good:
        share = f"{100 * _flagged(good) / len(good):.1f} %"
        got.append(f"{_flagged(good)} of {len(good)} good images flagged ({share})")
    unknown = [image for image in images if image.kind is None]
    if unknown:
        share = f"{100 * _flagged(unknown) / len(unknown):.1f} %"
        if_good = "" if got else f"; if all were good, {rate} would be expected"
        which = "images without a label" if got else "images"
        got.append(f"{_flagged(unknown)} of {len(unknown)} {which} flagged ({share}){if_good}")
    return f"{asked}. Got: {', '.join(got) or 'no image could be judged'}."


def _flagged(images: Sequence[ReportImage]) -> int:
    return sum(image.flagged for image in images)


def facts_of(detector: AnomalyDetector, units: MapUnits | None, source: str) -> dict[str, str]:
    """Say what a page says of the detector, the same for the same model and rate.

    Parameters
    ----------
    detector : AnomalyDetector, fitted
    units : MapUnits or None
        None for a detector without maps.
    source : str
        Where it comes from: a model file, or the images it was fitted to.
    """
    calibration = f"{detector.calibration_method_}, {len(detector.calibration_scores_)} scores"
    facts = {"Model": source}
    if detector.features_ is not None:
        facts["Network"] = _network(detector.features_.record())
    scope = getattr(detector, "scope", None)
    if scope is not None:
        facts["Scope"] = scope
    facts |= {
        "Fitted to": f"{detector.n_images_} good images",
        "Date of the fit": detector.fit_date_ or "unknown",
        "Threshold": f"{detector.threshold}, calibrated by {calibration}",
        "False-positive rate": str(detector.guarantee_),
    }
    odd = detector.suspects_
    if odd:
        names = ", ".join(Path(result.name).name for result in odd[:_SHOWN])
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        facts["Do not fit the others"] = f"{len(odd)} images of the fit: {names}{more}"
    if units is not None and units.threshold is not None:
        facts["Colours begin at"] = (
            f"{units.threshold:.3g} {units.meaning.partition(',')[0]}, in flagged images"
        )
    return facts


def facts_of_classifier(classifier: MetricKNNClassifier, source: str) -> dict[str, str]:
    """Say what a page says of a classifier by nearest neighbours."""
    encoder = classifier.embedding_.encoder
    counts = classifier.index_.counts()
    balanced = ", balanced" if classifier.class_weight else ""
    facts = {"Model": source}
    if encoder is not None and hasattr(encoder, "record"):
        facts["Encoder"] = _network(encoder.record())
    facts |= {
        "Labelled images": f"{sum(counts.values())} ("
        + ", ".join(f"{name} {n}" for name, n in counts.items())
        + ")",
        "Date of the fit": classifier.fit_date_ or "unknown",
        "Neighbours": f"{classifier.n_neighbors}, {classifier.weights} votes{balanced}",
        "Novel": f"{100 * classifier.novelty_fpr:g} % of images like the labelled ones asked for, "
        f"votes by {classifier.calibration_method_}",
    }
    point = classifier.operating_point_
    if point is not None:
        facts["Threshold"] = (
            f"{point.threshold:.3g} on the probability of {classifier.positive}: precision "
            f"{point.precision:.3f}, recall {point.recall:.3f} on held-out votes"
        )
    return facts


def shift_of_labels(images: Sequence[ReportImage], classifier: MetricKNNClassifier) -> str:
    """Say whether nearly all images are farther off than every labelled one; else nothing."""
    try:
        held_out = classifier.held_out()[0]
    except (CalibrationError, InputError):  # nothing to compare them with
        return ""
    results = [image.result for image in images if isinstance(image.result, LabelledResult)]
    distances = np.array([result.distance for result in results], dtype=np.float64)
    n_above = n_above_all(distances, held_out.distances)
    weights = held_out.weights
    n_parts = len(held_out.distances) if weights is None else float(weights.sum())
    if not is_shifted(n_above, len(distances), n_parts):
        return ""
    return (
        f"{n_above} of {len(distances)} images are farther from all labelled images than any of "
        "these is from the others: has the camera, the light, the image format or its compression "
        "changed since the fit? Their labels say little."
    )


def _network(record: dict[str, Any]) -> str:
    return f"{record.get('backbone') or record['kind']}, {describe_input(record)}"

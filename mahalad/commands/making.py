"""From options of the command line to a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector


def make_detector(options: dict[str, Any], fpr: float | None) -> AnomalyDetector:
    """Make a detector from the options of `fit`, after `settle`."""
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.detectors.knn import KNNDetector
    from mahalad.detectors.mahalanobis import MahalanobisDetector
    from mahalad.features.extractor import BackboneFeatures
    from mahalad.scorers.level_sum import make_scorer

    network: dict[str, Any] = {
        "weights": options["weights"],
        "levels": options["levels"],
        "input_size": options["size"],
        "resize": options["resize"],
        "tiles": options["tiles"],
        "roi": options["roi"],
        "bits": options["bits"],
        "device": options["device"],
        "engine": options["engine"],
        "batch_size": options["batch_size"],
    }
    rule: dict[str, Any] = {
        "threshold": options["threshold"],
        "fpr": 0.05 if fpr is None else fpr,
        "n_augment": options["augment"],
        "random_state": options["seed"],
        "near_copies": options["near_copies"],
    }
    if options["scorer"] == "gaussian":
        return MahalanobisDetector(
            options["backbone"],
            scope=options["scope"],
            reduction=options["reduction"],
            image_weight=options["image_weight"],
            top_fraction=options["top_fraction"],
            neighbourhood=options["neighbourhood"],
            tolerate=options["tolerate"],
            any_orientation=options["any_orientation"],
            **network,
            **rule,
        )
    if options["scorer"] == "knn":
        return KNNDetector(
            options["backbone"],
            reduction=options["reduction"],
            tolerate=options["tolerate"],
            **network,
            **rule,
        )
    return AnomalyDetector(
        BackboneFeatures(options["backbone"], **network),
        make_scorer(options["scorer"], options["reduction"]),
        **rule,
    )

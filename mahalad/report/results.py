"""From judged images to the page of `mahalad report`: thumbnails, overlays, facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mahalad.detectors.mahalanobis import MahalanobisDetector
from mahalad.errors import ImageReadError, ImageValueError
from mahalad.images.geometry import describe_input
from mahalad.images.pixels import AS_STORED, Pixels
from mahalad.report.gallery import ReportImage, encode
from mahalad.report.maps import MapUnits, reopen
from mahalad.report.overlays import overlay, thumbnail
from mahalad.report.page import render_report
from mahalad.result import Result

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector

THUMBNAIL_SIDE = 320
_SHOWN = 10


def picture_results(
    results: Iterable[Result],
    kinds: Mapping[str, str | None],
    map_threshold: float | None,
    pixels: Pixels = AS_STORED,
) -> tuple[list[ReportImage], list[Result]]:
    """Make pictures of judged images for a page, and set unreadable ones apart.

    Parameters
    ----------
    results : iterable of Result
        Results of image files, with maps if overlays are wanted. Only thumbnails are kept.
    kinds : mapping of str to (str or None)
        Kind of each image by its name.
    map_threshold : float or None
        None for pictures without overlays.
    pixels : Pixels, optional
        How the detector reads images.
    """
    images: list[ReportImage] = []
    errors: list[Result] = []
    for result in results:
        if result.error is not None:
            errors.append(result)
            continue
        try:
            picture = thumbnail(reopen(result.name, pixels), THUMBNAIL_SIDE)
        except (ImageReadError, ImageValueError) as error:  # it has gone since it was scored
            errors.append(Result(result.name, error=str(error)))
            continue
        drawn = None
        if map_threshold is not None and result.anomaly_map is not None and result.anomaly:
            drawn = encode(overlay(picture, result.anomaly_map, map_threshold))
        bare = replace(result, anomaly_map=None, level_scores=None)
        images.append(ReportImage(bare, encode(picture), drawn, kinds.get(result.name)))
    return images, errors


def make_page(
    detector: AnomalyDetector,
    images: list[ReportImage],
    errors: list[Result],
    *,
    title: str,
    about: Mapping[str, str],
) -> str:
    """Write a page of `picture_results`, with the detector's threshold and calibration scores."""
    threshold = images[0].result.threshold if images else None
    return render_report(
        images,
        errors,
        title=title,
        about=about,
        threshold=threshold,
        fpr=detector.fpr,
        calibration_scores=detector.calibration_scores_,
    )


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
        record = detector.features_.record()
        network = record.get("backbone") or record["kind"]
        facts["Network"] = f"{network}, {describe_input(record)}"
    if isinstance(detector, MahalanobisDetector):
        facts["Scope"] = detector.scope
    facts |= {
        "Fitted to": f"{detector.n_images_} good images",
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

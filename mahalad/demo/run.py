"""`mahalad demo`: render parts with defects, find them, and show the result on one page.

Nothing is downloaded: the images are rendered and the weights come with a package. The page is
that of `mahalad report`; the table in the terminal has the rows of the one on the page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mahalad.demo.picture import side_by_side
from mahalad.demo.rendered import DEFECTS, pixel_baseline_scores, write_dataset
from mahalad.detectors.mahalanobis import MahalanobisDetector
from mahalad.errors import InputError
from mahalad.evaluation.images import roc_auc
from mahalad.files.container import write_atomically
from mahalad.images.words import GOOD
from mahalad.progress import Progress, no_progress
from mahalad.report.kinds import HEADER, rows_by_kind
from mahalad.report.maps import colour_begins, reopen, units_of
from mahalad.report.overlays import overlay, thumbnail
from mahalad.report.page import Words, render_report
from mahalad.report.results import Pictured, picture_results
from mahalad.report.tables import format_table, percent
from mahalad.report.text import command_line
from mahalad.report.words import asked_and_got, facts_of

PARTS, MODEL, PAGE, PICTURE = "parts", "part.mahalad", "index.html", "picture.png"
OF_DEFECTS = ("test", "ground_truth")
"""Folders with one folder for each defect."""
MARKER = "made-by-mahalad-demo.txt"
MOST = 36
"""Images that the page shows."""
PANEL_SIDE = 256

_INTRO = (
    "These {n_test} images of a machined part were judged by a detector that has seen {n_train} "
    "good parts and not one defect. It measures how far an image lies from the good ones, place by "
    "place and as a whole, in the features of a network that is used as it comes. The threshold "
    "too comes from good parts alone. All images are rendered; light, pose and noise change far "
    "more of their pixels than a defect does."
)


def run_demo(
    folder: Path,
    *,
    n_train: int = 120,
    n_test_good: int = 40,
    n_test_per_defect: int = 12,
    program: str = "mahalad",
    progress: Progress = no_progress,
) -> str:
    """Render parts, fit the default detector to good ones, judge the others, write a page.

    Parameters
    ----------
    folder : Path
        Receives ``parts`` (the images and masks), ``part.mahalad`` (the model, without features),
        ``index.html`` and ``picture.png``. Those of an earlier demo are replaced.
    n_train, n_test_good, n_test_per_defect : int
        Images to render; the default false-positive rate needs 19 or more for training.
    program : str
        What runs mahalad, for the command to run next.
    progress : callable, optional
        Wraps an iterable of known length: ``progress(items, total)``.

    Returns
    -------
    str
        A table of AUROC and flagged images per defect, times, and what to run next.

    Raises
    ------
    InputError
        The folder cannot be written, holds such files that are not the demo's, or a count is
        less than 1.
    """
    counts = {GOOD: n_test_good} | dict.fromkeys(DEFECTS, n_test_per_defect)
    if min(n_train, *counts.values()) < 1:
        raise InputError(
            f"a demo needs at least 1 image of each kind, got {n_train=}, {n_test_good=}, "
            f"{n_test_per_defect=}"
        )
    started = time.perf_counter()
    _render(folder, n_train=n_train, n_test_good=n_test_good, n_test_per_defect=n_test_per_defect)
    rendered = time.perf_counter()

    # The images by name, not by listing: a picture that someone added is none of the demo's.
    train = [folder / PARTS / "train" / GOOD / f"{i:03d}.png" for i in range(n_train)]
    kinds = {
        str(folder / PARTS / "test" / kind / f"{i:03d}.png"): kind
        for kind in counts
        for i in range(counts[kind])
    }
    # The default, a Gaussian per position, although parts are rotated at random: the ring stays in
    # place. Measured on these images (AUROC over all defects): 100 %, and 97.6 % image-level.
    detector = MahalanobisDetector().fit(progress(train, n_train))
    fitted = time.perf_counter()
    results = detector.inspect(progress(list(kinds), len(kinds)), maps=True)
    shown = picture_results(results, kinds, detector.map_threshold_, MOST)
    if shown.errors:
        error = shown.errors[0].error
        raise InputError(f"an image of the demo was changed while it ran: {error}")
    scored = time.perf_counter()
    # Without features, a third as large: it judges, and cannot be updated.
    detector.save(folder / MODEL, include_features=False)
    write_atomically(folder / PICTURE, _picture(detector, kinds, shown))

    times = (
        f"Rendered {n_train + len(kinds)} images in {rendered - started:.1f} s, fitted to "
        f"{n_train} in {fitted - rendered:.1f} s (network loaded), judged and drew {len(kinds)} "
        f"at {len(kinds) / (scored - fitted):.1f} images/s."
    )
    asked = [str(folder / PARTS / "test"), "-m", str(folder / MODEL)]
    words = Words(
        "Defects found from good parts alone",
        intro=[_INTRO.format(n_test=len(kinds), n_train=n_train)],
        summary=asked_and_got(shown.images, detector.guarantee_),
        about=facts_of(detector, units_of(detector), str(folder / MODEL))
        | {"For comparison": _baseline(train, kinds), "Times": times},
        command=command_line([program, "score", *asked, "--fpr", f"{detector.fpr:g}"]),
    )
    write_atomically(folder / PAGE, _page(detector, shown, words).encode())
    places = {"page": folder / PAGE, "model": folder / MODEL, "next": words.command}
    said = [f"{what:6} {place}" for what, place in places.items()]
    table = format_table(HEADER, rows_by_kind(shown.images))
    judged = [words.summary, _located(shown), words.about["For comparison"], times]
    return "\n".join([table, "", *judged, "", *said])


def _page(detector: MahalanobisDetector, shown: Pictured, words: Words) -> str:
    return render_report(
        shown.images,
        shown.errors,
        words,
        threshold=detector.threshold_,
        fpr=detector.fpr,
        calibration_scores=detector.calibration_scores_,
        spotlight=shown.spotlight,
        most=MOST,
    )


def _render(folder: Path, *, n_train: int, n_test_good: int, n_test_per_defect: int) -> None:
    """Write the images, in place of an earlier demo's."""
    try:
        _make_room(folder)
        write_dataset(
            folder / PARTS,
            n_train=n_train,
            n_test_good=n_test_good,
            n_test_per_defect=n_test_per_defect,
            seed=0,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{folder}: the demo's folder cannot be written ({reason}); choose another with -o"
        ) from error


def _make_room(folder: Path) -> None:
    """Remove an earlier demo's files, and nobody else's, so that nothing stale is left."""
    marker = folder / PARTS / MARKER
    if not marker.is_file():
        for name in (PARTS, MODEL, PAGE, PICTURE):
            if (folder / name).exists():
                raise InputError(
                    f"{folder / name} exists and was not made by the demo; choose another folder "
                    "with -o"
                )
        marker.parent.mkdir(parents=True)
        marker.write_text("`mahalad demo` made this folder and replaces the images in it.\n")
    made = ("train/good", "test/good", *(f"{top}/{d}" for top in OF_DEFECTS for d in DEFECTS))
    for name in made:
        for path in (folder / PARTS / name).glob("*.png"):
            if path.stem.removesuffix("_mask").isdecimal():
                path.unlink()
    for name in (MODEL, PAGE, PICTURE):
        (folder / name).unlink(missing_ok=True)


def _located(shown: Pictured) -> str:
    """Say how often the map points at the defect."""
    hits = [image.hit for image in shown.images if image.hit is not None]
    if not hits:
        return "No defect was found."
    return f"On {sum(hits)} of {len(hits)} defects found, the map's highest point lies on it."


def _baseline(train: Sequence[Path], kinds: Mapping[str, str]) -> str:
    """Say how well the raw pixels tell defective from good parts."""
    scores = pixel_baseline_scores([*map(_read, train)], [_read(Path(name)) for name in kinds])
    area = roc_auc(scores, np.array([kind != GOOD for kind in kinds.values()]))
    return (
        "The distance of an image's raw pixels to the mean good image would tell defective from "
        f"good parts with an AUROC of {percent(area)} % (50 % is chance)."
    )


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _picture(detector: MahalanobisDetector, kinds: Mapping[str, str], shown: Pictured) -> bytes:
    """Draw a good part that passed, a defect that was found (a scratch, if any), and its map."""

    def first(flagged: bool, *wanted: str) -> str:
        names = [i.result.name for i in shown.images if i.flagged == flagged and i.kind in wanted]
        return next(iter(names), next(name for name, kind in kinds.items() if kind in wanted))

    good = thumbnail(reopen(first(False, GOOD)), PANEL_SIDE)
    scratched = first(True, DEFECTS[0])
    defect = thumbnail(reopen(scratched), PANEL_SIDE)
    (result,) = detector.inspect([scratched], maps=True)
    assert result.anomaly_map is not None
    begins = colour_begins(result, detector.map_threshold_)
    marked = overlay(defect, result.anomaly_map, begins)
    return side_by_side({"a good part": good, "a defect": defect, "found, and where": marked})

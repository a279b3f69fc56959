"""Write anomaly maps as files: each raw map with an overlay for the eye, and a note for both."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import InputError, MahaladError
from mahalad.files.container import write_atomically
from mahalad.files.recognition import recognize
from mahalad.images.decoding import open_image
from mahalad.images.pages import split_page
from mahalad.images.pixels import AS_STORED, Pixels
from mahalad.images.sources import source_of
from mahalad.protocols import FloatImage, Floats
from mahalad.report.overlays import checked_map, overlay, thumbnail
from mahalad.result import Result
from mahalad.scorers.capabilities import capabilities_of

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector


LONGEST_SIDE = 1600  # pixels of an overlay
NOTE = "maps.json"
POSITIONS_SCALE = 100.0
"""White in a map of standard deviations. Bottles reach some 4 where they are good and 12 where
they are broken; 16 bits of 100 are steps of 0.0015."""
SHARES_SCALE = 100_000.0
"""White in a map of shares, as the score that an image would have that was all of that value."""


@dataclass(frozen=True)
class MapUnits:
    """What the values of a detector's maps are.

    Attributes
    ----------
    meaning : str
    scale : float
        The value that is white in a PNG. It belongs to the kind of map, not to the images.
    threshold : float or None
        Values above it are coloured in overlays of flagged images; None for maps without one.
    no_threshold : str
        Why there is none.
    """

    meaning: str
    scale: float
    threshold: float | None
    no_threshold: str = ""


def units_of(detector: AnomalyDetector) -> MapUnits:
    """Say what the values of a detector's maps are.

    Raises
    ------
    InputError
        The detector has no maps.
    """
    # Whether there are maps depends on features and scorer: one grey picture asks both.
    side = detector.anomaly_map([np.full((32, 32, 3), 128, np.uint8)]).shape[-1]
    if not capabilities_of(detector.scorer_).has_maps:
        return MapUnits(
            f"share of each pixel in the score, signed, up = abnormal: mean * {side}**2 = score",
            SHARES_SCALE / side**2,
            None,
            "overlays need --scope positions: only its maps have a threshold",
        )
    threshold, reason = None, ""
    try:
        threshold = detector.map_threshold_
    except InputError as error:
        reason = f"no overlays: {error}"
    meaning = "standard deviations of good images, up = abnormal"
    return MapUnits(meaning, POSITIONS_SCALE, threshold, reason)


class MapFolder:
    """A folder of anomaly maps, ``<stem>.map.png`` or ``.npy``, and ``<stem>.overlay.png``.

    Parameters
    ----------
    folder : Path
        Made by `prepare`.
    stems : mapping of str to str
        Path below `folder`, without extension, for each image by its `Result.name`.
    units : MapUnits
    style : {"png", "npy"}
        Format of the raw maps.

    Attributes
    ----------
    failures : list of str
        Why files could not be written, in the order of the images.
    """

    def __init__(
        self,
        folder: Path,
        stems: Mapping[str, str],
        units: MapUnits,
        style: str,
        pixels: Pixels = AS_STORED,
    ) -> None:
        self.folder = folder
        self.failures: list[str] = []
        self._stems = stems
        self._units = units
        self._style = style
        self._pixels = pixels

    def prepare(self, fpr: float, used: Sequence[str | None] = (), *, force: bool = False) -> None:
        """Make the folder and write the note, so that one that cannot be used shows at once.

        Parameters
        ----------
        fpr : float
        used : sequence of (str or None)
            Further files that must stay: the model, say.
        force : bool
            Whether pictures may be replaced in a folder that has no note of maps.

        Raises
        ------
        InputError
            The folder cannot be made, or a map would be written over one of the images, a file
            that is `used`, or one that no earlier run wrote.
        ModelFileError
            The folder is not writable.
        """
        self._check_replaced(
            {Path(split_page(name)[0]).resolve() for name in (*self._stems, *used) if name}, force
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from error
        is_png = self._style == "png"
        note = {
            "format": self._style,
            "meaning": self._units.meaning,
            "scale": self._units.scale if is_png else None,
            "value": "grey / 65535 * scale; 0 is 0 or less, 65535 is scale or more"
            if is_png
            else "as it is",
            "map_threshold": self._units.threshold,
            "fpr": fpr,
        }
        write_atomically(self.folder / NOTE, (json.dumps(note, indent=2) + "\n").encode())

    def write(self, result: Result) -> dict[str, str | None]:
        """Write the files of one result.

        Returns
        -------
        dict
            Path of its ``"map"`` and ``"overlay"``; None for one that there is not, because the
            image could not be read, the maps have no threshold, or writing failed (`failures`).
        """
        written: dict[str, str | None] = {"map": None, "overlay": None}
        values, threshold = result.anomaly_map, self._units.threshold
        if values is None:
            return written
        makers: dict[str, Callable[[Path], None]] = {
            "map": lambda path: save_map(values, path, scale=self._units.scale)
        }
        if threshold is not None:
            begins = colour_begins(result, threshold)
            makers["overlay"] = lambda path: _save_overlay(
                reopen(result.name, self._pixels), values, begins, path
            )
        for what, make in makers.items():
            path = self._paths(result.name)[what]
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
            except (MahaladError, OSError) as error:
                self.failures.append(str(error))
            else:
                written[what] = str(path)
        return written

    def _check_replaced(self, used: Set[Path], force: bool) -> None:
        """Refuse to write over files that are used, or that are not those of an earlier run."""
        note = recognize(self.folder / NOTE)
        written = [self.folder / NOTE, *(p for n in self._stems for p in self._paths(n).values())]
        for path in written:
            if path.resolve() in used:  # through a link, or from a folder below this one
                raise InputError(
                    f"{path}: is one of the images or another file in use; give another folder"
                )
            found = None if note is not None and note.product == "maps" else recognize(path)
            if found is not None and not (force and found.form == "picture"):
                raise InputError(
                    f"{path}: is there already, and {self.folder} has no {NOTE} of an earlier run: "
                    "give another folder"
                )

    def _paths(self, name: str) -> dict[str, Path]:
        stem = self._stems[name]
        return {
            "map": self.folder / f"{stem}.map.{self._style}",
            "overlay": self.folder / f"{stem}.overlay.png",
        }


def colour_begins(result: Result, map_threshold: float) -> float:
    """Give the map's threshold for a flagged image; infinity (no colour) for any other.

    The score has more power than a place by itself, and its false-positive rate holds. So it
    decides whether there is something, and the map only where.
    """
    return map_threshold if result.anomaly else math.inf


def reopen(name: str, pixels: Pixels = AS_STORED) -> Image.Image | FloatImage:
    """Open the image of a `Result.name` again, at its own size."""
    return open_image(source_of(name), pixels)


def _save_overlay(
    image: Image.Image | FloatImage, values: Floats, threshold: float, path: Path
) -> None:
    buffer = io.BytesIO()
    overlay(thumbnail(image, LONGEST_SIDE), values, threshold).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def save_map(anomaly_map: NDArray[Any], path: str | Path, *, scale: float) -> None:
    """Write an anomaly map to a file, whole or not at all.

    Parameters
    ----------
    anomaly_map : ndarray of shape (h, w)
        Up = abnormal.
    path : str or Path
        ``.npy`` (float32, the values as they are) or ``.png`` (16-bit grey).
    scale : float
        The value that is white in a PNG. It is absolute: value = grey / 65535 * scale, where
        values below 0 have become 0 and those above `scale` have become `scale`. An ``.npy``
        needs no scale and is the same for any.

    Raises
    ------
    InputError
        Another extension, a map that is empty, not two-dimensional or not finite (as float32),
        or a scale that is not positive and finite.
    ModelFileError
        The file cannot be written.
    """
    values = checked_map(anomaly_map)
    if not 0 < scale < math.inf:
        raise InputError(f"scale is {scale:g}; allowed is a positive, finite value")
    buffer = io.BytesIO()
    extension = Path(path).suffix.lower()
    if extension == ".npy":
        with np.errstate(over="ignore"):  # found below, with a message
            single = values.astype(np.float32)
        np.save(buffer, checked_map(single).astype(np.float32), allow_pickle=False)
    elif extension == ".png":
        grey = np.rint(np.clip(values / scale, 0, 1) * 65535).astype(np.uint16)
        Image.fromarray(grey).save(buffer, format="PNG")
    else:
        raise InputError(
            f"{path}: an anomaly map cannot be written as {extension or 'a file without extension'}"
            "; allowed are .npy (float32) and .png (16-bit grey)"
        )
    write_atomically(path, buffer.getvalue())

"""What images there are in what was given, where they lie, and what was left out."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mahalad.choices import PAGES
from mahalad.errors import DoubtfulFolderWarning, InputError
from mahalad.images.folders import common_folder, kinds_of, without_masks
from mahalad.images.pages import page_names, split_page
from mahalad.images.remote import is_url
from mahalad.images.searching import SearchedFolder, most_first
from mahalad.images.sources import ImageSource, iter_sources, source_of
from mahalad.images.words import GOOD, meaning_of

NOT_GOOD = "defects, test images or masks"
"""What folders hold that are not to be fitted to."""

_SHOWN = 8


@dataclass(frozen=True)
class ImageListing:
    """Images that were found, and what the folders that were searched hold besides.

    Attributes
    ----------
    sources : tuple of ImageSource
    folders : tuple of SearchedFolder
        Their `others`, `hidden_folders`, `hidden_files` and `unlisted` were left out.
    given : tuple of str
        The paths and patterns that the images were found by.
    """

    sources: tuple[ImageSource, ...]
    folders: tuple[SearchedFolder, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Paths of the images, of pages with their number (``scan.tif#2``), as detectors take them.

        Images in memory have none that could be given again.
        """
        return [source.name for source in self.sources]

    @property
    def others(self) -> dict[str, int]:
        """Number of files that are no images, by extension, most frequent first."""
        counts: Counter[str] = Counter()
        for folder in self.folders:
            counts.update(folder.others)
        return most_first(counts)

    @property
    def unlisted(self) -> dict[Path, str]:
        """Folders that cannot be listed, with the reason."""
        return {path: why for folder in self.folders for path, why in folder.unlisted.items()}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Say where the images come from and what was left out; nothing of files named in full."""
        said = []
        counts = self.counts()
        if self.folders and counts:
            n = sum(counts.values())
            where = f": {describe_counts(counts)}" if len(counts) > 1 else f" from {min(counts)}"
            said.append(f"{n:,} image{_s(n)}{where}")
        if self.others:
            each = ", ".join(f"{extension} ({n})" for extension, n in self.others.items())
            n = sum(self.others.values())
            said.append(f"{n:,} file{_s(n)} left out: {each}")
        hidden = [path for folder in self.folders for path in folder.hidden_folders]
        if hidden:
            named = _some(sorted({path.name for path in hidden}))
            said.append(
                f"{len(hidden)} hidden or system folder{_s(len(hidden))} left out ({named})"
            )
        n_files = sum(len(folder.hidden_files) for folder in self.folders)
        if n_files:
            said.append(f"{n_files} hidden or system file{_s(n_files)} left out")
        said += [f"{path}: cannot be listed: {why}" for path, why in self.unlisted.items()]
        return said

    def counts(self) -> dict[str, int]:
        """Count the images in each folder; a folder is named from the one given downwards."""
        return dict(Counter(folder for folder, _ in self._places()))

    def only(self, names: Iterable[str]) -> ImageListing:
        """Give a listing of some of the images, by their names."""
        wanted = set(names)
        return replace(self, sources=tuple(s for s in self.sources if s.name in wanted))

    def without_masks(self) -> ImageListing:
        """Give the listing without the masks of a set, as `folders.without_masks` finds them."""
        return self.only(without_masks(self._base(), self.names))

    def doubtful(self, *kinds: str) -> dict[str, int]:
        """Count the images in folders that are not called like those of good images, by folder.

        They, or one above them as far as it was given, are called like defects, tests or masks
        (``bad``, ``NG``, ``test``, ``ground_truth``, ...), or lie beside a folder of good images.
        With `kinds` ("defect", "test", "mask"), those whose names say one of these.
        """
        if kinds:
            places = self._places()
            return dict(Counter(f for f, chain in places if {*map(meaning_of, chain)} & {*kinds}))
        files = self._files()
        said = kinds_of(self._base(), [source.name for source in files])
        return dict(
            Counter(
                folder
                for source, (folder, chain) in zip(files, self._places(), strict=True)
                if said[source.name] not in (None, GOOD)
                or any(meaning_of(name) not in (None, GOOD) for name in chain)
            )
        )

    def _files(self) -> list[ImageSource]:
        unlisted = self.unlisted
        return [s for s in self.sources if s.path is not None and s.path not in unlisted]

    def _base(self) -> Path | None:
        return common_folder(self.given, [str(source.path) for source in self._files()])

    def _places(self) -> list[tuple[str, tuple[str, ...]]]:
        """Name each image's folder, and list the names of folders from the one given down to it."""
        base = self._base()
        roots = {Path(os.path.abspath(path)) for path in self.given if os.path.isdir(path)}
        known: dict[Path, tuple[str, tuple[str, ...]]] = {}
        folders = [Path(os.path.abspath(source.path or "")).parent for source in self._files()]
        above = base.parent if base is not None and base in {*roots, *folders} else base
        places = []
        for folder in folders:
            if folder not in known:
                shown = folder if above is None else folder.relative_to(above)
                root = next((one for one in (folder, *folder.parents) if one in roots), base)
                chain = folder.parts
                if root is not None:
                    chain = (root.name, *folder.relative_to(root).parts)
                known[folder] = (shown.as_posix(), chain)
            places.append(known[folder])
        return places


def find_images(X: object, *, pages: str = "first") -> ImageListing:
    """Find the images in `X`, without decoding them, and say what was left out.

    Parameters
    ----------
    X : as of `iter_sources`
        An iterator is used up.
    pages : {"first", "all"}
        Of files with several pages (TIFFs, animations): the first one, or each as an image of its
        own, called ``scan.tif#1``, ``scan.tif#2``, ... To find them, files are opened.

    Returns
    -------
    ImageListing
        ``.names`` is what `fit`, `inspect` and all others take; ``print`` shows what was left out.

    Raises
    ------
    InputError
        As of `iter_sources`, or another value of `pages`.
    """
    if pages not in PAGES:
        raise InputError(f"pages is {pages!r}; allowed are {', '.join(PAGES)}")
    folders: list[SearchedFolder] = []
    sources = list(iter_sources(X, folders.append))
    if pages == "all":
        sources = [page for source in sources for page in _pages(source)]
    return ImageListing(tuple(sources), tuple(folders), tuple(_paths(X)))


def warn_of_folders(X: object, *, stacklevel: int = 3) -> None:
    """Warn of folders and patterns in `X` that are not called like those of good images.

    Files that are named in full are nobody's mistake. `stacklevel` is that of the warning: 3 blames
    the caller of the function that calls this one.
    """
    given = [
        path for path in _paths(X) if not (is_url(path) or os.path.isfile(split_page(path)[0]))
    ]
    if not given:
        return
    listing = find_images(given)
    doubtful = listing.doubtful()
    if doubtful:
        text = describe_doubtful(doubtful, listing.counts(), NOT_GOOD)
        warnings.warn(text, DoubtfulFolderWarning, stacklevel=stacklevel)


def describe_doubtful(doubtful: dict[str, int], counts: dict[str, int], what: str) -> str:
    """Say which folders are no good ones to fit to, and which of all that there are may be.

    Parameters
    ----------
    doubtful, counts : dict of str to int
        As of `ImageListing.doubtful` and `ImageListing.counts`.
    what : str
        What such folders hold.
    """
    others = {folder: n for folder, n in counts.items() if folder not in doubtful}
    rest = f"; the others are not suspected: {describe_counts(others)}" if others else ""
    return (
        f"{sum(doubtful.values()):,} of {sum(counts.values()):,} images lie in folders that hold "
        f"{what}, as their names or the folders beside them say: {describe_counts(doubtful)}{rest}"
    )


def describe_counts(counts: dict[str, int]) -> str:
    """Write counts of images by folder, as ``20 from train/good, 5 from test/broken``."""
    said = [f"{n:,} from {folder}" for folder, n in counts.items()]
    if len(said) <= _SHOWN + 1:
        return ", ".join(said)
    rest = sum(list(counts.values())[_SHOWN:])
    return f"{', '.join(said[:_SHOWN])} and {rest:,} from {len(said) - _SHOWN} further folders"


def _pages(source: ImageSource) -> Iterable[ImageSource]:
    if source.path is None or source.page is not None:
        return [source]
    return [source_of(name) for name in page_names(source.name)]


def _paths(X: object) -> list[str]:
    items: Sequence[object] = X if isinstance(X, (list, tuple)) else [X]
    paths = [os.fspath(item) for item in items if isinstance(item, (str, os.PathLike))]
    return [path for path in paths if isinstance(path, str)]


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""What images are read, in an order, in parts that one worker reads at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from mahalad.errors import InputError
from mahalad.images.manifests import Entry, check_each_group, is_manifest, kept_entries
from mahalad.images.remote import is_url
from mahalad.images.sources import ImageSource, iter_sources, source_of

PART_SIZE = 1024
"""Images of a part: what is read again where a worker is lost."""

Say = Callable[[str], object]


@dataclass(frozen=True)
class Part:
    """Images that one worker reads, one after the other.

    Attributes
    ----------
    place : int
        Number of the part, from 0.
    names, origins, groups : list of str
        Of each image its path or URL, where a list names it, and what it shows (empty if nobody
        said so).
    """

    place: int
    names: list[str]
    origins: list[str]
    groups: list[str]

    @property
    def fingerprint(self) -> str:
        """Tell these names from others, by 16 hexadecimal digits."""
        text = "\0".join(self.names).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    @property
    def known_groups(self) -> list[str] | None:
        """What each image shows, as a fit takes it: None where nobody said so."""
        return self.groups if self.groups[0] else None

    def sources(self, folder: str) -> list[ImageSource]:
        """Give the images; paths start at a folder unless they are absolute."""
        found = []
        for name, origin in zip(self.names, self.origins, strict=True):
            path = name if is_url(name) else os.path.join(folder, name)
            found.append(replace(source_of(path), name=name, origin=origin))
        return found


def parts_of(entries: Iterable[Entry], size: int) -> Iterator[Part]:
    """Part images, in their order, into parts of a size; the last one may be smaller.

    Raises
    ------
    InputError
        Some images have a group, and others have not.
    """
    rest = iter(check_each_group(entries))
    place = 0
    while own := list(islice(rest, size)):
        yield Part(
            place,
            [entry.source.name for entry in own],
            [entry.source.origin for entry in own],
            [entry.group for entry in own],
        )
        place += 1


def entries_of(
    dataset: Any,
    *,
    keep: Callable[[Entry], bool] | None = None,
    say: Say = lambda text: None,
) -> Iterator[Entry]:
    """Yield the images of a data set one by one, in its order.

    Parameters
    ----------
    dataset : path, sequence of paths or of `Entry`, or Ray dataset with the column path
        A folder, a glob, files, URLs of these, or a manifest (`mahalad.images.manifests`).
    keep : callable, optional
        Which rows of a manifest are wanted.
    say : callable
        Is told what rows of a manifest are left out, at its end.

    Raises
    ------
    InputError
        Nothing there, images in memory, or a manifest with other columns.
    """
    if is_dataset(dataset):
        yield from _rows_of(dataset)
    elif isinstance(dataset, list) and dataset and isinstance(dataset[0], Entry):
        yield from dataset
    elif is_manifest(dataset):
        yield from kept_entries(dataset, keep, say)
    else:
        for row, source in enumerate(iter_sources(dataset), start=1):
            if not _is_file(source):
                raise InputError(
                    f"{source.name} is in memory: give paths or URLs, or a Ray dataset with the "
                    "columns path and image"
                )
            yield Entry(source, row)


def is_dataset(value: Any) -> bool:
    """Whether a value is a Ray dataset."""
    return type(value).__module__.startswith("ray.data.") and hasattr(value, "map_batches")


def holds_images(dataset: Any) -> bool:
    """Whether a data set is one of Ray that has images, and not only their paths.

    Raises
    ------
    InputError
        It is one without the column path.
    """
    if not is_dataset(dataset):
        return False
    columns = dataset.columns() or []
    if "path" not in columns:
        raise InputError(
            f"the Ray dataset has the columns {', '.join(columns) or '(none)'}: it needs path, and "
            "may have image and group"
        )
    return "image" in columns


def part_of(batch: Mapping[str, Any]) -> Part:
    """Read a part from a batch that is a row of a table of parts."""
    texts = ([str(text) for text in batch[key][0]] for key in ("names", "origins", "groups"))
    return Part(int(batch["place"][0]), *texts)


def as_table(part: Part) -> Any:
    """Make the table with one row that `part_of` reads."""
    import pyarrow as pa

    columns = {key: [getattr(part, key)] for key in ("names", "origins", "groups")}
    return pa.table({"place": [part.place], **columns})


def span_of(batch: Mapping[str, Any]) -> str:
    """Say which images a row of a table of parts, or a batch of images, is of."""
    names = batch["names"][0] if "place" in batch else batch["path"]
    return f"{names[0]} to {names[-1]}"


def named_images(batch: Mapping[str, Any]) -> list[ImageSource]:
    """Give the images of a batch of a Ray dataset, by their names."""
    pairs = zip(batch["path"], batch["image"], strict=True)
    return [ImageSource(str(name), None, np.asarray(image)) for name, image in pairs]


def _is_file(source: ImageSource) -> bool:
    return source.path is not None or is_url(source.name)


def _rows_of(dataset: Any) -> Iterator[Entry]:
    """Rows of a Ray dataset in its order."""
    dataset.context.execution_options.preserve_order = True
    row = 0
    for batch in dataset.iter_batches(batch_size=PART_SIZE, batch_format="numpy"):
        groups = batch.get("group", [""] * len(batch["path"]))
        for path, group in zip(batch["path"], groups, strict=True):
            row += 1
            yield Entry(source_of(str(path)), row, "" if group is None else str(group))

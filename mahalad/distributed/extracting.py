"""Features of images by many machines, for what is trained on one: a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from mahalad import errors
from mahalad.arrays import joined, originals
from mahalad.detectors.detector import AnomalyDetector
from mahalad.detectors.parts import open_reader, pack_reader
from mahalad.distributed.listing import (
    PART_SIZE,
    as_table,
    entries_of,
    holds_images,
    is_dataset,
    part_of,
    parts_of,
)
from mahalad.distributed.pool import Pool
from mahalad.distributed.session import connect
from mahalad.distributed.working import (
    Setting,
    answer_to,
    answers_in,
    give_warnings,
    joined_warnings,
    mapped,
    naming_failures,
    started,
    warn,
    with_less_memory,
)
from mahalad.errors import InputError
from mahalad.features import extraction
from mahalad.features.extraction import Extracted
from mahalad.files.container import packed, unpacked
from mahalad.images.reading import ReadImage
from mahalad.images.sources import source_of

_KIND = "features of images"


def extract(
    encoder: Any,
    dataset: Any,
    *,
    address: str | None = None,
    pool: Pool | None = None,
    part_size: int = PART_SIZE,
    progress: Callable[[int], object] = lambda n: None,
) -> Extracted:
    """Read images on many machines, for `MetricKNNClassifier.fit` in place of the images.

    Parameters
    ----------
    encoder : BackboneFeatures, or fitted Autoencoder
        That of the classifier.
    dataset : path, sequence of paths, or Ray dataset with the column path
        As of `mahalad.distributed.fit`.
    address, pool, part_size, progress
        As of `mahalad.distributed.fit`.

    Returns
    -------
    Extracted
        All images in their order, also those that cannot be read, with their errors; and features,
        which are all in memory.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        The cluster cannot be reached, has too little, or its machines have other versions.
    InputError
        No images, images without a path, or a pool that takes every CPU.

    Notes
    -----
    A fit to these is the fit to the images themselves, where batches and number of threads are the
    same, as with `mahalad.distributed.fit`.
    """
    ray = connect(address)
    if holds_images(dataset):
        raise InputError("a Ray dataset of images: give one of paths, so that they have names")
    reader = AnomalyDetector(encoder).reader()
    device = str(getattr(encoder, "device", "auto"))
    sized = (pool or Pool()).sized(ray.cluster_resources(), device, reads=is_dataset(dataset))
    part_size = reader.whole_batches(max(1, part_size))
    parts = list(parts_of(entries_of(dataset, say=warn), part_size))
    tables = ray.data.from_arrow_refs([ray.put(as_table(part)) for part in parts])
    images: list[ReadImage] = []
    features: list[dict[str, NDArray[Any]]] = []
    warned: dict[str, int] = {}
    with naming_failures():
        found = mapped(ray, sized, tables, ExtractPart, 1, (ray.put(pack_reader(reader)),))
        for part, answer in zip(parts, answers_in(found.iter_rows()), strict=True):
            warned = joined_warnings([warned, answer.warnings])
            header, arrays = unpacked(answer.content, _KIND)
            images += [_image(*pair) for pair in zip(part.names, header["images"], strict=True)]
            features += [arrays] if arrays else []
            progress(len(part.names))
    give_warnings(warned)
    return Extracted(images, joined(features), reader.features.record())


class ExtractPart:
    """Hold a network in another process, and compute features of parts of images by it."""

    def __init__(self, content: Any, setting: Setting) -> None:
        self._reader, self._failure = started(content, open_reader, "to make its network", setting)
        self._folder = setting.folder

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Compute features of the images of a row of a table of parts."""
        return answer_to(batch, self._extracted, self._failure)

    def _extracted(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        sources, encoder = part_of(batch).sources(self._folder), self._reader.features

        def work(batch_size: int) -> list[Any]:
            read = extraction.extract(sources, encoder, 0, batch_size=batch_size)
            return list(_without_pixels(read))

        batches = with_less_memory(work, encoder.batch_size)
        about = [one for images, _ in batches for one in images]
        arrays = joined([features for _, features in batches if features])
        return {}, packed({"kind": _KIND, "images": about}, arrays)


def _without_pixels(
    batches: Iterable[extraction.Batch],
) -> Iterator[tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]]:
    """Images of batches as JSON, and their features, (n_readable, ...) each."""
    for images, features in batches:
        about = [
            {
                "key": image.key,
                "error": image.error and [type(image.error).__name__, str(image.error)],
                "depth": image.depth,
                "top": image.top,
            }
            for image in images
        ]
        yield about, originals(features)


def _image(name: str, about: Mapping[str, Any]) -> ReadImage:
    error = None
    if about["error"]:
        kind, text = about["error"]
        error = getattr(errors, kind)(text)
    return ReadImage(source_of(name), None, about["key"], error, about["depth"], about["top"])

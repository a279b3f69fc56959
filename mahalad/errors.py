"""What can go wrong, as one small tree.

Every error is a `MahaladError` and also the builtin that a caller would expect:

    MahaladError
    ├── ImageReadError (OSError)         one file that cannot be read as an image
    ├── ImageValueError (ValueError)     one image whose values or shape are not usable
    ├── InputError (ValueError)          no images, too few images, a wrong kind of input
    │   └── EmptyMaskError               a ground-truth mask that marks nothing
    ├── BackboneError (ValueError)       unknown network, level or option of a network
    ├── WeightsError (OSError)           weights that cannot be found, read or matched
    ├── CalibrationError (ValueError)    a threshold asked for more than the images can give
    ├── DegenerateDataError (ValueError) images that leave nothing to estimate
    ├── ModelFileError (OSError)         a model file that cannot be written, read or trusted
    ├── CollapseError (RuntimeError)     training failed: embeddings in one point, no finite loss
    ├── ClusterError (ConnectionError)   machines that cannot be reached, or that differ
    ├── IndexUnavailableError (ConnectionError, in `mahalad.index.contract`)  a store out of reach
    ├── NotFittedError (sklearn's, in `mahalad.unfitted`)  a question asked before `fit`
    └── MissingExtraError (ImportError)  an optional dependency that is not installed

`UnreadableImageWarning` is what `fit` gives for each image it had to leave out,
`SeveralPagesWarning` what reading a file gives of which only the first page is an image, and
`DoubtfulFolderWarning` what `fit` gives for folders that are not called like those of good images,
`InputSizeWarning` what a network gives that has no place for the size asked for.
"""

from __future__ import annotations

from pathlib import Path


class MahaladError(Exception):
    """Base of every error that mahalad raises on purpose."""


class ImageReadError(MahaladError, OSError):
    """An image file cannot be read; the message names the file and what was found."""


class ImageValueError(MahaladError, ValueError):
    """An image was read but its shape, type or values are not usable."""


class InputError(MahaladError, ValueError):
    """The input as a whole is not usable: no images, too few, or of a wrong kind."""


class EmptyMaskError(InputError):
    """A ground-truth mask has no pixel that is marked."""


class BackboneError(MahaladError, ValueError):
    """The network, one of its levels or its input size is not known."""


class WeightsError(MahaladError, OSError):
    """The weights of a network cannot be found, read or matched to it."""


class CalibrationError(MahaladError, ValueError):
    """The threshold rule needs more calibration images than there are."""


class DegenerateDataError(MahaladError, ValueError):
    """The normal images leave nothing to estimate (for example, all are identical)."""


class ModelFileError(MahaladError, OSError):
    """A model file cannot be written, read or trusted."""


class CollapseError(MahaladError, RuntimeError):
    """Training has failed: all embeddings fell into one point, or the loss is not finite."""


class ClusterError(MahaladError, ConnectionError):
    """A cluster of machines cannot be reached, lacks something, or its machines differ."""


class MissingExtraError(MahaladError, ImportError):
    """An optional dependency is needed; the message says how to install it."""


class UnreadableImageWarning(UserWarning):
    """An image was left out of a fit because it could not be read."""


class SeveralPagesWarning(UserWarning):
    """A file has several pages, and the first one alone was read.

    Attributes
    ----------
    name : str
        Path of the file.
    n_pages : int
    """

    def __init__(self, name: str, n_pages: int) -> None:
        super().__init__(name, n_pages)
        self.name, self.n_pages = name, n_pages

    def __str__(self) -> str:
        return (
            f"{self.name}: has {self.n_pages} pages, and the first one is taken; another one is "
            f"{self.name}#2, and all of them are given by find_images(X, pages='all').names, of "
            "mahalad.images"
        )


class DoubtfulFolderWarning(UserWarning):
    """Images for a fit lie in folders that are called like those of defects, tests or masks."""


class InputSizeWarning(UserWarning):
    """Images get another size than the one asked for: a whole number of the network's patches."""


def first_line(error: BaseException) -> str:
    """First line of what another library's error says, or its name if it says nothing."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def one_line(estimator: object) -> str:
    """What an object says it is, in one line: scikit-learn breaks long ones into several."""
    return " ".join(repr(estimator).split())


def no_model_at(path: Path) -> ModelFileError:
    """Say that there is no model file, and where it was looked for, or that it is a folder."""
    if path.is_dir():
        return ModelFileError(f"{path}: is a folder; a model is a file (part.mahalad, part.onnx)")
    return ModelFileError(f"{path}: no such model file (looked in {path.absolute()})")

"""What goes wrong while a model file is made sense of, as one error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mahalad.errors import MahaladError, ModelFileError


@contextmanager
def naming(path: str | Path, *further: type[Exception]) -> Iterator[None]:
    """Name the file in errors of what it holds: parts do not know where they come from.

    Raises
    ------
    ModelFileError
        In place of a `ModelFileError` without the path, and of what missing or odd entries lead
        to: LookupError, TypeError, ValueError, AttributeError, ArithmeticError, and those in
        `further` (torch says RuntimeError of weights of another shape). Other errors of the
        library stay what they are.
    """
    known = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
    damage: tuple[type[Exception], ...] = (*known, *further)
    try:
        yield
    except ModelFileError as error:
        if str(path) in str(error):
            raise
        raise ModelFileError(f"{path}: {error}") from error
    except MahaladError:
        raise
    except KeyError as error:
        raise ModelFileError(f"{path}: the model file lacks {error}") from error
    except damage as error:
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error

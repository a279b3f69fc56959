"""What is given to a detector beside pixels: names of columns, and labels that say "abnormal"."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from mahalad.errors import InputError


def column_names(X: Any) -> tuple[str, ...]:
    """Give the names of the columns of a data frame; empty for anything else, as for other names
    than texts."""
    names = tuple(getattr(X, "columns", ()))
    return names if all(isinstance(name, str) for name in names) else ()


def check_columns(X: Any, known: tuple[str, ...]) -> None:
    """Refuse a data frame whose columns are not those of the fit, in their order.

    Parameters
    ----------
    X : features
    known : tuple of str
        Names at the fit; empty if it had none.

    Raises
    ------
    InputError
        Other names, or another order.

    Warns
    -----
    UserWarning
        Only one of the two has names.
    """
    names = column_names(X)
    if names == known:
        return
    if not names or not known:
        has, had = ("names", "none") if names else ("no names", "some")
        warnings.warn(
            f"the columns of the features have {has}, and those of the fit had {had}: they are "
            "taken in the order in which they stand",
            stacklevel=5,
        )
        return
    lacking = [name for name in known if name not in names]
    further = [name for name in names if name not in known]
    what = f"lacks {lacking}" if lacking else f"has {further} besides" if further else ""
    raise InputError(
        f"the data frame {what or 'has its columns in another order'}: the fit was to {list(known)}"
        " in this order; give X[detector.feature_names_in_]"
    )


def check_good(y: Any) -> None:
    """Refuse labels that call images abnormal: a fit would take these for good ones.

    Parameters
    ----------
    y : array of shape (n_images,) or None
        -1 means abnormal, as scikit-learn has it.

    Raises
    ------
    InputError
        There is a -1.
    """
    if y is None:
        return
    labels = np.asarray(y)
    abnormal = labels == -1 if labels.dtype.kind in "iufO" else np.zeros(0, dtype=bool)
    if np.any(abnormal):
        raise InputError(
            f"{np.count_nonzero(abnormal)} of {labels.size} images have the label -1 in y, "
            "abnormal: a fit takes good images only, and would take these for such; leave them "
            "out: fit(X[y == 1])"
        )

"""From the format of a file to the present one, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from mahalad.files.old import (
    format1,
    format2,
    format3,
    format4,
    format5,
    format6,
    format7,
    format8,
    format9,
)

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

STEPS: Mapping[int, Callable[[Header, Arrays], tuple[Header, Arrays]]] = {
    1: format1.upgrade,
    2: format2.upgrade,
    3: format3.upgrade,
    4: format4.upgrade,
    5: format5.upgrade,
    6: format6.upgrade,
    7: format7.upgrade,
    8: format8.upgrade,
    9: format9.upgrade,
}
"""Format to the step from it to the next one."""


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Turn what a file holds into what a file of the present format would hold.

    Parameters
    ----------
    header : dict
        With its `format_version`.
    arrays : dict of str to ndarray

    Returns
    -------
    header, arrays
        New dicts where something changed, with the present `format_version`; the arrays themselves
        are not copied. A header that lacks something still lacks it: the audit comes afterwards.
    """
    for version in range(header["format_version"], max(STEPS) + 1):
        header, arrays = STEPS[version](header, arrays)
        header = {**header, "format_version": version + 1}
    return header, arrays

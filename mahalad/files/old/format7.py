"""Format 7: patches of the coarsest grid alone were compared with good ones."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

_PATCHES, _FEATURES = "scorer/nearest/", "patches/features"


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 8 of format 7: the grid of the patches has its name in their arrays' names.

    Parameters
    ----------
    header, arrays
        As in a file of format 7.
    """
    scorer = header.get("scorer")
    if not isinstance(scorer, dict) or "nearest" not in scorer:
        return header, arrays
    groups = scorer.get("groups")
    if scorer["nearest"] is not True or not (isinstance(groups, list) and groups and groups[-1]):
        return header, arrays  # the audit comes afterwards
    coarsest = groups[-1][0]
    header = {**header, "scorer": {**scorer, "nearest": [coarsest]}}

    def renamed(name: str) -> str:
        if name.startswith(_PATCHES):
            return f"{_PATCHES}{coarsest}/{name.removeprefix(_PATCHES)}"
        return f"patches/{coarsest}/features" if name == _FEATURES else name

    return header, {renamed(name): values for name, values in arrays.items()}

"""Results as a Parquet file; pyarrow writes it (extra `tables`)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from mahalad.errors import MissingExtraError
from mahalad.files.recognition import MARK
from mahalad.report.rows import Row, columns_of, row_of
from mahalad.result import Result

_NUMBERS = ("score", "threshold", "p_value", "probability", "distance")
_TRUTHS = ("anomaly", "novel", "in_fit")


def check_parquet() -> None:
    """Raise `MissingExtraError` unless Parquet files can be written."""
    _pyarrow()


def parquet(rows: Iterable[Row], more: Sequence[str] = ()) -> bytes:
    """Write rows as a Parquet file with the columns of CSV, and the neighbours of a classifier.

    Parameters
    ----------
    rows : iterable of dict
        From `mahalad.report.rows.row_of`, with any further entries.
    more : sequence of str
        Further entries that become columns, of text.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.

    Notes
    -----
    A column has its type whatever the rows hold, so that files of several runs go together: numbers
    are float64, truth values bool, all else text; ``neighbours`` are a list of (id, path, label,
    distance) for each image. What there is not is null. Bytes of a path that are no text are
    escapes (``\\udcff``).
    """
    pa = _pyarrow()
    import pyarrow.parquet

    found = list(rows)
    first = found[0] if found else row_of(Result(""))
    *columns, error = columns_of(first, more)
    names = [*columns, *(name for name in ("neighbours",) if name in first), error]
    fields = [(name, _type_of(pa, name)) for name in names]
    # Known by it when a later run is about to write over the file: see `recognize`.
    schema = pa.schema(fields, metadata={"creator": MARK})
    table = pa.table({n: [_text(row.get(n)) for row in found] for n in names}, schema=schema)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _type_of(pa: Any, name: str) -> Any:
    if name in _NUMBERS:
        return pa.float64()
    if name in _TRUTHS:
        return pa.bool_()
    if name == "neighbours":
        parts = {"id": pa.int64(), "path": pa.string(), "label": pa.string()}
        return pa.list_(pa.struct([*parts.items(), ("distance", pa.float64())]))
    return pa.string()


def _text(value: Any) -> Any:
    """A value as it is, with texts as UTF-8 can hold them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _text(item) for name, item in value.items()}
    return value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            '--format parquet needs pyarrow: pip install "mahalad[tables]"'
        ) from error
    return pyarrow

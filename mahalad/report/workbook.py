"""Results as a workbook of Excel, with one sheet; openpyxl writes it (extra `tables`)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from mahalad.errors import MissingExtraError
from mahalad.files.recognition import MARK
from mahalad.report.rows import Row, columns_of
from mahalad.report.text import printable


def check_workbook() -> None:
    """Raise `MissingExtraError` unless workbooks can be written."""
    _openpyxl()


def workbook(rows: Iterable[Row], more: Sequence[str] = ()) -> bytes:
    """Write rows as an .xlsx file with the columns of CSV.

    Parameters
    ----------
    rows : iterable of dict
        From `mahalad.report.rows.row_of`, with any further entries.
    more : sequence of str
        Further entries that become columns.

    Raises
    ------
    MissingExtraError
        openpyxl is not installed.

    Notes
    -----
    Numbers and truth values are such; text is never a formula. Control characters of a path, and
    bytes of it that are no text, which a workbook cannot hold, are escapes (``\\n``, ``\\udcff``).
    """
    openpyxl = _openpyxl()
    book = openpyxl.Workbook(write_only=True)
    book.properties.creator = MARK
    sheet = book.create_sheet("scores")
    rows = iter(rows)
    first = next(rows, None)
    if first is not None:
        columns = columns_of(first, more)
        sheet.append(columns)
        sheet.freeze_panes = "A2"
        for row in chain([first], rows):
            sheet.append([_cell(openpyxl, sheet, row.get(name)) for name in columns])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _cell(openpyxl: Any, sheet: Any, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value).encode("utf-8", "backslashreplace").decode("utf-8")
    cell = openpyxl.cell.WriteOnlyCell(sheet, text)
    cell.data_type = "s"  # also where it begins with "="
    return cell


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError(
            '--format xlsx needs openpyxl: pip install "mahalad[tables]"'
        ) from error
    return openpyxl

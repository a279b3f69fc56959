"""`mahalad -v`: what the library logs, on stderr."""

from __future__ import annotations

import logging

import click

LEVELS = (logging.INFO, logging.DEBUG)
"""By how often the option is given."""


class _Stderr(logging.Handler):
    """Writes a line for each record; to the stderr of the moment, which tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            from mahalad.report.text import printable

            click.echo(printable(self.format(record)), err=True)
        except Exception:
            self.handleError(record)


def _show(ctx: click.Context, option: click.Parameter, count: int) -> None:
    if not count:
        return
    logger, handler = logging.getLogger("mahalad"), _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = logger.level
    logger.setLevel(LEVELS[min(count, len(LEVELS)) - 1])
    logger.addHandler(handler)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    ctx.call_on_close(end)


verbose_option = click.option(
    "-v", "--verbose", count=True, expose_value=False, callback=_show,
    help="Say on stderr what is read, fitted and chosen, and how long it takes; -vv: every image.",
)  # fmt: skip

"""The command line: a shell over the library. Results to stdout, messages to stderr.

Exit codes: 0 all fine; 1 unexpected failure, or results that lack something asked for (a map that
could not be written, a precision out of reach); 2 usage error (bad option, folder or model); 3 some
images could not be read; 4 something was flagged (only with --fail-on-anomaly).
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Any

import click

from mahalad import __version__
from mahalad.commands.bench import bench
from mahalad.commands.demo import demo
from mahalad.commands.export import export
from mahalad.commands.finetune import finetune
from mahalad.commands.fit import fit
from mahalad.commands.index import index
from mahalad.commands.info import info
from mahalad.commands.logs import verbose_option
from mahalad.commands.memory import give_back_option
from mahalad.commands.plan import plan
from mahalad.commands.pretrain import pretrain
from mahalad.commands.report import report
from mahalad.commands.score import score
from mahalad.commands.streams import use_utf8
from mahalad.commands.tune import tune
from mahalad.commands.update import merge, remove, update
from mahalad.errors import MahaladError, SeveralPagesWarning

_SHOWN = 5


class _Group(click.Group):
    """Turn errors made on purpose into exit code 2 and one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            use_utf8(stream)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                several: dict[str, int] = {}
                warnings.showwarning = partial(_show_warning, several)
                try:
                    return super().invoke(ctx)
                finally:
                    _say_pages(several)
        except BrokenPipeError:  # `mahalad score ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except MahaladError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mahalad")
@verbose_option
@give_back_option
def main() -> None:
    """Find anomalies in images from good images alone.

    Exit codes: 0 fine, 2 usage error, 3 unreadable images, 4 flagged images (with
    --fail-on-anomaly), 1 unexpected failure, or results that lack something asked for.
    """


def _show_warning(
    several: dict[str, int], message: Any, category: Any, *rest: Any, **options: Any
) -> None:
    """Show a warning; files with several pages are kept, to be named together at the end."""
    if isinstance(message, SeveralPagesWarning):
        several[message.name] = message.n_pages
    else:
        click.echo(f"Warning: {message}", err=True)


def _say_pages(several: dict[str, int]) -> None:
    if several:
        named = [f"{name}: {n}" for name, n in sorted(several.items())]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        files = "1 file has" if len(named) == 1 else f"{len(named)} files have"
        click.echo(
            f"Warning: {files} several pages, and the first one alone is read "
            f"({', '.join(named[:_SHOWN])}{more}); --pages all takes each as an image",
            err=True,
        )


for command in (
    fit, score, report, update, remove, merge, info, plan, demo, bench,
    pretrain, finetune, tune, index, export,
):  # fmt: skip
    main.add_command(command)

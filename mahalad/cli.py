"""The command line: a shell over the library. Results to stdout, messages to stderr.

Exit codes: 0 all fine; 1 unexpected failure, or results that lack something asked for (a map that
could not be written, a precision out of reach); 2 usage error (bad option, folder or model); 3 some
images could not be read; 4 something was flagged (only with --fail-on-anomaly).
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click

from mahalad import __version__
from mahalad.commands.bench import bench
from mahalad.commands.demo import demo
from mahalad.commands.finetune import finetune
from mahalad.commands.fit import fit
from mahalad.commands.index import index
from mahalad.commands.info import info
from mahalad.commands.logs import verbose_option
from mahalad.commands.plan import plan
from mahalad.commands.pretrain import pretrain
from mahalad.commands.report import report
from mahalad.commands.score import score
from mahalad.commands.streams import use_utf8
from mahalad.commands.tune import tune
from mahalad.commands.update import merge, remove, update
from mahalad.errors import MahaladError


class _Group(click.Group):
    """Turn errors made on purpose into exit code 2 and one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            use_utf8(stream)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except BrokenPipeError:  # `mahalad score ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except MahaladError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mahalad")
@verbose_option
def main() -> None:
    """Find anomalies in images from good images alone.

    Exit codes: 0 fine, 2 usage error, 3 unreadable images, 4 flagged images (with
    --fail-on-anomaly), 1 unexpected failure, or results that lack something asked for.
    """


def _show_warning(message: Any, category: Any, *rest: Any, **options: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


for command in (
    fit, score, report, update, remove, merge, info, plan, demo, bench,
    pretrain, finetune, tune, index,
):  # fmt: skip
    main.add_command(command)

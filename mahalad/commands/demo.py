"""`mahalad demo`: the product on rendered parts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from mahalad.commands.progress import progress_bar


@click.command()
@click.option("-o", "--output", type=click.Path(file_okay=False), default="demo",
              show_default=True, help="Folder for the images and the page.")  # fmt: skip
def demo(output: str) -> None:
    """Render parts with defects, find them, and write a page that shows the result.

    The folder receives index.html, the page of `report`; picture.png, a defect and what is marked
    of it; the images, masks of the defects, and the model.
    """
    from mahalad.demo.run import run_demo

    click.echo(run_demo(Path(output), program=own_program(), progress=progress_bar("demo")))


def own_program() -> str:
    """Say what runs mahalad from here: the program as it was run, or that beside the interpreter.

    An environment need not be active, so that the name alone may not be found.
    """
    ran = sys.argv[0]
    if Path(ran).stem == "mahalad" and (os.path.isfile(ran) or shutil.which(ran)):
        return ran
    beside = shutil.which("mahalad", path=os.path.dirname(sys.executable))
    return beside or "mahalad"

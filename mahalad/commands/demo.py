"""`mahalad demo`: the product on rendered parts."""

from __future__ import annotations

from pathlib import Path

import click

from mahalad.commands.progress import progress_bar


@click.command()
@click.option("-o", "--output", type=click.Path(file_okay=False), default="demo",
              show_default=True, help="Folder for the images and the page.")  # fmt: skip
def demo(output: str) -> None:
    """Render parts with defects, find them, and write a page that shows the result."""
    from mahalad.demo.run import run_demo

    click.echo(run_demo(Path(output), progress=progress_bar("demo")))

"""`mahalad info`: what a model file holds."""

from __future__ import annotations

import json

import click

from mahalad.commands.descriptions import describe_classifier, describe_detector


@click.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The whole header as JSON.")
def info(model: str, as_json: bool) -> None:
    """Show what a model file holds."""
    from mahalad.files.container import info as read_info

    header = read_info(model)
    if as_json:
        click.echo(json.dumps(header, indent=2))
        return
    describe = describe_classifier if header.get("kind") == "metric-knn" else describe_detector
    for name, value in describe(header).items():
        if value not in (None, {}, ""):
            click.echo(f"{name:12} {value}")

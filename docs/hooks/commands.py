"""Hook of the documentation's build: write commands and options where a page says so."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from mahalad.cli import main

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark in a page by the documentation of all commands."""
    return markdown.replace(MARK, "\n".join(described(main, None, "mahalad")))


class MarkdownFormatter(click.HelpFormatter):
    """What a command says of its options, as tables, section by section."""

    def __init__(self, command: str) -> None:
        super().__init__(width=10_000)  # no line of a table is broken or cut
        self.command = command

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.write(f"\n| {name} | |\n|---|---|\n")
        yield

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: Any, **__: Any) -> None:
        for usage, text in rows:
            code = html.escape(usage).replace("|", "&#124;")
            self.write(f"| <code id='{self.anchor(usage)}'>{code}</code> | {escaped(text)} |\n")

    def anchor(self, usage: str) -> str:
        """Name of an option for links: `fit--fpr`; of a command: `mahalad-fit-command`."""
        longest = max(usage.split(" /")[0].replace(",", " ").split(), key=lambda w: w[:2] == "--")
        joined = self.command.replace(" ", "-")
        if longest.startswith("-"):
            return f"{joined.removeprefix('mahalad-')}{longest}"
        return f"{joined}-{longest}-command"


def described(
    command: click.Command, parent: click.Context | None, name: str, depth: int = 2
) -> Iterator[str]:
    """Write lines of Markdown about a command and those below it."""
    settings = command.context_settings
    ctx = click.Context(command, info_name=name.split()[-1], parent=parent, **settings)
    usage = " ".join([name, *command.collect_usage_pieces(ctx)])
    formatter = MarkdownFormatter(name)
    command.format_options(ctx, formatter)
    yield from [f"{'#' * depth} {name}", "", "```text", usage, "```", ""]
    yield from [escaped(inspect.cleandoc(command.help or "")), "", formatter.getvalue(), ""]
    for below, child in sorted(getattr(command, "commands", {}).items()):
        yield from described(child, ctx, f"{name} {below}", min(depth + 1, 3))


def escaped(text: str) -> str:
    """Make text safe in a cell of a table; what is between backticks is code."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for sign in r"\*_[]|":
            parts[i] = parts[i].replace(sign, "\\" + sign)
        parts[i] = parts[i].replace("<", "&lt;")
    return "`".join(parts)

"""Very large pictures: refused unless the command line allows them."""

from __future__ import annotations

import click
import pytest
from conftest import run
from PIL import Image

from mahalad.cli import main


def test_max_pixels_lets_large_pictures_in(fit_by_command, picture_folder, tmp_path, monkeypatch):
    model = fit_by_command("large.mahalad")
    path = tmp_path / "large.png"
    Image.new("L", (200, 100), 120).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    refused = run("score", path, "-m", model)
    assert refused.exit_code == 3
    assert "raise it: --max-pixels 20000 on the command line" in refused.output
    allowed = run("score", path, "-m", model, "--max-pixels", 20_000)
    assert allowed.exit_code == 0, allowed.output
    assert Image.MAX_IMAGE_PIXELS == 15_000  # as it was


def test_max_pixels_can_be_lowered(fit_by_command, picture_folder):
    model = fit_by_command("small.mahalad")
    refused = run("score", picture_folder / "test", "-m", model, "--max-pixels", 4095)
    assert refused.exit_code == 3
    assert "limit of 0.004095" in refused.output


@pytest.mark.parametrize(
    "command",
    ["fit", "score", "report", "bench mvtec", "bench fpr", "bench robust", "bench knn", "tune",
     "finetune", "pretrain", "index add"],
)  # fmt: skip
def test_commands_that_read_images_have_the_option(command):
    found: click.Command = main
    for name in command.split():
        found = found.commands[name]
    assert [p.name for p in found.params].count("max_pixels") == 1

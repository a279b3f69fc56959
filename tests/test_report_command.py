"""`mahalad report`: one page that says what the library says."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from conftest import run
from PIL import Image
from sklearn.metrics import roc_auc_score

from mahalad import load


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("part.mahalad")


def text_of(page):
    """What a reader sees, in one line."""
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body).replace("&nbsp;", " "))


def pictures_of(page):
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_page_says_what_the_detector_says(model, picture_folder, tmp_path):
    out, test = tmp_path / "page.html", picture_folder / "test"
    result = run("report", test, "-m", model, "-o", out, "--title", "Parts & <spots>")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "16 images scored" in result.stderr
    page, detector = out.read_text(), load(model)
    text = text_of(page)
    scores = detector.anomaly_score(test)
    flagged = scores > detector.threshold_
    assert "<h1>Parts &amp; &lt;spots&gt;</h1>" in page
    assert f"Images judged 16 Flagged {flagged.sum()} " in text
    assert f"False alarms {flagged[:8].sum()} of 8" in text
    assert f"Missed defects {(~flagged[8:]).sum()} of 8" in text
    area = roc_auc_score(np.arange(16) >= 8, scores)
    assert f"AUROC {100 * area:.1f}".removesuffix(".0") in text
    assert "ROC curve" in text and "40 calibration" in text
    assert f"threshold {detector.threshold_:.4g}" in text
    for fact in (
        f"Model {model}",
        "Network test_efficientnet, 64 px",
        "Scope positions",
        "Fitted to 40 good images",
        "conformal, calibrated by leave-one-out, 40 scores",
        "asked for 5 %",
        f"Colours begin at {detector.map_threshold_:.3g} standard deviations of good images, ",
    ):
        assert fact in text, fact
    n_flagged = int((detector.predict(picture_folder / "test") < 0).sum())
    assert page.count('class="map"') == n_flagged == 8  # no others have one
    assert all(max(picture.size) <= 320 for picture in pictures_of(page))
    assert re.search(r"spot\s+score", text) and "no label" not in text


def test_the_same_command_writes_the_same_page(model, picture_folder, tmp_path):
    pages = []
    for name in ("a", "b"):
        run("report", picture_folder / "test", "-m", model, "-o", tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_kinds_are_unknown_without_a_folder_named_good(model, picture_folder, tmp_path):
    out = tmp_path / "page.html"
    assert run("report", picture_folder / "test/spot", "-m", model, "-o", out).exit_code == 0
    text = text_of(out.read_text())
    assert text.count("no label") == 8
    assert "ROC curve" not in text and "8 unlabelled" in text


def test_thumbnails_of_large_pictures_are_small(model, tmp_path):
    Image.new("RGB", (2000, 1000), "grey").save(tmp_path / "large.png")
    out = tmp_path / "page.html"
    assert run("report", tmp_path / "large.png", "-m", model, "-o", out).exit_code == 0
    assert [picture.size for picture in pictures_of(out.read_text())] == [(320, 160)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--scope", "image"], "overlays need --scope positions"),
        (["--scorer", "l2"], "no overlays"),
    ],
)
def test_pages_without_overlays(fit_by_command, picture_folder, tmp_path, options, reason):
    out = tmp_path / "page.html"
    result = run(
        "report", picture_folder / "test", "-m", fit_by_command(options[1], *options), "-o", out
    )
    assert result.exit_code == 0, result.output
    assert reason in result.stderr
    page = out.read_text()
    assert 'class="map"' not in page and "Colours begin" not in page
    assert len(pictures_of(page)) == 16
    assert "Images judged 16" in text_of(page)


def test_unreadable_images_are_on_the_page_and_exit_code_3(model, picture_folder, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    out = tmp_path / "page.html"
    images = [picture_folder / "test", tmp_path / "text.png"]
    result = run("report", *images, "-m", model, "-o", out)
    assert result.exit_code == 3
    assert "1 unreadable:" in result.stderr and "text.png" in result.stderr
    assert "Unreadable images (1)" in out.read_text()
    assert run("report", images[1], "-m", model, "-o", out).exit_code == 3
    assert "Images judged 0" in text_of(out.read_text())


def test_rate_and_normals(model, picture_folder, tmp_path):
    out = tmp_path / "page.html"
    run("report", picture_folder / "test", "-m", model, "-o", out, "--fpr", "0.2")
    detector = load(model).set_fpr(0.2)
    assert f"threshold {detector.threshold_:.4g}" in text_of(out.read_text())
    normals = ["--normals", picture_folder / "good/0[01]*.png"]  # 20 images, at the default size
    assert run("report", picture_folder / "test/spot", *normals, "-o", out).exit_code == 0
    assert f"Model fitted to {normals[1]}" in text_of(out.read_text())


def test_usage_errors_write_nothing(model, picture_folder, tmp_path):
    content = (picture_folder / "good/000.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    cases = [
        (
            (tmp_path / "a.png", "-m", model, "-o", tmp_path / "a.png"),
            "is a file that this command uses",
        ),
        ((tmp_path, "-m", model, "-o", tmp_path / "no/page.html"), "missing or not writable"),
        ((tmp_path, "-m", model, "-o", tmp_path / "p.html", "--fpr", "0.001"), "at least 999"),
        (
            (tmp_path / "none/*", "-m", tmp_path / "none", "-o", tmp_path / "p.html"),
            "no file matches",
        ),
    ]
    for arguments, message in cases:
        result = run("report", *arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == content

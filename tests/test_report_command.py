"""`mahalad report`: one page that says what the library says."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil

import numpy as np
import pytest
from conftest import DATA, make_picture, run
from PIL import Image
from sklearn.metrics import roc_auc_score

from mahalad import load
from mahalad.report.results import picture_results
from mahalad.result import LabelledResult, Neighbour


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
        f"Date of the fit {detector.fit_date_}",
        "Asked for: 5 % of good images flagged, by the rule conformal, on average over fits; "
        f"at most {100 * detector.guarantee_.bound:.1f} % by this fit (95 % confidence).",
        f"Got: {flagged[8:].sum()} of 8 defects found, {flagged[:8].sum()} of 8 good images ",
        f"Colours begin at {detector.map_threshold_:.3g} standard deviations of good images, ",
    ):
        assert fact in text, fact
    n_flagged = int((detector.predict(picture_folder / "test") < 0).sum())
    assert page.count('class="map"') == n_flagged >= 8  # no others have one
    sizes = [max(picture.size) for picture in pictures_of(page)]
    assert sizes[:2] == [640, 640] and max(sizes[2:]) <= 320  # one large, with its map
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


def test_rate_and_normals(model, picture_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mahalad.detectors.mahalanobis.POSITIONS_SIZE", 64)
    out = tmp_path / "page.html"
    run("report", picture_folder / "test", "-m", model, "-o", out, "--fpr", "0.2")
    detector = load(model).set_fpr(0.2)
    assert f"threshold {detector.threshold_:.4g}" in text_of(out.read_text())
    normals = ["--normals", picture_folder / "good/0[01]*.png"]  # 20 images
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


@pytest.fixture
def parts(picture_folder, tmp_path):
    """The test pictures in the layout of MVTec AD, with masks of the spots."""
    shutil.copytree(picture_folder / "test", tmp_path / "parts/test")
    (tmp_path / "parts/ground_truth/spot").mkdir(parents=True)
    for path in (tmp_path / "parts/test/spot").iterdir():
        mask = Image.new("L", (64, 64))
        mask.paste(255, (21, 21, 32, 32))
        mask.save(tmp_path / f"parts/ground_truth/spot/{path.stem}_mask.png")
    return tmp_path / "parts"


def test_masks_that_lie_as_in_mvtec_ad_are_beside_the_large_image(model, parts, tmp_path):
    out = tmp_path / "page.html"
    assert run("report", parts / "test", "-m", model, "-o", out).exit_code == 0
    page = out.read_text()
    assert "Ground truth" in page and re.search(r"Located [78] of 8", text_of(page))
    bare, drawn, truth = (np.array(picture, int) for picture in pictures_of(page)[:3])
    changed = np.abs(truth - bare).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    for ends in (rows, columns):  # around the mask, 210 to 320 of 640
        assert 195 <= ends.min() <= 212 and 318 <= ends.max() <= 335
    assert not changed[225:305, 225:305].any()
    assert (np.abs(drawn - bare).max(axis=2) > 20)[225:305, 225:305].all()


@pytest.mark.parametrize("damage", ["text", "empty", "gone"])
def test_a_mask_that_cannot_be_used_is_left_out(model, parts, tmp_path, damage):
    for path in (parts / "ground_truth/spot").iterdir():
        if damage == "gone":
            path.unlink()
        elif damage == "text":
            path.write_text("no mask")
        else:
            Image.new("L", (64, 64)).save(path)
    out = tmp_path / "page.html"
    assert run("report", parts / "test", "-m", model, "-o", out).exit_code == 0
    page = out.read_text()
    assert "Ground truth" not in page and "Located" not in text_of(page)
    assert "The most abnormal image" in page


def test_a_page_of_many_images_is_bounded(model, picture_folder, tmp_path):
    out = tmp_path / "page.html"
    given = ("report", picture_folder / "test", "-m", model, "-o", out)
    assert run(*given, "--pictures", "6").exit_code == 0
    page = out.read_text()
    assert page.count('<div class="view">') == 6 and "Images judged 16" in text_of(page)
    left_out = re.findall(r"(\d) of (\d) in &ldquo;(?:Flagged|Passed)", page)
    (flagged, of_flagged), (passed, of_passed) = np.array(left_out, dtype=int)
    assert "Left out, for the size of the page: " in page and of_flagged + of_passed >= 15
    assert (of_flagged - flagged) + (of_passed - passed) + (16 - of_flagged - of_passed) == 6
    assert run(*given, "--pictures", "0").exit_code == 2


def test_a_lot_that_looks_shifted_says_so_first(model, picture_folder, tmp_path):
    (tmp_path / "dark").mkdir()
    for path in (picture_folder / "test/good").iterdir():
        with Image.open(path) as picture:
            picture.point(lambda value: value // 3).save(tmp_path / "dark" / path.name)
    out = tmp_path / "page.html"
    result = run("report", tmp_path / "dark", "-m", model, "-o", out)
    assert "Warning: 8 of 8 images" in result.stderr
    text = text_of(out.read_text())
    first = text.index("Read this first: 8 of 8 images are at the smallest possible p-value")
    assert first < text.index("Asked for") < text.index("Images judged")
    run("report", picture_folder / "test/good", "-m", model, "-o", out)
    assert "Read this first" not in out.read_text()


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--threshold", "tolerance", "--fpr", "0.2"], "20 % of good images flagged, by the rule "
         "tolerance. Got"),
        (["--threshold", "chi2-nominal"], "5 % of good images flagged, by the rule chi2-nominal. "
         "Got"),
        (["--threshold", "holdout", "--fpr", "0.1"], "10 % of good images flagged, by the rule "
         "holdout, on average over fits; at most"),
    ],
)  # fmt: skip
def test_the_rule_that_was_asked_for_is_named(
    fit_by_command, picture_folder, tmp_path, options, asked
):
    out = tmp_path / "page.html"
    given = fit_by_command(options[1], *options)
    assert run("report", picture_folder / "test", "-m", given, "-o", out).exit_code == 0
    assert asked in text_of(out.read_text())


def test_a_model_of_before_dates_says_that_its_date_is_unknown(tmp_path, picture_folder):
    out = tmp_path / "page.html"
    given = ("report", picture_folder / "test", "-m", DATA / "format4_image.mahalad")
    result = run(*given, "-o", out)
    assert result.exit_code == 0, result.output
    assert "Date of the fit unknown" in text_of(out.read_text())


@pytest.fixture(scope="module")
def classifier(picture_folder, small_weights, tmp_path_factory):
    """A classifier of good and spot, with a label on which none was asked."""
    folder = tmp_path_factory.mktemp("labels")
    for label, seeds, spot in (("good", range(12), False), ("spot", range(50, 62), True)):
        (folder / "known" / label).mkdir(parents=True)
        for seed in seeds:
            make_picture(seed, spot=spot).save(folder / "known" / label / f"{seed}.png")
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    model = folder / "model"
    options = ["--no-projection", "--neighbors", "3", "--fpr", "0.2"]
    result = run("tune", folder / "known", "-o", model, *network, *options)
    assert result.exit_code == 0, result.output
    return model


def test_a_classifiers_page_says_what_the_classifier_says(classifier, picture_folder, tmp_path):
    out, test = tmp_path / "page.html", picture_folder / "test"
    result = run("report", test, "-m", classifier, "-o", out)
    assert result.exit_code == 0, result.output
    assert "16 images scored" in result.stderr
    page, model = out.read_text(), load(classifier)
    text, results = text_of(page), list(model.inspect(test))
    truth = ["good"] * 8 + ["spot"] * 8
    right = sum(r.label == label for r, label in zip(results, truth, strict=True))
    novel = sum(bool(r.novel) for r in results)
    assert f"{right} of 16 as their folders are named ({100 * right / 16:.1f} %)" in text
    assert f"{novel} are called novel" in text and f"Novel {novel} " in text
    assert f"Wrong labels {16 - right} of 16" in text
    for label in ("good", "spot"):
        cells = [
            sum(r.label == found and label == t for r, t in zip(results, truth, strict=True))
            for found in ("good", "spot")
        ]
        assert re.search(rf"{label} {cells[0]} {cells[1]} ", text)
    for fact in (
        "Labelled images 24 (good 12, spot 12)",
        f"Date of the fit {model.fit_date_}",
        "Neighbours 3, uniform votes",
    ):
        assert fact in text, fact
    votes = re.findall(r'<li title="([^"]*)"><img [^>]*alt="neighbour labelled (\w+)">', page)
    asked = [(n.path, n.label) for r in results for n in r.neighbours]
    assert sorted(votes) == sorted(asked) and len(votes) == 48
    sizes = [max(picture.size) for picture in pictures_of(page)]
    assert sizes == [64] * (16 + 48)


def test_neighbours_that_are_gone_are_named_without_a_picture(classifier, picture_folder, tmp_path):
    moved = classifier.parent.rename(tmp_path / "moved")
    try:
        out = tmp_path / "page.html"
        given = ("report", picture_folder / "test", "-m", moved / classifier.name, "-o", out)
        assert run(*given).exit_code == 0
    finally:
        moved.rename(classifier.parent)
    page = out.read_text()
    assert page.count("no picture") == 48 and "known/good/" in page
    assert len(pictures_of(page)) == 16


def test_a_lot_that_is_unlike_all_labelled_images_says_so_first(
    classifier, picture_folder, tmp_path
):
    (tmp_path / "other").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"other/{i}.png")
    out = tmp_path / "page.html"
    result = run("report", tmp_path / "other", "-m", classifier, "-o", out)
    assert "Warning: 10 of 10 images are farther from all labelled images" in result.stderr
    text = text_of(out.read_text())
    assert text.index("Read this first: 10 of 10") < text.index("10 images labelled")
    run("report", picture_folder / "test", "-m", classifier, "-o", out)
    assert "Read this first" not in out.read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_neighbour_that_is_a_pipe_now_is_not_waited_for(picture_folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    near = tuple(
        Neighbour(i, str(path), "spot", 0.1)
        for i, path in enumerate((tmp_path / "pipe.png", tmp_path, tmp_path / "none.png", "X[3]"))
    )
    name = str(picture_folder / "test/spot/200.png")
    result = LabelledResult(name, score=0.0, label="spot", probability=1.0, neighbours=near)
    (image,) = picture_results([result], {}, None).images
    assert image.neighbours == (None,) * 4


@pytest.mark.parametrize("folders", ["", "new/day 2"])
def test_labels_that_no_folder_names_are_not_known(classifier, picture_folder, tmp_path, folders):
    (tmp_path / "in" / folders).mkdir(parents=True, exist_ok=True)
    shutil.copy(picture_folder / "test/spot/200.png", tmp_path / "in" / folders)
    (tmp_path / "in" / folders / "text.png").write_text("hello")
    out = tmp_path / "page.html"
    result = run("report", tmp_path / "in", "-m", classifier, "-o", out, "--fpr", "0.3")
    assert result.exit_code == 3
    page = out.read_text()
    assert "Confusions" not in page and "Wrong labels" not in page
    assert "Unreadable images (1)" in page and "asked for 30 %" in text_of(page)
    (tmp_path / "in" / folders / "200.png").unlink()
    assert run("report", tmp_path / "in", "-m", classifier, "-o", out).exit_code == 3
    assert "No image could be judged" in out.read_text()

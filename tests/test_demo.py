"""Tests of the demo: its figures against the saved model, its page, and what it may overwrite."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import mahalad
from mahalad.demo import page as demo_page
from mahalad.demo import run as demo
from mahalad.demo.page import HEADER
from mahalad.demo.rendered import DEFECTS, pixel_baseline_scores
from mahalad.demo.run import run_demo
from mahalad.errors import InputError, MahaladError
from mahalad.images.decoding import open_image
from mahalad.images.sources import iter_sources
from mahalad.result import Result

COUNTS = {"n_train": 24, "n_test_good": 4, "n_test_per_defect": 2}
FEWER = {"n_train": 20, "n_test_good": 3, "n_test_per_defect": 1}
CARD = re.compile(r"<li[^>]*><img .*?</li>")


def cells(text: str) -> dict[str, list[str]]:
    """Rows of the text table by name, without the heading."""
    rows = [re.split(r"  +", line) for line in text.splitlines()[2 : 4 + len(DEFECTS)]]
    return {row[0]: row[1:] for row in rows}


def kind_of(result: Result) -> str:
    return Path(result.name).parent.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """Folder and text of a small demo, and what went through the progress bar."""
    folder = tmp_path_factory.mktemp("demo") / "a folder & more"
    seen: list[Any] = []

    def progress(items: Iterable[Any], total: int) -> Iterable[Any]:
        seen.append((total, list(items)))
        return iter(seen[-1][1])

    return folder, run_demo(folder, **COUNTS, progress=progress), seen


@pytest.fixture(scope="module")
def results(made: tuple[Path, str, list[Any]]) -> list[Result]:
    """What the saved model says of the test images."""
    folder = made[0]
    return list(mahalad.load(folder / "part.mahalad").inspect(folder / "parts" / "test"))


@pytest.fixture(scope="module")
def page(made: tuple[Path, str, list[Any]]) -> str:
    return (made[0] / "index.html").read_text(encoding="utf-8")


def test_table_shows_the_figures_of_the_saved_model_and_of_the_pixels(
    made: tuple[Path, str, list[Any]], results: list[Result]
) -> None:
    folder, text, _ = made
    table = cells(text)
    assert re.split(r"  +", text.splitlines()[0]) == list(HEADER)
    pictures = [open_image(s) for s in iter_sources(folder / "parts" / "train")]
    tested = [open_image(s) for s in iter_sources([result.name for result in results])]
    scores = np.array([result.score for result in results])
    distances = pixel_baseline_scores(pictures, tested)
    kinds = np.array([kind_of(result) for result in results])
    groups = {kind.replace("_", " "): kinds == kind for kind in DEFECTS}
    groups["all defects"] = kinds != "good"
    assert list(table) == [*groups, "good"]
    for name, is_bad in groups.items():
        chosen = is_bad | (kinds == "good")
        areas = [roc_auc_score(is_bad[chosen], s[chosen]) for s in (scores, distances)]
        flagged = np.array([bool(result.anomaly) for result in results])[is_bad]
        assert table[name] == [
            str(is_bad.sum()),
            *(f"{100 * area:.1f}" for area in areas),
            str(flagged.sum()),
            f"{100 * flagged.mean():.1f}",
        ]


def test_good_row_and_sentence_show_the_achieved_and_the_asked_rate(
    made: tuple[Path, str, list[Any]], results: list[Result]
) -> None:
    alarms = sum(bool(result.anomaly) for result in results if kind_of(result) == "good")
    found = sum(bool(result.anomaly) for result in results if kind_of(result) != "good")
    share = f"{100 * alarms / 4:.1f}"
    assert cells(made[1])["good"] == ["4", "-", "-", str(alarms), share]
    assert (
        f"{found} of 12 defective parts found; {alarms} of 4 good parts flagged = {share} %, "
        "asked for 5.0 %"
    ) in made[1]


def test_text_says_times_places_and_a_command_that_quotes_the_folder(
    made: tuple[Path, str, list[Any]],
) -> None:
    folder, text, _ = made
    assert re.search(r"rendered 40 images in [\d.]+ s, fitted to 24 in [\d.]+ s", text)
    assert re.search(r"scored 16 at [\d.]+ images/s", text)
    assert text.splitlines()[-3:] == [
        f"page   {folder}/index.html",
        f"model  {folder}/part.mahalad",
        f"next   mahalad score '{folder}'/parts/test -m '{folder}'/part.mahalad --fpr 0.05",
    ]


def test_progress_counts_training_and_test_images(made: tuple[Path, str, list[Any]]) -> None:
    assert [(total, len(items)) for total, items in made[2]] == [(24, 24), (16, 16)]


def test_page_shows_every_test_image_once_by_a_link_that_leads_somewhere(
    made: tuple[Path, str, list[Any]], page: str
) -> None:
    folder = made[0]
    shown = re.findall(r'<img src="([^"]+)"', page)
    there = [p.relative_to(folder).as_posix() for p in folder.glob("parts/test/*/*.png")]
    assert sorted(shown) == sorted(there) and len(shown) == 16
    assert page.count(" alt=") == page.count("<img ")


def test_page_needs_nothing_from_elsewhere_and_is_escaped(page: str) -> None:
    assert not re.search(r"https?:|src=\"//|@import|url\(|<script|<link", page)
    assert "a folder &amp; more" in page and "folder & more" not in page
    assert "$" not in page


def test_page_agrees_with_the_results(page: str, results: list[Result]) -> None:
    cards = {re.search(r'src="([^"]+)"', card)[1]: card for card in CARD.findall(page)}  # type: ignore[index]
    ranked = sorted(results, key=lambda result: -float(result.score or 0))
    assert [link.split("test/")[1] for link in cards] == [
        result.name.split("test/")[1] for result in ranked
    ]
    for result, card in zip(ranked, cards.values(), strict=True):
        assert f"score {result.score:.1f}, p&nbsp;{result.p_value:.3f}" in card
        assert f"<b>{kind_of(result).replace('_', ' ')}</b>" in card
        is_bad = kind_of(result) != "good"
        verdicts = re.findall(r"<em[^>]*>([^<]+)</em>", card)
        mistake = {(True, False): ["missed defect"], (False, True): ["false alarm"]}
        expected = ["flagged" if result.anomaly else "passed"]
        assert verdicts == expected + mistake.get((is_bad, bool(result.anomaly)), [])
        assert ('<li class="wrong">' in card) == (len(verdicts) == 2)
    threshold = results[0].threshold
    assert f"<b>Threshold {threshold:.1f}</b>" in page
    assert page.count(f"threshold {threshold:.1f}</text>") == 1
    before, after = page.split('<li id="threshold">')
    n_flagged = sum(bool(result.anomaly) for result in results)
    assert (len(CARD.findall(before)), len(CARD.findall(after))) == (n_flagged, 16 - n_flagged)


def test_page_and_text_have_the_same_table(made: tuple[Path, str, list[Any]], page: str) -> None:
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.strip().splitlines()]
    found = {row[0]: [cell.replace("&ndash;", "-") for cell in row[1:]] for row in rows}
    assert found == cells(made[1])


def judged(kind: str, score: float, flagged: bool) -> demo_page.Judged:
    return demo_page.Judged(f"parts/test/{kind}/000.png", kind, score, 0.5, flagged, 1.0)


@pytest.mark.parametrize(
    ("kind", "flagged", "mistake"),
    [
        ("good", False, ""),
        ("good", True, "false alarm"),
        ("dent", True, ""),
        ("dent", False, "missed defect"),
    ],
)
def test_mistakes_are_marked_on_the_card(kind: str, flagged: bool, mistake: str) -> None:
    image = judged(kind, 1.0, flagged)
    assert image.mistake == mistake
    card = demo_page._card(image)
    assert ("wrong" in card) == bool(mistake) and (mistake in card)


@pytest.mark.parametrize("threshold", [2.0, 96.7, 113.5, 4000.0])
def test_no_bar_of_the_histogram_stands_on_both_sides_of_the_threshold(threshold: float) -> None:
    scores = np.random.default_rng(0).gamma(20, 5, 60)
    images = [
        judged("dent" if i % 3 else "good", s, bool(s > threshold)) for i, s in enumerate(scores)
    ]
    drawing = demo_page._histogram(images, threshold)
    line = float(re.search(r'class="threshold" d="M([\d.]+)', drawing)[1])  # type: ignore[index]
    bars = re.findall(r'rect class="(good|defective)" x="([\d.]+)" .*? width="([\d.]+)"', drawing)
    assert bars
    for _, x, width in bars:
        assert float(x) > line or float(x) + float(width) < line
    right = {name for name, x, _ in bars if float(x) > line}
    assert right == {"good" if i.kind == "good" else "defective" for i in images if i.flagged}


def test_second_run_replaces_the_first_and_spares_other_files(
    made: tuple[Path, str, list[Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(made[0], folder)
    own = folder / "parts" / "test" / "good" / "my picture.png"
    own.write_bytes(b"mine")
    second = run_demo(folder, **FEWER)
    assert cells(second)["good"][0] == "3"
    assert mahalad.load(folder / "part.mahalad").n_images_ == 20
    names = sorted(p.relative_to(folder / "parts").as_posix() for p in folder.rglob("*.png"))
    expected = [f"train/good/{i:03d}.png" for i in range(20)]
    expected += [f"test/good/{i:03d}.png" for i in range(3)] + ["test/good/my picture.png"]
    expected += [f"test/{defect}/000.png" for defect in DEFECTS]
    assert names == sorted(expected)
    assert own.read_bytes() == b"mine"
    assert (folder / "index.html").read_text(encoding="utf-8").count("<img ") == 9


@pytest.mark.parametrize("name", ["index.html", "part.mahalad", "parts/test/good/000.png"])
def test_files_that_are_not_the_demos_are_never_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    top = tmp_path / Path(name).parts[0]
    with pytest.raises(InputError, match=f"{re.escape(str(top))} exists and was not made by"):
        run_demo(tmp_path, **FEWER)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_bytes() == b"mine"


def test_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "demo"
    with pytest.raises(
        MahaladError, match=rf"{re.escape(str(folder))}: .* cannot be written \(.+-o"
    ):
        run_demo(folder, **FEWER)


def test_full_disk_is_an_error_that_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(demo, "write_dataset", fail)
    with pytest.raises(MahaladError, match=r"cannot be written \(No space left on device\)"):
        run_demo(tmp_path / "demo", **FEWER)


@pytest.mark.parametrize("count", FEWER)
def test_counts_below_one_are_refused(tmp_path: Path, count: str) -> None:
    with pytest.raises(InputError, match=f"at least 1 image of each kind, got .*{count}=0"):
        run_demo(tmp_path / "demo", **FEWER | {count: 0})
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_detector_finds_what_the_pixels_do_not_show(tmp_path: Path) -> None:
    row = cells(run_demo(tmp_path / "demo"))["all defects"]
    assert row[0] == "72"
    assert float(row[1]) >= 95.0
    assert float(row[2]) < 85.0

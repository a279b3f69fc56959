"""Tests of the demo: its figures against the saved model, its page, and what it may overwrite."""

from __future__ import annotations

import errno
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

import mahalad
from mahalad.commands.demo import own_program
from mahalad.demo import run as demo
from mahalad.demo.rendered import DEFECTS, pixel_baseline_scores
from mahalad.demo.run import run_demo
from mahalad.errors import InputError, MahaladError
from mahalad.files.container import read_header
from mahalad.files.recognition import recognize
from mahalad.images.decoding import open_image
from mahalad.images.sources import iter_sources
from mahalad.report.kinds import HEADER
from mahalad.result import Result

COUNTS = {"n_train": 24, "n_test_good": 4, "n_test_per_defect": 2}
FEWER = {"n_train": 20, "n_test_good": 3, "n_test_per_defect": 1}


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

    return folder, run_demo(folder, **COUNTS, program=own_program(), progress=progress), seen


@pytest.fixture(scope="module")
def results(made: tuple[Path, str, list[Any]]) -> list[Result]:
    """What the saved model says of the test images."""
    folder = made[0]
    return list(mahalad.load(folder / "part.mahalad").inspect(folder / "parts" / "test"))


@pytest.fixture(scope="module")
def page(made: tuple[Path, str, list[Any]]) -> str:
    return (made[0] / "index.html").read_text(encoding="utf-8")


def kinds_of(results: list[Result]) -> NDArray[np.str_]:
    return np.array([kind_of(result) for result in results])


def test_table_shows_the_figures_of_the_saved_model(
    made: tuple[Path, str, list[Any]], results: list[Result]
) -> None:
    text = made[1]
    table = cells(text)
    assert re.split(r"  +", text.splitlines()[0]) == list(HEADER)
    scores = np.array([result.score for result in results])
    flagged = np.array([bool(result.anomaly) for result in results])
    kinds = kinds_of(results)
    groups = {kind: kinds == kind for kind in sorted(DEFECTS)}
    groups["all defects"] = kinds != "good"
    assert list(table) == [*groups, "good"]
    for name, is_bad in groups.items():
        chosen = is_bad | (kinds == "good")
        area = roc_auc_score(is_bad[chosen], scores[chosen])
        assert table[name] == [
            str(is_bad.sum()),
            f"{100 * area:.1f}",
            str(flagged[is_bad].sum()),
            f"{100 * flagged[is_bad].mean():.1f}",
        ]


def test_the_baseline_is_said_to_tell_images_apart_and_not_places(
    made: tuple[Path, str, list[Any]], results: list[Result], page: str
) -> None:
    folder, text, _ = made
    pictures = [open_image(s) for s in iter_sources(folder / "parts" / "train")]
    tested = [open_image(s) for s in iter_sources([result.name for result in results])]
    distances = pixel_baseline_scores(pictures, tested)
    area = 100 * roc_auc_score(kinds_of(results) != "good", distances)
    said = (
        "The distance of an image's raw pixels to the mean good image would tell defective from "
        f"good parts with an AUROC of {area:.1f} %"
    )
    assert said in text and html.escape(said) in page
    assert "pixels' AUROC" not in text + page


def test_text_says_what_was_asked_and_got(
    made: tuple[Path, str, list[Any]], results: list[Result], page: str
) -> None:
    folder, text, _ = made
    is_bad = kinds_of(results) != "good"
    flagged = np.array([bool(result.anomaly) for result in results])
    alarms, found = flagged[~is_bad].sum(), flagged[is_bad].sum()
    bound = mahalad.load(folder / "part.mahalad").guarantee_.bound
    said = (
        "Asked for: 5 % of good images flagged, by the rule conformal, on average over fits; at "
        f"most {100 * bound:.1f} % by this fit (95 % confidence). Got: {found} of 12 defects "
        f"found, {alarms} of 4 good images flagged ({100 * alarms / 4:.1f} %)."
    )
    assert said in text and f'<p class="lead">{said}</p>' in page
    assert cells(text)["good"] == ["4", "-", str(alarms), f"{100 * alarms / 4:.1f}"]


def test_text_and_page_say_how_often_the_map_points_at_the_defect(
    made: tuple[Path, str, list[Any]], results: list[Result], page: str
) -> None:
    folder, text, _ = made
    detector = mahalad.load(folder / "part.mahalad")
    n_found = n_hits = 0
    for result in detector.inspect([result.name for result in results], maps=True):
        if not result.anomaly or kind_of(result) == "good":
            continue
        values = result.anomaly_map
        assert values is not None
        place = np.argwhere(values == values.max())[0] / len(values)
        stem = Path(result.name).stem
        with Image.open(folder / f"parts/ground_truth/{kind_of(result)}/{stem}_mask.png") as mask:
            on_it = np.argwhere(np.asarray(mask)) / mask.width
        n_found += 1
        n_hits += float(np.linalg.norm(on_it - place, axis=1).min()) <= 0.03
    told = re.search(r"On (\d+) of (\d+) defects found, the map's highest point lies on it", text)
    assert told is not None
    assert int(told[2]) == n_found > 0 and abs(int(told[1]) - n_hits) <= 1  # at the very edge
    assert f"<dd>{told[1]} of {told[2]}<small>found defects with a mask" in page


def test_text_says_times_and_places(made: tuple[Path, str, list[Any]]) -> None:
    folder, text, _ = made
    assert re.search(r"Rendered 40 images in [\d.]+ s, fitted to 24 in [\d.]+ s", text)
    assert re.search(r"judged and drew 16 at [\d.]+ images/s", text)
    assert text.splitlines()[-3:-1] == [
        f"page   {folder}/index.html",
        f"model  {folder}/part.mahalad",
    ]


@pytest.mark.skipif(os.name == "nt", reason="the command is for another shell there")
def test_the_next_command_runs_as_printed_without_an_active_environment(
    made: tuple[Path, str, list[Any]], page: str, tmp_path: Path
) -> None:
    command = made[1].splitlines()[-1].removeprefix("next   ")
    assert f"<pre>{html.escape(command)}</pre>" in page
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PATH"] = "/usr/bin:/bin"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 16 and "16 images scored" in done.stderr


@pytest.mark.parametrize(
    ("ran", "expected"),
    [
        ("{bin}/mahalad", "{bin}/mahalad"),
        ("/usr/bin/pytest", "{beside}"),
        ("/none/mahalad", "{beside}"),
        ("", "{beside}"),
    ],
)
def test_the_program_is_the_one_that_ran_or_beside_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: str, expected: str
) -> None:
    places = {"bin": tmp_path / "a bin", "beside": tmp_path / "b/mahalad"}
    for path in (tmp_path / "a bin/mahalad", tmp_path / "b/mahalad"):
        path.parent.mkdir()
        path.touch(0o755)
    monkeypatch.setattr(sys, "argv", [ran.format(**places)])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "b/python"))
    assert own_program() == expected.format(**places)
    (tmp_path / "b/mahalad").unlink()
    if expected == "{beside}":
        assert own_program() == "mahalad"


def test_progress_counts_training_and_test_images(made: tuple[Path, str, list[Any]]) -> None:
    assert [(total, len(items)) for total, items in made[2]] == [(24, 24), (16, 16)]


def test_the_page_is_that_of_report_with_overlays_and_ground_truth(
    page: str, results: list[Result]
) -> None:
    n_flagged = sum(bool(result.anomaly) for result in results)
    assert page.count('<div class="view">') == 16
    assert page.count('class="map"') == n_flagged
    assert re.findall(r"<figcaption>([^<]*)", page) == [
        "The image", "What is abnormal", "Ground truth",
    ]  # fmt: skip
    assert page.count('<meta name="generator" content="mahalad">') == 1
    assert len(page) < 2_000_000


def test_page_needs_nothing_from_elsewhere_and_is_escaped(page: str) -> None:
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(|<script", page)
    assert "a folder &amp; more" in page and "folder & more" not in page
    assert "$" not in page


def test_page_and_text_have_the_same_table(made: tuple[Path, str, list[Any]], page: str) -> None:
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.strip().splitlines()]
    found = {row[0]: [cell.replace("&ndash;", "-") for cell in row[1:]] for row in rows}
    assert found == cells(made[1])


def test_the_model_is_kept_without_features(made: tuple[Path, str, list[Any]]) -> None:
    path = made[0] / "part.mahalad"
    assert read_header(path)["fit"]["n_stored"] == 0
    assert path.stat().st_size < 50e6


def test_the_picture_shows_a_good_part_a_defect_and_what_is_marked_of_it(
    made: tuple[Path, str, list[Any]],
) -> None:
    path = made[0] / "picture.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), int)
    good, defect, marked = (pixels[:256, left : left + 256] for left in (0, 264, 528))
    kinds = {kind: made[0] / f"parts/test/{kind}/000.png" for kind in ("good", "scratch")}
    for panel, kind in ((good, "good"), (defect, "scratch")):
        with Image.open(kinds[kind]) as image:
            assert np.abs(panel - np.asarray(image, int)).max() <= 4
    changed = (np.abs(marked - defect) > 8).any(axis=2)
    assert 0.002 < changed.mean() < 0.3
    assert recognize(path).product == "picture"  # type: ignore[union-attr]


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
    parts = folder / "parts"
    names = sorted(p.relative_to(parts).as_posix() for p in parts.rglob("*.png"))
    expected = [f"train/good/{i:03d}.png" for i in range(20)]
    expected += [f"test/good/{i:03d}.png" for i in range(3)] + ["test/good/my picture.png"]
    expected += [f"test/{defect}/000.png" for defect in DEFECTS]
    expected += [f"ground_truth/{defect}/000_mask.png" for defect in DEFECTS]
    assert names == sorted(expected)
    assert own.read_bytes() == b"mine"
    assert (folder / "index.html").read_text(encoding="utf-8").count('<div class="view">') == 9


@pytest.mark.parametrize(
    "name", ["index.html", "part.mahalad", "picture.png", "parts/test/good/000.png"]
)
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
    text = run_demo(tmp_path / "demo")
    row = cells(text)["all defects"]
    assert row[0] == "72"
    assert float(row[1]) >= 95.0
    baseline, hits = re.search(r"an AUROC of ([\d.]+)", text), re.search(r"On (\d+) of", text)
    assert baseline is not None and float(baseline[1]) < 85.0
    assert hits is not None and int(hits[1]) >= 50

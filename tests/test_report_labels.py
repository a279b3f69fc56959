"""Tests of the page of a classifier: its figures against loops, its cards, what it lets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_report import HOSTILE, Page, picture

from mahalad.report.labels import confusion, labels_and_got, render_labels
from mahalad.report.page import Words
from mahalad.report.pictures import ReportImage
from mahalad.result import LabelledResult, Neighbour, Result

CLASSES = ["good", "cut", "spot"]


def make(
    name: str,
    label: str,
    kind: str | None,
    probability: float = 0.8,
    novel: bool | None = False,
    votes: tuple[bytes | None, ...] = (picture(9), None),
) -> ReportImage:
    result = LabelledResult(
        name,
        score=1 - probability,
        p_value=None if novel is None else 0.25,
        anomaly=novel,
        label=label,
        probability=probability,
        novel=novel,
        distance=1.5,
        neighbours=tuple(Neighbour(i, f"in/{i}.png", label, 0.5 + i) for i in range(len(votes))),
    )
    return ReportImage(result, picture(50), kind=kind, neighbours=votes)


IMAGES = [
    make("a/sure.png", "good", "good", 1.0),
    make("a/unsure.png", "good", "good", 0.6),
    make("a/wrong.png", "cut", "good", 0.7),
    make("a/surely wrong.png", "cut", "spot", 1.0),
    make("a/novel.png", "spot", "spot", 1.0, novel=True),
    make("a/unknown.png", "spot", None, 0.9),
]


def render(images: list[ReportImage], errors: list[Result] | None = None, **changes: Any) -> Page:
    words = Words("Labels", summary=labels_and_got(images, 0.05))
    wanted = {"classes": CLASSES, "novelty_fpr": 0.05} | changes
    return Page(render_labels(images, errors or [], words, **wanted))


def test_the_figures_are_those_of_a_loop() -> None:
    page = render(IMAGES, [Result("b.png", error="b.png: is empty")])
    facts = page.facts()
    assert facts["Images labelled"] == "6" and facts["Unreadable"] == "1"
    assert facts["Wrong labels"] == "2 of 560 % of the labels are right"
    assert facts["Novel"].startswith("116.7 %; asked for 5 %")
    assert [facts[name][0] for name in ("good", "cut", "spot")] == ["2", "2", "2"]
    (lead,) = page.all("p", **{"class": "lead"})
    assert "6 images labelled; 3 of 5 as their folders are named (60.0 %)." in lead["text"]


def test_confusions_count_what_a_loop_counts() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 3, (60, 2))
    images = [make(f"{k}.png", CLASSES[j], CLASSES[i]) for k, (i, j) in enumerate(pairs)]
    expected = [[0] * 3 for _ in range(3)]
    for i, j in pairs:
        expected[i][j] += 1
    assert confusion([*images, make("x", "cut", None)], CLASSES) == expected
    page = render(images)
    (table,) = page.all("table", **{"class": "figures"})
    rows = [
        [cell["text"] for cell in page.within(row, "td")] for row in page.within(table, "tr")[1:]
    ]
    assert [[int(cell) for cell in row[:3]] for row in rows[:3]] == expected
    for i, row in enumerate(rows[:3]):
        share = 100 * expected[i][i] / sum(expected[i])
        assert row[3].replace("\xa0", " ") == f"{share:.1f}".removesuffix(".0") + " %"
        column = 100 * expected[i][i] / sum(line[i] for line in expected)
        found = rows[3][i].replace("\xa0", " ")
        assert found == f"{column:.1f}".removesuffix(".0") + " %"


def test_wrong_labels_come_first_then_novel_images_then_the_least_sure() -> None:
    page = render(IMAGES)
    names = [page.within(card, "b")[0]["text"] for card in page.cards()]
    assert names == [
        "wrong.png", "surely wrong.png", "novel.png", "unsure.png", "unknown.png", "sure.png",
    ]  # fmt: skip
    assert [one["text"].partition(" (")[0] for one in page.all("h3")] == [
        "Wrong labels", "Novel", "Others",
    ]  # fmt: skip
    assert ["mistake" in (card.get("class") or "") for card in page.cards()] == [True] * 2 + [
        False
    ] * 4


def test_a_card_shows_who_voted() -> None:
    page = render([make("a/x.png", "cut", "spot", 0.75)])
    (card,) = page.cards()
    for word in ("x.png", "folder: spot", "cut", "75 % of the votes", "wrong label", "no picture"):
        assert word in card["text"].replace("\xa0", " ")
    (votes,) = page.within(card, "ol")
    items = page.within(votes, "li")
    assert [one["title"] for one in items] == ["in/0.png", "in/1.png"]
    assert [one["alt"] for one in page.within(votes, "img")] == ["neighbour labelled cut"]


def test_without_known_labels_nothing_is_right_or_wrong() -> None:
    page = render([make("a.png", "cut", None), make("b.png", "good", None)])
    assert not page.all("table") and "Wrong labels" not in page.facts()
    assert all("folder:" not in card["text"] for card in page.cards())


def test_too_few_images_to_tell_what_is_novel() -> None:
    images = [make("a.png", "cut", "cut", novel=None)]
    assert "too few labelled images" in labels_and_got(images, 0.05)
    page = render(images)
    assert "Novel" not in page.facts() and "p of novelty" not in page.cards()[0]["text"]


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_page_of_many_is_bounded(most: int) -> None:
    rng = np.random.default_rng(1)
    images = [
        make(f"{i}.png", CLASSES[j], CLASSES[k], float(p))
        for i, (j, k, p) in enumerate(
            zip(
                rng.integers(0, 3, 90), rng.integers(0, 3, 90), rng.uniform(0.4, 1, 90), strict=True
            )
        )
    ]
    page = render(images, most=most)
    assert len(page.cards()) == min(most, 90)
    assert bool(page.all("p", **{"class": "left-out"})) == (most < 90)
    assert page.facts()["Images labelled"] == "90"


def test_what_comes_from_outside_is_only_text() -> None:
    classes = [HOSTILE, "good"]
    image = make(f"in/{HOSTILE}.png", HOSTILE, "good")
    votes = tuple(Neighbour(i, f"n/{HOSTILE}", HOSTILE, 0.5) for i in range(2))
    hostile = LabelledResult(**{**vars(image.result), "neighbours": votes})
    page = render(
        [ReportImage(hostile, picture(1), kind="good", neighbours=(picture(2), None))],
        [Result(HOSTILE, error=HOSTILE)],
        classes=classes,
    )
    assert not any("onerror" in one for one in page.elements)
    (card,) = page.cards()
    assert page.within(card, "b")[0]["title"] == f"in/{HOSTILE}.png"
    assert {one["title"] for one in page.within(card, "li")} == {f"n/{HOSTILE}"}
    assert page.all("th", scope="col")[1]["text"] == HOSTILE


@pytest.mark.parametrize("errors", [[], [Result("b.png", error="b.png: is empty")]])
def test_a_page_without_images_says_so(errors: list[Result]) -> None:
    page = render([], errors)
    assert not page.cards() and page.facts()["Images labelled"] == "0"
    assert "No image could be judged." in [one["text"] for one in page.all("p")]

"""Tests of the report page: its figures against loops, its cards, and what it lets through."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from mahalad.errors import InputError
from mahalad.report import charts
from mahalad.report.charts import Bins
from mahalad.report.choosing import chosen, grouped, in_turns, shares, without_pictures
from mahalad.report.page import Words, render_report
from mahalad.report.pictures import ReportImage, Spotlight, encode
from mahalad.report.rows import lines
from mahalad.result import Result

VOID = {"meta", "link", "img", "input", "br"}
THRESHOLD = 10.0
WORDS = [field.name for field in fields(Words)]


class Page(HTMLParser):
    """Elements of a page in order, each with its attributes, its text and those it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self._open, "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "parents": list(self._open), **dict(attrs)}
        assert len(attrs) == len(dict(attrs)), "an attribute is given twice"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, Any]]:
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(value in (element.get(k) or "").split() for k, value in wanted.items())
        ]

    def cards(self) -> list[dict[str, Any]]:
        lists = self.all("ol", **{"class": "gallery"})
        return [one for one in self.all("li") if one["parents"][-1] in lists]

    def within(self, parent: dict[str, Any], tag: str) -> list[dict[str, Any]]:
        return [one for one in self.all(tag) if parent in one["parents"]]

    def facts(self) -> dict[str, str]:
        pairs = zip(self.all("dt"), self.all("dd"), strict=True)
        return {name["text"]: value["text"].replace("\xa0", " ") for name, value in pairs}


def picture(grey: int) -> bytes:
    return encode(Image.new("RGB", (12, 8), (grey, grey, grey)))


def make(score: float, kind: str | None, name: str = "", **changes: Any) -> ReportImage:
    """One image, flagged where its score is above `THRESHOLD`."""
    result = Result(
        name or f"test/{kind}/{score:g}.png",
        score=score,
        threshold=THRESHOLD,
        p_value=0.25,
        anomaly=score > THRESHOLD,
    )
    return replace(ReportImage(result, picture(50), picture(200), kind), **changes)


MIXED = [
    make(3.0, "good"),
    make(12.0, "good"),  # a false alarm
    make(25.0, "crack"),
    make(7.0, "scratch"),  # missed
    make(5.0, "good"),
    make(31.5, "crack"),
    make(4.0, "good"),
    make(10.0, "good"),  # at the threshold: passes
]
BROKEN = Result("in/broken.png", error="in/broken.png: is empty (0 bytes)")


def render(
    images: list[ReportImage], errors: list[Result] | None = None, **changes: Any
) -> tuple[str, Page]:
    words = {name: changes.pop(name) for name in WORDS if name in changes}
    wanted = {"threshold": THRESHOLD, "fpr": 0.05} | changes
    text = render_report(images, errors or [], Words(**{"title": "A report", **words}), **wanted)
    return text, Page(text)


def test_the_summary_counts_what_a_loop_counts() -> None:
    _, page = render(MIXED, [BROKEN])
    facts = page.facts()
    assert facts["Images judged"] == "8" and facts["Unreadable"] == "1"
    assert facts["Flagged"] == "337.5 %"  # 3, which are 37.5 %
    assert facts["False alarms"] == "1 of 520 % of good images (FPR); asked for 5 %"
    assert facts["Missed defects"] == "1 of 366.7 % of defects found (TPR)"
    pairs = [(g, b) for g in (3, 12, 5, 4, 10) for b in (25, 7, 31.5)]
    area = sum(bad > good for good, bad in pairs) / len(pairs)
    assert facts["Image AUROC"].startswith(f"{100 * area:.1f} %")
    assert area == roc_auc_score([i.kind != "good" for i in MIXED], [i.score for i in MIXED])
    assert "Not labelled" not in facts


def test_images_without_a_label_count_in_no_rate() -> None:
    _, page = render([*MIXED, make(99.0, None), make(1.0, None)])
    facts = page.facts()
    assert facts["Images judged"] == "10" and facts["Not labelled"] == "2"
    assert facts["False alarms"].startswith("1 of 5")
    assert facts["Missed defects"].startswith("1 of 3")


def headings(page: Page) -> list[str]:
    return [one["text"] for one in page.all("h3")]


def names_of(page: Page) -> list[str]:
    return [page.within(card, "b")[0]["text"] for card in page.cards()]


def test_mistakes_come_first_then_what_is_flagged_then_the_rest() -> None:
    _, page = render(MIXED)
    assert names_of(page) == [f"{s:g}.png" for s in (12, 7, 31.5, 25, 10, 5, 4, 3)]
    assert headings(page) == [
        "Mistakes (2) the worst first",
        "Flagged (2) the most abnormal first",
        "Passed (4) those nearest to the threshold first",
    ]


def test_without_labels_there_are_no_mistakes() -> None:
    _, page = render([make(score, None) for score in (3.0, 30.0, 12.0)])
    assert names_of(page) == ["30.png", "12.png", "3.png"]
    assert [one.partition(" ")[0] for one in headings(page)] == ["Flagged", "Passed"]


def test_a_card_says_all_that_is_known_of_its_image() -> None:
    shown = make(7.25, "scratch", "some/where/a.png")
    page = render([shown, make(12.0, "good"), make(30.0, None), make(2.0, "good")])[1]
    alarm, missed, unknown, fine = page.cards()
    assert page.within(missed, "b")[0] | {"parents": 0} == {
        "tag": "b", "text": "a.png", "title": "some/where/a.png", "parents": 0
    }  # fmt: skip
    for word in ("score 7.25", "p 0.25", "scratch", "✓ passed", "missed"):
        assert word in missed["text"]
    for word in ("good", "▲ flagged", "false alarm"):
        assert word in alarm["text"]
    assert "no label" in unknown["text"] and "▲ flagged" in unknown["text"]
    assert alarm["class"] == missed["class"] == "mistake"
    assert "class" not in unknown and "class" not in fine
    assert page.within(missed, "img")[0]["alt"] == "a.png, scratch"


def test_both_pictures_are_in_the_page() -> None:
    png = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(png, "PNG")
    page = render([make(3.0, "good", picture=png.getvalue())])[1]
    shown, drawn = page.all("img")
    kinds, data = zip(*(one["src"].split(";base64,") for one in (shown, drawn)), strict=True)
    assert kinds == ("data:image/png", "data:image/jpeg")
    assert [base64.b64decode(one) for one in data] == [png.getvalue(), picture(200)]
    assert "class" not in shown and drawn["class"] == "map"
    for one in (shown, drawn):
        assert one["alt"] and "loading" not in one  # one that is not loaded would not be printed


def rules_of(text: str, selector: str) -> list[str]:
    return re.findall(re.escape(selector) + r" \{([^}]*)\}", text)


def test_overlays_are_shown_without_a_script_and_printed() -> None:
    text, page = render([make(30.0, "good"), make(3.0, "good", overlay=None)])
    assert not page.all("script") and not page.all("button")
    (box,) = page.all("input")
    assert (box["type"], box["id"]) == ("checkbox", "overlays") and "checked" in box
    hidden = [rule for rule in re.findall(r"[^{}]*\.map \{[^}]*\}", text) if "hidden" in rule]
    conditions = ("body:has(#overlays:not(:checked)) .map", ".view:hover .map")
    assert len(hidden) == len(conditions) and all(
        condition in rule for rule, condition in zip(hidden, conditions, strict=True)
    )
    printed = text[text.index("@media print") : text.index("</style>")]
    assert rules_of(printed, ".map") == [" visibility: visible !important; "]
    assert "display: none" in rules_of(printed, ".toggle, .pointing")[0]


def test_without_overlays_nothing_is_to_be_chosen() -> None:
    text, page = render([make(3.0, "good", overlay=None)])
    assert len(page.all("img")) == 1 and not page.all("input")
    assert "Point at a picture" not in text
    assert "Point at a picture" in render([make(3.0, "good")])[0]


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_text_are_legible(dark: bool) -> None:
    """WCAG: 4.5 to 1."""
    text = render(MIXED)[0]
    light, other = text.split("@media (prefers-color-scheme: dark)")[:2]
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", other.split("}")[0] if dark else light))

    def luminance(name: str) -> float:
        code = colours[name][1:]
        code = "".join(2 * c for c in code) if len(code) == 3 else code
        rgb = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    pairs = [(f, b) for f in ("text", "soft", "good", "bad") for b in ("page", "card")]
    for front, back in [*pairs, ("on-wrong", "wrong"), ("text", "view"), ("soft", "view")]:
        low, high = sorted((luminance(front), luminance(back)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def test_headings_go_down_by_one_level_and_everything_has_a_name() -> None:
    page = render(MIXED, [BROKEN], about={"a": "b"}, spotlight=SPOTLIGHT, command="x")[1]
    levels = [int(one["tag"][1]) for one in page.elements if re.fullmatch("h[1-6]", one["tag"])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["aria-label"] for one in page.all("svg"))
    assert all(one["parents"][-1]["tag"] == "label" for one in page.all("input"))
    for table in page.all("table"):
        assert all("scope" in one for one in page.within(table, "th"))
    assert all(one["aria-label"] for one in page.elements if one.get("tabindex") == "0")


SPOTLIGHT = Spotlight(MIXED[5], picture(10), picture(20), picture(30))


def test_the_large_image_stands_beside_its_map_and_what_is_known() -> None:
    _, page = render(MIXED, spotlight=SPOTLIGHT)
    figures = page.all("figure")
    assert [one["text"] for one in figures] == ["The image", "What is abnormal", "Ground truth"]
    data = [one["src"].split(";base64,")[1] for f in figures for one in page.within(f, "img")]
    assert [base64.b64decode(one) for one in data] == [picture(10), picture(20), picture(30)]
    section = figures[0]["parents"][-2]
    assert "test/crack/31.5.png (crack): score 31.5, threshold 10." in section["text"]
    assert len(render(MIXED, spotlight=replace(SPOTLIGHT, truth=None))[1].all("figure")) == 2
    assert not render(MIXED)[1].all("figure")


def test_what_must_be_read_first_comes_first_and_the_question_before_the_figures() -> None:
    text, page = render(
        MIXED, notice="All is <new>.", intro=["One.", "Two."], summary="Asked for: 5 %."
    )
    texts = [one["text"] for one in page.all("p")][:4]
    assert texts == ["Read this first: All is <new>.", "One.", "Two.", "Asked for: 5 %."]
    assert text.index("All is") < text.index("<dl")
    assert "notice" not in [one.get("class") for one in render(MIXED)[1].all("p")]


def test_the_table_of_kinds_counts_what_a_loop_counts() -> None:
    _, page = render([*MIXED, make(50.0, None)])
    rows = [[c["text"] for c in page.all("td") if row in c["parents"]] for row in page.all("tr")]
    names = [one["text"] for one in page.all("th", scope="row")]
    good, crack = (3, 12, 5, 4, 10), (25, 31.5)
    area = {"crack": 100.0, "scratch": 100 * sum(g < 7 for g in good) / 5}
    area["all defects"] = 100 * sum(b > g for g in good for b in (*crack, 7)) / 15
    assert dict(zip(names, rows[1:], strict=True)) == {
        "crack": ["2", f"{area['crack']:.1f}", "2", "100.0"],
        "scratch": ["1", f"{area['scratch']:.1f}", "0", "0.0"],
        "all defects": ["3", f"{area['all defects']:.1f}", "2", "66.7"],
        "good": ["5", "\N{EN DASH}", "1", "20.0"],
    }
    assert not render([make(3.0, "good"), make(12.0, None)])[1].all("table")


def many(n: int, kinds: tuple[str | None, ...], seed: int = 3) -> list[ReportImage]:
    scores = np.random.default_rng(seed).gamma(4, 3, n)
    return [make(float(s), kinds[i % len(kinds)], f"{i}.png") for i, s in enumerate(scores)]


@pytest.mark.parametrize("most", [1, 8, 50, 1000])
@pytest.mark.parametrize("kinds", [("good", "crack", "dent"), (None,), ("good",)])
def test_a_page_shows_as_many_as_asked_and_says_what_it_left_out(
    kinds: tuple[str | None, ...], most: int
) -> None:
    images = many(200, kinds)
    text, page = render(images, most=most)
    assert len(page.cards()) == min(most, 200) and len(text) < 60_000 + 4_000 * most
    assert page.facts()["Images judged"] == "200"
    sizes = [len(group) for group in grouped(images)]
    left = [
        f"{size - n} of {size}"
        for size, n in zip(sizes, shares(sizes, most), strict=True)
        if size > n
    ]
    told = [one["text"] for one in page.all("p", **{"class": "left-out"})]
    assert re.findall(r"\d+ of \d+", " ".join(told)) == left
    assert bool(told) == (most < 200)


def test_every_kind_has_its_turn_among_those_that_are_shown() -> None:
    images = [make(90.0 + i, "crack", f"c{i}") for i in range(50)]
    images += [make(20.0 + i, "dent", f"d{i}") for i in range(5)]
    images += [make(11.0 + i, "good", f"g{i}") for i in range(3)]
    shown = [image.result.name for group in chosen(images, 9) for image in group]
    assert shown == ["g2", "g1", "g0", "c49", "c48", "c47", "d4", "d3", "d2"]


def test_shares_are_whole_and_leave_room_for_what_passed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes, most = rng.integers(0, 30, 3).tolist(), int(rng.integers(1, 60))
        given = shares(sizes, most)
        assert sum(given) == min(most, sum(sizes))
        assert all(0 <= n <= size for n, size in zip(given, sizes, strict=True))
        assert given[2] >= min(sizes[2], most // 4)


def test_pictures_that_are_dropped_early_would_not_have_been_chosen() -> None:
    images, kept = many(300, ("good", "crack", "dent", None)), []
    for i, image in enumerate(images):
        kept.append(image)
        if i % 40 == 39:
            kept = without_pictures(kept, 12)
            assert sum(one.picture is not None for one in kept) <= 36
    wanted, found = (
        [[one.result.name for one in group] for group in chosen(given, 12)]
        for given in (images, kept)
    )
    assert found == wanted
    assert [one.result for one in kept] == [one.result for one in images]


def test_turns_within_a_kind_follow_the_interest() -> None:
    order = [i.result.name for i in in_turns([make(s, "x", f"{s}") for s in (12.0, 40.0, 20.0)])]
    assert order == ["40.0", "20.0", "12.0"]


HOSTILE = "<img src=x onerror=\"alert('1')\">&amp;${title}"


def test_what_comes_from_outside_is_only_text() -> None:
    bad = Result(f"in/{HOSTILE}", error=f"in/{HOSTILE}: no {HOSTILE}")
    text, page = render(
        [make(12.0, HOSTILE, f"in/{HOSTILE}.png"), make(3.0, "good")],
        [bad],
        title=HOSTILE,
        about={HOSTILE: HOSTILE},
        notice=HOSTILE,
        intro=[HOSTILE],
        summary=HOSTILE,
        command=HOSTILE,
        spotlight=Spotlight(make(12.0, HOSTILE, f"in/{HOSTILE}.png"), *[picture(1)] * 3),
    )
    assert "<img src=x" not in text and not any("onerror" in one for one in page.elements)
    assert page.all("h1")[0]["text"] == HOSTILE == page.all("title")[0]["text"]
    (about,) = page.all("table", **{"class": "about"})
    assert page.within(about, "th")[0]["text"] == HOSTILE
    assert page.within(about, "td")[0]["text"] == HOSTILE
    card = page.cards()[0]
    assert page.within(card, "b")[0]["title"] == f"in/{HOSTILE}.png"
    assert page.within(card, "img")[0]["alt"] == f"{HOSTILE}.png, {HOSTILE}"
    assert f"in/{HOSTILE}: no {HOSTILE}" in page.all("li")[-1]["text"]


def test_a_name_that_is_not_text_can_be_written() -> None:
    text, page = render([make(3.0, "good", "in/\udcff.png")], [Result("\ud800", error="lost")])
    assert text.encode("utf-8").decode("utf-8") == text
    assert page.within(page.cards()[0], "b")[0]["text"] == "?.png"


def test_the_page_asks_for_nothing_outside() -> None:
    text, page = render(MIXED, [BROKEN], calibration_scores=[1.0, 2.0])
    for element in page.elements:
        for attribute in ("src", "href", "srcset", "action", "data", "poster"):
            value = element.get(attribute)
            assert value is None or value.startswith(("data:", "#"))
    for word in ("url(", "@import", "http://", "https://", "fetch(", "import("):
        assert word not in text
    policy = page.all("meta")[3]["content"]
    assert "default-src 'none'" in policy and "script" not in policy


def test_errors_are_listed_with_their_reasons() -> None:
    _, page = render([make(3.0, "good")], [BROKEN, Result("b.png")])
    assert page.all("h2")[-1]["text"] == "Unreadable images (2)"
    (link,) = page.all("a")
    assert link["href"] == "#unreadable" == "#" + page.all("section", id="unreadable")[0]["id"]
    assert [one["text"] for one in page.all("li")[-2:]] == [
        "in/broken.png: is empty (0 bytes)",
        "b.png: could not be read",
    ]


def test_of_very_many_errors_the_first_are_listed() -> None:
    errors = [Result(f"{i}.png", error="is empty") for i in range(130)]
    _, page = render([make(3.0, "good")], errors)
    listed = [one["text"] for one in page.within(page.all("section", id="unreadable")[0], "li")]
    assert listed[0] == "0.png: is empty" and listed[99] == "99.png: is empty"
    assert listed[100:] == ["and 30 more, which mahalad score lists"]
    assert page.facts()["Unreadable"] == "130"


@pytest.mark.parametrize("errors", [[], [BROKEN]])
def test_a_page_without_images_says_so(errors: list[Result]) -> None:
    text, page = render([], errors)
    assert "No image could be judged." in text and not page.all("svg") and not page.cards()
    assert page.facts() == {
        "Images judged": "0", "Flagged": "0", "Unreadable": str(len(errors))
    }  # fmt: skip


def test_none_flagged_and_no_labels() -> None:
    _, page = render([make(3.0, None), make(4.0, None)])
    assert page.facts() == {"Images judged": "2", "Flagged": "00 %", "Unreadable": "0"}
    assert len(page.all("svg")) == 1  # no ROC curve
    assert [one.partition(" ")[0] for one in headings(page)] == ["Passed"]


@pytest.mark.parametrize("kind", ["good", "crack"])
def test_one_kind_alone_has_no_roc_curve(kind: str) -> None:
    _, page = render([make(3.0, kind), make(14.0, kind)])
    assert len(page.all("svg")) == 1 and "Image AUROC" not in page.facts()
    assert ("False alarms" in page.facts()) == (kind == "good")


@pytest.mark.parametrize("threshold", [None, math.inf])
def test_without_a_threshold_none_is_drawn(threshold: float | None) -> None:
    text, page = render(MIXED, threshold=threshold)
    assert not page.all("path", **{"class": "threshold"}) and "threshold 10" not in text
    assert page.facts()["Flagged"].startswith("3")  # the verdicts are the detector's


def test_an_image_that_was_not_judged_is_not_called_passed() -> None:
    image = make(3.0, None)
    image = replace(image, result=replace(image.result, anomaly=None, p_value=None))
    card = render([image])[1].cards()[0]
    assert (
        "not judged" in card["text"] and "passed" not in card["text"] and "p " not in card["text"]
    )


def test_the_histogram_shows_every_image_on_its_side_of_the_threshold() -> None:
    rng = np.random.default_rng(5)
    images = [make(float(s), "good") for s in rng.normal(7, 2, 60)]
    images += [make(float(s), "crack") for s in rng.normal(14, 3, 40)]
    _, page = render(images, calibration_scores=rng.normal(7, 2, 30))
    svg = page.all("svg")[0]
    line = page.within(svg, "path")
    (drawn,) = [one for one in line if one.get("class") == "threshold"]
    x_threshold = float(re.findall(r"M([\d.]+)", drawn["d"])[0])
    assert any(one["text"] == "threshold 10" for one in page.within(svg, "text"))
    for name, kind in (("good", "good"), ("defective", "crack")):
        bars = page.all("rect", **{"class": name})
        for bar in bars:
            left, width = float(bar["x"]), float(bar["width"])
            assert left + width <= x_threshold + 0.1 or left >= x_threshold - 0.1
        # Heights are counts: their sum in units of the lowest common bar.
        heights = np.array([float(bar["height"]) for bar in bars])
        above = heights[[float(bar["x"]) >= x_threshold - 0.1 for bar in bars]].sum()
        scores = [image.score for image in images if image.kind == kind]
        share = sum(score > THRESHOLD for score in scores) / len(scores)
        assert above / heights.sum() == pytest.approx(share, abs=0.01)
    assert len([one for one in line if one.get("class") == "calibration"]) == 1
    assert "30 calibration, 60 good, 40 defective; the threshold is 10" in svg["aria-label"]


@pytest.mark.parametrize("power", [1, 6])
@pytest.mark.parametrize("threshold", [None, 10.0, 40.0, 0.5])
def test_bins_hold_what_a_loop_puts_into_them(power: int, threshold: float | None) -> None:
    scores = np.append(np.random.default_rng(2).uniform(1, 20, 300), 10.0) ** power
    threshold = None if threshold is None else threshold**power
    bins = Bins.of(scores, threshold)
    ends = scores if threshold is None else np.append(scores, threshold)
    assert bins.is_log == (max(ends) > 30 * min(ends)) == (power == 6 or threshold in (0.5, 40.0))
    expected = [0] * bins.n_bins
    for place in bins.places(scores):
        assert 0 < place < 1
        expected[math.ceil(round(float(place) * bins.n_bins, 9)) - 1] += 1
    assert bins.counts(scores) == expected and sum(expected) == 301
    if threshold is not None:
        edge = float(bins.places(np.array([threshold]))[0]) * bins.n_bins
        assert edge == pytest.approx(round(edge), abs=1e-9)
        assert sum(expected[: round(edge)]) == (scores <= threshold).sum()
    assert 3 <= len(bins.ticks()) <= 8
    assert (bins.places(np.array(bins.ticks())) >= -1e-9).all()


def test_step_is_round_and_large_enough() -> None:
    cases = {(30, 30): 1, (31, 30): 2, (0.9, 3): 0.5, (700, 7): 100, (0, 10): 1e-10}
    for (span, n_steps), step in cases.items():
        assert charts.nice_step(span, n_steps) == pytest.approx(step)


def test_scores_that_are_all_alike_are_drawn() -> None:
    for score in (0.0, 3.0, -7e5, 1e-9):
        _, page = render([make(score, "good")] * 3, threshold=None)
        assert len(page.all("rect", **{"class": "good"})) == 1


def test_negative_scores_have_a_linear_axis() -> None:
    text, _ = render([make(score, "good") for score in (-5.0, -0.001, 500.0)])
    assert "logarithmic" not in text
    assert "logarithmic" in render([make(score, "good") for score in (0.01, 500.0)])[0]


def test_the_roc_curve_and_its_operating_point() -> None:
    _, page = render(MIXED)
    svg = page.all("svg")[1]
    (curve,) = page.all("path", **{"class": "curve"})
    points = [tuple(map(float, one.split())) for one in curve["d"][1:].split("L")]
    (x0, y0), (x1, y1) = points[0], points[-1]
    rates = [((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) for x, y in points]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(rates))
    truth = roc_auc_score([i.kind != "good" for i in MIXED], [i.score for i in MIXED])
    assert area == pytest.approx(truth, abs=1e-3)
    mark = page.within(svg, "circle")[0]
    assert (float(mark["cx"]) - x0) / (x1 - x0) == pytest.approx(1 / 5, abs=1e-3)
    assert (float(mark["cy"]) - y0) / (y1 - y0) == pytest.approx(2 / 3, abs=1e-3)
    assert "asked for 5" in svg["aria-label"]


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_a_score_that_is_none_is_refused(score: float | None) -> None:
    image = ReportImage(Result("a.png", score=score), picture(0))
    with pytest.raises(InputError, match=r"^a\.png: its score is .* give .* in errors"):
        render([make(1.0, None), image])


def test_other_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"begins with b'GIF89a'; allowed are JPEG and PNG"):
        render([make(1.0, None, picture=b"GIF89a")])


def test_calibration_scores_must_be_finite() -> None:
    with pytest.raises(InputError, match="1 calibration scores are not finite"):
        render(MIXED, calibration_scores=[1.0, math.nan])


def test_encode_writes_a_jpeg_of_the_picture() -> None:
    content = encode(Image.new("RGB", (30, 20), (200, 100, 50)))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and image.size == (30, 20)
        assert np.abs(np.array(image, int) - (200, 100, 50)).max() <= 3


def test_neither_module_imports_torch() -> None:
    program = (
        "import sys, mahalad.report.overlays, mahalad.report.page; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("style", ["table", "csv", "jsonl"])
def test_no_results_are_no_lines(style: str) -> None:
    assert list(lines([], style)) == []

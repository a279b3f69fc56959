"""The demo's page: what was asked, what was found, all pictures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from mahalad.report.charts import histogram

HEADER = ("parts", "images", "AUROC %", "pixels' AUROC %", "flagged", "flagged %")


PIXELS = "pixels: distance of the raw pixels to the mean good image, for comparison"


@dataclass(frozen=True)
class Judged:
    """One test image, as the detector and the baseline see it."""

    link: str  # from the page
    kind: str
    score: float
    p_value: float
    flagged: bool
    pixel_distance: float

    @property
    def mistake(self) -> str:
        """What is wrong with the verdict; empty if nothing."""
        if self.flagged == (self.kind != "good"):
            return ""
        return "false alarm" if self.flagged else "missed defect"


def words(kind: str) -> str:
    """Write the name of a kind of defect for readers."""
    return kind.replace("_", " ")


def make_page(
    judged: Sequence[Judged],
    rows: Sequence[Sequence[str]],
    threshold: float,
    n_train: int,
    verdict: str,
    times: str,
    command: str,
) -> str:
    """Write the page as HTML.

    Parameters
    ----------
    judged : sequence of Judged
        Test images in any order; the page shows the most abnormal first.
    rows : sequence of sequences of str
        Rows of the table under `HEADER`.
    threshold : float
        Scores above it are flagged.
    n_train : int
        Good images that were fitted.
    verdict, times, command : str
        Sentences on what was found and how long it took, and the command to run next.
    """
    ranked = sorted(judged, key=lambda image: -image.score)
    cards = [_card(image) for image in ranked]
    cards.insert(
        sum(image.flagged for image in ranked),
        f'<li id="threshold"><b>Threshold {_one_decimal(threshold)}</b> '
        "<span>flagged before, passed after</span></li>",
    )
    mistakes = [image.mistake for image in judged if image.mistake]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in HEADER)
    return _PAGE.substitute(
        style=_STYLE,
        n_test=len(judged),
        n_train=n_train,
        head=head,
        body="\n".join(map(_row, rows)),
        pixels=html.escape(PIXELS.capitalize()),
        verdict=html.escape(verdict).replace(" %", "&nbsp;%"),
        times=html.escape(times.capitalize()),
        histogram=_histogram(judged, threshold),
        n_missed=mistakes.count("missed defect"),
        n_alarms=mistakes.count("false alarm"),
        cards="\n".join(cards),
        command=html.escape(command),
    )


def _row(cells: Sequence[str]) -> str:
    name, *values = map(html.escape, cells)
    kind = ' class="sum"' if name == "all defects" else ""
    data = "".join(f"<td>{'&ndash;' if value == '-' else value}</td>" for value in values)
    return f'<tr{kind}><th scope="row">{name}</th>{data}</tr>'


def _card(image: Judged) -> str:
    kind = html.escape(words(image.kind))
    verdict = "flagged" if image.flagged else "passed"
    mark = f'<em class="wrong">{image.mistake}</em>' if image.mistake else ""
    frame = ' class="wrong"' if image.mistake else ""
    alt = "Rendered part, " + ("good" if image.kind == "good" else f"defect: {kind}")
    return (
        f'<li{frame}><img src="{html.escape(image.link)}" alt="{alt}" width="256" '
        f'height="256" loading="lazy"><b>{kind}</b><span>score {_one_decimal(image.score)}, '
        f'p&nbsp;{image.p_value:.3f}</span><em class="{verdict}">{verdict}</em>{mark}</li>'
    )


def _histogram(judged: Sequence[Judged], threshold: float) -> str:
    """Draw the scores of good and defective parts, one above the other on the same axis (SVG)."""
    scores = np.array([image.score for image in judged])
    is_bad = np.array([image.kind != "good" for image in judged])
    groups = {"good": scores[~is_bad], "defective": scores[is_bad]}
    return histogram(groups, threshold, write=_one_decimal)


def _one_decimal(score: float) -> str:
    return f"{score:.1f}"


_STYLE = """
:root { color-scheme: light dark;
  --page: #fff; --card: #f4f5f7; --text: #1b1f24; --soft: #545d68; --line: #d0d5db;
  --good: #0072b2; --bad: #b84a00; --wrong: #a3005c; --on-wrong: #fff; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #20252b; --text: #e8ebee; --soft: #a9b2bc; --line: #3d454e;
  --good: #66b5ff; --bad: #ff9a55; --wrong: #ff8cc4; --on-wrong: #14171b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
p { max-width: 46rem; margin: 0 0 .6rem; }
section { margin-top: 2.2rem; }
.two { display: grid; column-gap: 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .85rem; line-height: 1.25; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; white-space: nowrap; }
.sum > * { font-weight: 700; border-bottom-width: 2px; }
.soft { color: var(--soft); font-size: .9rem; }
svg { display: block; width: 100%; max-width: 44rem; height: auto; }
svg text { font-size: 14px; fill: var(--soft); }
.start { text-anchor: start; } .mid { text-anchor: middle; } .end { text-anchor: end; }
svg .label { font-weight: 700; fill: var(--text); }
rect.good, svg .label.good { fill: var(--good); }
rect.defective, svg .label.defective { fill: var(--bad); }
.over { fill: var(--card); } path { fill: none; stroke: var(--line); }
path.axis { stroke: var(--soft); }
path.threshold { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 5 4; }
@media (max-width: 34rem) { svg text { font-size: 19px; }
  th, td { padding: .3rem .2rem; font-size: .8rem; } thead th { font-size: .75rem; } }
ol { list-style: none; margin: 1rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
li { display: flex; flex-direction: column; padding: .5rem; border-radius: .5rem;
  background: var(--card); border: 2px solid transparent; font-size: .9rem; line-height: 1.4; }
li.wrong { border-color: var(--wrong); }
li img { width: 100%; height: auto; border-radius: .3rem; margin-bottom: .4rem; }
li span { color: var(--soft); font-variant-numeric: tabular-nums; }
em { font-style: normal; font-weight: 600; }
em.flagged { color: var(--bad); } em.passed { color: var(--good); }
em.wrong { align-self: start; margin-top: .2rem; padding: 0 .45rem; border-radius: .3rem;
  background: var(--wrong); color: var(--on-wrong); }
#threshold { grid-column: 1 / -1; flex-direction: row; flex-wrap: wrap; column-gap: .7rem;
  background: none; border: 0; border-top: 2px dashed var(--text); border-radius: 0;
  padding: .3rem 0 0; margin-top: .4rem; }
code { font: .9em ui-monospace, Consolas, monospace; background: var(--card); padding: .5rem .7rem;
  border-radius: .4rem; display: block; overflow-x: auto; white-space: pre; }
a { color: var(--good); }
"""


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mahalad demo">
<title>mahalad demo: defects found from good parts alone</title>
<style>$style</style>
</head>
<body>
<header>
<h1>Defects found from good parts alone</h1>
<p>These $n_test images of a machined part were judged by a detector that has seen $n_train good
parts and not one defect. It measures how far an image lies from the good ones, place by place and
as a whole, in the features of a network that is used as it comes. The threshold too comes from
good parts alone: it is set so that the share of good parts flagged is the one asked for. All images
are rendered; light, pose and noise change far more of their pixels than a defect does.</p>
</header>
<main>
<div class="two">
<section>
<h2>Result</h2>
<p>$verdict.</p>
<div class="scroll" role="region" aria-label="Table of results" tabindex="0"><table>
<thead><tr>$head</tr></thead>
<tbody>
$body
</tbody>
</table></div>
<p class="soft" style="margin-top:.6rem">$pixels. AUROC: how often a defective part scores above a
good one; 50&nbsp;% is chance.</p>
<p class="soft">$times.</p>
</section>
<section>
<h2>Scores of the test images</h2>
$histogram
</section>
</div>
<section>
<h2>All test images, most abnormal first</h2>
<p>$n_missed missed defects and $n_alarms false alarms are framed; the
<a href="#threshold">threshold</a> separates flagged from passed images. The p-value is the share of
good parts that would look at least as abnormal.</p>
<ol>
$cards
</ol>
</section>
<section>
<h2>Next</h2>
<p>The fitted model is in a file beside this page. To judge images with it:</p>
<code>$command</code>
</section>
</main>
</body>
</html>
""")

"""What each choice in the per-position scorer gives: image AUROC, one choice changed at a time.

    python benchmarks/choices.py --root DIR ... [--size 320] [--backbone NAME --weights FILE]
                                 [--only TEXT]

Features are extracted once per category; every variant is fitted to train/good and scores the
whole test set. The defaults were chosen on these figures, so they say nothing about other data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mahalad.arrays import take
from mahalad.bench.features import CategoryImages, extract_categories
from mahalad.evaluation.images import roc_auc
from mahalad.features.extractor import BackboneFeatures
from mahalad.images.mvtec import find_categories
from mahalad.progress import no_progress
from mahalad.report.tables import format_table
from mahalad.scorers.positions.scorer import PatchScorer


def variants(names: list[str]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Name, levels and parameters; `names` are the maps of strides 4, 8 and 16, finest first.

    Of Gaussians alone, and of a single level, the finer maps do not count in a score.
    """
    last = names[-2:]
    return [
        ("default", names, {}),
        ("positions alone (image_weight=0)", names, {"image_weight": 0.0}),
        ("image_weight=0.5", names, {"image_weight": 0.5}),
        ("image_weight=1", names, {"image_weight": 1.0}),
        ("top_fraction=0 (largest)", names, {"top_fraction": 0.0}),
        ("top_fraction=0.01", names, {"top_fraction": 0.01}),
        ("top_fraction=0.1", names, {"top_fraction": 0.1}),
        ("top_fraction=1 (mean)", names, {"top_fraction": 1.0}),
        ("without the finer map", last, {}),
        (f"score by {last[0]} alone", last[:1], {}),
        (f"score by {last[1]} alone", last[1:], {}),
        (f"score by {names[-3]} (finer) alone", names[-3:-2], {}),
        ("neighbourhood=1", last, {"neighbourhood": 1}),
        ("neighbourhood='all'", last, {"neighbourhood": "all"}),
    ]


def measure(images: CategoryImages, levels: list[str], parameters: dict[str, Any]) -> float:
    kept = {n: x for n, x in images.features.items() if x.ndim == 2 or n in levels}
    rows = np.arange(len(images.paths))
    scorer = PatchScorer(**parameters).fit(take(kept, rows[: images.n_train]))
    scores = -scorer.score_samples(take(kept, rows[images.n_train :]))
    return roc_auc(scores, images.is_anomaly[images.n_train :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, action="append", required=True)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--only", default="", help="variants whose name has this text")
    options = parser.parse_args()
    extractor = BackboneFeatures(
        options.backbone, weights=options.weights, levels=[-1], maps=None, input_size=options.size
    ).build()
    categories = find_categories(options.root)
    table: dict[str, list[float]] = {}
    for category in categories:
        [images] = extract_categories([category], extractor, 0, no_progress)
        maps = [name for name, x in images.features.items() if x.ndim == 4]
        for name, levels, parameters in variants(maps):
            if options.only in name:
                table.setdefault(name, []).append(measure(images, levels, parameters))
                print(f"{category.name:10} {name:36} {table[name][-1]:.4f}", flush=True)
    rows = [
        [name, *(f"{100 * x:.2f}" for x in found), f"{100 * np.mean(found):.2f}"]
        for name, found in table.items()
    ]
    print(format_table(["variant", *(c.name for c in categories), "mean"], rows))


if __name__ == "__main__":
    main()

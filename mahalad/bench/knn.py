"""Compare classifiers that learn from few labels: voting neighbours, and their competitors.

The layout is class folders, ``train/<class>`` and ``test/<class>``. Features of all images are
extracted once and standardised by those of ``train``, without its labels. Then, for every seed, a
few labels are drawn from ``train``; hyper-parameters are chosen on held-out parts of these labels
alone, the fit is repeated on all of them, and judged on ``test``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score, precision_recall_fscore_support

from mahalad.bench.knn_methods import (
    EPOCHS,
    LOGISTIC,
    METHODS,
    SCALED,
    SELF_TRAINED,
    SUPERVISED,
    choose,
    fit_and_predict,
)
from mahalad.bench.knn_text import as_text, results_of
from mahalad.bench.outputs import check_outputs, versions, write_json
from mahalad.checks import DRAWS, OneOf, check_parameters
from mahalad.errors import InputError
from mahalad.metric.embedding import Embedding
from mahalad.metric.labelled import draw, read_labelled
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.progress import Progress, no_progress


def run(
    root: str | Path,
    *,
    labels: Sequence[int] = (50, 100, 200, 500),
    seeds: int = 5,
    positive: str = "defect",
    methods: Sequence[str] = METHODS,
    encoder: Any = None,
    cache: str | Path | None = None,
    json_file: str | Path | None = None,
    plot_file: str | Path | None = None,
    progress: Progress = no_progress,
) -> str:
    """Compare classifiers that learn from few labels.

    Parameters
    ----------
    root : str or Path
        Folder with ``train/<class>`` and ``test/<class>``.
    labels : sequence of int
        How many labels are drawn, each class in proportion.
    seeds : int
        Draws of each number.
    positive : str
        The class against all others in the first task; the second tells all classes.
    methods : sequence of str
        Of `mahalad.bench.knn_methods.METHODS`: votes on the encoder's features; on a projection by
        each triplet loss; on one by the scaled loss that saw all other images of ``train`` too,
        without their labels; logistic regression on the same features and labels.
    encoder : feature extractor
        After `build`, with pooled levels.
    cache : str, Path or None
        Folder for the encoder's features.
    json_file, plot_file : str, Path or None
    progress : callable

    Returns
    -------
    str
        Tables: macro F1, F1, precision and recall of `positive`, paired differences.

    Raises
    ------
    InputError
        Folders that are missing, have other classes or no `positive`; unknown methods.
    """
    check_outputs(json_file, plot_file)
    check_parameters({"seeds": DRAWS}, {"seeds": seeds})
    for method in methods:
        check_parameters({"methods": OneOf(METHODS)}, {"methods": method})
    train, test, names, names_test = _standardized(root, Embedding(encoder, None, cache),
                                                   positive, progress)  # fmt: skip
    tasks = {f"{positive} or not": (names == positive, names_test == positive)}
    if len(set(names)) > 2:
        tasks[f"{len(set(names))} classes"] = (names, names_test)
    jobs = [(task, n, seed) for task in tasks for n in labels for seed in range(seeds)]
    results = []
    for task, n, seed in progress(jobs, len(jobs)):
        about = {"task": task, "labels": n, "seed": seed}
        y, y_test = tasks[task]
        rows = draw(names.tolist(), n, seed)
        found = _judged_methods(methods, train, y, rows, test, y_test, seed, positive)
        results += [about | one for one in found]
    for task, (y, y_test) in tasks.items():
        about = {"task": task, "labels": len(y), "seed": 0, "method": SUPERVISED}
        choice = choose(LOGISTIC, train, y, 0)
        predicted, _ = fit_and_predict(LOGISTIC, choice, train, y, test, 0)
        figures = judge(y_test, predicted, _positive_of(y, positive))
        results.append(about | {"chosen": _as_json(choice)} | figures)
    report = {
        "benchmark": "knn",
        "parameters": {"root": root, "labels": list(labels), "seeds": seeds, "positive": positive},
        "encoder": None if encoder is None else encoder.record(),
        "images": {"train": len(train), "test": len(test), "features": train.shape[1]},
        "versions": versions(),
        "results": results,
        "differences": [
            d
            for task in tasks
            for n in labels
            for ours in (SCALED, SELF_TRAINED)
            for d in differences(results, task, n, ours)
        ],
    }
    if json_file is not None:
        write_json(report, json_file)
    if plot_file is not None:
        from mahalad.bench.plots import save_figure
        from mahalad.bench.plots_knn import draw_knn

        views = _views(train, test, names, names_test, max(labels))
        save_figure(draw_knn(report, views), plot_file)
    return as_text(report)


def _standardized(
    root: str | Path, embedding: Embedding, positive: str, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    """Read features of train and test, both standardised by train, and the labels of both."""
    F, names = _read(Path(root, "train"), embedding, progress)
    embedding.standardize_as([F])
    F_test, names_test = _read(Path(root, "test"), embedding, progress)
    if set(names_test) != set(names) or positive not in names:
        raise InputError(
            f"{root}: train has the classes {', '.join(sorted(set(names)))}, test "
            f"{', '.join(sorted(set(names_test)))}; they must be the same, with {positive!r} "
            "(--positive) among them"
        )
    return embedding.standardized(F), embedding.standardized(F_test), names, names_test


def _judged_methods(
    methods: Sequence[str],
    train: NDArray[np.float32],
    y: NDArray[Any],
    rows: NDArray[np.int64],
    test: NDArray[np.float32],
    y_test: NDArray[Any],
    seed: int,
    positive: str,
) -> list[dict[str, Any]]:
    """Fit every method to the labels of some rows, and say how well it tells the test images."""
    further = np.delete(train, rows, axis=0)
    choices: dict[str, dict[str, Any]] = {}
    found = []
    for method in methods:
        kind = SCALED if method == SELF_TRAINED else method
        if kind not in choices:
            choices[kind] = choose(kind, train[rows], y[rows], seed)
        predicted, more = fit_and_predict(
            method, choices[kind], train[rows], y[rows], test, seed, further=further
        )
        about = {"method": method, "chosen": _as_json(choices[kind]) | more}
        found.append(about | judge(y_test, predicted, _positive_of(y, positive)))
    return found


def _read(
    folder: Path, embedding: Embedding, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Read the features and labels of a folder's images; every image must be readable."""
    paths, labels = read_labelled(folder)
    return embedding.read_strictly(progress(paths, len(paths)))[1], np.array(labels)


def _as_json(choice: dict[str, Any]) -> dict[str, Any]:
    voting = choice["voting"]
    return choice | {"voting": None if voting is None else asdict(voting)}


def _positive_of(y: NDArray[Any], positive: str) -> Any:
    return True if y.dtype == bool else positive


def judge(y: NDArray[Any], predicted: NDArray[Any], positive: Any) -> dict[str, float]:
    """Compute macro F1, and precision, recall and F1 of the positive class, each in [0, 1]."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, predicted, labels=[positive], zero_division=0
    )
    return {
        "macro_f1": float(f1_score(y, predicted, average="macro", zero_division=0)),
        "f1": float(f1[0]),
        "precision": float(precision[0]),
        "recall": float(recall[0]),
    }


def differences(
    results: Sequence[dict[str, Any]], task: str, n: int, method: str = SCALED
) -> list[dict[str, Any]]:
    """Subtract other methods' macro F1 from one's, seed by seed, with 95 % t intervals."""
    by_method = {
        name: np.array([r["macro_f1"] for r in results_of(results, task, n, name)])
        for name in METHODS
    }
    ours = by_method[method]
    rows = []
    for other, theirs in by_method.items():
        if other == method or not len(ours) or not len(theirs):
            continue
        d = ours - theirs
        half = math.nan
        if len(d) > 1:
            half = float(stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d)))
        rows.append({"task": task, "labels": n, "method": method, "against": other,
                     "mean": float(d.mean()), "half_width": half})  # fmt: skip
    return rows


def _views(
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    names: NDArray[Any],
    names_test: NDArray[Any],
    n: int,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Show test samples in two dimensions, before and after a projection: (n, 2) and labels."""
    rows = draw(names.tolist(), n, 0)
    projection = TripletProjection(max_epochs=EPOCHS, validation_fraction=0)
    projected = projection.fit(train[rows], names[rows]).transform(test)
    views = {"encoder": test, f"{SCALED}, {n} labels": projected}
    return {title: (PCA(2, random_state=0).fit_transform(E), names_test)
            for title, E in views.items()}  # fmt: skip

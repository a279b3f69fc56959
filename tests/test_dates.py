"""The date of a fit: in the model file, `fit_date_` and `mahalad info`; unknown of older files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, run
from sklearn.ensemble import IsolationForest

from mahalad import AnomalyDetector, MetricKNNClassifier, load
from mahalad.files.container import read_header


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(60, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda F: AnomalyDetector().fit(F),
        lambda F: AnomalyDetector(threshold="holdout", fpr=0.1).fit(F),
        lambda F: AnomalyDetector(scorer=IsolationForest(random_state=0)).fit(F),
        lambda F: AnomalyDetector().partial_fit(F[:30]).partial_fit(F[30:]),
        lambda F: AnomalyDetector().fit(F[:30]).merge(AnomalyDetector().fit(F[30:])),
        lambda F: AnomalyDetector().fit(F).remove(F[:3]),
        lambda F: MetricKNNClassifier(novelty_fpr=0.2).fit(F, ["a", "b"] * 30),
    ],
)
def test_every_fit_tells_its_day_and_so_does_its_file(
    make: Any, vectors: Any, tmp_path: Path
) -> None:
    before, fitted = today(), make(vectors)
    assert before <= fitted.fit_date_ <= today()
    fitted.save(tmp_path / "m")
    own = isinstance(getattr(fitted, "scorer", None), IsolationForest)
    given = {"scorer": IsolationForest(random_state=0)} if own else {}
    assert load(tmp_path / "m", **given).fit_date_ == fitted.fit_date_
    assert fitted.fit_date_ in run("info", tmp_path / "m").stdout


def test_a_question_changes_no_date_and_a_change_of_images_does(
    vectors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mahalad.detectors.calibrating.today", lambda: "2020-02-29")
    detector = AnomalyDetector().fit(vectors)
    detector.save(tmp_path / "m", include_features=False)
    monkeypatch.undo()
    slim = load(tmp_path / "m").set_fpr(0.1)
    slim.predict(vectors[:3] + 1)
    assert slim.fit_date_ == detector.fit_date_ == "2020-02-29"
    detector.set_params(threshold="tolerance", fpr=0.2)
    assert detector.fit_date_ == "2020-02-29"
    assert detector.partial_fit(vectors[:1] + 2).fit_date_ >= today()


@pytest.mark.parametrize(
    "name", ["format1_arrays", "format4_arrays", "format5_holdout", "format5_classifier"]
)
def test_older_files_say_that_it_is_unknown(name: str, tmp_path: Path) -> None:
    path = DATA / f"{name}.mahalad"
    model = load(path)
    assert model.fit_date_ is None
    words = [line.split() for line in run("info", path).stdout.splitlines()]
    assert ["fitted", "unknown"] in words
    model.save(tmp_path / "again")
    header = read_header(tmp_path / "again")
    assert "date" not in header and "date" not in header.get("fit", {})

"""A detector that was exported, asked as the one it came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors import lots
from mahalad.detectors.asking import Fitted
from mahalad.errors import InputError, MissingExtraError, ModelFileError
from mahalad.features.golden import golden_images
from mahalad.files.onnx import decode
from mahalad.protocols import Floats, Threshold
from mahalad.result import Result
from mahalad.runtime.parts import (
    LEVELS,
    MAP,
    GraphFeatures,
    GraphScores,
    GraphScoresAndMaps,
    change,
    preparation_in,
    reading_of,
)
from mahalad.runtime.session import Session
from mahalad.thresholds.conformal import ConformalThreshold, check_fpr


class OnnxDetector:
    """An exported detector. It is asked as an `AnomalyDetector` is, and says the same.

    Made by `mahalad.runtime.load`. It cannot be fitted, updated or merged.

    Parameters
    ----------
    session : Session
    name : str
        Of the file, for errors.

    Attributes
    ----------
    fpr : float
        Share of good images that may be flagged; `set_fpr` changes it.
    features_ : GraphFeatures
        It has the parameters `batch_size`, `bits` and `channels`, which may be changed.
    record_ : dict
        What the file says.

    Raises
    ------
    ModelFileError
        The record of the file is damaged.
    """

    def __init__(self, session: Session, name: str) -> None:
        record = self.record_ = session.record
        try:
            self.fpr = check_fpr(record["fpr"])
            self.threshold = record["threshold"]
            self.scope = record.get("scope")
            calibration, fit = record["calibration"], record["fit"]
            self.calibration_scores_: Floats = decode(calibration["scores"], name)
            self.calibration_method_ = str(calibration["method"])
            self._weights: Floats = decode(calibration["weights"], name)
            self._keys: NDArray[np.uint64] = decode(fit["keys"], name)
            self._left_out: Floats = decode(fit["left_out"], name)
            self.n_images_ = int(fit["n_images"])
            self.fit_date_: str | None = fit["date"]
            self.has_maps = MAP in session.outputs
            self.features_ = GraphFeatures(session, preparation_in(record, name))
            # Maps of shares are no maps of a scorer: they have other units, and no threshold.
            of_positions = record["maps"] is not None and record["maps"]["kind"] == "positions"
            self.scorer_ = (GraphScoresAndMaps if of_positions else GraphScores)(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{name}: the record of the model is damaged ({error})") from error
        self._name = name

    def set_fpr(self, fpr: float) -> Self:
        """Ask for another false-positive rate; nothing is exported again."""
        self.fpr = check_fpr(fpr)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give what `set_params` may change."""
        return {"fpr": self.fpr, **reading_of(self.features_)}

    def set_params(self, **params: Any) -> Self:
        """Change `fpr`, `batch_size`, or how images are read: `bits` and `channels`.

        Raises
        ------
        InputError
            Another parameter: an exported model has all else within.
        """
        change(self, self.features_, params, "fit")
        return self

    def anomaly_score(self, X: Any) -> Floats:
        """Anomaly score of each image, shape (n,), up = abnormal."""
        return self._fitted().scores(X)[0]

    def level_scores(self, X: Any) -> Floats:
        """Anomaly scores per level, shape (n, n_levels), up = abnormal."""
        levels = self._fitted().scores(X)[1]
        assert levels is not None
        return levels

    def score_samples(self, X: Any) -> Floats:
        """Negative anomaly score, shape (n,), up = normal."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> Floats:
        """Distance to the threshold, shape (n,), negative = flagged."""
        threshold = self._fitted_threshold()
        critical = threshold.critical_value(self.fpr)
        return np.asarray(critical - threshold.statistic(*self._fitted().scores(X)))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """+1 for good images and -1 for anomalies, shape (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Floats:
        """p-value of each image, shape (n,), small = abnormal."""
        threshold = self._fitted_threshold()
        return threshold.p_values(threshold.statistic(*self._fitted().scores(X)))

    def anomaly_map(self, X: Any) -> Floats:
        """Where each image differs from the good ones, (n, S, S), up = abnormal.

        Raises
        ------
        InputError
            The model has no maps.
        """
        return np.concatenate([maps for _, maps in self._fitted(maps=True).maps(X)])

    def inspect(
        self, X: Any, *, maps: bool = False, batch_size: int | None = None
    ) -> Iterator[Result]:
        """Judge images one after the other; see `AnomalyDetector.inspect`.

        Yields
        ------
        Result
            One for each image, in order; an unreadable one has an error.
        """
        threshold = self._fitted_threshold()
        threshold.critical_value(self.fpr)
        yield from self._fitted(maps=maps).inspect(
            X, threshold, self.fpr, maps=maps, batch_size=batch_size, promptly=True
        )

    def judge_lot(self, X: Any, *, fdr: float = 0.1) -> lots.Lot:
        """Judge a lot at a false-discovery rate; see `AnomalyDetector.judge_lot`."""
        rule = lots.conformal_rule(self.calibration_scores_, self._weights)
        return lots.judge_lot(self._fitted().inspect(X, rule, 0.5), rule, fdr)

    @property
    def threshold_(self) -> float:
        """Critical value at the present `fpr`: scores above it are flagged."""
        return self._fitted_threshold().critical_value(self.fpr)

    @property
    def map_threshold_(self) -> float:
        """Value of the map at which colour begins in flagged images; see `AnomalyDetector`.

        Raises
        ------
        InputError
            The maps have none.
        """
        maps = self.record_["maps"]
        if maps is None or maps["threshold"] is None:
            raise InputError(f"{self._name}: its maps have no threshold: those of positions have")
        return float(maps["threshold"])

    @property
    def guarantee_(self) -> Any:
        """What the threshold promises at the present `fpr`; it needs SciPy."""
        from mahalad.thresholds.guarantee import guarantee_of

        about = self.record_["calibration"]
        return guarantee_of(
            self.threshold,
            self.calibration_method_,
            len(self.calibration_scores_),
            self.fpr,
            n_independent=float(self._weights.sum()),
            counts_parts=about["counts_parts"],
        )

    @property
    def suspects_(self) -> list[Result]:
        """Images of the fit that did not fit the others when the model was exported."""
        found = self.record_["fit"]["suspects"]
        return [Result(name, score=score, in_fit=True) for name, score in found]

    def check_golden(self) -> Self:
        """Score pictures that are made from a seed, and compare with what they scored at export.

        Raises
        ------
        ModelFileError
            They score otherwise.
        """
        found = self.features_.transform(golden_images(self.features_))[LEVELS].sum(axis=1)
        golden = self.record_["golden"]
        wanted = np.array(golden["scores"])
        if not np.allclose(found, wanted, rtol=golden["rtol"], atol=golden["atol"]):
            raise ModelFileError(
                f"{self._name}: does not score here as it did where it was exported: its check "
                f"inputs give {found.tolist()} instead of {wanted.tolist()} (allowed: relative "
                f"{golden['rtol']:g}): another version of the engine or Pillow may be the reason; "
                "export it again here, or install the versions of there"
            )
        return self

    def _fitted(self, *, maps: bool = False) -> Fitted:
        if maps and not self.has_maps:
            raise InputError(
                f"{self._name}: no anomaly maps: models with Gaussians per position, or per level "
                "without a reduction, have them"
            )
        features = self.features_.with_maps() if maps else self.features_
        scores = GraphScoresAndMaps(self.record_) if maps else self.scorer_
        fit = self.record_["fit"]
        return Fitted(
            features,
            scores,
            features.outputs,
            int(fit["salt"]),
            self._keys,
            self._left_out,
            depths=frozenset(fit["depths"]),
            calibration=self.calibration_scores_,
            n_independent=float(self._weights.sum()),
        )

    def _fitted_threshold(self) -> Threshold:
        rule = self.threshold
        if rule in ("conformal", "holdout"):
            return ConformalThreshold().fit(self.calibration_scores_, weights=self._weights)
        try:
            from mahalad.files.spec import from_spec
            from mahalad.thresholds.rules import fit_threshold

            degrees = self.scorer_.degrees_of_freedom_
            return fit_threshold(
                from_spec(rule),
                self.calibration_method_,
                self.calibration_scores_,
                degrees,
                self._weights,
            )
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{self._name}: its threshold ({rule}) needs the package {error.name}, which is not"
                " installed: pip install scipy scikit-learn; conformal thresholds do without"
            ) from error

"""The cores without images: on plain arrays, in a Pipeline, with a scorer from scikit-learn."""

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline

from mahalad import AnomalyDetector, LedoitWolfGaussian, PrincipalComponents


def main() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(50, 50)) / np.arange(1, 51)
    normals, fresh = rng.normal(size=(400, 50)) @ mixing, rng.normal(size=(1000, 50)) @ mixing
    odd = fresh[:200] + 0.2 * rng.normal(size=(200, 50))

    # A Gaussian with Ledoit-Wolf shrinkage; fits on shards add up to one fit.
    gaussian = LedoitWolfGaussian().fit(normals)
    shards = LedoitWolfGaussian().fit(normals[:100]).merge(LedoitWolfGaussian().fit(normals[100:]))
    print("shards equal one fit:", np.allclose(shards.distances(odd), gaussian.distances(odd)))

    # Training distances are too small for a threshold; leave-one-out ones are honest.
    for name, distances in (
        ("in-sample", gaussian.distances(normals)),
        ("leave-one-out", gaussian.leave_one_out_distances(normals)),
    ):
        rate = np.mean(gaussian.distances(fresh) > np.quantile(distances, 0.95))
        print(f"95 % quantile of {name} distances flags {rate:.1%} of fresh normals")

    # It is a scikit-learn estimator: the NPCA of the paper is a Pipeline.
    npca = make_pipeline(PrincipalComponents("last", variance=0.99), LedoitWolfGaussian())
    print("NPCA score of the first sample:", npca.fit(normals).score_samples(normals[:1]).round(2))

    # Any outlier estimator gets a threshold with the asked false-positive rate.
    for scorer in (None, npca, IsolationForest(random_state=0)):
        detector = AnomalyDetector(scorer=scorer, fpr=0.05).fit(normals)
        false_alarms, hits = (np.mean(detector.predict(X) == -1) for X in (fresh, odd))
        print(f"{detector.calibration_method_}: {false_alarms:.1%} of fresh, {hits:.1%} of odd")


if __name__ == "__main__":
    main()

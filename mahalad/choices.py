"""What parameters may be where these are names: one table for Python and for the command line.

Nothing is imported here, so that a command line can be parsed without torch or scikit-learn.
"""

from __future__ import annotations

SCOPES = ("positions", "image")
"""Where Gaussians are: one for every position, or one for every level of the whole image."""

THRESHOLDS = ("conformal", "holdout", "tolerance", "chi2", "chi2-nominal")
"""Rules from a false-positive rate to a threshold; `mahalad.thresholds.rules.RULES` has them."""

SCORERS = ("gaussian", "l2", "sed", "ocsvm", "knn", "spade")
"""Estimators per level; `mahalad.scorers.level_sum.SCORERS` has them."""

RESIZE = ("squash", "pad")
"""How images become a square."""

CHANNELS = ("rgb", "bgr")
"""Order of the colours in arrays; OpenCV's is the second."""

ENGINES = ("auto", "torch", "onnx", "openvino")
"""What computes a frozen network; those below torch are extras of that name."""

EXPORT_FORMATS = ("onnx", "openvino")
"""What `export` writes: one file of ONNX, or the two of OpenVINO."""

CHANGES = ("light", "noise", "compression", "shift", "focus")
"""Kinds of harmless changes of pictures; `mahalad.images.changes.CHANGES` has them."""

OUTSIDE = ("mean",)
"""What a network sees outside a region of interest: the colour that it was trained to take as 0."""

PAGES = ("first", "all")
"""Which pages of a file with several are images."""

NEIGHBOURHOODS = ("nearest", 0, 1, 2, 3, 4, 5, "all")
"""What a patch is compared with: the nearest good one about its position, or the Gaussian that the
positions up to some steps away share."""

NEIGHBOR_DISTANCES = ("standardized", "euclidean", "cosine")
"""Between the features of two images."""

NEIGHBOR_REDUCES = ("kth", "mean")
"""What is made of the distances to the k nearest images."""

VOTES = ("uniform", "distance")
"""What a neighbour's vote counts."""

CLASS_WEIGHTS = (None, "balanced")
"""Whether votes of rare labels count more."""

EMBEDDING_DISTANCES = ("cosine", "euclidean")
"""Between embeddings."""

LOSSES = ("batch-hard-scaled", "batch-hard", "semi-hard", "batch-all")
"""Of triplets; `mahalad.metric.triplets.losses.LOSSES` has them."""

NEAR_COPIES = ("group", "separate")
"""Whether near-copies of a picture are one part with it, or parts of their own."""

ANY_ORIENTATION = ("auto", True, False)
"""Whether images of a fit count in their four quarter turns."""

ORIENTATIONS = (1, 4, 8)
"""How many ways an image is turned and mirrored."""

MAP_FORMATS = ("png", "npy")
"""Files that anomaly maps are written to."""

ROW_STYLES = ("table", "csv", "jsonl", "xlsx", "parquet")
"""How results are written as rows: of text, of a workbook, or of a Parquet file."""

BENCH_PROTOCOLS = ("paper", "official")
"""Which images `bench mvtec` fits to."""

BENCH_TABLES = ("categories", "levels", "distances", "networks", "sizes", "thresholds")
"""Experiments of `bench mvtec`."""

HIGHEST = "highest"
"""In place of levels: the highest one whose weights are there."""

PUBLISHED = ("padim", "patchcore")
"""Published methods that `bench mvtec` has as baselines."""

"""`bench --cache`: a second run computes no features, and says what the first one said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import run

from mahalad import BackboneFeatures
from mahalad.bench import fpr as bench_fpr
from mahalad.bench import mvtec as bench_mvtec
from mahalad.demo.rendered import write_dataset
from mahalad.errors import InputError

SMALL: dict[str, Any] = {
    "levels": ["blocks.1", "blocks.2"],
    "input_size": 64,
    "any_orientation": False,  # else images of each fit are looked at, turned
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog", n_train=12, n_test_good=4, n_test_per_defect=1, seed=0, size=64)
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images pass through the network, each time."""
    numbers: list[int] = []
    transform = BackboneFeatures.transform

    def counting(self: Any, X: Any) -> Any:
        numbers.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(BackboneFeatures, "transform", counting)
    return numbers


@pytest.mark.parametrize("tolerate", ["auto", ()])
def test_another_run_computes_nothing(root, tmp_path, computed, tolerate):
    cache = tmp_path / "cache"
    plain = bench_mvtec.run(roots=[root], tolerate=tolerate, **SMALL)
    n_plain = sum(computed)
    assert n_plain >= 22
    first = bench_mvtec.run(roots=[root], tolerate=tolerate, cache=cache, **SMALL)
    assert first == plain
    assert sum(computed) == 2 * n_plain
    # Another run, another scorer's parameters, another benchmark: the same features.
    assert bench_mvtec.run(roots=[root], tolerate=tolerate, cache=cache, **SMALL) == plain
    bench_mvtec.run(roots=[root], tolerate=tolerate, cache=cache, neighbourhood=1, **SMALL)
    assert sum(computed) == 2 * n_plain
    bench_fpr.run(roots=[root], tolerate=(), cache=cache, splits=2, **SMALL)
    assert sum(computed) == 2 * n_plain


def test_features_of_another_network_size_levels_or_image_are_others(root, tmp_path, computed):
    cache, options = tmp_path / "cache", {"tolerate": (), **SMALL}
    bench_mvtec.run(roots=[root], cache=cache, **options)
    for other in ({"input_size": 72}, {"levels": ["blocks.2"]}, {"resize": "pad"}):
        before = sum(computed)
        bench_mvtec.run(roots=[root], cache=cache, **(options | other))
        assert sum(computed) == before + 22
    before = sum(computed)
    (root / "cog/train/good/000.png").write_bytes((root / "cog/test/good/000.png").read_bytes())
    bench_mvtec.run(roots=[root], cache=cache, **options)
    assert sum(computed) == before  # known by its content, which is that of another one
    (root / "cog/train/good/000.png").unlink()


def test_a_folder_with_something_else_is_refused(root, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        InputError, match=r"something else than a cache of features \(notes\.txt and 1"
    ):
        bench_mvtec.run(roots=[root], cache=tmp_path, **SMALL)
    refused = run("bench", "mvtec", "--root", root, "--cache", root, "--size", "64")
    assert refused.exit_code == 2
    assert "something else than a cache of features (cog)" in refused.stderr

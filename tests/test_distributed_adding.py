"""Labelled images that workers add to an index on a server; here they are in this process."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run

from mahalad.distributed import adding
from mahalad.distributed.working import Setting
from mahalad.errors import InputError
from mahalad.features import BackboneFeatures
from mahalad.metric.classifier import MetricKNNClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*too few"),
]
WHERE = "qdrant://host:6333/parts"


class Alone:
    """As much of Ray as is used, in one process."""

    data = SimpleNamespace(from_arrow_refs=list)
    put = staticmethod(lambda value: value)
    cluster_resources = staticmethod(lambda: {"CPU": 4})


class Mapped:
    """What a worker makes of parts, one after the other as they are asked for."""

    def __init__(self, worker, tables):
        self.worker, self.tables = worker, tables

    def iter_rows(self):
        for table in self.tables:
            batch = {name: np.array(own, object) for name, own in table.to_pydict().items()}
            yield from self.worker(batch).to_pylist()


@pytest.fixture
def workers(monkeypatch):
    """Parts are added by workers of this process, to the index of a client that is given."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    qdrant = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    from mahalad.index import server

    def mapped(_, pool, tables, work, batch_size, told):
        return Mapped(work(*told, Setting.here(1)), tables)

    client = qdrant.QdrantClient(":memory:")
    client.close = lambda: None
    monkeypatch.setattr(server, "_connect", lambda address, timeout: client)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(adding, "connect", lambda address: Alone)
    monkeypatch.setattr(adding, "mapped", mapped)
    return client


@pytest.fixture
def make(small_weights, picture_folder):
    def make(index):
        encoder = BackboneFeatures(
            "test_efficientnet", weights=small_weights, levels="head", input_size=64, batch_size=8
        )
        paths = sorted(map(str, (picture_folder / "test").rglob("*.png")))
        labels = [path.split("/")[-2] for path in paths]
        return MetricKNNClassifier(encoder, n_neighbors=3, index=index).fit(paths, labels)

    return make


def contents(index):
    points = next(index.records())
    return points.ids.tolist(), points.labels.tolist(), points.paths.tolist(), points.vectors


def test_an_index_is_that_of_one_process_also_after_an_interruption(
    workers, make, picture_folder, tmp_path
):
    """One image cannot be read: its id stays free. A new label is known afterwards."""
    paths = sorted(map(str, (picture_folder / "good").glob("*.png")))[:20]
    (tmp_path / "broken.png").write_bytes(b"none")
    paths[7] = str(tmp_path / "broken.png")
    manifest = tmp_path / "parts.csv"
    rows = [f"{path},{'good' if i < 15 else 'dent'}" for i, path in enumerate(paths)]
    manifest.write_text("\n".join(["path,label", *rows]) + "\n")
    whole, classifier = make(None), make(WHERE)
    with pytest.raises(InputError, match=r"unknown label 'dent'; known are 'good', 'spot'"):
        adding.add(classifier, manifest)
    assert len(classifier.index_) == 16
    counted = []

    def progress(n):
        counted.append(n)
        if len(counted) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adding.add(classifier, manifest, new_label=True, part_size=6, progress=progress)
    workers.delete("parts", [17])
    options = {"first_id": 16, "new_label": True, "part_size": 6}
    found = adding.add(classifier, manifest, **options)
    assert (found.first_id, found.n_added, found.n_unreadable) == (16, 1 + 8, 1)
    assert (found.n_there, found.n_images) == (10, 20)
    assert "parts.csv, row 8: " in found.errors[0] and "broken.png" in found.errors[0]
    good = [i for i in range(20) if i != 7]
    labels = ["good" if i < 15 else "dent" for i in good]
    whole.add([paths[i] for i in good], labels, new_label=True)
    ids, *texts, vectors = contents(classifier.index_)
    _, *wanted_texts, wanted = contents(whole.index_)
    assert ids == [*range(16), *(16 + i for i in good)] and texts == wanted_texts
    np.testing.assert_allclose(vectors, wanted, atol=1e-4)  # float32, in other batches
    assert list(classifier.classes_) == list(whole.classes_) == ["good", "spot", "dent"]
    classifier.relabel([18], "spot")
    again = adding.add(classifier, manifest, **options)
    assert classifier.index_.get([18]).labels.tolist() == ["spot"]
    assert (again.n_added, again.n_there, again.n_unreadable) == (0, 19, 1)


def test_what_is_refused(workers, make, picture_folder, tmp_path):
    paths = [str(picture_folder / "good" / "000.png")]
    with pytest.raises(InputError, match="in its file, where other machines cannot write: copy it"):
        adding.add(make(None), paths, "good")
    classifier = make(WHERE)
    with pytest.raises(InputError, match=r"000\.png: has no label"):
        adding.add(classifier, paths)
    with pytest.raises(InputError, match=r"id 3 is that of .*/103\.png, and .*/000\.png was to"):
        adding.add(classifier, paths, "good", first_id=3)


def test_command_line(workers, make, picture_folder, tmp_path):
    model = tmp_path / "model"
    make(WHERE).save(model)
    paths = sorted(map(str, (picture_folder / "good").glob("*.png")))[:3]
    given = ("index", "add", model, *paths, "--label", "good")
    told = ("--ray", "auto", "--workers", "1")
    result = run(*given, *told)
    assert result.exit_code == 0, result.output
    assert "3 images added as good, 0 were there, 0 cannot be read; ids from 16 on" in result.stderr
    result = run(*given, *told, "--first-id", "16")
    assert result.exit_code == 0 and "0 images added as good, 3 were there" in result.stderr
    assert json.loads(run("index", "stats", model, "--json").stdout)["images"] == 19
    result = run(*given, "--first-id", "16")
    assert result.exit_code == 2 and "--first-id is for --ray" in result.stderr

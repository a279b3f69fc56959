"""Label images by their nearest labelled neighbours, correct an answer, copy the index.

    python examples/label_beans.py [FOLDER WITH ONE SUBFOLDER FOR EACH LABEL] [FOLDER OF NEW IMAGES]

Without folders it renders some parts first. The copy needs pip install "mahalad[qdrant]".
"""

import sys
import tempfile
from pathlib import Path

from mahalad import BackboneFeatures, MetricKNNClassifier, TripletProjection, copy_index, open_index
from mahalad.demo.rendered import write_dataset
from mahalad.metric.labelled import read_labelled


def main(labelled: Path, new: Path, folder: Path) -> None:
    # A frozen network, a projection that triplets of labelled images train, a vote of 3.
    paths, labels = read_labelled(labelled)
    classifier = MetricKNNClassifier(
        BackboneFeatures(input_size=128),
        TripletProjection(32, max_epochs=30),
        n_neighbors=3,
        weights="distance",
        novelty_fpr=0.2,
    ).fit(paths, labels)

    for result in classifier.inspect(new):
        near = ", ".join(f"{n.label} {Path(n.path).name}" for n in result.neighbours)
        print(result.error or f"{result.name}: {result.label} {result.probability:.2f} ({near})")

    # Say that the first is something else: the next answer knows it; nothing is trained.
    first = sorted(new.rglob("*.png"))[0]
    before = classifier.predict([first])[0]
    ids = classifier.add([first], next(name for name in classifier.classes_ if name != before))
    print(f"{first.name}: {before}, after a correction {classifier.predict([first])[0]}")
    classifier.remove(ids)

    # One file has it all; the index may also move to a folder (or to "qdrant://host:6333/parts").
    classifier.save(folder / "parts.mahalad")
    source = classifier.index_
    with open_index(
        str(folder / "index"),
        n_features=source.n_features,
        distance=source.distance,
        about=source.about,
    ) as target:
        print(f"{copy_index(source, target)} embeddings copied to {folder / 'index'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        if len(sys.argv) == 3:
            main(Path(sys.argv[1]), Path(sys.argv[2]), Path(temporary))
        else:
            parts = write_dataset(
                Path(temporary), n_train=2, n_test_good=12, n_test_per_defect=8, seed=0
            )
            main(parts / "test", parts / "train" / "good", Path(temporary))

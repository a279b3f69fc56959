"""Fine-tuning: what is frozen stays, what is written is what was trained, and it learns."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import timm
import torch
from conftest import make_picture, run
from PIL import Image
from safetensors.numpy import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from test_backbones import oracle_maps

from mahalad.commands.finetune import finetune
from mahalad.errors import (
    CollapseError,
    InputError,
    ModelFileError,
    UnreadableImageWarning,
    WeightsError,
)
from mahalad.features.backbones import build_backbone
from mahalad.features.extractor import BackboneFeatures
from mahalad.images.geometry import turn
from mahalad.images.spool import Pictures
from mahalad.metric.finetuning import toplevels, unfreezing
from mahalad.metric.finetuning.finetuning import FineTuner
from mahalad.metric.finetuning.toplevels import TopLevels
from mahalad.metric.triplets.losses import LOSSES

HEAD = {"conv_head.weight", "bn2.weight", "bn2.bias"}


def tinted(n, seed, side=32):
    """Pictures of any light, the reddish ones a little redder than the bluish ones."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    light = rng.uniform(60, 190, (n, 1, 1, 1)) + rng.normal(0, 25, (n, side, side, 3))
    tint = np.where(y == 1, 14, -14)[:, None, None, None] * np.array([1, 0, -1])
    images = np.clip(light + tint, 0, 255).astype(np.uint8)
    return list(images), np.array(["bluish", "reddish"])[y]


@pytest.fixture(scope="module")
def data():
    return tinted(40, 0)


@pytest.fixture(scope="module")
def make(small_weights):
    def tuner(**options):
        small = {"input_size": 32, "stages": 1, "epochs": 2, "n_per_class": 8, "device": "cpu"}
        return FineTuner("test_efficientnet", weights=small_weights, **{**small, **options})

    return tuner


def changed(tuner, small_weights):
    """Names of the weights that are not, bit by bit, as they were."""
    before = load_file(small_weights)
    return {n for n, w in tuner.network_.state_dict().items() if (w.numpy() != before[n]).any()}


# -- what is trained -----------------------------------------------------------------------


def test_only_the_unfrozen_levels_change(make, data, small_weights):
    one = make().fit(*data)
    assert changed(one, small_weights) == HEAD
    two = make(stages=2).fit(*data)
    expected = {n for n, _ in two.network_.named_parameters() if n.startswith("blocks.4.")} | HEAD
    assert changed(two, small_weights) == expected
    assert [row["unfrozen"] for row in two.history_] == [
        ["head"], ["head"], ["head", "blocks.4"], ["head", "blocks.4"],
    ]  # fmt: skip
    losses = [[row["loss"] for row in tuner.history_[:2]] for tuner in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # the first stage is the same


def test_it_learns_what_neighbours_in_the_frozen_network_do_not_tell(make, small_weights):
    (X, y), (new, z) = tinted(80, 0), tinted(100, 1)
    tuner = make(levels=[-1], stages=3, epochs=6, learning_rate=1e-3).fit(X, y)
    right, losses = [], []
    for weights in (small_weights, tuner.network_.state_dict()):
        network = build_backbone("test_efficientnet", weights=weights, levels=[-1], input_size=32)
        F, G = (network.extract(np.stack(images))["head"] for images in (X, new))
        scaler = StandardScaler().fit(F)
        F, G = scaler.transform(F), scaler.transform(G)
        right.append((KNeighborsClassifier(5).fit(F, y).predict(G) == z).mean())
        labels = torch.tensor(z == "reddish")
        losses.append(LOSSES["batch-hard-scaled"](torch.tensor(G), labels, margin=0.2).item())
    assert right[0] < 0.85
    assert right[1] > 0.95
    assert losses[1] < 0.7 * losses[0]


def test_history_tells_epochs_and_stages(make, data):
    tuner = make(stages=2, epochs=3, margin=5.0, validation_fraction=0.3).fit(*data)
    assert [row["epoch"] for row in tuner.history_] == list(range(1, 7))
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in tuner.history_)
    assert [row["spread"] > 0 for row in tuner.history_] == [True] * 6
    assert [stage["unfrozen"] for stage in tuner.stages_] == [[], ["head"], ["head", "blocks.4"]]
    still = make(stages=1, epochs=1, learning_rate=1e-30).fit(*data)
    assert {stage["validation_f1"] for stage in still.stages_} == {None}
    assert still.best_stage_ == 1


@pytest.mark.parametrize("told", [[0.5, 0.7, 0.7], [0.5, 0.4, 0.6], [0.9, 0.4, 0.9]])
def test_the_best_stage_is_kept(make, data, small_weights, monkeypatch, told):
    answers = iter(told)
    monkeypatch.setattr(unfreezing, "neighbours_f1", lambda *_: next(answers))
    tuner = make(stages=2, margin=5.0, validation_fraction=0.3).fit(*data)
    assert [stage["validation_f1"] for stage in tuner.stages_] == told
    assert tuner.best_stage_ == told.index(max(told))
    blocks = {n for n, _ in tuner.network_.named_parameters() if n.startswith("blocks.4.")}
    assert changed(tuner, small_weights) == [set(), HEAD, HEAD | blocks][tuner.best_stage_]


def test_one_seed_gives_one_result(make, data):
    options = {"stages": 2, "any_orientation": True}
    first, second, other = (make(random_state=s, **options).fit(*data) for s in (0, 0, 1))
    assert first.history_ == second.history_
    for name, value in first.network_.state_dict().items():
        assert torch.equal(value, second.network_.state_dict()[name])
    assert first.history_ != other.history_
    assert clone(first).get_params() == first.get_params()


def test_what_does_not_fit_into_the_cache_is_computed_again(make, data, monkeypatch):
    whole = make().fit(*data)
    monkeypatch.setattr(toplevels, "MAX_CACHED", 10_000)
    part = make().fit(*data)
    for name in ("loss", "spread"):
        found = [[row[name] for row in tuner.history_] for tuner in (whole, part)]
        assert found[0] == pytest.approx(found[1], rel=1e-3)


# -- orientations --------------------------------------------------------------------------


def test_the_eight_orientations(rng):
    picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    found = [turn(picture, n) for n in range(8)]
    flips = [p for q in (picture, picture.transpose(1, 0, 2)) for p in (q, q[::-1])]
    wanted = [p for q in flips for p in (q, q[:, ::-1])]
    assert {p.tobytes() for p in found} == {p.tobytes() for p in wanted}
    assert len({p.tobytes() for p in found}) == 8
    assert np.array_equal(found[0], picture)


def test_images_are_turned_where_they_may_be(make, data, monkeypatch):
    seen = set()

    def spy(picture, orientation):
        seen.add(orientation)
        return turn(picture, orientation)

    monkeypatch.setattr(toplevels, "turn", spy)
    make().fit(*data)
    assert seen == {0}
    make(any_orientation=True).fit(*data)
    assert seen == set(range(8))


# -- the features --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t", "test_vit"])
@pytest.mark.parametrize("levels", [None, [1, -2]])
def test_features_are_those_of_the_network(name, levels, rng):
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False)
    size = 160 if name == "test_vit" else 32
    state = network.state_dict()
    options = {"levels": levels, "input_size": size, "device": "cpu"}
    backbone = build_backbone(name, weights=state, fold=False, **options)
    pictures = Pictures()
    images = rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        pictures.add(image, i)
    want = np.hstack(list(build_backbone(name, weights=state, **options).extract(images).values()))
    for n_levels in (1, len(backbone.modules)):
        top = TopLevels(backbone, pictures, n_levels)
        for _ in range(2):  # computed, then from the cache
            found = top.all_features().numpy()
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    every = {id(p) for p in top.parameters()}
    used = {id(p) for n, p in backbone.network.named_parameters() if n in backbone.state()}
    assert every == used
    assert len(top.parameters()) == len(every)


def test_a_network_without_stages_of_its_own_is_trained(data):
    torch.manual_seed(0)
    state = timm.create_model("test_convnext", pretrained=False).state_dict()
    tuner = FineTuner("test_convnext", input_size=32, stages=1, epochs=1)
    tuner.weights = state
    tuner.fit(*data)
    found = {n for n, w in tuner.network_.state_dict().items() if not torch.equal(w, state[n])}
    assert found and all(n.startswith("stages.3.") for n in found)


# -- the file ------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, ["blocks.1", "blocks.4"]])
def test_the_file_gives_the_tuned_networks_features(make, data, tmp_path, levels):
    tuner = make(levels=levels, stages=2, learning_rate=1e-3).fit(*data)
    path = tmp_path / "tuned.safetensors"
    tuner.save_weights(path)
    features = BackboneFeatures(
        "test_efficientnet", weights=path, levels=levels, input_size=32, device="cpu"
    ).build()
    found = features.transform(data[0])
    backbone = features.backbone_
    x = (np.stack(data[0]) / 255.0 - backbone.mean) / backbone.std
    own = oracle_maps(tuner.network_.double(), torch.from_numpy(x.transpose(0, 3, 1, 2)))
    names = ["stem", *(f"blocks.{i}" for i in range(5)), "head"]
    for name, maps in zip(names, own, strict=True):
        if name in found:
            want = maps.detach().numpy().mean(axis=(2, 3))
            np.testing.assert_allclose(found[name], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    assert features.record()["weights_origin"] == str(path)
    state = load_file(path)
    assert ("conv_head.weight" in state) == (levels is None)
    assert not any(name.startswith("classifier") for name in state)


def test_a_file_that_cannot_be_written(make, data, tmp_path):
    tuner = make()
    with pytest.raises(NotFittedError, match="FineTuner instance is not fitted yet"):
        tuner.save_weights(tmp_path / "w.safetensors")
    tuner.fit(*data)
    with pytest.raises(InputError, match=r"w\.pth: weights are written to a \.safetensors file"):
        tuner.save_weights(tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="cannot be written"):
        tuner.save_weights(tmp_path / "none" / "w.safetensors")


# -- bad input -----------------------------------------------------------------------------


def test_unreadable_images_are_left_out_with_their_labels(make, data, tmp_path):
    X, y = list(data[0]), data[1].tolist()
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    paths = []
    for i, image in enumerate(X):
        paths.append(tmp_path / f"{i:02}.png")
        Image.fromarray(image).save(paths[-1])
    clean = make().fit(paths, y)
    with pytest.warns(UnreadableImageWarning, match=r"left out of the fit: .*bad\.png"):
        tuner = make().fit([paths[0], bad, *paths[1:]], [y[0], "bluish", *y[1:]])
    assert [result.name for result in tuner.unreadable_] == [str(bad)]
    assert tuner.history_ == clean.history_
    with (
        pytest.warns(UnreadableImageWarning),
        pytest.raises(InputError, match="none of the images could be read"),
    ):
        make().fit([bad], ["bluish"])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 40, r"all samples are of one class \(a\)"),
        (["a"] * 39 + ["b"], "only one sample of class b"),
        (["a", "b"] * 5, "10 labels given for 40 images"),
        ([None, "a"] * 20, "labels cannot be used: "),
    ],
)
def test_labels_that_cannot_be_used(make, data, y, message):
    with pytest.raises(InputError, match=message):
        make().fit(data[0], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages must be a whole number >= 1, got 0"),
        ({"stages": 8}, r"stages=8: test_efficientnet has 7 levels .* give 1 to 7"),
        ({"stages": 3, "levels": [0, 1]}, "has 2 levels up to the highest one used; give 1 to 2"),
        ({"epochs": 1.5}, r"epochs must be a whole number >= 1, got 1\.5"),
        ({"random_state": -1}, "random_state must be a whole number from 0 to .*, got -1"),
        ({"learning_rate": 0}, "learning_rate must be a number > 0, got 0"),
        ({"margin": np.inf}, "margin must be a number > 0, got inf"),
        ({"weight_decay": -1}, "weight_decay must be a number >= 0, got -1"),
        ({"validation_fraction": 1}, r"validation_fraction must lie in \[0, 1\), got 1"),
        ({"loss": "none"}, "loss must be one of batch-hard-scaled, .*, got 'none'"),
    ],
)
def test_parameters_out_of_range(make, data, options, message):
    with pytest.raises(InputError, match=message):
        make(**options).fit(*data)


def test_two_images_of_each_label_leave_none_to_choose_with(make, data):
    X, y = data
    with pytest.raises(InputError, match="of 4 images holds out none: every label has only 2"):
        make(validation_fraction=0.2).fit(X[:4], y[:4])
    assert make().fit(X[:4], y[:4]).best_stage_ == 1


def test_weights_of_another_network(small_weights, data):
    with pytest.raises(WeightsError, match="these are not weights of ResNet"):
        FineTuner("resnet10t", weights=small_weights, input_size=32).fit(*data)


def test_divergence_is_told(make, data):
    with pytest.raises(CollapseError, match=r"fine-tuning diverged in epoch \d: .*smaller learn"):
        make(learning_rate=1e30).fit(*data)


def test_collapse_stops_the_training(make, data):
    X, y = data
    tuner = make(loss="batch-hard", epochs=10, weight_decay=500.0)  # halves the head's weights
    with pytest.raises(CollapseError, match=r"the embeddings collapsed into one point: in epoch"):
        tuner.fit(X, y)
    assert not hasattr(tuner, "network_")


# -- the command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for name, seeds in (("good", range(12)), ("spot", range(50, 58))):
        (folder / name).mkdir()
        for seed in seeds:
            make_picture(seed, spot=name == "spot").save(folder / name / f"{seed:02}.png")
    return folder


def test_finetune_then_tune(labelled, small_weights, tmp_path):
    network = ["--backbone", "test_efficientnet", "--size", "64", "--device", "cpu"]
    path = tmp_path / "tuned.safetensors"
    options = [*network, "--weights", small_weights]
    result = run("finetune", labelled, "-o", path, *options, "--epochs", "1", "--stages", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "tuned.safetensors: trained on 20 images" in result.stderr
    model = tmp_path / "m.mahalad"
    tuned = run("tune", labelled, "-o", model, *network, "--weights", path, "--no-projection")
    assert tuned.exit_code == 0, tuned.output
    fitted = run("fit", labelled / "good", "-o", tmp_path / "f", *network, "--weights", path,
                 "--fpr", "0.2")  # fmt: skip
    assert fitted.exit_code == 0, fitted.output


def test_the_commands_defaults_are_the_estimators():
    defaults = {parameter.name: parameter.default for parameter in finetune.params}
    params = FineTuner().get_params()
    shared = {"backbone", "loss", "margin", "stages", "epochs", "learning_rate",
              "validation_fraction", "device"}  # fmt: skip
    assert {name: defaults[name] for name in shared} == {name: params[name] for name in shared}


def test_finetune_says_what_held_out_and_unreadable_images_say(labelled, small_weights, tmp_path):
    folder = shutil.copytree(labelled, tmp_path / "labelled")
    (folder / "good" / "bad.png").write_text("no picture")
    path = tmp_path / "w.safetensors"
    result = run("finetune", folder, "-o", path, "--backbone", "test_efficientnet", "--weights",
                 small_weights, "--size", "32", "--epochs", "1", "--stages", "1", "--device",
                 "cpu", "--validation", "0.2")  # fmt: skip
    assert result.exit_code == 3, result.output
    assert "bad.png" in result.stderr
    told = re.search(
        r"trained on 20 images; macro F1 of held-out ones before and after each stage "
        r"([\d.]+), ([\d.]+); (weights after stage 1|it did not help, these are the weights)",
        result.stderr,
    )
    helped = float(told[2]) > float(told[1])
    assert told[3].startswith("weights after" if helped else "it did not help")
    before, after = load_file(small_weights), load_file(path)
    assert any((after[name] != before[name]).any() for name in after) == helped


def test_every_option_of_finetune_is_used(labelled, small_weights, tmp_path):
    base = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "32",
            "--epochs", "1", "--stages", "1", "--device", "cpu",
            "--margin", "5"]  # fmt: skip

    def weights(*options):
        path = tmp_path / "w.safetensors"
        result = run("finetune", labelled, "-o", path, *base, *options)
        assert result.exit_code == 0, (options, result.output)
        return path.read_bytes(), result.stderr

    reference = weights()
    assert weights() == reference
    for options in (
        ["--size", "48"],
        ["--levels", "0,1,2"],
        ["--loss", "batch-all"],
        ["--margin", "0.9"],
        ["--stages", "2"],
        ["--epochs", "2"],
        ["--learning-rate", "0.01"],
        ["--any-orientation"],
        ["--validation", "0.2"],
        ["--labels", "12"],
        ["--seed", "3"],
    ):
        assert weights(*options) != reference, options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{data}", "-o", "{tmp}/w.pth"], "weights are written to a .safetensors file"),
        (["{data}", "-o", "{tmp}/no/w.safetensors"], "missing or not writable"),
        (["{data}/good", "-o", "{tmp}/w.safetensors"], "images without a label"),
        (["{data}", "-o", "{tmp}/w.safetensors", "--labels", "3"], "it can be 4 to 20"),
        (["{data}", "-o", "{tmp}/w.safetensors", "--stages", "99"], "give 1 to"),
    ],
)
def test_usage_errors(labelled, tmp_path, arguments, message):
    result = run("finetune", *[a.format(data=labelled, tmp=tmp_path) for a in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not list(tmp_path.iterdir())

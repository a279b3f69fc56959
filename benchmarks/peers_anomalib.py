"""One of anomalib's models on one category; run by peers.py with anomalib's own Python.

Uses anomalib's model classes as they are (features, memory bank or Gaussians, scores and maps),
with the images of mahalad's own preprocessing: squashed to one square, with the network's
interpolation, mean and standard deviation, decoded in as many threads. Their trainer, transforms
and threshold play no part in what is compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from anomalib.models.image.mh_patchcore.torch_model import MHPatchcoreModel  # noqa: E402
from anomalib.models.image.padim.torch_model import PadimModel  # noqa: E402
from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # noqa: E402
from anomalib.models.image.rad.torch_model import RadModel  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

BATCH_SIZE = 32  # anomalib's default, and mahalad's


def batches(paths: list[str], size: int, backbone: str) -> Iterator[torch.Tensor]:
    """Normalised images, (n, 3, size, size)."""
    about = timm.get_pretrained_cfg(backbone)
    resampling = getattr(Image.Resampling, about.interpolation.upper())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (about.mean, about.std))

    def read(path: str) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), resampling))

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(paths), BATCH_SIZE):
            pictures = np.stack(list(pool.map(read, paths[start : start + BATCH_SIZE])))
            x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255  # (n, 3, S, S)
            yield (x - mean) / std


def count_channels(backbone: str, layers: list[str]) -> int:
    """Channels of some layers together."""
    network = timm.create_model(backbone, features_only=True, pretrained=False)
    channels = {about["module"]: about["num_chs"] for about in network.feature_info.get_dicts()}
    missing = [layer for layer in layers if layer not in channels]
    if missing:
        raise ValueError(f"{backbone} has no layer {', '.join(missing)}: {', '.join(channels)}")
    return sum(channels[layer] for layer in layers)


def make_model(job: dict[str, Any]) -> Any:
    """The model with the given weights in its network."""
    layers, backbone = job["layers"], job["backbone"]
    if job["method"] == "padim":
        n_features = job["n_features"] or count_channels(backbone, layers)
        model: Any = PadimModel(backbone, layers, pre_trained=False, n_features=n_features)
    elif job["method"] == "patchcore":
        model = PatchcoreModel(layers, backbone, pre_trained=False)
    elif job["method"] == "mh_patchcore":
        model = MHPatchcoreModel(backbone, layers, pre_trained=False)
    else:
        numbers = [int(layer.rpartition(".")[2]) for layer in layers]
        model = RadModel(backbone, pre_trained=False, layers=numbers)
    network = model.feature_extractor.feature_extractor
    state = {key: value.float() for key, value in load_file(job["weights"]).items()}
    network.load_state_dict({key: state[key] for key in network.state_dict()}, strict=True)
    return model


def fit(job: dict[str, Any]) -> Any:
    model = make_model(job)
    model.train()
    model.feature_extractor.eval()

    def embeddings() -> Iterator[torch.Tensor]:
        for x in batches(job["train"], job["size"], job["backbone"]):
            yield model(x)

    with torch.inference_mode():
        if job["method"] == "mh_patchcore":
            fit_in_three_passes(model, embeddings)
            return model.eval()
        for _ in embeddings():
            pass  # the model keeps them
        if job["method"] == "padim":
            model.fit()
        elif job["method"] == "rad":
            model.build_memory_bank()
        elif job["coreset"] <= 1:
            model.subsample_embedding(job["coreset"])
        else:
            patches = torch.vstack(model.embedding_store)
            model.embedding_store.clear()
            chosen = torch.randperm(len(patches))[: int(job["coreset"])]
            model.memory_bank = patches[chosen].clone()
    return model.eval()


def fit_in_three_passes(model: Any, embeddings: Callable[[], Iterator[torch.Tensor]]) -> None:
    """As anomalib's training does, an epoch for each part."""
    for found in embeddings():
        model.pca.update(found)
    model.pca.finalize()
    for found in embeddings():
        model.covariance.update(model.pca(found))
    model.covariance.finalize()
    for found in embeddings():
        model.memory_bank.update(model.covariance(model.pca(found)))
    model.memory_bank.finalize()


def score(job: dict[str, Any], model: Any, paths: list[str], maps: Any = None) -> list[float]:
    """Scores of images; their maps go to a file, if one is given, one after the other."""
    scores: list[float] = []
    with torch.inference_mode():
        for x in batches(paths, job["size"], job["backbone"]):
            found = model(x)
            scores += found.pred_score.reshape(-1).tolist()
            if maps is not None:
                maps.write(found.anomaly_map[:, 0].numpy().astype(np.float32).tobytes())
    return scores


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="JSON: what peers.py wants to know")
    job = json.loads(parser.parse_args().job.read_text())
    torch.manual_seed(0)
    started, at_start = time.perf_counter(), peak_mib()
    model = fit(job)
    fitted = time.perf_counter()
    with Path(job["maps"]).open("wb") as file:
        scores = score(job, model, job["test"], file)
    scored = time.perf_counter()
    learned = {k: v for k, v in model.state_dict().items() if not k.startswith("feature_extractor")}
    result = {
        "scores": scores,
        "changed": {name: score(job, model, paths) for name, paths in job["changed"].items()},
        "fit_seconds": fitted - started,
        "score_seconds": scored - fitted,
        "start_mib": at_start,
        "peak_mib": peak_mib(),
        "model_mib": sum(v.numel() * v.element_size() for v in learned.values()) / 2**20,
        "threads": torch.get_num_threads(),
        "versions": {n: importlib.metadata.version(n) for n in ("anomalib", "torch", "timm")},
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()

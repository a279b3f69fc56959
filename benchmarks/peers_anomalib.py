"""One of anomalib's models on one category; run by peers.py with anomalib's own Python.

Uses anomalib's model classes as they are (features, memory bank or Gaussians, scores and maps),
with the images of mahalad's own preprocessing: squashed to one square, bicubic, ImageNet mean and
standard deviation. Their trainer, transforms and threshold play no part in what is compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def batches(paths: list[str], size: int, batch_size: int = 16) -> Iterator[torch.Tensor]:
    for start in range(0, len(paths), batch_size):
        pictures = []
        for path in paths[start : start + batch_size]:
            with Image.open(path) as image:
                squashed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            pictures.append(np.asarray(squashed))
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255  # (n, 3, S, S)
        yield (x - MEAN) / STD


def make_model(method: str, backbone: str, layers: list[str], n_features: int | None) -> Any:
    if method == "padim":
        from anomalib.models.image.padim.torch_model import PadimModel

        return PadimModel(backbone, layers, pre_trained=False, n_features=n_features)
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    return PatchcoreModel(layers, backbone, pre_trained=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="JSON: what peers.py wants to know")
    job = json.loads(parser.parse_args().job.read_text())
    torch.manual_seed(0)
    model = make_model(job["method"], job["backbone"], job["layers"], job["n_features"])
    network = model.feature_extractor.feature_extractor
    state = load_file(job["weights"])
    own = network.state_dict()
    network.load_state_dict({key: state[key] for key in own}, strict=True)

    started = time.perf_counter()
    model.train()
    model.feature_extractor.eval()
    with torch.inference_mode():
        for x in batches(job["train"], job["size"]):
            model(x)
        if job["method"] == "padim":
            model.fit()
        else:
            model.subsample_embedding(job["coreset"])
    fitted = time.perf_counter()
    model.eval()
    scores, maps = [], []
    with torch.inference_mode():
        for x in batches(job["test"], job["size"]):
            found = model(x)
            scores.append(found.pred_score.reshape(-1).numpy())
            maps.append(found.anomaly_map[:, 0].numpy().astype(np.float32))
    scored = time.perf_counter()
    learned = {k: v for k, v in model.state_dict().items() if not k.startswith("feature_extractor")}
    np.savez(
        job["out"],
        scores=np.concatenate(scores),
        maps=np.concatenate(maps),
        fit_seconds=fitted - started,
        score_seconds=scored - fitted,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        model_mib=sum(v.numel() * v.element_size() for v in learned.values()) / 2**20,
    )


if __name__ == "__main__":
    main()

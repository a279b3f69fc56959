"""One of the peers' models, fitted once and asked again and again; run by peers_speed.py.

It runs with the Python of anomalib's and PyOD's environment. A line of JSON says what the fit took;
then each line on standard input is answered by one that says how long the test images took, from
files to scores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print, already when they are imported, is no answer

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from peers_anomalib import batches, fit, peak_mib  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

Score = Callable[[torch.Tensor], Any]
OfFiles = Callable[[list[str]], Any]


def in_torch(model: Any) -> Score:
    """Scores of normalised images, as the model gives them, its maps made with them."""
    return lambda x: model(x).pred_score.reshape(-1).numpy()


def in_openvino(model: Any, size: int, threads: int) -> Score:
    """The same by OpenVINO, exported through ONNX, with OpenVINO's own precision."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        names = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
        found = model(torch.zeros(1, 3, size, size))
        given = [name for name in names if getattr(found, name, None) is not None]
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, size, size),),
            str(file),
            input_names=["input"],
            output_names=given,
            dynamic_axes={"input": {0: "n"}},
            dynamo=False,
        )
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(file), "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
    return lambda x: compiled(x.numpy())[given.index("pred_score")].reshape(-1)


def by_pyod(job: dict[str, Any]) -> OfFiles:
    """PyOD's detector over embeddings, pooled features of the same network."""
    from pyod.models.embedding import EmbeddingOD

    network = timm.create_model(job["backbone"], pretrained=False, num_classes=0).eval()
    state = {key: value.float() for key, value in load_file(job["weights"]).items()}
    network.load_state_dict({key: state[key] for key in network.state_dict()}, strict=True)

    def embed(paths: list[str], **_: Any) -> np.ndarray:
        with torch.inference_mode():
            pictures = batches(list(paths), job["size"], job["backbone"])
            return np.concatenate([network(x).numpy() for x in pictures])

    detector = EmbeddingOD(encoder=embed, detector=job["detector"])
    detector.fit(job["train"])
    return detector.decision_function


def fitted(job: dict[str, Any]) -> tuple[OfFiles, float]:
    """How images are scored, and the MiB that the fit learned (nan: not known)."""
    if job["method"] == "pyod":
        return by_pyod(job), float("nan")
    model = fit(job)
    learned = [v for k, v in model.state_dict().items() if not k.startswith("feature_extractor")]
    mib = sum(values.numel() * values.element_size() for values in learned) / 2**20
    by_openvino = job["engine"] == "openvino"
    score = in_openvino(model, job["size"], job["threads"]) if by_openvino else in_torch(model)

    def of_files(paths: list[str]) -> Any:
        with torch.inference_mode():
            pictures = batches(paths, job["size"], job["backbone"])
            return np.concatenate([score(x) for x in pictures])

    return of_files, mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="JSON: what peers_speed.py wants to know")
    job = json.loads(parser.parse_args().job.read_text())
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    started = time.perf_counter()
    score, mib = fitted(job)
    say({"fit_seconds": time.perf_counter() - started, "model_mib": mib, "peak_mib": peak_mib()})
    for _ in sys.stdin:
        started = time.perf_counter()
        scores = np.asarray(score(job["test"])).tolist()
        took = time.perf_counter() - started
        say({"seconds": took, "scores": scores, "peak_mib": peak_mib()})


def say(found: dict[str, Any]) -> None:
    print(json.dumps(found), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()

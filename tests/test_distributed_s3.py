"""A fit and scores by Ray of images on a server of S3 that fails now and then."""

from __future__ import annotations

import io
import logging
import threading

import numpy as np
import pytest
import torch
from conftest import make_picture

from mahalad import MahalanobisDetector
from mahalad.distributed import Pool, fit, score

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")

pytestmark = pytest.mark.slow


class Flaky:
    """Answer every fourth request for an object with a failure."""

    def __init__(self, application) -> None:
        self._application, self.n_failed, self._n = application, 0, 0

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".png"):
            self._n += 1
            if self._n % 4 == 0:
                self.n_failed += 1
                start_response("503 Slow Down", [("Content-Length", "0")])
                return [b""]
        return self._application(environ, start_response)


@pytest.fixture(scope="module")
def bucket():
    """The URL of a bucket with good images, and the server; Ray's processes know of it."""
    import fsspec
    from werkzeug.serving import make_server

    application = Flaky(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # it is mahalad that tries again
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("lines")  # what is stored is the process's: other tests have others
        for seed in range(24):
            buffer = io.BytesIO()
            make_picture(seed).save(buffer, "PNG")
            system.pipe(f"lines/good/{seed:02}.png", buffer.getvalue())
        system.pipe("lines/parts.csv", b"path\ngood/03.png\ngood/99.png\ngood/05.png\n")
        ray.init("local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
        yield "s3://lines", application
        ray.shutdown()
    server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fit_score_and_results_on_s3(bucket, small_weights, tmp_path):
    url, server = bucket
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    network = {"weights": small_weights, "input_size": 64, "scope": "image", "batch_size": 8}
    for seed in range(24):
        make_picture(seed).save(tmp_path / f"{seed:02}.png")
    whole = MahalanobisDetector("test_efficientnet", **network, fpr=0.1).fit(tmp_path)
    detector = MahalanobisDetector("test_efficientnet", **network, fpr=0.1)
    found = fit(detector, f"{url}/good", pool=Pool(1), part_size=8)
    torch.set_num_threads(before)
    np.testing.assert_allclose(found.calibration_scores_, whole.calibration_scores_, rtol=1e-10)
    scored = score(found, f"{url}/parts.csv", f"{url}/rows", pool=Pool(1))
    rows = list(scored.rows())
    assert [row["path"] for row in rows] == [
        f"{url}/good/{name}.png" for name in ("03", "99", "05")
    ]
    assert rows[0]["in_fit"] and rows[2]["in_fit"]
    assert rows[1]["error"] == f"{url}/parts.csv, row 2: {url}/good/99.png: no such file"
    again = score(found, f"{url}/parts.csv", f"{url}/rows", pool=Pool(1))
    assert (again.n_parts, again.n_parts_before) == (1, 1)
    assert server.n_failed > 5

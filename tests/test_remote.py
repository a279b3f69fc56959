"""Images by URL: through fsspec's file systems in memory and local, and a server of S3."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import make_picture

from mahalad.errors import ImageReadError, InputError, MissingExtraError
from mahalad.images import find_images, iter_sources, open_image
from mahalad.images import remote as module

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    make_picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def memory():
    """A folder of the file system in memory, with two pictures and what is none."""
    system = fsspec.filesystem("memory")
    for name, content in (
        ("good/2.png", png(2)),
        ("good/10.PNG", png(10)),
        ("good/.hidden/3.png", png(3)),
        ("good/notes.txt", b"-"),
    ):
        system.pipe(f"/parts/{name}", content)
    yield "memory://parts"
    system.rm("/parts", recursive=True)


@pytest.fixture
def flaky(monkeypatch):
    """Make reads fail some times before they succeed; says how often they were tried."""

    def fail(times: int, error: Exception | None = None) -> list[str]:
        monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0)
        system, tried = fsspec.filesystem("memory"), []
        read = type(system).cat_file

        def cat_file(self, path, *args, **kwargs):
            tried.append(path)
            if len(tried) <= times:
                raise error or OSError("reset by peer")
            return read(self, path, *args, **kwargs)

        monkeypatch.setattr(type(system), "cat_file", cat_file)
        return tried

    return fail


def test_a_folder_a_pattern_and_a_file(memory):
    names = ["memory:///parts/good/10.PNG", "memory:///parts/good/2.png"]
    assert [s.name for s in iter_sources(f"{memory}/good")] == names
    assert [s.name for s in iter_sources(f"{memory}/*/*.png")] == names[1:]
    (source,) = iter_sources(f"{memory}/good/2.png")
    np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(make_picture(2)))


def test_local_files_by_url(tmp_path):
    make_picture(1).save(tmp_path / "1.png")
    (source,) = iter_sources(tmp_path.as_uri())
    np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(make_picture(1)))


def test_what_is_not_there_is_an_image_with_an_error(memory):
    (source,) = find_images([f"{memory}/good/99.png"]).sources
    with pytest.raises(ImageReadError, match=r"99\.png: no such file"):
        open_image(source)
    fsspec.filesystem("memory").pipe("/parts/good/empty.png", b"")
    with pytest.raises(ImageReadError, match=r"empty\.png: is empty"):
        open_image(next(iter_sources(f"{memory}/good/empty.png")))


def test_a_folder_without_images(memory):
    fsspec.filesystem("memory").pipe("/parts/texts/notes.txt", b"-")
    with pytest.raises(InputError, match="memory://parts/texts: no images there"):
        list(iter_sources(f"{memory}/texts"))


def test_a_read_that_fails_now_and_then_is_tried_again(memory, flaky):
    tried = flaky(module.N_TRIES - 1)
    open_image(next(iter_sources(f"{memory}/good/2.png")))
    assert len(tried) == module.N_TRIES


def test_a_read_that_always_fails_is_an_unreadable_image(memory, flaky):
    tried = flaky(100)
    with pytest.raises(ImageReadError, match="cannot be read: OSError: reset by peer"):
        open_image(next(iter_sources(f"{memory}/good/2.png")))
    assert len(tried) == module.N_TRIES


def test_a_read_without_permission_is_not_tried_again(memory, flaky):
    tried = flaky(100, PermissionError("no"))
    with pytest.raises(ImageReadError, match="PermissionError: no"):
        open_image(next(iter_sources(f"{memory}/good/2.png")))
    assert len(tried) == 1


def test_a_file_system_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("fsspec.core.url_to_fs", _not_installed)
    with pytest.raises(MissingExtraError, match=r"gs:// needs .*Please install gcsfs"):
        list(iter_sources("gs://bucket/good"))


def _not_installed(url):
    raise ImportError("Please install gcsfs")


@pytest.mark.slow
def test_a_server_of_s3(monkeypatch):
    server_of = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_of.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("parts")
        system.pipe("parts/good/1.png", png(1))
        (source,) = iter_sources("s3://parts/good")
        assert source.name == "s3://parts/good/1.png"
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(make_picture(1)))
        with pytest.raises(ImageReadError, match="no such file"):
            open_image(next(iter_sources("s3://parts/good/2.png")))
    finally:
        server.stop()

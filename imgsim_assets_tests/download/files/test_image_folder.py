from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imgsim_assets.download.files import image_folder
from imgsim_assets.download.files.image_folder import ImageFolder, is_local, resolve_relative_url
from imgsim_assets.download.status import FetchError

CONTENT = b"the bytes of an image"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://shop.example/a.jpg", False),
        ("HTTPS://shop.example/a.jpg", False),
        ("a.jpg", True),
        ("images/http/a.jpg", True),
        ("/images/a.jpg", True),
        ("file:///images/a.jpg", True),
        ("FILE:///images/a.jpg", True),
    ],
)
def test_is_local_and_is_web_classify_urls(url: str, local: bool) -> None:
    assert is_local(url) == local


@pytest.mark.parametrize("root", ["http://shop.example/images", "http://shop.example/images/"])
@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        ("a.jpg", "http://shop.example/images/a.jpg"),
        ("deep/b c.jpg", "http://shop.example/images/deep/b%20c.jpg"),
        ("100%.jpg", "http://shop.example/images/100%25.jpg"),
        ("what?.jpg", "http://shop.example/images/what%3F.jpg"),
        ("caf\u00e9.jpg", "http://shop.example/images/caf%C3%A9.jpg"),
        ("/a.jpg", "http://shop.example/a.jpg"),
        ("https://other.example/a%20b.jpg", "https://other.example/a%20b.jpg"),
    ],
)
def test_resolve_relative_url_joins_paths_with_the_root(root: str, url: str, fetched: str) -> None:
    assert resolve_relative_url(root, url) == fetched


@pytest.mark.parametrize(
    "url",
    [
        "a.jpg",
        "./a.jpg",
        "deep/../a.jpg",
        "deep/b c.jpg",
        "{root}/a.jpg",
        "{root}/deep/../a.jpg",
        "file://{root}/a.jpg",
        "FILE://{root}/a.jpg",
        "file://{root}/deep/b%20c.jpg",
        "file://localhost{root}/a.jpg",
        "link.jpg",
    ],
)
def test_read_returns_files_of_the_folder(root: Path, url: str) -> None:
    folder = ImageFolder(str(root), 1000)
    fetched = folder.read(url.format(root=root))
    assert fetched.data == CONTENT
    assert fetched.etag == folder.file_version(url.format(root=root)) is not None


@pytest.mark.parametrize(
    "url",
    [
        "../secret.jpg",
        "deep/../../secret.jpg",
        "{root}/../secret.jpg",
        "{parent}/secret.jpg",
        "{root}-beside/secret.jpg",
        "../images-beside/secret.jpg",
        "file://{parent}/secret.jpg",
        "file://{root}/..%2Fsecret.jpg",
        "file://{root}/%2e%2e/secret.jpg",
        "escape.jpg",
        "escape/secret.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "/dev/zero",
        "/",
        "..",
    ],
)
def test_path_outside_the_folder_is_blocked(root: Path, url: str) -> None:
    folder = ImageFolder(str(root), 1000)
    path = url.format(root=root, parent=root.parent)
    with pytest.raises(FetchError) as refused:
        folder.read(path)
    assert refused.value.status == "blocked_path"
    assert folder.file_version(path) is None


def test_root_may_be_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(root)
    assert ImageFolder(str(tmp_path / "elsewhere"), 1000).read("a.jpg").data == CONTENT


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("missing.jpg", "missing_file"),
        ("missing/a.jpg", "missing_file"),
        ("deep", "missing_file"),
        (".", "missing_file"),
        ("~/a.jpg", "missing_file"),
        ("a.jpg/b.jpg", "unreadable_file"),
        ("x" * 5000, "unreadable_file"),
        ("empty.jpg", "truncated"),
    ],
)
def test_path_that_is_no_file_has_a_status_and_a_version(root: Path, url: str, status: str) -> None:
    folder = ImageFolder(str(root), 1000)
    with pytest.raises(FetchError) as refused:
        folder.read(url)
    assert refused.value.status == status
    assert refused.value.etag == folder.file_version(url)


def test_unreadable_file_has_no_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError("Permission denied")

    folder = ImageFolder(str(root), 1000)
    monkeypatch.setattr(image_folder, "_read_file", refuse)
    with pytest.raises(FetchError, match="unreadable_file: Permission denied") as refused:
        folder.read("a.jpg")
    assert refused.value.etag is None
    assert folder.file_version("a.jpg") is not None


@pytest.mark.parametrize(("limit", "fits"), [(len(CONTENT), True), (len(CONTENT) - 1, False)])
def test_file_may_be_as_large_as_the_limit(root: Path, limit: int, fits: bool) -> None:
    folder = ImageFolder(str(root), limit)
    if fits:
        assert folder.read("a.jpg").data == CONTENT
    else:
        with pytest.raises(FetchError, match=f"too_large: more than {limit} bytes") as refused:
            folder.read("a.jpg")
        assert refused.value.etag == folder.file_version("a.jpg") is not None


def test_file_above_the_limit_is_read_up_to_the_limit(root: Path) -> None:
    with open(root / "sparse.jpg", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FetchError, match="too_large"):
        ImageFolder(str(root), 1000).read("sparse.jpg")


def test_file_version_changes_with_the_file(root: Path) -> None:
    folder = ImageFolder(str(root), 1000)
    before = folder.file_version("a.jpg")
    assert folder.file_version("a.jpg") == before
    (root / "a.jpg").write_bytes(CONTENT.upper())
    os.utime(root / "a.jpg", ns=(1, 1))
    assert folder.file_version("a.jpg") not in (before, None)


def test_file_version_changes_with_the_target_of_a_link(root: Path) -> None:
    folder = ImageFolder(str(root), 1000)
    before = folder.file_version("link.jpg")
    (root / "a.jpg").write_bytes(b"other")
    assert folder.file_version("link.jpg") not in (before, None)


def test_missing_file_has_no_version(root: Path) -> None:
    assert ImageFolder(str(root), 1000).file_version("missing.jpg") is None


def test_read_returns_files_of_a_remote_folder(remote: str) -> None:
    folder = ImageFolder(remote, 1000)
    assert folder.read("deep/a.jpg").data == CONTENT
    assert folder.file_version("deep/a.jpg") is not None


@pytest.mark.parametrize("url", ["/a.jpg", "../other/a.jpg", "deep/../../other/a.jpg", "file:///a"])
def test_path_outside_a_remote_folder_is_blocked(remote: str, url: str) -> None:
    folder = ImageFolder(remote, 1000)
    with pytest.raises(FetchError, match="blocked_path"):
        folder.read(url)
    assert folder.file_version(url) is None


def test_missing_remote_file_has_a_status(remote: str) -> None:
    folder = ImageFolder(remote, 1000)
    with pytest.raises(FetchError, match="missing_file"):
        folder.read("missing.jpg")
    assert folder.file_version("missing.jpg") is None


def test_remote_file_above_the_limit_is_refused(remote: str) -> None:
    with pytest.raises(FetchError, match="too_large"):
        ImageFolder(remote, len(CONTENT) - 1).read("deep/a.jpg")


def test_cyclic_link_is_a_bad_url(root: Path) -> None:
    (root / "loop.jpg").symlink_to("pool.jpg")
    (root / "pool.jpg").symlink_to("loop.jpg")
    with pytest.raises(FetchError):
        ImageFolder(str(root), 1000).read("loop.jpg")


@pytest.mark.parametrize("url", ["file:///a%00b.jpg", "file://[x/a.jpg", "file://a\u2100b/a.jpg"])
def test_malformed_file_url_is_a_bad_url(root: Path, url: str) -> None:
    folder = ImageFolder(str(root), 1000)
    with pytest.raises(FetchError, match="bad_url"):
        folder.read(url)
    assert folder.file_version(url) is None


def test_pipe_does_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    reader = threading.Thread(target=read_ignoring_errors, args=(root, "pipe.jpg"), daemon=True)
    reader.start()
    reader.join(30)
    waited = reader.is_alive()
    release_reader(root / "pipe.jpg")
    reader.join(30)
    assert not waited


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with images, links that stay in it and leave it, and secrets beside it."""
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    (root / "a.jpg").write_bytes(CONTENT)
    (root / "deep" / "b c.jpg").write_bytes(CONTENT)
    (root / "empty.jpg").write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images-beside").mkdir()
    (tmp_path / "images-beside" / "secret.jpg").write_bytes(b"secret")
    (root / "link.jpg").symlink_to("a.jpg")
    (root / "escape.jpg").symlink_to("../secret.jpg")
    (root / "escape").symlink_to("..")
    return root


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """A folder with images in fsspec's memory, and another beside it."""
    memory: Any = fsspec.filesystem("memory")
    base = f"/{tmp_path.name}"
    memory.pipe_file(f"{base}/images/deep/a.jpg", CONTENT)
    memory.pipe_file(f"{base}/other/a.jpg", b"secret")
    yield f"memory:/{base}/images"
    memory.rm(base, recursive=True)


def read_ignoring_errors(root: Path, url: str) -> None:
    with contextlib.suppress(FetchError):
        ImageFolder(str(root), 1000).read(url)


def release_reader(pipe: Path) -> None:
    with contextlib.suppress(OSError):
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_file_versions_of_a_remote_root_are_requested_in_parallel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = fsspec.filesystem("memory")
    urls = [f"{number}.jpg" for number in range(16)]
    files.pipe({f"/many-versions/{url}": url.encode() * 3 for url in urls})
    folder = ImageFolder("memory://many-versions", 1000)
    expected = {url: folder.file_version(url) for url in [*urls, "gone.jpg"]}
    others = threading.Barrier(4, timeout=60)
    real = type(files).info

    def info(self: Any, path: str, **options: Any) -> Any:
        others.wait()  # blocks unless four calls run in parallel
        return real(self, path, **options)

    monkeypatch.setattr(type(files), "info", info)

    file_version = folder.file_versions([*urls, "https://shop.example/a.jpg"])

    assert {url: file_version(url) for url in expected} == expected
    assert None not in {expected[url] for url in urls}

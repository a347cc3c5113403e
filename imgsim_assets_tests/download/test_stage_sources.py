from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imgsim_assets.download.files import image_folder
from imgsim_assets.download.files.image_folder import ImageFolder
from imgsim_assets_tests.support.downloads import Catalog, fast_settings
from imgsim_assets_tests.support.faulty_server import (
    Connection,
    FaultyServer,
    PageServer,
    redirect,
    response,
)
from imgsim_assets_tests.support.images import jpeg

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- local images -------------------------------------------------------------------


def test_local_paths_are_read_in_every_spelling(catalog: Catalog) -> None:
    (catalog.folder / "deep").mkdir()
    path = catalog.folder / "deep" / "a b.jpg"
    path.write_bytes(IMAGE)
    catalog.declare(
        {
            "relative": "deep/a b.jpg",
            "absolute": str(path),
            "file": f"file://{str(path).replace(' ', '%20')}",
        }
    )
    [report] = catalog.run()
    assert report.statuses == {"ok": 3}


def test_local_image_is_read_again_only_after_a_change(catalog: Catalog) -> None:
    for name in "ab":
        (catalog.folder / f"{name}.jpg").write_bytes(jpeg(ord(name)))
    catalog.declare({"a": "a.jpg", "b": "b.jpg"})
    catalog.run()
    assert [report.requested for report in catalog.run()] == [0]
    (catalog.folder / "b.jpg").write_bytes(IMAGE)
    [report] = catalog.run()
    assert report.requested == 1
    assert catalog.store.blobs.get(catalog.rows()["b"]["sha256"]) == IMAGE


def test_local_image_that_appears_or_disappears_is_noticed(catalog: Catalog) -> None:
    catalog.declare({"a": "a.jpg"})
    catalog.run()
    assert catalog.statuses() == {"a": "missing_file"}
    assert [report.changed for report in catalog.run()] == [False]
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}
    (catalog.folder / "a.jpg").unlink()
    catalog.run()
    assert catalog.statuses() == {"a": "missing_file"}


def test_local_file_that_is_no_image_is_read_once(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").write_text("not yet")
    catalog.declare({"a": "a.jpg"})
    assert [report.requested for report in [*catalog.run(), *catalog.run()]] == [1, 0]
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}


def test_unreadable_local_file_is_retried_by_every_run(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError("Permission denied")

    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg"})
    with monkeypatch.context() as forbidden:
        forbidden.setattr(image_folder, "_read_file", refuse)
        for attempts in (1, 2):
            catalog.run()
            row = catalog.rows()["a"]
            assert (row["status"], row["attempts"]) == ("unreadable_file", attempts)
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}


@pytest.mark.parametrize("unfinished", [IMAGE[:20], b"", IMAGE + bytes(1_000_000)])
def test_local_image_read_during_a_write_is_read_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, unfinished: bytes
) -> None:
    path = catalog.folder / "a.jpg"
    path.write_bytes(unfinished)
    catalog.declare({"a": "a.jpg"})
    read = image_folder._read_file

    def read_too_early(*arguments: Any) -> bytes:
        data = read(*arguments)
        path.write_bytes(IMAGE)
        return data

    with monkeypatch.context() as busy:
        busy.setattr(image_folder, "_read_file", read_too_early)
        catalog.run(fast_settings(max_megabytes=0.5))
    assert catalog.statuses()["a"] != "ok"
    catalog.run(fast_settings(max_megabytes=0.5))
    assert catalog.statuses() == {"a": "ok"}


def test_local_image_that_appears_during_a_run_is_read_by_the_next_run(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.declare({"a": "a.jpg"})

    def read_too_early(*_: object) -> bytes:
        (catalog.folder / "a.jpg").write_bytes(IMAGE)
        raise FileNotFoundError

    with monkeypatch.context() as busy:
        busy.setattr(ImageFolder, "_inspect", read_too_early)
        catalog.run()
    assert catalog.statuses() == {"a": "missing_file"}
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}


@pytest.mark.parametrize("url", ["deep", "pipe.jpg"])
def test_path_that_is_no_file_is_checked_once(catalog: Catalog, url: str) -> None:
    (catalog.folder / "deep").mkdir()
    os.mkfifo(catalog.folder / "pipe.jpg")
    catalog.declare({"a": url})
    assert [report.changed for report in [*catalog.run(), *catalog.run()]] == [True, False]
    assert catalog.statuses() == {"a": "missing_file"}


def test_changed_root_retries_blocked_paths(catalog: Catalog) -> None:
    beside = catalog.folder.parent / "beside"
    beside.mkdir()
    (beside / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": str(beside / "a.jpg")})
    catalog.run()
    assert catalog.statuses() == {"a": "blocked_path"}
    catalog.declare({"a": str(beside / "a.jpg")}, root=str(catalog.folder.parent))
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}


def test_remote_folder_is_read(catalog: Catalog, tmp_path: Path) -> None:
    memory: Any = fsspec.filesystem("memory")
    memory.pipe_file(f"/{tmp_path.name}/a.jpg", IMAGE)
    catalog.declare({"a": "a.jpg", "b": "b.jpg"}, root=f"memory://{tmp_path.name}")
    catalog.run()
    assert catalog.statuses() == {"a": "ok", "b": "missing_file"}
    assert [report.changed for report in catalog.run()] == [False]


def test_root_on_a_web_server_is_fetched_over_http(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/shop/deep/a%20b.jpg"] = response(IMAGE, b'ETag: "v1"')
    shop.pages["/c.jpg"] = response(IMAGE)
    catalog.declare(
        {"a": "deep/a b.jpg", "b": "missing.jpg", "c": shop.url("/c.jpg")},
        root=shop.url("/shop"),
    )
    catalog.run()
    assert catalog.statuses() == {"a": "ok", "b": "http_404", "c": "ok"}
    row = catalog.rows()["a"]
    assert (row["url"], row["etag"]) == (shop.url("/shop/deep/a%20b.jpg"), '"v1"')
    assert [report.changed for report in catalog.run()] == [False]
    assert len(shop.requests) == 3


def test_changed_root_on_a_web_server_is_fetched_from_the_new_url(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/new/a.jpg"] = response(IMAGE)
    catalog.declare({"a": "a.jpg"}, root=shop.url("/old"))
    catalog.run()
    assert catalog.statuses() == {"a": "http_404"}
    catalog.declare({"a": "a.jpg"}, root=shop.url("/new/"))
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}
    assert shop.requests == ["/old/a.jpg", "/new/a.jpg"]


def test_error_of_a_web_root_fails_only_its_item(catalog: Catalog, shop: PageServer) -> None:
    def page(connection: Connection) -> None:
        asks = connection.request.startswith(b"HEAD")
        connection.send(response(length=100) if asks else response(status=b"500 Oops"))

    shop.pages["/bad.jpg"] = page
    shop.pages["/good.jpg"] = response(IMAGE)
    catalog.declare({"bad": "bad.jpg", "good": "good.jpg"}, root=shop.url(""))
    catalog.run()
    assert catalog.statuses() == {"bad": "http_500", "good": "ok"}


def test_error_of_a_filesystem_library_fails_only_its_item(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory: Any = fsspec.filesystem("memory")
    for name in ("bad", "good"):
        memory.pipe_file(f"/{catalog.folder.parent.name}/{name}.jpg", IMAGE)
    real = type(memory).open

    def fail(filesystem: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("/bad.jpg"):
            raise RuntimeError("the session has expired")
        return real(filesystem, path, *arguments, **options)

    catalog.declare(
        {"bad": "bad.jpg", "good": "good.jpg"}, root=f"memory://{catalog.folder.parent.name}"
    )
    with monkeypatch.context() as expired:
        expired.setattr(type(memory), "open", fail)
        catalog.run()
    assert catalog.statuses() == {"bad": "unreadable_file", "good": "ok"}
    assert catalog.rows()["bad"]["detail"] == "RuntimeError: the session has expired"
    catalog.run()
    assert catalog.statuses() == {"bad": "ok", "good": "ok"}


def test_web_root_does_not_redirect_to_internal_addresses(
    catalog: Catalog, shop: PageServer
) -> None:
    with FaultyServer(response(IMAGE)) as internal:
        shop.pages["/a.jpg"] = redirect(internal.url())
        catalog.declare({"a": "a.jpg"}, root=shop.url(""))
        catalog.run(fast_settings(allowed_hosts=(shop.address,)))
    assert internal.connections == 0
    assert catalog.statuses() == {"a": "blocked_address"}


def test_slow_web_root_times_out(catalog: Catalog, shop: PageServer) -> None:
    def page(connection: Connection) -> None:
        time.sleep(0.8)
        connection.send(response(IMAGE))

    shop.pages["/a.jpg"] = page
    catalog.declare({"a": "a.jpg"}, root=shop.url(""))
    catalog.run(fast_settings(timeout_s=0.2, read_timeout_s=0.2, connect_timeout_s=0.2))
    assert catalog.statuses() == {"a": "timeout"}

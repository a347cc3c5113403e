from __future__ import annotations

import http.server
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.catalog.source import check_source_exists, open_source
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import (
    find_source,
    rewrite_with_same_mtime,
    set_age,
    source_settings,
    write,
)
from imgsim_assets_tests.support.web import Web

# ---- check_source_exists -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["a.csv", "images", "*.csv", "**/*.jpg"])
def test_check_source_exists_accepts_an_existing_source(tmp_path: Path, path: str) -> None:
    write(tmp_path, "a.csv", "")
    write(tmp_path, "images/deep/x.jpg", b"x")

    check_source_exists(source_settings(path), tmp_path)


@pytest.mark.parametrize("path", ["b.csv", "photos", "*.tsv", "**/*.png"])
def test_check_source_exists_raises_the_error_of_open_source(tmp_path: Path, path: str) -> None:
    write(tmp_path, "a.csv", "")

    with pytest.raises(SourceError) as checked:
        check_source_exists(source_settings(path), tmp_path)
    with pytest.raises(SourceError) as opened:
        open_source(source_settings(path), tmp_path)

    assert str(checked.value) == str(opened.value)


def test_check_source_exists_makes_no_request(tmp_path: Path, web: Web) -> None:
    check_source_exists(source_settings(web.url("/none.csv")), tmp_path)
    check_source_exists(source_settings("s3://no-such-box/none.csv"), tmp_path)

    assert web.total_gets == 0


# ---- fingerprints ------------------------------------------------------------------------


def test_fingerprint_depends_on_content_not_on_time(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    first = find_source(tmp_path, "a.csv").fingerprint().digest

    set_age(file, 7200)
    assert find_source(tmp_path, "a.csv").fingerprint().digest == first

    write(tmp_path, "a.csv", "id,url\n1,y.jpg\n")
    assert find_source(tmp_path, "a.csv").fingerprint().digest != first


def test_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    set_age(file)
    first = find_source(tmp_path, "a.csv").fingerprint()

    rewrite_with_same_mtime(file, "id,url\n1,y.jpg\n")

    assert find_source(tmp_path, "a.csv").fingerprint(first.hashes).digest == first.digest
    assert find_source(tmp_path, "a.csv").fingerprint().digest != first.digest


def test_recently_written_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    first = find_source(tmp_path, "a.csv").fingerprint()

    rewrite_with_same_mtime(file, "id,url\n1,y.jpg\n")

    assert find_source(tmp_path, "a.csv").fingerprint(first.hashes).digest != first.digest


def test_touched_file_is_read_again_once(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    set_age(file, 7200)
    first = find_source(tmp_path, "a.csv").fingerprint()
    set_age(file, 3600)

    second = find_source(tmp_path, "a.csv").fingerprint(first.hashes)

    assert second.digest == first.digest
    assert second.hashes.keys() != first.hashes.keys()


def test_fingerprint_of_a_glob_depends_on_its_files(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    one = find_source(tmp_path, "*.csv").fingerprint().digest
    added = write(tmp_path, "b.csv", "id,url\n2,x.jpg\n")
    two = find_source(tmp_path, "*.csv").fingerprint().digest
    added.rename(tmp_path / "c.csv")
    renamed = find_source(tmp_path, "*.csv").fingerprint().digest
    (tmp_path / "c.csv").unlink()

    assert len({one, two, renamed}) == 3
    assert find_source(tmp_path, "*.csv").fingerprint().digest == one


def test_fingerprint_of_a_folder_depends_on_its_listing(tmp_path: Path) -> None:
    image = write(tmp_path, "images/a.jpg", b"xx")
    set_age(image)
    first = find_source(tmp_path, "images").fingerprint().digest

    write(tmp_path, "images/.DS_Store", b"x")
    assert find_source(tmp_path, "images").fingerprint().digest == first

    set_age(image, 1800)
    touched = find_source(tmp_path, "images").fingerprint().digest
    write(tmp_path, "images/b.jpg", b"x")
    grown = find_source(tmp_path, "images").fingerprint().digest
    assert len({first, touched, grown}) == 3


def test_fingerprint_of_a_remote_file_uses_its_etag(tmp_path: Path, web: Web) -> None:
    web.pages["/a.csv"] = served(b"id,url\n1,http://x/1\n", ETag='"one"')
    first = find_source(tmp_path, web.url("/a.csv")).fingerprint().digest
    same = find_source(tmp_path, web.url("/a.csv")).fingerprint().digest

    web.pages["/a.csv"] = served(b"id,url\n1,http://x/2\n", ETag='"two"')

    assert same == first
    assert find_source(tmp_path, web.url("/a.csv")).fingerprint().digest != first


@pytest.mark.parametrize("headers", [{}, {"Last-Modified": True}, {"Transfer-Encoding": "chunked"}])
def test_change_of_a_remote_file_without_etag_is_detected(
    tmp_path: Path, web: Web, headers: Mapping[str, Any]
) -> None:
    def publish(body: bytes, modified: str) -> None:
        chosen = {**headers, **({"Last-Modified": modified} if "Last-Modified" in headers else {})}
        web.pages["/a.csv"] = served(body, **chosen)

    publish(b"id,url\n1,http://x/1\n", "Wed, 21 Oct 2015 07:28:00 GMT")
    first = find_source(tmp_path, web.url("/a.csv")).fingerprint().digest
    publish(b"id,url\n1,http://x/2\n", "Thu, 22 Oct 2015 07:28:00 GMT")

    assert find_source(tmp_path, web.url("/a.csv")).fingerprint().digest != first


def test_change_of_a_remote_file_of_the_same_size_is_detected(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/lists/a.csv", b"id,url\n1,x.jpg\n")
    first = find_source(tmp_path, "memory://lists/a.csv").fingerprint().digest
    memory.pipe("/lists/a.csv", b"id,url\n1,y.jpg\n")

    assert find_source(tmp_path, "memory://lists/a.csv").fingerprint().digest != first


def served(body: bytes, **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    chunked = headers.get("Transfer-Encoding") == "chunked"
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body

    def respond(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in headers.items():
            request.send_header(name, value)
        if not chunked:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(framed)

    return respond

from __future__ import annotations

import gzip
import http.server
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from imgsim_assets.catalog.raw_rows import FILE
from imgsim_assets.catalog.source import check_source_exists, open_source
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import (
    find_source,
    read_raw,
    read_values,
    rewrite_with_same_mtime,
    set_age,
    source_settings,
    validate,
    write,
    write_invalid_name,
)
from imgsim_assets_tests.support.web import Web

# ---- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [("delimeter", "delimiter"), ("colums", "columns"), ("encodng", "encoding"), ("ur", "url")],
)
def test_misspelled_key_suggests_the_right_one(key: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown key '{key}': did you mean '{meant}'"):
        source_settings("a.csv", **{key: ","})


@pytest.mark.parametrize("delimiter", ["", "ab", "tab", '"', "\n", "\r"])
def test_invalid_delimiter_is_refused_with_an_example(delimiter: str) -> None:
    with pytest.raises(ValidationError, match="is not a delimiter: give one character, like ','"):
        source_settings("a.csv", delimiter=delimiter)


def test_backslash_t_is_a_tab() -> None:
    assert source_settings("a.csv", delimiter="\\t").delimiter == "\t"
    assert source_settings("a.csv", delimiter="\t").delimiter == "\t"


def test_quote_of_two_characters_is_refused() -> None:
    with pytest.raises(ValidationError, match="\"''\" is not a quote: give one character, or ''"):
        source_settings("a.csv", quote="''")


@pytest.mark.parametrize("settings", [{"quote": "\n"}, {"quote": ";", "delimiter": ";"}])
def test_invalid_quote_is_refused(settings: Mapping[str, str]) -> None:
    with pytest.raises(ValidationError, match="quote"):
        source_settings("a.csv", **settings)


@pytest.mark.parametrize("encoding", ["utf8x", "base64", "rot13", ""])
def test_invalid_encoding_is_refused_with_examples(encoding: str) -> None:
    with pytest.raises(
        ValidationError, match=f"unknown encoding '{encoding}'; try utf-8, utf-16 or cp1252"
    ):
        source_settings("a.csv", encoding=encoding)


def test_column_names_must_be_unique() -> None:
    with pytest.raises(ValidationError, match="columns: every name must be unique"):
        source_settings("a.csv", columns=["id", "url", "id"])


def test_unknown_format_is_refused_with_a_list() -> None:
    with pytest.raises(ValidationError, match="'csv', 'tsv', 'lines', 'jsonl', 'parquet' or"):
        source_settings("a.csv", format="xlsx")


def test_source_without_a_path_is_refused() -> None:
    with pytest.raises(ValidationError, match="path"):
        source_settings("")


# ---- finding files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("a.csv", "csv"),
        ("a.CSV", "csv"),
        ("a.csv.gz", "csv"),
        ("a.tsv", "tsv"),
        ("a.tab", "tsv"),
        ("a.tsv.xz", "tsv"),
        ("a.txt", "lines"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.bz2", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("a.webp", "images"),
        ("a.JPG", "images"),
    ],
)
def test_suffix_determines_the_format(tmp_path: Path, name: str, format_name: str) -> None:
    write(tmp_path, name, "")

    assert find_source(tmp_path, name).format == format_name


@pytest.mark.parametrize("name", ["products.xlsx", "products", "products.gz", "products.json"])
def test_unknown_suffix_requires_a_format(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "id,url\n")

    with pytest.raises(SourceError, match=rf"{name}: the suffix .* add 'format:' .*csv, tsv"):
        find_source(tmp_path, name)


def test_declared_format_overrides_the_suffix(tmp_path: Path) -> None:
    write(tmp_path, "export.dat", "id,url\n1,http://x/1.jpg\n")

    assert read_values(tmp_path, "export.dat", format="csv").rows() == [("1", "http://x/1.jpg")]


def test_missing_file_is_named_as_declared_and_resolved(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        find_source(tmp_path, "shop/products.csv")

    message = str(missing.value)
    assert f"there is no {tmp_path}/shop/products.csv (path 'shop/products.csv')" in message
    assert f"relative to {tmp_path}" in message


def test_glob_without_matches_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n")

    with pytest.raises(SourceError, match=r"there is no .*\*\.tsv"):
        find_source(tmp_path, "*.tsv")


def test_unknown_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"foo://shop/a\.csv cannot be reached: .*foo"):
        find_source(tmp_path, "foo://shop/a.csv")


def test_absolute_path_equals_file_url(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    elsewhere = tmp_path / "elsewhere"

    for path in (str(file), f"file://{file}"):
        result = find_source(elsewhere, path)
        assert read_raw(elsewhere, path).frame()["url"].to_list() == ["x.jpg"]
        assert result.root == str(tmp_path)


def test_folder_lists_only_images_recursively_in_order(
    tmp_path: Path,
) -> None:
    names = ("z.webp", "b/10.JPG", "b/9.png", ".DS_Store", "notes.txt", "a/deep/x.tiff")
    for size, name in enumerate(names):
        write(tmp_path / "images", name, b"x" * size)

    result = find_source(tmp_path, "images")

    assert [file.name for file in result.files] == [
        "a/deep/x.tiff",
        "b/10.JPG",
        "b/9.png",
        "z.webp",
    ]
    assert result.format == "images"
    assert result.root == str(tmp_path / "images")


def test_glob_of_images_lists_only_images(tmp_path: Path) -> None:
    for name in ("a.jpg", ".DS_Store", "notes.txt", "sub.jpg/inner.png"):
        write(tmp_path / "images", name, b"x")

    assert [file.name for file in find_source(tmp_path, "images/*").files] == ["a.jpg"]
    assert [file.name for file in find_source(tmp_path, "images/**").files] == [
        "a.jpg",
        "sub.jpg/inner.png",
    ]


def test_files_of_a_glob_are_named_relative_to_its_folder(
    tmp_path: Path,
) -> None:
    for name in ("feeds/2024/b.csv", "feeds/2023/b.csv", "feeds/2023/a.csv"):
        write(tmp_path, name, "id,url\n")

    result = find_source(tmp_path, "feeds/*/*.csv")

    assert [file.name for file in result.files] == ["2023/a.csv", "2023/b.csv", "2024/b.csv"]
    assert result.root == str(tmp_path / "feeds")


def test_file_name_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    write(tmp_path, "list[1].csv", "id,url\n1,one.jpg\n")
    write(tmp_path, "list1.csv", "id,url\n2,two.jpg\n")

    assert read_values(tmp_path, "list[1].csv")["url"].to_list() == ["one.jpg"]


def test_declared_root_is_relative_to_the_project(tmp_path: Path) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n")

    assert find_source(tmp_path, "lists/a.csv").root == str(tmp_path / "lists")
    assert find_source(tmp_path, "lists/a.csv", root="images").root == str(tmp_path / "images")
    assert find_source(tmp_path, "lists/a.csv", root="s3://box/p").root == "s3://box/p"


def test_remote_folder_and_glob_are_found(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/box/b.jpg", b"x")
    memory.pipe("/box/sub/a.png", b"x")
    memory.pipe("/lists/a.csv", b"id,url\n1,b.jpg\n")
    memory.pipe("/lists/b.csv.gz", gzip.compress(b"id,url\n2,sub/a.png\n"))

    assert [file.name for file in find_source(tmp_path, "memory://box").files] == [
        "b.jpg",
        "sub/a.png",
    ]
    assert read_values(tmp_path, "memory://lists/*")["id"].to_list() == ["1", "2"]
    assert find_source(tmp_path, "memory://lists/*").root.startswith("memory://")


def test_folder_without_images_has_no_files(tmp_path: Path) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    check_source_exists(source_settings("lists"), tmp_path)
    result = find_source(tmp_path, "lists")

    assert (result.format, result.files) == ("images", ())
    assert result.fingerprint().digest


@pytest.mark.parametrize(("name", "suffix"), [("csv", ".csv"), ("lines", ".txt")])
def test_folder_with_a_list_format_is_refused(tmp_path: Path, name: str, suffix: str) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    with pytest.raises(SourceError, match=rf"lists is a folder.*pattern: lists/\*{suffix}"):
        find_source(tmp_path, "lists", format=name)


def test_glob_with_an_unknown_suffix_requires_a_format(tmp_path: Path) -> None:
    write(tmp_path, "feed/a.csv", "id,url\n1,x.jpg\n")
    write(tmp_path, "feed/README.md", "about")

    with pytest.raises(SourceError, match="add 'format:'"):
        find_source(tmp_path, "feed/*")


def test_glob_of_lists_and_images_is_ambiguous(tmp_path: Path) -> None:
    write(tmp_path, "feed/a.csv", "id,url\n1,x.jpg\n")
    write(tmp_path, "feed/x.jpg", b"x")

    with pytest.raises(SourceError, match=r"finds both .* add 'format: images', .* as \*\.csv"):
        find_source(tmp_path, "feed/*")
    images = find_source(tmp_path, "feed/*", format="images")
    assert [file.name for file in images.files] == ["x.jpg"]


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.jsonl", "a.parquet"])
def test_lists_of_every_format_beside_images_are_ambiguous(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"feed/{name}", b"")
    write(tmp_path, "feed/x.jpg", b"x")

    with pytest.raises(SourceError, match="finds both lists and images"):
        find_source(tmp_path, "feed/*")


def test_glob_works_in_a_project_path_with_brackets(tmp_path: Path) -> None:
    project = tmp_path / "shop [old]"
    write(project, "a.csv", "id,url\n1,x.jpg\n")

    check_source_exists(source_settings("*.csv"), project)
    assert read_values(project, "*.csv")["id"].to_list() == ["1"]
    assert find_source(project, "*.csv").root == str(project)
    with pytest.raises(SourceError, match="there is no"):
        check_source_exists(source_settings("*.tsv"), project)


def test_macos_resource_forks_are_not_images(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", b"x")
    write(tmp_path, "images/._a.jpg", b"\x00\x05\x16\x07")

    assert [file.name for file in find_source(tmp_path, "images").files] == ["a.jpg"]


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    project = tmp_path / ".projects"
    for name in ("a.jpg", ".b.jpg", ".Trashes/501/c.jpg", "sub/.thumbnails/d.jpg", "sub/e.jpg"):
        write(project / "images", name, b"x")
    write(project, "lists/a.csv", "id,url\n1,x\n")
    write(project, "lists/.a.csv", "id,url\n2,x\n")

    assert [file.name for file in find_source(project, "images").files] == ["a.jpg", "sub/e.jpg"]
    assert [file.name for file in find_source(project, "images/**").files] == ["a.jpg", "sub/e.jpg"]
    assert [file.name for file in find_source(project, "lists/*").files] == ["a.csv"]


def test_declared_image_format_lists_only_images(tmp_path: Path) -> None:
    for name in ("a.jpg", ".DS_Store", "notes.txt"):
        write(tmp_path / "images", name, b"x")

    images = find_source(tmp_path, "images/*", format="images")
    assert [file.name for file in images.files] == ["a.jpg"]


def test_invalid_file_name_affects_only_its_file(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", b"x")
    write(tmp_path, "images/lost\ufffd.jpg", b"x")
    write_invalid_name(tmp_path / "images", b"caf\xe9.jpg")

    result = validate(tmp_path, "images")

    assert result.rows["id"].to_list() == ["a.jpg", "lost\ufffd.jpg"]
    assert result.rejects.rows() == [
        ("caf?.jpg", 0, "bad_name", "the file name is not valid text", "caf?.jpg")
    ]
    assert find_source(tmp_path, "images").fingerprint().digest


def test_list_with_an_invalid_file_name_is_read(tmp_path: Path) -> None:
    odd = write_invalid_name(tmp_path, b"caf\xe9.csv", b"id,url\n1,u1\n2\n")
    write_invalid_name(tmp_path, b"caf\xe9.txt", b"u1\n\n")
    write_invalid_name(tmp_path, b"caf\xe9.jsonl", b'{"id": "1", "url": "u1"}\n')
    pl.DataFrame({"id": ["1"], "url": ["u1"]}).write_parquet(tmp_path / "plain")
    (tmp_path / "plain").rename(odd.with_suffix(".pq"))

    for suffix in ("csv", "txt", "jsonl", "pq"):
        result = read_raw(tmp_path, f"*.{suffix}")
        assert result.frame()["url"].to_list() == ["u1"]
        assert result.frame()[FILE].to_list() == [f"caf?.{suffix}"]
    rejects = validate(tmp_path, "*.csv").rejects
    assert rejects.select("file", "line").rows() == [("caf?.csv", 3)]


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

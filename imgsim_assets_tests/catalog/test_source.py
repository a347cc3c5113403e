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
    age,
    declared,
    read,
    rewrite_unnoticed,
    source,
    validated,
    values,
    write,
    write_odd_name,
)
from imgsim_assets_tests.support.web import Web

# ---- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [("delimeter", "delimiter"), ("colums", "columns"), ("encodng", "encoding"), ("ur", "url")],
)
def test_a_misspelt_key_is_named_with_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown key '{key}': did you mean '{meant}'"):
        declared("a.csv", **{key: ","})


@pytest.mark.parametrize("delimiter", ["", "ab", "tab", '"', "\n", "\r"])
def test_what_cannot_delimit_is_refused_with_an_example(delimiter: str) -> None:
    with pytest.raises(ValidationError, match="is not a delimiter: give one character, like ','"):
        declared("a.csv", delimiter=delimiter)


def test_backslash_t_means_a_tab() -> None:
    assert declared("a.csv", delimiter="\\t").delimiter == "\t"
    assert declared("a.csv", delimiter="\t").delimiter == "\t"


def test_a_quote_of_two_characters_is_refused() -> None:
    with pytest.raises(ValidationError, match="\"''\" is not a quote: give one character, or ''"):
        declared("a.csv", quote="''")


@pytest.mark.parametrize("settings", [{"quote": "\n"}, {"quote": ";", "delimiter": ";"}])
def test_a_quote_that_cannot_quote_is_refused(settings: Mapping[str, str]) -> None:
    with pytest.raises(ValidationError, match="quote"):
        declared("a.csv", **settings)


@pytest.mark.parametrize("encoding", ["utf8x", "base64", "rot13", ""])
def test_an_encoding_that_is_none_of_text_is_refused_with_examples(encoding: str) -> None:
    with pytest.raises(
        ValidationError, match=f"unknown encoding '{encoding}'; try utf-8, utf-16 or cp1252"
    ):
        declared("a.csv", encoding=encoding)


def test_column_names_may_stand_once() -> None:
    with pytest.raises(ValidationError, match="columns: every name must be unique"):
        declared("a.csv", columns=["id", "url", "id"])


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'csv', 'tsv', 'lines', 'jsonl', 'parquet' or"):
        declared("a.csv", format="xlsx")


def test_a_source_without_a_path_is_refused() -> None:
    with pytest.raises(ValidationError, match="path"):
        declared("")


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
def test_the_suffix_tells_the_format(tmp_path: Path, name: str, format_name: str) -> None:
    write(tmp_path, name, "")

    assert source(tmp_path, name).format == format_name


@pytest.mark.parametrize("name", ["products.xlsx", "products", "products.gz", "products.json"])
def test_a_suffix_that_tells_nothing_asks_for_the_format(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "id,url\n")

    with pytest.raises(SourceError, match=rf"{name}: the suffix .* add 'format:' .*csv, tsv"):
        source(tmp_path, name)


def test_a_declared_format_overrules_the_suffix(tmp_path: Path) -> None:
    write(tmp_path, "export.dat", "id,url\n1,http://x/1.jpg\n")

    assert values(tmp_path, "export.dat", format="csv").rows() == [("1", "http://x/1.jpg")]


def test_a_missing_file_is_named_as_declared_and_as_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        source(tmp_path, "shop/products.csv")

    message = str(missing.value)
    assert f"there is no {tmp_path}/shop/products.csv (path 'shop/products.csv')" in message
    assert f"relative to {tmp_path}" in message


def test_a_glob_that_matches_nothing_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n")

    with pytest.raises(SourceError, match=r"there is no .*\*\.tsv"):
        source(tmp_path, "*.tsv")


def test_an_unknown_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"foo://shop/a\.csv cannot be reached: .*foo"):
        source(tmp_path, "foo://shop/a.csv")


def test_an_absolute_path_and_a_file_url_are_the_same_source(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    elsewhere = tmp_path / "elsewhere"

    for path in (str(file), f"file://{file}"):
        found = source(elsewhere, path)
        assert read(elsewhere, path).frame()["url"].to_list() == ["x.jpg"]
        assert found.root == str(tmp_path)


def test_a_folder_lists_its_images_alone_with_subfolders_in_a_stable_order(
    tmp_path: Path,
) -> None:
    names = ("z.webp", "b/10.JPG", "b/9.png", ".DS_Store", "notes.txt", "a/deep/x.tiff")
    for size, name in enumerate(names):
        write(tmp_path / "images", name, b"x" * size)

    found = source(tmp_path, "images")

    assert [file.name for file in found.files] == ["a/deep/x.tiff", "b/10.JPG", "b/9.png", "z.webp"]
    assert found.format == "images"
    assert found.root == str(tmp_path / "images")


def test_a_glob_of_images_lists_images_alone(tmp_path: Path) -> None:
    for name in ("a.jpg", ".DS_Store", "notes.txt", "sub.jpg/inner.png"):
        write(tmp_path / "images", name, b"x")

    assert [file.name for file in source(tmp_path, "images/*").files] == ["a.jpg"]
    assert [file.name for file in source(tmp_path, "images/**").files] == [
        "a.jpg",
        "sub.jpg/inner.png",
    ]


def test_files_of_a_glob_are_named_from_the_folder_before_the_pattern(tmp_path: Path) -> None:
    for name in ("feeds/2024/b.csv", "feeds/2023/b.csv", "feeds/2023/a.csv"):
        write(tmp_path, name, "id,url\n")

    found = source(tmp_path, "feeds/*/*.csv")

    assert [file.name for file in found.files] == ["2023/a.csv", "2023/b.csv", "2024/b.csv"]
    assert found.root == str(tmp_path / "feeds")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, "list[1].csv", "id,url\n1,one.jpg\n")
    write(tmp_path, "list1.csv", "id,url\n2,two.jpg\n")

    assert values(tmp_path, "list[1].csv")["url"].to_list() == ["one.jpg"]


def test_a_declared_root_is_taken_from_the_project(tmp_path: Path) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n")

    assert source(tmp_path, "lists/a.csv").root == str(tmp_path / "lists")
    assert source(tmp_path, "lists/a.csv", root="images").root == str(tmp_path / "images")
    assert source(tmp_path, "lists/a.csv", root="s3://box/p").root == "s3://box/p"


def test_a_remote_folder_and_glob_are_found(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/box/b.jpg", b"x")
    memory.pipe("/box/sub/a.png", b"x")
    memory.pipe("/lists/a.csv", b"id,url\n1,b.jpg\n")
    memory.pipe("/lists/b.csv.gz", gzip.compress(b"id,url\n2,sub/a.png\n"))

    assert [file.name for file in source(tmp_path, "memory://box").files] == [
        "b.jpg",
        "sub/a.png",
    ]
    assert values(tmp_path, "memory://lists/*")["id"].to_list() == ["1", "2"]
    assert source(tmp_path, "memory://lists/*").root.startswith("memory://")


def test_a_folder_without_images_is_a_source_without_files(tmp_path: Path) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    check_source_exists(declared("lists"), tmp_path)
    found = source(tmp_path, "lists")

    assert (found.format, found.files) == ("images", ())
    assert found.fingerprint().digest


@pytest.mark.parametrize(("name", "suffix"), [("csv", ".csv"), ("lines", ".txt")])
def test_a_folder_cannot_be_read_as_a_list(tmp_path: Path, name: str, suffix: str) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    with pytest.raises(SourceError, match=rf"lists is a folder.*pattern: lists/\*{suffix}"):
        source(tmp_path, "lists", format=name)


def test_a_glob_with_a_file_of_no_known_kind_asks_for_the_format(tmp_path: Path) -> None:
    write(tmp_path, "feed/a.csv", "id,url\n1,x.jpg\n")
    write(tmp_path, "feed/README.md", "about")

    with pytest.raises(SourceError, match="add 'format:'"):
        source(tmp_path, "feed/*")


def test_a_glob_of_lists_and_images_is_refused_as_ambiguous(tmp_path: Path) -> None:
    write(tmp_path, "feed/a.csv", "id,url\n1,x.jpg\n")
    write(tmp_path, "feed/x.jpg", b"x")

    with pytest.raises(SourceError, match=r"finds both .* add 'format: images', .* as \*\.csv"):
        source(tmp_path, "feed/*")
    assert [file.name for file in source(tmp_path, "feed/*", format="images").files] == ["x.jpg"]


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.jsonl", "a.parquet"])
def test_lists_of_every_kind_beside_images_are_ambiguous(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"feed/{name}", b"")
    write(tmp_path, "feed/x.jpg", b"x")

    with pytest.raises(SourceError, match="finds both lists and images"):
        source(tmp_path, "feed/*")


def test_a_glob_works_in_a_project_whose_path_has_brackets(tmp_path: Path) -> None:
    project = tmp_path / "shop [old]"
    write(project, "a.csv", "id,url\n1,x.jpg\n")

    check_source_exists(declared("*.csv"), project)
    assert values(project, "*.csv")["id"].to_list() == ["1"]
    assert source(project, "*.csv").root == str(project)
    with pytest.raises(SourceError, match="there is no"):
        check_source_exists(declared("*.tsv"), project)


def test_resource_forks_of_macos_are_not_images(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", b"x")
    write(tmp_path, "images/._a.jpg", b"\x00\x05\x16\x07")

    assert [file.name for file in source(tmp_path, "images").files] == ["a.jpg"]


def test_nothing_hidden_is_ever_listed(tmp_path: Path) -> None:
    project = tmp_path / ".projects"
    for name in ("a.jpg", ".b.jpg", ".Trashes/501/c.jpg", "sub/.thumbnails/d.jpg", "sub/e.jpg"):
        write(project / "images", name, b"x")
    write(project, "lists/a.csv", "id,url\n1,x\n")
    write(project, "lists/.a.csv", "id,url\n2,x\n")

    assert [file.name for file in source(project, "images").files] == ["a.jpg", "sub/e.jpg"]
    assert [file.name for file in source(project, "images/**").files] == ["a.jpg", "sub/e.jpg"]
    assert [file.name for file in source(project, "lists/*").files] == ["a.csv"]


def test_a_declared_format_of_images_still_lists_images_alone(tmp_path: Path) -> None:
    for name in ("a.jpg", ".DS_Store", "notes.txt"):
        write(tmp_path / "images", name, b"x")

    assert [file.name for file in source(tmp_path, "images/*", format="images").files] == ["a.jpg"]


def test_a_file_name_that_is_no_text_does_not_cost_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", b"x")
    write(tmp_path, "images/lost\ufffd.jpg", b"x")
    write_odd_name(tmp_path / "images", b"caf\xe9.jpg")

    found = validated(tmp_path, "images")

    assert found.rows["id"].to_list() == ["a.jpg", "lost\ufffd.jpg"]
    assert found.rejects.rows() == [
        ("caf?.jpg", 0, "bad_name", "the file name is not valid text", "caf?.jpg")
    ]
    assert source(tmp_path, "images").fingerprint().digest


def test_a_list_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    odd = write_odd_name(tmp_path, b"caf\xe9.csv", b"id,url\n1,u1\n2\n")
    write_odd_name(tmp_path, b"caf\xe9.txt", b"u1\n\n")
    write_odd_name(tmp_path, b"caf\xe9.jsonl", b'{"id": "1", "url": "u1"}\n')
    pl.DataFrame({"id": ["1"], "url": ["u1"]}).write_parquet(tmp_path / "plain")
    (tmp_path / "plain").rename(odd.with_suffix(".pq"))

    for suffix in ("csv", "txt", "jsonl", "pq"):
        found = read(tmp_path, f"*.{suffix}")
        assert found.frame()["url"].to_list() == ["u1"]
        assert found.frame()[FILE].to_list() == [f"caf?.{suffix}"]
    rejects = validated(tmp_path, "*.csv").rejects
    assert rejects.select("file", "line").rows() == [("caf?.csv", 3)]


# ---- whether a source is there -----------------------------------------------------------


@pytest.mark.parametrize("path", ["a.csv", "images", "*.csv", "**/*.jpg"])
def test_a_source_that_is_there_passes_the_check(tmp_path: Path, path: str) -> None:
    write(tmp_path, "a.csv", "")
    write(tmp_path, "images/deep/x.jpg", b"x")

    check_source_exists(declared(path), tmp_path)


@pytest.mark.parametrize("path", ["b.csv", "photos", "*.tsv", "**/*.png"])
def test_a_source_that_is_not_there_fails_the_check_like_the_opening(
    tmp_path: Path, path: str
) -> None:
    write(tmp_path, "a.csv", "")

    with pytest.raises(SourceError) as checked:
        check_source_exists(declared(path), tmp_path)
    with pytest.raises(SourceError) as opened:
        open_source(declared(path), tmp_path)

    assert str(checked.value) == str(opened.value)


def test_a_remote_source_is_taken_on_trust_until_it_is_read(tmp_path: Path, web: Web) -> None:
    check_source_exists(declared(web.url("/none.csv")), tmp_path)
    check_source_exists(declared("s3://no-such-box/none.csv"), tmp_path)

    assert web.total_gets == 0


# ---- fingerprints ------------------------------------------------------------------------


def test_the_fingerprint_follows_the_content_not_the_time(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    first = source(tmp_path, "a.csv").fingerprint().digest

    age(file, 7200)
    assert source(tmp_path, "a.csv").fingerprint().digest == first

    write(tmp_path, "a.csv", "id,url\n1,y.jpg\n")
    assert source(tmp_path, "a.csv").fingerprint().digest != first


def test_an_untouched_file_is_not_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    age(file)
    first = source(tmp_path, "a.csv").fingerprint()

    rewrite_unnoticed(file, "id,url\n1,y.jpg\n")

    assert source(tmp_path, "a.csv").fingerprint(first.hashes).digest == first.digest
    assert source(tmp_path, "a.csv").fingerprint().digest != first.digest


def test_a_file_written_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    first = source(tmp_path, "a.csv").fingerprint()

    rewrite_unnoticed(file, "id,url\n1,y.jpg\n")

    assert source(tmp_path, "a.csv").fingerprint(first.hashes).digest != first.digest


def test_a_touched_file_is_read_again_and_known_by_its_new_time(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    age(file, 7200)
    first = source(tmp_path, "a.csv").fingerprint()
    age(file, 3600)

    second = source(tmp_path, "a.csv").fingerprint(first.hashes)

    assert second.digest == first.digest
    assert second.hashes.keys() != first.hashes.keys()


def test_the_fingerprint_of_a_glob_follows_its_files(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,x.jpg\n")
    one = source(tmp_path, "*.csv").fingerprint().digest
    added = write(tmp_path, "b.csv", "id,url\n2,x.jpg\n")
    two = source(tmp_path, "*.csv").fingerprint().digest
    added.rename(tmp_path / "c.csv")
    renamed = source(tmp_path, "*.csv").fingerprint().digest
    (tmp_path / "c.csv").unlink()

    assert len({one, two, renamed}) == 3
    assert source(tmp_path, "*.csv").fingerprint().digest == one


def test_the_fingerprint_of_a_folder_follows_its_listing(tmp_path: Path) -> None:
    image = write(tmp_path, "images/a.jpg", b"xx")
    age(image)
    first = source(tmp_path, "images").fingerprint().digest

    write(tmp_path, "images/.DS_Store", b"x")
    assert source(tmp_path, "images").fingerprint().digest == first

    age(image, 1800)
    touched = source(tmp_path, "images").fingerprint().digest
    write(tmp_path, "images/b.jpg", b"x")
    grown = source(tmp_path, "images").fingerprint().digest
    assert len({first, touched, grown}) == 3


def test_a_remote_file_is_known_by_its_etag(tmp_path: Path, web: Web) -> None:
    web.pages["/a.csv"] = served(b"id,url\n1,http://x/1\n", ETag='"one"')
    first = source(tmp_path, web.url("/a.csv")).fingerprint().digest
    same = source(tmp_path, web.url("/a.csv")).fingerprint().digest

    web.pages["/a.csv"] = served(b"id,url\n1,http://x/2\n", ETag='"two"')

    assert same == first
    assert source(tmp_path, web.url("/a.csv")).fingerprint().digest != first


@pytest.mark.parametrize("headers", [{}, {"Last-Modified": True}, {"Transfer-Encoding": "chunked"}])
def test_a_remote_file_without_an_etag_is_noticed_when_it_changes(
    tmp_path: Path, web: Web, headers: Mapping[str, Any]
) -> None:
    def publish(body: bytes, modified: str) -> None:
        chosen = {**headers, **({"Last-Modified": modified} if "Last-Modified" in headers else {})}
        web.pages["/a.csv"] = served(body, **chosen)

    publish(b"id,url\n1,http://x/1\n", "Wed, 21 Oct 2015 07:28:00 GMT")
    first = source(tmp_path, web.url("/a.csv")).fingerprint().digest
    publish(b"id,url\n1,http://x/2\n", "Thu, 22 Oct 2015 07:28:00 GMT")

    assert source(tmp_path, web.url("/a.csv")).fingerprint().digest != first


def test_any_remote_file_of_the_same_size_is_noticed_when_it_changes(
    tmp_path: Path, memory: Any
) -> None:
    memory.pipe("/lists/a.csv", b"id,url\n1,x.jpg\n")
    first = source(tmp_path, "memory://lists/a.csv").fingerprint().digest
    memory.pipe("/lists/a.csv", b"id,url\n1,y.jpg\n")

    assert source(tmp_path, "memory://lists/a.csv").fingerprint().digest != first


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

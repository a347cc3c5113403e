from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.catalog.raw_rows import FILE
from imgsim_assets.catalog.source import check_source_exists
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import (
    find_source,
    read_raw,
    read_values,
    source_settings,
    validate,
    write,
    write_invalid_name,
)

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
        ("a.txt", None),
        ("a.json", None),
        ("a.xlsx", "xlsx"),
        ("a.csv?token=x.y", "csv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.bz2", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("a.webp", "images"),
        ("a.JPG", "images"),
    ],
)
def test_suffix_determines_the_format(tmp_path: Path, name: str, format_name: str | None) -> None:
    write(tmp_path, name, "")

    assert find_source(tmp_path, name).format == format_name


def test_declared_format_overrides_the_suffix(tmp_path: Path) -> None:
    write(tmp_path, "export.dat", "id,url\n1,http://x/1.jpg\n")

    assert read_values(tmp_path, "export.dat", format="csv").rows() == [("1", "http://x/1.jpg")]


def test_missing_file_is_named_as_declared_and_resolved(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        find_source(tmp_path, "shop/products.csv")

    message = str(missing.value)
    assert f"there is no '{tmp_path}/shop/products.csv' (path 'shop/products.csv')" in message
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

    with pytest.raises(SourceError, match=r"different formats.* 'format:'"):
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
        ("caf?.jpg", 0, "item", "bad_name", "the file name is not valid text", "caf?.jpg")
    ]
    assert find_source(tmp_path, "images").fingerprint().digest


def test_list_with_an_invalid_file_name_is_read(tmp_path: Path) -> None:
    odd = write_invalid_name(tmp_path, b"caf\xe9.csv", b"id,url\n1,u1\n2,u,x\n")
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

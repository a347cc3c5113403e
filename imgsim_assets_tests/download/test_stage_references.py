"""Images of local folders and object stores that stay where they lie."""

from __future__ import annotations

import os
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.references import is_reference_pack
from imgsim_assets.storage.shards import shard_index
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import Catalog, fast_settings
from imgsim_assets_tests.support.images import jpeg

IMAGE, OTHER = jpeg(1), jpeg(2)
REFERENCE, COPY = fast_settings(image_bytes="reference"), fast_settings(image_bytes="copy")


def get(catalog: Catalog, item: str) -> bytes:
    return Store.open(catalog.store.url).blobs.get(catalog.rows()[item]["sha256"])


def kinds(catalog: Catalog) -> set[bool]:
    return {is_reference_pack(pack.name) for pack in list_packs(catalog.store.files)}


def test_images_of_a_local_folder_stay_there(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg"})

    catalog.run()

    row = catalog.rows()["a"]
    assert row["location"] == str(catalog.folder / "a.jpg")
    assert row["is_link"] is False
    assert kinds(catalog) == {True}
    assert get(catalog, "a") == IMAGE


def test_second_run_reads_nothing(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg", "same": "./a.jpg", "url": f"file://{catalog.folder}/a.jpg"})

    reports = [*catalog.run(), *catalog.run()]

    assert [report.requested for report in reports] == [3, 0]
    assert [report.changed for report in reports] == [True, False]


@pytest.mark.parametrize(("before", "after"), [(COPY, REFERENCE), (REFERENCE, COPY)])
def test_another_mode_reads_the_files_again(catalog: Catalog, before: Any, after: Any) -> None:
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg"})
    catalog.run(before)
    rows = catalog.rows()["a"]

    [report] = catalog.run(after)

    assert report.requested == 1
    assert catalog.rows()["a"]["sha256"] == rows["sha256"]
    assert kinds(catalog) == {True, False}
    assert [report.requested for report in catalog.run(after)] == [0]
    if after is COPY:
        (catalog.folder / "a.jpg").unlink()
        assert get(catalog, "a") == IMAGE


def test_moved_folder_is_read_again(catalog: Catalog) -> None:
    (catalog.folder / "one").mkdir()
    (catalog.folder / "one" / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg"}, root=str(catalog.folder / "one"))
    catalog.run()
    (catalog.folder / "one").rename(catalog.folder / "two")
    catalog.declare({"a": "a.jpg"}, root=str(catalog.folder / "two"))

    catalog.run()

    assert catalog.rows()["a"]["location"] == str(catalog.folder / "two" / "a.jpg")
    assert get(catalog, "a") == IMAGE


def test_empty_file_is_read_again_once_it_changes(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").touch()
    catalog.declare({"a": "a.jpg"})
    catalog.run()

    row = catalog.rows()["a"]
    assert (row["status"], row["retryable"], row["next_retry_at"]) == ("truncated", False, None)
    assert [report.requested for report in catalog.run()] == [0]
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    assert [report.requested for report in catalog.run()] == [1]
    assert catalog.statuses() == {"a": "ok"}


def test_deleted_file_has_a_status_and_its_duplicate_stays_readable(catalog: Catalog) -> None:
    for name in ("a.jpg", "b.jpg"):
        (catalog.folder / name).write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg", "b": "b.jpg"})
    catalog.run()
    (catalog.folder / "a.jpg").unlink()

    catalog.run()

    assert catalog.statuses() == {"a": "missing_file", "b": "ok"}
    assert get(catalog, "b") == IMAGE


def test_duplicate_of_a_removed_item_stays_readable(catalog: Catalog) -> None:
    for name in ("a.jpg", "b.jpg"):
        (catalog.folder / name).write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg", "b": "b.jpg"})
    catalog.run()
    (catalog.folder / "a.jpg").unlink()
    catalog.declare({"b": "b.jpg"})

    catalog.run()

    assert get(catalog, "b") == IMAGE


def test_next_run_of_others_reads_an_image_whose_other_file_changed(
    catalog: Catalog,
) -> None:
    """The store refers to the image of both shards by the path of the first."""
    for name in ("a.jpg", "b.jpg"):
        (catalog.folder / name).write_bytes(IMAGE)
    ids = [name for name in "abcdefgh" if shard_index(name, 2) == 0][:1]
    ids += [name for name in "abcdefgh" if shard_index(name, 2) == 1][:1]
    catalog.declare({ids[0]: "a.jpg", ids[1]: "b.jpg"}, shards=2)
    catalog.run(only=[0])
    catalog.run(only=[1])
    (catalog.folder / "a.jpg").write_bytes(OTHER)

    catalog.run(only=[0])

    assert catalog.store.blobs.missing() == {catalog.rows()[ids[1]]["sha256"]}
    catalog.run(only=[1])
    assert get(catalog, ids[1]) == IMAGE
    assert Store.open(catalog.store.url).blobs.missing() == set()
    assert [report.requested for report in catalog.run()] == [0, 0]


@pytest.mark.parametrize("image_bytes", [None, "copy", "reference"])
def test_object_of_a_row_is_copied_unless_it_is_declared_a_reference(image_bytes: Any) -> None:
    url = "memory://objects-of-rows/a.jpg"
    with fsspec.open(url, "wb") as opened:
        opened.write(IMAGE)

    fetched = RemoteObjects(("memory://objects-of-rows/",), 100_000, image_bytes).read(url)

    assert fetched.data == IMAGE
    assert fetched.location == (url if image_bytes == "reference" else None)


def test_folder_of_an_object_store_can_be_referred_to(catalog: Catalog) -> None:
    with fsspec.open("memory://folder/a.jpg", "wb") as opened:
        opened.write(IMAGE)
    catalog.declare({"a": "a.jpg"}, root="memory://folder")

    reports = [*catalog.run(REFERENCE), *catalog.run(REFERENCE)]

    assert [report.requested for report in reports] == [1, 0]
    assert catalog.rows()["a"]["location"].endswith("folder/a.jpg")
    assert get(catalog, "a") == IMAGE


def test_symbolic_link_is_flagged(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    (catalog.folder / "link.jpg").symlink_to("a.jpg")
    os.link(catalog.folder / "a.jpg", catalog.folder / "hard.jpg")
    catalog.declare({"a": "a.jpg", "link": "link.jpg", "hard": "hard.jpg"})

    catalog.run()

    flags = {item: row["is_link"] for item, row in catalog.rows().items()}
    assert flags == {"a": False, "link": True, "hard": False}


def test_file_that_does_not_answer_delays_no_other(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from imgsim_assets.download.files import image_folder

    for number in range(600):
        (catalog.folder / f"{number}.jpg").write_bytes(IMAGE)
    catalog.declare({f"{number}": f"{number}.jpg" for number in range(600)})
    read, never = image_folder._read_file, threading.Event()

    def read_or_hang(path: str, *arguments: Any) -> bytes:
        if path.endswith("/300.jpg"):
            never.wait(60)
        return read(path, *arguments)

    monkeypatch.setattr(image_folder, "_read_file", read_or_hang)
    catalog.run(fast_settings(timeout_s=2.0))
    never.set()

    statuses = catalog.statuses()
    assert statuses.pop("300") == "timeout"
    assert set(statuses.values()) == {"ok"}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), max_size=4),
            st.sampled_from([REFERENCE, COPY]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_incremental_runs_equal_a_full_one_in_any_order_of_modes(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    folder = tmp_path_factory.mktemp("catalog")
    catalog = Catalog(Store.open(folder / "store"), folder)
    images = [jpeg(seed) for seed in range(3)]
    catalog.declare({name: f"{name}.jpg" for name in "abcd"})
    for clock, (files, mode) in enumerate(steps, 1):
        for name in "abcd":
            path = folder / f"{name}.jpg"
            path.unlink(missing_ok=True)
            if name in files:
                path.write_bytes(images[files[name]])
                os.utime(path, (clock, clock))
        catalog.run(mode)

    files, mode = steps[-1]
    expected = {name: "ok" if name in files else "missing_file" for name in "abcd"}
    assert catalog.statuses() == expected
    for name, number in files.items():
        assert get(catalog, name) == images[number]
        is_in_place = catalog.rows()[name]["location"] is not None
        assert is_in_place == (mode is REFERENCE)

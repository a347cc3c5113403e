"""Items with several images: each image is fetched, fails, stays and moves on its own."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.download.ledger import writer
from imgsim_assets.storage.commit import PendingCommit, replace_shard
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.download.test_stage_crashes import crash_at_every_call
from imgsim_assets_tests.support.damage import pack_path
from imgsim_assets_tests.support.downloads import TIMES, Catalog, fast_settings, wait_until
from imgsim_assets_tests.support.faulty_server import Connection, PageServer, response
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.web import Web

GOOD = "abcdef"
# For a server on a busy machine.
PATIENT = fast_settings(timeout_s=60, connect_timeout_s=60, read_timeout_s=60)


@pytest.fixture
def web() -> Iterator[Web]:
    """A server with an image for each letter; its page /missing is none."""
    with Web() as served:
        add_pages(served)
        yield served


def add_pages(web: Web) -> None:
    web.pages.update({f"/{letter}": jpeg(ord(letter)) for letter in GOOD})


def urls(web: Web, items: Mapping[str, str]) -> dict[str, list[str]]:
    """The items' images, each the page of a letter; a dash is one that is missing."""
    names = {"-": "missing"}
    return {
        item: [web.url(f"/{names.get(letter, letter)}") for letter in letters]
        for item, letters in items.items()
    }


def declare(catalog: Catalog, web: Web, **items: str) -> None:
    catalog.declare(urls(web, items))


def letters(catalog: Catalog) -> dict[str, str]:
    """The images of the ledger by item, as `urls` takes them."""
    last = {item: [url.rsplit("/", 1)[1] for url in found] for item, found in _urls(catalog)}
    return {item: "".join(found).replace("missing", "-") for item, found in last.items()}


def _urls(catalog: Catalog) -> Sequence[tuple[str, list[str]]]:
    return list(catalog.image_urls().items())


# ---- what is fetched ----------------------------------------------------------------


def test_every_image_has_a_row_of_its_own(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="ab-", shoe="-", hat="c")

    [report] = catalog.run()

    assert letters(catalog) == {"shirt": "ab-", "shoe": "-", "hat": "c"}
    statuses = {key: row["status"] for key, row in catalog.images().items()}
    assert statuses["shirt", 2] == statuses["shoe", 0] == "http_404"
    assert Counter(statuses.values()) == report.statuses == {"http_404": 2, "ok": 3}
    assert (report.items, report.usable_items, report.images) == (3, 2, 5)
    assert (report.requested, report.fetched, report.failed) == (5, 3, 2)
    assert web.total_gets == 5


def test_reordering_images_requests_nothing(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="abc", shoe="d-")
    [first] = catalog.run()
    before = catalog.images()
    requested = web.total_gets
    declare(catalog, web, shirt="cab", shoe="-d")

    [report] = catalog.run()

    assert web.total_gets == requested
    assert letters(catalog) == {"shirt": "cab", "shoe": "-d"}
    after = catalog.images()
    assert after["shirt", 0] == before["shirt", 2] | {"image": 0}
    assert after["shoe", 0] == before["shoe", 1] | {"image": 0}
    assert (report.requested, report.changed, report.removed_images) == (0, True, 0)
    assert report.data_version != first.data_version
    [again] = catalog.run()
    assert (again.changed, again.version) == (False, report.version)


@pytest.mark.parametrize("images", ["xab", "axb", "abx"])
def test_adding_an_image_requests_one(catalog: Catalog, web: Web, images: str) -> None:
    declare(catalog, web, shirt="ab", shoe="c")
    catalog.run()
    declare(catalog, web, shirt=images.replace("x", "d"), shoe="c")

    [report] = catalog.run()

    assert web.gets == {"/a": 1, "/b": 1, "/c": 1, "/d": 1}
    assert letters(catalog) == {"shirt": images.replace("x", "d"), "shoe": "c"}
    assert (report.items, report.images, report.requested) == (2, 4, 1)


def test_images_that_left_an_item_leave_the_ledger(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="abc", shoe="de", hat="f")
    catalog.run()
    declare(catalog, web, shirt="b", shoe="de")

    [report] = catalog.run()

    assert letters(catalog) == {"shirt": "b", "shoe": "de"}
    assert (report.removed_items, report.removed_images, report.requested) == (1, 3, 0)
    assert (report.items, report.images) == (2, 3)


def test_a_changed_url_is_a_new_image_and_leaves_no_row(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="a-b")
    catalog.run(retry="all")
    catalog.run(retry="all")
    assert catalog.images()["shirt", 1]["attempts"] == 2
    declare(catalog, web, shirt="acb")

    [report] = catalog.run()

    assert letters(catalog) == {"shirt": "acb"}
    assert catalog.images()["shirt", 1]["attempts"] == 0
    assert (report.requested, report.removed_images, report.statuses) == (1, 0, {"ok": 3})


def test_failures_are_retried_image_by_image(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="a-b")
    catalog.run()
    web.pages["/missing"] = jpeg(7)

    [report] = catalog.run(retry="all")

    assert web.gets == {"/a": 1, "/b": 1, "/missing": 2}
    assert (report.requested, report.fetched, report.statuses) == (1, 1, {"ok": 3})


def test_images_are_revalidated_one_by_one_and_take_their_new_numbers(
    catalog: Catalog, web: Web
) -> None:
    declare(catalog, web, shirt="ab")
    catalog.run()
    catalog.shift_times(timedelta(days=-3), "checked_at")
    web.pages["/a"] = jpeg(7)
    declare(catalog, web, shirt="cba")

    [report] = catalog.run(fast_settings(revalidate_after="1d"))

    assert web.gets == {"/a": 2, "/b": 2, "/c": 1}
    assert letters(catalog) == {"shirt": "cba"}
    shas = {row["url"][-1]: row["sha256"] for row in catalog.images().values()}
    assert catalog.store.blobs.get(shas["a"]) == jpeg(7)
    assert report.requested == 3


def test_two_spellings_of_one_address_are_one_image(catalog: Catalog, web: Web) -> None:
    catalog.declare({"shirt": ["a", "./a", web.url("/a"), "b"]}, root=web.url("/"))

    [report] = catalog.run()

    assert web.gets == {"/a": 1, "/b": 1}
    numbers = {image: row["url"] for (_, image), row in catalog.images().items()}
    assert numbers == {0: web.url("/a"), 3: web.url("/b")}
    assert not catalog.run()[0].changed
    assert (report.items, report.images) == (1, 2)


def test_a_ledger_without_image_numbers_has_first_images(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="a", shoe="b")
    catalog.run()
    earlier = catalog.store.table(catalog.table.name, key="id")
    rows = earlier.write_rows(catalog.ledger().drop("image"))
    earlier.commit(
        lambda base: PendingCommit(
            replace_shard(base, Shard(0, 1), [rows]),
            inputs=catalog.commit().inputs,
            properties=catalog.commit().properties,
        )
    )
    assert not catalog.run()[0].changed
    assert {image for _, image in catalog.images()} == {0}
    declare(catalog, web, shirt="ca", shoe="b")

    catalog.run()

    assert letters(catalog) == {"shirt": "ca", "shoe": "b"}
    assert web.total_gets == 3


def test_images_of_a_lost_pack_are_fetched_again_and_no_others(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="ab")
    catalog.run()
    [lost] = list_packs(catalog.store.files)
    declare(catalog, web, shirt="cab")
    catalog.run()
    pack_path(catalog.store, lost.name).unlink()
    catalog.store = Store.open(catalog.store.url)
    declare(catalog, web, shirt="acb")

    [report] = catalog.run()

    assert (report.requested, report.statuses) == (2, {"ok": 3})
    assert web.gets == {"/a": 2, "/b": 2, "/c": 1}
    for row in catalog.images().values():
        assert catalog.store.blobs.get(row["sha256"]) == jpeg(ord(row["url"][-1]))


def test_garbage_collection_keeps_the_images_of_every_number(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="abcdef", shoe="a")
    catalog.run()
    declare(catalog, web, shirt="fb", shoe="a")
    catalog.run()
    make_older(Path(catalog.store.url), hours=5)

    report = collect_garbage(catalog.store, RetentionPolicy(retain_last=1, min_age_hours=1))

    assert report.blobs == 3
    kept = {row["url"][-1]: row["sha256"] for row in catalog.images().values()}
    assert {letter: catalog.store.blobs.get(sha) for letter, sha in kept.items()} == {
        letter: jpeg(ord(letter)) for letter in "abf"
    }


# ---- local images -------------------------------------------------------------------


@pytest.mark.parametrize("image_bytes", ["copy", "reference"])
def test_files_are_read_again_one_by_one(catalog: Catalog, image_bytes: str) -> None:
    for letter in "abc":
        (catalog.folder / f"{letter}.jpg").write_bytes(jpeg(ord(letter)))
    settings = fast_settings(image_bytes=image_bytes)
    catalog.declare({"shirt": ["a.jpg", "b.jpg"], "shoe": ["a.jpg"]})
    assert catalog.run(settings)[0].fetched == 3
    (catalog.folder / "b.jpg").write_bytes(jpeg(200))
    catalog.declare({"shirt": ["c.jpg", "b.jpg", "a.jpg"], "shoe": ["a.jpg"]})

    [report] = catalog.run(settings)

    assert (report.requested, report.statuses) == (2, {"ok": 4})
    row = catalog.images()["shirt", 1]
    assert catalog.store.blobs.get(row["sha256"]) == jpeg(200)
    assert not catalog.run(settings)[0].changed


def test_an_image_in_place_that_left_its_item_is_read_from_another_path(catalog: Catalog) -> None:
    for name in ("a.jpg", "same.jpg"):
        (catalog.folder / name).write_bytes(jpeg(1))
    (catalog.folder / "b.jpg").write_bytes(jpeg(2))
    settings = fast_settings(image_bytes="reference")
    catalog.declare({"shirt": ["a.jpg", "b.jpg"], "shoe": ["same.jpg"]})
    catalog.run(settings)
    (catalog.folder / "a.jpg").unlink()
    catalog.declare({"shirt": ["b.jpg"], "shoe": ["same.jpg"]})

    catalog.run(settings)

    assert catalog.run(settings)[0].requested == 0
    for row in catalog.images().values():
        assert catalog.store.blobs.is_readable(row["sha256"])


# ---- interrupted and concurrent runs ------------------------------------------------


def test_images_that_moved_are_kept_by_a_run_that_is_killed(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages.update({f"/{letter}": response(jpeg(ord(letter))) for letter in GOOD})
    silent: list[Connection] = []

    def page(connection: Connection) -> None:
        silent.append(connection)
        connection.wait(lambda: False)

    shop.pages["/silent"] = page
    catalog.declare({"shirt": [shop.url("/a"), shop.url("/b")], "shoe": [shop.url("/c")]})
    catalog.run()
    catalog.declare(
        {
            "shirt": [shop.url("/silent"), shop.url("/d"), shop.url("/a"), shop.url("/b")],
            "shoe": [shop.url("/c")],
        }
    )
    process = catalog.start(PATIENT, commit_every=0.05)
    wait_until(lambda: bool(silent) and catalog.committed_rows() == 4)
    process.kill()
    process.communicate()

    found = {key: row["url"][-2:] for key, row in catalog.images().items()}
    assert found == {("shirt", 1): "/d", ("shirt", 2): "/a", ("shirt", 3): "/b", ("shoe", 0): "/c"}
    shop.pages["/silent"] = response(jpeg(9))
    [report] = catalog.run()
    assert (report.requested, report.images, report.statuses) == (1, 5, {"ok": 5})
    assert [shop.gets[f"/{letter}"] for letter in "abcd"] == [1, 1, 1, 1]
    assert [url[-1] for url in catalog.image_urls()["shirt"]] == ["t", "d", "a", "b"]


def test_images_that_are_reordered_during_a_run_have_their_newest_numbers(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pages.update({f"/{letter}": response(jpeg(ord(letter))) for letter in GOOD})
    monkeypatch.setattr(writer, "_ROWS_PER_FRAME", 1)
    monkeypatch.setattr(writer, "_MAX_PENDING_ROWS", 1)

    meanwhile: list[dict[int, str]] = []

    def reorder(connection: Connection) -> None:
        connection.wait(lambda: len(catalog.table.versions()) == 2)
        catalog.declare({"shirt": [shop.url(f"/{letter}") for letter in "edca"], "hat": "x.jpg"})
        connection.send(response(jpeg(8)))

    def wait_for_commit(connection: Connection) -> None:
        connection.wait(lambda: len(catalog.table.versions()) == 3)
        meanwhile.append({image: row["url"][-1] for (_, image), row in catalog.images().items()})
        connection.send(response(jpeg(9)))

    catalog.declare({"shirt": [shop.url(f"/{letter}") for letter in "ab"]})
    catalog.run()
    shop.pages.update({"/d": reorder, "/e": wait_for_commit})
    catalog.declare({"shirt": [shop.url(f"/{letter}") for letter in "abcde"]})

    [report] = catalog.run(fast_settings(max_per_host=1, timeout_s=30, read_timeout_s=30))

    assert meanwhile == [{1: "d", 2: "c", 3: "a"}]
    assert (report.items, report.images) == (1, 4)
    assert [url[-1] for url in catalog.image_urls()["shirt"]] == list("edca")
    [after] = catalog.run()
    assert (after.requested, after.images) == (1, 5)
    assert shop.gets == {f"/{letter}": 1 for letter in "abcde"}


@pytest.mark.slow
def test_crash_at_any_io_call_loses_no_image(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{letter}": response(jpeg(ord(letter))) for letter in GOOD})
    catalog.declare({"shirt": [shop.url(f"/{letter}") for letter in "ab"]})
    catalog.run()
    items = {"shirt": [shop.url(f"/{letter}") for letter in "cba"], "shoe": [shop.url("/d")]}
    catalog.declare(items)

    attempts, committed = crash_at_every_call(catalog, first=1)

    assert attempts > 20
    assert len(committed) == 4
    assert catalog.image_urls() == items
    assert [shop.gets[f"/{letter}"] for letter in "ab"] == [1, 1]
    assert [report.requested for report in catalog.run()] == [0]


# ---- histories ----------------------------------------------------------------------

# Images of an item: up to four of the pages, in any order; a dash is missing.
ITEM_IMAGES = st.lists(st.sampled_from(GOOD + "-"), min_size=1, max_size=4, unique=True)
STATE = st.dictionaries(st.sampled_from(["1", "2", "3", "4", "5"]), ITEM_IMAGES.map("".join))
# The items, how many shards they are split into, and whether the run dies before its end.
STEP = st.tuples(STATE, st.integers(1, 3), st.booleans())
Image = tuple[str, str]


@settings(max_examples=6, deadline=None)
@given(history=st.lists(STEP, min_size=2, max_size=5))
def test_ledger_after_any_history_equals_that_of_a_rebuild(
    history: Sequence[tuple[Mapping[str, str], int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as scratch, Web() as web:
        add_pages(web)
        catalog = _new_catalog(Path(scratch) / "things")
        for state, shards, is_interrupted in history:
            known = _images_with_rows(catalog)
            catalog.declare(urls(web, state), shards=shards)
            wanted = {(item, letter) for item, found in state.items() for letter in found}
            if is_interrupted:
                _run_without_end(catalog)
                assert known & wanted <= _images_with_rows(catalog)
                known = _images_with_rows(catalog)
            before = web.total_gets
            reports = catalog.run(PATIENT)
            assert web.total_gets - before == len(wanted - known)
            assert sum(report.images for report in reports) == len(wanted)
        rebuilt = _new_catalog(Path(scratch) / "rebuilt")
        rebuilt.declare(urls(web, state), shards=shards)
        fresh = rebuilt.run(PATIENT)

        assert letters(catalog) == dict(sorted(state.items()))
        assert catalog.ledger().drop(TIMES).equals(rebuilt.ledger().drop(TIMES))
        assert [report.data_version for report in fresh] == [
            report.data_version for report in reports
        ]
        assert not any(report.changed for report in catalog.run(PATIENT))


def _images_with_rows(catalog: Catalog) -> set[Image]:
    if catalog.table.latest() is None:
        return set()
    rows = catalog.ledger().select("id", "url").rows()
    assert len(set(rows)) == len(rows)
    return {(item, url.rsplit("/", 1)[1].replace("missing", "-")) for item, url in rows}


def _run_without_end(catalog: Catalog) -> None:
    """A run that commits every row as it arrives, and never merges them."""
    with (
        mock.patch.object(writer, "_ROWS_PER_FRAME", 1),
        mock.patch.object(writer, "_MAX_PENDING_ROWS", 1),
        mock.patch.object(writer.LedgerWriter, "finish", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        catalog.run(PATIENT)


def _new_catalog(folder: Path) -> Catalog:
    folder.mkdir()
    return Catalog(Store.open(folder / "store"), folder)


def test_image_numbers_are_int32(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, shirt="ab")
    catalog.run()

    assert catalog.ledger().schema["image"] == pl.Int32

from __future__ import annotations

from pathlib import Path

from imgsim_assets.download.ledger.packs import named_packs
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.download.test_stage_crashes import declare_items
from imgsim_assets_tests.support.damage import pack_path
from imgsim_assets_tests.support.downloads import Catalog
from imgsim_assets_tests.support.faulty_server import PageServer
from imgsim_assets_tests.support.file_ages import make_older


def names(catalog: Catalog) -> set[str]:
    return {pack.name for pack in list_packs(catalog.store.files)}


def test_ledger_names_the_packs_of_its_images(catalog: Catalog, shop: PageServer) -> None:
    declare_items(catalog, shop, 3)
    catalog.run()
    declare_items(catalog, shop, 5)
    catalog.run()

    assert len(names(catalog)) == 2
    assert named_packs(catalog.commit().files) == names(catalog)


def test_run_fetches_the_images_of_a_lost_pack_and_no_others(
    catalog: Catalog, shop: PageServer
) -> None:
    declare_items(catalog, shop, 3)
    catalog.run()
    [lost] = names(catalog)
    declare_items(catalog, shop, 5)
    catalog.run()
    pack_path(catalog.store, lost).unlink()
    catalog.store = Store.open(catalog.store.url)
    messages: list[str] = []

    [report] = catalog.run(log=messages.append)

    assert (report.requested, report.fetched) == (3, 3)
    assert any("fetching 3 images again, whose pack was lost" in message for message in messages)
    assert [report.requested for report in catalog.run()] == [0]
    assert named_packs(catalog.commit().files) == names(catalog)


def test_run_after_garbage_collection_fetches_nothing_and_names_the_new_packs(
    catalog: Catalog, shop: PageServer
) -> None:
    for count in range(1, 10):
        declare_items(catalog, shop, count)
        catalog.run()
    before = names(catalog)
    make_older(Path(catalog.store.url), hours=5)
    collect_garbage(catalog.store, RetentionPolicy(retain_last=1, min_age_hours=1))
    assert not names(catalog) & before
    catalog.store = Store.open(catalog.store.url)

    [first] = catalog.run()
    version = catalog.commit().version
    [second] = catalog.run()

    assert (first.requested, second.requested) == (0, 0)
    assert named_packs(catalog.commit().files) == names(catalog)
    assert catalog.commit().version == version

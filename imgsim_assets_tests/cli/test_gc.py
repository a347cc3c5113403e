from __future__ import annotations

from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.shell import Shell


def test_gc_applies_the_retention_policy(shell: Shell) -> None:
    for seeds in (range(3), range(2), range(1)):
        indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in seeds})
    make_older(shell.folder / "data" / "store", hours=30)

    dry = shell("gc", "--retain-last", "1", "--min-age-hours", "24", "--dry-run", "--json")
    result = shell("gc", "--retain-last", "1", "--min-age-hours", "24")

    assert dry.json["blobs"] >= 0
    assert result.code == 0
    assert result.out.startswith("deleted ")
    assert shell("verify").code == 0
    assert shell("gc", "--retain-last", "0").code == 2

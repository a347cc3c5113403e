from __future__ import annotations

from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell, match_web_list, unavailable
from imgsim_assets_tests.support.web import Web


def test_status_reports_what_is_fresh_stale_and_failed(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": unavailable})
    name = match_web_list(shell, web)

    before = shell("status", "--json").json
    indexed(shell.store, name, {"0": tiny(1)})
    after = shell("status", name, "--json").json
    printed = shell("status")

    (catalog,) = before["catalogs"]
    assert (catalog["items"], catalog["images"], catalog["vectors"]) == (3, 1, 1)
    assert catalog["failures"] == {"http_404": 1, "http_503": 1}
    assert catalog["retryable"] == 1
    assert catalog["stages"] == {
        "images": "fresh",
        "embeddings": "fresh",
        "index": "fresh",
        "similarity_graph": "missing",
    }
    assert [match["freshness"] for match in before["matches"]] == ["fresh"]
    assert [match["freshness"] for match in after["matches"]] == ["stale"]
    assert f"{name}: 3 items" in printed.out
    assert shell("status", "shoes").code == 2

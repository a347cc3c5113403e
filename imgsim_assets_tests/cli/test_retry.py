from __future__ import annotations

import pytest

from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import FACTORY, Shell, match_web_list, unavailable
from imgsim_assets_tests.support.web import Web
from imgsim_assets_tests.support.weights import save_weights, untrained


def test_retry_fetches_retryable_failures_at_once(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": unavailable})
    name = match_web_list(shell, web)
    web.pages["/1.jpg"] = jpeg(1)
    gets = dict(web.gets)

    rerun = match_web_list(shell, web)
    assert rerun == name
    assert web.gets["/1.jpg"] == gets["/1.jpg"]  # it is not due for an hour
    result = shell("retry", name, *FACTORY, "--retryable", "--allowed-host", web.address, "--json")

    assert result.json == {"retried": 1, "recovered": 1}
    assert web.gets["/2.jpg"] == gets["/2.jpg"]
    (catalog,) = shell("status", "--json").json["catalogs"]
    assert catalog["vectors"] == 2
    assert catalog["stages"]["index"] == "fresh"
    assert shell("retry", name, "--retryable", "--json").json == {"retried": 0, "recovered": 0}
    assert shell("retry", "shoes", "--retryable").code == 2
    assert shell("retry", name).code == 2
    assert shell("retry", name, "--retryable", "--all").code == 2


def test_retry_all_fetches_every_failure(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": unavailable})
    name = match_web_list(shell, web)
    web.pages["/2.jpg"] = jpeg(2)  # this URL was a 404 before
    gets = dict(web.gets)

    retryable = shell(
        "retry", name, *FACTORY, "--retryable", "--allowed-host", web.address, "--json"
    )
    result = shell("retry", name, *FACTORY, "--all", "--allowed-host", web.address, "--json")

    assert retryable.json == {"retried": 1, "recovered": 0}
    assert result.json == {"retried": 2, "recovered": 1}
    assert web.gets["/0.jpg"] == gets["/0.jpg"]
    (catalog,) = shell("status", "--json").json["catalogs"]
    assert (catalog["vectors"], catalog["stages"]["index"]) == (2, "fresh")
    assert catalog["failures"] == {"http_503": 1}


def test_retry_uses_the_given_path_of_a_moved_weights_file(shell: Shell, web: Web) -> None:
    weights = shell.folder / "first.pth"
    save_weights(untrained("squeezenet1_1"), weights)
    web.pages["/0.jpg"] = jpeg(0)
    shell.write("list.csv", "id,url\n" + "".join(f"{n},{web.url(f'/{n}.jpg')}\n" for n in range(2)))
    encoder = ("--encoder", "squeezenet1_1", "--weights", str(weights), "--device", "cpu")
    first = shell(
        "match", "list.csv", "list.csv", *encoder, "--allowed-host", web.address, "--json"
    )
    name = first.json["left"]["catalog"]
    weights.rename(shell.folder / "moved.pth")
    save_weights(untrained("squeezenet1_1", seed=1), shell.folder / "other.pth")
    web.pages["/1.jpg"] = jpeg(1)
    arguments = ("retry", name, "--all", "--allowed-host", web.address, "--device", "cpu", "--json")
    gets = web.total_gets

    missing = shell(*arguments)
    other = shell(*arguments, "--weights", "other.pth")
    invalid = shell("retry", name, "--all", "--device", "gpu")

    assert (missing.code, other.code, invalid.code) == (1, 1, 2)
    assert f"{weights}, with which the vectors of {name} were made, is not on" in missing.err
    assert "--weights FILE" in missing.err
    assert f"the vectors of {name} were not made by the encoder squeezenet1_1" in other.err
    assert "'gpu' is not one of auto, cpu, cuda" in invalid.err
    assert web.total_gets == gets
    assert shell(*arguments, "--weights", "moved.pth").json == {"retried": 1, "recovered": 1}
    vectors = [table for table in shell.store.table_names() if "/vectors/" in table]
    assert len(vectors) == 1


def test_retry_draws_progress_bars_on_a_terminal(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/0.jpg"] = jpeg(0)
    name = match_web_list(shell, web)
    web.pages.update({"/1.jpg": jpeg(1), "/2.jpg": jpeg(2)})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    result = shell("retry", name, *FACTORY, "--all", "--allowed-host", web.address)

    assert result.out == f"{name}: 2 images retried, 2 recovered\n"
    assert f"{name} images" in result.err
    assert "3/3" in result.err


def test_retry_refuses_a_catalog_that_a_loader_has_filled(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.write("by_hand.py", "def load(row):\n    return None\n")
    monkeypatch.syspath_prepend(shell.folder)
    name = match_web_list(shell, web, "--loader", "by_hand:load")

    result = shell("retry", name, *FACTORY, "--all", "--allowed-host", web.address)

    assert result.code == 1
    assert "came from a loader" in result.err
    assert web.total_gets == 0

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter

import pytest

from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets.index.stage import index_table, open_index
from imgsim_assets.service.catalog_index import IndexCache
from imgsim_assets.storage.pinned import PinnedStore
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit_in_file
from imgsim_assets_tests.support.served import Served

_CLIENTS = 4
_VERSIONS = 6


def test_no_request_is_lost_while_indexes_are_reloaded(served: Store) -> None:
    """Every request is answered by the result of exactly one version."""
    vector = open_index(served, "products")[1].vectors()[0].tolist()
    sizes = {1: 5, **{version: 5 + version for version in range(2, _VERSIONS + 1)}}
    answers: list[tuple[int, int]] = []
    problems: list[object] = []
    is_done = threading.Event()

    def ask(server: Served) -> None:
        body = json.dumps({"vector": vector, "k": 100}).encode()
        headers = {"Content-Type": "application/json"}
        while not is_done.is_set():
            request = urllib.request.Request(f"{server.url}/api/query/products", body, headers)
            try:
                with open_loopback(request, timeout=30) as response:
                    answer = json.load(response)
                answers.append((answer["version"], len(answer["neighbors"])))
            except (OSError, ValueError) as error:
                problems.append(error)

    with Served(served, refresh_s=0.02) as server:
        clients = [threading.Thread(target=ask, args=(server,)) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        try:
            for version in range(2, _VERSIONS + 1):
                before = len(answers)
                indexed(served, "products", {f"item{n}": tiny(n) for n in range(sizes[version])})
                while len(answers) < before + _CLIENTS and not problems:
                    is_done.wait(0.01)
            while not problems and answers[-1][0] < _VERSIONS:
                is_done.wait(0.01)
        finally:
            # Clients that nobody stops would go on through all later tests.
            is_done.set()
            for client in clients:
                client.join(30)

    assert problems == []
    assert Counter(answers).keys() == {(version, sizes[version]) for version, _ in answers}
    assert {version for version, _ in answers} >= {1, _VERSIONS}


def test_index_of_an_old_view_is_still_found_after_a_newer_one(served: Store) -> None:
    cache = IndexCache()
    commit = index_table(served, "products").latest()
    assert commit is not None
    old = PinnedStore(served, {"products/index": commit})
    first = cache.get(old, "products")
    indexed(served, "products", {"other": tiny(9)})

    newer = cache.get(served, "products")

    assert newer.commit.version == 2
    assert cache.get(old, "products") is first
    assert cache.get(served, "products") is newer


def test_damaged_index_is_a_clear_error_and_the_rest_is_served(served: Store) -> None:
    with Served(served, refresh_s=0.02) as server:
        indexed(served, "products", {"other": tiny(9)})
        commit = index_table(served, "products").latest()
        assert commit is not None
        for file in commit.files:
            path = served.files.local_path(f"products/index/{file.path}")
            assert path is not None
            flip_bit_in_file(path)
        while _version(server) < commit.version:
            pass
        body = json.dumps({"id": "other"}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.url}/api/query/products", body, headers)
        with pytest.raises(urllib.error.HTTPError) as raised:
            open_loopback(request, timeout=30)
        detail = json.load(raised.value)["detail"]
        raised.value.close()

    assert raised.value.code == 503
    assert "does not match its committed checksum" in detail


def test_store_that_cannot_be_listed_is_reported_and_tried_again(
    served: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(served, refresh_s=0.02) as server, monkeypatch.context() as broken:

        def fail(*_: object) -> list[str]:
            raise OSError(5, "Input/output error")

        broken.setattr(Store, "table_folders", fail)
        while _status(server, "/healthz") == 200:
            pass
        assert _status(server, "/api/results") == 200
        broken.undo()
        while _status(server, "/healthz") != 200:
            pass


def _version(server: Served) -> int:
    with open_loopback(f"{server.url}/api/results", timeout=30) as response:
        return int(json.load(response)["catalogs"][0]["index"]["version"])


def _status(server: Served, path: str) -> int:
    try:
        with open_loopback(server.url + path, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code

"""A shop under Dagster's daemon and web server, shared by the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Servers]]:
    """A shop that was materialized once, under a daemon and a web server.

    A backfill takes the products in one run, and the suppliers in one run for each shard.
    """
    with Web() as web, pytest.MonkeyPatch.context() as patch:
        shop = Shop.open(tmp_path_factory.mktemp("daemon"), web)
        patch.setenv(COUNTER, str(shop.counter))
        # Two at a time, so that there is time to interrupt.
        download = {"allowed_hosts": [web.address], "retries": 0, "max_per_host": 2}
        shop.declare(
            observe_schedule="* * * * *", download=download, suppliers={"max_shards_per_run": 1}
        )
        shop.prepare_for_servers()
        assert shop.project.materialize()
        servers = Servers(shop.project, shop.environment())
        servers.start()
        try:
            yield shop, servers
        finally:
            shop.hold.release()
            servers.stop()


@pytest.fixture
def servers_without_sensors(servers: tuple[Shop, Servers]) -> tuple[Shop, Servers]:
    """The servers with all sensors stopped, so that only the test starts runs."""
    servers[1].stop_sensors()
    return servers

from __future__ import annotations

from datetime import timedelta

from imgsim_assets.download.ledger.fetch_plan import DueImage
from imgsim_assets.download.ledger.table import (
    SCHEMA,
    data_version,
    empty_ledger,
    ledger_frame,
    utc_now,
)
from imgsim_assets_tests.support.downloads import NOW, URL, failure, success


def test_ledger_frame_has_every_column_of_the_schema() -> None:
    rows = ledger_frame([success(URL), failure("dns_error", DueImage("b", URL, 0))])
    assert dict(rows.schema) == dict(SCHEMA)
    assert rows["detail"].to_list() == [None, "why it failed"]
    assert ledger_frame([]).equals(empty_ledger())


def test_utc_now_survives_a_round_trip_through_the_ledger() -> None:
    now = utc_now()
    assert ledger_frame([{"id": "a", "fetched_at": now}])["fetched_at"].to_list() == [now]


def test_data_version_depends_on_images_only() -> None:
    first, second = success(URL, sha256="1" * 64), {**success(URL, sha256="2" * 64), "id": "b"}
    version = data_version(ledger_frame([first, second]))
    later = ledger_frame([{**second, "fetched_at": NOW + timedelta(1)}, {**first, "etag": "x"}])
    missing = failure("http_404", DueImage("c", URL, 0))
    assert data_version(later) == version
    assert data_version(ledger_frame([first, second, missing])) == version
    assert data_version(ledger_frame([first])) != version
    assert data_version(ledger_frame([first, {**second, "sha256": "3" * 64}])) != version

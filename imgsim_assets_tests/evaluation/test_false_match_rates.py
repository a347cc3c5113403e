from __future__ import annotations

import polars as pl
import pytest

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.evaluation.false_match_rates import false_match_rates
from imgsim_assets.evaluation.operating_points import BEST_DIFFERENT, DIFFERENT_IMAGES
from imgsim_assets.evaluation.operating_points import SCHEMA as EVALUATION
from imgsim_assets.similarity.calibration import BUDGET, calibration_table
from imgsim_assets.similarity.calibration import SCHEMA as CALIBRATION
from imgsim_assets.similarity.evaluation_table import evaluation_table
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store


def _evaluate(store: Store, name: str, rates: dict[float, float], items: int = 100) -> None:
    rows = [(BEST_DIFFERENT, threshold, rate, items) for threshold, rate in rates.items()]
    rows.append((DIFFERENT_IMAGES, 0.5, 1.0, 10))
    table = evaluation_table(store, name)
    frame = pl.DataFrame(rows, schema=EVALUATION, orient="row")
    table.commit(lambda _: PendingCommit([table.write_rows(frame)], properties={FINGERPRINT: "f"}))


def _calibrate(store: Store, name: str, thresholds: dict[int, float]) -> None:
    rows = [(size, value, value, value) for size, value in thresholds.items()]
    table = calibration_table(store, name)
    frame = pl.DataFrame(rows, schema=CALIBRATION, orient="row")
    properties = {FINGERPRINT: "f", BUDGET: 0.01}
    table.commit(lambda _: PendingCommit([table.write_rows(frame)], properties=properties))


def test_rates_are_the_highest_of_both_catalogs(store: Store) -> None:
    _evaluate(store, "products", {0.8: 0.2, 0.9: 0.01})
    _evaluate(store, "suppliers", {0.8: 0.1, 0.9: 0.05})

    found = false_match_rates(store, ["products", "suppliers"], "f", searched=100)

    assert dict(found.rows.iter_rows()) == pytest.approx({0.8: 0.2, 0.9: 0.05})
    assert found.source == "the encoder evaluation of products and suppliers"


def test_rate_grows_with_the_items_that_are_searched(store: Store) -> None:
    _evaluate(store, "products", {0.9: 0.01}, items=100)

    found = false_match_rates(store, ["products"], "f", searched=200)

    assert found.rows["rate"].item() == pytest.approx(1 - 0.99**2)


def test_measured_thresholds_serve_where_no_encoder_was_evaluated(store: Store) -> None:
    _calibrate(store, "products", {128: 0.9, 256: 0.92, 1024: 0.95})

    found = false_match_rates(store, ["products", "suppliers"], "f", searched=256)

    rates = dict(found.rows.iter_rows())
    assert rates[0.92] == pytest.approx(0.01)
    assert rates[0.95] == pytest.approx(1 - 0.99 ** (1 / 4))
    assert rates[0.9] == pytest.approx(1 - 0.99**2)
    assert found.source == "the measured thresholds of products"


def test_measurements_of_another_encoder_do_not_count(store: Store) -> None:
    _evaluate(store, "products", {0.9: 0.01})
    _calibrate(store, "products", {128: 0.9})

    found = false_match_rates(store, ["products"], "another", searched=100)

    assert found.rows.height == 0
    assert found.source == "not measured"

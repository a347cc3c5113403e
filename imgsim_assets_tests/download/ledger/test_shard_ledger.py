from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.ledger.shard_ledger import LedgerSummary
from imgsim_assets.download.ledger.table import data_version, ledger_frame

ROWS = st.lists(st.sampled_from(["ok", "http_404", "timeout"]), max_size=6)


@given(statuses=ROWS, cut=st.integers(0, 6))
def test_summary_of_parts_equals_summary_of_all_rows(statuses: list[str], cut: int) -> None:
    rows = ledger_frame(
        [
            {"id": f"{number}", "status": status, "sha256": f"{number}" * 4}
            | ({"revalidation_error": "http_500"} if status == "ok" and number % 2 else {})
            for number, status in enumerate(statuses)
        ]
    )
    summary = LedgerSummary()
    for part in (rows[:cut], rows[cut:]):
        summary.add(part)

    assert summary.items == len(statuses)
    assert summary.statuses == {status: statuses.count(status) for status in sorted(set(statuses))}
    failed = sum(status == "ok" and number % 2 for number, status in enumerate(statuses))
    assert summary.revalidation_errors == ({"http_500": failed} if failed else {})
    assert summary.data_version == data_version(rows)

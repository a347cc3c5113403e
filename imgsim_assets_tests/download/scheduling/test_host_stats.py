from __future__ import annotations

from imgsim_assets.download.scheduling.host_stats import Tallies


def test_the_worst_hosts_are_those_that_fail_most_and_those_that_take_longest() -> None:
    tallies = Tallies()
    for number in range(30):
        host = f"host {number:02}"
        tallies.requested(host, 0.1 if number != 7 else 3.0)
        tallies.finished(host, None)
    for failure in ("timeout", "timeout", "http_404"):
        tallies.finished("host 20", failure)
    tallies.finished("host 03", "dns_error")
    worst = tallies.worst(2)
    assert [tally.host for tally in worst] == ["host 20", "host 03", "host 07", "host 00"]
    assert (worst[0].items, worst[0].failed) == (4, 3)
    assert worst[0].failures.most_common(1) == [("timeout", 2)]
    assert worst[2].mean_seconds == 3.0


def test_hosts_beyond_all_measure_are_not_counted_one_by_one() -> None:
    tallies = Tallies()
    for number in range(20_000):
        tallies.finished(f"host {number}", "dns_error")
    assert len(tallies.worst(30_000)) == 10_000

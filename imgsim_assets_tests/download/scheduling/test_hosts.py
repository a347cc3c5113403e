from __future__ import annotations

from imgsim_assets.download.scheduling.hosts import Hosts


def test_slowest_and_failing_lists_hosts_with_most_failures_then_the_slowest() -> None:
    hosts = Hosts(threshold=10)
    for number in range(30):
        host = f"host {number:02}"
        hosts.count_request(host, 0.1 if number != 7 else 3.0)
        hosts.count_image(host, None)
    for failure in ("timeout", "timeout", "http_404"):
        hosts.count_image("host 20", failure)
    hosts.count_image("host 03", "dns_error")
    listed = hosts.slowest_and_failing(2)
    assert [stats.host for stats in listed] == ["host 20", "host 03", "host 07", "host 00"]
    assert (listed[0].images, listed[0].failed) == (4, 3)
    assert listed[0].failures.most_common(1) == [("timeout", 2)]
    assert listed[2].mean_seconds == 3.0


def test_number_of_counted_hosts_is_bounded() -> None:
    hosts = Hosts(threshold=10)
    for number in range(20_000):
        hosts.count_image(f"host {number}", "dns_error")
    assert len(hosts.slowest_and_failing(30_000)) == 10_000

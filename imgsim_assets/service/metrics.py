"""What the service measures, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)

if TYPE_CHECKING:
    from imgsim_assets.storage.commit import Commit

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.6, 5, 10, 30)


class Metrics:
    """The counters of one application; with memory and CPU of its process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "imgsim_requests",
            "Requests that were answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "imgsim_request_seconds",
            "Time from the head of a request to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.active = Gauge(
            "imgsim_requests_active", "Requests that are being answered.", registry=self.registry
        )
        self.queries = Counter(
            "imgsim_queries",
            "Searches in an index.",
            ["catalog", "kind"],
            registry=self.registry,
        )
        self.reloads = Counter(
            "imgsim_reloads",
            "Looks at the store that found new versions, or failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.reload_seconds = Histogram(
            "imgsim_reload_seconds",
            "Time to take over new versions, with the indexes.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.versions = Gauge(
            "imgsim_table_version",
            "The version of a table that requests see.",
            ["table"],
            registry=self.registry,
        )

    def show_versions(self, commits: Mapping[str, Commit]) -> None:
        """Set the version of every table."""
        self.versions.clear()
        for name, commit in commits.items():
            self.versions.labels(name).set(commit.version)

"""/metrics in Prometheus's text form, read from the database at each request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from node.web.context import Web, web_of
from node.web.health import is_loopback
from node.web.people import require
from storage.associations import Received, received
from storage.callers import list_callers
from storage.conflict_rows import ConflictCount, all_conflicts
from storage.database import reading
from storage.overview import overview
from storage.queue import counts


def metrics(request: Request) -> Response:
    """Send the numbers to this machine, or to a signed-in person."""
    if not is_loopback(request):
        require(request)
    registry = CollectorRegistry()
    registry.register(_Numbers(web_of(request)))
    return Response(
        generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


class _Numbers(Collector):
    """One reading of the database as gauges."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def describe(self) -> list[Metric]:
        """Declare nothing beforehand, so that registering reads nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read and yield every gauge."""
        with reading(self._web.engine) as db:
            found = overview(db, events=0)
            jobs = counts(db)
            came = received(db)
            conflicts = all_conflicts(db)
            callers = list_callers(db)
        number = GaugeMetricFamily(
            "limner_now", "Studies, jobs and deliveries of the Now page.", labels=["what"]
        )
        oldest = GaugeMetricFamily(
            "limner_now_oldest_seconds", "Age of the oldest of them.", labels=["what"]
        )
        for what, count in found.numbers.items():
            number.add_metric([what], count.number)
            if count.oldest_ms is not None:
                oldest.add_metric([what], max(found.at_ms - count.oldest_ms, 0) / 1000)
        yield number
        yield oldest
        queue = GaugeMetricFamily("limner_jobs", "Jobs by state.", labels=["state"])
        for state, jobs_in in jobs.items():
            queue.add_metric([state], jobs_in.count)
        yield queue
        beat = GaugeMetricFamily(
            "limner_heartbeat_age_seconds",
            "Since when a process that has not ended was last heard.",
            labels=["process", "kind"],
        )
        for worker in found.workers:
            if worker.ended_ms is None:
                age = max(found.at_ms - worker.heartbeat_ms, 0) / 1000
                beat.add_metric([worker.name, worker.kind], age)
        yield beat
        failures = GaugeMetricFamily(
            "limner_peer_failures", "Failed contacts in a row.", labels=["peer"]
        )
        for peer in found.peers:
            failures.add_metric([peer.peer], peer.failures)
        yield failures
        yield from _received(came, conflicts, len(callers))
        free = shutil.disk_usage(self._web.store.folder).free
        yield GaugeMetricFamily(
            "limner_disk_free_bytes", "Free bytes under the stored objects.", value=free
        )
        reserve = self._web.settings.storage.reserve_mb * 1024 * 1024
        yield GaugeMetricFamily(
            "limner_disk_reserve_bytes", "Below so much, instances are refused.", value=reserve
        )


def _received(came: Received, conflicts: ConflictCount, callers: int) -> Iterator[Metric]:
    ended = GaugeMetricFamily(
        "limner_associations", "Associations by how they ended, or `open`.", labels=["outcome"]
    )
    for outcome, number in came.outcomes.items():
        ended.add_metric([outcome], number)
    yield ended
    for name, words, value in (
        ("limner_received_instances", "Instances answered with success.", came.instances),
        ("limner_refused_instances", "Instances answered with a failure.", came.refused),
        ("limner_received_bytes", "Bytes of data sets received.", came.bytes),
    ):
        yield CounterMetricFamily(name, words, value=value)
    doubts = GaugeMetricFamily(
        "limner_conflicts", "Instances that came again with other content.", labels=["state"]
    )
    doubts.add_metric(["open"], conflicts.open)
    doubts.add_metric(["decided"], conflicts.number - conflicts.open)
    yield doubts
    yield GaugeMetricFamily(
        "limner_refused_callers", "Callers on the list of those refused.", value=callers
    )

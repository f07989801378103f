"""Copies a replica's metrics to Ray's, where Prometheus finds those of all replicas on all hosts."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ..monitoring.metrics import Metrics

_INTERVAL_S = 5.0


class Exporter:
    """Copies every sample to a gauge of the same name (with `ray_` before it) and labels; Ray adds the replica's.

    Counters and the buckets of histograms become gauges, too: Prometheus' functions take them by name and value.
    """

    def __init__(self, make_gauge: Any) -> None:
        self._make_gauge = make_gauge
        self._gauges: dict[str, Any] = {}

    def copy(self, metrics: Metrics) -> None:
        """Copy the present values."""
        for family in text_string_to_metric_families(metrics.exposition().decode()):
            for sample in family.samples:
                if sample.name.endswith("_created"):  # the start time of a series
                    continue
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = self._make_gauge(
                        sample.name, description=family.documentation, tag_keys=tuple(sample.labels)
                    )
                self._gauges[sample.name].set(sample.value, tags=dict(sample.labels))


def export_forever(metrics: Metrics) -> None:
    """Copy at regular intervals; runs on a thread."""
    from ray.serve.metrics import Gauge

    exporter = Exporter(Gauge)
    while True:
        exporter.copy(metrics)
        time.sleep(_INTERVAL_S)

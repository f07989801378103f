"""Metrics for Prometheus; docs/serving.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...engine import Engine

_PREFIX = "baichuan_audio_"
_SHORT_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_RTF = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0)


class Metrics:
    """The metrics of one server. Times in seconds."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self._active = Gauge(f"{_PREFIX}active_sessions", "Sessions and requests in progress", registry=self._registry)
        self._sessions = self._counter("sessions", "Sessions and requests that ended", "outcome")
        self._first_audio = self._histogram("ttfa_seconds", "From the end of the user's turn to the first audio")
        self._endpoint = self._histogram(
            "endpoint_delay_seconds", "From the end of speech to the detection of the turn's end"
        )
        self._rtf = self._histogram("rtf", "Real-time factor: time to generate a reply's audio by its duration", _RTF)
        self._underrun = self._histogram("underrun_seconds", "Silence inside a reply because audio came late")
        self._barge_ins = self._counter("barge_in", "Replies that the user interrupted")
        self._barge_in_stop = self._histogram("barge_in_stop_seconds", "From the user's speech to the end of the reply")
        self._audio = self._counter("audio_seconds", "Audio received and sent", "direction")
        self._errors = self._counter("errors", "Errors sent to clients", "code")
        self._requests = self._counter("http_requests", "HTTP requests", "endpoint", "status")

    def session_opened(self) -> None:
        self._active.inc()

    def session_closed(self, outcome: str) -> None:
        """outcome: completed, cancelled, failed, timeout, idle, shutdown ..."""
        self._active.dec()
        self._sessions.labels(outcome).inc()

    def first_audio(self, seconds: float) -> None:
        self._first_audio.observe(seconds)

    def endpoint_delay(self, seconds: float) -> None:
        self._endpoint.observe(seconds)

    def barge_in(self, seconds: float) -> None:
        """An interruption; seconds: until the reply stopped."""
        self._barge_ins.inc()
        self._barge_in_stop.observe(seconds)

    def underrun(self, seconds: float) -> None:
        self._underrun.observe(seconds)

    def rtf(self, factor: float) -> None:
        """Real-time factor of one reply: time to generate it by its duration."""
        self._rtf.observe(factor)

    def error(self, code: str) -> None:
        self._errors.labels(code).inc()

    def audio_seconds(self, direction: str, seconds: float) -> None:
        """direction: in or out."""
        self._audio.labels(direction).inc(seconds)

    def request(self, endpoint: str, status: int) -> None:
        """endpoint: a route such as /v1/models, never what a client sent."""
        self._requests.labels(endpoint, str(status)).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SHORT_S) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=buckets, registry=self._registry)


class _EngineCollector(Collector):
    """The engine's statistics, collected at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, text, value in (
            ("slots_free", "Free slots", stats.slots_free),
            ("queue_depth", "Tasks that wait for the engine", stats.waiting_jobs),
            ("batch_size", "Sequences in the engine's last step", stats.last_batch_size),
            ("active_replies", "Replies in progress", stats.active_replies),
        ):
            yield GaugeMetricFamily(_PREFIX + name, text, value=value)
        for name, text, value in (
            ("engine_steps", "Engine steps", stats.steps),
            ("text_tokens", "Text tokens generated", stats.text_tokens),
            ("audio_frames", "Code frames (80 ms) generated", stats.audio_frames),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value=value)
        runaways = CounterMetricFamily(f"{_PREFIX}runaway_replies", "Replies stopped as runaway", labels=["reason"])
        for reason, count in stats.runaways.items():
            runaways.add_metric([reason], count)
        yield runaways

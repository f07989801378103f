"""Figures for Prometheus; the names and their meaning stand in docs/serving.md."""

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
    """One server's figures. Times in seconds."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineFigures(engine))
        self._active = Gauge(f"{_PREFIX}active_sessions", "Conversations and requests at work", registry=self._registry)
        self._sessions = self._counter("sessions", "Conversations and requests ended", "outcome")
        self._first_audio = self._histogram("ttfa_seconds", "From the end of the user's turn to the first sound")
        self._endpoint = self._histogram("endpoint_delay_seconds", "From the last speech to the decision that it ended")
        self._rtf = self._histogram("rtf", "Time to make a reply's sound by its length", _RTF)
        self._underrun = self._histogram("underrun_seconds", "Silence that a listener heard inside a reply")
        self._barge_ins = self._counter("barge_in", "Replies that the user interrupted")
        self._barge_in_stop = self._histogram("barge_in_stop_seconds", "From the user's voice to the reply's end")
        self._audio = self._counter("audio_seconds", "Audio that came in and went out", "direction")
        self._errors = self._counter("errors", "Errors told to clients", "code")
        self._requests = self._counter("http_requests", "HTTP requests answered", "endpoint", "status")

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
        """An interruption, and how long the reply took to stop."""
        self._barge_ins.inc()
        self._barge_in_stop.observe(seconds)

    def underrun(self, seconds: float) -> None:
        self._underrun.observe(seconds)

    def rtf(self, factor: float) -> None:
        """Real-time factor of one reply: time to make it by its length."""
        self._rtf.observe(factor)

    def error(self, code: str) -> None:
        self._errors.labels(code).inc()

    def audio_seconds(self, direction: str, seconds: float) -> None:
        """direction: in or out."""
        self._audio.labels(direction).inc(seconds)

    def request(self, endpoint: str, status: int) -> None:
        """endpoint: a route such as /v1/models, never what a client typed."""
        self._requests.labels(endpoint, str(status)).inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SHORT_S) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=buckets, registry=self._registry)


class _EngineFigures(Collector):
    """What the engine knows about itself, asked when Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, text, value in (
            ("slots_free", "Conversations that may still begin", stats.slots_free),
            ("queue_depth", "Jobs that wait for the engine", stats.waiting_jobs),
            ("batch_size", "Conversations in the engine's last step", stats.last_batch_size),
            ("active_replies", "Replies being made", stats.active_replies),
        ):
            yield GaugeMetricFamily(_PREFIX + name, text, value=value)
        for name, text, value in (
            ("engine_steps", "Steps of the engine", stats.steps),
            ("text_tokens", "Text tokens written", stats.text_tokens),
            ("audio_frames", "Code frames (80 ms) written", stats.audio_frames),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value=value)
        runaways = CounterMetricFamily(
            f"{_PREFIX}runaway_replies", "Replies stopped because they ran away", labels=["reason"]
        )
        for reason, count in stats.runaways.items():
            runaways.add_metric([reason], count)
        yield runaways

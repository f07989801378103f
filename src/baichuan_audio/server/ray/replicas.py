"""Several engines behind one address, by Ray Serve (docs/scaling.md).

A replica is a whole server: engine, HTTP and WebSocket in one process, so a conversation's cache stays where its
connection is. Ray starts the replicas, spreads new connections over them and adds more under load.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...config import strict
from ...engine import Engine, EngineConfig
from ...errors import BaichuanAudioError, ConfigError, MissingDependencyError
from ..settings import ServerSettings

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

NAME = "baichuan-audio"
HOST_ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "baichuan_audio.server.ray.websocket_close:proxy_middlewares",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 by default, too few for a busy host
    "RAY_worker_niceness": "0",  # 15 by default, too low a priority for live audio
}
"""The environment of Ray on every host; on a cluster, set before `ray start`."""
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Despite its name: at 0, Ray's own ports are those of 127.0.0.1 on every system."""
_OBJECT_STORE_BYTES = 100 * 1024**2  # nothing of ours goes through it
_SPARE_REQUESTS = 32
_DRAIN_MARGIN_S = 30.0
_CHECK_INTERVAL_S = 0.2


@dataclass(frozen=True)
class ReplicaConfig:
    """The number of replicas, and the resources of each.

    fewest, most: Ray keeps between so many, by the conversations that go on. cpus, gpus: what one reserves of its
    host; a part of a GPU lets several share it. fill: share of its slots that should be taken on average; above it
    replicas are added. shrink_after_s: how long fewer must do before one is drained.
    Raises ConfigError for values that make no sense.
    """

    fewest: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    fill: float = 0.7
    shrink_after_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ConfigError(f"replicas must be 1 or more, the fewest first, not {self.fewest}-{self.most}.")
        if self.cpus < 0 or self.gpus < 0 or self.shrink_after_s < 0:
            raise ConfigError("cpus, gpus and shrink_after_s of a replica must not be negative.")
        if not 0 < self.fill <= 1:
            raise ConfigError(f"fill must lie above 0 and up to 1, not {self.fill}.")


@dataclass(frozen=True)
class DeploymentConfig:
    """What a replica needs to build itself on its host.

    model: a checkpoint directory that is there on every host, or a hub id. adapters: names and files of adapters.
    device, dtype: "auto" for cuda and bfloat16 where the replica has a GPU, else cpu and float32.
    """

    model: str
    vocoder: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerSettings = field(default_factory=ServerSettings)
    replicas: ReplicaConfig = field(default_factory=ReplicaConfig)

    def build_engine(self) -> Engine:
        """Load the model and put an engine around it. Raises CheckpointError, ConfigError."""
        import torch

        from ...acceleration import load_for_inference, optimize_for_inference
        from ...adapters import merged_with
        from ...checkpoint import load

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        name = self.dtype
        if name == "auto":
            name = "float32" if device == "cpu" else "bfloat16"
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ConfigError(f"dtype must be auto, float32, bfloat16 or float16, not {name!r}.")
        if not self.adapters:
            return Engine(load_for_inference(self.model, None, dtype, device, self.vocoder), self.engine)
        model = load(self.model, dtype=dtype, device=device, vocoder=self.vocoder)
        merged = {name: optimize_for_inference(merged_with(model, file)) for name, file in self.adapters.items()}
        return Engine(optimize_for_inference(model), self.engine, merged)


class Replica:
    """What Ray keeps on a replica around the application."""

    app: FastAPI  # set by Ray from what `__serve_build_asgi_app__` returns

    def __init__(self, config: DeploymentConfig) -> None:
        self._config = config

    def __serve_build_asgi_app__(self) -> FastAPI:
        from ..app import create_app
        from ..monitoring.logging import collect_logs
        from .replica_metrics import export_forever

        app = create_app(self._config.build_engine(), self._config.server)
        collect_logs(app.state.log)
        app.state.reader.prepare()
        threading.Thread(target=export_forever, args=(app.state.metrics,), daemon=True).start()
        return app

    async def end(self) -> None:
        """Accept nothing new, and let sessions end."""
        self.app.state.work.close()

    async def is_idle(self) -> bool:
        """Whether no request or session is in progress."""
        return bool(self.app.state.work.count == 0)


def application(args: Mapping[str, Any]) -> Any:
    """The application for a Serve config file: `import_path: baichuan_audio.server.ray.replicas:application`.

    args: the fields of DeploymentConfig; `engine`, `server` and `replicas` hold those of their classes.
    Raises ConfigError.
    """
    return make_application(strict(DeploymentConfig, args, "args"))


def make_application(config: DeploymentConfig) -> Any:
    """A Ray Serve application.

    Ray's limit of requests per replica is above ours, so that clients get our 429 instead of waiting in Ray's queue. A
    replica that is removed keeps its sessions for as long as they may last.
    """
    serve = _ray()[1]
    sessions, replicas = config.engine.max_sessions, config.replicas
    size: dict[str, Any] = {"num_replicas": replicas.fewest}
    if replicas.most > replicas.fewest:
        autoscaling = {
            "min_replicas": replicas.fewest,
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.fill * sessions,
            "upscale_delay_s": 2.0,  # sessions last: the load will be the same in a minute
            "downscale_delay_s": replicas.shrink_after_s,
        }
        size = {"num_replicas": "auto", "autoscaling_config": autoscaling}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="replica",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=4 * sessions + _SPARE_REQUESTS,
        graceful_shutdown_timeout_s=config.server.max_session_seconds + _DRAIN_MARGIN_S,
        **size,
    )
    return deployment.bind(config)


def run_replicas(
    config: DeploymentConfig, grace_s: float, on_ready: Callable[[], None], on_stop: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM, then let replies finish; a second signal ends the process at once.

    Joins the cluster that RAY_ADDRESS names, or else starts one on this machine, closed to others.
    Raises BaichuanAudioError when the application does not start.
    """
    alone = not os.environ.get("RAY_ADDRESS")
    _set_environment(alone)
    ray, serve = _ray()
    own_cluster = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **(own_cluster if alone else {}))
    except Exception as error:
        raise BaichuanAudioError(f"Ray did not start: {_last_line(error)}") from error
    signals = _Signals()
    try:
        try:
            serve.start(http_options={"host": config.server.host, "port": config.server.port})
            handle = serve.run(make_application(config), name=NAME)
        except Exception as error:
            raise BaichuanAudioError(f"the replicas did not start: {_last_line(error)}") from error
        on_ready()
        signals.wait(1)
        on_stop()
        _finish(serve, handle, grace_s, signals)
    finally:
        ray.shutdown()  # a cluster of our own ends; another one is left


def _set_environment(alone: bool) -> None:
    """Set what Ray reads when it is imported, here and in its processes; variables that are set already stay."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in HOST_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if alone:
        os.environ.setdefault(_LOOPBACK_ONLY, "0")


def _finish(serve: Any, handle: Any, grace_s: float, signals: _Signals) -> None:
    """Have sessions end, and wait until the replicas are idle, time is up, or a second signal comes.

    The application is deleted afterwards: until then its replicas answer new clients that the server is shutting down.
    """
    end = time.monotonic() + grace_s
    with contextlib.suppress(Exception):  # a replica that does not answer is ended below
        handle.broadcast("end").results(timeout_s=grace_s)
        while time.monotonic() < end and signals.count < 2:
            if all(handle.broadcast("is_idle").results(timeout_s=max(_CHECK_INTERVAL_S, end - time.monotonic()))):
                break
            time.sleep(_CHECK_INTERVAL_S)
    serve.delete(NAME, _blocking=False)
    while NAME in serve.status().applications and time.monotonic() < end and signals.count < 2:
        time.sleep(_CHECK_INTERVAL_S)


class _Signals:
    """Counts SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, count: int) -> None:
        """Wait for so many signals."""
        while self.count < count:
            time.sleep(_CHECK_INTERVAL_S)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError("replicas need Ray Serve: pip install 'baichuan-audio[ray]'.") from error
    return ray, serve

"""Two replicas of the server on this machine, one killed under load; and the parts of it that need no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

import httpx
import websockets
from fake_engine import FakeEngine

from baichuan_audio.cli.app import build_parser
from baichuan_audio.errors import ConfigError
from baichuan_audio.server.monitoring.metrics import Metrics
from baichuan_audio.server.ray import replicas
from baichuan_audio.server.ray.replica_metrics import Exporter
from baichuan_audio.server.ray.replicas import (
    HOST_ENVIRONMENT,
    DeploymentConfig,
    ReplicaConfig,
    application,
    make_application,
)
from baichuan_audio.server.ray.websocket_close import (
    JsonErrorsMiddleware,
    StalledClientsMiddleware,
    WebSocketCloseMiddleware,
    proxy_middlewares,
)

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'baichuan-audio[ray]'"
)
SESSIONS = 3  # of each replica
PATIENCE_S = 300


@needs_ray
def test_application_from_a_config_file():
    """Ray's cap lies above ours, and a replica that goes keeps its conversations."""
    args = {
        "model": "models/nano",
        "engine": {"max_sessions": 6},
        "server": {"max_session_seconds": 900, "api_keys": ["k"]},
        "replicas": {"fewest": 1, "most": 4, "gpus": 0.5},
    }
    deployment = application(args)._bound_deployment
    assert deployment.max_ongoing_requests > 6
    assert deployment.ray_actor_options == {"num_cpus": 1.0, "num_gpus": 0.5}
    config = deployment._deployment_config
    assert config.graceful_shutdown_timeout_s == 930
    assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (1, 4)
    assert config.autoscaling_config.target_ongoing_requests == pytest.approx(0.7 * 6)
    fixed = make_application(DeploymentConfig("m", replicas=ReplicaConfig(2, 2)))._bound_deployment
    assert fixed.num_replicas == 2


@needs_ray
def test_config_file_of_the_docs():
    """Through the function with which Ray builds what a config file names."""
    yaml = pytest.importorskip("yaml")
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build

    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    (named,) = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["applications"]
    assert named["import_path"] == f"{application.__module__}:{application.__name__}"
    (plan,) = build(application, named["args"])._bound_deployment.init_args
    assert plan.replicas == ReplicaConfig(2, 8, gpus=1.0, fill=0.7)
    assert (plan.engine.max_sessions, plan.server.api_keys) == (16, ("CHANGE-ME",))


def test_container_file_and_guide():
    """What cannot be built here is at least true to the package: paths, extras, commands, what Ray should find."""
    root = Path(__file__).parents[2]
    recipe = (root / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    guide = (root / "docs" / "scaling.md").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in recipe.splitlines() if line and not line.startswith("#")]
    parse = build_parser().parse_args
    (command,) = (json.loads(rest) for step, rest in steps if step == "CMD")
    assert parse(command).host == "0.0.0.0" and ["EXPOSE", str(parse(command).port)] in steps
    for line in re.findall(r"docker run .*", guide.replace("\\\n", " ")):
        parse(re.split(r" baichuan-audio(?::cuda)?(?: |$)", line)[1].split() or command)
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    ignored = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert all((root / name).exists() and f"!{name}" in ignored for name in copied)
    extras = re.search(r"ARG EXTRAS=(\S+)", recipe)[1].split(",")
    assert all(f"\n{extra} = [" in (root / "pyproject.toml").read_text(encoding="utf-8") for extra in extras)
    for name, value in HOST_ENVIRONMENT.items():
        assert f"{name}={value}" in recipe and f"export {name}={value}\n" in guide
    module, _, function = HOST_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    assert (module, function) == (WebSocketCloseMiddleware.__module__, proxy_middlewares.__name__)


def test_plans_that_make_no_sense():
    with pytest.raises(ConfigError, match="did you mean 'engine'"):
        application({"model": "m", "engin": {}})
    with pytest.raises(ConfigError, match="fewest first"):
        ReplicaConfig(3, 2)
    with pytest.raises(ConfigError, match="fill"):
        ReplicaConfig(fill=1.5)


async def test_a_lost_server_closes_cleanly():
    """What ends without a close is closed; what was closed or left is not closed twice."""

    async def run(app) -> list[dict]:
        sent: list[dict] = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.disconnect", "code": 1001}

        await WebSocketCloseMiddleware(app)({"type": "websocket"}, receive, send)
        return sent

    async def dies(scope, receive, send):
        await send({"type": "websocket.accept"})

    async def closes(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})

    async def is_left(scope, receive, send):
        await send({"type": "websocket.accept"})
        await receive()

    assert (await run(dies))[-1] == {"type": "websocket.close", "code": 1012, "reason": "replica_lost"}
    assert [message["type"] for message in await run(closes)] == ["websocket.accept", "websocket.close"]
    assert [message["type"] for message in await run(is_left)] == ["websocket.accept"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("status", "expected"), [(404, 503), (503, 503), (500, 500), (408, 408)])
async def test_refusals_of_the_proxy_are_retold(status: int, expected: int, method: str):
    """In the shape of all errors; while there is no application, as something that passes."""
    start, *body = await _through_json_refusals({"method": method, "path": "/health"}, status, b"text/plain; x")
    headers = dict(start["headers"])
    assert start["status"] == expected and headers[b"content-type"] == b"application/json"
    assert (b"retry-after" in headers) == (expected == 503)
    whole = b"".join(message["body"] for message in body)
    if method == "HEAD":
        assert not whole
    else:
        assert set(json.loads(whole)["error"]) == {"message", "type", "param", "code"}


async def test_what_is_no_refusal_of_the_proxy_passes():
    for scope, status, kind in (
        ({"path": "/v1/nothing"}, 404, b"application/json"),
        ({"path": "/metrics"}, 200, b"text/plain"),
        ({"path": "/-/healthz"}, 503, b"text/plain"),
    ):
        start, body = await _through_json_refusals({"method": "GET", **scope}, status, kind)
        assert (start["status"], body["body"]) == (status, b"of Ray")


async def test_a_handshake_without_an_application():
    start, body = await _through_json_refusals({"type": "websocket", "path": "/v1/realtime"}, 404, b"text/plain")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert json.loads(body["body"])["error"]["code"] == "unavailable"


async def _through_json_refusals(scope: dict, status: int, kind: bytes) -> list[dict]:
    sent: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"of Ray"})

    async def send(message):
        sent.append(message)

    await JsonErrorsMiddleware(app)({"type": "http", **scope}, None, send)
    return sent


async def test_a_client_that_takes_nothing_of_a_proxy():
    class Cycle:
        """As uvicorn's: `send` waits for the client."""

        def __init__(self) -> None:
            self.transport, self.aborted = self, False

        def abort(self) -> None:
            self.aborted = True

        async def send(self, message: dict) -> None:
            await asyncio.sleep(60)

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})

    cycle = Cycle()
    with pytest.raises(TimeoutError):
        await StalledClientsMiddleware(app, limit_s=0.05)({"type": "websocket"}, None, cycle.send)
    assert cycle.aborted


def test_the_application_is_deleted_last():
    """Until its conversations have ended, its replicas are there to say that the server ends."""
    done: list[str] = []
    idle = iter([[False, False], [True, False], [True, True]])

    class Handle:
        def broadcast(self, name: str):
            done.append(name)
            return SimpleNamespace(results=lambda timeout_s: next(idle) if name == "is_idle" else [None, None])

    serve = SimpleNamespace(
        delete=lambda name, _blocking: done.append("delete"), status=lambda: SimpleNamespace(applications={})
    )
    replicas._finish(serve, Handle(), 30.0, SimpleNamespace(count=1))
    assert done == ["end", "is_idle", "is_idle", "is_idle", "delete"]


def test_figures_become_gauges():
    made: dict[str, tuple] = {}
    values: dict[tuple, float] = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert name not in made
            made[name], self.name = tag_keys, name

        def set(self, value, tags):
            values[(self.name, *tags.values())] = value

    metrics = Metrics(FakeEngine(max_sessions=5))
    exporter = Exporter(Gauge)
    exporter.copy(metrics)
    metrics.session_opened()
    metrics.error("server_full")
    metrics.first_audio(0.3)
    exporter.copy(metrics)
    assert values["baichuan_audio_active_sessions",] == 1
    assert values["baichuan_audio_slots_free",] == 5
    assert values["baichuan_audio_errors_total", "server_full"] == 1
    assert made["baichuan_audio_ttfa_seconds_bucket"] == ("le",)
    assert values["baichuan_audio_ttfa_seconds_count",] == 1


# --- the whole, as a user starts it ---------------------------------------------------------------------------------


class Cluster:
    """`baichuan-audio serve --ray` in a process of its own."""

    def __init__(self, model: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "baichuan_audio.cli", "serve", str(model), "--ray", "--replicas", "2"]
        options = ["--replica-cpus", "0.1", "--max-sessions", str(SESSIONS), "--port", str(self.port)]
        options += ["--grace", str(PATIENCE_S)]  # it ends as soon as all have been told
        source = str(Path(__file__).parents[2] / "src")
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        impatient = threading.Timer(PATIENCE_S, self.kill)
        impatient.start()
        for line in self.process.stdout:
            lines.append(line)
            if "talk to it at" in line:
                break
        impatient.cancel()
        if not lines or "talk to it at" not in lines[-1]:
            self.kill()
            raise AssertionError("".join(lines))

    def replicas(self) -> list[int]:
        """Process ids of the replicas of this cluster."""
        return sorted(pid for pid in _descendants(self.process.pid) if "ServeReplica" in _command(pid))

    async def connect(self) -> Client:
        return await Client(self.port).open()

    async def admitted(self) -> Client:
        """A conversation that has been let in; while the proxy does not know of a replica the others may be full."""
        end = time.monotonic() + PATIENCE_S
        while (client := await self.connect()).refused:
            assert client.error == "server_full" and time.monotonic() < end
            await asyncio.sleep(0.2)
        return client

    def kill(self) -> None:
        """The command and all that it started."""
        if self.process.poll() is None:
            for pid in [*_descendants(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


class Client:
    """One conversation that asks for one short answer after another."""

    def __init__(self, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}/v1/realtime"
        self.answers = 0
        self.first_event: dict = {}

    async def open(self) -> Client:
        self.socket = await websockets.connect(self.url, open_timeout=PATIENCE_S)
        self.first_event = json.loads(await self.socket.recv())
        return self

    @property
    def refused(self) -> bool:
        return self.first_event["type"] == "error"

    @property
    def error(self) -> str:
        """Why it was refused."""
        return self.first_event["error"]["code"]

    async def talk(self) -> tuple[int, str]:
        """Ask until the connection is closed; returns the close code and the last error's code."""
        error = ""
        await self._ask()
        with contextlib.suppress(websockets.ConnectionClosed):
            async for frame in self.socket:
                event = json.loads(frame)
                if event["type"] == "response.done":
                    self.answers += 1
                    await asyncio.sleep(0.5)
                    with contextlib.suppress(websockets.ConnectionClosed):  # what came before the close is still read
                        await self._ask()
                elif event["type"] == "error":
                    error = event["error"]["code"]
        return self.socket.close_code, error

    async def _ask(self) -> None:
        content = [{"type": "input_text", "text": "hello"}]
        item = {"type": "message", "role": "user", "content": content}
        await self.socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await self.socket.send(json.dumps({"type": "response.create", "response": {"max_output_tokens": 4}}))


@pytest.fixture
def cluster(tiny_dir: Path) -> Iterator[Cluster]:
    try:
        cluster = Cluster(tiny_dir)
    except AssertionError as error:  # Ray gives its own processes half a minute to start: too little on a busy machine
        if not _ray_alone_starts():
            pytest.skip(f"Ray by itself does not start on this machine: {str(error)[-300:]}")
        cluster = Cluster(tiny_dir)
    yield cluster
    cluster.kill()


def _ray_alone_starts() -> bool:
    command = "import ray; ray.init(num_cpus=1, include_dashboard=False); ray.shutdown()"
    try:
        return subprocess.run([sys.executable, "-c", command], capture_output=True, timeout=PATIENCE_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@needs_ray
@pytest.mark.slow
async def test_one_of_two_replicas_is_killed(cluster: Cluster):
    """Its conversations get a clean close, the others go on, new ones find a place, and a replacement comes."""
    clients = [await cluster.admitted() for _ in range(SESSIONS + 1)]  # so each replica has one at least
    talks = [asyncio.create_task(client.talk()) for client in clients]
    await until(lambda: all(client.answers > 0 for client in clients))
    first, second = cluster.replicas()

    before = [client.answers for client in clients]
    os.kill(first, signal.SIGKILL)
    watched = list(zip(clients, talks, before, strict=True))  # one answer may have been on its way: two more are new
    await until(lambda: all(talk.done() or client.answers > answers + 1 for client, talk, answers in watched))
    lost = [talk.result() for talk in talks if talk.done()]
    assert lost == [(1012, "")] * len(lost) and 0 < len(lost) < len(clients)
    newcomer = await cluster.admitted()
    talks.append(asyncio.create_task(newcomer.talk()))
    await until(lambda: newcomer.answers > 0)

    await until(lambda: len(cluster.replicas()) == 2)
    assert second in cluster.replicas()

    # The house is full when both replicas are: the application says so itself.
    crowd = [await cluster.connect() for _ in range(2 * SESSIONS + 4)]
    turned_away = [client for client in crowd if client.refused]
    assert len(turned_away) >= 4
    assert {client.error for client in turned_away} == {"server_full"}
    await turned_away[0].socket.wait_closed()
    assert turned_away[0].socket.close_code == 1013

    # Told to stop, it tells everybody and ends; who asks meanwhile is told so, too.
    cluster.process.send_signal(signal.SIGINT)
    asking = asyncio.create_task(asyncio.to_thread(_answers_while_ending, cluster.port))
    ends = await asyncio.wait_for(asyncio.gather(*(talk for talk in talks if not talk.done())), PATIENCE_S)
    assert ends and set(ends) == {(1012, "session_shutdown")}
    for client in crowd:
        await client.socket.wait_closed()
    await until(lambda: cluster.process.poll() is not None)
    assert cluster.process.returncode == 0
    answers = await asking
    assert {status for status, _ in answers} <= {200, 503} and 503 in {status for status, _ in answers}
    assert {retry for status, retry in answers if status == 503} == {"2"}


def _answers_while_ending(port: int) -> set[tuple[int, str | None]]:
    """Status and Retry-After of /health and /v1/models until nobody answers any more."""
    answers: set[tuple[int, str | None]] = set()
    while True:
        for path in ("/health", "/v1/models"):
            try:
                response = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30)
            except httpx.TransportError:
                return answers
            assert response.headers["content-type"] == "application/json", response.text
            answers.add((response.status_code, response.headers.get("retry-after")))
        time.sleep(0.05)


async def until(happened, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.2)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    pids = [pid]
    for known in pids:
        pids += [child for child, parent in parents.items() if parent == known]
    return pids[1:]

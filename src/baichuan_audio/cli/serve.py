"""serve: an OpenAI-compatible server, with a web page to talk to the model."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingDependencyError
from .common import Progress, add_command, add_quantize, default_model, load_model, load_plain_model, positive

if TYPE_CHECKING:
    from ..model import BaichuanAudio

KEYS_VARIABLE = "BAICHUAN_AUDIO_API_KEYS"
_NEEDED = ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client", "onnxruntime", "silero_vad")


def add_commands(commands: Any) -> None:
    """Add the command `serve` to the parser."""
    serve = add_command(
        commands,
        "serve",
        run_serve,
        "Serve the model: a web page to talk to it, and an OpenAI-compatible API.",
        machine_readable=False,
        seed=False,
        threads="a third of the cores, at most 4, for each worker",
    )
    serve.add_argument("directory", nargs="?", metavar="MODEL", help="checkpoint directory or hub id, as --model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="(default: %(default)s; 0: any free one)")
    serve.add_argument("--name", help="name of the model in /v1/models (default: the directory's name)")
    serve.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="serve these adapters too, to requests whose model is NAME; may be repeated",
    )
    serve.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"require this key; or keys in {KEYS_VARIABLE}, separated by commas",
    )
    serve.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of a web site whose pages may use the server",
    )
    serve.add_argument("--log-content", action="store_true", help="also log the content of the dialogues")
    add_quantize(serve)
    limits = serve.add_argument_group("limits")
    limits.add_argument("--max-sessions", type=positive, default=8, metavar="N", help="sessions at once (default: 8)")
    limits.add_argument(
        "--max-context", type=positive, metavar="N", help="context length of each, in positions (default: at most 4096)"
    )
    limits.add_argument(
        "--max-audio", type=positive, default=600, metavar="S", help="seconds of audio in a file or turn (default: 600)"
    )
    limits.add_argument(
        "--max-minutes", type=positive, default=60, metavar="N", help="minutes a session may last (default: 60)"
    )
    limits.add_argument(
        "--idle", type=positive, default=120, metavar="S", help="seconds a session may be idle (default: 120)"
    )
    limits.add_argument(
        "--max-megabytes", type=positive, default=25, metavar="N", help="size of a request (default: 25)"
    )
    limits.add_argument(
        "--grace",
        type=positive,
        default=30,
        metavar="S",
        help="seconds to finish replies after a stop signal (default: 30)",
    )
    replicas = serve.add_argument_group("replicas", "the limits apply to each replica (docs/scaling.md)")
    replicas.add_argument("--ray", action="store_true", help="run replicas of the server with Ray Serve")
    replicas.add_argument(
        "--replicas", default="1", metavar="N", help="number of replicas, or MIN-MAX to scale by load (default: 1)"
    )
    replicas.add_argument(
        "--replica-cpus", type=float, default=1.0, metavar="N", help="CPU cores per replica (default: 1)"
    )
    replicas.add_argument(
        "--replica-gpus",
        type=float,
        metavar="N",
        help="GPUs per replica, may be a fraction (default: 1 with --device cuda)",
    )


def check_libraries() -> None:
    """Raises MissingDependencyError when a library that the server needs is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"serving needs {', '.join(missing)}: pip install 'baichuan-audio[server]'.")


def run_serve(arguments: argparse.Namespace) -> None:
    check_libraries()
    from ..engine import Engine, EngineConfig
    from ..server.run import open_socket, run

    arguments.model = arguments.directory or arguments.model or default_model()
    settings = make_settings(arguments)
    config = EngineConfig(
        max_sessions=arguments.max_sessions, max_context=arguments.max_context or 0, threads=arguments.threads or 0
    )
    if arguments.ray:
        _run_replicas(arguments, settings, config)
        return
    bound = open_socket(settings.host, settings.port)  # fails before the model is loaded if the port is taken
    model, adapters = load_with_adapters(arguments, settings.model_name)
    warming = Progress("warming up")
    warming.__enter__()

    def ready() -> None:
        warming.__exit__(None, None, None)
        host, port = bound.getsockname()[:2]
        _greet(host, port, settings)

    def stop(count: int) -> None:
        if count:
            _print(f"finishing {count}, for at most {arguments.grace} s; a second signal stops at once")

    run(Engine(model, config, adapters), settings, bound, arguments.grace, ready, stop)


def adapter_files(arguments: argparse.Namespace, base: str) -> dict[str, Path]:
    """The adapters of the options by name. Raises ConfigError for a missing or taken name, or a missing file."""
    files: dict[str, Path] = {}
    for option in arguments.adapter:
        name, equals, path = option.partition("=")
        if not (name.strip() and equals and path):
            raise ConfigError(f"--adapter must be NAME=FILE, not '{option}'.")
        if name in files or name == base:
            raise ConfigError(f"--adapter: the name '{name}' is taken; give each a name of its own.")
        if not Path(path).is_file():
            raise ConfigError(f"--adapter: there is no file {path}.")
        files[name] = Path(path)
    return files


def load_with_adapters(arguments: argparse.Namespace, base: str) -> tuple[BaichuanAudio, dict[str, BaichuanAudio]]:
    """The model of the options, and the same with each of their adapters, all optimized for inference."""
    from ..acceleration import optimize_for_inference
    from ..adapters import merged_with

    files = adapter_files(arguments, base)
    if not files:
        return load_model(arguments), {}
    plain, _ = load_plain_model(arguments)
    with Progress(f"merging {len(files)} adapters"):
        adapters = {name: optimize_for_inference(merged_with(plain, path)) for name, path in files.items()}
        return optimize_for_inference(plain), adapters


def _run_replicas(arguments: argparse.Namespace, settings: Any, config: Any) -> None:
    """Several replicas of the server behind one address."""
    from ..server.ray.replicas import DeploymentConfig, ReplicaConfig, run_replicas

    fewest, _, most = arguments.replicas.partition("-")
    if not (fewest.isdigit() and (most or fewest).isdigit()):
        raise ConfigError(f"--replicas must be a number or MIN-MAX, not '{arguments.replicas}'.")
    gpus = arguments.replica_gpus
    if gpus is None:
        gpus = 1.0 if arguments.device.startswith("cuda") else 0.0
    model = Path(arguments.model)
    deployment = DeploymentConfig(
        model=str(model.absolute()) if model.is_dir() else arguments.model,
        vocoder=str(Path(arguments.vocoder).absolute()) if arguments.vocoder else None,
        adapters={name: str(path.absolute()) for name, path in adapter_files(arguments, settings.model_name).items()},
        device=arguments.device,
        dtype=arguments.dtype,
        engine=config,
        server=settings,
        replicas=ReplicaConfig(int(fewest), int(most or fewest), arguments.replica_cpus, gpus),
    )
    starting = Progress("starting replicas")
    starting.__enter__()

    def ready() -> None:
        starting.__exit__(None, None, None)
        _greet(settings.host, settings.port, settings)

    def stop() -> None:
        _print(f"finishing, for at most {arguments.grace} s; a second signal stops at once")

    run_replicas(deployment, arguments.grace, ready, stop)


def make_settings(arguments: argparse.Namespace) -> Any:
    """The server's settings from the options. Raises ConfigError for invalid ones."""
    from ..server.settings import ServerSettings

    keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    return ServerSettings(
        host=arguments.host,
        port=arguments.port,
        api_keys=(*arguments.api_key, *keys),
        allowed_origins=tuple(arguments.allow_origin),
        max_message_bytes=arguments.max_megabytes * 1024**2,
        max_audio_seconds=arguments.max_audio,
        max_session_seconds=arguments.max_minutes * 60,
        idle_seconds=arguments.idle,
        model_name=arguments.name or Path(arguments.model).name or "baichuan-audio",
        log_content=arguments.log_content,
    )


def _greet(host: str, port: int, settings: Any) -> None:
    """Print the server's address and a curl command to try it."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    _print(f"{settings.model_name}: talk to it at {address}/ ; programs use {address}/v1")
    message = '{"model":"any","messages":[{"role":"user","content":"Hello"}]}'
    _print(f"curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{message}'")
    if not settings.api_keys and not settings.local_only:
        print(
            "baichuan-audio: anyone who can reach this address may use the server; --api-key requires a key.",
            file=sys.stderr,
        )


def _print(line: str) -> None:
    print(line, flush=True)

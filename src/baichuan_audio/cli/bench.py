"""bench: speed and memory of every stage, of concurrent dialogues with a server, and a soak test of a server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BaichuanAudioError
from .common import (
    Progress,
    add_command,
    choose_device,
    default_model,
    in_clone,
    load_plain_model,
    positive,
    print_json,
)
from .serve import check_libraries

if TYPE_CHECKING:
    from ..bench.server.server_process import ServedModel
    from ..model import BaichuanAudio

_SPEECH = "examples/en-day.wav"


def add_commands(commands: Any) -> None:
    """Add the command `bench` to the parser."""
    bench = add_command(commands, "bench", run, "Measure speed and memory of every stage, or of a server.")
    bench.add_argument(
        "what",
        nargs="?",
        default="model",
        choices=("model", "serve", "memory", "soak", "data", "peers", "quantization"),
        help="model: every stage of one dialogue; serve: concurrent dialogues with a server that it starts; memory: "
        "that server's memory, with as many dialogues as --sessions ends with; soak: a "
        "long test of a running server; data: the data pipeline against known truth; peers: one shape in this and "
        "other packages; quantization: what smaller weights change in the replies to --questions",
    )
    bench.add_argument("--random-init", metavar="CONFIG", help="random weights with the sizes in this config.json")
    bench.add_argument(
        "--quantize", nargs="+", default=[], metavar="KIND", help="also measure quantized weights: int8, int4, fp8"
    )
    bench.add_argument(
        "--repeats", type=positive, metavar="N", help="repeats of every timing (default: 7, fewer of long stages)"
    )
    bench.add_argument("--quick", action="store_true", help="few repeats of short work, without audio")
    bench.add_argument("--output", metavar="DIR", help="write bench.json, bench.md and plots into this directory")
    bench.add_argument(
        "--sessions",
        type=positive,
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="N",
        help="serve: numbers of concurrent dialogues (default: 1 2 4 8)",
    )
    bench.add_argument(
        "--turns", type=positive, default=2, metavar="N", help="serve: replies in each dialogue (default: 2)"
    )
    bench.add_argument("--speech", metavar="FILE", help=f"serve: recording of the questions (default: {_SPEECH})")
    bench.add_argument(
        "--url", default="http://127.0.0.1:8000", help="soak: address of the server (default: %(default)s)"
    )
    bench.add_argument("--minutes", type=float, default=12.0, metavar="N", help="soak: duration (default: 12)")
    bench.add_argument(
        "--dialogues", type=positive, default=3, metavar="N", help="soak: dialogues at once (default: 3)"
    )
    bench.add_argument(
        "--questions",
        default="examples",
        metavar="DIR",
        help="soak, quantization: folder of recorded questions (default: examples)",
    )
    bench.add_argument(
        "--longest-reply", type=float, default=15.0, metavar="S", help="soak: a longer reply is a failure (default: 15)"
    )
    bench.add_argument("--clips", metavar="FILE", help="data: manifest of clean clips with speaker and transcript")
    bench.add_argument("--hours", type=float, default=3.0, help="data: of simulated programmes (default: %(default)s)")
    bench.add_argument(
        "--whisper",
        default="base",
        metavar="MODEL",
        help="data, quantization: size or folder of the Whisper that listens (default: %(default)s)",
    )
    bench.add_argument("--gguf", metavar="FILE", help="peers: also run this file in llama.cpp")
    bench.add_argument(
        "--items", type=positive, default=20, metavar="N", help="data: items of each fault (default: %(default)s)"
    )
    bench.add_argument(
        "--draw", type=int, default=0, metavar="N", help="data: other programmes and items, by number (default: 0)"
    )
    bench.add_argument(
        "--metrics",
        metavar="NAMES",
        help="data: only these metrics, of words,cuts,speech,faults,plan,memory,kills,ways",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark -> exit code: 1 where a soak test had failures, else 0."""
    given = {"--quantize": arguments.quantize, "--repeats": arguments.repeats, "--quick": arguments.quick}
    quantized = {"--quantize"}
    takes = {"model": set(given), "quantization": quantized, "memory": quantized, "peers": {"--repeats"}}.get(
        arguments.what, set()
    )
    for option in [option for option, value in given.items() if value and option not in takes]:
        raise BaichuanAudioError(f"`bench {arguments.what}` takes no {option}; leave it out.")
    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BaichuanAudioError(f"{output}: the directory cannot be made ({error.strerror}).") from error
    makers = {
        "model": _stages,
        "serve": _serve,
        "memory": _memory,
        "soak": _soak,
        "data": _data,
        "peers": _peers,
        "quantization": _quantization,
    }
    result, text = makers[arguments.what](arguments)
    if output is not None:
        stem = "bench" if arguments.what == "model" else arguments.what
        (output / f"{stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / f"{stem}.md").write_text(text, encoding="utf-8")
        if arguments.what in ("model", "serve"):
            _plot(arguments.what, result, output / f"{stem}.png")
    print_json(result) if arguments.json else print(text, end="")
    return 1 if result.get("failures") else 0


def _model(arguments: argparse.Namespace) -> tuple[BaichuanAudio, str]:
    if arguments.random_init is None:
        model, name = load_plain_model(arguments)
        return model, _name(name, None)
    with Progress("initialising random weights"):
        from ..bench.models import random_model

        device, dtype = choose_device(arguments)
        model = random_model(arguments.random_init, dtype, device)
    return model, _name(None, arguments.random_init)


def _name(model: str | None, random_init: str | None) -> str:
    """The model's name in the tables."""
    if random_init is None:
        return Path(model or "").name
    return f"{Path(random_init).parent.name}/{Path(random_init).stem}, random weights"


def _stages(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from dataclasses import replace

    from ..bench.report import markdown
    from ..bench.run import QUICK, Plan, measure

    model, name = _model(arguments)
    plan = QUICK if arguments.quick else Plan()
    if arguments.quick:
        plan = replace(plan, audio=False)
    if arguments.repeats:
        plan = replace(plan, repeats=arguments.repeats, stage_seconds=float("inf"))
    with Progress("measuring") as progress:
        result = measure(model, name, plan, arguments.quantize, progress.update)
        if arguments.random_init is None and not arguments.quick:
            import torch

            from ..bench.timing import startup

            progress.update("start-up")
            directory, facts = arguments.model or default_model(), result["model"]
            result["startup"] = startup(directory, facts["type"], facts["device"], torch.get_num_threads())
    return result, markdown(result)


def _serve(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.server.serve import markdown, sweep

    speech, served = _served(arguments)
    name = _name(served.model, arguments.random_init)
    with Progress("measuring") as progress:
        result = sweep(served, name, speech, arguments.sessions, arguments.turns, progress.update)
    return result, markdown(result)


def _memory(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """With random weights the server loads a checkpoint of them, as it would any other."""
    import tempfile
    from dataclasses import replace

    from ..bench.server.memory import markdown, measure_memory

    speech, served = _served(arguments)
    name = _name(served.model, arguments.random_init)
    with tempfile.TemporaryDirectory() as folder, Progress("measuring") as progress:
        if arguments.random_init is not None:
            import torch

            from ..bench.models import random_model
            from ..checkpoint import save

            save(random_model(arguments.random_init, torch.bfloat16, torch.device("cpu")), folder)
            served = replace(served, model=folder, random_init=None)
        served = replace(served, sessions=arguments.sessions[-1])
        result = measure_memory(served, name, arguments.quantize, speech, progress.update)
    return result, markdown(result)


def _served(arguments: argparse.Namespace) -> tuple[bytes, ServedModel]:
    """The recording of the questions, and the model to serve. Raises BaichuanAudioError without a recording."""
    from ..bench.server.serve import read_speech
    from ..bench.server.server_process import ServedModel

    check_libraries()
    file = Path(arguments.speech) if arguments.speech else in_clone(_SPEECH)
    if file is None:
        raise BaichuanAudioError(f"there is no {_SPEECH} here; give a recording with --speech.")
    speech = read_speech(file)
    device, dtype = choose_device(arguments)
    served = ServedModel(
        model=None if arguments.random_init else arguments.model or default_model(),
        random_init=arguments.random_init,
        vocoder=arguments.vocoder,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=arguments.threads or 0,
        sessions=1,
    )
    return speech, served


def _soak(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import asyncio

    from ..bench.server.soak import report, soak, summary

    check_libraries()
    with Progress("holding dialogues"):
        result = asyncio.run(
            soak(
                arguments.url.rstrip("/"),
                Path(arguments.questions),
                arguments.minutes,
                arguments.dialogues,
                arguments.longest_reply,
            )
        )
    if not result.replies:
        result.failures.append("there was no reply at all")
    return summary(result), report(result)


def _data(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.data.run import PARTS, measure_data

    if arguments.clips is None or arguments.output is None:
        raise BaichuanAudioError(
            "bench data needs --clips, a manifest of clean clips, and --output, a folder to work in."
        )
    parts = tuple(arguments.metrics.split(",")) if arguments.metrics else PARTS
    with Progress("measuring") as line:
        return measure_data(
            arguments.clips,
            Path(arguments.output),
            arguments.whisper,
            arguments.hours,
            arguments.items,
            parts,
            line.update,
            arguments.draw,
        )


def _peers(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.comparisons.peers import markdown, measure_peers

    choose_device(arguments)
    config = arguments.random_init or in_clone("recipes/bench/smollm2.json")
    if config is None:
        raise BaichuanAudioError("there is no recipes/bench/smollm2.json here; give a config.json with --random-init.")
    with Progress("measuring") as progress:
        result = measure_peers(Path(config), arguments.gguf, arguments.repeats or 15, progress.update)
    return result, markdown(result)


def _quantization(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.comparisons.fidelity import markdown, measure_fidelity

    model, name = _model(arguments)
    kinds = arguments.quantize or ["int8", "int4"]
    with Progress("measuring") as progress:
        folder = Path(arguments.questions)
        result = measure_fidelity(model, name, kinds, folder, arguments.whisper, progress.update)
    return result, markdown(result)


def _plot(what: str, result: dict[str, Any], file: Path) -> None:
    from ..bench.report import plot_paths, plot_sweep

    if what == "serve":
        plot_sweep(result["sweep"], result["model"]["name"], file)
    else:
        plot_paths(result, file)

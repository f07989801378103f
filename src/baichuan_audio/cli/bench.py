"""bench: how fast a model is here, on every path, beside the obvious one and the machine's floor."""

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
    from ..pipeline import BaichuanAudio

_SPEECH = "examples/en-day.wav"


def add_commands(commands: Any) -> None:
    """Put this file's command into the parser."""
    bench = add_command(commands, "bench", run, "Measure speed and memory of every stage, and of many conversations.")
    bench.add_argument(
        "what",
        nargs="?",
        default="model",
        choices=("model", "serve", "data"),
        help="model: one conversation, stage by stage; serve: more and more at once, with the real server; data: the "
        "data pipeline against known truth",
    )
    bench.add_argument("--random-init", metavar="CONFIG", help="random weights with the sizes of this config.json")
    bench.add_argument(
        "--quantize", nargs="+", default=[], metavar="KIND", help="measure quantised weights too: int8, int4, fp8"
    )
    bench.add_argument(
        "--repeats", type=positive, metavar="N", help="of every timing (default: 7, fewer where they take long)"
    )
    bench.add_argument("--quick", action="store_true", help="few repeats of short work, without sound")
    bench.add_argument("--output", metavar="DIR", help="write bench.json, bench.md and plots into this directory")
    bench.add_argument(
        "--sessions",
        type=positive,
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="N",
        help="serve: how many conversations at once (default: 1 2 4 8)",
    )
    bench.add_argument("--turns", type=positive, default=2, metavar="N", help="serve: replies in each (default: 2)")
    bench.add_argument("--speech", metavar="FILE", help=f"serve: what is said there (default: {_SPEECH})")
    bench.add_argument("--clips", metavar="FILE", help="data: manifest of clean clips with speaker and transcript")
    bench.add_argument("--hours", type=float, default=3.0, help="data: of simulated programmes (default: %(default)s)")
    bench.add_argument("--whisper", default="base", metavar="MODEL", help="data: size or folder (default: %(default)s)")
    bench.add_argument(
        "--items", type=positive, default=20, metavar="N", help="data: items of each fault (default: %(default)s)"
    )
    bench.add_argument("--parts", metavar="NAMES", help="data: only these, e.g. words,speech,faults")


def run(arguments: argparse.Namespace) -> None:
    if arguments.what == "serve" and (arguments.quantize or arguments.repeats or arguments.quick):
        raise BaichuanAudioError("--quantize, --repeats and --quick are for `bench`, not for `bench serve`.")
    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BaichuanAudioError(f"{output}: the directory cannot be made ({error.strerror}).") from error
    makers = {"serve": _serve, "data": _data, "model": _stages}
    result, text = makers[arguments.what](arguments)
    if output is not None:
        stem = "bench" if arguments.what == "model" else arguments.what
        (output / f"{stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / f"{stem}.md").write_text(text, encoding="utf-8")
        if arguments.what != "data":
            _plot(arguments.what, result, output / f"{stem}.png")
    print_json(result) if arguments.json else print(text, end="")


def _model(arguments: argparse.Namespace) -> tuple[BaichuanAudio, str]:
    if arguments.random_init is None:
        model, name = load_plain_model(arguments)
        return model, _name(name, None)
    with Progress("drawing random weights"):
        from ..bench.models import random_model

        device, dtype = choose_device(arguments)
        model = random_model(arguments.random_init, dtype, device)
    return model, _name(None, arguments.random_init)


def _name(model: str | None, random_init: str | None) -> str:
    """What the tables call it."""
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
        plan = replace(plan, sound=False)
    if arguments.repeats:
        plan = replace(plan, repeats=arguments.repeats, stage_seconds=float("inf"))
    with Progress("measuring") as progress:
        result = measure(model, name, plan, arguments.quantize, progress.update)
        if arguments.random_init is None and not arguments.quick:
            import torch

            from ..bench.startup import startup

            progress.update("start-up")
            directory, facts = arguments.model or default_model(), result["model"]
            result["startup"] = startup(directory, facts["type"], facts["device"], torch.get_num_threads())
    return result, markdown(result)


def _serve(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.serve import markdown, read_speech, sweep
    from ..bench.server_process import ServedModel

    check_libraries()
    file = Path(arguments.speech) if arguments.speech else in_clone(_SPEECH)
    if file is None:
        raise BaichuanAudioError(f"there is no {_SPEECH} here; give a recording with --speech.")
    speech = read_speech(file)
    device, dtype = choose_device(arguments)
    model = None if arguments.random_init else arguments.model or default_model()
    served = ServedModel(
        model=model,
        random_init=arguments.random_init,
        vocoder=arguments.vocoder,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=arguments.threads or 0,
        sessions=1,
    )
    name = _name(model, arguments.random_init)
    with Progress("measuring") as progress:
        result = sweep(served, name, speech, arguments.sessions, arguments.turns, progress.update)
    return result, markdown(result)


def _data(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..bench.data.run import PARTS, measure_data

    if arguments.clips is None or arguments.output is None:
        raise BaichuanAudioError(
            "bench data needs --clips, a manifest of clean clips, and --output, a folder to work in."
        )
    parts = tuple(arguments.parts.split(",")) if arguments.parts else PARTS
    with Progress("measuring") as line:
        return measure_data(
            arguments.clips,
            Path(arguments.output),
            arguments.whisper,
            arguments.hours,
            arguments.items,
            parts,
            line.update,
        )


def _plot(what: str, result: dict[str, Any], file: Path) -> None:
    from ..bench.plots import plot_paths, plot_sweep

    if what == "serve":
        plot_sweep(result["sweep"], result["model"]["name"], file)
    else:
        plot_paths(result, file)

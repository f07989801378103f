"""demo: replies to the questions in examples/ and reconstructs a sentence. `make demo` runs it."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..text.lines import read_text
from .chat import timed_reply
from .codes import reconstruct
from .common import Progress, add_command, in_clone, load_model, show

if TYPE_CHECKING:
    from ..model import BaichuanAudio

_LIST = "examples.json"


def add_commands(commands: Any) -> None:
    """Add the command `demo` to the parser."""
    demo = add_command(commands, "demo", run, "Reply to the questions in examples/ and reconstruct a sentence.")
    demo.add_argument(
        "--examples", metavar="DIR", help="folder with the audio and its examples.json (default: examples)"
    )
    demo.add_argument("--output", "-o", metavar="DIR", help="(default: the folder `out` in examples)")


def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.examples) if arguments.examples else _examples()
    items = read_examples(folder)
    output = Path(arguments.output) if arguments.output else folder / "out"
    output.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments)
    report = []
    for item in items:
        task = {"chat": _chat, "transcribe": _transcribe, "reconstruct": _reconstruct, "speak": _speak}[item["task"]]
        report.append({"task": item["task"], **task(model, folder, item, output, arguments)})
    (output / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    show(arguments, report, f"\nThe replies, transcripts and plot are in {output}.")


def _examples() -> Path:
    path = in_clone(f"examples/{_LIST}")
    if path is None:
        raise DataError(
            "there is no folder 'examples' here; run this in a clone of the repository, or give --examples DIR."
        )
    return path.parent


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """The entries of the folder's examples.json; each has a `task`, and `turns`, `audio` or `text`.

    Raises DataError when the file is missing or an entry is invalid.
    """
    path = folder / _LIST
    try:
        items = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: the list of examples cannot be read ({error}).") from error
    needed = {"chat": "turns", "transcribe": "audio", "reconstruct": "audio", "speak": "text"}
    for item in items if isinstance(items, list) else [None]:
        if not isinstance(item, dict) or needed.get(item.get("task", "")) not in item:
            raise DataError(f"{path}: an example needs a task ({', '.join(needed)}) and its input; got {item!r}.")
    return list(items)


def _print(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.json:
        print(text, flush=True)


def _chat(
    model: BaichuanAudio, folder: Path, item: dict[str, Any], output: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A dialogue of one or more turns: transcript, reply and times of each."""
    from ..audio.waveform import save_waveform

    voice = item.get("voice")
    conversation = model.conversation(voice=voice if voice in model.voices else None, seed=arguments.seed or 0)
    turns: list[dict[str, Any]] = []
    for turn in item["turns"]:
        source = folder / turn
        spoken = source.suffix == ".wav"
        transcript = model.transcribe(source) if spoken else turn
        _print(arguments, f"\n> {turn}" + (f"\n  transcript: {transcript}" if spoken else ""))
        reply = timed_reply(conversation, {"audio": source} if spoken else turn, lambda text: None, model.sample_rate)
        result: dict[str, Any] = {"turn": turn, "transcript": transcript, "reply": reply.text, "output": None}
        _print(arguments, f"  reply:      {reply.text}\n  {reply.timing_line()}")
        if reply.waveform is not None:
            file = output / f"{item['name']}-{len(turns) + 1}.wav"
            save_waveform(file, reply.waveform, model.sample_rate)
            result["output"] = str(file)
            _print(arguments, f"  {file}")
        turns.append(result | reply.times())
    return {"name": item["name"], "voice": voice, "turns": turns}


def _transcribe(
    model: BaichuanAudio, folder: Path, item: dict[str, Any], output: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    with Progress(f"transcribing {item['audio']}") as progress:
        text = model.transcribe(folder / item["audio"])
    _print(arguments, f"\n> {item['audio']} (a recording: {item.get('about', 'no description')})")
    _print(arguments, f"  transcript: {text}\n  in {progress.seconds:.2f} s")
    return {"audio": item["audio"], "text": text, "compute_s": round(progress.seconds, 3)}


def _speak(
    model: BaichuanAudio, folder: Path, item: dict[str, Any], output: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    from ..audio.waveform import save_waveform

    voice = item.get("voice")
    with Progress("speaking") as progress:
        waveform = model.speak(item["text"], voice=voice if voice in model.voices else None, seed=arguments.seed or 0)
    file = output / f"{item['name']}.wav"
    save_waveform(file, waveform, model.sample_rate)
    seconds = waveform.shape[0] / model.sample_rate
    _print(
        arguments,
        f"\n> speak as {voice}: {item['text']}\n  {seconds:.2f} s of speech in {progress.seconds:.2f} s\n  {file}",
    )
    return {"text": item["text"], "voice": voice, "output": str(file), "compute_s": round(progress.seconds, 3)}


def _reconstruct(
    model: BaichuanAudio, folder: Path, item: dict[str, Any], output: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    from ..audio.mel import FLOW_MEL
    from ..audio.waveform import load_waveform

    waveform = load_waveform(folder / item["audio"], FLOW_MEL.sample_rate)
    stem = Path(item["audio"]).stem
    plot = str(output / f"{stem}-mels.png") if importlib.util.find_spec("matplotlib") else None
    metrics = reconstruct(model, waveform, FLOW_MEL.sample_rate, str(output / f"{stem}-reconstructed.wav"), plot)
    _print(arguments, f"\n> {item['audio']} to codes and back ({item.get('about', 'no description')})")
    _print(
        arguments,
        f"  {metrics['seconds']:.2f} s at {metrics['bits_per_second']:.0f} bits/s, mel error {metrics['mel_mae']:.3f}, "
        f"encoded in {metrics['encode_s']:.2f} s, decoded in {metrics['decode_s']:.2f} s\n  {metrics['output']}"
        + (f"\n  {plot}" if plot else ""),
    )
    return metrics

"""`bench peers`: a text token of one shape in this package and in others, in turns, beside the memory floor."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...acceleration import optimize_for_inference, weight_bytes
from ...acceleration.cpu.model import CompiledLinear
from ...errors import BaichuanAudioError
from ...language_model.backbone import BackboneConfig
from ...model import BaichuanAudio
from ...safetensors_io import read_json
from ..machine import describe
from ..models import random_model
from ..stages import RepeatedSession
from .packages import (
    CTranslate2Peer,
    LlamaCppPeer,
    Peer,
    Seconds,
    Shape,
    TransformersPeer,
    stopwatch,
    write_gguf,
)

_HISTORY, _TOKENS = 200, 8
_FLOOR_BYTES = 1 << 27
_OURS = (None, "int8", "int4")


class OwnPeer:
    """This package: a text token, or a code frame, of a Session."""

    def __init__(self, model: BaichuanAudio, kind: str | None, text: bool) -> None:
        self.name = f"baichuan-audio, {kind or 'bfloat16'}{'' if text else ', code frame'}"
        language_model, head = model.language_model, model.audio_head
        last = cast(CompiledLinear, language_model.lm_head).packed
        heads: list[nn.Module] = [last] if text else [head.transformer_layers, head.heads]
        parts = [cast(nn.Module, language_model.steps), *heads]
        self.weight_bytes = float(sum(weight_bytes(part) for part in parts))
        self._session, self._text = RepeatedSession(model, _HISTORY), text

    def decode(self, count: int) -> Seconds:
        """See Peer."""
        session = self._session
        session.restore() if self._text else session.restore_to_segment()
        with torch.inference_mode(), stopwatch() as seconds:
            session.write(count, session.text if self._text else session.frame)
        return Seconds(seconds[0] / count, seconds[1] / count)


def measure_peers(config: Path, gguf: str | None, rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Time every package that is installed, `rounds` times in turn -> medians and best of wall and CPU time."""
    shape = Shape(BackboneConfig.from_config(read_json(config)), _HISTORY, torch.get_num_threads())
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="baichuan-audio-peers-") as folder:
        peers = list(_peers(config, shape, Path(folder), gguf, skipped, report))
        if not peers:
            raise BaichuanAudioError("there is nothing to measure; a C compiler is missing, and so are other packages.")
        source = torch.ones(_FLOOR_BYTES // 4)
        times: dict[str, list[Seconds]] = {peer.name: [] for peer in peers}
        reads: list[Seconds] = []
        for number in range(rounds + 1):
            report(f"round {number} of {rounds}")
            for peer in peers:
                with stopwatch() as seconds:
                    source.sum()
                read = Seconds(seconds[0] / _FLOOR_BYTES, seconds[1] / _FLOOR_BYTES)
                taken = peer.decode(_TOKENS)
                if number:  # the first round warms up
                    reads.append(read)
                    times[peer.name].append(taken)
    floor = Seconds(min(read.wall for read in reads), min(read.cpu for read in reads))
    rows = {peer.name: _row(times[peer.name], peer.weight_bytes, floor) for peer in peers}
    machine = describe(torch.device("cpu"))
    return {"config": config.name, "machine": machine, "floor": 1 / floor.wall, "rows": rows, "skipped": skipped}


def _row(times: list[Seconds], read: float, floor: Seconds) -> dict[str, float]:
    wall, cpu = sorted(time.wall for time in times), sorted(time.cpu for time in times)
    return {
        "megabytes": read / 1e6,
        "best": wall[0],
        "median": statistics.median(wall),
        "best_cpu": cpu[0],
        "median_cpu": statistics.median(cpu),
        "floor": read * floor.wall,
    }


def _peers(
    config: Path, shape: Shape, folder: Path, gguf: str | None, skipped: list[str], report: Callable[[str], None]
) -> Iterator[Peer]:
    """The packages that are installed; of the others a line in `skipped`."""
    report("baichuan-audio")
    source = random_model(str(config), torch.bfloat16, torch.device("cpu"))
    for kind in _OURS:
        model = optimize_for_inference(source, kind)
        if not hasattr(model.language_model, "steps"):
            skipped.append("baichuan-audio: there is no C compiler")
            break
        yield OwnPeer(model, kind, text=True)
        yield OwnPeer(model, kind, text=False)
    del source
    for name, make in _others(shape, folder, gguf):
        report(name)
        try:
            peer = make()
            peer.decode(2), peer.decode(1)
        except ImportError as error:
            skipped.append(f"{name}: {error.name} is not installed (pip install 'baichuan-audio[peers]')")
        except Exception as error:  # of a version that this was not written for
            skipped.append(f"{name}: {type(error).__name__}: {error}")
        else:
            yield peer


def _others(shape: Shape, folder: Path, gguf: str | None) -> Iterator[tuple[str, Callable[[], Peer]]]:
    """Name of a package and type of its weights, and what loads it."""
    for dtype in (torch.bfloat16, torch.float32):
        yield f"transformers, {str(dtype).removeprefix('torch.')}", partial(TransformersPeer, shape, dtype)
    for kind in ("float32", "int8"):
        yield f"CTranslate2, {kind}", partial(CTranslate2Peer, shape, kind, folder)
    for kind, bits in (("Q8_0", 8.5), ("Q4_0", 4.5)):
        file, size = folder / f"{kind}.gguf", shape.elements * bits / 8

        def made(kind: str = kind, file: Path = file, size: float = size) -> Peer:
            write_gguf(shape, kind, file)
            return LlamaCppPeer(shape, file, f"llama.cpp, {kind}", size)

        yield f"llama.cpp, {kind}", made
    if gguf is not None:
        given = Path(gguf)
        yield given.name, partial(LlamaCppPeer, shape, given, f"llama.cpp, {given.name}", float(given.stat().st_size))


def markdown(result: dict[str, Any]) -> str:
    """The result as a table, the fastest first."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, {machine['date']}, load average "
        f"{machine.get('load_average', '?')}. Reading moves {result['floor'] / 1e9:.1f} GB/s. "
        f"{result['config']}: ms a token (or frame) after {_HISTORY} positions.",
        "",
        "| package | best | median | best, CPU time | median, CPU time | MB read | floor | best CPU time × floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(result["rows"].items(), key=lambda item: item[1]["best_cpu"]):
        times = (row[key] * 1e3 for key in ("best", "median", "best_cpu", "median_cpu"))
        cells = [name, *(f"{time:.2f}" for time in times), f"{row['megabytes']:.0f}", f"{row['floor'] * 1e3:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['best_cpu'] / row['floor']:.2f} |")
    lines += ["", *(f"Not measured: {line}." for line in result["skipped"])]
    return "\n".join(lines).rstrip() + "\n"

"""The benchmark of one model -> one dictionary, from which report and plots are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..acceleration import weight_bytes
from ..model import BaichuanAudio
from . import stages
from .machine import ceilings, describe, peak_memory
from .models import never_end, on_each_path, parity
from .stages import Stage
from .timing import Timing, interleave


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    repeats: of every timing. units: tokens and frames per repeat. prompt: positions of a prefill. histories: positions
    before a decode step; those beyond the model's context are skipped. audio_seconds: lengths of audio to encode.
    audio: whether to measure encoding, decoding and whole replies. stage_seconds: after this time a stage gets only
    its minimum of repeats.
    """

    repeats: int = 7
    units: int = 24
    prompt: int = 256
    histories: tuple[int, ...] = (200, 4000)
    audio_seconds: tuple[float, ...] = (5.0, 30.0)
    audio: bool = True
    stage_seconds: float = 20.0


_ROWS = (1, 8, 64)
QUICK = Plan(repeats=3, units=6, prompt=64, histories=(40,))


def measure(
    model: BaichuanAudio, name: str, plan: Plan, quantizations: list[str], report: Callable[[str], None]
) -> dict[str, Any]:
    """Time every stage of `model` (as loaded; it is changed) on every path. report: shows progress."""
    device, dtype = model.language_model.norm.weight.device, model.language_model.norm.weight.dtype
    report("the machine's ceilings")
    limits = ceilings(device, dtype)
    paths = on_each_path(never_end(model), quantizations)
    result: dict[str, Any] = {
        "model": {"name": name, "type": str(dtype).removeprefix("torch."), "device": str(device)},
        "machine": describe(device),
        "ceilings": limits,
        "repeats": plan.repeats,
        "stages": [],
        "memory": memory(model, paths),
        "parity": {kind: parity(paths["optimized"], paths[kind]) for kind in quantizations},
    }
    planned = planned_stages(model, paths, plan)
    for number, make in enumerate(planned, 1):
        stage = make()
        report(f"{stage.title} ({number} of {len(planned)})")
        timings = interleave(stage.cases, plan.repeats, device, plan.stage_seconds)
        result["stages"].append(described(stage, timings, limits))
    if plan.audio and model.flow.config.diffusion_steps:  # without steps the mel comes from the prenet
        report("solver steps")
        result["flow_steps"] = stages.flow_steps(paths["optimized"], 48)
    result["memory"]["peak"] = peak_memory(device)
    return result


def planned_stages(model: BaichuanAudio, paths: Mapping[str, BaichuanAudio], plan: Plan) -> list[Callable[[], Stage]]:
    """The stages to time, as functions that build them one at a time."""
    max_history = min(model.context, 1 << 16) - plan.units - 2
    histories = [history for history in plan.histories if history <= max_history]
    planned: list[Callable[[], Stage]] = [lambda: stages.prefill(paths, plan.prompt)]
    for history in histories:
        planned.append(lambda history=history: stages.text(paths, history, plan.units))  # type: ignore[misc]
        planned.append(lambda history=history: stages.frames(paths, history, plan.units))  # type: ignore[misc]
    if model.language_model.norm.weight.is_cuda:
        planned += [lambda rows=rows: stages.batch(paths["optimized"], rows, 200, plan.units) for rows in _ROWS]  # type: ignore[misc]
    if plan.audio:
        planned += [
            *(lambda seconds=seconds: stages.encode(paths["optimized"], seconds) for seconds in plan.audio_seconds),  # type: ignore[misc]
            lambda: stages.decode(paths["optimized"], 48),
            lambda: stages.first_audio(paths),
            lambda: stages.chat(paths),
        ]
    return planned


def described(stage: Stage, timings: Mapping[str, Timing], limits: Mapping[str, float]) -> dict[str, Any]:
    """Results of one stage: seconds per unit, the floor, and the speed-up over the reference path."""
    rows = {}
    for path, timing in timings.items():
        low, high = timing.spread
        row: dict[str, Any] = {"median": timing.median, "low": low, "high": high}
        row["cpu"] = sorted(timing.cpu)[len(timing.cpu) // 2]
        if path in stage.reads:
            floor = max(
                stage.reads[path] / limits["bytes_per_second"], stage.operations / limits["operations_per_second"]
            )
            row |= {"floor": floor, "times_floor": timing.median / floor}
        if stage.audio_seconds:
            row["rtf"] = timing.median / stage.audio_seconds
        if "reference" in timings and path != "reference":
            row["times_faster"] = timing.times_faster_than(timings["reference"])
            row["cpu_times_faster"] = timing.times_faster_than(timings["reference"], cpu=True)
        rows[path] = row
    return {"name": stage.name, "title": stage.title, "unit": stage.unit, "paths": rows}


def memory(model: BaichuanAudio, paths: Mapping[str, BaichuanAudio]) -> dict[str, Any]:
    """Bytes of the weights of each part, of backbone and audio head on each path, and of one cached position."""
    parts: dict[str, nn.Module] = {
        "encoder and bridge": nn.ModuleList([model.tokenizer.encoder, model.tokenizer.bridge]),
        "audio decoder": model.tokenizer.decoder,
        "flow decoder": model.flow,
        "vocoder": model.vocoder,
    }
    config = model.language_model.config
    position = 2 * config.num_hidden_layers * config.key_value_heads * config.head_width
    decoding = {
        path: {
            "language model": weight_bytes(variant.language_model),
            "audio head": weight_bytes(variant.audio_head),
        }
        for path, variant in paths.items()
    }
    return {
        "parts": {name: weight_bytes(part) for name, part in parts.items()},
        "paths": decoding,
        "position": position * paths["optimized"].language_model.norm.weight.element_size(),
    }

"""Speed and memory of training steps with random weights: a slice of the released size, and LoRA of all of it.

    python scripts/training_speed.py slice recipes/base-7b/config.json --device cuda
    python scripts/training_speed.py lora recipes/base-7b/config.json --device cuda

Prints one JSON object: seconds of a step, positions a second, FLOPs as `baichuan-audio plan` counts them, MFU (their
share of the device's dense bfloat16 peak; nothing is recomputed), and the peak of allocated memory.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from baichuan_audio.adapters import AdapterConfig, add_adapters, train_only_adapters
from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.layers.precision import autocast
from baichuan_audio.layers.shapes import shapes_only
from baichuan_audio.training.planning.estimate import GPUS
from baichuan_audio.training.planning.stages import PlannedModel
from baichuan_audio.training.planning.trace import trace_step

WARM_STEPS = 3


def build(config: dict[str, Any], lora: bool) -> Any:
    """The model on the meta device; what learns is marked."""
    with shapes_only():
        model: Any = PlannedModel(config)
    if lora:
        model = add_adapters(model, AdapterConfig())
        train_only_adapters(model)
    else:
        model.requires_grad_(False)
        for part in (model.language_model, model.audio_head):
            part.requires_grad_(True)
    return model


def on_device(model: Any, device: str, dtype: torch.dtype) -> None:
    """Give backbone and audio head memory and random weights; adapters are float32."""
    for part in (model.language_model, model.audio_head):
        learns = {id(parameter) for parameter in part.parameters() if parameter.requires_grad}
        for module in part.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                kind = torch.float32 if id(parameter) in learns else dtype
                tensor = torch.empty(parameter.shape, dtype=kind, device=device).normal_(std=0.02)
                module.register_parameter(name, nn.Parameter(tensor, requires_grad=parameter.requires_grad))
    model.audio_head.attach_embeddings(model.language_model.audio_embed_layers)


def loss_of(language_model: LanguageModel, head: AudioHead, rows: int, length: int, device: str) -> torch.Tensor:
    """Half the positions predict frames, an eighth text: about a mixture of spoken dialogues and reading aloud."""
    ids = torch.zeros(rows, length, dtype=torch.long, device=device)
    hidden = language_model.hidden(language_model.embed_tokens(ids)).flatten(0, 1)
    frames = torch.zeros(rows * length // 2, head.num_codebooks, dtype=torch.long, device=device)
    logits = language_model.lm_head(hidden[: rows * length // 8])
    levels = head.logits(hidden[: len(frames)], frames)
    losses = [F.cross_entropy(part.float(), frames[: len(part), 0]) for part in (logits, *levels)]
    return torch.stack(losses).sum()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config = json.loads(Path(arguments.config).read_text())
    lora = arguments.kind == "lora"
    if not lora:
        config["num_hidden_layers"] = min(arguments.layers, config["num_hidden_layers"])
    model, device = build(config, lora), arguments.device
    rows, length = arguments.rows, arguments.length
    parts = (model.language_model, model.audio_head)
    bfloat16 = device.startswith("cuda")
    cost = trace_step(parts, lambda: loss_of(*parts, rows, length, "meta"), bfloat16)
    on_device(model, device, torch.bfloat16 if lora and bfloat16 else torch.float32)
    learning = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    times = []
    for _ in range(WARM_STEPS + arguments.steps):
        start = time.perf_counter()
        with autocast(device):
            loss = loss_of(*parts, rows, length, device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if bfloat16:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = sorted(times[WARM_STEPS:])[arguments.steps // 2]
    result = {
        "kind": arguments.kind,
        "device": torch.cuda.get_device_name() if bfloat16 else "cpu",
        "layers": config["num_hidden_layers"],
        "positions": rows * length,
        "learning": sum(parameter.numel() for parameter in learning),
        "seconds_a_step": seconds,
        "positions_per_s": rows * length / seconds,
        "flops_a_step": cost.flops,
        "planned_bytes_beside_states": cost.peak_bytes - cost.gradient_bytes,
    }
    if bfloat16:
        result["mfu"] = cost.flops / seconds / GPUS[arguments.gpu].flops_per_s
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("slice", "lora"))
    parser.add_argument("config", help="a config.json with the sizes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpu", default="h200", choices=GPUS, help="whose peak rate MFU refers to")
    parser.add_argument("--layers", type=int, default=4, help="of the slice (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    print(json.dumps(measure(parser.parse_args(argv)), indent=1))


if __name__ == "__main__":
    main()

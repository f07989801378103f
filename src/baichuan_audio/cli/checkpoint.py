"""info: describes a checkpoint; checkpoint: makes and combines checkpoints between the stages of training."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..config import strict
from .common import DEFAULT_MODEL, Progress, add_command, add_group, default_model, print_json

_PARTS = (
    ("audio encoder", "audio_tokenizer.audio_model."),
    ("RVQ bridge", "audio_tokenizer.audio_bridge_model."),
    ("audio decoder", "audio_tokenizer.audio_decoder."),
    ("flow decoder", "audio_tokenizer.audio_flow_matching_decoder."),
    ("language model", ("model.", "lm_head.")),
    ("audio head", "audio_head."),
)
_DTYPES = ("float32", "bfloat16", "float16")
_NO_PARAMETERS = ("positional_embedding", "codebook")
"""Parts of names of buffers, which are not counted: sinusoids, and codebooks with their statistics."""


def add_commands(commands: Any) -> None:
    """Add the command `info` and the command group `checkpoint` to the parser."""
    info = add_command(commands, "info", run_info, "Print a checkpoint's sizes, voices and licence.", model=False)
    info.add_argument("--model", metavar="DIR", help=f"checkpoint directory (default: {DEFAULT_MODEL})")
    info.add_argument("--vocoder", metavar="FILE", help="hift.pt, if the checkpoint has no vocoder")

    group = add_group(commands, "checkpoint", "Make, combine or compress checkpoints.")

    init = _add(group, "init", run_init, "Write a first checkpoint from a published language model and Whisper.")
    init.add_argument("template", help="a config.json with the sizes, e.g. recipes/base-7b/config.json")
    init.add_argument("output", help="checkpoint directory to write")
    init.add_argument(
        "--llm", metavar="PATH", required=True, help="Llama or Qwen2 model: a folder, a GGUF file or a hub id"
    )
    init.add_argument("--encoder", metavar="DIR", help="Whisper model whose encoder is taken: a folder or a hub id")
    init.add_argument("--vocoder", metavar="FILE", help="vocoder.safetensors or hift.pt")
    init.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of the weights (%(default)s)")

    assemble = _add(group, "assemble", run_assemble, "Combine separately trained parts into one checkpoint.")
    assemble.add_argument("base", help="checkpoint directory with the language model")
    assemble.add_argument("output", help="checkpoint directory to write")
    assemble.add_argument("--template", metavar="FILE", help="config.json with the sizes of the new parts")
    assemble.add_argument("--tokenizer", metavar="PATH", help="output of that stage, an exported file, or a checkpoint")
    assemble.add_argument("--flow", metavar="PATH", help="output of that stage, an exported file, or a checkpoint")
    assemble.add_argument("--vocoder", metavar="FILE", help="vocoder.safetensors or hift.pt")
    assemble.add_argument("--dtype", choices=_DTYPES, help="round the weights to this type")

    merge = _add(group, "merge", run_merge, "Merge adapters into the weights of their base: the released layout.")
    merge.add_argument("base", help="checkpoint directory or hub id that the adapters were trained on")
    merge.add_argument("output", help="checkpoint directory to write")
    merge.add_argument("adapters", nargs="+", metavar="FILE", help="adapters.safetensors of a training run, or several")
    merge.add_argument(
        "--voice", action="append", default=[], metavar="NAME", help="a voice that the adapters added; may be repeated"
    )
    merge.add_argument("--vocoder", metavar="FILE", help="hift.pt, if the base has no vocoder")
    merge.add_argument("--dtype", choices=_DTYPES, help="type of the weights (default: as stored)")

    detach = _add(
        group, "detach", run_detach, "Write what a checkpoint has beyond a published language model, which is fetched."
    )
    detach.add_argument("checkpoint", help="checkpoint directory whose backbone is the published one")
    detach.add_argument("output", help="checkpoint directory to write")
    detach.add_argument(
        "--base", metavar="FILE", required=True, help="JSON file: where the published model is had (docs/api.md)"
    )
    detach.add_argument("--adapters", metavar="FILE", help="adapters.safetensors of a training run on the checkpoint")

    export = _add(
        group, "export", run_export, "Write what a training run has learnt to one file, for the stages after it."
    )
    export.add_argument("training", help="output folder of a tokenizer or flow stage")
    export.add_argument("file", help="safetensors file to write; large matrices have 8 bits, codebooks 16")

    smaller = _add(group, "compress", run_compress, "Store the large matrices in 8 bits: half the size of float16.")
    smaller.add_argument("checkpoint", help="checkpoint directory or hub id")
    smaller.add_argument("output", help="checkpoint directory to write")


def _add(group: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    return add_command(group, name, run, help_text, model=False, machine_readable=False)


def run_info(arguments: argparse.Namespace) -> None:
    facts = describe(arguments.model or default_model(), arguments.vocoder)
    if arguments.json:
        print_json(facts)
        return
    print(f"{facts['model']}: {facts['parameters'] / 1e6:.2f} M parameters, {facts['bytes'] / 1e6:.1f} MB")
    for part, count in facts["parts"].items():
        print(f"  {part:<16} {count / 1e6:10.3f} M")
    sizes = " ".join(map(str, facts["codebook_sizes"]))
    print(f"codes: {len(facts['codebook_sizes'])} codebooks ({sizes}) at {facts['frame_rate_hz']:g} Hz")
    print(f"text: {facts['vocab_size']} ids; longest audio segment {facts['max_audio_seconds']:g} s")
    print(f"voices: {', '.join(facts['voices'])}")
    print(f"licence: {facts['license']}")


def describe(name: str, vocoder: str | None = None) -> dict[str, Any]:
    """Facts from config.json and the headers of the weight files. Raises CheckpointError for a bad checkpoint."""
    import torch

    from ..audio_tokenizer.config import audio_config, codebook_sizes
    from ..checkpoint import IGNORED, checkpoint_directory, load_vocoder
    from ..language_model.prompt import DEFAULT_VOICE
    from ..language_model.text_tokenizer import TextTokenizer
    from ..safetensors_io import ScaledRows, find_tensors, read_json

    directory = checkpoint_directory(name)
    config = read_json(directory / "config.json")
    stored = {key: entry for key, entry in find_tensors(directory).items() if not key.startswith(IGNORED)}
    parts: dict[str, int] = defaultdict(int)
    for key, entry in stored.items():
        if any(part in key for part in _NO_PARAMETERS):
            continue
        part = next((part for part, prefix in _PARTS if key.startswith(prefix)), "other")
        parts[part] += math.prod(entry.shape)
    kinds = [entry.values if isinstance(entry, ScaledRows) else entry for entry in stored.values()]
    mel_vocoder = load_vocoder(directory, config, vocoder)
    parts["vocoder"] = sum(parameter.numel() for parameter in mel_vocoder.parameters())
    audio = audio_config(config)
    return {
        "model": str(name),
        "parameters": sum(parts.values()),
        "bytes": _size(directory),
        "parts": dict(parts),
        "types": sorted({str(entry.dtype).removeprefix("torch.") for entry in kinds}),
        "codebook_sizes": list(codebook_sizes(config)),
        "frame_rate_hz": audio.frame_rate,
        "max_audio_seconds": audio.max_audio_seconds,
        "vocab_size": config.get("vocab_size"),
        "text_ids": TextTokenizer.from_file(directory / "tokenizer.json").vocab_size,
        "sample_rate_hz": mel_vocoder.sample_rate,
        "vocoder": type(mel_vocoder).__name__,
        "voices": list(config.get("voices") or [DEFAULT_VOICE]),
        "license": _license(directory, config),
        "torch": torch.__version__,
    }


def _size(directory: Path) -> int:
    """Bytes of its files."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def _license(directory: Path, config: dict[str, Any]) -> str:
    """The licence in config.json or in the front matter of the model card."""
    if config.get("license"):
        return str(config["license"])
    card = directory / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("license:"):
                return line.split(":", 1)[1].strip()
    return "not stated; see the source of the checkpoint"


def run_init(arguments: argparse.Namespace) -> None:
    import torch

    from ..training.from_pretrained import from_pretrained

    dtype = getattr(torch, arguments.dtype)
    with Progress(f"writing {arguments.output}"):
        model = from_pretrained(
            arguments.template, arguments.llm, arguments.output, arguments.encoder, arguments.vocoder, dtype
        )
    print(f"{arguments.output}: {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters")


def run_assemble(arguments: argparse.Namespace) -> None:
    import torch

    from ..training.common.assemble import assemble

    with Progress(f"assembling {arguments.output}"):
        assemble(
            arguments.base,
            arguments.output,
            template=arguments.template,
            tokenizer=arguments.tokenizer,
            flow=arguments.flow,
            vocoder=arguments.vocoder,
            dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        )
    print(f"{arguments.output}: written")


def run_merge(arguments: argparse.Namespace) -> None:
    import torch

    from ..checkpoint import load, save

    with Progress(f"merging into {arguments.output}"):
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        model = load(arguments.base, dtype=dtype, vocoder=arguments.vocoder, adapters=arguments.adapters)
        if dtype is not None:
            model.config["torch_dtype"] = arguments.dtype
        if arguments.voice:
            model.config["voices"] = list(dict.fromkeys([*model.voices, *arguments.voice]))
        save(model, arguments.output)
    print(f"{arguments.output}: written")


def run_detach(arguments: argparse.Namespace) -> None:
    from ..adapters.files import load_adapters
    from ..assembled import BaseModel, save_assembled
    from ..checkpoint import load
    from ..safetensors_io import read_json

    base = strict(BaseModel, read_json(Path(arguments.base)), arguments.base)
    with Progress(f"writing {arguments.output}"):
        model = load(arguments.checkpoint)
        if arguments.adapters:
            model = load_adapters(model, arguments.adapters)
        save_assembled(model, Path(arguments.output), base)
    print(f"{arguments.output}: written, {_size(Path(arguments.output)) / 1e6:.1f} MB")


def run_export(arguments: argparse.Namespace) -> None:
    from ..training.common.assemble import export_weights

    export_weights(arguments.training, arguments.file)
    print(f"{arguments.file}: written, {Path(arguments.file).stat().st_size / 1e6:.1f} MB")


def run_compress(arguments: argparse.Namespace) -> None:
    from ..compressed import compress

    with Progress(f"compressing into {arguments.output}"):
        compress(arguments.checkpoint, arguments.output)
    print(f"{arguments.output}: written, {_size(Path(arguments.output)) / 1e6:.1f} MB")

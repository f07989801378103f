"""info: describes a checkpoint; checkpoint: makes and combines checkpoints between the stages of training."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..config import strict
from ..errors import ConfigError
from .common import DEFAULT_MODEL, Progress, add_command, add_group, default_model, positive, print_json

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

    group = add_group(commands, "checkpoint", "Make, combine, expand, average or compress checkpoints.")

    init = _add(
        group, "init", run_init, "Write a first checkpoint: random, or from a published language model and Whisper."
    )
    init.add_argument("template", help="a config.json with the sizes, e.g. recipes/base-7b/config.json")
    init.add_argument("output", help="checkpoint directory to write")
    init.add_argument("--dialogues", metavar="FILE", help="dialogues.jsonl of a corpus, to build the text tokenizer")
    init.add_argument("--llm", metavar="PATH", help="Llama or Qwen2 model: a folder, a GGUF file or a hub id")
    init.add_argument(
        "--encoder", metavar="DIR", help="Whisper model whose encoder is taken: a folder or a hub id; with --llm"
    )
    init.add_argument("--vocoder", metavar="FILE", help="vocoder.safetensors or hift.pt; with --llm")
    init.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of the weights, with --llm (%(default)s)")

    assemble = _add(group, "assemble", run_assemble, "Combine separately trained parts into one checkpoint.")
    assemble.add_argument("base", help="checkpoint directory with the language model")
    assemble.add_argument("output", help="checkpoint directory to write")
    assemble.add_argument("--template", metavar="FILE", help="config.json with the sizes of the new parts")
    assemble.add_argument("--tokenizer", metavar="DIR", help="output of that stage, or a checkpoint directory")
    assemble.add_argument("--flow", metavar="DIR", help="output of that stage, or a checkpoint directory")
    assemble.add_argument("--vocoder", metavar="FILE", help="vocoder.safetensors or hift.pt")
    assemble.add_argument("--dtype", choices=_DTYPES, help="round the weights to this type")

    average = _add(group, "average", run_average, "Write the mean of the weights of several checkpoints.")
    average.add_argument("output", help="checkpoint directory to write")
    average.add_argument("checkpoints", nargs="+", metavar="DIR", help="two or more, trained from the same start")

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

    smaller = _add(group, "compress", run_compress, "Store the large matrices in 8 bits: half the size of float16.")
    smaller.add_argument("checkpoint", help="checkpoint directory or hub id")
    smaller.add_argument("output", help="checkpoint directory to write")

    expand = _add(group, "expand", run_expand, "Add layers and units without changing what the model computes.")
    expand.add_argument("checkpoint", help="checkpoint directory to start from")
    expand.add_argument("output", help="checkpoint directory to write")
    expand.add_argument("--layers", type=positive, metavar="N", help="total layers of the language model")
    expand.add_argument("--intermediate-size", type=positive, metavar="N", help="total feed-forward units per layer")
    expand.add_argument("--encoder-layers", type=positive, metavar="N", help="total layers of the audio encoder")
    expand.add_argument("--decoder-layers", type=positive, metavar="N", help="total layers of the audio decoder")

    transfer = _add(
        group, "transfer", run_transfer, "Transfer a language model's audio embeddings to a new audio tokenizer."
    )
    transfer.add_argument("old", help="checkpoint directory with the language model and the codes it was trained on")
    transfer.add_argument("new", help="checkpoint directory with the new audio tokenizer")
    transfer.add_argument("output", help="checkpoint directory to write")
    transfer.add_argument("--corpus", metavar="DIR", required=True, help="corpus folder, with its clips in `audio`")


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

    from ..training.common.assemble import start
    from ..training.from_pretrained import from_pretrained

    if (arguments.llm is None) == (arguments.dialogues is None):
        raise ConfigError("checkpoint init needs --dialogues for a text tokenizer of its own, or a model with --llm.")
    if arguments.llm is None:
        if arguments.encoder or arguments.vocoder:
            raise ConfigError("checkpoint init takes --encoder and --vocoder with --llm only.")
        model = start(arguments.template, arguments.dialogues, arguments.output)
    else:
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


def run_average(arguments: argparse.Namespace) -> None:
    from ..training.common.assemble import average

    with Progress(f"averaging {len(arguments.checkpoints)} checkpoints"):
        average(arguments.checkpoints, arguments.output)
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


def run_compress(arguments: argparse.Namespace) -> None:
    from ..compressed import compress

    with Progress(f"compressing into {arguments.output}"):
        compress(arguments.checkpoint, arguments.output)
    print(f"{arguments.output}: written, {_size(Path(arguments.output)) / 1e6:.1f} MB")


def run_expand(arguments: argparse.Namespace) -> None:
    from ..training.common.expand import Sizes, expand

    names = ("layers", "intermediate_size", "encoder_layers", "decoder_layers")
    sizes = Sizes(**{name: getattr(arguments, name) for name in names})
    if sizes == Sizes():
        raise ConfigError("checkpoint expand needs a size to expand to, e.g. --layers 8.")
    expand(arguments.checkpoint, arguments.output, sizes)
    print(f"{arguments.output}: written")


def run_transfer(arguments: argparse.Namespace) -> None:
    from ..training.common.transfer import transfer_codebooks

    with Progress("encoding clips with both tokenizers"):
        explained = transfer_codebooks(arguments.old, arguments.new, Path(arguments.corpus) / "audio", arguments.output)
    print(f"{arguments.output}: written; {explained:.0%} of the embeddings' variance is kept")

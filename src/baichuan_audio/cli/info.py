"""info: what a checkpoint is, without loading its weights."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from .common import DEFAULT_MODEL, add_command, default_model, print_json

_PARTS = (
    ("audio encoder", "audio_tokenizer.audio_model."),
    ("RVQ bridge", "audio_tokenizer.audio_bridge_model."),
    ("audio decoder", "audio_tokenizer.audio_decoder."),
    ("flow decoder", "audio_tokenizer.audio_flow_matching_decoder."),
    ("language model", ("model.", "lm_head.")),
    ("audio head", "audio_head."),
)
_NO_PARAMETERS = ("positional_embedding", "codebook")
"""In names of what no gradient changes: sines, and codebooks with their statistics."""


def add_commands(commands: Any) -> None:
    """Put this file's command into the parser."""
    parser = add_command(commands, "info", run, "Say what a checkpoint holds: sizes, voices, licence.", model=False)
    parser.add_argument("--model", metavar="DIR", help=f"checkpoint directory (default: {DEFAULT_MODEL})")
    parser.add_argument("--vocoder", metavar="FILE", help="hift.pt, where the checkpoint does not hold it")


def run(arguments: argparse.Namespace) -> None:
    facts = describe(arguments.model or default_model(), arguments.vocoder)
    if arguments.json:
        print_json(facts)
        return
    print(f"{facts['model']}: {facts['parameters'] / 1e6:.2f} M parameters, {facts['bytes'] / 1e6:.1f} MB")
    for part, count in facts["parts"].items():
        print(f"  {part:<16} {count / 1e6:10.3f} M")
    sizes = " ".join(map(str, facts["codebook_sizes"]))
    print(f"codes: {len(facts['codebook_sizes'])} codebooks ({sizes}) at {facts['frame_rate_hz']:g} Hz")
    print(f"text: {facts['vocab_size']} ids; longest piece of audio {facts['max_audio_seconds']:g} s")
    print(f"voices: {', '.join(facts['voices'])}")
    print(f"licence: {facts['license']}")


def describe(name: str, vocoder: str | None = None) -> dict[str, Any]:
    """The facts that config.json and the headers of the weight files give; checks the directory on the way."""
    import torch

    from ..audio_tokenizer.config import audio_config, codebook_sizes
    from ..checkpoint import IGNORED, checkpoint_directory, load_vocoder
    from ..language_model.prompt import DEFAULT_VOICE
    from ..language_model.text_tokenizer import TextTokenizer
    from ..safetensors_io import find_tensors, read_json

    directory = checkpoint_directory(name)
    config = read_json(directory / "config.json")
    stored = {key: entry for key, entry in find_tensors(directory).items() if not key.startswith(IGNORED)}
    parts: dict[str, int] = defaultdict(int)
    for key, entry in stored.items():
        if any(part in key for part in _NO_PARAMETERS):
            continue
        part = next((part for part, prefix in _PARTS if key.startswith(prefix)), "other")
        parts[part] += math.prod(entry.shape)
    mel_vocoder = load_vocoder(directory, config, vocoder)
    parts["vocoder"] = sum(parameter.numel() for parameter in mel_vocoder.parameters())
    audio = audio_config(config)
    return {
        "model": str(name),
        "parameters": sum(parts.values()),
        "bytes": sum(file.stat().st_size for file in directory.iterdir() if file.is_file()),
        "parts": dict(parts),
        "types": sorted({str(entry.dtype).removeprefix("torch.") for entry in stored.values()}),
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


def _license(directory: Path, config: dict[str, Any]) -> str:
    """What config.json or the front matter of the model card says."""
    if config.get("license"):
        return str(config["license"])
    card = directory / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("license:"):
                return line.split(":", 1)[1].strip()
    return "not stated; see where the checkpoint comes from"

"""start, assemble, average, grow, carry: what stands between the stages of training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .common import Progress, add_command, positive


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    start = add_command(
        commands,
        "start",
        run_start,
        "Write a model of random weights to begin with.",
        model=False,
        machine_readable=False,
    )
    start.add_argument("template", help="a config.json with the sizes, e.g. recipes/base-7b/config.json")
    start.add_argument("output", help="checkpoint directory to write")
    start.add_argument("--dialogues", required=True, metavar="FILE", help="the corpus' dialogues.jsonl, for its words")

    assemble = add_command(
        commands, "assemble", run_assemble, "Put trained parts together.", model=False, machine_readable=False
    )
    assemble.add_argument("base", help="checkpoint directory with the language model")
    assemble.add_argument("output", help="checkpoint directory to write")
    assemble.add_argument("--template", metavar="FILE", help="config.json with the sizes of the new parts")
    assemble.add_argument("--tokenizer", metavar="DIR", help="output of that stage, or a checkpoint directory")
    assemble.add_argument("--flow", metavar="DIR", help="output of that stage, or a checkpoint directory")
    assemble.add_argument("--vocoder", metavar="FILE", help="vocoder.safetensors or hift.pt")
    assemble.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="type to round the weights to")

    average = add_command(
        commands, "average", run_average, "Write the mean of checkpoints.", model=False, machine_readable=False
    )
    average.add_argument("output", help="checkpoint directory to write")
    average.add_argument("checkpoints", nargs="+", metavar="DIR", help="two or more, trained from the same start")

    grow = add_command(
        commands, "grow", run_grow, "Add layers and units that change nothing yet.", model=False, machine_readable=False
    )
    grow.add_argument("checkpoint", help="checkpoint directory to start from")
    grow.add_argument("output", help="checkpoint directory to write")
    grow.add_argument("--layers", type=positive, metavar="N", help="layers of the language model in all")
    grow.add_argument("--intermediate-size", type=positive, metavar="N", help="feed-forward units in each of them")
    grow.add_argument("--encoder-layers", type=positive, metavar="N", help="layers of the audio encoder in all")
    grow.add_argument("--decoder-layers", type=positive, metavar="N", help="layers of the audio decoder in all")

    carry = add_command(
        commands,
        "carry",
        run_carry,
        "Let a language model's knowledge of old codes speak of new ones.",
        model=False,
        machine_readable=False,
    )
    carry.add_argument("old", help="checkpoint directory whose language model knows its codes")
    carry.add_argument("new", help="checkpoint directory with the tokenizer that went on")
    carry.add_argument("output", help="checkpoint directory to write")
    carry.add_argument("--corpus", metavar="DIR", required=True, help="folder of the corpus, its clips in `audio`")


def run_start(arguments: argparse.Namespace) -> None:
    from ..training.common.assemble import start

    model = start(arguments.template, arguments.dialogues, arguments.output)
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


def run_grow(arguments: argparse.Namespace) -> None:
    from ..training.common.expand import Sizes, expand

    names = ("layers", "intermediate_size", "encoder_layers", "decoder_layers")
    sizes = Sizes(**{name: getattr(arguments, name) for name in names})
    if sizes == Sizes():
        raise ConfigError("grow needs to know what there shall be more of, e.g. --layers 8.")
    expand(arguments.checkpoint, arguments.output, sizes)
    print(f"{arguments.output}: written")


def run_carry(arguments: argparse.Namespace) -> None:
    from ..training.common.transfer import transfer_codebooks

    with Progress("encoding clips with both tokenizers"):
        explained = transfer_codebooks(arguments.old, arguments.new, Path(arguments.corpus) / "audio", arguments.output)
    print(f"{arguments.output}: written; what was known of a frame is kept to {explained:.0%}")

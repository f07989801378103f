"""data, start, assemble, average, grow, carry: what stands between the stages of training."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from .common import Progress, add_command, positive


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    data = add_command(
        commands,
        "data",
        run_data,
        "Make a training corpus, its alignments, or its codes.",
        model=False,
        machine_readable=False,
    )
    data.add_argument(
        "what",
        choices=("nano", "align", "codes"),
        help="nano: the corpus; align: when each sound is said in it; codes: what a tokenizer makes of it",
    )
    data.add_argument("recipe", nargs="?", help="for nano its recipe, for align --tokenizer that of the tokenizer")
    data.add_argument("--corpus", metavar="DIR", default="work/nano", help="for align, codes (default: %(default)s)")
    data.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="for align: a tokenizer's training output, to align what is not English; without it English is aligned",
    )
    data.add_argument("--model", metavar="DIR", help="for codes: the checkpoint whose audio tokenizer makes them")
    data.add_argument("--output", metavar="DIR", help="(default: work/nano, or codes in the corpus folder)")
    data.add_argument("--speed", type=float, default=1.0, metavar="X", help="for codes: play the clips X times as fast")
    data.add_argument(
        "--only", nargs="+", metavar="NAME", help="for codes: of training clips of these kinds or sources"
    )
    data.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")

    start = add_command(
        commands,
        "start",
        run_start,
        "Write a model of random weights to begin with.",
        model=False,
        machine_readable=False,
    )
    start.add_argument("template", help="a config.json with the sizes, e.g. recipes/nano/config.json")
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
    carry.add_argument("--corpus", metavar="DIR", default="work/nano", help="(default: %(default)s)")


def run_data(arguments: argparse.Namespace) -> None:
    if arguments.what == "nano":
        from ..data.synth import build_corpus, load_corpus_recipe

        recipe = arguments.recipe or "recipes/nano/corpus.yaml"
        build_corpus(load_corpus_recipe(recipe), arguments.output or "work/nano")
        return
    if arguments.what == "align":
        run_align(arguments)
        return
    if not 0.5 <= arguments.speed <= 2:
        raise DataError(f"--speed must lie between 0.5 and 2, not {arguments.speed:g}.")
    if arguments.model is None:
        raise DataError("codes need a tokenizer to make them; name its checkpoint with --model.")
    import torch

    from ..checkpoint import load
    from ..data.dataset import encode_corpus
    from ..data.manifest import ClipStore

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    corpus = Path(arguments.corpus)
    output = arguments.output or corpus / "codes"
    clips = ClipStore(corpus / "audio")
    model = load(arguments.model, dtype=torch.float32)
    chosen = None
    if arguments.only:
        chosen = [clip.id for clip in clips.select(split="train") if {clip.kind, clip.source} & set(arguments.only)]
    with clip_bar("encoding the corpus") as progress:
        count = encode_corpus(model.tokenizer, clips, output, chosen, progress=progress, speed=arguments.speed)
    print(f"{output}: codes of {count} more clips")


@contextmanager
def clip_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over clips, moved by `progress(done, all)`; a line that counts where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        with Progress(label) as line:
            yield lambda done, total: line.update(f"{done} of {total} clips,")
        return
    with tqdm(desc=label, unit="clip") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def run_align(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    audio = Path(arguments.corpus) / "audio"
    with clip_bar("aligning speech with its text") as progress:
        if arguments.tokenizer is None:
            from ..data.phone_alignment import write_alignments

            count = write_alignments(audio, arguments.threads or os.cpu_count() or 1, progress=progress)
        else:
            from ..training.ctc_alignment import add_alignments
            from ..training.recipe import load_recipe
            from ..training.tokenizer import TokenizerRecipe

            recipe = load_recipe(arguments.recipe or "recipes/nano/tokenizer.yaml", TokenizerRecipe)
            count = add_alignments(audio, recipe, arguments.tokenizer, progress)
    print(f"{audio}: {count} more clips aligned")


def run_start(arguments: argparse.Namespace) -> None:
    from ..training.assemble import start

    model = start(arguments.template, arguments.dialogues, arguments.output)
    print(f"{arguments.output}: {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters")


def run_assemble(arguments: argparse.Namespace) -> None:
    import torch

    from ..training.assemble import assemble

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
    from ..training.assemble import average

    with Progress(f"averaging {len(arguments.checkpoints)} checkpoints"):
        average(arguments.checkpoints, arguments.output)
    print(f"{arguments.output}: written")


def run_grow(arguments: argparse.Namespace) -> None:
    from ..training.grow import Sizes, grow

    names = ("layers", "intermediate_size", "encoder_layers", "decoder_layers")
    sizes = Sizes(**{name: getattr(arguments, name) for name in names})
    if sizes == Sizes():
        raise ConfigError("grow needs to know what there shall be more of, e.g. --layers 8.")
    grow(arguments.checkpoint, arguments.output, sizes)
    print(f"{arguments.output}: written")


def run_carry(arguments: argparse.Namespace) -> None:
    from ..training.carry import carry

    with Progress("encoding clips with both tokenizers"):
        explained = carry(arguments.old, arguments.new, Path(arguments.corpus) / "audio", arguments.output)
    print(f"{arguments.output}: written; what was known of a frame is kept to {explained:.0%}")

"""data: alignments and codes of a training corpus, and what a language model says of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from .common import Progress, add_command, positive

if TYPE_CHECKING:
    from ..model import BaichuanAudio
    from ..training.language_model.recipe import LanguageModelRecipe


def add_commands(commands: Any) -> None:
    """Put this file's command into the parser."""
    data = add_command(
        commands,
        "data",
        run_data,
        "Make the alignments or codes of a corpus, or what a language model says of it.",
        model=False,
        machine_readable=False,
    )
    data.add_argument(
        "what",
        choices=("nano", "align", "codes", "said", "takes"),
        help="align: when each sound is said in it; codes: what a tokenizer makes of it; "
        "said: codes as the language model says them; takes: texts that it reads aloud, the clearest of some readings",
    )
    data.add_argument(
        "recipe",
        nargs="?",
        help="for align --tokenizer the tokenizer's recipe, for said and takes one of the language model",
    )
    data.add_argument(
        "overrides",
        nargs="*",
        metavar="name=value",
        help="entries of the recipe to replace, as for train, e.g. codes=work/codes",
    )
    data.add_argument(
        "--corpus",
        metavar="DIR",
        help="folder of the corpus, its clips in `audio`; align and codes need it",
    )
    data.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="a tokenizer's training output: for align, to align what is not English (without it English is aligned); "
        "for takes, to listen",
    )
    data.add_argument("--model", metavar="DIR", help="for codes, said, takes: the checkpoint that makes them")
    data.add_argument("--output", metavar="DIR", help="(default: codes, codes_said or takes in --corpus)")
    data.add_argument("--speed", type=float, default=1.0, metavar="X", help="for codes: play the clips X times as fast")
    data.add_argument(
        "--only", nargs="+", metavar="NAME", help="for codes: of training clips of these kinds or sources"
    )
    data.add_argument(
        "--count", type=positive, metavar="N", help="for said, takes: clips or texts (default: all, 2000)"
    )
    data.add_argument(
        "--tries", type=positive, metavar="N", default=4, help="for takes: readings of each text (default: 4)"
    )
    data.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")


def run_data(arguments: argparse.Namespace) -> None:
    makers = {"nano": run_nano, "align": run_align, "codes": run_codes, "said": run_said, "takes": run_takes}
    makers[arguments.what](arguments)


def run_nano(arguments: argparse.Namespace) -> None:
    """Until the next release: the command has moved to the project that trains nano."""
    raise ConfigError(
        "'data nano' is no command of this package any more; in a clone of the repository run: "
        "python recipes/nano/make_corpus.py [RECIPE] [name=value ...] --output DIR"
    )


def run_codes(arguments: argparse.Namespace) -> None:
    if not 0.5 <= arguments.speed <= 2:
        raise DataError(f"--speed must lie between 0.5 and 2, not {arguments.speed:g}.")
    if arguments.model is None:
        raise DataError("codes need a tokenizer to make them; name its checkpoint with --model.")
    import torch

    from ..checkpoint import load
    from ..data.store.codes_store import encode_corpus
    from ..data.store.manifest import ClipStore

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    corpus = _corpus(arguments)
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
def clip_bar(label: str, unit: str = "clip") -> Iterator[Callable[[int, int], None]]:
    """A progress bar over clips, moved by `progress(done, all)`; a line that counts where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        with Progress(label) as line:
            yield lambda done, total: line.update(f"{done} of {total} {unit}s,")
        return
    with tqdm(desc=label, unit=unit) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def run_said(arguments: argparse.Namespace) -> None:
    from ..training.language_model.sampled_codes import sample_codes, sampling_mixture

    recipe, model = _speaking(arguments)
    output = arguments.output or _corpus(arguments) / "codes_said"
    mixture = sampling_mixture(recipe, model)
    with clip_bar("saying the corpus") as progress:
        count = sample_codes(model, mixture, output, arguments.count, seed=recipe.seed, progress=progress)
    print(f"{output}: codes of {count} clips as the language model says them")


def run_takes(arguments: argparse.Namespace) -> None:
    from ..acceleration import optimize_for_inference
    from ..training.language_model.takes import PhonemeScorer, record_takes, texts_to_read

    if arguments.tokenizer is None:
        raise DataError("takes need somebody to listen; name a tokenizer's training output with --tokenizer.")
    recipe, model = _speaking(arguments)
    output = arguments.output or _corpus(arguments) / "takes"
    scorer = PhonemeScorer(model, arguments.tokenizer)
    texts = texts_to_read(recipe, model.voices, arguments.count or 2000)
    model = optimize_for_inference(model)
    with clip_bar("reading texts aloud", "text") as progress:
        count = record_takes(model, scorer, texts, output, arguments.tries, recipe.seed, progress)
    print(f"{output}: {count} takes")


def _speaking(arguments: argparse.Namespace) -> tuple[LanguageModelRecipe, BaichuanAudio]:
    """The recipe and the checkpoint that `data said` and `data takes` are about."""
    import torch

    from ..checkpoint import load
    from ..training.common.recipe import load_stage_recipe
    from ..training.language_model.recipe import LanguageModelRecipe

    if arguments.model is None:
        raise DataError(f"{arguments.what} needs a model that speaks; name its checkpoint with --model.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return load_stage_recipe(_recipe(arguments), LanguageModelRecipe, arguments.overrides), load(
        arguments.model, dtype=torch.float32
    )


def _corpus(arguments: argparse.Namespace) -> Path:
    if arguments.corpus is None:
        raise ConfigError(f"data {arguments.what} needs a corpus; name its folder with --corpus.")
    return Path(arguments.corpus)


def _recipe(arguments: argparse.Namespace) -> str:
    if arguments.recipe is None:
        raise ConfigError(f"data {arguments.what} needs a recipe; name its YAML file.")
    return str(arguments.recipe)


def run_align(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    audio = _corpus(arguments) / "audio"
    with clip_bar("aligning speech with its text") as progress:
        if arguments.tokenizer is None:
            from ..data.alignment.phone_alignment import write_alignments

            count = write_alignments(audio, arguments.threads or os.cpu_count() or 1, progress=progress)
        else:
            from ..training.common.recipe import load_stage_recipe
            from ..training.tokenizer.ctc_alignment import add_alignments
            from ..training.tokenizer.recipe import TokenizerRecipe

            recipe = load_stage_recipe(_recipe(arguments), TokenizerRecipe, arguments.overrides)
            count = add_alignments(audio, recipe, arguments.tokenizer, progress)
    print(f"{audio}: {count} more clips aligned")

"""train: runs one stage of training; plan: what it will need; data align, encode ...: commands on a clip store."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import read_recipe
from ..errors import ConfigError, DataError
from ..training import STAGE_NAMES
from .common import Progress, add_command, positive, print_json

if TYPE_CHECKING:
    from ..model import BaichuanAudio
    from ..training.language_model.recipe import LanguageModelRecipe
    from ..training.planning.estimate import Estimate


def add_commands(commands: Any) -> None:
    """Add the commands `train` and `plan` to the parser."""
    train = add_command(
        commands, "train", run_train, "Train one stage by its recipe.", model=False, machine_readable=False
    )
    train.add_argument("stage", choices=STAGE_NAMES, help="lm, sft: the language model; its recipe says which stage")
    train.add_argument("recipe", help="a YAML file, e.g. recipes/base-7b/flow.yaml")
    train.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. steps=100 optimizer.learning_rate=1e-4")

    plan = add_command(
        commands, "plan", run_plan, "Print parameters, memory, FLOPs, days and money of a training run.", model=False
    )
    plan.add_argument("recipe", help="a YAML file, e.g. recipes/base-7b/lm_stage1.yaml")
    plan.add_argument("overrides", nargs="*", metavar="name=value", help="as for train, e.g. tokens_per_step=65536")
    plan.add_argument("--stage", choices=STAGE_NAMES, help="the recipe's stage (default: by its entries)")
    plan.add_argument("--config", metavar="FILE", help="config.json with the sizes, if the recipe's is not there yet")
    plan.add_argument("--gpus", type=positive, default=1, metavar="N", help="(default: %(default)s)")
    plan.add_argument("--gpu", default="h200", metavar="NAME", help="a100, h100, h200, b200, l40s, rtx4090")
    plan.add_argument("--price", type=float, metavar="X", help="dollars a GPU hour (default: a range)")
    plan.add_argument(
        "--calibrate", metavar="DIR", help="output of a short run of the recipe on one device, whose speed is then used"
    )


def add_data_commands(group: Any) -> None:
    """Add the commands on clip stores to the command group `data`."""

    align = _add(group, "align", run_align, "Align the speech of a corpus with its text.")
    _add_recipe(align, "tokenizer", optional="; only with --tokenizer")
    _add_corpus(align, required=True)
    align.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="output of `train tokenizer`: aligns what is not English; without it, English is aligned by pocketsphinx",
    )

    encode = _add(group, "encode", run_encode, "Encode the clips of a corpus as codes.")
    _add_corpus(encode, required=True)
    encode.add_argument("--model", metavar="DIR", required=True, help="checkpoint whose audio tokenizer encodes")
    encode.add_argument("--output", metavar="DIR", help="(default: codes in --corpus)")
    encode.add_argument("--speed", type=float, default=1.0, metavar="X", help="speed the clips up X times (0.5 to 2)")
    encode.add_argument("--kinds", nargs="+", metavar="NAME", help="only training clips of these kinds or sources")

    sample = _add(group, "sample-codes", run_sample_codes, "Sample codes of a corpus's clips by teacher forcing.")
    _add_recipe(sample, "lm")
    _add_corpus(sample)
    sample.add_argument("--model", metavar="DIR", required=True, help="checkpoint of the language model to sample from")
    sample.add_argument("--output", metavar="DIR", help="(default: sampled_codes in --corpus)")
    sample.add_argument("--count", type=positive, metavar="N", help="number of clips (default: all)")

    reject = _add(
        group,
        "rejection-sample",
        run_rejection_sample,
        "Let a model read each text several times, and keep the best reading.",
    )
    _add_recipe(reject, "lm")
    _add_corpus(reject)
    reject.add_argument("--model", metavar="DIR", required=True, help="checkpoint that reads the texts")
    reject.add_argument(
        "--phoneme-scorer",
        metavar="DIR",
        required=True,
        help="output of `train tokenizer`, whose phoneme head scores the readings",
    )
    reject.add_argument("--output", metavar="DIR", help="(default: rejection_samples in --corpus)")
    reject.add_argument("--count", type=positive, metavar="N", default=2000, help="number of texts (default: 2000)")
    reject.add_argument(
        "--num-candidates", type=positive, metavar="N", default=4, help="readings of each text (default: 4)"
    )


def _add(group: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    command = add_command(group, name, run, help_text, model=False, machine_readable=False)
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    return command


def _add_recipe(command: argparse.ArgumentParser, stage: str, optional: str = "") -> None:
    help_text = f"recipe of `train {stage}`{optional}"
    command.add_argument("recipe", nargs="?" if optional else None, help=help_text)
    command.add_argument("overrides", nargs="*", metavar="name=value", help="as for train, e.g. codes=work/codes")


def _add_corpus(command: argparse.ArgumentParser, required: bool = False) -> None:
    command.add_argument("--corpus", metavar="DIR", required=required, help="corpus folder, with its clips in `audio`")


def run_train(arguments: argparse.Namespace) -> None:
    from ..checkpoint import checked_device
    from ..training.common.distributed.world import processes
    from ..training.common.recipe import load_stage_recipe
    from ..training.stages import STAGES

    stage = STAGES[arguments.stage]
    recipe = load_stage_recipe(arguments.recipe, stage.recipe, arguments.overrides)
    checked_device(recipe.device)
    with processes(recipe.device, 20 * recipe.stall_limit_s):
        stage.train(recipe)


def run_plan(arguments: argparse.Namespace) -> None:
    from ..training.common.recipe import load_stage_recipe
    from ..training.planning.estimate import estimate, measured_step_seconds
    from ..training.planning.stages import plan_stage
    from ..training.stages import STAGES

    if arguments.price is not None and not arguments.price >= 0:
        raise ConfigError(f"--price must not be negative, it is {arguments.price:g}.")
    stage = arguments.stage or stage_of(arguments.recipe, arguments.overrides)
    recipe = load_stage_recipe(arguments.recipe, STAGES[stage].recipe, arguments.overrides)
    step_seconds = measured_step_seconds(Path(arguments.calibrate)) if arguments.calibrate else None
    plan = plan_stage(recipe, Path(arguments.config) if arguments.config else None)
    bfloat16 = recipe.precision != "float32"
    result = estimate(recipe, plan, arguments.gpus, arguments.gpu, arguments.price, bfloat16, step_seconds)
    if arguments.json:
        facts = {"stage": stage, "gpus": arguments.gpus, "gpu": arguments.gpu, **asdict(result)}
        facts["memory"]["total"] = result.memory.total
        print_json(facts)
    else:
        print("\n".join(table(result, arguments.gpus, arguments.gpu)))


def stage_of(path: str, overrides: list[str]) -> str:
    """The stage whose recipes have these entries. Raises ConfigError where it is not clear."""
    from ..training.common.recipe import RENAMED_KEYS
    from ..training.stages import STAGES

    given = {RENAMED_KEYS.get(name, name).partition(".")[0] for name in read_recipe(path, overrides)}
    classes = {stage.recipe: name for name, stage in reversed(STAGES.items())}
    unknown = {cls: len(given - {field.name for field in fields(cls)}) for cls in classes}
    fewest = min(unknown.values())
    fitting = [classes[cls] for cls, count in unknown.items() if count == fewest]
    if len(fitting) > 1:
        raise ConfigError(f"{path}: may be a recipe of {' or '.join(fitting)}; say which with --stage.")
    return fitting[0]


def table(result: Estimate, gpus: int, gpu: str) -> list[str]:
    """The estimate as lines of text."""
    lines = [f"{'parameters':<22} {'all':>12} {'that learn':>12}"]
    rows = [*result.parts, ("all", sum(row[1] for row in result.parts), sum(row[2] for row in result.parts))]
    for name, count, learning in rows:
        lines.append(f"  {name:<20} {count / 1e6:>10.2f} M {learning / 1e6:>10.2f} M")
    memory = result.memory
    lines.append(f"memory on each of {gpus} x {gpu}")
    for name in ("weights", "gradients", "optimizer", "step", "total"):
        lines.append(f"  {name:<20} {getattr(memory, name) / 1e9:>10.2f} GB")
    lines.append(f"step{'':<18} {result.units:>10.0f} {result.unit}, {result.flops / 1e12:.3g} TFLOP")
    lines.append(f"run{'':<19} {result.steps:>10} steps, {result.units * result.steps:.3g} {result.unit}, "
                 f"{result.flops * result.steps:.3g} FLOP")  # fmt: skip
    lines.append(f"time{'':<18} {_range(*result.seconds):>10} s a step, {_range(*result.days)} days")
    lines.append(f"money{'':<17} {_range(*result.price):>10} dollars")
    return [*lines, *(f"note: {note}" for note in result.notes)]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def run_encode(arguments: argparse.Namespace) -> None:
    if not 0.5 <= arguments.speed <= 2:
        raise DataError(f"--speed must lie between 0.5 and 2, not {arguments.speed:g}.")
    import torch

    from ..checkpoint import load
    from ..data.store.codes_store import encode_corpus
    from ..data.store.manifest import ClipStore

    _set_threads(arguments)
    corpus = Path(arguments.corpus)
    output = arguments.output or corpus / "codes"
    clips = ClipStore(corpus / "audio")
    model = load(arguments.model, dtype=torch.float32)
    chosen = None
    if arguments.kinds:
        chosen = [clip.id for clip in clips.select(split="train") if {clip.kind, clip.source} & set(arguments.kinds)]
    with clip_bar("encoding the corpus") as progress:
        count = encode_corpus(model.tokenizer, clips, output, chosen, progress=progress, speed=arguments.speed)
    print(f"{output}: codes of {count} more clips")


@contextmanager
def clip_bar(label: str, unit: str = "clip") -> Iterator[Callable[[int, int], None]]:
    """A progress bar, moved by `progress(done, total)`; without tqdm, a line that counts."""
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


def run_sample_codes(arguments: argparse.Namespace) -> None:
    from ..training.language_model.sampled_codes import sample_codes, sampling_mixture

    output = _output(arguments, "sampled_codes")
    recipe, model = _recipe_and_model(arguments)
    mixture = sampling_mixture(recipe, model)
    with clip_bar("sampling codes") as progress:
        count = sample_codes(model, mixture, output, arguments.count, seed=recipe.seed, progress=progress)
    print(f"{output}: sampled codes of {count} clips")


def run_rejection_sample(arguments: argparse.Namespace) -> None:
    from ..acceleration import optimize_for_inference
    from ..training.language_model.takes import PhonemeScorer, record_takes, texts_to_read

    output = _output(arguments, "rejection_samples")
    recipe, model = _recipe_and_model(arguments)
    scorer = PhonemeScorer(model, arguments.phoneme_scorer)
    texts = texts_to_read(recipe, model.voices, arguments.count)
    model = optimize_for_inference(model)
    with clip_bar("reading texts aloud", "text") as progress:
        count = record_takes(model, scorer, texts, output, arguments.num_candidates, recipe.seed, progress)
    print(f"{output}: {count} readings kept")


def _output(arguments: argparse.Namespace, default: str) -> Path:
    if arguments.output:
        return Path(arguments.output)
    if arguments.corpus is None:
        raise ConfigError("there is no folder to write to; name it with --output, or the corpus with --corpus.")
    return Path(arguments.corpus) / default


def _recipe_and_model(arguments: argparse.Namespace) -> tuple[LanguageModelRecipe, BaichuanAudio]:
    """The recipe and the checkpoint of a language model that the command line names."""
    import torch

    from ..checkpoint import load
    from ..training.common.recipe import load_stage_recipe
    from ..training.language_model.recipe import LanguageModelRecipe

    _set_threads(arguments)
    recipe = load_stage_recipe(arguments.recipe, LanguageModelRecipe, arguments.overrides)
    return recipe, load(arguments.model, dtype=torch.float32)


def _set_threads(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)


def run_align(arguments: argparse.Namespace) -> None:
    if arguments.tokenizer and arguments.recipe is None:
        raise ConfigError("data align --tokenizer needs the tokenizer's recipe; name its YAML file.")
    _set_threads(arguments)
    audio = Path(arguments.corpus) / "audio"
    with clip_bar("aligning speech with its text") as progress:
        if arguments.tokenizer is None:
            from ..data.alignment.phone_alignment import write_alignments

            count = write_alignments(audio, arguments.threads or os.cpu_count() or 1, progress=progress)
        else:
            from ..training.common.recipe import load_stage_recipe
            from ..training.tokenizer.ctc_alignment import add_alignments
            from ..training.tokenizer.recipe import TokenizerRecipe

            recipe = load_stage_recipe(arguments.recipe, TokenizerRecipe, arguments.overrides)
            count = add_alignments(audio, recipe, arguments.tokenizer, progress)
    print(f"{audio}: {count} more clips aligned")

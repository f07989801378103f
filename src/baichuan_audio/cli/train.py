"""train: runs one stage of training; plan: what it will need; data align, encode: commands on a clip store."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import read_recipe
from ..errors import ConfigError
from ..training import STAGE_NAMES
from .common import Bar, add_command, positive, show

if TYPE_CHECKING:
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
    _add(group, "align", run_align, "Align the English speech of a corpus with its text.")
    encode = _add(group, "encode", run_encode, "Encode the clips of a corpus as codes.")
    encode.add_argument("--model", metavar="DIR", required=True, help="checkpoint whose audio tokenizer encodes")
    encode.add_argument("--output", metavar="DIR", help="(default: codes in --corpus)")


def _add(group: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    command = add_command(group, name, run, help_text, model=False, machine_readable=False)
    command.add_argument("--corpus", metavar="DIR", required=True, help="corpus folder, with its clips in `audio`")
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    return command


def run_train(arguments: argparse.Namespace) -> None:
    from ..checkpoint import checked_device
    from ..training.common.distributed.world import processes
    from ..training.common.recipe import load_stage_recipe
    from ..training.language_model.recipe import LanguageModelRecipe
    from ..training.stages import STAGES

    stage = STAGES[arguments.stage]
    recipe = load_stage_recipe(arguments.recipe, stage.recipe, arguments.overrides)
    checked_device(recipe.device)
    tensor = recipe.tensor_parallel if isinstance(recipe, LanguageModelRecipe) else 1
    with processes(recipe.device, 20 * recipe.stall_limit_s, tensor):
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
    facts = {"stage": stage, "gpus": arguments.gpus, "gpu": arguments.gpu, **asdict(result)}
    facts["memory"]["total"] = result.memory.total
    show(arguments, facts, "\n".join(table(result, arguments.gpus, arguments.gpu)))


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
    import torch

    from ..checkpoint import load
    from ..data.store.codes_store import encode_corpus
    from ..data.store.manifest import ClipStore

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    corpus = Path(arguments.corpus)
    output = arguments.output or corpus / "codes"
    clips = ClipStore(corpus / "audio")
    model = load(arguments.model, dtype=torch.float32)
    with Bar("encoding the corpus") as bar:
        count = encode_corpus(
            model.tokenizer, clips, output, progress=lambda done, total: bar.update("clips", done, total)
        )
    print(f"{output}: codes of {count} more clips")


def run_align(arguments: argparse.Namespace) -> None:
    from ..data.alignment.phone_alignment import write_alignments

    audio = Path(arguments.corpus) / "audio"
    with Bar("aligning speech with its text") as bar:
        processes = arguments.threads or os.cpu_count() or 1
        count = write_alignments(audio, processes, lambda done, total: bar.update("clips", done, total))
    print(f"{audio}: {count} more clips aligned")

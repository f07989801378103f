"""train, eval: the workshop's commands; each hands over to the module that does the work."""

from __future__ import annotations

import argparse
import importlib
import typing
from typing import Any

from .common import add_command, default_model, positive, print_json

STAGES = {
    "tokenizer": "training.tokenizer",
    "flow": "training.flow",
    "vocoder": "training.vocoder",
    "resynthesis": "training.resynthesis",
    "lm": "training.language_model",
    "sft": "training.language_model",
}


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    train = add_command(
        commands, "train", run_train, "Train one stage by its recipe.", model=False, machine_readable=False
    )
    train.add_argument("stage", choices=tuple(STAGES), help="lm, sft: the language model; its recipe says which stage")
    train.add_argument("recipe", help="a YAML file, e.g. recipes/nano/tokenizer.yaml")
    train.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. steps=100 optimizer.learning_rate=1e-4")
    examine = add_command(commands, "eval", run_eval, "Measure a model on held-out items.", model=False)
    examine.add_argument("benchmark", choices=("nano",))
    examine.add_argument("--model", metavar="DIR", help="checkpoint directory (default: models/nano)")
    examine.add_argument("--corpus", metavar="DIR", default="work/nano", help="corpus folder (default: work/nano)")
    examine.add_argument(
        "--output", metavar="DIR", default="work/nano/evaluation", help="for the results (default: %(default)s)"
    )
    examine.add_argument("--limit", type=positive, default=200, help="most items of a part and language (default: 200)")
    examine.add_argument(
        "--split", choices=("test", "validation"), default="test", help="validation: to choose between models by"
    )
    examine.add_argument("--parts", metavar="NAMES", help="only these measurements, e.g. written,recognition")
    examine.add_argument(
        "--ear", metavar="DIR", help="output of `train tokenizer`: its phonetic head reads answers back"
    )
    examine.add_argument(
        "--whisper",
        metavar="MODEL",
        help="a size (base) or folder for faster-whisper, to hear Mandarin answers and clips through the codes",
    )
    examine.add_argument("--processes", type=positive, metavar="N", help="of the independent ear (default: all cores)")
    examine.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the model (default: all cores)")


def run_train(arguments: argparse.Namespace) -> None:
    from ..checkpoint import checked_device
    from ..config import load_recipe

    train = importlib.import_module(f"..{STAGES[arguments.stage]}", __package__).train
    recipe_class = typing.get_type_hints(train)["recipe"]
    recipe = load_recipe(arguments.recipe, recipe_class, arguments.overrides)
    checked_device(recipe.device)
    train(recipe)


def run_eval(arguments: argparse.Namespace) -> None:
    import torch

    from ..evaluation.nano import PARTS, evaluate_nano
    from ..evaluation.report import markdown_table

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = evaluate_nano(
        arguments.model or default_model(),
        arguments.corpus,
        arguments.limit,
        arguments.output,
        arguments.processes or 0,
        arguments.parts.split(",") if arguments.parts else PARTS,
        arguments.ear,
        arguments.whisper,
        arguments.split,
    )
    if arguments.json:
        print_json({figure.name: {"value": figure.value, "n": figure.n, "met": figure.met} for figure in figures})
    else:
        print(markdown_table(figures))

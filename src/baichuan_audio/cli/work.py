"""train, eval, data: the workshop's commands; each hands over to the module that does the work."""

from __future__ import annotations

import argparse
import importlib
import typing
from typing import Any

from .common import add_command

STAGES = {
    "tokenizer": "training.tokenizer",
    "flow": "training.flow",
    "vocoder": "training.vocoder",
    "lm": "training.language_model",
    "sft": "training.language_model",
}


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    train = add_command(
        commands, "train", run_train, "Train one stage by its recipe.", model=False, machine_readable=False
    )
    train.add_argument("stage", choices=tuple(STAGES))
    train.add_argument("recipe", help="a YAML file, e.g. recipes/nano/tokenizer.yaml")
    train.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. steps=100 optimizer.learning_rate=1e-4")


def run_train(arguments: argparse.Namespace) -> None:
    from ..training.recipe import load_recipe

    train = importlib.import_module(f"..{STAGES[arguments.stage]}", __package__).train
    recipe_class = typing.get_type_hints(train)["recipe"]
    train(load_recipe(arguments.recipe, recipe_class, arguments.overrides))

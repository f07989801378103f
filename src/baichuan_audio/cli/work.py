"""train: runs one stage of training by its recipe; eval: says where it is now."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigError
from ..training import STAGE_NAMES
from .common import add_command


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    train = add_command(
        commands, "train", run_train, "Train one stage by its recipe.", model=False, machine_readable=False
    )
    train.add_argument("stage", choices=STAGE_NAMES, help="lm, sft: the language model; its recipe says which stage")
    train.add_argument("recipe", help="a YAML file, e.g. recipes/base-7b/flow.yaml")
    train.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. steps=100 optimizer.learning_rate=1e-4")
    examine = add_command(commands, "eval", run_eval, "Say where the evaluation of nano is now.", model=False)
    examine.add_argument("benchmark", choices=("nano",))
    examine.add_argument("arguments", nargs=argparse.REMAINDER, help="what it took")


def run_train(arguments: argparse.Namespace) -> None:
    from ..checkpoint import checked_device
    from ..training.common.recipe import load_stage_recipe
    from ..training.stages import STAGES

    stage = STAGES[arguments.stage]
    recipe = load_stage_recipe(arguments.recipe, stage.recipe, arguments.overrides)
    checked_device(recipe.device)
    stage.train(recipe)


def run_eval(arguments: argparse.Namespace) -> None:
    """Until the next release: the command has moved to the project that trains nano."""
    words = " ".join(["python recipes/nano/evaluate.py", *arguments.arguments])
    raise ConfigError(f"'eval nano' is no command of this package any more; in a clone of the repository run: {words}")

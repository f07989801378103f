"""The training stages by name: the class of the recipe and the function that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .common.recipe import StageRecipe
from .flow import train as flow
from .language_model import train as language_model
from .language_model.recipe import LanguageModelRecipe
from .tokenizer import train as tokenizer
from .tokenizer.recipe import TokenizerRecipe
from .vocoder import train as vocoder


@dataclass(frozen=True)
class Stage:
    """`train` takes an instance of `recipe`."""

    recipe: type[StageRecipe]
    train: Callable[[Any], None]


STAGES = {
    "tokenizer": Stage(TokenizerRecipe, tokenizer.train),
    "flow": Stage(flow.FlowRecipe, flow.train),
    "vocoder": Stage(vocoder.VocoderRecipe, vocoder.train),
    "lm": Stage(LanguageModelRecipe, language_model.train),
    "sft": Stage(LanguageModelRecipe, language_model.train),
}
"""`lm` and `sft` train the language model; their recipe's `stage` says which parameters learn."""

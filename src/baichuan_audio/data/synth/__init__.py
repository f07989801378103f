"""Synthetic speech and dialogues: engines, voices, augmentation, the skills of the closed world, the corpus builder."""

from .corpus import CorpusRecipe, build_corpus
from .dialogues import generate_dialogues, generate_sums

__all__ = ["CorpusRecipe", "build_corpus", "generate_dialogues", "generate_sums"]

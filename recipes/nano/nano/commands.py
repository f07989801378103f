"""The commands of this project: make the corpora of training and evaluation, evaluate a trained nano."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from baichuan_audio.cli.common import positive
from baichuan_audio.config import load_recipe
from baichuan_audio.errors import BaichuanAudioError

ROOT = Path(__file__).resolve().parents[1]
"""The folder of this project."""
EVALUATION = "work/nano_evaluation"
"""Folder of the evaluation's corpus."""
_VALIDATION_SHARE = 20  # dialogues of skills for training, for one of validation


def guarded(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run a command -> its exit code: 0 done, 2 bad input (told in one sentence), 130 stopped."""
    try:
        run(arguments)
    except BaichuanAudioError as error:
        print(f"nano: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nano: stopped.", file=sys.stderr)
        return 130
    return 0


def make_corpus(argv: Sequence[str] | None = None) -> int:
    """Make the evaluation's speech and dialogues by a recipe and overrides of its entries."""
    parser = argparse.ArgumentParser(prog="make_corpus.py", description="Make the corpus that nano is measured on.")
    parser.add_argument("recipe", nargs="?", default=str(ROOT / "corpus.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. processes=4 sizes.train_dialogues=100")
    parser.add_argument("--output", metavar="DIR", default=EVALUATION, help="(default: %(default)s)")
    return guarded(_make_corpus, parser.parse_args(argv))


def _make_corpus(arguments: argparse.Namespace) -> None:
    from .corpus.build import CorpusRecipe, build_corpus

    build_corpus(load_recipe(arguments.recipe, CorpusRecipe, arguments.overrides), arguments.output)


def make_texts(argv: Sequence[str] | None = None) -> int:
    """What is spoken in nano's corpus, for the text road of the data pipeline: questions first, then everything."""
    parser = argparse.ArgumentParser(prog="make_texts.py", description="Write what is spoken in nano's corpus.")
    steps = parser.add_subparsers(required=True, metavar="STEP")
    ask = steps.add_parser("questions", help="questions to a pretrained chat model, with its own short replies")
    ask.add_argument("output", help="the JSON-lines file to write; a stopped run goes on with it")
    ask.add_argument("--llm", required=True, metavar="PATH", help="GGUF file or Hugging Face folder of a ChatML model")
    ask.add_argument("--license", required=True, help="licence of what the model writes, e.g. Apache-2.0")
    ask.add_argument("--count", type=positive, default=5_000, help="pairs (default: %(default)s)")
    ask.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    ask.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    ask.set_defaults(run=_make_questions)
    whole = steps.add_parser("items", help="dialogues of questions and skills, and sentences, each with its split")
    whole.add_argument("output", help="folder for dialogues.jsonl and sentences.jsonl")
    whole.add_argument("--questions", required=True, metavar="FILE", help="what the first step wrote")
    whole.add_argument("--skills", type=positive, default=4_000, help="dialogues of skills (default: %(default)s)")
    whole.add_argument("--sentences", metavar="FILE", help="a text in Mandarin whose sentences are read aloud")
    whole.add_argument("--count", type=positive, default=2_500, help="sentences (default: %(default)s)")
    whole.add_argument("--wordnet", metavar="FILE", help="WordNet's data files in one: as many of its texts as well")
    whole.add_argument("--license", required=True, help="licence of the sentences, e.g. MIT")
    whole.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    whole.set_defaults(run=_make_items)
    arguments = parser.parse_args(argv)
    return guarded(arguments.run, arguments)


def _make_questions(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from baichuan_audio.training.chat_model import ChatModel

    from .questions.self_distillation import write_pairs
    from .questions.topics import TOPICS

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=arguments.count, desc="questions", unit="pair") as bar:
        model = ChatModel(arguments.llm)
        for made in write_pairs(model, TOPICS, output, arguments.count, arguments.seed, arguments.license):
            bar.update(min(made, arguments.count) - bar.n)
    print(f"{output}: at least {arguments.count} questions with replies")


def _make_items(arguments: argparse.Namespace) -> None:
    from .texts import english_items, question_items, sentence_items, skill_items, write_items

    output, seed = Path(arguments.output), arguments.seed
    skills = skill_items(seed, arguments.skills, "Apache-2.0")
    held_out = skill_items(seed, max(arguments.skills // _VALIDATION_SHARE, 1), "Apache-2.0", "validation")
    count = write_items(chain(question_items(Path(arguments.questions)), skills, held_out), output / "dialogues.jsonl")
    print(f"{output / 'dialogues.jsonl'}: {count} dialogues")
    if arguments.sentences:
        sentences = sentence_items(Path(arguments.sentences), seed, arguments.count, arguments.license)
        if arguments.wordnet:
            sentences = chain(sentences, english_items(Path(arguments.wordnet), seed, arguments.count))
        print(f"{output / 'sentences.jsonl'}: {write_items(sentences, output / 'sentences.jsonl')} sentences")


def make_sets(argv: Sequence[str] | None = None) -> int:
    """Split recordings into those that nano learns from and the sets that it is measured on."""
    parser = argparse.ArgumentParser(prog="make_sets.py", description="Hold recordings, voices and texts out.")
    steps = parser.add_subparsers(required=True, metavar="STEP")
    rest = steps.add_parser("training", help="a manifest of the recordings that are not held out")
    sets = steps.add_parser("sets", help="the sets of `baichuan-audio eval` from what is held out")
    for step, output in ((rest, "the manifest to write"), (sets, "folder of the sets; it is made anew")):
        step.add_argument("manifest", help="manifest of recordings with transcripts (docs/data.md)")
        step.add_argument("output", help=output)
    sets.add_argument("--kokoro", required=True, metavar="DIR", help="folder of Kokoro: model.onnx, vocab.json, voices")
    sets.add_argument("--sentences", required=True, metavar="FILE", help="sentences.jsonl of make_texts.py")
    sets.add_argument("--limit", type=positive, metavar="N", help="most items of a set")
    rest.set_defaults(run=_make_training_manifest)
    sets.set_defaults(run=_make_sets)
    arguments = parser.parse_args(argv)
    return guarded(arguments.run, arguments)


def _make_training_manifest(arguments: argparse.Namespace) -> None:
    from .evaluation.held_out import write_training_manifest

    count = write_training_manifest(Path(arguments.manifest), Path(arguments.output))
    print(f"{arguments.output}: {count} recordings")


def _make_sets(arguments: argparse.Namespace) -> None:
    import numpy as np
    from numpy.typing import NDArray

    from baichuan_audio.data.pipeline.backends.tts import Voice
    from baichuan_audio.text.lines import read_json_rows

    from .evaluation.held_out import write_sets

    def speak(text: str, language: str, voice: str) -> NDArray[np.float32]:
        return Voice.parse(f"kokoro:{arguments.kokoro}@{voice}").speak(text, language)

    rows = [row for _, row in read_json_rows(arguments.sentences)]
    sentences = [str(row["text"]) for row in rows if row.get("split") == "validation" and row.get("language") == "zh"]
    write_sets(Path(arguments.manifest), Path(arguments.output), speak, sentences, arguments.limit)
    print(f"{arguments.output}: written; `baichuan-audio eval all --data {arguments.output}` measures on it")


def evaluate(argv: Sequence[str] | None = None) -> int:
    """The figures of the model card, on held-out items of the corpus."""
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Measure a trained nano on held-out items.")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--model", metavar="DIR", default="models/nano", help="checkpoint (default: %(default)s)")
    parser.add_argument("--corpus", metavar="DIR", default=EVALUATION, help="corpus folder (default: %(default)s)")
    parser.add_argument(
        "--output", metavar="DIR", default=f"{EVALUATION}/results", help="for the results (default: %(default)s)"
    )
    parser.add_argument("--limit", type=positive, default=200, help="most items of a part and language (default: 200)")
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="validation: to choose between models by"
    )
    parser.add_argument("--metrics", metavar="NAMES", help="only these metrics, e.g. written,recognition")
    parser.add_argument(
        "--whisper", metavar="MODEL",
        help="a size (base) or folder for faster-whisper, to hear Mandarin answers and clips through the codes",
    )  # fmt: skip
    parser.add_argument("--processes", type=positive, metavar="N", help="of the recognisers (default: all cores)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the model (default: all cores)")
    return guarded(_evaluate, parser.parse_args(argv))


def _evaluate(arguments: argparse.Namespace) -> None:
    import torch

    from .evaluation.evaluate import PARTS, evaluate_nano
    from .evaluation.metrics_table import markdown_table

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = evaluate_nano(
        arguments.model,
        arguments.corpus,
        arguments.limit,
        arguments.output,
        arguments.processes or 0,
        arguments.metrics.split(",") if arguments.metrics else PARTS,
        arguments.whisper,
        arguments.split,
    )
    if arguments.json:
        values = {figure.name: {"value": figure.value, "n": figure.n, "met": figure.met} for figure in figures}
        print(json.dumps(values, ensure_ascii=False, indent=2))
    else:
        print(markdown_table(figures))

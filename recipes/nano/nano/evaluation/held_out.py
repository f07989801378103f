"""What nano never learns from, and the sets made of it that nano is measured on (`baichuan-audio eval`)."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from baichuan_audio.data.importers import Recording, read_manifest
from baichuan_audio.data.synth.no_speech import NoSpeechConfig, draw_item, render
from baichuan_audio.errors import DataError

from ..hashing import hash_fraction
from ..questions.forms import formed_question
from ..questions.topics import TOPICS

RATE = 24_000
VOICES = {
    "en": ("bf_lily", "bm_fable", "am_eric", "am_puck", "af_river"),
    "zh": ("zf_xiaoni", "zm_yunyang", "zm_yunxia"),
}
"""Of Kokoro's: who asks in the sets, and nowhere in training."""
SPEAKERS = {"librispeech": ("ls19", "ls26", "ls27"), "aishell1": ("S0252",), "digits": ("fsdd_theo",)}
_SHARE = 0.04  # of the speakers of other collections, and of single recordings where one name stands for many people
_MANY_PEOPLE = ("wakewords", "requests")
_SETS = {"librispeech": "readers", "aishell1": "mandarin", "digits": "digits", "wakewords": "commands",
         "speechocean762": "learners"}  # fmt: skip
_MOST = 150  # recordings of a set
_OPEN_QUESTIONS, _NO_SPEECH, _REBUILT = 60, 60, 40
FACTS = Path(__file__).resolve().parents[2] / "facts.tsv"

Speak = Callable[[str, str, str], NDArray[np.float32]]
"""(text, language, voice) -> samples at RATE."""


def is_held_out(recording: Recording) -> bool:
    """Whether a recording belongs to the sets, by its speaker where that is known."""
    folder = recording.id.split("/")[0]
    if folder in SPEAKERS:
        return recording.speaker in SPEAKERS[folder]
    if folder in _MANY_PEOPLE or recording.speaker is None:
        return hash_fraction(f"v{recording.id}{recording.path.suffix}") < _SHARE
    return hash_fraction(f"v{recording.speaker}") < _SHARE


def write_training_manifest(manifest: Path, output: Path) -> int:
    """The recordings that are not held out, as a manifest elsewhere -> how many."""
    rows = [
        {
            "path": str(recording.path.resolve()),
            "language": recording.language,
            "license": recording.license,
            "source": recording.source,
        }
        | {name: value for name in ("speaker", "transcript") if (value := getattr(recording, name)) is not None}
        for recording in read_manifest(manifest)
        if not is_held_out(recording)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def facts() -> list[tuple[str, str]]:
    """Questions with their right answers, several apart by semicolons; in forms that training never has."""
    lines = FACTS.read_text(encoding="utf-8").splitlines()
    return [(question, answers) for question, _, answers in (line.partition("\t") for line in lines)]


def write_sets(manifest: Path, output: Path, speak: Speak, sentences: Sequence[str], limit: int | None = None) -> None:
    """All sets in the folder `output`, one folder a suite; sentences: Mandarin ones that training never has.

    limit: most items of a set. Raises DataError where the manifest has no recording that is held out.
    """
    shutil.rmtree(output, ignore_errors=True)
    writer = _SetWriter(output / "recordings", limit)
    held_out = [recording for recording in read_manifest(manifest) if is_held_out(recording) and recording.transcript]
    if not held_out:
        raise DataError(f"{manifest}: none of its recordings is held out, so there is nothing real to measure on.")
    for folder, name in _SETS.items():
        of_set = [recording for recording in held_out if recording.id.startswith(folder + "/")]
        for recording in random.Random(name).sample(of_set, min(_MOST, len(of_set))):
            samples, rate = soundfile.read(recording.path, dtype="float32")
            writer.add(name, samples, rate, str(recording.transcript), recording.language, recording.speaker)
    rng = random.Random("open questions")
    asked = [formed_question(rng, TOPICS, held_out=True) for _ in range(_OPEN_QUESTIONS)]
    for language, texts in (("en", asked), ("zh", sentences[:_OPEN_QUESTIONS])):
        for number, text in enumerate(texts):
            voice = VOICES[language][number % len(VOICES[language])]
            writer.add(f"voices_{language}", speak(text, language, voice), RATE, text, language, voice)
    for number in range(_NO_SPEECH):
        item = draw_item(NoSpeechConfig(seed=990, count=_NO_SPEECH, validation=1.0), number)
        writer.add("no_speech", render(item), RATE, "", "en")
    writer.close()
    _write_facts(output / "openaudiobench" / "eval_datas" / "llama_questions", facts()[:limit], speak)
    _write_texts(output / "seed_tts", {"en": asked[::2], "zh": list(sentences[-30:])}, speak, limit)
    _write_rebuilt(output / "reconstruction", held_out, limit)


class _SetWriter:
    """The suite `recordings`: sounds by their sets, and the manifest."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self._folder, self._limit = folder, limit
        self._rows: dict[str, list[dict[str, str]]] = {}

    def add(
        self, name: str, samples: NDArray[np.float32], rate: int, text: str, language: str, speaker: str | None = None
    ) -> None:
        rows = self._rows.setdefault(name, [])
        if self._limit is not None and len(rows) >= self._limit:
            return
        path = f"{name}/{len(rows):03d}.flac"
        _write(self._folder / path, samples, rate)
        rows.append({"path": path, "transcript": text, "language": language, "speaker": speaker or ""})

    def close(self) -> None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for rows in self._rows.values() for row in rows)
        (self._folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def _write_facts(folder: Path, rows: Iterable[tuple[str, str]], speak: Speak) -> None:
    folder.mkdir(parents=True)
    with (folder / f"{folder.name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Questions", "Answer", "audio_filename"])
        for number, (question, answers) in enumerate(rows):
            voice = VOICES["en"][number % len(VOICES["en"])]
            _write(folder / "audios" / f"{number}.flac", speak(question, "en", voice), RATE)
            table.writerow([question, answers, f"{number}.flac"])


def _write_texts(folder: Path, texts: dict[str, list[str]], speak: Speak, limit: int | None) -> None:
    """Texts to be read aloud; the layout wants a recording of a voice beside them, which this model cannot imitate."""
    for language, lines in texts.items():
        voice, rows = VOICES[language][0], list[str]()
        _write(folder / language / "prompt.flac", speak(lines[0], language, voice), RATE)
        for number, text in enumerate(lines[:limit]):
            rows.append(f"{number:03d}|{lines[0]}|prompt.flac|{text}\n")
        (folder / language / "meta.lst").write_text("".join(rows), encoding="utf-8")


def _write_rebuilt(folder: Path, held_out: Sequence[Recording], limit: int | None) -> None:
    """Sentences of readers, with their words."""
    readers = [recording for recording in held_out if recording.id.startswith(("librispeech/", "aishell1/"))]
    for number, recording in enumerate(random.Random("rebuilt").sample(readers, min(limit or _REBUILT, len(readers)))):
        samples, rate = soundfile.read(recording.path, dtype="float32")
        _write(folder / f"{number:03d}.flac", samples, rate)
        (folder / f"{number:03d}.txt").write_text(str(recording.transcript), encoding="utf-8")


def _write(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)

"""nano's evaluation: every figure of its model card, on items and voices that training never had.

`evaluate_nano` asks the model first, with all threads, so that the times are honest, and only then sets the
independent recognizers to work in parallel.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.audio.waveform import save_waveform
from baichuan_audio.checkpoint import load
from baichuan_audio.data.store.codes_store import CodesStore
from baichuan_audio.data.synth.no_speech import HELD_OUT, NoSpeechConfig, draw_item
from baichuan_audio.errors import ConfigError
from baichuan_audio.evaluation.metrics import codebook_use, error_rate
from baichuan_audio.evaluation.report.mels import plot_mels
from baichuan_audio.model import BaichuanAudio

from .. import LANGUAGES
from . import tasks
from .asr import SAMPLE_RATE
from .items import HeldOut, spread
from .metrics_table import Metric, markdown_table, plot_latency, write_metrics
from .recognizers import Recognizers
from .tasks import Answer, Progress
from .texts import same, script

LANGUAGE_NAMES = {"en": "English", "zh": "Mandarin"}
_ERROR_NAMES = {"en": "WER", "zh": "CER"}
_REAL_SENTENCES = ("librispeech", "read_english")
PARTS = ("written", "spoken", "recognition", "digits", "no_speech", "reading", "reconstruction")
_KEPT_SOUNDS = 12
_NO_SPEECH_SEED = 20261130  # not the one of recipes/data/no_speech.yaml
WRITTEN_TARGET = 0.9
"""Answers that should be right; spoken ones may fall 5 points short of that, or of what is reached beyond it."""


class Evaluation:
    """Collects figures and, item by item, what they were made of."""

    def __init__(
        self, model: BaichuanAudio, held_out: HeldOut, limit: int, recognizers: Recognizers, progress: Progress
    ) -> None:
        self.model, self.held_out, self.limit = model, held_out, limit
        self.recognizers, self.progress = recognizers, progress
        self.metrics: list[Metric] = []
        self.details: list[dict[str, Any]] = []
        self.sounds: dict[str, np.ndarray] = {}
        self.spoken: dict[str, np.ndarray] = {}
        self.times: tuple[list[float], list[float]] = ([], [])

    def run(self, parts: Sequence[str] = PARTS) -> None:
        """The measurements named, the model's first: from the first `score_` on only the recognizers work."""
        written = self.written_answers() if "written" in parts else {}
        spoken = self.spoken_answers() if "spoken" in parts else []
        if "recognition" in parts:
            self.transcripts()
        if "digits" in parts and self.held_out.split == "test":  # others have people of training
            self.digits()
        if "no_speech" in parts:
            self.no_speech()
        read_aloud = self.read_aloud() if "reading" in parts else []
        rebuilt = self.reconstructions() if "reconstruction" in parts else {}
        if spoken:
            self.score_spoken_replies(spoken, written)
        self.score_reading(read_aloud)
        self.score_reconstructions(rebuilt)

    def add(self, name: str, value: float, n: int, unit: str = "", target: str = "", note: str = "") -> None:
        """One more figure; one that nothing was measured for is left out."""
        if n:
            self.metrics.append(Metric(name, float(value), n, unit, target, note))

    # -- what the model writes ---------------------------------------------------------------------------------

    def written_answers(self) -> dict[str, float]:
        """Speech to text and text to text; returns the share of right answers to speech by language."""
        right: dict[str, float] = {}
        for speech_in in (True, False):
            answers: list[Answer] = []
            for language in LANGUAGES:
                dialogues = self.held_out.dialogues(language, self.limit, spoken=speech_in)
                answers += tasks.ask(
                    self.model, self.held_out, dialogues, speech_in=speech_in, spoken=False, progress=self.progress
                )
            name = "speech→text answers right" if speech_in else "text→text answers right"
            self.add(
                name, _share(a.right for a in answers), len(answers), "%", f">= {WRITTEN_TARGET}" if speech_in else ""
            )
            for language in LANGUAGES:
                subset = [a for a in answers if a.language == language]
                self.add(f"{name}, {LANGUAGE_NAMES[language]}", _share(a.right for a in subset), len(subset), "%")
                if speech_in:
                    right[language] = _share(a.right for a in subset)
            follow_ups = [a for a in answers if a.turn > 0]
            self.add(f"{name}, follow-up questions", _share(a.right for a in follow_ups), len(follow_ups), "%")
            self._detail("speech_to_text" if speech_in else "text_to_text", answers)
        return right

    def spoken_answers(self) -> list[Answer]:
        """Speech to speech: the written half, and how fast the spoken half came."""
        answers: list[Answer] = []
        for language in LANGUAGES:
            dialogues = self.held_out.dialogues(language, self.limit // 2, spoken=True)
            answers += tasks.ask(
                self.model, self.held_out, dialogues, speech_in=True, spoken=True, progress=self.progress
            )
        with_sound = [(f"{a.dialogue}-{a.turn}", a.sound) for a in answers if a.sound is not None and a.sound.size]
        self.spoken = dict(with_sound[:: max(1, len(with_sound) // _KEPT_SOUNDS)])
        name = "speech→speech answers, their text right"
        self.add(name, _share(a.right for a in answers), len(answers), "%")
        timed = [a for a in answers if a.first_audio_s is not None and a.sound_s > 0.2]
        if timed:
            factors = [a.total_s / a.sound_s for a in timed]
            first = [a.first_audio_s or 0.0 for a in timed]
            self.times = (first, factors)
            overall = sum(a.total_s for a in timed) / sum(a.sound_s for a in timed)
            threads = f"{torch.get_num_threads()} threads"
            self.add("chat real-time factor", overall, len(timed), "", "<= 0.5", threads)
            self.add(
                "first audio after the question's end, median", np.median(first), len(timed), "s", "<= 0.7", threads
            )
            self.add("first audio after the question's end, 95th percentile", np.quantile(first, 0.95), len(timed), "s")
        return answers

    def transcripts(self) -> None:
        """Recognition of held-out questions in voices that are not in training."""
        for language in LANGUAGES:
            clips = self.held_out.questions_by_voice(language, self.limit)
            texts = tasks.transcribe(self.model, self.held_out, clips, f"recognition, {language}", self.progress)
            references = [clip.transcript or "" for clip in clips]
            rate = error_rate(references, texts, language)
            whose = "held-out synthetic voices" if self.held_out.split == "test" else "synthetic voices of training"
            name = f"{LANGUAGE_NAMES[language]} {_ERROR_NAMES[language]}, {whose}"
            voices = f"{len({clip.speaker for clip in clips})} voices"
            self.add(name, rate.rate, rate.num_texts, "%", "<= 0.08", voices)
            for clip, reference, text in zip(clips, references, texts, strict=True):
                self.details.append({"task": "recognition", "clip": clip.id, "expected": reference, "written": text})

    def digits(self) -> None:
        """Digits of people who are not in training."""
        clips = self.held_out.real(self.limit, ("digits",), ("test",))
        texts = tasks.transcribe(self.model, self.held_out, clips, "digits", self.progress)
        right = [same(text, clip.transcript or "", "en") for clip, text in zip(clips, texts, strict=True)]
        people = f"{len({clip.speaker for clip in clips})} people"
        self.add(
            "spoken digits of real people not in training, right", _share(right), len(right), "%", ">= 0.9", people
        )
        for clip, text in zip(clips, texts, strict=True):
            self.details.append({"task": "digits", "clip": clip.id, "expected": clip.transcript, "written": text})
        dialogues = self.held_out.real_dialogues(self.limit // 2)
        answers = tasks.ask(self.model, self.held_out, dialogues, speech_in=True, spoken=False, progress=self.progress)
        name = "chat: words of real people not in training, answer right"
        self.add(name, _share(a.right for a in answers), len(answers), "%")
        self._detail("real_people", answers)

    def no_speech(self) -> None:
        """Transcripts of audio in which nobody speaks, without speech detection: they should be empty."""
        config = NoSpeechConfig(seed=_NO_SPEECH_SEED, validation=1.0)
        items = [draw_item(config, index) for index in range(self.limit)]
        texts = tasks.transcribe_no_speech(self.model, items, self.progress)
        for held_out in (False, True):
            empty = [not text for item, text in zip(items, texts, strict=True) if (item.form in HELD_OUT) == held_out]
            kinds = " and ".join(HELD_OUT) if held_out else "other kinds"
            self.add(f"audio without speech: empty transcripts, {kinds}", _share(empty), len(empty), "%")
        for item, text in zip(items, texts, strict=True):
            self.details.append({"task": "no_speech", "form": item.form, "level_db": item.level_db, "written": text})

    # -- what the model says -----------------------------------------------------------------------------------

    def read_aloud(self) -> list[tuple[str, str, str, np.ndarray]]:
        """Held-out answers read in every voice: (language, voice, text, sound)."""
        jobs: list[tuple[str, str, str]] = []
        for language in LANGUAGES:
            dialogues = self.held_out.dialogues(language, 10**9, spoken=False)
            texts = {e.answer for d in dialogues for e in d.exchanges if script(e.answer) == language}
            pool = spread(texts, str, len(texts))
            count = max(1, self.limit // 16)
            for number, voice in enumerate(self.model.voices):
                chosen = [pool[(number + k * len(self.model.voices)) % len(pool)] for k in range(min(count, len(pool)))]
                jobs += [(language, voice, text) for text in chosen]
        sounds = tasks.speak(self.model, [(text, voice) for _, voice, text in jobs], self.progress)
        return [(*job, sound) for job, sound in zip(jobs, sounds, strict=True)]

    def reconstructions(self) -> dict[str, list[tasks.Reconstruction]]:
        """Clips through the codes and back, synthetic and real; mel error and codebook use."""
        count = max(1, self.limit // 4)
        groups = {
            "synthetic": self.held_out.questions_by_voice("en", count),
            "real": self.held_out.real(count, _REAL_SENTENCES, ("validation", "test")),
        }
        done = {
            name: tasks.reconstruct(self.model, self.held_out, clips, self.progress) for name, clips in groups.items()
        }
        for name, items in done.items():
            self.add(f"mel MAE, {name}", _mean(item.mel_mae for item in items), len(items), "nepers")
            if items:
                self.sounds[f"{name}: original"] = items[0].original
                self.sounds[f"{name}: from {items[0].codes.shape[1]} code frames"] = items[0].rebuilt
        self._codebooks([item.codes for items in done.values() for item in items])
        return done

    def _codebooks(self, codes: list[torch.Tensor]) -> None:
        """Use of each level over the whole corpus where its codes are stored, else over the rebuilt clips."""
        root = self.held_out.store.root
        for folder in (root, root.parent / "codes", root.parent):
            if (folder / "codes.safetensors").is_file():
                stored = CodesStore(folder)
                codes = [stored[clip.id] for clip in self.held_out.store.clips if clip.id in stored]
                break
        if not codes:
            return
        frames = sum(clip.shape[1] for clip in codes)
        for level, use in enumerate(codebook_use(codes, self.model.tokenizer.codebook_sizes), 1):
            note = f"of {use.size} entries, {use.dead} dead"
            self.add(f"codebook {level}: perplexity", use.perplexity, frames, "", "", note)

    # -- what recognizers read back ------------------------------------------------------------------------------------

    def score_spoken_replies(self, answers: list[Answer], written_right: dict[str, float]) -> None:
        """Spoken answers read back; and the same of the corpus's own answers, to know the recognizer."""
        for language in LANGUAGES:
            replies = [a for a in answers if a.spoken_in == language]
            sounds = [a.sound if a.sound is not None else np.zeros(SAMPLE_RATE // 10, np.float32) for a in replies]
            transcripts, right = self.recognizers.read_back(language, sounds, [a.expected for a in replies])
            if language == "zh":
                # the recognizer chose: a wrong answer, not among its choices, may sound most like the right one
                right = [chosen and a.right for chosen, a in zip(right, replies, strict=True)]
            target = (
                f">= {max(written_right[language], WRITTEN_TARGET) - 0.05:.4f}" if language in written_right else ""
            )
            how = "read back by pocketsphinx" if language == "en" else self.recognizers.for_choosing
            name = f"spoken answers right, {LANGUAGE_NAMES[language]}"
            self.add(name, _share(right), len(right), "%", target, how)
            for trained, which in ((True, "that training speaks too"), (False, "that training never speaks")):
                some = [chosen for chosen, a in zip(right, replies, strict=True) if a.trained == trained]
                self.add(f"{name}, replies {which}", _share(some), len(some), "%")
            self._detail("speech_to_speech", replies, transcripts, right)
            clips = self.held_out.reference_answers(language, self.limit // 2)
            originals, texts = (
                [self.held_out.samples(clip) for clip in clips],
                [clip.transcript or "" for clip in clips],
            )
            _, right = self.recognizers.read_back(language, originals, texts)
            name = f"the same recognizer on the corpus's own spoken answers, {LANGUAGE_NAMES[language]}"
            self.add(name, _share(right), len(right), "%")
        self._own_transcripts([a for a in answers if a.spoken_in == "zh" and a.sound is not None])

    def _own_transcripts(self, answers: list[Answer]) -> None:
        texts = [
            self.model.transcribe((torch.from_numpy(a.sound), SAMPLE_RATE), vad=False)
            if a.sound is not None and a.sound_s > 0.3
            else "" for a in self.progress(answers, "own transcripts, zh", len(answers))
        ]  # fmt: skip
        right = [same(text, a.expected, "zh") for text, a in zip(texts, answers, strict=True)]
        note = "the model's own transcript: not independent"
        self.add("spoken answers right, Mandarin, own transcript", _share(right), len(right), "%", "", note)

    def score_reading(self, read: list[tuple[str, str, str, np.ndarray]]) -> None:
        """Texts read aloud, by voice."""
        for language in LANGUAGES:
            items = [item for item in read if item[0] == language]
            transcripts, right = self.recognizers.read_back(
                language, [item[3] for item in items], [item[2] for item in items]
            )
            by_voice: dict[str, list[int]] = defaultdict(list)
            for index, item in enumerate(items):
                by_voice[item[1]].append(index)
            for voice, indices in by_voice.items():
                if language == "en":
                    rate = error_rate([items[i][2] for i in indices], [transcripts[i] for i in indices], "en")
                    self.add(f"reading aloud, English WER, {voice}", rate.rate, rate.num_texts, "%")
                else:
                    name = f"reading aloud, Mandarin, right text chosen, {voice}"
                    self.add(name, _share(right[i] for i in indices), len(indices), "%")

    def score_reconstructions(self, groups: dict[str, list[tasks.Reconstruction]]) -> None:
        """Word error rate of rebuilt sound against that of the original."""
        questions = self.held_out.questions["en"]
        for name, items in groups.items():
            texts = questions if name == "synthetic" else None
            references = [item.clip.transcript or "" for item in items]
            sounds = [item.original for item in items] + [item.rebuilt for item in items]
            for recognizer, how, transcripts in self.recognizers.write_english(sounds, texts, name):
                before = error_rate(references, transcripts[: len(items)], "en")
                after = error_rate(references, transcripts[len(items) :], "en")
                self.add(f"original WER by {recognizer}, {name}", before.rate, before.num_texts, "%", "", how)
                limit = f"<= {before.rate + 0.05:.4f}"
                self.add(f"reconstruction WER by {recognizer}, {name}", after.rate, after.num_texts, "%", limit, how)

    # -- bookkeeping -------------------------------------------------------------------------------------------

    def _detail(
        self, task: str, answers: Sequence[Answer], transcripts: Sequence[str] = (), right: Sequence[bool] = ()
    ) -> None:
        for index, answer in enumerate(answers):
            row = {key: value for key, value in dataclasses.asdict(answer).items() if key != "sound"}
            row |= {"task": task, "right": right[index] if right else answer.right}
            self.details.append(row | ({"transcript": transcripts[index]} if transcripts else {}))

    def by_skill(self) -> list[Metric]:
        """Right written answers to speech, skill by skill."""
        groups: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for row in self.details:
            if row["task"] == "speech_to_text":
                groups[row["language"], row["skill"]].append(row["right"])
        return [
            Metric(f"{LANGUAGE_NAMES[language]}, {skill}", _share(right), len(right), "%")
            for (language, skill), right in sorted(groups.items())
        ]


def evaluate_nano(
    model_dir: str | os.PathLike[str],
    corpus_root: str | os.PathLike[str],
    limit: int = 200,
    output: str | os.PathLike[str] = "work/nano_evaluation/results",
    processes: int = 0,
    parts: Sequence[str] = PARTS,
    whisper_model: str | None = None,
    split: str = "test",
) -> list[Metric]:
    """Examine a trained nano on the held-out items of its corpus.

    Writes `metrics.json`, `metrics.md`, `skills.md`, `details.jsonl`, `mels.png`, `latency.png` and a few spoken
    answers (`sounds/`) into `output`.

    Args:
        model_dir: checkpoint directory.
        corpus_root: folder of the corpus: clip store and `dialogues.jsonl`.
        limit: questions a language; the other figures use a fixed part of it.
        output: folder for the results.
        processes: of the independent recognizers; 0: one a CPU core.
        parts: which measurements, out of PARTS.
        whisper_model: a size or folder for faster-whisper: Whisper then hears Mandarin answers and rebuilt clips.
        split: "test", or "validation": for choosing between models, so that the test items have no part in it.

    Raises ConfigError for an unknown part or Whisper model, DataError for a missing corpus, CheckpointError for a bad
    model, MissingDependencyError for a recognizer that is not installed.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"there is no measurement '{unknown[0]}'; there are {', '.join(PARTS)}.")
    held_out = HeldOut(corpus_root, split)
    model = optimize_for_inference(load(model_dir, dtype=torch.float32))
    recognizers = Recognizers(held_out, processes or os.cpu_count() or 1, _progress, whisper_model)
    evaluation = Evaluation(model, held_out, limit, recognizers, _progress)
    evaluation.run(parts)
    evaluation.metrics.sort(key=lambda figure: not figure.target)  # what has a target stands first
    output = Path(output)
    facts = {
        "items": f"at most {limit} questions a language, "
        + ("held out by content and by voice" if split == "test" else "held out by content, in voices of training"),
        "threads": torch.get_num_threads(),
        "Mandarin speech": recognizers.for_choosing,
    }
    write_metrics(evaluation.metrics, evaluation.details, facts, output)
    if "written" in parts:
        (output / "skills.md").write_text(markdown_table(evaluation.by_skill()), encoding="utf-8")
    (output / "sounds").mkdir(exist_ok=True)
    for name, sound in evaluation.spoken.items():
        save_waveform(output / "sounds" / f"{name}.wav", torch.from_numpy(sound), SAMPLE_RATE)
    if evaluation.sounds:
        plot_mels(evaluation.sounds, SAMPLE_RATE, output / "mels.png")
    if evaluation.times[0]:
        plot_latency(*evaluation.times, output / "latency.png")
    return evaluation.metrics


def _progress(items: Iterable[Any], label: str, count: int) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    shown: Iterable[Any] = tqdm(items, desc=label, total=count, unit="item", dynamic_ncols=True)
    return shown


def _share(values: Iterable[bool]) -> float:
    return _mean(float(value) for value in values)


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept) if kept else 0.0

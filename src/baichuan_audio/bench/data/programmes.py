"""Simulated programmes: several speakers with pauses, overlap and beds, and the truth about every moment."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from ...data.pipeline.audio_access import Samples
from ...data.store.records import SAMPLE_RATE
from .clips import Clip, TrueWord, clipped, music, noise, quiet_stretches, speech_bounds, telephone


@dataclass(frozen=True)
class TrueTurn:
    """One clip of a programme, in seconds of the programme: where its speech begins and ends, its words where their
    times are known, and the pauses (start, end) within it, by the power of the clean clip."""

    speaker: str
    text: str
    start: float
    end: float
    words: tuple[TrueWord, ...] = ()
    pauses: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Truth:
    """A programme. bed: "", "music" or "noise", at `bed_db` below the speech. condition: "", "8 kHz" or "clipped"."""

    id: str
    language: str
    seconds: float
    turns: tuple[TrueTurn, ...]
    bed: str = ""
    bed_db: float = 0.0
    condition: str = ""


def write_programmes(
    clips: Sequence[Clip],
    folder: Path,
    count: int,
    seconds: float,
    seed: int,
    *,
    given: bool = False,
    overlap: float = 0.1,
    beds: float = 0.5,
    broken: float = 0.1,
) -> list[Truth]:
    """Writes `count` programmes of about `seconds` with `manifest.jsonl` and `truth.jsonl`; returns their truth.

    given: the manifest holds the turns' texts and times, as subtitles would. overlap: share of turns that begin before
    the one before has ended. beds: share of programmes with music or noise, 0 to 20 dB below the speech. broken: share
    of programmes at 8 kHz, and the same again clipped. Languages take turns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    by_language: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        by_language[clip.language][clip.speaker].append(clip)
    languages = sorted(by_language)
    truths: list[Truth] = []
    rows = []
    for number in range(count):
        language = languages[number % len(languages)]
        truth, samples = _programme(
            f"programme-{number:03d}", language, by_language[language], seconds, rng, overlap, beds, broken
        )
        soundfile.write(folder / f"{truth.id}.wav", samples, SAMPLE_RATE)
        truths.append(truth)
        turns = [{"start": t.start, "end": t.end, "text": t.text} for t in truth.turns] if given else []
        row = {"id": truth.id, "path": f"{truth.id}.wav", "license": "mixed", "source": truth.bed or "clean"}
        rows.append({**row, **({"language": language, "utterances": turns} if given else {})})
    _lines(folder / "manifest.jsonl", rows)
    _lines(folder / "truth.jsonl", [asdict(truth) for truth in truths])
    return truths


def _programme(
    name: str,
    language: str,
    speakers: dict[str, list[Clip]],
    seconds: float,
    rng: np.random.Generator,
    overlap: float,
    beds: float,
    broken: float,
) -> tuple[Truth, Samples]:
    count = min(len(speakers), int(rng.integers(2, 7)))
    names = sorted(speakers)
    cast = [names[index] for index in rng.choice(len(names), count, replace=False)]
    sound = np.zeros(int((seconds + 40) * SAMPLE_RATE), np.float32)
    position, last = rng.uniform(0.3, 1.0), ""
    turns: list[TrueTurn] = []
    used: set[str] = set()
    while position < seconds:
        options = [speaker for speaker in cast if speaker != last] or cast
        speaker = options[int(rng.integers(len(options)))]
        fresh = [clip for clip in speakers[speaker] if clip.id not in used] or speakers[speaker]
        clip = fresh[int(rng.integers(len(fresh)))]
        used.add(clip.id)
        samples = clip.samples()
        first, end = speech_bounds(samples)
        # What surrounds the speech of a clip is faded, so that its own noise does not tell where it was put in.
        samples = _faded(samples, first, end)
        if turns and rng.random() < overlap:
            position = max(turns[-1].start + 0.5, turns[-1].end - rng.uniform(0.3, 1.0))
        at = round((position - first) * SAMPLE_RATE)
        begin = max(0, at)
        piece = samples[begin - at :][: len(sound) - begin]
        sound[begin : begin + len(piece)] += piece
        shift = at / SAMPLE_RATE
        words = tuple(TrueWord(w.text, w.start + shift, w.end + shift) for w in clip.words)
        pauses = tuple((a + shift, b + shift) for a, b in quiet_stretches(clip.samples(), first, end))
        turns.append(TrueTurn(speaker, clip.transcript, first + shift, end + shift, words, pauses))
        position, last = turns[-1].end + rng.uniform(0.2, 3.0), speaker
    length = max(turn.end for turn in turns) + 0.5
    sound = sound[: int(length * SAMPLE_RATE)]
    bed = str(rng.choice(["music", "noise"])) if rng.random() < beds else ""
    bed_db = float(rng.uniform(0, 20)) if bed else 0.0
    if bed:
        ground = (music if bed == "music" else noise)(len(sound) / SAMPLE_RATE + 0.01, rng)[: len(sound)]
        speech = float((sound**2).mean()) * len(sound) / SAMPLE_RATE / sum(turn.end - turn.start for turn in turns)
        sound = sound + ground * np.float32(np.sqrt(speech / (ground**2).mean()) * 10 ** (-bed_db / 20))
    condition = ""
    chance = rng.random()
    if chance < broken:
        condition, sound = "8 kHz", telephone(sound)
    elif chance < 2 * broken:
        condition, sound = "clipped", clipped(sound, 4.0)
    sound = sound / max(1.0, float(np.abs(sound).max()) * 1.02)
    return Truth(name, language, len(sound) / SAMPLE_RATE, tuple(turns), bed, bed_db, condition), sound


def _faded(samples: Samples, first: float, end: float) -> Samples:
    fade = SAMPLE_RATE // 50
    faded = samples.copy()
    start, stop = max(0, int(first * SAMPLE_RATE) - 2 * fade), min(len(samples), int(end * SAMPLE_RATE) + 2 * fade)
    faded[:start] = 0
    faded[stop:] = 0
    slope = np.linspace(0, 1, fade, dtype=np.float32)
    faded[start : start + fade] *= slope[: len(faded[start : start + fade])]
    faded[max(start, stop - fade) : stop] *= slope[::-1][: stop - max(start, stop - fade)]
    return faded


def _lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

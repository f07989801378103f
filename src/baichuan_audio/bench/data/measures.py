"""What a run found against the truth of its programmes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.pipeline.engine.outputs import read_output
from ...data.pipeline.run import RunResult
from ...data.pipeline.spoken_units import units
from ...data.store.records import SAMPLE_RATE, Piece
from .programmes import TrueTurn, Truth

STEP_S = 0.01
COLLAR_S = 0.25
_PAUSE_S = 0.3  # a pause within a turn from which on it is no speech


def pieces_of(result: RunResult, source: str, stage: str) -> list[Piece]:
    """The pieces that a stage kept of a source; none where it was not reached."""
    path = next((path for name, path in result.outputs.get(source, ()) if name == stage), None)
    return list(read_output(Path(path), Piece).kept) if path else []


def detection_error(truth: Truth, pieces: Sequence[Piece]) -> tuple[float, float, float]:
    """Seconds missed, seconds of false alarm and seconds judged; within COLLAR_S of a true border nothing counts."""
    speech, judged = _grid(truth), np.ones(round(truth.seconds / STEP_S), bool)
    for turn in truth.turns:
        for border in (turn.start, turn.end, *(border for pause in _long_pauses(turn) for border in pause)):
            judged[max(0, round((border - COLLAR_S) / STEP_S)) : round((border + COLLAR_S) / STEP_S)] = False
    detected = np.zeros(len(speech), bool)
    for piece in pieces:
        detected[_place(piece.start) : _place(piece.end)] = True
    missed, false = (speech & ~detected & judged).sum(), (~speech & detected & judged).sum()
    return float(missed) * STEP_S, float(false) * STEP_S, float((speech & judged).sum()) * STEP_S


def _grid(truth: Truth) -> NDArray[np.bool_]:
    speech = np.zeros(round(truth.seconds / STEP_S), bool)
    for turn in truth.turns:
        turn_mask = np.zeros(len(speech), bool)
        turn_mask[round(turn.start / STEP_S) : round(turn.end / STEP_S)] = True
        for start, end in _long_pauses(turn):
            turn_mask[round(start / STEP_S) : round(end / STEP_S)] = False
        speech |= turn_mask
    return speech


def _long_pauses(turn: TrueTurn) -> list[tuple[float, float]]:
    return [(start, end) for start, end in turn.pauses if end - start >= _PAUSE_S]


def _place(sample: int) -> int:
    return round(sample / SAMPLE_RATE / STEP_S)


@dataclass(frozen=True)
class SpeakerFigures:
    """Of the time that is spoken in the pieces (two at once count twice): piece_purity: that of the pieces' main
    speakers; purity: that of the clusters' main speakers; coverage: what of each speaker is in one cluster.
    ari: adjusted Rand index of clusters and main speakers, by pieces. overlap: share of the time in which two speak.
    clusters, speakers: how many."""

    piece_purity: float
    purity: float
    coverage: float
    ari: float
    overlap: float
    clusters: int
    speakers: int


def speaker_figures(truths: Sequence[Truth], pieces: Mapping[str, Sequence[Piece]]) -> SpeakerFigures:
    """pieces: programme -> its pieces with the clusters' names as speakers."""
    pure = both = 0.0
    by_speaker: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    by_cluster: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    labels: list[tuple[str, str]] = []
    for truth in truths:
        for piece in pieces.get(truth.id, ()):
            shares: dict[str, float] = defaultdict(float)
            start, end = piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE
            counts = np.zeros(max(1, round((end - start) / STEP_S)), int)
            for turn in truth.turns:
                inside = min(end, turn.end) - max(start, turn.start)
                if inside > 0:
                    shares[turn.speaker] += inside
                    first = round((max(start, turn.start) - start) / STEP_S)
                    counts[first : first + round(inside / STEP_S)] += 1
            if not shares:
                continue
            cluster = piece.speaker or ""
            for speaker, seconds in shares.items():
                by_speaker[speaker][cluster] += seconds
                by_cluster[cluster][speaker] += seconds
            pure += max(shares.values())
            both += float((counts > 1).sum()) * STEP_S
            labels.append((max(shares, key=lambda speaker: shares[speaker]), cluster))
    spoken = max(sum(sum(shares.values()) for shares in by_speaker.values()), 1e-9)
    return SpeakerFigures(
        pure / spoken,
        sum(max(shares.values()) for shares in by_cluster.values()) / spoken,
        sum(max(shares.values()) for shares in by_speaker.values()) / spoken,
        adjusted_rand(labels),
        both / spoken,
        len(by_cluster),
        len({speaker for speaker, _ in labels}),
    )


def adjusted_rand(labels: Sequence[tuple[str, str]]) -> float:
    """Of pairs (true class, cluster); Hubert and Arabie 1985."""

    def pairs(counts: Counter[str] | Counter[tuple[str, str]]) -> float:
        return sum(n * (n - 1) / 2 for n in counts.values())

    together = pairs(Counter(labels))
    classes, clusters = pairs(Counter(a for a, _ in labels)), pairs(Counter(b for _, b in labels))
    every = len(labels) * (len(labels) - 1) / 2
    expected = classes * clusters / every if every else 0.0
    most = (classes + clusters) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def border_errors(truths: Sequence[Truth], pieces: Mapping[str, Sequence[Piece]]) -> dict[str, list[float]]:
    """Seconds between found and true borders, by kind: "clause" (first and last word of a turn against the speech of
    its clip) and "word" (where the clips' words have times); "failed": a 1 for each turn without times, else a 0."""
    errors: dict[str, list[float]] = {"clause": [], "word": [], "failed": []}
    for truth in truths:
        candidates = pieces.get(truth.id, ())
        for turn in truth.turns:
            words = _words_within(candidates, turn.start - 0.3, turn.end + 0.3)
            named = units(turn.text)
            match = _run_of(words, [unit.spoken for unit in named])
            errors["failed"].append(float(match is None))
            if match is None:
                continue
            errors["clause"] += [abs(match[0][1] - turn.start), abs(match[-1][2] - turn.end)]
            if len(turn.words) == len(match):
                for (_, start, end), true in zip(match, turn.words, strict=True):
                    errors["word"] += [abs(start - true.start), abs(end - true.end)]
    return errors


def _words_within(pieces: Sequence[Piece], start: float, end: float) -> list[tuple[str, float, float]]:
    return [
        (word.text.lower(), word.start / SAMPLE_RATE, word.end / SAMPLE_RATE)
        for piece in pieces
        for word in piece.words
        if start <= (word.start + word.end) / 2 / SAMPLE_RATE <= end
    ]


def _run_of(words: Sequence[tuple[str, float, float]], target: Sequence[str]) -> list[tuple[str, float, float]] | None:
    for first in range(len(words) - len(target) + 1):
        if [word for word, _, _ in words[first : first + len(target)]] == list(target):
            return list(words[first : first + len(target)])
    return None


def cut_figures(truths: Sequence[Truth], pieces: Mapping[str, Sequence[Piece]]) -> dict[str, float]:
    """cuts: between clauses; silent: share of them that lie in no true speech (between words, where their times are
    known, else between turns or where the clip itself pauses); wrong: words lost or doubled by cutting; on_frame: share
    of cuts on a code frame's border."""
    cuts = silent = wrong = on_frame = 0
    for truth in truths:
        for piece in pieces.get(truth.id, ()):
            wrong += abs(len(units(piece.text or "")) - sum(len(units(clause.text)) for clause in piece.clauses))
            for clause in piece.clauses[1:]:
                cuts += 1
                on_frame += (clause.start - piece.start) % 1920 == 0
                silent += _is_silent(truth, clause.start / SAMPLE_RATE)
    return {
        "cuts": float(cuts),
        "silent": silent / max(1, cuts),
        "wrong": float(wrong),
        "on_frame": on_frame / max(1, cuts),
    }


def _is_silent(truth: Truth, seconds: float) -> bool:
    for turn in truth.turns:
        if not turn.start < seconds < turn.end:
            continue
        if turn.words:
            if any(word.start + 0.01 < seconds < word.end - 0.01 for word in turn.words):
                return False
        elif not any(start - 0.01 <= seconds <= end + 0.01 for start, end in turn.pauses):
            return False
    return True


def quantiles(values: Sequence[float]) -> str:
    """Median and 95th percentile in ms."""
    if not values:
        return "-"
    median, high = np.quantile(values, [0.5, 0.95]) * 1000
    return f"median {median:.0f} ms, p95 {high:.0f} ms, n {len(values)}"

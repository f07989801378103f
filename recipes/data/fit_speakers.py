"""Fits the projection in which Resemblyzer's embeddings tell voices and not recordings: linear discriminant analysis.

    python recipes/data/fit_speakers.py speech/manifest.jsonl

Of each speaker a few recordings, each as it is, with noise, with music, and by telephone or clipped, are embedded; the
scatter within speakers, regularised, is whitened, and the directions that tell speakers apart are kept. The speakers by
whom `baichuan-audio bench data --metrics speech` judges take no part.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from baichuan_audio.bench.data.clips import Clip, clipped, judged, music, noise, speech_bounds, telephone
from baichuan_audio.data.pipeline.audio_access import ANALYSIS_RATE
from baichuan_audio.data.pipeline.backends import speakers
from baichuan_audio.data.pipeline.stages.speakers import windows_of
from baichuan_audio.data.store.records import SAMPLE_RATE

DIMENSIONS = 120
REGULARISATION = 1.0
"""Share of the mean variance within speakers that is added to every direction."""
RECORDINGS, SECONDS = 4, 8.0
"""Of each speaker, at most."""
CONDITIONS = ("clean", "noise", "music", "telephone or clipped")
Embeddings = NDArray[np.float32]


def read_speakers(manifest: Path) -> dict[str, list[Clip]]:
    """The clips of each speaker who is not left for judging; transcripts are not needed."""
    clips: dict[str, list[Clip]] = defaultdict(list)
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        clip = Clip(row["path"], manifest.parent / row["path"], row["language"], row["speaker"] or "", "", "", "")
        if clip.speaker and not judged(clip):
            clips[clip.speaker].append(clip)
    return dict(sorted(clips.items()))


def recordings_of(clips: list[Clip], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Speech of one speaker in a few recordings of different clips, [S] at 24 kHz."""
    count = RECORDINGS if len(clips) >= 2 * RECORDINGS else min(2, len(clips))
    order = [clips[index] for index in rng.permutation(len(clips))]
    recordings = []
    for number in range(count):
        parts: list[NDArray[np.float32]] = []
        for clip in order[number::count]:
            if sum(len(part) for part in parts) > SECONDS * SAMPLE_RATE:
                break
            samples = clip.samples()
            first, end = speech_bounds(samples)
            parts.append(samples[int(first * SAMPLE_RATE) : int(end * SAMPLE_RATE)])
        recordings.append(np.concatenate(parts)[: int(SECONDS * SAMPLE_RATE)])
    return [recording for recording in recordings if len(recording) >= 2 * SAMPLE_RATE]


def under(condition: str, samples: NDArray[np.float32], beds: dict[str, NDArray[np.float32]], rng: np.random.Generator):
    """A recording under one of CONDITIONS, [S] at 16 kHz; a bed is 0 to 20 dB below the speech."""
    bed = beds.get(condition) if condition in beds else beds[str(rng.choice(sorted(beds)))]
    if condition in beds or (condition != "clean" and rng.random() < 0.4):
        assert bed is not None
        start = int(rng.integers(len(bed) - len(samples)))
        part = bed[start : start + len(samples)]
        ratio = np.sqrt((samples**2).mean() / (part**2).mean()) * 10 ** (-rng.uniform(0, 20) / 20)
        samples = samples + part * np.float32(ratio)
    if condition == CONDITIONS[-1]:
        samples = telephone(samples) if rng.random() < 0.5 else clipped(samples, 4.0)
    samples = samples / max(1.0, float(np.abs(samples).max()) * 1.02)
    resampled = soxr.resample(samples, SAMPLE_RATE, ANALYSIS_RATE).astype(np.float32)
    return resampled * np.float32(0.1 / np.sqrt((resampled**2).mean()))


def embed(clips: dict[str, list[Clip]], seed: int) -> tuple[Embeddings, NDArray[np.str_]]:
    """Mean embeddings of unit length [N, D] of all recordings under all conditions, and their speakers [N]."""
    rng = np.random.default_rng(seed)
    beds = {"noise": noise(90.0, rng), "music": music(90.0, rng)}
    encode = speakers.Resemblyzer()
    size = round(encode.window_s * ANALYSIS_RATE)
    rows, names = [], []
    for speaker, group in clips.items():
        for recording in recordings_of(group, rng):
            for condition in CONDITIONS:
                mean = encode(windows_of(under(condition, recording, beds, rng), size, size // 2)).mean(axis=0)
                rows.append(mean / np.linalg.norm(mean))
                names.append(speaker)
    return np.stack(rows), np.array(names)


def fit(embeddings: Embeddings, names: NDArray[np.str_], dimensions: int = DIMENSIONS) -> tuple[Embeddings, Embeddings]:
    """-> the mean [D] and the matrix [D, E] with which (embedding - mean) @ matrix has whitened speakers."""
    mean = embeddings.mean(axis=0)
    within, between = np.zeros((2, embeddings.shape[1], embeddings.shape[1]))
    for name in np.unique(names):
        group = embeddings[names == name]
        centre = group.mean(axis=0)
        within += (group - centre).T @ (group - centre) / len(embeddings)
        between += len(group) / len(embeddings) * np.outer(centre - mean, centre - mean)
    within += REGULARISATION * np.trace(within) / len(within) * np.eye(len(within))
    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values)
    _, directions = np.linalg.eigh(whitening.T @ between @ whitening)
    return mean, (whitening @ directions[:, ::-1][:, :dimensions]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(speakers.__file__).with_name("resemblyzer_lda.npz"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    embeddings, names = embed(read_speakers(arguments.manifest), arguments.seed)
    mean, matrix = fit(embeddings, names)
    np.savez(arguments.output, mean=mean.astype(np.float16), matrix=matrix.astype(np.float16))
    print(f"{len(embeddings)} recordings of {len(np.unique(names))} speakers -> {arguments.output}")


if __name__ == "__main__":
    main()

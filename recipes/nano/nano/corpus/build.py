"""Builds the nano corpus: real recordings packed, then every planned clip spoken by child processes.

    clips.jsonl, waveforms.int16   in `audio/`: the store, readable while it grows
    dialogues.jsonl                who asks what and which clips answer; first with all that are planned

Stopped and started again, the builder goes on with the clips that are missing.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_audio.data.dialogues import write_dialogues
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter, normalise_transcript, to_int16
from baichuan_audio.data.synth.augment import AugmentConfig, augment
from baichuan_audio.errors import DataError

from .engines import find_program, pinyin, synthesize
from .plan import Job, Plan, PlanSizes
from .recordings import RealSplit, pack_recordings, read_recordings

LICENSES = {
    "festival": "CMU/Festival (synthetic speech, free)",
    "flite": "CMU/Flite (synthetic speech, free)",
    "espeak": "espeak-ng (synthetic speech, free)",
}
_BATCH = 12


@dataclass(frozen=True)
class CorpusRecipe:
    """What `build_corpus` makes."""

    seed: int = 0
    recordings: tuple[str, ...] = ()
    """Real speech: manifests, folders of LibriSpeech's or AISHELL-1's layout (`read_recordings`); a relative path
    counts from the working directory. None: a corpus of synthetic speech alone."""
    real_validation_share: float = 0.05
    real_test_speakers: tuple[str, ...] = ()
    real_shared_folders: tuple[str, ...] = ()
    sizes: PlanSizes = field(default_factory=PlanSizes)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    processes: int = 2


def build_corpus(recipe: CorpusRecipe, output: str | Path, progress: bool = True) -> None:
    """Writes the corpus to `output`; see the head of this file for its layout.

    Raises:
        MissingDependencyError: a text-to-speech program or pypinyin is not installed (checked before any work).
        DataError: one of the `recordings` is not there or of no known layout (checked before any work), or more
            than a hundredth of the clips failed.
    """
    for program in ("flite", "festival", "espeak-ng"):
        find_program(program)
    pinyin("你好")
    recordings = [recording for source in recipe.recordings for recording in read_recordings(source)]
    output = Path(output)
    plan = Plan(recipe.seed, recipe.sizes)
    with ClipWriter(output / "audio") as writer:
        if recordings:
            split = RealSplit(recipe.real_validation_share, recipe.real_test_speakers, recipe.real_shared_folders)
            pack_recordings(recordings, writer, split, progress=progress)
            plan.add_real_words(ClipStore(output / "audio").select(kind="real", language="en"))
        write_dialogues(plan.dialogues, output / "dialogues.jsonl")
        failed = _speak(plan, recipe, writer, progress)
        # A reply only test spoke before may be one that training speaks in a longer corpus.
        writer.set_splits({job.id: job.split for job in plan.jobs.values()})
        ids = set(writer.ids)
    if len(failed) > 0.01 * len(plan.jobs):
        raise DataError(f"{len(failed)} of {len(plan.jobs)} clips could not be spoken, e.g. {failed[0]}")
    complete = [dialogue for dialogue in plan.dialogues if _clip_ids(dialogue) <= ids]
    write_dialogues(complete, output / "dialogues.jsonl")


def _speak(plan: Plan, recipe: CorpusRecipe, writer: ClipWriter, progress: bool) -> list[str]:
    waiting = [job for job in plan.jobs.values() if job.id not in writer.ids]
    batches = list(_batches(waiting, recipe.seed))
    failed: list[str] = []
    from tqdm import tqdm  # an extra's library, so not at the top

    bar = tqdm(total=len(waiting), desc="synthetic speech", unit="clip", disable=not progress)
    with ProcessPoolExecutor(recipe.processes) as pool:
        results = pool.map(_speak_batch, batches, [recipe.augment] * len(batches))
        for batch, waveforms in zip(batches, results, strict=True):
            for job, waveform in zip(batch, waveforms, strict=True):
                if waveform is None:
                    failed.append(f"{job.text!r} by {job.speaker}")
                else:
                    _add(writer, job, waveform)
            bar.update(len(batch))
    bar.close()
    return failed


def _batches(jobs: list[Job], seed: int) -> Iterator[list[Job]]:
    """Jobs of one voice together, in an order that mixes voices from the start."""
    by_setting: dict[Any, list[Job]] = {}
    for job in jobs:
        by_setting.setdefault((job.setting, job.language), []).append(job)
    rng = random.Random(seed)
    batches = []
    for group in by_setting.values():
        rng.shuffle(group)
        batches += [group[start : start + _BATCH] for start in range(0, len(group), _BATCH)]
    rng.shuffle(batches)
    yield from batches


def _speak_batch(batch: list[Job], config: AugmentConfig) -> list[np.ndarray | None]:
    """The waveforms of a batch as int16; None for a text that its engine cannot speak even by itself."""
    texts, first = [job.text for job in batch], batch[0]
    waveforms: list[np.ndarray | None] = []
    try:
        waveforms += synthesize(texts, first.language, first.setting)
    except DataError:
        for text in texts:
            try:
                waveforms += synthesize([text], first.language, first.setting)
            except DataError:
                waveforms.append(None)
    return [
        None if waveform is None else to_int16(_finished(job, waveform, config))
        for job, waveform in zip(batch, waveforms, strict=True)
    ]


def _finished(job: Job, waveform: np.ndarray, config: AugmentConfig) -> np.ndarray:
    return augment(waveform, zlib.crc32(job.id.encode()), config) if job.augment else waveform


def _add(writer: ClipWriter, job: Job, waveform: np.ndarray) -> None:
    writer.add(
        waveform,
        id=job.id,
        language=job.language,
        speaker=job.speaker,
        transcript=normalise_transcript(job.text, job.language),
        source="synthetic",
        license=LICENSES[job.setting.engine],
        split=job.split,
        kind=job.kind,
        text=job.text,
    )


def _clip_ids(dialogue: dict[str, Any]) -> set[str]:
    messages = dialogue["messages"]
    parts = [*messages, *(segment for message in messages for segment in message.get("segments", ()))]
    return {part["audio"] for part in parts if part.get("audio")}

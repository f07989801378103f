"""`baichuan-audio bench data`: the table of docs/data.md."""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ...config import strict
from ...data.pipeline.engine.cross_stage import run_cross_stage
from ...data.pipeline.engine.journal import stage_times
from ...data.pipeline.engine.local import Executor, LocalExecutor
from ...data.pipeline.engine.outputs import read_output
from ...data.pipeline.engine.ray_executor import RayExecutor
from ...data.pipeline.engine.source_task import RunStages
from ...data.pipeline.plan import plan_yield
from ...data.pipeline.recipe import PipelineRecipe
from ...data.pipeline.run import run_pipeline, source_tasks
from ...data.store.records import Piece
from ...errors import ConfigError
from .clips import Clip, judged, read_clips
from .faults import FaultRow, faults_table, measure_faults, write_faults
from .measures import border_errors, cut_figures, detection_error, pieces_of, quantiles, speaker_figures
from .programmes import Truth, write_programmes
from .resume import measure_kills, measure_ways
from .spoken_words import write_clips

T = TypeVar("T")
R = TypeVar("R")
PARTS = ("words", "cuts", "speech", "faults", "plan", "memory", "kills", "ways")
# Texts as they are given are believed; nothing is dropped for how it sounds.
_GIVEN: Mapping[str, Any] = {
    "language": {"backend": "declared"},
    "recognise": {"recognisers": ()},
    "quality": {"mos": 0.0, "bandwidth_hz": 0.0, "tones": 2.0, "clipping": 99.0},
    "speakers": {"change_given": -1.0, "mixture": 9.0},
    "duplicates": {"difference": 0.0},
}


def measure_data(
    manifest: str,
    folder: Path,
    whisper: str,
    hours: float,
    per_fault: int,
    parts: tuple[str, ...] = PARTS,
    progress: Callable[[str], None] = lambda what: None,
    draw: int = 0,
) -> tuple[dict[str, Any], str]:
    """Figures and their table. manifest: clean clips; hours of programmes; items of each fault; whisper: its model;
    draw: other programmes and items with another number, to confirm what was chosen on those of 0.

    Raises:
        ConfigError: there is no such part.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"no part '{unknown[0]}' of this benchmark; there are {', '.join(PARTS)}.")
    figures: dict[str, Any] = {}
    lines = ["| what | measured |", "| --- | --- |"]
    tables = ""
    for part in parts:
        progress(part)
        root = folder / part
        if part in ("words", "cuts"):
            values = _borders(part, manifest, root, hours, draw)
        elif part == "speech":
            values = _speech(manifest, root, hours, draw)
        elif part == "faults":
            rows, clean = _faults(manifest, root, per_fault, whisper, draw)
            figures[part] = [asdict(row) for row in (*rows, clean)]
            tables = "\n" + faults_table(rows, clean)
            continue
        elif part == "plan":
            values = _plan(manifest, root, hours, draw)
        elif part == "memory":
            values = _memory(manifest, root, hours)
        elif part == "kills":
            values = _kills(manifest, root)
        else:
            values = _ways(manifest, root)
        figures[part] = values
        lines += [f"| {part}: {name} | {value} |" for name, value in values.items()]
    return figures, "\n".join(lines) + "\n" + tables


def _recipe(root: Path, values: Mapping[str, Any]) -> PipelineRecipe:
    """The values below `root`; its manifest, work and shards are there."""
    places = {"sources": str(root / "manifest.jsonl"), "work": str(root / "work"), "output": str(root / "shards")}
    return strict(PipelineRecipe, json.loads(json.dumps({**places, **values})), "bench data")


def _borders(part: str, manifest: str, root: Path, hours: float, draw: int) -> dict[str, str]:
    """Words and clauses against the times that the engines which spoke them give; cuts on recordings of people."""
    clips = read_clips(manifest, (), 2.5)
    if part == "words":
        texts = {
            language: [c.transcript for c in clips if c.language == language and 10 < len(c.transcript) < 90][:60]
            for language in ("en", "zh")
        }
        clips = read_clips(write_clips(texts["en"], texts["zh"], root / "clips"), (), 1.0)
    minutes = max(2, round(hours * 60 / 2))
    truths = write_programmes(clips, root, minutes, 60.0, 3 + draw, given=True, overlap=0.0, beds=0.0, broken=0.0)
    result = run_pipeline(_recipe(root, _GIVEN))
    rows: dict[str, str] = {}
    for language in ("en", "zh"):
        subset = [truth for truth in truths if truth.language == language]
        if part == "cuts":
            cuts = cut_figures(subset, {truth.id: pieces_of(result, truth.id, "cut") for truth in subset})
            rows[f"{language} cuts"] = (
                f"{cuts['cuts']:.0f}, in silence {cuts['silent']:.3f}, on a frame {cuts['on_frame']:.3f}, "
                f"words lost or doubled {cuts['wrong']:.0f}"
            )
            continue
        errors = border_errors(subset, {truth.id: pieces_of(result, truth.id, "align") for truth in subset})
        rows[f"{language} words"] = quantiles(errors["word"])
        rows[f"{language} clauses"] = quantiles(errors["clause"])
        rows[f"{language} failed"] = f"{sum(errors['failed']):.0f} of {len(errors['failed'])}"
    return {**rows, **_speed(root, truths)}


def _speech(manifest: str, root: Path, hours: float, draw: int) -> dict[str, str]:
    """Voice activity and speakers, of programmes with overlap, beds, telephones and clipping."""
    clips = [clip for clip in read_clips(manifest, (), 2.5) if judged(clip)]
    truths = write_programmes(clips, root, max(2, round(hours * 30)), 120.0, 3 + draw)
    recipe = _recipe(root, {})
    stages = (recipe.standardise, recipe.vad, recipe.speakers)
    outcomes = {}
    for task, outcome in LocalExecutor(0).map(RunStages(stages, recipe.work), source_tasks(recipe)):
        if outcome is not None and not outcome.problem:
            outcomes[task.source] = outcome
    rows: dict[str, str] = {}
    for name, subset in _conditions(truths).items():
        errors = [
            detection_error(truth, read_output(Path(dict(outcomes[truth.id].outputs)["vad"]), Piece).kept)
            for truth in subset
            if truth.id in outcomes
        ]
        missed, false, speech = (sum(column) for column in zip(*errors, strict=True))
        rows[f"VAD, {name}"] = f"missed {missed / speech:.4f}, false alarm {false / speech:.4f}"
    files = {source: (outcome.outputs[-1][1], Piece) for source, outcome in outcomes.items()}
    clusters = run_cross_stage(recipe.across[-1], Path(recipe.work), files)
    pieces = {source: read_output(Path(path), Piece).kept for source, (path, _) in clusters.items()}
    for name, subset in {**_conditions(truths), "all": truths}.items():
        f = speaker_figures(subset, pieces)
        rows[f"speakers, {name}"] = (
            f"purity of pieces {f.piece_purity:.3f}, of clusters {f.purity:.3f}, coverage {f.coverage:.3f}, "
            f"ARI {f.ari:.3f}, overlap {f.overlap:.3f}, "
            f"{f.clusters} clusters of {f.speakers} speakers"
        )
    return {**rows, **_speed(root, truths)}


def _conditions(truths: list[Truth]) -> dict[str, list[Truth]]:
    clean = [truth for truth in truths if not truth.bed and not truth.condition]
    beds = [truth for truth in truths if truth.bed and not truth.condition]
    return {name: subset for name, subset in (("clean", clean), ("beds 0-20 dB", beds)) if subset}


def _speed(root: Path, truths: list[Truth]) -> dict[str, str]:
    seconds = sum(truth.seconds for truth in truths)
    times = stage_times(root / "work")
    return {"hours": f"{seconds / 3600:.2f}"} | {
        f"speed, {stage}": f"{seconds / figures.cpu:.0f} x real time (CPU)"
        for stage, figures in times.items()
        if figures.cpu > 0.05
    }


def _faults(manifest: str, root: Path, per_fault: int, whisper: str, draw: int) -> tuple[list[FaultRow], FaultRow]:
    clips = read_clips(manifest, (), 3.0)
    by_language = [[clip for clip in clips if clip.language == language] for language in ("en", "zh")]
    # As many clean items as there are broken ones, and more: five in a hundred are of each fault.
    per_language = per_fault * 20 // 2
    chosen: list[Clip] = []
    for group in by_language:
        step = max(1, len(group) // per_language)
        chosen += group[draw % step :: step][:per_language]
    faults = write_faults(chosen, root, per_fault, draw)
    model = f"whisper:{whisper}"
    values = {"language": {"backend": model}, "recognise": {"recognisers": [model, "pocketsphinx"]}}
    return measure_faults(_recipe(root, values), faults, LocalExecutor(0))


def _plan(manifest: str, root: Path, hours: float, draw: int) -> dict[str, str]:
    """The yield that is told when a pilot is sure within a twentieth, against the real one."""
    count = max(8, round(hours * 60))
    write_programmes(read_clips(manifest, (), 2.5), root, count, 60.0, 7 + draw, given=True, beds=0.5, broken=0.1)
    filters = {"quality": {"mos": 0.0}, "speakers": {"mixture": 0.4}, "duplicates": {"difference": 0.0}}
    recipe = _recipe(root, {**_GIVEN, **filters})
    estimate = plan_yield(recipe, within=0.05)
    result = run_pipeline(recipe)
    kept = sum(piece.seconds for source in result.outputs for piece in pieces_of(result, source, "cut")) / 3600
    off = 100 * (estimate.kept / max(kept, 1e-9) - 1)
    return {
        "yield": f"told {estimate.kept:.3f} h (standard error {estimate.error:.3f}), made {kept:.3f} h "
        f"of {estimate.hours_in:.3f} h, {estimate.known:.3f} h of them as pilot: {off:+.1f} %"
    }


def _memory(manifest: str, root: Path, hours: float) -> dict[str, str]:
    """The most memory of a worker on one file of so many hours, through all stages and the shards. One person speaks
    with short pauses, so that passages reach their full length; transcripts are given."""
    clips = read_clips(manifest, (), 2.5)
    speaker, _ = Counter(clip.speaker for clip in clips).most_common(1)[0]
    monologue = [clip for clip in clips if clip.speaker == speaker]
    truth = write_programmes(monologue, root, 1, hours * 3600, 9, given=True, beds=0.0, broken=0.0)[0]
    executor = _Measured()
    result = run_pipeline(_recipe(root, {**_GIVEN, "quality": {"mos": 1.0, "mos_share": 0.2}}), executor)
    longest = max(entry.seconds for entry in result.entries)
    return {
        "one file": f"{truth.seconds / 3600:.2f} h, {executor.most:.2f} GB, {truth.seconds / executor.cpu:.0f} x real "
        f"time (CPU), longest sample {longest:.0f} s"
    }


@dataclass
class _Measured:
    """An executor of one worker that notes its peak of memory in GB, and its CPU seconds."""

    most: float = 0.0
    cpu: float = 0.0

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]:
        for task, answer in LocalExecutor(1).map(_WithFigures(function), tasks):
            if answer is None:
                yield task, None
                continue
            result, most, cpu = answer
            self.most, self.cpu = max(self.most, most), self.cpu + cpu
            yield task, result


@dataclass(frozen=True)
class _WithFigures(Generic[T, R]):
    """Runs a task in a worker -> its result, the worker's peak of memory in GB so far, CPU seconds of the task."""

    function: Callable[[T], R]

    def __call__(self, task: T) -> tuple[R, float, float]:
        began = time.process_time()
        result = self.function(task)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return result, most, time.process_time() - began


def _small(manifest: str, root: Path, count: int) -> PipelineRecipe:
    clips = read_clips(manifest, (), 2.5)
    write_programmes(clips, root, count, 30.0, 5, given=True, beds=0.0, broken=0.0)
    return _recipe(root, _GIVEN)


def _kills(manifest: str, root: Path) -> dict[str, str]:
    result = measure_kills(_small(manifest, root, 6), root, 25, 2)
    return {
        "kill -9": f"{result.kills} kills, {result.repeated} tasks repeated by {result.workers} workers, "
        f"shards {'equal' if result.equal else 'DIFFERENT'}"
    }


def _ways(manifest: str, root: Path) -> dict[str, str]:
    ways: dict[str, Executor] = {
        "1 process": LocalExecutor(0),
        "1 worker": LocalExecutor(1),
        "2 workers": LocalExecutor(2),
        "4 workers": LocalExecutor(4),
        "Ray": RayExecutor(2),
    }
    rows = measure_ways(replace(_small(manifest, root, 24), shard_samples=20), root, ways)
    return {
        row.name: f"{row.wall:.1f} s, stages {row.stages:.1f} s, shards {'equal' if row.equal else 'DIFFERENT'}"
        for row in rows
    }

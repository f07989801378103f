"""The engine: outputs named by content, exact resume after kill -9, any number of workers, bad files, dead workers."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from baichuan_audio.data.pipeline.backends.registry import load_backend
from baichuan_audio.data.pipeline.engine.journal import task_starts
from baichuan_audio.data.pipeline.engine.local import LocalExecutor
from baichuan_audio.data.pipeline.engine.stage import code_digest
from baichuan_audio.data.pipeline.run import load_run, run_pipeline
from baichuan_audio.errors import MissingDependencyError

from .conftest import SIMPLE, simple_recipe, speech_like, write_sources


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_run_ends_in_shards_and_a_second_does_nothing(manifest: Path, tmp_path: Path):
    recipe = simple_recipe(tmp_path, manifest)
    result = run_pipeline(recipe)
    assert {entry.kind for entry in result.entries} == {"asr", "tts", "audio"}
    assert len(result.entries) == 12 and not result.set_aside and result.ran == 4 * 10
    before = fingerprint(tmp_path / "shards")
    again = run_pipeline(recipe)
    assert again.ran == 0 and fingerprint(tmp_path / "shards") == before


def test_a_changed_threshold_runs_only_what_follows(manifest: Path, tmp_path: Path):
    run_pipeline(simple_recipe(tmp_path, manifest))
    before = fingerprint(tmp_path / "shards")
    # It changes nothing in the records, so what follows `repetition` is not run either.
    looser = run_pipeline(simple_recipe(tmp_path, manifest, repetition={"repeated": 5}))
    assert looser.ran == 4 and fingerprint(tmp_path / "shards") == before
    longer = run_pipeline(simple_recipe(tmp_path, manifest, cut={"shortest_s": 0.5, "pause_s": 0.31}))
    assert longer.ran in (4, 8)


def test_comments_do_not_count_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = tmp_path / "some_code.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for text in (
        "def f():\n    return 1\n",
        '"""Words."""\n\ndef f():  # more\n    return 1\n',
        "def f():\n    return 2\n",
    ):
        module.write_text(text)
        code_digest.cache_clear()
        digests.append(code_digest("some_code"))
    code_digest.cache_clear()
    assert digests[0] != digests[2]
    module.write_text("# a comment\ndef f():\n    return 2\n")
    assert code_digest("some_code") == digests[2]
    code_digest.cache_clear()


def test_any_number_of_workers_makes_the_same_bytes(manifest: Path, tmp_path: Path):
    run_pipeline(simple_recipe(tmp_path / "inline", manifest))
    for workers in (1, 4):
        run_pipeline(simple_recipe(tmp_path / str(workers), manifest), LocalExecutor(workers))
        assert fingerprint(tmp_path / str(workers) / "shards") == fingerprint(tmp_path / "inline" / "shards")


def test_killed_anywhere_it_ends_in_the_same_bytes(tmp_path: Path):
    """kill -9 at random moments; no more tasks are begun twice than there were kills."""
    manifest = write_sources(tmp_path / "sources", 6)
    run_pipeline(simple_recipe(tmp_path / "whole", manifest))
    recipe = simple_recipe(tmp_path / "broken", manifest)
    rng, kills = random.Random(0), 0
    for _ in range(8):
        child = os.fork()
        if child == 0:  # must never return into pytest
            try:
                run_pipeline(recipe)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (tmp_path / "broken" / "shards").mkdir(exist_ok=True)
    (tmp_path / "broken" / "shards" / ".part-killed.jsonl").write_text("what a killed run may leave")
    run_pipeline(recipe)
    assert fingerprint(tmp_path / "broken" / "shards") == fingerprint(tmp_path / "whole" / "shards")
    assert kills and sum(count - 1 for count in task_starts(tmp_path / "broken" / "work").values()) <= kills


def test_bad_files_are_set_aside_with_their_reason(manifest: Path, tmp_path: Path):
    folder = manifest.parent
    wave = speech_like(2.0, 9)
    good = folder / "clip0.wav"
    files = {
        "empty.wav": b"",
        "cut.wav": good.read_bytes()[: good.stat().st_size // 2],
        "text.wav": b"no audio at all, only words" * 100,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    soundfile.write(folder / "nan.wav", wave * float("nan"), 24_000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", wave[:1200], 24_000)
    soundfile.write(folder / "silence.wav", wave * 0, 24_000)
    row = json.loads(manifest.read_text().splitlines()[0])
    names = [*files, "nan.wav", "short.wav", "silence.wav", "missing.wav"]
    with manifest.open("a") as file:
        file.writelines(json.dumps({**row, "path": name}) + "\n" for name in names)
    recipe = simple_recipe(tmp_path, manifest)
    result = run_pipeline(recipe)
    reasons = {name: reason.removeprefix("standardise: ") for name, reason in result.set_aside.items()}
    assert reasons["empty"] == "empty file" and reasons["cut"].startswith("truncated")
    assert "not audio" in reasons["text"] and "NaN" in reasons["nan"]
    assert reasons["short"].startswith("too short") and reasons["silence"] == "digital silence"
    assert reasons["missing"] == "the file is missing"
    assert len(result.entries) == 12
    outputs, set_aside = load_run(recipe.work)
    assert set(set_aside) == set(reasons) and outputs["cut"][0][0] == "standardise"


def test_files_of_phones_and_channels_in_opposite_phase_are_read(manifest: Path, tmp_path: Path):
    made_files = pytest.importorskip("made_files", exc_type=ImportError)  # PyAV
    wave, other = speech_like(3.0, 11, 48_000), speech_like(3.0, 12, 48_000)
    (manifest.parent / "phone.wav").write_bytes(made_files.encoded(wave[None], 48_000, "ipod", "aac", {}))
    soundfile.write(manifest.parent / "swapped.wav", np.stack([other, -0.9 * other], 1), 48_000)
    row = json.loads(manifest.read_text().splitlines()[0])
    manifest.write_text("".join(json.dumps({**row, "path": f"{name}.wav"}) + "\n" for name in ("phone", "swapped")))
    result = run_pipeline(simple_recipe(tmp_path, manifest))
    assert not result.set_aside and len(result.entries) == 6


def test_a_detector_of_overlap_drops_what_it_says(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a fake pyannote.audio that reports half a second of it in the first two pieces."""

    class Annotation:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def get_timeline(self):
            return SimpleNamespace(support=lambda: SimpleNamespace(duration=lambda: self.seconds))

    overlaps: list[float] = []

    def pipeline(sound: dict) -> Annotation:
        assert sound["sample_rate"] == 16_000 and sound["waveform"].shape[0] == 1
        overlaps.append(0.5 if len(overlaps) < 2 else 0.1)
        return Annotation(overlaps[-1])

    library = SimpleNamespace(Pipeline=SimpleNamespace(from_pretrained=lambda name: pipeline))
    monkeypatch.setitem(sys.modules, "pyannote", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pyannote.audio", library)
    try:
        result = run_pipeline(simple_recipe(tmp_path, manifest, speakers={**SIMPLE["speakers"], "overlap": "pyannote"}))
    finally:
        load_backend.cache_clear()  # backends are kept for the process
    assert len(overlaps) == 4 and len(result.entries) == 2 * 3


def test_a_missing_library_ends_the_run_with_one_sentence(manifest: Path, tmp_path: Path):
    recipe = simple_recipe(tmp_path, manifest, recognise={"recognisers": ["funasr:paraformer-zh"]})
    for executor in (LocalExecutor(0), LocalExecutor(1)):
        with pytest.raises(MissingDependencyError, match="funasr needs funasr: pip install funasr"):
            run_pipeline(recipe, executor)


def test_a_task_that_kills_its_worker_is_given_up_and_the_others_go_on():
    dies = "__import__('os').kill(__import__('os').getpid(), 9)"
    assert dict(LocalExecutor(2).map(eval, ["0", "1 + 1", dies, "9"])) == {"0": 0, "1 + 1": 2, dies: None, "9": 9}


def test_a_long_stretch_is_split_and_nothing_is_lost(tmp_path: Path):
    manifest = write_sources(tmp_path / "sources", 1, seconds=70.0)
    row = {**json.loads(manifest.read_text()), "transcript": None}
    row["utterances"] = []
    manifest.write_text(json.dumps(row) + "\n")
    from baichuan_audio.data.pipeline.engine.outputs import read_output
    from baichuan_audio.data.store.records import Piece

    vad = {"backend": "energy", "silence_s": 0.6, "longest_s": 20.0}
    result = run_pipeline(simple_recipe(tmp_path, manifest, vad=vad))
    path = next(path for stage, path in result.outputs["clip0"] if stage == "vad")
    pieces = read_output(Path(path), Piece).kept
    assert len(pieces) >= 4 and all(piece.seconds <= 20.0 for piece in pieces)
    assert all(one.end == other.start for one, other in itertools.pairwise(pieces))
    assert sum(piece.seconds for piece in pieces) > 69.5


def test_a_full_disk_ends_the_run_and_blames_no_source(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: soundfile.SoundFile, data: object) -> None:
        raise RuntimeError("No space left on device")

    recipe = simple_recipe(tmp_path, manifest)
    with monkeypatch.context() as patched:
        patched.setattr(soundfile.SoundFile, "write", full)
        with pytest.raises(OSError, match="cannot be written"):
            run_pipeline(recipe)
    assert len(run_pipeline(recipe).entries) == 12


def test_an_unexpected_failure_sets_one_source_aside_for_this_run(manifest: Path, tmp_path: Path):
    from baichuan_audio.data.pipeline.stages.repetition import Repetition

    recipe = simple_recipe(tmp_path, manifest)
    with pytest.MonkeyPatch.context() as patched:
        right = Repetition.run

        def wrong(self: Repetition, records: list, context: object) -> object:
            if records[0].source == "clip2":
                raise ZeroDivisionError("a mistake")
            return right(self, records, context)  # type: ignore[arg-type]

        patched.setattr(Repetition, "run", wrong)
        result = run_pipeline(recipe)
    assert result.set_aside == {"clip2": "repetition: ZeroDivisionError: a mistake"} and len(result.entries) == 9
    assert len(run_pipeline(recipe).entries) == 12

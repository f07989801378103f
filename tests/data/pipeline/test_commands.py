"""`baichuan-audio data ...`: the commands of docs/data.md, in this process, on tiny inputs."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from baichuan_audio.cli import main
from baichuan_audio.cli.app import build_parser
from baichuan_audio.config import strict
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.data.store.manifest import ClipStore
from baichuan_audio.data.store.shards import ShardReader

from .conftest import SIMPLE, speech_like, write_sources

ROOT = Path(__file__).parents[3]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four recordings and a recipe of theirs."""
    monkeypatch.chdir(tmp_path)
    write_sources(Path("speech"))
    recipe = {**SIMPLE, "sources": "speech/manifest.jsonl", "work": "work", "output": "shards"}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_run_plan_report_and_inspect(workplace: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "run", "recipe.yaml", "--dry-run", "--workers", "0"]) == 0
    assert "nothing is known yet" in capsys.readouterr().out
    assert main(["data", "run", "recipe.yaml", "--workers", "0", "--json"]) == 0
    made = said(capsys)
    assert made["samples"] == 12 and made["tasks"] == 40
    assert main(["data", "plan", "recipe.yaml", "--workers", "0", "--json"]) == 0
    plan = said(capsys)
    kept = sum(entry.seconds for entry in ShardReader("shards").entries if entry.kind == "asr") / 3600
    assert plan["known"] == plan["hours"] and plan["kept"] == pytest.approx(kept, abs=2e-4)
    (workplace / "speech" / "clip1.wav").write_bytes(b"")
    assert main(["data", "run", "recipe.yaml", "--workers", "0"]) == 0
    assert "set aside: clip1: standardise: empty file" in capsys.readouterr().out
    assert main(["data", "report", "recipe.yaml", "-o", "page.html", "--json"]) == 0
    report = said(capsys)
    assert report["dropped"] == {"standardise: empty file": {"tests": 1}} and "asr" in report["hours"]["kind"]
    assert report["voices"]["distinct"] >= 1
    page = (workplace / "page.html").read_text()
    assert page.count("<audio") == 9 and "clip1" in page and "bandwidth_hz" in page
    assert main(["data", "inspect", "shards"]) == 0
    names = capsys.readouterr().out.split()
    assert main(["data", "inspect", "shards", names[0], "--audio", "sample.wav"]) == 0
    assert "waveform" in capsys.readouterr().out and soundfile.info("sample.wav").samplerate == 24_000


def test_tokenize_and_export(workplace: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "run", "recipe.yaml", "--workers", "0"]) == 0
    words = ["data", "tokenize", "shards", "-o", "codes", "--model", str(tiny_dir), "--json"]
    capsys.readouterr()
    assert main(words) == 0 and said(capsys)["encoded"] == 12
    before = (workplace / "codes" / "train-000000.tar").read_bytes()
    assert main(words) == 0 and said(capsys)["encoded"] == 0
    assert (workplace / "codes" / "train-000000.tar").read_bytes() == before
    reader = ShardReader("codes")
    for entry in reader.entries:
        codes, sample = reader.codes(entry), reader.sample(entry)
        assert codes is not None and codes.shape[0] == 8 and abs(codes.shape[1] - sample.samples / 1920) <= 1.5
        audio = [segment for segment in sample.segments if segment.kind == "audio"]
        assert all(one.frames[1] == other.frames[0] for one, other in itertools.pairwise(audio))
        for segment in audio:
            assert abs(segment.frames[0] - segment.start / 1920) <= 1 >= abs(segment.frames[1] - segment.end / 1920)
    name = next(entry.id for entry in reader.entries if entry.kind == "tts")
    assert main(["data", "inspect", "codes", name, "--model", str(tiny_dir)]) == 0
    assert "audiogen_start" in capsys.readouterr().out
    assert main(["data", "export", "shards", "-o", "lhotse", "--json"]) == 0
    assert said(capsys)["cuts"] == 12
    lhotse = pytest.importorskip("lhotse")
    cuts = lhotse.CutSet.from_file("lhotse/cuts.jsonl.gz")
    cut = next(iter(cuts))
    assert cut.supervisions[0].custom["license"] == "CC0-1.0" and "segments" in cut.supervisions[0].custom
    assert cut.load_audio().shape == (1, cut.recording.num_samples)


def test_calibrate_proposes_what_separates_good_from_bad(workplace: Path, capsys: pytest.CaptureFixture[str]):
    manifest = workplace / "speech" / "manifest.jsonl"
    row = json.loads(manifest.read_text().splitlines()[0])
    labels = [{"id": f"clip{n}", "label": "good"} for n in range(4)]
    with manifest.open("a") as file:
        for number in range(3):
            wave = np.clip(speech_like(3.0, 20 + number), -0.03, 0.03)
            soundfile.write(workplace / "speech" / f"bad{number}.wav", wave, 24_000)
            file.write(json.dumps({**row, "path": f"bad{number}.wav"}) + "\n")
            labels.append({"id": f"bad{number}", "label": "clipping"})
    (workplace / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    words = ["data", "calibrate", "recipe.yaml", "--labels", "labels.jsonl", "--workers", "0"]
    assert main([*words, "quality.clipping=100000", "--json"]) == 0
    found = said(capsys)["quality.clipping"]
    assert found["caught_now"] == 0.0 and found["caught"] == 1.0 and found["lost"] == 0.0 and found["bad"] == 3
    assert main([*words]) == 0 and "quality.clipping=" in capsys.readouterr().out
    (workplace / "labels.jsonl").write_text('{"id": "clip0"}\n')
    assert main(words) == 2 and "is no row with `id` and `label`" in capsys.readouterr().err


def test_mistakes_are_told_in_one_sentence(workplace: Path, capsys: pytest.CaptureFixture[str]):
    for words, reason in (
        (["run", "recipe.yaml", "sources=nothing"], "there is no such manifest or folder"),
        (["run", "recipe.yaml", "qualty.mos=2"], "did you mean 'quality'"),
        (["run", "recipe.yaml", "texts=x"], "one of the three"),
        (["run", "recipe.yaml", "vad.backend=silerro"], "did you mean 'silero'"),
        (["run", "recipe.yaml", "--workers", "-1"], "0 or more"),
        (["run", "recipe.yaml", "align.aligners=[nothing]"], "no aligner backend 'nothing'"),
        (["run", "recipe.yaml", "--workers", "0", "standardise.shortest_s=90"], "all 4 sources were set aside"),
        (["report", "recipe.yaml", "work=elsewhere"], "no finished run"),
        (["inspect", "speech"], "no finished shards"),
    ):
        assert main(["data", *words]) == 2
        error = capsys.readouterr().err
        assert reason in error.strip().splitlines()[-1] and "Traceback" not in error, error


def test_the_commands_on_clip_stores_stand_beside_them():
    arguments = build_parser().parse_args(["data", "encode", "--corpus", "c", "--model", "x", "--threads", "1"])
    assert arguments.subcommand == "encode" and arguments.threads == 1


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_commands_of_the_page_run(workplace: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Those of docs/data.md, one after the other, with recipes that need no network."""
    folder = workplace / "recipes" / "data"
    folder.mkdir(parents=True)
    quick = {
        "crawled": SIMPLE,
        "text": {
            **SIMPLE,
            "license": "CC0-1.0",
            "synthesise": {"voices": ["espeak@en-us+f3"]},
            "voice_check": {"backend": "spectrum", "change": 0.0},
            "quality": {"mos": 0.0, "bandwidth_hz": 0, "clipping": 99, "tones": 2},
        },
        "no_speech": {"license": "CC0-1.0", "no_speech": {"count": 3}},
    }
    quick["text_voices"] = quick["text"]
    for name, values in quick.items():
        real = yaml.safe_load((ROOT / "recipes" / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
        strict(PipelineRecipe, real, name)
        places = {key: real[key] for key in ("sources", "texts", "work", "output") if key in real}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, **places}))
    (workplace / "texts.jsonl").write_text('{"text": "Good morning, dear friends of the sea."}\n')
    (workplace / "labels.jsonl").write_text('{"id": "clip0", "label": "good"}\n')
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    lines = re.findall(r"^baichuan-audio (data .*)$", page, flags=re.MULTILINE)
    assert len(lines) == 12
    for line in lines:
        words = line.partition("#")[0].split()
        options = {"tokenize": ["--model", str(tiny_dir)], "plan": ["--workers", "0"], "calibrate": ["--workers", "0"]}
        words = [*(word for word in words if word != "2"), *options.get(words[1], [])]
        if words[1] == "run":
            words = [word for word in words if word != "--workers"] + ["--workers", "0"]
        assert main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert len(ShardReader("work/data/text/shards")) and (workplace / "data.html").is_file()


def test_shards_become_a_clip_store(workplace: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "run", "recipe.yaml", "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(["data", "clips", "shards", "-o", "clips", "--json"]) == 0
    assert said(capsys)["clips"] == 4
    assert main(["data", "clips", "shards", "-o", "clips", "--json"]) == 0
    assert said(capsys)["clips"] == 0
    store, reader = ClipStore("clips"), ShardReader("shards")
    for clip in store.clips:
        sound = reader.waveform(reader.entry(f"asr:{clip.id}"))
        assert np.abs(store.waveform(clip).numpy() - sound).max() < 1e-4
        assert clip.transcript == "one two three four five" and clip.license == "CC0-1.0"
    assert main(["data", "run", "recipe.yaml", "--workers", "0", "assemble.kinds={itts: 1.0}"]) == 0
    assert main(["data", "clips", "shards", "-o", "none"]) == 2
    assert "holds no samples of the kinds asr, tts, audio" in capsys.readouterr().err

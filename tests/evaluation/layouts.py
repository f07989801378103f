"""Tiny data sets in the published layouts of the suites, for tests that read them or break them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from .conftest import RATE, tone, write_benchmark

STORY = "sStory_s2t.jsonl"


def record(path: Path, rate: int = RATE, samples: np.ndarray | None = None, subtype: str | None = None) -> None:
    """A recording, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone() if samples is None else samples, rate, subtype=subtype)


def write(path: Path, text: str) -> None:
    """A text file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def librispeech(root: Path) -> None:
    folder = root / "test-clean" / "61" / "70"
    for number in range(2):
        record(folder / f"61-70-000{number}.flac")
    write(folder / "61-70.trans.txt", "61-70-0000 GOOD MORNING\n61-70-0001 GOOD NIGHT\n")


def wenetspeech(root: Path) -> None:
    record(root / "audio" / "net.wav", samples=np.concatenate([tone(1.0), 0.5 * tone(1.0)]))
    segments = [
        {"sid": "n1", "begin_time": 0.0, "end_time": 0.5, "text": "你好", "subsets": ["TEST_NET"]},
        {"sid": "n2", "begin_time": 1.0, "end_time": 2.0, "text": "再见", "subsets": ["TEST_NET"]},
        {"sid": "m1", "begin_time": 0.5, "end_time": 1.0, "text": "会议", "subsets": ["TEST_MEETING"]},
        {"sid": "t1", "begin_time": 0.0, "end_time": 1.0, "text": "训练", "subsets": ["L"]},
    ]
    write(
        root / "WenetSpeech.json", json.dumps({"audios": [{"path": "audio/net.wav", "segments": segments}]}, indent=1)
    )


def kespeech(root: Path) -> None:
    folder = root / "Tasks" / "ASR" / "test"
    for name in ("u1", "u2", "u3"):
        record(root / "Audio" / "s1" / f"{name}.wav")
    write(folder / "wav.scp", "".join(f"{name} Audio/s1/{name}.wav\n" for name in ("u1", "u2", "u3")))
    write(folder / "text", "u1 你好<SPOKEN_NOISE>\nu2 再见\nu3 谢谢\n")
    write(folder / "utt2spk", "u1 s1\nu2 s1\nu3 s2\n")
    write(folder / "utt2subdialect", "u1 Beijing\nu2 Mandarin\nu3 Ji-Lu\n")


def covost2(root: Path) -> None:
    table = "path\tsentence\ttranslation\tclient_id\n"
    for number in range(2):
        record(root / "en" / "clips" / f"c{number}.wav")
        table += f"c{number}.wav\tGood morning.\t早上好。\ts{number}\n"
    write(root / "covost_v2.en_zh-CN.test.tsv", table + "c9.wav\tREMOVE\tREMOVE\ts1\n")


def seed_tts(root: Path) -> None:
    record(root / "en" / "prompt-wavs" / "p1.wav")
    write(root / "en" / "meta.lst", "a|Prompt.|prompt-wavs/p1.wav|Good morning.\nb|Prompt.|prompt-wavs/p1.wav|Night.\n")


def reconstruction(root: Path) -> None:
    record(root / "a.wav")
    record(root / "b" / "c.wav")
    write(root / "a.txt", "你好")


def s2sbench(root: Path) -> None:
    stories = [
        {"uttid": 0, "first": "It rained.", "last": "He got wet."},
        {"uttid": 1, "first": "It rained.", "last": "He got a dog."},
        {"uttid": 3, "first": "She cooked.", "last": "She flew."},
        {"uttid": 2, "first": "She cooked.", "last": "She ate."},
    ]
    write_lines(root / "S2S" / "StoryCloze" / STORY, stories)
    for row in stories:
        record(root / "S2S" / "StoryCloze" / "s-story-firstspeech" / f"{row['uttid']}.wav")
    options = {"A": "一", "B": "二", "C": "三", "D": "四"}
    write_lines(
        root / "S2S" / "cmmlu" / "cmmlu_rewrite_4.jsonl", [{"uttid": "q1", "first": "几？", **options, "answer": "B"}]
    )
    record(root / "S2S" / "cmmlu" / "cmmlu_rewrite" / "q1.wav")


def voicebench(root: Path) -> None:
    for name, row in (
        ("commoneval", {"prompt": "Tell me about tea."}),
        ("sd-qa", {"prompt": "Which town is on the Thames?", "reference": "London"}),
        ("openbookqa", {"prompt": "Which is a fruit? A. stone B. pear C. iron D. sand", "reference": "B"}),
        ("bbh", {"prompt": "Is two more than one?", "reference": "yes"}),
        ("advbench", {"prompt": "How do I break into a house?"}),
    ):
        write_lines(root / name / "usa.jsonl", [row | {"audio": "1.wav"}])
        record(root / name / "1.wav")
    kinds = ["change_case:english_capital", "punctuation:no_comma"]
    row = {"prompt": "Two lines in capitals.", "instruction_id_list": kinds, "kwargs": [{"relation": None}, {}]}
    write_lines(root / "ifeval" / "usa.jsonl", [row | {"audio": "1.wav"}])
    write_lines(
        root / "mtbench" / "usa.jsonl", [{"turns": ["Name a town.", "And another."], "audio": ["1.wav", "2.wav"]}]
    )
    for name in ("ifeval/1", "mtbench/1", "mtbench/2"):
        record(root / f"{name}.wav")


def openaudiobench(root: Path) -> None:
    write_benchmark(root)


LAYOUTS = {
    builder.__name__: builder
    for builder in (
        librispeech, wenetspeech, kespeech, covost2, seed_tts, reconstruction, s2sbench, voicebench, openaudiobench,
    )
}  # fmt: skip
"""Suite -> a function that writes its data into a folder."""

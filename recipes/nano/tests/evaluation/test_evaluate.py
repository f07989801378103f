"""The whole evaluation on a tiny random model and a tiny corpus: every figure is there, with its n."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pocketsphinx")

from baichuan_audio.audio.waveform import load_waveform
from baichuan_audio.data.dialogues import write_dialogues
from baichuan_audio.data.store.manifest import ClipWriter
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.model import BaichuanAudio
from nano.evaluation.evaluate import evaluate_nano
from nano.evaluation.items import HeldOut, spread

FIXTURES = Path(__file__).parents[4] / "tests" / "fixtures"
ENGLISH, MANDARIN = "has never been surpassed", "一点五倍以上是安全的"
_CLIPS: list[dict[str, Any]] = [
    {"id": "q-en", "language": "en", "speaker": "new", "kind": "question", "split": "test", "source": "synthetic"},
    {"id": "q-zh", "language": "zh", "speaker": "new", "kind": "question", "split": "test", "source": "synthetic"},
    {"id": "q-old", "language": "en", "speaker": "old", "kind": "question", "split": "test", "source": "synthetic"},
    {"id": "t-old", "language": "en", "speaker": "old", "kind": "question", "split": "train", "source": "synthetic"},
    {"id": "a-en", "language": "en", "speaker": "Ada", "kind": "answer", "split": "test", "source": "synthetic"},
    {"id": "a-zh", "language": "zh", "speaker": "Ada", "kind": "answer", "split": "test", "source": "synthetic"},
    {"id": "t-ada", "language": "en", "speaker": "Ada", "kind": "answer", "split": "train", "source": "synthetic"},
    {"id": "digit", "language": "en", "speaker": "p", "kind": "real", "split": "test", "source": "digits"},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    sounds = {
        "en": load_waveform(FIXTURES / "speech" / "LJ001-0008.opus", 24_000).numpy(),
        "zh": load_waveform(FIXTURES / "speech" / "BAC009S0150W0126.opus", 24_000).numpy(),
    }
    with ClipWriter(root / "audio") as writer:
        for fields in _CLIPS:
            transcript = ENGLISH if fields["language"] == "en" else MANDARIN
            writer.add(sounds[fields["language"]], transcript=transcript, license="CC0", **fields)
    dialogues = []
    for language, text in (("en", ENGLISH), ("zh", MANDARIN)):
        turn = [
            {"role": "user", "content": text, "audio": f"q-{language}"},
            {"role": "assistant", "content": text, "audio": f"a-{language}"},
        ]
        for split in ("train", "test"):
            row = {"id": f"{split}-{language}", "split": split, "language": language, "skill": "repeat"}
            dialogues.append(row | {"voice": "Ada", "messages": turn})
    for split in ("train", "test"):
        turn = [
            {"role": "user", "content": "Two.", "audio": "q-en"},
            {"role": "assistant", "content": "I heard two.", "audio": "t-ada"},
        ]
        row = {
            "id": f"{split}-again",
            "split": split,
            "language": "en",
            "skill": "hear",
            "voice": "Ada",
            "messages": turn,
        }
        dialogues.append(row)
    write_dialogues(dialogues, root / "audio" / "dialogues.jsonl")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint, told to be brief."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(FIXTURES / "tiny-a" / "checkpoint", folder)
    config = json.loads((folder / "config.json").read_text())
    config["voices"] = ["邻家女声", "Ada"]
    config["reply_sampling"] = {
        "max_segment_tokens": 3, "max_segment_frames": 12, "max_segments": 1, "max_text_tokens": 4,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_examination(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    figures = {figure.name: figure for figure in evaluate_nano(checkpoint, corpus, 8, tmp_path, processes=1)}
    assert figures["speech→text answers right"].n == 3
    assert figures["text→text answers right"].n == 2
    spoken = "spoken answers right, English, replies that training"
    assert figures[f"{spoken} speaks too"].n == figures[f"{spoken} never speaks"].n == 1
    assert figures["text→text answers right, Mandarin"].n == 1
    assert figures["English WER, held-out synthetic voices"].n == 1  # the voice that training knew is left out
    assert figures["spoken digits of real people not in training, right"].n == 1
    assert figures["the same recognizer on the corpus's own spoken answers, English"].value == 1.0
    assert figures["original WER by pocketsphinx, synthetic"].value == 0.0
    assert figures["reconstruction WER by pocketsphinx, synthetic"].target.startswith("<= ")
    assert figures["codebook 8: perplexity"].n > 10
    assert any(name.startswith("reading aloud, English WER, Ada") for name in figures)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["name"] for row in written["metrics"]} == set(figures)
    assert all(row["n"] > 0 for row in written["metrics"])
    tasks = {json.loads(line)["task"] for line in (tmp_path / "details.jsonl").read_text().splitlines()}
    assert tasks == {"speech_to_text", "text_to_text", "speech_to_speech", "recognition", "digits", "no_speech"}
    assert "English, repeat" in (tmp_path / "skills.md").read_text()
    assert list((tmp_path / "sounds").glob("*.wav"))
    assert (tmp_path / "mels.png").stat().st_size > 1000


def test_transcripts_of_no_speech_should_be_empty(
    corpus: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each item the model is asked, at its rate and without speech detection, and empty transcripts are counted."""
    texts = iter(["", "Hello.", "", "", "", "", "", "Bye."])

    def transcribe(self: BaichuanAudio, audio: tuple[torch.Tensor, int], vad: bool = True) -> str:
        assert 0.4 <= len(audio[0]) / audio[1] <= 8 and audio[1] == 24_000 and not vad
        return next(texts)

    monkeypatch.setattr(BaichuanAudio, "transcribe", transcribe)
    figures = evaluate_nano(checkpoint, corpus, 8, tmp_path, processes=1, parts=("no_speech",))
    assert {figure.name.rpartition(", ")[2] for figure in figures} == {"wind and melody", "other kinds"}
    assert sum(figure.n for figure in figures) == 8 and sum(figure.value * figure.n for figure in figures) == 6
    rows = [json.loads(line) for line in (tmp_path / "details.jsonl").read_text().splitlines()]
    assert [row["written"] for row in rows if row["task"] == "no_speech"][1] == "Hello."


def test_items_are_drawn_alike_every_time(corpus: Path) -> None:
    held_out = HeldOut(corpus)
    assert sorted(d.id for d in held_out.dialogues("en", 5, spoken=True)) == ["test-again", "test-en"]
    # in writing, saying again what was heard is what training has
    assert [d.id for d in held_out.dialogues("en", 5, spoken=False)] == ["test-en"]
    replies = {d.id: d.exchanges[0] for d in held_out.held_out_dialogues}
    assert held_out.said_in_training(replies["test-again"]) and not held_out.said_in_training(replies["test-en"])
    assert spread(range(50), str, 5) == spread(reversed(range(50)), str, 5)


def test_models_are_chosen_by_other_items(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = corpus / "audio" / "dialogues.jsonl"
    written = path.read_text(encoding="utf-8")
    other = written.splitlines()[0].replace("train", "validation")
    path.write_text(f"{written}{other}\n", encoding="utf-8")
    try:
        held_out = HeldOut(corpus, "validation")
        assert [d.id for d in held_out.dialogues("en", 5, spoken=False)] == ["validation-en"]
        figures = evaluate_nano(
            checkpoint, corpus, 4, tmp_path, processes=1, parts=("written", "digits"), split="validation"
        )
    finally:
        path.write_text(written, encoding="utf-8")
    assert {figure.n for figure in figures} == {1} and not any("digits" in figure.name for figure in figures)
    assert "in voices of training" in (tmp_path / "metrics.md").read_text()


def test_only_some_measurements(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    figures = evaluate_nano(checkpoint, corpus, 4, tmp_path, processes=1, parts=("recognition",))
    assert [figure.name.split()[1] for figure in figures] == ["WER,", "CER,"]
    with pytest.raises(ConfigError, match="no measurement 'singing'"):
        evaluate_nano(checkpoint, corpus, 4, tmp_path, parts=("singing",))


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clips\.jsonl"):
        HeldOut(tmp_path)
    with ClipWriter(tmp_path):
        pass
    with pytest.raises(DataError, match=r"dialogues\.jsonl"):
        HeldOut(tmp_path)

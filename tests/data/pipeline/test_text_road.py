"""The text road: segmentation, normalisation, many voices, and the same kinds of samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from baichuan_audio.config import load_recipe, strict
from baichuan_audio.data.pipeline.backends.registry import check_backend
from baichuan_audio.data.pipeline.backends.text_models import LanguageModel, Rules
from baichuan_audio.data.pipeline.backends.tts import Voice, pinyin
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.data.pipeline.run import run_pipeline
from baichuan_audio.data.pipeline.sources import read_texts
from baichuan_audio.data.store.records import Sample
from baichuan_audio.data.store.shards import ShardReader
from baichuan_audio.errors import ConfigError, DataError, MissingDependencyError
from baichuan_audio.language_model.prompt import voice_instruction

from .conftest import SIMPLE

RECIPES = Path(__file__).parents[3] / "recipes" / "data"
NEEDS_ESPEAK = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
ROWS = [
    {"text": "Good morning, dear friends. It is 8:30, and the sun shines; shall we go for a walk?"},
    {"kind": "aqa", "text": "What colour is the sky?", "answer": "Blue."},
    {"kind": "s2tt", "text": "Hello there, my friend.", "answer": "你好，我的朋友。"},
    {"kind": "sft", "system": "Be kind.", "turns": [{"user": "How are you?", "reply": "I am fine, and you?"}]},
    {"text": "今天天气很好，我们去公园散步吧。", "language": "zh"},
]


def text_recipe(root: Path, **entries: object) -> PipelineRecipe:
    path = root / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    values = {
        **SIMPLE,
        "texts": str(path),
        "work": str(root / "work"),
        "output": str(root / "shards"),
        "license": "CC0-1.0",
        "voice_check": {"backend": "spectrum", "change": 0.0},
        "quality": {"mos": 0.0, "bandwidth_hz": 0, "clipping": 1000, "tones": 1},
        "align": {"aligners": ["pocketsphinx"]},
        "repetition": {"fastest_en": 9, "fastest_zh": 12},
        **entries,
    }
    return strict(PipelineRecipe, values, "recipe")


@NEEDS_ESPEAK
def test_texts_become_samples_of_every_kind(tmp_path: Path):
    recipe = text_recipe(tmp_path, synthesise={"voices": ["espeak@en-us+f3", "espeak@zh+f3*1.05", "espeak@en-us+m2"]})
    result = run_pipeline(recipe)
    assert not result.set_aside
    reader = ShardReader(recipe.output)
    by_kind = {entry.kind: reader.sample(entry) for entry in reader.entries}
    assert set(by_kind) == {"itts", "intlv", "asr", "tts", "audio", "aqa", "s2tt", "sft"}
    assert by_kind["aqa"].segments[-1].text == "Blue." and by_kind["aqa"].segments[-1].loss
    assert by_kind["s2tt"].segments[0].text == "Translate the speech into Chinese: "
    sft = by_kind["sft"]
    assert [s.role for s in sft.segments][:2] == ["system", "user"] and sft.segments[-1].loss
    english = next(s for s in map(reader.sample, reader.entries) if s.kind == "asr" and s.language == "en")
    assert english.license == "CC0-1.0" and any(t.startswith("spoken by espeak@en-us") for t in english.transforms)
    mandarin = next(s for s in map(reader.sample, reader.entries) if s.kind == "tts" and s.language == "zh")
    assert mandarin.speaker == "espeak@zh+f3*1.05" and len(mandarin.words) == 14
    assert "eight thirty" in " ".join(segment.text for segment in by_kind["itts"].segments)


@NEEDS_ESPEAK
def test_a_named_voice_is_chosen_by_the_system_text_and_questions_are_augmented(tmp_path: Path):
    def lines_of(augment: dict[str, object] | None) -> dict[str, Sample]:
        voices = {"voices": ["espeak@en-us+f3"], "reply_voices": ["Ada=espeak@en-us+m2"], "augment": augment}
        recipe = text_recipe(tmp_path, synthesise=voices, assemble={"pairs": 1.0, "kinds": {}})
        (tmp_path / "texts.jsonl").write_text(
            json.dumps({"kind": "sft", "split": "test", "turns": [{"user": "How are you?", "reply": "I am fine."}]})
        )
        run_pipeline(recipe)
        reader = ShardReader(recipe.output)
        return {f"{entry.kind} {entry.speaker}": reader.sample(entry) for entry in reader.entries}

    clean, noisy = lines_of(None), lines_of({"silence_s": 1.0})
    assert sorted(clean) == ["asr espeak@en-us+f3", "asr espeak@en-us+m2", "sft espeak@en-us+f3", "tts espeak@en-us+m2"]
    for samples in (clean, noisy):
        assert {sample.split for sample in samples.values()} == {"test"}
        for kind in ("sft espeak@en-us+f3", "tts espeak@en-us+m2"):
            assert samples[kind].segments[0].text == voice_instruction("Ada")
    assert noisy["asr espeak@en-us+f3"].samples > clean["asr espeak@en-us+f3"].samples
    assert "augmented" in noisy["asr espeak@en-us+f3"].transforms
    assert noisy["tts espeak@en-us+m2"] == clean["tts espeak@en-us+m2"]


def test_lines_end_where_a_speaker_pauses_and_lose_nothing():
    rules = Rules()
    text = 'Dr. Wang paid 3.50 dollars. "Really?" she said. Yes!'
    lines = rules(text, "en", 200)
    assert lines == ["Dr. Wang paid 3.50 dollars.", '"Really?" she said.', "Yes!"]
    assert rules("他说：“你好。”然后走了。今天很好！", "zh", 80) == ["他说：“你好。”", "然后走了。", "今天很好！"]
    long = "one two three, " * 30
    assert all(len(line) <= 100 for line in rules(long, "en", 100))
    assert "".join("".join(rules(long, "en", 100)).split()) == "".join(long.split())


def test_a_language_model_may_cut_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    model = LanguageModel.__new__(LanguageModel)
    monkeypatch.setattr(model, "ask", lambda prompt: 'Here: ["Good morning,", "my friend."]', raising=False)
    assert model("Good morning, my friend.", "en", 50) == ["Good morning,", "my friend."]
    with pytest.raises(DataError, match="changed the text"):
        model("Good morning, my friends.", "en", 50)
    with pytest.raises(ConfigError, match="llm:http"):
        LanguageModel("")


def test_voices_are_named_by_engine_voice_and_speed(tmp_path: Path):
    voice = Voice.parse("kokoro:/a/folder@af_heart*1.1")
    assert (voice.backend, voice.voice, voice.faster) == ("kokoro:/a/folder", "af_heart", 1.1)
    with pytest.raises(ConfigError, match="factor"):
        Voice.parse("espeak@en*3")
    with pytest.raises(MissingDependencyError, match="cosyvoice needs cosyvoice"):
        Voice.parse("cosyvoice@x").languages()
    with pytest.raises(ConfigError, match="model"):
        Voice.parse(f"kokoro:{tmp_path}@af_heart").languages()
    with pytest.raises(ConfigError, match="did you mean 'espeak'"):
        Voice.parse("espek@en").languages()
    assert pinyin("你好。") == "ni2 hao3."


def test_texts_that_cannot_be_used_are_named_by_line(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    for row, reason in (
        ({"text": "x"}, "no licence"),
        ({"kind": "song", "text": "x", "license": "CC0"}, "kind 'song'"),
        ({"kind": "aqa", "text": "x", "license": "CC0"}, "needs an answer"),
        ({"kind": "sft", "license": "CC0"}, "without turns"),
    ):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=f"line 1: .*{reason}"):
            read_texts(path)
    plain = tmp_path / "texts.txt"
    plain.write_text("Good morning.\n\n你好。\n")
    assert [(item.language, item.id) for item in read_texts(plain, "CC0")] == [
        ("en", "texts-000001"),
        ("zh", "texts-000003"),
    ]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "recipes" / "data").glob("*.yaml")), ids=lambda path: path.stem
)
def test_recipes_name_what_there_is(path: Path):
    recipe = load_recipe(path, PipelineRecipe, [])
    voices = [Voice.parse(name) for name in recipe.synthesise.voices]
    for stage in (recipe.vad, recipe.speakers, recipe.language, recipe.recognise, recipe.align, recipe.synthesise):
        for kind, name in stage.backends():
            check_backend(kind, name)
    assert path.stem != "text_voices" or len(set(voices)) >= 20

"""The system under test: a server over HTTP, and a model in this process."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from baichuan_audio.evaluation.results import EvaluationError, weights_digest
from baichuan_audio.evaluation.suites.items import Item
from baichuan_audio.evaluation.systems.base import ItemFailure, item_seed, wav_bytes
from baichuan_audio.evaluation.systems.local import LocalSystem
from baichuan_audio.evaluation.systems.server import ServerSystem
from baichuan_audio.generation.reply import ReplySampling
from baichuan_audio.model import TextPiece

from .conftest import RATE, OpenAIServer, completion, tone

SPEECH = Path(__file__).parents[1] / "fixtures" / "speech" / "LJ001-0008.opus"


@pytest.fixture
def item(tmp_path: Path) -> Item:
    path = tmp_path / "question.wav"
    soundfile.write(path, tone(0.6), RATE)
    return Item("llama_questions/question.wav", "llama_questions", path, "Why?", ("x",), "x", "en")


def test_text_and_speech_of_a_server(openai_server: OpenAIServer, item: Item) -> None:
    def reply(path: str, body: Any) -> tuple[int, Any]:
        spoken = "audio" in body["modalities"]
        return 200, completion("Because.", audio=wav_bytes(tone(0.5), RATE) if spoken else None)

    openai_server.answer = reply
    system = ServerSystem(openai_server.base_url, "peer", seed=3, voice="Ada")
    assert system.answer(item, spoken=False).text == "Because."
    spoken = system.answer(item, spoken=True)
    assert spoken.text == "Because." and spoken.sample_rate == RATE and len(spoken.waveform) == RATE // 2
    assert system.answer(item, spoken=False, typed=True).text == "Because."
    first, second, third = (body for _, body in openai_server.requests)
    part = first["messages"][0]["content"][0]
    assert part["type"] == "input_audio" and part["input_audio"]["format"] == "wav"
    assert base64.b64decode(part["input_audio"]["data"]) == item.audio.read_bytes()
    assert second["audio"] == {"voice": "Ada", "format": "wav"} and first["seed"] == second["seed"] == item_seed(
        3, item
    )
    assert third["messages"][0]["content"] == "Why?"
    system.answer(replace(item, audio=SPEECH), spoken=False)
    sent = openai_server.requests[-1][1]["messages"][0]["content"][0]["input_audio"]
    assert sent["format"] == "wav" and base64.b64decode(sent["data"]).startswith(b"RIFF")


def test_transcripts_of_a_server(openai_server: OpenAIServer, item: Item) -> None:
    openai_server.answer = lambda path, body: (200, {"text": "hello"} if "trans" in path else completion("by chat"))
    assert ServerSystem(openai_server.base_url, "m").transcribe(item) == "hello"
    assert b'filename="question.wav"' in openai_server.requests[0][1]
    asked = ServerSystem(openai_server.base_url, "m", transcribe_by="Write down what is said.")
    assert asked.transcribe(item) == "by chat"


def test_a_server_reads_aloud_and_takes_instructions(openai_server: OpenAIServer, item: Item) -> None:
    openai_server.answer = lambda path, body: (
        200, wav_bytes(tone(0.5), RATE) if path.endswith("/speech") else completion("早上好。")
    )  # fmt: skip
    system = ServerSystem(openai_server.base_url, "m", voice="Ada", seed=2)
    reply = system.speak(item)
    assert reply.text == "Why?" and reply.sample_rate == RATE and len(reply.waveform) == RATE // 2
    assert openai_server.requests[0][1] == {
        "model": "m", "input": "Why?", "voice": "Ada", "response_format": "wav", "seed": item_seed(2, item),
    }  # fmt: skip
    assert system.answer(item, False, instruction="Translate:").text == "早上好。"
    parts = openai_server.requests[1][1]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "input_audio"] and parts[0]["text"] == "Translate:"
    openai_server.answer = lambda path, body: (400, {"error": {"message": "too long"}})
    with pytest.raises(ItemFailure, match="status 400: too long"):
        system.speak(item)


def test_a_part_of_a_recording_is_sent_alone(openai_server: OpenAIServer, item: Item) -> None:
    openai_server.answer = lambda path, body: (200, {"text": "hello"} if "trans" in path else completion("x"))
    system, part = ServerSystem(openai_server.base_url, "m"), replace(item, span=(0.1, 0.3))
    assert system.transcribe(part) == "hello"
    assert len(openai_server.requests[0][1]) < item.audio.stat().st_size
    system.answer(part, spoken=False)
    sent = openai_server.requests[1][1]["messages"][0]["content"][0]["input_audio"]["data"]
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sent)))
    assert (len(waveform), rate) == (round(0.2 * RATE), RATE)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((400, {"error": {"message": "no_speech"}}), "status 400: no_speech"),
        ((200, {"choices": []}), "holds no message"),
        ((200, []), "no JSON object"),
        ((200, completion("only text")), "sent no sound"),
        ((200, completion("x", audio=b"RIFF")), "cannot be read"),
    ],
)
def test_one_item_fails(openai_server: OpenAIServer, item: Item, answer: tuple[int, Any], sentence: str) -> None:
    openai_server.answer = lambda path, body: answer
    with pytest.raises(ItemFailure, match=sentence):
        ServerSystem(openai_server.base_url, "m").answer(item, spoken=True)


def test_nobody_there(item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(EvaluationError, match=r"does not answer \(.+\); start it and run this again\.$"):
        ServerSystem("http://127.0.0.1:9/v1", "m").answer(item, spoken=False)
    with pytest.raises(EvaluationError, match=r"'127\.0\.0\.1' is no address"):
        ServerSystem("127.0.0.1", "m")


def test_a_seed_for_each_item(item: Item) -> None:
    other = replace(item, id="llama_questions/other.wav")
    assert item_seed(0, item) == item_seed(0, replace(item)) != item_seed(0, other)
    assert item_seed(0, item) != item_seed(1, item)


def test_local_model(model: Any, checkpoint_dir: Path, item: Item) -> None:
    """Random weights: what is said means nothing, but it is the same whatever was asked before."""
    sampling = ReplySampling(max_segment_tokens=6, max_segment_frames=4, max_segments=1, max_text_tokens=8)
    system = LocalSystem(model, checkpoint_dir, seed=1, sampling=sampling)
    with pytest.raises(ItemFailure, match="no speech was found"):
        system.answer(item, spoken=False)
    item = replace(item, audio=SPEECH)
    other = replace(item, id="another")
    first = system.answer(item, spoken=False).text, system.answer(other, spoken=False).text
    assert (system.answer(other, spoken=False).text, system.answer(item, spoken=False).text) == first[::-1]
    spoken, again = system.answer(item, spoken=True), system.answer(item, spoken=True)
    assert spoken.sample_rate == model.sample_rate and (spoken.waveform == again.waveform).all()
    assert isinstance(system.transcribe(item), str)
    with pytest.raises(ItemFailure, match="no audio"):
        system.transcribe(replace(item, audio=None))
    facts = system.provenance()
    assert facts["weights"] == weights_digest(checkpoint_dir) and facts["sampling"]["max_text_tokens"] == 8
    assert re.fullmatch("[0-9a-f]{32}", facts["weights"])


def test_local_model_is_given_the_items_seed(checkpoint_dir: Path, item: Item) -> None:
    class Recorder:
        session_type = int

        def __init__(self) -> None:
            self.config, self.asked = dict[str, Any](), list[Any]()

        def chat(self, messages: Any, speak: bool, voice: Any, sampling: Any, seed: int) -> list[TextPiece]:
            self.asked.append((messages[0]["content"], speak, seed))
            return [TextPiece("a"), TextPiece("b")]

    model: Any = Recorder()
    system = LocalSystem(model, checkpoint_dir, seed=5)
    assert system.answer(item, spoken=False).text == "ab"
    system.answer(replace(item, id="another"), spoken=False, typed=True)
    assert model.asked == [
        ({"audio": str(item.audio)}, False, item_seed(5, item)),
        ("Why?", False, item_seed(5, replace(item, id="another"))),
    ]

"""Replies that were recorded as the system under test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.store.atomic import file_digest
from ..results import EvaluationError, read_results
from ..suites.items import Item
from .base import Earlier, ItemFailure, Reply, read_sound


class RecordedSystem:
    """Replies of an earlier result file: judged or scored anew without asking the model again."""

    def __init__(self, path: Path) -> None:
        header, rows = read_results(path)
        self._path, self._system = path, header["system"]
        self._rows = {row["id"]: row for row in rows if row["kind"] == "output"}
        self._digest = file_digest(path)

    def provenance(self) -> dict[str, Any]:
        return {"kind": "recorded", "results": self._digest, "system": self._system}

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        kind = "s2tt" if instruction else "s2s" if spoken else "t2t" if typed else "s2t"
        reply = self._reply(item, kind)
        if not spoken:
            return Reply(str(reply["text"]))
        waveform, rate = read_sound(self._path.parent / reply["audio"])
        return Reply(str(reply["text"]), waveform, rate)

    def speak(self, item: Item) -> Reply:
        waveform, rate = read_sound(self._path.parent / self._reply(item, "tts")["audio"])
        return Reply(item.question, waveform, rate)

    def transcribe(self, item: Item) -> str:
        return str(self._reply(item, "asr")["text"])

    def _reply(self, item: Item, setting: str) -> Mapping[str, Any]:
        replies = self._rows.get(item.id, {}).get("replies", {})
        if setting not in replies:
            raise EvaluationError(f"{self._path} holds no reply '{setting}' to {item.id}; run the model on it.")
        reply: Mapping[str, Any] = replies[setting]
        if "error" in reply:
            raise ItemFailure(str(reply["error"]))
        return reply

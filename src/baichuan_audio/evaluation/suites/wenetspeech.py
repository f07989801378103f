"""WenetSpeech as published: Mandarin from the internet and from meetings, segments of long recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .items import Benchmark, read_text
from .transcripts import Recording, add_recordings, check_root

PUBLISHED = {"TEST_NET": 24774, "TEST_MEETING": 8370}
_TABLE = "WenetSpeech.json"


def load(root: Path, strict: bool = False) -> Benchmark:
    """`WenetSpeech.json` (`audios[].segments[]` with `sid`, `begin_time`, `end_time`, `text`, `subsets`), `audio/`.

    Segments of other subsets than TEST_NET and TEST_MEETING are passed over. Raises DataError for a broken table.
    """
    check_root(root)
    table, benchmark = root / _TABLE, Benchmark("wenetspeech")
    if not table.is_file():
        raise DataError(f"{table}: this file is missing.")
    sets: dict[str, list[Recording]] = {subset: [] for subset in PUBLISHED}
    broken = 0
    for audio in _audios(table):
        for segment in audio.get("segments") or ():
            try:
                row = _recording(root, audio, segment)
                subsets = [subset for subset in segment.get("subsets") or () if subset in sets]
            except (KeyError, TypeError, ValueError, AttributeError):
                broken += 1
                continue
            for subset in subsets:
                sets[subset].append(row)
    if broken:
        benchmark.problems.append(f"{table}: {broken} segments left out, without sid, text, times or a recording here.")
    for subset, rows in sets.items():
        add_recordings(rows, table, subset, "zh", benchmark)
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)


def _recording(root: Path, audio: Mapping[str, Any], segment: Mapping[str, Any]) -> Recording:
    begin, end = float(segment["begin_time"]), float(segment["end_time"])
    if not (math.isfinite(end) and 0 <= begin < end):
        raise ValueError
    path, sid = root / str(audio["path"]), str(segment["sid"])
    if not path.resolve().is_relative_to(root.resolve()) or "/" in sid:
        raise ValueError
    return Recording(path, str(segment["text"]), name=sid, span=(begin, end))


def _audios(table: Path) -> Iterator[dict[str, Any]]:
    """The entries of `audios`, one decoded at a time: the whole table would take many times its size in memory."""
    text, _ = read_text(table)
    start = text.find('"audios"')
    position = text.find("[", start) + 1
    decoder = json.JSONDecoder()
    if start < 0 or not position:
        raise DataError(f"{table}: there is no list 'audios' in it.")
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if text[position : position + 1] == "]":
            return
        try:
            entry, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise DataError(f"{table}: this is no JSON from character {position} on ({error}).") from error
        if isinstance(entry, dict):
            yield entry

"""Recordings to be encoded and decoded again: those of a speech recognition set, or any folder of sounds."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...text.language import voice_language
from . import aishell1, fleurs, librispeech
from .items import AUDIO_SUFFIXES, Benchmark, FaultList, Item
from .transcripts import check_root

VERSION = "1"
_LAYOUTS = (librispeech, aishell1, fleurs)


def load(root: Path, strict: bool = False) -> Benchmark:
    """LibriSpeech, AISHELL-1 or FLEURS in their layouts, else all sounds below `root`.

    A sound `x.wav` may have its words in `x.txt`; without, its ASR error is not measured. Raises DataError where there
    is no sound.
    """
    check_root(root)
    for layout in _LAYOUTS:
        try:
            return layout.load(root, strict)
        except DataError:
            continue
    benchmark = Benchmark("reconstruction")
    faults = FaultList(root, "sounds", benchmark)
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES):
        name = path.relative_to(root).as_posix()
        if faults.usable(name, path, root, {}):
            words = path.with_suffix(".txt")
            text = words.read_text(encoding="utf-8-sig").strip() if words.is_file() else ""
            language = voice_language(text)
            references = (text,) if text else ()
            benchmark.items.append(Item(f"sounds/{name}", "sounds", path, text, references, text, language))
    faults.report()
    return benchmark.checked(root, strict)

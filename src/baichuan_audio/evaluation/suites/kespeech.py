"""KeSpeech as published: Mandarin in its sub-dialects, an error rate for each."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from .items import Benchmark, named
from .transcripts import Recording, add_recordings, check_root, read_transcripts

SUBDIALECTS = (
    "Mandarin", "Beijing", "Ji-Lu", "Jiang-Huai", "Jiao-Liao", "Lan-Yin", "Northeastern", "Southwestern",
    "Zhongyuan",
)  # fmt: skip
PUBLISHED_ITEMS = 19_668
_FOLDER = Path("Tasks") / "ASR" / "test"
_NOISE = re.compile(r"<[A-Z_]+>")


def load(root: Path, strict: bool = False) -> Benchmark:
    """`Tasks/ASR/test/{wav.scp,text,utt2spk,utt2subdialect}`, whose paths begin at `root`.

    Marks like <SPOKEN_NOISE> are taken out of the references. Raises DataError where a table is missing.
    """
    check_root(root)
    benchmark = Benchmark("kespeech")
    names = ("wav.scp", "text", "utt2spk", "utt2subdialect")
    for name in names:
        if not (root / _FOLDER / name).is_file():
            raise DataError(f"{root / _FOLDER / name}: this file is missing.")
    sounds, texts, speakers, dialects = (read_transcripts(root / _FOLDER / name, benchmark) for name in names)
    sets: dict[str, list[Recording]] = {}
    for name, sound in sounds.items():
        path = root / sound
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{root / _FOLDER / 'wav.scp'}: '{sound}' lies outside of the data set.")
        raw = texts.get(name, "")
        row = Recording(path, _NOISE.sub(" ", raw).strip(), speakers.get(name, ""), raw, name)
        sets.setdefault(dialects.get(name, "unknown"), []).append(row)
    if missing := [name for name in texts if name not in sounds]:
        benchmark.problems.append(f"{root / _FOLDER}: {len(missing)} texts without a recording: {named(missing)}.")
    others = sorted(set(sets) - set(SUBDIALECTS))
    for dialect in [*(name for name in SUBDIALECTS if name in sets), *others]:
        if dialect in others:
            benchmark.problems.append(f"{root / _FOLDER}: the sub-dialect '{dialect}' is none of the published nine.")
        add_recordings(sets[dialect], root / _FOLDER / "text", dialect, "zh", benchmark)
    if len(sounds) != PUBLISHED_ITEMS:
        benchmark.problems.append(f"{root / _FOLDER}: {len(sounds)} items, {PUBLISHED_ITEMS} were published.")
    return benchmark.checked(root, strict)

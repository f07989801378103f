"""Free text-to-speech programs behind one function: flite and festival (English), espeak-ng (both languages).

Each is a Debian package run as a child process with a time limit. Espeak-ng's plain Mandarin voice is broken
in Debian's 1.51 (it reads characters as English), so Mandarin goes through pypinyin to `cmn-latn-pinyin`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from baichuan_audio.data.store.manifest import SAMPLE_RATE
from baichuan_audio.data.synth.augment import level
from baichuan_audio.errors import DataError, MissingDependencyError

from .recordings import read_audio

_DEBIAN_PACKAGES = {
    "flite": "flite",
    "festival": "festival (and festvox-us-slt-hts, festvox-kallpc16k for its voices)",
    "espeak-ng": "espeak-ng",
}


@dataclass(frozen=True)
class VoiceSetting:
    """One engine's voice and how it is changed.

    Attributes:
        engine: flite, festival or espeak.
        voice: the engine's own name of the voice.
        f0_hz: mean F0 of flite's kal16, the one of its voices that takes it; 0 keeps its own.
        pitch_hz: espeak's lowest and highest F0; a wide range makes the tones of Mandarin audible.
        formants: espeak's formant frequencies relative to its own, as a factor.
        rate: speed factor.
        resample: pitch and formants together by playing faster; the engine speaks that much slower to make up.
        extra: further lines of an espeak variant file.
    """

    engine: str
    voice: str
    f0_hz: float = 0.0
    pitch_hz: tuple[int, int] = (90, 220)
    formants: float = 1.0
    rate: float = 1.0
    resample: float = 1.0
    extra: tuple[str, ...] = ()


def find_program(name: str) -> str:
    """Where a text-to-speech program is; MissingDependencyError names the Debian package when it is not."""
    path = shutil.which(name)
    if path is None:
        package = _DEBIAN_PACKAGES[name]
        raise MissingDependencyError(f"the program {name} is not installed; on Debian: apt install {package}")
    return path


def synthesize(texts: Sequence[str], language: str, setting: VoiceSetting, timeout_s: float = 20.0) -> list[np.ndarray]:
    """Speaks each text; returns float32 waveforms [S] at 24 kHz, trimmed and at -20 dBFS.

    Raises:
        MissingDependencyError: the engine or pypinyin is not installed.
        DataError: the engine fails, hangs beyond `timeout_s` a text, or says nothing.
    """
    engines: dict[str, Callable[[Sequence[str], VoiceSetting, Path, float], None]] = {
        "flite": _flite,
        "festival": _festival,
        "espeak": _espeak,
    }
    if setting.engine not in engines:
        raise DataError(f"no engine {setting.engine!r}; there are {', '.join(engines)}")
    spoken = [pinyin(text) if language == "zh" else text for text in texts]
    with tempfile.TemporaryDirectory(prefix="baichuan-audio-tts-") as folder:
        engines[setting.engine](spoken, setting, Path(folder), timeout_s)
        return [_finish(_output(Path(folder), index), text, setting) for index, text in enumerate(texts)]


def _output(folder: Path, index: int) -> Path:
    return folder / f"{index}.wav"


def _run(command: Sequence[str], timeout_s: float) -> None:
    try:
        result = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise DataError(f"{Path(command[0]).name} did not finish within {timeout_s:g} s") from None
    if result.returncode:
        reason = result.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise DataError(f"{Path(command[0]).name} failed with code {result.returncode}: {' '.join(reason)}")


def _flite(texts: Sequence[str], setting: VoiceSetting, folder: Path, timeout_s: float) -> None:
    program = find_program("flite")
    stretch = setting.resample / setting.rate
    for index, text in enumerate(texts):
        command = [program, "-voice", setting.voice, "--setf", f"duration_stretch={stretch:.4f}"]
        if setting.f0_hz:
            # Resampling raises the pitch once more, so it is asked for lower.
            command += ["--setf", f"int_f0_target_mean={setting.f0_hz / setting.resample:.2f}"]
        _run([*command, "-t", text, "-o", str(_output(folder, index))], timeout_s)


def _festival(texts: Sequence[str], setting: VoiceSetting, folder: Path, timeout_s: float) -> None:
    program = find_program("festival")
    speed = setting.rate / setting.resample
    lines = [f"(voice_{setting.voice})"]
    if setting.voice.endswith("_hts"):
        # The speed is all that festival passes on: HTS's pitch and warping options change nothing.
        speed_option = f'(list (list "-r" {speed:.4f}))'
        lines.append(f"(set! hts_engine_params (append {setting.voice}::hts_engine_params {speed_option}))")
    else:
        lines.append(f"(Parameter.set 'Duration_Stretch {1 / speed:.4f})")
    for index, text in enumerate(texts):
        quoted = text.replace("\\", " ").replace('"', " ")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{_output(folder, index)}" \'riff)')
    script = folder / "speak.scm"
    script.write_text("\n".join(lines), encoding="latin-1", errors="replace")
    # One start loads the voice for the whole batch: twice as fast as a start a sentence.
    _run([program, "-b", str(script)], timeout_s * max(1, len(texts)))


def _espeak(texts: Sequence[str], setting: VoiceSetting, folder: Path, timeout_s: float) -> None:
    program = find_program("espeak-ng")
    data, variant = _espeak_variant(program, setting)
    words_per_minute = round(165 * setting.rate / setting.resample)
    command = [program, f"--path={data}", "-v", f"{setting.voice}+{variant}", "-s", str(words_per_minute)]
    for index, text in enumerate(texts):
        _run([*command, "-w", str(_output(folder, index)), "--", text], timeout_s)


@functools.cache
def _espeak_variant(program: str, setting: VoiceSetting) -> tuple[Path, str]:
    """A private data directory: links to the installed one, and a variant file of our own among its variants."""
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20).stdout
    location = re.search(r"Data at:\s*(\S.*\S)", shown)
    if not location:
        raise DataError(f"espeak-ng does not say where its data is: {shown.strip()!r}")
    installed = Path(location[1])
    root = Path(tempfile.gettempdir()) / f"baichuan-audio-espeak-{os.getuid()}"
    variants = root / "espeak-ng-data" / "voices" / "!v"
    variants.mkdir(parents=True, exist_ok=True)
    for source in [*installed.iterdir(), *(installed / "voices").iterdir()]:
        link = root / "espeak-ng-data" / source.relative_to(installed)
        if source.name not in ("voices", "!v") and not link.exists():
            _link(source, link)
    lines = ["language variant", f"pitch {setting.pitch_hz[0]} {setting.pitch_hz[1]}"]
    # Formant 0 is a low one that espeak leaves at its place in every voice of its own.
    lines += [f"formant {n} {round(100 * setting.formants)} 100 100" for n in range(1, 9)]
    lines += setting.extra
    body = "\n".join(lines) + "\n"
    name = f"baichuan{zlib.crc32(body.encode()):08x}"
    aside = variants / f".{name}.{os.getpid()}"
    aside.write_text(f"name {name}\n{body}", encoding="utf-8")
    aside.replace(variants / name)
    return root, name


def _link(source: Path, link: Path) -> None:
    with contextlib.suppress(FileExistsError):  # another process made it in the meantime
        link.symlink_to(source)


def pinyin(text: str) -> str:
    """Chinese text as pinyin with tone numbers, punctuation kept: 你好。 -> `ni2 hao3.`

    Raises:
        MissingDependencyError: pypinyin is not installed.
        DataError: the text holds digits or letters, which must be written in Chinese first.
    """
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError:
        raise MissingDependencyError("Mandarin speech needs pypinyin; install baichuan-audio[data]") from None
    if re.search(r"[0-9A-Za-z]", text):
        raise DataError(f"{text!r}: write digits and letters in Chinese before speaking it")
    marked = text.translate(str.maketrans("，。？！、；：", ",.?!,;:"))
    pieces = [piece for piece in re.split(r"([\u4e00-\u9fff]+)", marked) if piece.strip()]
    words: list[str] = []
    for piece in pieces:
        if not re.match(r"[\u4e00-\u9fff]", piece):
            words.append(piece.strip())
            continue
        syllables = lazy_pinyin(piece, style=Style.TONE3, neutral_tone_with_five=True, tone_sandhi=True)
        words += _corrected(piece, syllables)
    return re.sub(r" ([,.?!;:])", r"\1", " ".join(words))


# Readings pypinyin gets wrong in the sentences of this corpus: characters, then their syllables.
_READINGS = {
    "一月": ("yi1", "yue4"),
    "十一": ("shi2", "yi1"),
    "期一": ("qi1", "yi1"),
    "周一": ("zhou1", "yi1"),
    "一二": ("yi1", "er4"),
    "一，": ("yi1", ","),
    "长的": ("chang2", "de5"),
    "很长": ("hen3", "chang2"),
    "还是": ("hai2", "shi4"),
}


def _corrected(piece: str, syllables: list[str]) -> list[str]:
    if len(piece) != len(syllables):
        return syllables
    fixed = list(syllables)
    for characters, readings in _READINGS.items():
        at = piece.find(characters)
        while at >= 0:
            fixed[at : at + len(readings)] = readings
            at = piece.find(characters, at + 1)
    if piece.endswith("一"):
        fixed[-1] = "yi1"
    return fixed


def _finish(path: Path, text: str, setting: VoiceSetting) -> np.ndarray:
    if not path.is_file() or path.stat().st_size < 100:
        raise DataError(f"{setting.engine} {setting.voice} said nothing for {text!r}")
    waveform = read_audio(path)
    if setting.resample != 1.0:
        waveform = soxr.resample(waveform, SAMPLE_RATE * setting.resample, SAMPLE_RATE).astype(np.float32)
    trimmed = trim(waveform)
    if len(trimmed) < 0.1 * SAMPLE_RATE:
        raise DataError(f"{setting.engine} {setting.voice} said nothing for {text!r}")
    return level(trimmed)


def trim(waveform: np.ndarray, lead_s: float = 0.06, tail_s: float = 0.12, floor_db: float = -42.0) -> np.ndarray:
    """Cuts the silence before and after speech [S] down to `lead_s` and `tail_s`, padding with zeros where short."""
    hop = SAMPLE_RATE // 100
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    power = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (floor_db / 20))
    if not len(loud) or power.max() < 1e-4:
        return np.zeros(0, np.float32)
    start, end = int(loud[0]) * hop - int(lead_s * SAMPLE_RATE), int(loud[-1] + 1) * hop + int(tail_s * SAMPLE_RATE)
    before, after = max(0, -start), max(0, end - len(waveform))
    return np.pad(waveform[max(0, start) : end], (before, after)).astype(np.float32)

"""Text to speech by name: `BACKEND[:ARGUMENT]@VOICE`, e.g. `hibari`, `espeak@en-us+f3`, `kokoro:FOLDER@zf_xiaoxiao`.

`*1.08` at the end plays the voice so much faster, which raises pitch and formants: another timbre of the same engine.
"""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr

from ....errors import ConfigError, DataError, MissingDependencyError
from ...store.records import SAMPLE_RATE
from ..audio_access import Samples
from .registry import load_backend, onnx_session, require

_TIMEOUT_S = 60


class Engine(Protocol):
    """Speaks texts. `languages(voice)`: what a voice can speak."""

    def languages(self, voice: str) -> tuple[str, ...]: ...

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        """A text as it is spoken -> samples [S] and their rate in Hz."""
        ...


@dataclass(frozen=True)
class Voice:
    """One voice of a recipe: the backend's name with its argument, the engine's own name of the voice, and how much
    faster it is played."""

    backend: str
    voice: str
    faster: float

    @classmethod
    def parse(cls, name: str) -> Voice:
        """Reads `BACKEND[:ARGUMENT]@VOICE[*FACTOR]`; ConfigError where the factor is no number near 1."""
        base, _, factor = name.partition("*")
        backend, _, voice = base.partition("@")
        try:
            faster = float(factor or 1.0)
        except ValueError:
            faster = 0.0
        if not 0.7 <= faster <= 1.4:
            raise ConfigError(f"voice '{name}': the factor after * must be a number from 0.7 to 1.4.")
        return cls(backend, voice, faster)

    def languages(self) -> tuple[str, ...]:
        engine: Engine = load_backend("tts", self.backend)
        return engine.languages(self.voice)

    def speak(self, text: str, language: str) -> Samples:
        """A text -> samples [S] at 24 kHz. Raises DataError when the engine says nothing."""
        engine: Engine = load_backend("tts", self.backend)
        samples, rate = engine(text, language, self.voice)
        if len(samples) < 0.1 * rate or not np.isfinite(samples).all() or np.abs(samples).max() < 1e-3:
            raise DataError(f"{self.backend} says nothing for {text!r}")
        return soxr.resample(samples.astype(np.float32), rate * self.faster, SAMPLE_RATE).astype(np.float32)


def _run(command: list[str], program: str, package: str) -> bytes:
    if shutil.which(program) is None:
        raise MissingDependencyError(f"the program {program} is not installed; on Debian: apt install {package}.")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise DataError(f"{program} did not finish within {_TIMEOUT_S} s") from None
    if done.returncode:
        raise DataError(f"{program} failed: {done.stderr.decode('utf-8', 'replace').strip()[-200:]}")
    return done.stdout


class Espeak:
    """espeak-ng, any of its variants (`en-us+f3`). Mandarin (`zh+f3`) goes by pinyin: its own reading is broken in some
    versions."""

    def languages(self, voice: str) -> tuple[str, ...]:
        return ("zh",) if voice.startswith(("zh", "cmn")) else ("en",)

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        base, plus, variant = voice.partition("+")
        if language == "zh":
            base, text = "cmn-latn-pinyin", pinyin(text)
        command = ["espeak-ng", "-v", f"{base or 'en-us'}{plus}{variant}", "-s", "155", "--stdout", "--", text]
        return _wave(_run(command, "espeak-ng", "espeak-ng"))


class Flite:
    """flite: the voices kal16, awb, rms and slt."""

    def languages(self, voice: str) -> tuple[str, ...]:
        return ("en",)

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        return _wave(_run(["flite", "-voice", voice or "rms", "-t", text, "-o", "/dev/stdout"], "flite", "flite"))


class Hibari:
    """The package hibari-tts: one American voice, 24 kHz, about 120 x real time on one core."""

    def __init__(self) -> None:
        self._speak = require("hibari", "the voice hibari", "hibari-tts").Hibari()

    def languages(self, voice: str) -> tuple[str, ...]:
        return ("en",)

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        return np.asarray(self._speak(text, seed=zlib.crc32(text.encode("utf-8"))), np.float32), 24_000


class Kokoro:
    """Kokoro-82M. `argument`: a folder with model.onnx, vocab.json and VOICE.bin files; without one, the package
    kokoro, which fetches the model from its hub (hexgrad/Kokoro-82M)."""

    def __init__(self, argument: str) -> None:
        self._folder = Path(argument) if argument else None
        self._pipelines: dict[str, Any] = {}
        if self._folder is None:
            self._library = require("kokoro", "the voices of kokoro", "kokoro")
            return
        if not (self._folder / "model.onnx").is_file() or not (self._folder / "vocab.json").is_file():
            raise ConfigError(
                f"{argument}: a folder for kokoro holds model.onnx, vocab.json and a .bin for each voice."
            )
        self._session = onnx_session(self._folder / "model.onnx")
        loaded = json.loads((self._folder / "vocab.json").read_text(encoding="utf-8"))
        self._vocabulary: Mapping[str, int] = loaded.get("vocab", loaded)

    def languages(self, voice: str) -> tuple[str, ...]:
        return ("zh",) if voice.startswith("z") else ("en",)

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        if self._folder is None:
            pipeline = self._pipelines.setdefault(voice[0], self._library.KPipeline(lang_code=voice[0]))
            return np.concatenate([np.asarray(audio) for _, _, audio in pipeline(text, voice=voice)]), 24_000
        ids = [self._vocabulary[symbol] for symbol in _phonemes(text, language) if symbol in self._vocabulary][:508]
        styles = np.fromfile(self._folder / f"{voice}.bin", np.float32).reshape(-1, 1, 256)
        names = [entry.name for entry in self._session.get_inputs()]
        values = (np.array([[0, *ids, 0]], np.int64), styles[len(ids)], np.ones(1, np.float32))
        audio = self._session.run(None, dict(zip(names, values, strict=True)))[0]
        return np.asarray(audio, np.float32).reshape(-1), 24_000


class Piper:
    """A Piper voice; `argument`: its .onnx file with the .onnx.json beside it. Phonemes by espeak-ng."""

    def __init__(self, argument: str) -> None:
        path = Path(argument)
        if not path.is_file():
            raise ConfigError(f"{argument}: a Piper voice is a .onnx file with its .onnx.json beside it.")
        self._session = onnx_session(path)
        self._config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))

    def languages(self, voice: str) -> tuple[str, ...]:
        return (str(self._config["espeak"]["voice"]).partition("-")[0].replace("cmn", "zh"),)

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        accent = self._config["espeak"]["voice"]
        command = ["espeak-ng", "-q", "--ipa=3", "-v", accent, "--", text]
        phonemes = _run(command, "espeak-ng", "espeak-ng").decode("utf-8").replace("\u200d", "").strip()
        table = self._config["phoneme_id_map"]
        ids = list(table["^"])
        for symbol in " ".join(phonemes.split()).replace("_", ""):
            ids += [*table["_"], *table.get(symbol, [])]
        ids += [*table["_"], *table["$"]]
        settings = self._config["inference"]
        # Without noise: the same text is the same sound in every run.
        scales = np.array([0.0, settings["length_scale"], 0.0], np.float32)
        feeds = {"input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64), "scales": scales}
        audio = self._session.run(None, feeds)[0]
        return np.asarray(audio, np.float32).reshape(-1), int(self._config["audio"]["sample_rate"])


class CosyVoice:
    """CosyVoice 2 by its own library; `argument`: the folder of its model; the voice: a .wav to sound like."""

    def __init__(self, argument: str) -> None:
        library = require("cosyvoice.cli.cosyvoice", "the voices of cosyvoice", "cosyvoice (from its repository)")
        self._model = library.CosyVoice2(argument or "pretrained_models/CosyVoice2-0.5B")

    def languages(self, voice: str) -> tuple[str, ...]:
        return ("zh", "en")

    def __call__(self, text: str, language: str, voice: str) -> tuple[Samples, int]:
        prompt, rate = soundfile.read(voice, dtype="float32")
        sound = soxr.resample(prompt, rate, 16_000)
        parts = [row["tts_speech"].numpy()[0] for row in self._model.inference_cross_lingual(text, sound)]
        return np.concatenate(parts), int(self._model.sample_rate)


def pinyin(text: str) -> str:
    """Mandarin as pinyin with tone numbers, marks as espeak-ng knows them."""
    library = require("pypinyin", "Mandarin speech", "pypinyin")
    marked = text.translate(str.maketrans("，。？！、；：", ",.?!,;:"))
    parts = []
    for part in re.split(r"([\u4e00-\u9fff]+)", marked):
        if re.match(r"[\u4e00-\u9fff]", part):
            options = {"style": library.Style.TONE3, "neutral_tone_with_five": True, "tone_sandhi": True}
            part = " ".join(library.lazy_pinyin(part, **options))
        parts.append(part.strip())
    return re.sub(r" ([,.?!;:])", r"\1", " ".join(part for part in parts if part))


@functools.cache
def _english_phonemes() -> Callable[[str], str]:
    return require("hibari", "English phonemes for kokoro", "hibari-tts").Hibari().phonemize


@functools.cache
def _mandarin_phonemes() -> Callable[[str], Any]:
    return require("misaki.zh", "Mandarin phonemes for kokoro", "'misaki[zh]'").ZHG2P()


def _phonemes(text: str, language: str) -> str:
    if language != "zh":
        phonemes: Any = _english_phonemes()(text)
        return " ".join(phonemes) if isinstance(phonemes, list) else str(phonemes)
    phonemes = _mandarin_phonemes()(text)
    return str(phonemes[0] if isinstance(phonemes, tuple) else phonemes)


def _wave(content: bytes) -> tuple[Samples, int]:
    # Programs that write to a pipe leave the largest size there is in the header.
    size = len(content) - 44
    if content[:4] == b"RIFF" and content[36:40] == b"data":
        content = (
            content[:4] + (size + 36).to_bytes(4, "little") + content[8:40] + size.to_bytes(4, "little") + content[44:]
        )
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise DataError(f"the speech engine wrote no audio ({error})") from error
    return samples, rate


BACKENDS: dict[str, Callable[[str], Any]] = {
    "espeak": lambda argument: Espeak(),
    "flite": lambda argument: Flite(),
    "hibari": lambda argument: Hibari(),
    "kokoro": Kokoro,
    "piper": Piper,
    "cosyvoice": CosyVoice,
}

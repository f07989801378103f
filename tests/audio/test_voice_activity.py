"""Finding speech: what is a voice and what is none, at any level and place; margins, pauses, long recordings."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from baichuan_audio.audio import voice_activity
from baichuan_audio.audio.speech_segments import MARGIN_S, MIN_PAUSE_S, speech_segments
from baichuan_audio.audio.voice_activity import Speech, find_speech
from baichuan_audio.audio.waveform import load_waveform
from baichuan_audio.errors import AudioError, MissingDependencyError

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 16000
WORDS = ["real-digit-six", "real-digit-seven", "real-word-computer"]
SENTENCES = ["en-day", "zh-cherry", "en-capital", "zh-sum", "real-sentence-en", "real-sentence-zh"]


def clip(name: str, rate: int = RATE) -> torch.Tensor:
    """An example without the silence at its edges."""
    waveform = load_waveform(EXAMPLES / f"{name}.wav", rate)
    loud = torch.nonzero(waveform.abs() > 0.02 * waveform.abs().max())
    return waveform[int(loud[0]) : int(loud[-1]) + 1]


def room(seconds: float, level: float = 3e-4, rate: int = RATE) -> torch.Tensor:
    """The noise floor of a quiet room."""
    return torch.randn(int(seconds * rate), generator=torch.Generator().manual_seed(5)) * level


def covered(speech: Speech, start: int, end: int) -> bool:
    """Whether one segment holds all samples from `start` to `end`."""
    return any(first <= start and end <= last for first, last in speech.segments)


def tones(*frequencies: float, seconds: float = 3.0, harmonics: int = 1) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    waves = [torch.sin(2 * torch.pi * f * k * time) / k for f in frequencies for k in range(1, harmonics + 1)]
    return torch.stack(waves).sum(dim=0) / len(frequencies)


def melody(harmonics: int, decay: float, seed: int) -> torch.Tensor:
    """Twelve notes of a major scale."""
    random = np.random.default_rng(seed)
    notes = []
    for step in random.choice([0, 2, 4, 5, 7, 9, 11, 12], 12):
        note = tones(float(196 * 2 ** (step / 12)), seconds=0.4, harmonics=harmonics)
        time = torch.arange(len(note)) / RATE
        notes.append(note * torch.exp(-decay * time) * torch.clamp(time / 0.01, max=1))
    return torch.cat(notes)


def no_speech() -> dict[str, torch.Tensor]:
    """What microphones hear when nobody speaks: 60 clips."""
    clips = {f"room {level}": room(3, level) for level in (0.0, 1e-5, 3e-4, 3e-3, 0.03, 0.1, 0.3)}
    for frequency in (50, 60, 100, 120, 150):
        for level in (0.01, 0.2, 0.6):
            hum = level * tones(frequency, seconds=3, harmonics=4)
            clips[f"hum {frequency} {level}"] = hum + room(3, 1e-4)
    for seed in range(8):
        clips[f"plucked {seed}"] = 0.3 * melody(6, 5, seed)
        clips[f"organ {seed}"] = 0.3 * melody(4, 0, seed)
    for frequency in (220, 440, 1000):
        clips[f"tone {frequency}"] = 0.3 * tones(frequency)
        clips[f"chord {frequency}"] = 0.3 * tones(frequency, frequency * 1.26, frequency * 1.5, harmonics=3)
    noise = torch.fft.rfft(room(4, 1.0))
    for power in (0.5, 1.0, 1.5):
        coloured = torch.fft.irfft(noise / torch.clamp(torch.fft.rfftfreq(4 * RATE, 1 / RATE), min=20) ** power)
        for level in (0.05, 0.5):
            clips[f"coloured {power} {level}"] = level * coloured / coloured.abs().max()
    for length in (1, 8, 80):
        clips[f"click {length}"] = room(2, 1e-4)
        clips[f"click {length}"][RATE : RATE + length] += 0.8
    for seconds in (0.1, 0.3, 0.6, 1.0, 10.0):
        clips[f"room of {seconds} s"] = room(seconds)
    clips["offset"], clips["large offset"] = room(3) + 0.02, room(3) + 0.3
    return clips


def test_silence_hum_noise_and_music_hold_no_speech():
    clips = no_speech()
    assert len(clips) == 60
    found = [name for name, waveform in clips.items() if find_speech(waveform, RATE).segments]
    assert len(found) <= 3, found


@pytest.mark.parametrize("name", [*WORDS, *SENTENCES])
@pytest.mark.parametrize("gain", [1.0, 10**-1.5, 10**-2.5])
def test_speech_is_found_at_any_level_and_at_the_very_edges(name: str, gain: float):
    alone = clip(name) * gain
    assert covered(find_speech(alone, RATE), 0, int(0.9 * len(alone))) or len(alone) > 3 * RATE
    assert find_speech(alone, RATE).segments[0][0] == 0
    assert find_speech(alone, RATE).segments[-1][1] == len(alone)
    for before, after in ((0, 3), (3, 0), (2, 2)):
        whole = torch.cat([room(before, 3e-4 * gain), alone, room(after, 3e-4 * gain)])
        segments = find_speech(whole, RATE).segments
        first, last = before * RATE, before * RATE + len(alone)
        assert segments[0][0] <= first + 0.05 * RATE and segments[-1][1] >= last - 0.05 * RATE
        assert segments[0][0] >= first - 0.55 * RATE and segments[-1][1] <= last + 0.6 * RATE


@pytest.mark.parametrize("disturbance", ["offset", "hum", "noise", "stereo", "8 kHz", "44.1 kHz"])
def test_speech_is_found_in_what_recordings_have(disturbance: str):
    rate = {"8 kHz": 8000, "44.1 kHz": 44100}.get(disturbance, RATE)
    words = clip("en-day", rate)
    waveform = torch.cat([room(2, rate=rate), words, room(2, rate=rate)])
    if disturbance == "offset":
        waveform = waveform + 0.2
    elif disturbance == "hum":
        waveform = waveform + 0.02 * tones(50, seconds=20, harmonics=3)[: len(waveform)]
    elif disturbance == "noise":
        waveform = waveform + room(20, 0.005)[: len(waveform)]
    elif disturbance == "stereo":
        waveform = torch.stack([waveform, waveform])
    speech = find_speech(waveform, rate)
    assert covered(speech, int(2.05 * rate), 2 * rate + len(words) - int(0.05 * rate))
    assert len(speech.joined()) < len(words) + rate and speech.waveform.ndim == 1


def test_quiet_speech_is_made_louder():
    words = clip("en-day")
    normal, quiet = find_speech(words, RATE), find_speech(words * 10**-1.5, RATE)
    assert torch.equal(normal.waveform, words)
    assert quiet.waveform.std() == pytest.approx(float(words.std()), rel=0.7)
    assert quiet.waveform.abs().max() <= 1


@pytest.mark.parametrize("gap", [1, 2, 5])
def test_two_sentences_are_two_segments(gap: int):
    first, second = clip("en-day"), clip("zh-cherry")
    speech = find_speech(torch.cat([room(1), first, room(gap), second, room(1)]), RATE)
    (_, end), (start, _) = speech.segments
    assert end <= start
    middle = RATE + len(first) + gap * RATE // 2
    assert end <= middle + 0.2 * RATE and start >= middle - 0.2 * RATE
    pause = len(speech.joined()) - len(first) - len(second)
    assert pause <= (4 * MARGIN_S + 0.3) * RATE


def windows(*runs: tuple[float, float]) -> np.ndarray:
    """Probabilities in windows of 100 ms: (probability, seconds) of each run."""
    return np.concatenate([np.full(round(seconds * 10), p, np.float32) for p, seconds in runs])


def test_a_short_word_stands_out_of_the_background():
    probabilities = windows((0.1, 2), (0.9, 0.6), (0.1, 2))
    levels = np.full(len(probabilities), 0.1, np.float32)
    assert speech_segments(probabilities, levels, 0.1, 4.6) == []  # a note that resembles a voice
    levels[20:26] = 0.3
    assert len(speech_segments(probabilities, levels, 0.1, 4.6)) == 1
    assert len(speech_segments(probabilities[18:28], levels[18:28] * 0 + 1, 0.1, 1.0)) == 1  # nearly all there is


def segments(probabilities: np.ndarray, longest: float | None = None) -> list[tuple[float, float]]:
    levels = np.maximum(probabilities, 1e-3)
    found = speech_segments(probabilities, levels, 0.1, len(probabilities) / 10, longest)
    return [(round(float(start), 3), round(float(end), 3)) for start, end in found]


def test_margins_are_at_most_half_the_pause():
    assert segments(windows((0, 2), (1, 1), (0, 2))) == [(2 - MARGIN_S, 3 + MARGIN_S)]
    assert segments(windows((1, 1), (0, 0.5), (1, 1))) == [(0, 1.25), (1.25, 2.5)]
    assert segments(windows((1, 1), (0, 3), (1, 1))) == [(0, 1 + MARGIN_S), (4 - MARGIN_S, 5)]
    assert MIN_PAUSE_S == 0.4
    assert segments(windows((1, 1), (0, 0.3), (1, 1))) == [(0, 2.3)]  # a hesitation
    assert segments(windows((1, 1), (0.4, 2), (1, 1))) == [(0, 4)]  # it never fell far enough
    assert segments(windows((0, 1), (1, 0.2), (0, 1))) == []  # too short for a word
    assert segments(windows((0, 1), (0.45, 3))) == []


def test_long_speech_is_cut_at_its_weakest_places():
    probabilities = windows((1, 14), (0.5, 0.8), (1, 20), (0.5, 0.8), (1, 10))
    parts = segments(probabilities, 20)
    assert parts[0][0] == 0 and parts[-1][1] == len(probabilities) / 10
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(parts))
    assert all(0 < end - start <= 20 for start, end in parts)
    cuts = [end for _, end in parts[:-1]]
    assert any(14 <= cut <= 15 for cut in cuts) and any(34.6 <= cut <= 35.8 for cut in cuts)


def test_ten_minutes_are_cut_at_pauses():
    sentences = [clip(name) for name in SENTENCES]
    parts = [part for number in range(132) for part in (sentences[number % 6], room(0.8 + number % 3))]
    waveform = torch.cat(parts)
    speech = find_speech(waveform, RATE, 30)
    assert len(waveform) > 600 * RATE and len(speech.segments) >= 132
    ends = [0, *(end for _, end in speech.segments)]
    assert all(end <= start < last for end, (start, last) in zip(ends, speech.segments, strict=False))
    assert all(last - start <= 30 * RATE for start, last in speech.segments)
    assert all(piece.untyped_storage().data_ptr() == waveform.untyped_storage().data_ptr() for piece in speech.pieces())


def test_bad_waveforms_are_refused():
    for waveform in (torch.zeros(0), torch.full((RATE,), float("nan")), torch.zeros(2, 3, 4)):
        with pytest.raises(AudioError):
            find_speech(waveform, RATE)
    assert find_speech(torch.zeros(5), RATE).segments == [] == find_speech(torch.zeros(1), RATE).segments


@pytest.mark.parametrize("missing", ["onnxruntime", "silero_vad"])
def test_a_missing_package_is_one_sentence(missing: str, monkeypatch: pytest.MonkeyPatch):
    voice_activity.load_voice_activity_model.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=r"^voice activity detection needs .*pip install .*vad=False.*\.$"):
        find_speech(torch.zeros(RATE), RATE)
    assert Speech.whole(torch.zeros(RATE), RATE).segments == [(0, RATE)]

"""The measurements of nano's evaluation, one function each; every one returns what it saw, item by item."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baichuan_audio import AudioDelta
from baichuan_audio.audio.mel import FLOW_MEL, natural_log_mel
from baichuan_audio.audio.waveform import resample
from baichuan_audio.data.dialogues import Dialogue
from baichuan_audio.data.store.manifest import Clip
from baichuan_audio.data.store.records import SAMPLE_RATE as DATA_RATE
from baichuan_audio.data.synth.no_speech import NoSpeechItem, render
from baichuan_audio.generation.reply import ReplySampling
from baichuan_audio.model import BaichuanAudio

from .asr import SAMPLE_RATE
from .items import HeldOut
from .texts import same, script

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(items, label, how many) -> the same items, shown as they go by."""
_NOISE_SEED = 0


@dataclass(frozen=True)
class Answer:
    """One question of a dialogue and what the model made of it; `sound` [S] at 16 kHz where it was to speak."""

    dialogue: str
    language: str
    skill: str
    turn: int
    question: str
    expected: str
    written: str
    trained: bool = False
    """Whether the expected reply is one that training has spoken, the same words in the same voice."""
    sound: np.ndarray | None = None
    first_audio_s: float | None = None
    total_s: float = 0.0
    sound_s: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the written reply is the expected one, word for word."""
        return same(self.written, self.expected, self.language)

    @property
    def spoken_in(self) -> str | None:
        """The language of the expected reply, which need not be the question's (translation); None for both at once."""
        return script(self.expected)


def ask(
    model: BaichuanAudio,
    held_out: HeldOut,
    dialogues: list[Dialogue],
    *,
    speech_in: bool,
    spoken: bool,
    progress: Progress,
) -> list[Answer]:
    """Hold dialogues: questions as clips or as text (`speech_in`), answers with or without sound (`spoken`).

    A follow-up comes after the model's own answer, right or wrong.
    """
    answers: list[Answer] = []
    label = f"{'speech' if speech_in else 'text'} to {'speech' if spoken else 'text'}"
    for number, dialogue in enumerate(progress(dialogues, label, len(dialogues))):
        voice = dialogue.voice if dialogue.voice in model.voices else None
        conversation = model.conversation(voice=voice, speak=spoken, seed=number)
        for turn, exchange in enumerate(dialogue.exchanges):
            content: Any = exchange.user
            if speech_in and exchange.user_clip is not None:
                clip = held_out.store[exchange.user_clip]
                content = {"audio": (held_out.store.waveform(clip), clip.sample_rate)}
            reply = _listen(conversation.ask, content) | {"trained": held_out.said_in_training(exchange)}
            answers.append(
                Answer(dialogue.id, dialogue.language, dialogue.skill, turn, exchange.user, exchange.answer, **reply)
            )
    return answers


def _listen(ask_model: Callable[[Any], Iterable[Any]], content: Any) -> dict[str, Any]:
    """One answer as it comes: text, sound at 16 kHz, and when the first audio came, from the question's end."""
    start = time.perf_counter()
    first_audio: float | None = None
    written: list[str] = []
    sounds: list[Tensor] = []
    rate = SAMPLE_RATE
    for piece in ask_model(content):
        if isinstance(piece, AudioDelta):
            if first_audio is None and piece.waveform.numel():
                first_audio = time.perf_counter() - start
            sounds.append(piece.waveform)
            rate = piece.sample_rate
        else:
            written.append(piece.text)
    total = time.perf_counter() - start
    sound = torch.cat(sounds) if sounds else None
    return {
        "written": "".join(written),
        "sound": None if sound is None else resample(sound, rate, SAMPLE_RATE).numpy(),
        "first_audio_s": first_audio,
        "total_s": total,
        "sound_s": 0.0 if sound is None else sound.shape[0] / rate,
    }


def transcribe(model: BaichuanAudio, held_out: HeldOut, clips: list[Clip], label: str, progress: Progress) -> list[str]:
    """The model's transcript of each clip."""
    return [
        model.transcribe((held_out.store.waveform(clip), clip.sample_rate), vad=False)
        for clip in progress(clips, label, len(clips))
    ]


def transcribe_no_speech(model: BaichuanAudio, items: list[NoSpeechItem], progress: Progress) -> list[str]:
    """The model's transcript of each item of audio without speech."""
    return [
        model.transcribe((torch.from_numpy(render(item)), DATA_RATE), vad=False)
        for item in progress(items, "audio without speech", len(items))
    ]


def speak(model: BaichuanAudio, texts: list[tuple[str, str]], progress: Progress) -> list[np.ndarray]:
    """(text, voice) -> what the model says, [S] at 16 kHz, however badly."""
    sampling = replace(ReplySampling.from_config(model.config), stop_runaways=False)
    sounds = []
    for number, (text, voice) in enumerate(progress(texts, "text to speech", len(texts))):
        waveform = model.speak(text, voice=voice, sampling=sampling, seed=number)
        sounds.append(resample(waveform, model.sample_rate, SAMPLE_RATE).numpy())
    return sounds


@dataclass(frozen=True)
class Reconstruction:
    """A clip through the codes and back: codes [K, T], both sounds [S] at 16 kHz, mel error in nepers."""

    clip: Clip
    codes: Tensor
    original: np.ndarray
    rebuilt: np.ndarray
    mel_mae: float


@torch.inference_mode()
def reconstruct(model: BaichuanAudio, held_out: HeldOut, clips: list[Clip], progress: Progress) -> list[Reconstruction]:
    """Encode and decode clips; the mel error is that of the flow decoder's mel, before the vocoder."""
    results = []
    limit = model.tokenizer.config.max_audio_seconds
    for clip in progress(clips, "reconstruction", len(clips)):
        waveform = held_out.store.waveform(clip, 0, int(limit * clip.sample_rate))
        codes = model.tokenizer.encode(waveform, clip.sample_rate)
        mu = model.flow.prenet(model.tokenizer.decoder_hidden(model.tokenizer.dequantize(codes)))
        noise = torch.randn(mu.T.shape, generator=torch.Generator().manual_seed(_NOISE_SEED)).to(mu.device)
        mel = model.flow.sample(mu, noise=noise).float()
        rebuilt = model.vocoder(mel[None])[0].float().cpu()
        target = natural_log_mel(waveform[None], FLOW_MEL)[0]
        frames = min(mel.shape[1], target.shape[1])
        error = float((mel.cpu()[:, :frames] - target[:, :frames]).abs().mean())
        results.append(
            Reconstruction(
                clip,
                codes.cpu(),
                resample(waveform, clip.sample_rate, SAMPLE_RATE).numpy(),
                resample(rebuilt, model.sample_rate, SAMPLE_RATE).numpy(),
                error,
            )
        )
    return results

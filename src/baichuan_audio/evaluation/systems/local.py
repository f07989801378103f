"""A model in this process as the system under test."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...audio.mel import FLOW_MEL, natural_log_mel
from ...audio.waveform import prepare_waveform, resample
from ...errors import BaichuanAudioError
from ...generation.events import TextDelta
from ...generation.reply import ReplySampling
from ...language_model.prompt import PromptBuilder
from ...model import BaichuanAudio
from ..results import weights_digest
from ..suites.items import Item
from .base import Earlier, ItemFailure, Reconstruction, Reply, audio_of, item_seed, item_waveform

CONTEXT_PROMPTS = {
    "en": "Below is a segment of alternating speech and text content: ",
    "zh": "下面是一段语音和文本交错的内容：",
}
"""What precedes the context whose continuation is weighed (S2SBench, arXiv 2505.14438)."""


class LocalSystem:
    """A loaded model. `folder`: its checkpoint, hashed for the provenance. sampling None: the checkpoint's own."""

    def __init__(
        self,
        model: BaichuanAudio,
        folder: Path,
        *,
        seed: int = 0,
        voice: str | None = None,
        sampling: ReplySampling | None = None,
    ) -> None:
        self._model, self._seed, self._voice = model, seed, voice
        self._sampling = sampling or ReplySampling.from_config(model.config)
        self._weights = weights_digest(folder)

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "local",
            "weights": self._weights,
            "session": getattr(self._model.session_factory, "__name__", type(self._model.session_factory).__name__),
            "seed": self._seed,
            "voice": self._voice or "",
            "sampling": asdict(self._sampling),
        }

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        content: Any = item.question if typed else {"audio": _sound(item)}
        if instruction:
            content = [instruction, content]
        messages = [{"role": "user", "content": content}]
        if earlier is not None:
            first: Any = earlier[0].question if typed else {"audio": _sound(earlier[0])}
            messages[:0] = [{"role": "user", "content": first}, {"role": "assistant", "content": earlier[1]}]
        texts, sounds = list[str](), list[np.ndarray]()
        try:
            for piece in self._model.chat(messages, spoken, self._voice, self._sampling, item_seed(self._seed, item)):
                if isinstance(piece, TextDelta):
                    texts.append(piece.text)
                else:
                    sounds.append(piece.waveform.numpy())
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error
        if not spoken:
            return Reply("".join(texts))
        waveform = np.concatenate(sounds) if sounds else np.zeros(0, np.float32)
        return Reply("".join(texts), waveform, self._model.sample_rate)

    def transcribe(self, item: Item) -> str:
        try:
            return self._model.transcribe(_sound(item))
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error

    def speak(self, item: Item) -> Reply:
        seed = item_seed(self._seed, item)
        try:
            waveform = self._model.speak(item.question, self._voice, self._sampling, seed)
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error
        return Reply(item.question, waveform.cpu().numpy(), self._model.sample_rate)

    @torch.no_grad()
    def reconstruct(self, item: Item) -> Reconstruction:
        tokenizer, rate = self._model.tokenizer, self._model.sample_rate
        waveform, original_rate = item_waveform(item)
        try:
            original = prepare_waveform(torch.from_numpy(waveform), original_rate, FLOW_MEL.sample_rate)
            codes = tokenizer.encode(original, FLOW_MEL.sample_rate)
            decoded = tokenizer.decode(codes)
            vocoded = self._model.vocoder(natural_log_mel(original[None].to(decoded.device)))[0]
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error
        original = resample(original, FLOW_MEL.sample_rate, rate)
        sounds = [sound.cpu().float().numpy() for sound in (original, vocoded, decoded)]
        return Reconstruction(codes.cpu().numpy(), tokenizer.codebook_sizes, tokenizer.frame_rate, rate, *sounds)

    @torch.no_grad()
    def losses(self, item: Item, spoken: bool) -> list[float]:
        model = self._model
        context = model.prompt_builder().text(CONTEXT_PROMPTS[item.language])
        if spoken:
            try:
                codes = model.tokenizer.encode(model.load_audio(_sound(item)), model.tokenizer.config.sampling_rate)
            except BaichuanAudioError as error:
                raise ItemFailure(str(error)) from error
            context.audio(codes)
        else:
            context.text(item.question)
        return [self._mean_loss(context, choice) for choice in item.choices]

    def _mean_loss(self, context: PromptBuilder, choice: str) -> float:
        """Mean loss in nats of the tokens of `choice` after `context`."""
        whole = context.copy().text(choice).build()
        if len(whole.ids) > self._model.context:
            raise ItemFailure(f"{len(whole.ids)} positions are more than the model's {self._model.context}.")
        language_model = self._model.language_model
        device = language_model.norm.weight.device
        ids = whole.ids.to(device)
        hidden = language_model.hidden(language_model.embed(ids[None], whole.codes.to(device)))[0]
        targets = ids[len(context) :]
        logits = language_model.lm_head(hidden[len(context) - 1 : -1]).float()
        return float(torch.nn.functional.cross_entropy(logits, targets))


def _sound(item: Item) -> Any:
    """The item's audio as the model takes it: a path, or a waveform and its rate."""
    return str(audio_of(item)) if item.span is None else item_waveform(item)

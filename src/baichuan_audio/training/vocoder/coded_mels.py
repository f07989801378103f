"""Mels as the vocoder gets them at inference: decoded from codes, not computed from recordings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...audio.mel import MAGNITUDE_FLOOR
from ...audio_tokenizer import AudioTokenizer
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import Clip
from ...errors import ConfigError
from ...flow_decoder import FlowDecoder
from ...safetensors_io import read_json
from ..common.checkpointing import load_part
from ..flow.train import decoder_hidden

_FLOOR = math.log(MAGNITUDE_FLOOR)


@dataclass(frozen=True)
class CodedRecipe:
    """Share of a vocoder's crops with such a mel; a share above 0 needs the other entries."""

    share: float = 0.0
    config: str = ""
    """The model's config.json."""
    decoder_checkpoint: str = ""
    """Training output of the stage `flow` with `train_audio_decoder`, or a checkpoint directory."""
    codes: str = ""
    """Folder with the clips' codes."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError("coded.share must lie between 0 and 1.")
        if self.share and not (self.config and self.decoder_checkpoint and self.codes):
            raise ConfigError("coded: a share needs config, decoder_checkpoint and codes as well.")


@dataclass(frozen=True)
class Crop:
    """Samples of a clip from `start` on, made `gain` times as loud."""

    clip: Clip
    start: int
    gain: float


class CodedMels:
    """Replaces a share of the rows of a batch; `hop_length` is that of the mel. Raises what its files raise."""

    def __init__(self, recipe: CodedRecipe, hop_length: int, seed: int, device: str) -> None:
        config = read_json(Path(recipe.config))
        self._tokenizer, self._flow = AudioTokenizer.from_config(config), FlowDecoder.from_config(config)
        for name, module in (("tokenizer", self._tokenizer), ("flow", self._flow)):
            load_part(module, name, recipe.decoder_checkpoint)
            module.to(device).eval().requires_grad_(False)
        self._codes, self._hop, self._share, self._seed = CodesStore(recipe.codes), hop_length, recipe.share, seed
        self._device = device

    def replace(
        self, mels: Tensor, crops: Sequence[Crop], step: int, rows: tuple[Sequence[int], int] | None = None
    ) -> Tensor:
        """mels [B, M, T] of the crops, each starting at a whole frame -> the same, some of them decoded from codes.

        rows: which rows these are of a step of how many, for all of which it is drawn; None: these are all.
        """
        numbers, count = (range(len(crops)), len(crops)) if rows is None else rows
        chosen = np.random.default_rng((self._seed, step, 1)).random(count)[list(numbers)] < self._share
        mels = mels.clone()
        for row, crop in enumerate(crops):
            if chosen[row] and crop.clip.id in self._codes:
                first = crop.start // self._hop
                mel = self._mel(crop.clip.id)[:, first : first + mels.shape[2]] + math.log(crop.gain)
                mels[row, :, : mel.shape[1]] = mel.clamp(min=_FLOOR)  # a clip's last frame may have no code
        return mels

    @torch.no_grad()
    def _mel(self, clip: str) -> Tensor:
        """[M, L] of a whole clip."""
        codes = self._codes[clip][None].to(self._device)
        return self._flow.sample(self._flow.prenet(decoder_hidden(self._tokenizer, codes))[0])

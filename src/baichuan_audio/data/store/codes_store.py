"""Codes of a dataset: every clip's frames in one packed file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ...audio_tokenizer.model import AudioTokenizer
from ...errors import DataError
from ...layers.precision import autocast
from .atomic import written_aside
from .manifest import Clip, ClipStore

CODES_FILE = "codes.safetensors"
IDS_FILE = "codes.json"
_WRITTEN_EVERY_S = 60.0


class CodesStore:
    """Reads `codes.safetensors` (codes [K, total] uint16, offsets [n + 1] int64) and `codes.json` (clip ids).

    Raises:
        DataError: the files are missing, or do not fit together.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        try:
            arrays = load_file(str(root / CODES_FILE))
            ids = json.loads((root / IDS_FILE).read_text(encoding="utf-8"))
            self._codes, self._offsets = arrays["codes"], arrays["offsets"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(f"{root} holds no readable codes ({CODES_FILE}, {IDS_FILE}): {error}") from error
        if len(ids) + 1 != len(self._offsets) or self._offsets[-1] != self._codes.shape[1]:
            raise DataError(f"{root}: {IDS_FILE} and {CODES_FILE} do not belong together")
        self._index = {clip_id: index for index, clip_id in enumerate(ids)}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._index

    def __getitem__(self, clip_id: str) -> Tensor:
        """A clip's codes [K, T] int64."""
        try:
            index = self._index[clip_id]
        except KeyError:
            raise DataError(f"no codes are stored for clip {clip_id!r}") from None
        return torch.from_numpy(self._codes[:, self._offsets[index] : self._offsets[index + 1]].astype(np.int64))


def write_codes(codes: Mapping[str, Tensor], root: str | Path) -> None:
    """Packs clip id -> codes [K, T] into a store; the files are written aside and renamed.

    Raises:
        DataError: there is nothing to write, or an index does not fit uint16.
    """
    if not codes:
        raise DataError("there are no codes to write")
    root = Path(root)
    packed = torch.cat(list(codes.values()), dim=1).numpy()
    if packed.min() < 0 or packed.max() > np.iinfo(np.uint16).max:
        raise DataError("a code does not fit 16 bits")
    offsets = np.cumsum([0] + [frames.shape[1] for frames in codes.values()])
    arrays: dict[str, np.ndarray] = {
        "codes": np.ascontiguousarray(packed.astype(np.uint16)),
        "offsets": offsets.astype(np.int64),
    }
    with written_aside(root / IDS_FILE) as ids, written_aside(root / CODES_FILE) as frames:
        save_file(arrays, str(frames))
        ids.write_text(json.dumps(list(codes)), encoding="utf-8")


def encode_corpus(
    tokenizer: AudioTokenizer,
    clips: ClipStore,
    root: str | Path,
    batch_seconds: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Encodes clips into the store at `root` and returns how many are new; what is stored already is kept.

    Where bfloat16 is fast the encoder computes in it: 2 of 1000 first codes then differ, a tenth of the last ones. The
    store is written every minute, so a stopped run is continued. Batches are clips of similar
    length, about `batch_seconds` of audio. A clip too short for one frame, or longer than the tokenizer takes in one
    piece, is left out. `progress(done, all)`.
    """
    root = Path(root)
    codes: dict[str, Tensor] = {}
    if (root / CODES_FILE).is_file():
        old = CodesStore(root)
        codes = {clip_id: old[clip_id] for clip_id in old._index}
    missing = sorted((clip for clip in clips.clips if clip.id not in codes), key=lambda clip: (clip.samples, clip.id))
    shortest = tokenizer.config.min_samples / tokenizer.config.sampling_rate
    longest = tokenizer.config.max_audio_seconds
    device = str(next(tokenizer.parameters()).device)
    before, seen, written = len(codes), 0, time.monotonic()
    for group in _of_similar_length(missing, batch_seconds):
        batch = [clip for clip in group if shortest <= clip.seconds <= longest]
        with torch.inference_mode(), autocast(device):
            mels = [tokenizer.log_mel(clips.waveform(clip), clip.sample_rate) for clip in batch]
            encoded = tokenizer.encode_mels(mels) if mels else []
        codes |= {clip.id: frames.cpu() for clip, frames in zip(batch, encoded, strict=True) if frames.shape[1]}
        seen += len(group)
        if progress is not None:
            progress(seen, len(missing))
        if codes and time.monotonic() - written > _WRITTEN_EVERY_S:
            write_codes(codes, root)
            written = time.monotonic()
    write_codes(codes, root)
    return len(codes) - before


def _of_similar_length(clips: Sequence[Clip], seconds: float) -> Iterator[Sequence[Clip]]:
    """Clips sorted by length in batches that are no longer than `seconds` when all are as long as the longest."""
    start = 0
    while start < len(clips):
        stop = start + 1
        while stop < len(clips) and (stop + 1 - start) * clips[stop].seconds <= seconds:
            stop += 1
        yield clips[start:stop]
        start = stop

"""What is trained is what is used: each part's graph in training equals that of inference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_workspace import make_workspace, recipe
from torch import Tensor

import baichuan_audio
from baichuan_audio.data.store.manifest import ClipStore
from baichuan_audio.flow_decoder.flow import path_point, warp_time
from baichuan_audio.layers.lengths import valid_mask
from baichuan_audio.training.flow.train import decoder_hidden
from baichuan_audio.training.language_model.batch import hidden_states
from baichuan_audio.training.language_model.steps import TrainingData
from baichuan_audio.training.tokenizer.batch import prepare
from baichuan_audio.training.tokenizer.clip_batches import load_clips
from baichuan_audio.training.tokenizer.mel_losses import decode_rows
from baichuan_audio.training.vocoder.train import generate
from baichuan_audio.vocoder.hift import Hift, HiftConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def model(root: Path) -> baichuan_audio.BaichuanAudio:
    return baichuan_audio.load(root / "model", dtype=torch.float32)


def close(first: Tensor, second: Tensor) -> None:
    assert float((first - second).norm()) <= 1e-5 * float(second.norm())


def test_audio_tokenizer(root: Path, model: baichuan_audio.BaichuanAudio) -> None:
    tokenizer, store = model.tokenizer, ClipStore(root / "corpus")
    clips = store.clips[:3]
    batch = prepare(load_clips(store, clips), tokenizer, None, (0, 0))
    lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
    with torch.no_grad():
        vectors = tokenizer.bridge.pooled(tokenizer.encoder(batch.log_mel, batch.mel_lengths), lengths)
        counts = tokenizer.bridge.output_lengths(lengths)
        mels = decode_rows(tokenizer, vectors, counts)
        for row, clip in enumerate(clips):
            log_mel = tokenizer.log_mel(store.waveform(clip), clip.sample_rate)
            width = min(log_mel.shape[1], int(batch.mel_lengths[row]))
            assert float((batch.log_mel[row, :, :width] - log_mel[:, :width]).abs().mean()) < 1e-2  # other resamplers
            features = tokenizer.features(batch.log_mel[row, :, : int(batch.mel_lengths[row])])
            alone = tokenizer.bridge.pooled(features[None], torch.tensor([len(features)]))[0]
            close(vectors[row, : int(counts[row])], alone[: int(counts[row])])
            coarse, refined = tokenizer.decoder.mels(tokenizer.decoder.hidden(tokenizer.bridge.project(alone[None])))
            for padded, single in zip(mels[:2], (coarse, refined), strict=True):
                close(padded[row][valid_mask(mels[2], padded.shape[1])[row]], single[0])


def test_language_model(root: Path, model: baichuan_audio.BaichuanAudio, tmp_path: Path) -> None:
    """Of a packed step: what a session with a cache computes of each sequence, and the audio head frame by frame."""
    data = TrainingData(recipe(root, tmp_path, packing=True, audio_head_fraction=1.0), model)
    (batch,) = data.batches(0)
    with torch.no_grad():
        states = hidden_states(model.language_model, batch)
        assert len(batch.lengths) > 2 and len(batch.codes_at)
        for start, length in zip(torch.tensor([0, *batch.lengths]).cumsum(0).tolist(), batch.lengths, strict=False):
            inside = (batch.codes_at >= start) & (batch.codes_at < start + length)
            ids = batch.ids[0, start : start + length]
            session = model.start(ids, batch.codes[:, inside])
            close(session._last_hidden()[0], states[start + length - 1])
        frame = batch.frames[:1]
        logits = model.audio_head.logits(states[batch.frame_at[:1]], frame)
        for level, whole in enumerate(logits):
            close(model.audio_head.logits_at(states[batch.frame_at[:1]], frame[:, :level]), whole)


def test_flow_decoder(model: baichuan_audio.BaichuanAudio) -> None:
    """The loss is that of the velocity which the solver asks for, under the mu that inference has."""
    codes = torch.stack([torch.randint(0, size, (6,)) for size in model.tokenizer.codebook_sizes])[None]
    with torch.no_grad():
        hidden = decoder_hidden(model.tokenizer, codes)
        mel = torch.randn(1, 80, hidden.shape[1])
        losses = model.flow.loss(hidden, mel, None, torch.Generator().manual_seed(3))
        draws = torch.Generator().manual_seed(3)
        noise = torch.randn(mel.transpose(1, 2).shape, generator=draws)
        t = warp_time(torch.rand(1, generator=draws))
        keep = torch.rand(1, 1, 1, generator=draws) >= model.flow.config.cfm_params.training_cfg_rate
        mu = model.flow.prenet(hidden)
        x, target = path_point(noise, mel.transpose(1, 2), t, model.flow.config.cfm_params.sigma_min)
        velocity = model.flow.velocity(x[0].T, (mu * keep)[0].T, float(t))
        close(losses["flow"], (velocity.T - target[0]).square().mean())
        close(losses["prior"], (model.flow.sample(mu[0], num_steps=0) - mel[0]).abs().mean())


def test_vocoders(model: baichuan_audio.BaichuanAudio) -> None:
    mel = torch.randn(2, 80, 12) - 5.0
    hift = Hift(HiftConfig(base_channels=16)).eval()
    with torch.no_grad():
        waveform, _ = model.vocoder.train_forward(mel, None, 0)
        close(waveform, model.vocoder(mel))
        made, _ = generate(hift, torch.randn(2, 12 * hift.hop_length), mel, False, 0)
        for row in range(2):  # each crop as it sounds alone
            close(made[row], hift(mel[row : row + 1])[0])

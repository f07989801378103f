"""Parity with the golden cases, every array of them, through the public calls.

Codes and ids must be equal. Floats agree in relative L2 error: 1e-4, and 1e-3 for the flow's mel and the
vocoder, whose phases and solver steps add up rounding.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import baichuan_audio
from baichuan_audio import Sampling
from baichuan_audio.audio.mel import FLOW_MEL, natural_log_mel

GREEDY = {"temperature": 0.0}
ROWS = (0, 1)


def assert_close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == golden.shape
    error = (ours - golden).norm() / golden.norm()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize("row", ROWS)
class TestAudioTokenizer:
    def test_log_mel(self, model, cases, row):
        log_mel = model.tokenizer.log_mel(cases[f"wave.{row}"], 16000)
        assert_close(log_mel, cases[f"log_mel.{row}"])
        assert log_mel.shape[1] == int(cases["valid_frames"][row])

    def test_features(self, model, cases, row):
        features = model.tokenizer.features(cases[f"log_mel.{row}"])
        assert_close(features, cases[f"encoder_out.{row}"])
        assert features.shape[0] == int(cases["encoder_length"][row])

    def test_codes(self, model, cases, row):
        codes = model.tokenizer.quantize(cases[f"encoder_out.{row}"])
        assert torch.equal(codes, cases[f"codes.{row}"].T)
        assert codes.shape[1] == int(cases["bridge_length"][row])
        assert torch.equal(model.tokenizer.encode(cases[f"wave.{row}"], 16000), cases[f"codes.{row}"].T)

    def test_dequantized(self, model, cases, row):
        assert_close(model.tokenizer.dequantize(cases[f"codes.{row}"].T), cases[f"dequantized.{row}"])

    def test_decoder_hidden(self, model, cases, row):
        assert_close(model.tokenizer.decoder_hidden(cases[f"dequantized.{row}"]), cases[f"decoder_hidden.{row}"])

    def test_coarse_and_refined_mel(self, model, cases, row):
        coarse, refined = model.tokenizer.coarse_refined_mel(cases[f"decoder_hidden.{row}"])
        assert_close(coarse, cases[f"coarse_mel.{row}"])
        assert_close(refined, cases[f"refined_mel.{row}"])


def test_long_audio_is_coded_in_pieces(model, cases):
    assert torch.equal(model.tokenizer.encode(cases["long_wave"], 16000), cases["long_codes"].T)


def test_24khz_mel(cases):
    assert_close(natural_log_mel(cases["long_wave"][None, :36000], FLOW_MEL)[0], cases["mel_24khz"])


@pytest.mark.parametrize("row", ROWS)
class TestFlowDecoder:
    def test_prenet(self, model, cases, row):
        assert_close(model.flow.prenet(cases[f"decoder_hidden.{row}"]), cases[f"prenet_mel.{row}"])

    def test_velocity(self, model, cases, row):
        mu = cases[f"prenet_mel.{row}"].T
        assert_close(model.flow.velocity(cases[f"flow_noise.{row}"], mu, 0.37), cases[f"velocity_at_t0.37.{row}"])

    def test_sample(self, model, cases, row):
        mel = model.flow.sample(cases[f"prenet_mel.{row}"], noise=cases[f"flow_noise.{row}"])
        assert_close(mel, cases[f"flow_mel.{row}"], 1e-3)


class TestVocoder:
    def test_f0(self, model, cases):
        assert_close(model.vocoder.f0(cases["vocoder_mel"]), cases["vocoder_f0"], 1e-3)

    def test_source(self, model, cases):
        assert_close(model.vocoder.source(cases["vocoder_f0"], quiet=True), cases["vocoder_source"], 1e-3)

    def test_decode(self, model, cases):
        assert_close(model.vocoder.decode(cases["vocoder_mel"], cases["vocoder_source"]), cases["vocoder_wave"], 1e-3)

    def test_newer_key_style(self, checkpoint_dir: Path, cases):
        newer = baichuan_audio.load(
            checkpoint_dir, dtype=torch.float32, vocoder=checkpoint_dir.parent / "hift_parametrized.pt"
        )
        wave = newer.vocoder.decode(cases["vocoder_mel"], cases["vocoder_source"])
        assert_close(wave, cases["vocoder_wave"], 1e-3)


def test_language_model(model, cases):
    hidden, logits = model.language_model(cases["prompt_ids"], cases["codes.0"].T)
    assert_close(logits, cases["lm_logits"])
    assert_close(hidden[:, -1], cases["lm_hidden_last"])


def test_audio_head(model, cases):
    logits = model.audio_head.logits(cases["head_hidden"], cases["head_tokens"])
    assert len(logits) == model.tokenizer.num_codebooks
    for level, ours in enumerate(logits):
        assert_close(ours, cases[f"head_logits.{level}"])


def test_greedy_run(model, cases, case_settings):
    """Text, a segment of frames, text again, on one session whose cache holds all of it."""
    n_text, n_audio = case_settings["n_text"], case_settings["n_audio"]
    text_penalty = case_settings["text_repetition_penalty"]
    audio_penalty = case_settings["audio_repetition_penalty"]
    text2_penalty = case_settings["text2_repetition_penalty"]
    prompt = cases["prompt_ids"][0]
    session = model.start(prompt, cases["codes.0"].T)
    first = session.write_text(n_text - 1, Sampling(**GREEDY, repetition_penalty=text_penalty))
    # The last golden id is replaced by audiogen_start before frames follow, so a run writes one fewer.
    assert torch.as_tensor(first).tolist() == cases["greedy_text_ids"][0, prompt.shape[0] : -1].tolist()
    frames = session.write_codes(n_audio, Sampling(**GREEDY, repetition_penalty=audio_penalty))
    assert torch.equal(frames.cpu(), cases["greedy_audio_frames"][0, :-1].T)
    second = session.write_text(n_text, Sampling(**GREEDY, repetition_penalty=text2_penalty))
    golden = cases["greedy_text2_ids"][0].tolist()
    assert torch.as_tensor(second).tolist() == golden[-n_text:]
    sequence = cases["greedy_audio_seq"][0].tolist()
    assert golden[: len(sequence) - 1] == sequence[:-1]


def test_every_array_is_covered(cases):
    """Fails when the fixture gains an array that no test above looks at."""
    text = Path(__file__).read_text(encoding="utf-8")
    stems = {name.rsplit(".", 1)[0] if name.rsplit(".", 1)[-1].isdigit() else name for name in cases}
    assert {stem for stem in stems if f'"{stem}' not in text.replace('f"', '"')} == set()

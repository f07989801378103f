"""Mel spectrograms beyond the golden case: filters, batches, lengths."""

import torch

from baichuan_audio.audio.mel import (
    FLOW_MEL,
    MelConfig,
    mel_filters,
    natural_log_mel,
    whisper_log_mel,
    whisper_log_mels,
)

WHISPER = MelConfig(16000, 400, 160, 80)


def test_filters_have_equal_area_and_cover_the_band() -> None:
    filters = mel_filters(MelConfig(16000, 4096, 160, 40))
    areas = filters.sum(dim=1) * 16000 / 4096
    torch.testing.assert_close(areas, torch.ones(40), rtol=0.05, atol=0)
    peaks = filters.argmax(dim=1)
    assert bool((peaks.diff() > 0).all())


def test_a_row_of_a_batch_equals_the_row_alone() -> None:
    torch.manual_seed(0)
    waveforms = [torch.randn(n) * 0.1 for n in (4000, 9999, 16000)]
    samples = torch.tensor([len(w) for w in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    batch, frames = whisper_log_mels(padded, samples, WHISPER, 30)
    for row, waveform in enumerate(waveforms):
        alone = whisper_log_mel(waveform, WHISPER, 30)
        assert alone.shape[1] == frames[row] == len(waveform) // 160 + 1
        torch.testing.assert_close(batch[row, :, : frames[row]], alone)


def test_padding_that_is_never_computed_changes_nothing() -> None:
    torch.manual_seed(1)
    waveform = torch.randn(5000) * 0.01
    # the definition, computed in full: zero-pad to the whole piece, floor at the maximum over all of it
    padded = torch.nn.functional.pad(waveform, (0, 30 * 16000 - 5000))
    spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True, pad_mode="reflect")
    log = (mel_filters(WHISPER) @ spectrum[:, :-1].abs().square()).clamp(min=1e-10).log10()
    expected = ((torch.maximum(log, log.max() - 8) + 4) / 4)[:, : 5000 // 160 + 1]
    torch.testing.assert_close(whisper_log_mel(waveform, WHISPER, 30), expected)


def test_flow_mel_has_one_frame_for_each_hop() -> None:
    assert natural_log_mel(torch.zeros(2, 24000), FLOW_MEL).shape == (2, 80, 50)
    assert float(natural_log_mel(torch.zeros(1, 4800), FLOW_MEL).max()) < -5

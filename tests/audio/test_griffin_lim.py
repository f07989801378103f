"""A sound from a mel alone has that mel."""

import numpy as np
import torch

from baichuan_audio.audio.griffin_lim import sound_of_mel
from baichuan_audio.audio.mel import MelConfig, natural_log_mel


def test_the_sound_of_a_mel_has_that_mel() -> None:
    config = MelConfig(16000, 1024, 256, 80)
    time = np.arange(16000) / 16000
    tone = sum(np.sin(2 * np.pi * 140 * h * time) / h for h in range(1, 12)) * 0.2 * (1.2 + np.sin(11 * time))
    wanted = natural_log_mel(torch.from_numpy(tone)[None].float(), config)[0]
    made = sound_of_mel(wanted, config)
    assert made.shape == ((wanted.shape[1] - 1) * 256,) and torch.equal(made, sound_of_mel(wanted, config))
    heard = natural_log_mel(made[None], config)[0][:, 4:-4]
    strong = wanted[:, 4 : heard.shape[1] + 4] > wanted.max() - 4
    assert float((heard - wanted[:, 4 : heard.shape[1] + 4]).abs()[strong].mean()) < 0.35

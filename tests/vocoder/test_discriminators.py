"""Discriminators tell real from made after a few steps, and their losses have the right signs."""

import torch

from baichuan_audio.training.vocoder.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
from baichuan_audio.vocoder.discriminators import DiscriminatorConfig, Discriminators


def test_they_learn_to_tell_a_tone_from_noise() -> None:
    torch.manual_seed(0)
    judges = Discriminators(DiscriminatorConfig(periods=(3,), period_channels=4, fft_sizes=(256,), fft_channels=4))
    time = torch.arange(1200) / 12000
    real = torch.sin(2 * torch.pi * 300 * time)[None].repeat(2, 1) * 0.5
    made = torch.randn(2, 1200) * 0.3
    optimizer = torch.optim.Adam(judges.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = discriminator_loss(judges(real), judges(made))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert adversarial_loss(judges(real)) < adversarial_loss(judges(made))
    assert feature_matching_loss(judges(real), judges(real)) == 0
    assert feature_matching_loss(judges(real), judges(made)) > 0

"""Audio without speech: a function of seed and number, of the length and level that the item says, split by form."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from baichuan_audio.data.store.records import FRAME_SAMPLES, SAMPLE_RATE
from baichuan_audio.data.synth.no_speech import FORMS, HELD_OUT, SILENCE, NoSpeechConfig, draw_item, render
from baichuan_audio.errors import ConfigError


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10((waveform.astype(np.float64) ** 2).mean()))


def below(waveform: np.ndarray, frequency: float) -> float:
    """Share of the power below a frequency."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return float(power[np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE) < frequency].sum() / power.sum())


def test_items_depend_on_seed_and_number_alone():
    few, many = NoSpeechConfig(count=3, seed=4), NoSpeechConfig(count=3000, seed=4)
    for index in range(3):
        item = draw_item(few, index)
        assert draw_item(many, index) == item and np.array_equal(render(item), render(draw_item(many, index)))
        other = draw_item(NoSpeechConfig(count=3, seed=5), index)
        assert other.id != item.id
        # of the same form, length and level, another seed or number still gives another sound
        for seed in (other.seed, (4, index + 1)):
            assert not np.array_equal(render(item), render(replace(item, seed=seed)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_its_length_and_level(form: str):
    for index, (frames, level) in enumerate([(5, -10.0), (5, -60.0), (40, -25.0), (100, -45.0)]):
        item = replace(draw_item(NoSpeechConfig(), index), form=form, samples=frames * FRAME_SAMPLES, level_db=level)
        waveform = render(item)
        assert waveform.dtype == np.float32 and waveform.shape == (frames * 1920,) and np.isfinite(waveform).all()
        peak, measured = float(np.abs(waveform).max()), level_db(waveform)
        assert peak <= 1.0 and measured <= level + 0.2
        assert measured >= level - 0.2 or peak == pytest.approx(0.97, abs=0.01)  # or peaks forbid more


def test_what_the_forms_are():
    def sound(form: str, level: float = -20.0) -> np.ndarray:
        item = replace(draw_item(NoSpeechConfig(), 7), form=form, samples=50 * FRAME_SAMPLES, level_db=level)
        return render(item)

    assert not np.round(sound(SILENCE, -115.0) * 32767).any()  # 16 bits of a muted microphone are zero
    assert below(sound("white noise"), 6000) == pytest.approx(0.5, abs=0.05)
    assert below(sound("white noise"), 1000) < 0.2 < below(sound("pink noise"), 1000) < 0.9
    assert below(sound("brown noise"), 1000) > 0.95 and below(sound("hum"), 1300) > 0.9
    knocks, chords = sound("knocks"), sound("chords")
    quiet = [float((np.abs(each) < 0.05 * np.abs(each).max()).mean()) for each in (knocks, chords)]
    assert quiet[0] > 0.6 > quiet[1]  # knocks are short, chords are held


def test_lengths_levels_and_splits():
    config = NoSpeechConfig(count=3000, seed=1)
    items = [draw_item(config, index) for index in range(config.count)]
    assert len({item.id for item in items}) == config.count
    assert {min(item.seconds for item in items), max(item.seconds for item in items)} == {0.4, 8.0}
    assert all(item.samples % FRAME_SAMPLES == 0 for item in items)
    for silent, (low, high) in ((True, (-120, -60)), (False, (-60, -10))):
        levels = [item.level_db for item in items if (item.form == SILENCE) == silent]
        assert low <= min(levels) < low + 3 and high - 3 < max(levels) <= high
    forms = {split: Counter(i.form for i in items if i.split == split) for split in ("train", "validation")}
    assert forms["validation"].total() == pytest.approx(300, abs=50)
    assert set(forms["train"]) == set(FORMS) - set(HELD_OUT) and set(forms["validation"]) == set(FORMS)
    assert sum(forms["validation"][form] for form in HELD_OUT) == pytest.approx(150, abs=40)
    assert {draw_item(NoSpeechConfig(validation=0.0), index).split for index in range(50)} == {"train"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": -1}, "0 or more"),
        ({"validation": 1.5}, "share from 0 to 1"),
        ({"seconds": (0.0, 8.0)}, r"range within 0\.08 to 30"),
        ({"seconds": (8.0, 0.4)}, r"not \[8\.0, 0\.4\]"),
        ({"level_db": (-60.0, 3.0)}, "range within -90 to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"no_speech: .*{message}"):
        NoSpeechConfig(**values)

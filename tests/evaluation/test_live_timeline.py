"""What a user hears: sound in its order, interruptions, stretches of sound."""

from __future__ import annotations

import numpy as np
import pytest

from baichuan_audio.evaluation.live.timeline import RATE, Playback, audible_segments, count_words


def tone(seconds: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def test_sound_is_played_when_it_comes_and_in_its_order() -> None:
    playback = Playback()
    playback.receive_text("one", 1.0)
    playback.receive("a", tone(0.5), 1.0)
    playback.receive_text("two", 1.1)  # comes early, is played behind the first
    playback.receive("a", tone(0.5), 1.1)
    playback.receive("a", tone(0.25), 4.0)  # comes late: a gap
    assert audible_segments(playback.waveform()) == [(1.0, 2.0), (4.0, 4.25)]
    assert playback.words == [(1.0, "one"), (1.5, "two")]
    assert playback.playing(4.2) and not playback.playing(4.3)
    assert len(playback.waveform(1.2)) == round(1.2 * RATE)
    assert audible_segments(playback.waveform(1.2)) == [(1.0, 1.2)]


def test_an_interruption_drops_what_was_not_played() -> None:
    playback = Playback()
    playback.receive("a", tone(0.5), 1.0)
    playback.receive("b", tone(2.0), 1.0)
    playback.receive_text("late", 1.0)
    assert playback.interrupt(2.0) == ("b", 500)
    assert [(cut.at_s, cut.lost_s) for cut in playback.cuts] == [(2.0, 1.5)]
    assert audible_segments(playback.waveform(4.0)) == [(1.0, 2.0)]
    assert playback.words == []  # its sound would have begun at 3.5 s
    assert playback.interrupt(2.5) is None and len(playback.cuts) == 1
    playback.receive("c", tone(0.5), 3.0)
    assert audible_segments(playback.waveform()) == [(1.0, 2.0), (3.0, 3.5)]


def test_short_gaps_lie_within_a_stretch() -> None:
    sound = np.concatenate([tone(0.2), np.zeros(round(0.4 * RATE), np.float32), tone(0.2)])
    assert audible_segments(sound) == [(0.0, 0.8)]
    assert audible_segments(sound, merge_gap_s=0.3) == [(0.0, 0.2), (0.6, 0.8)]
    assert audible_segments(0.001 * sound) == []
    assert audible_segments(np.zeros(5, np.float32)) == []


@pytest.mark.parametrize(
    ("pieces", "words"), [(["The cap", "ital is Rome."], 4), (["三加四", "等于 7。"], 6), (["..."], 0), ([], 0)]
)
def test_words_of_a_transcript(pieces: list[str], words: int) -> None:
    assert count_words(pieces) == words

import shutil

import numpy as np
import pytest

from baichuan_audio.errors import DataError, MissingDependencyError
from nano.corpus import engines
from nano.corpus.engines import VoiceSetting, find_program, pinyin, synthesize, trim

SETTINGS = [
    VoiceSetting("flite", "kal16", f0_hz=200, resample=1.1),
    VoiceSetting("festival", "kal_diphone"),
    VoiceSetting("espeak", "en-us", formants=1.1, rate=0.9),
]
PROGRAMS = {"flite": "flite", "festival": "festival", "espeak": "espeak-ng"}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.engine)
def test_engine_speaks_or_names_its_package(setting):
    if shutil.which(PROGRAMS[setting.engine]) is None:
        with pytest.raises(MissingDependencyError, match="apt install"):
            synthesize(["hello"], "en", setting)
        return
    short, long = synthesize(["Hello.", 'A "much longer" sentence than that.'], "en", setting)
    assert 0.3 * 24_000 < len(short) < len(long) < 5 * 24_000
    assert short.dtype == np.float32 and 0.03 < np.sqrt((short**2).mean()) < 0.2


@pytest.mark.parametrize("program", ["flite", "festival", "espeak-ng"])
def test_missing_engine_names_the_debian_package(program, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"{program} is not installed.*apt install {program}"):
        find_program(program)


def test_mandarin_goes_through_pinyin():
    assert pinyin("你好，一月。") == "ni2 hao3, yi1 yue4."
    assert pinyin("二十一") == "er4 shi2 yi1"
    with pytest.raises(DataError, match="in Chinese"):
        pinyin("3加4")
    if shutil.which("espeak-ng"):
        waveform, other = (
            synthesize(["你好。"], "zh", VoiceSetting("espeak", "cmn-latn-pinyin", pitch_hz=pitch))[0]
            for pitch in ((70, 175), (190, 430))
        )
        assert len(waveform) > 0.3 * 24_000 and not np.array_equal(waveform[:5000], other[:5000])


def test_an_engine_that_fails_or_hangs_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no engine"):
        synthesize(["hello"], "en", VoiceSetting("pico", "en"))
    program = tmp_path / "flite"
    program.write_text("#!/bin/sh\nexec sleep 5\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match="did not finish"):
        synthesize(["hello"], "en", VoiceSetting("flite", "rms"), timeout_s=0.2)
    program.write_text("#!/bin/sh\necho broken voice >&2\nexit 3\n")
    with pytest.raises(DataError, match="code 3: broken voice"):
        synthesize(["hello"], "en", VoiceSetting("flite", "rms"))


def test_trim():
    tone = (0.01 * np.sin(np.arange(24_000) * 0.1)).astype(np.float32)
    assert abs(len(trim(np.pad(tone, (12_000, 30_000)))) - (24_000 + 0.18 * 24_000)) < 500
    assert len(trim(np.zeros(5000, np.float32))) == 0

"""The voices of the nano corpus: four that answer, many that ask, and those that only test questions use."""

from __future__ import annotations

from dataclasses import dataclass

from .engines import VoiceSetting

_HTS = "cmu_us_slt_arctic_hts"
_PINYIN = "cmn-latn-pinyin"


@dataclass(frozen=True)
class OutputVoice:
    """A voice the model answers in: one timbre, with an engine setting for each language and its spoken names."""

    name: str
    names: dict[str, str]
    settings: dict[str, VoiceSetting]


# Resampling shifts pitch and formants together; kal16 is the one flite voice whose pitch can be set, so a
# raised kal16 gives a bright female voice that pocketsphinx still understands (slt raised as far does not).
OUTPUT_VOICES: dict[str, OutputVoice] = {
    voice.name: voice
    for voice in (
        OutputVoice(
            "Ada",
            {"en": "Ada", "zh": "艾达"},
            {
                "en": VoiceSetting("festival", _HTS),
                "zh": VoiceSetting("espeak", _PINYIN, pitch_hz=(130, 300), formants=1.12),
            },
        ),
        OutputVoice(
            "Ben",
            {"en": "Ben", "zh": "本"},
            {"en": VoiceSetting("flite", "rms"), "zh": VoiceSetting("espeak", _PINYIN, pitch_hz=(70, 175))},
        ),
        OutputVoice(
            "Cleo",
            {"en": "Cleo", "zh": "克莉"},
            {
                "en": VoiceSetting("flite", "kal16", f0_hz=215, resample=1.15, rate=0.95),
                "zh": VoiceSetting("espeak", _PINYIN, pitch_hz=(190, 430), formants=1.22),
            },
        ),
        OutputVoice(
            "Dan",
            {"en": "Dan", "zh": "丹"},
            {
                "en": VoiceSetting("flite", "awb", rate=0.95),
                "zh": VoiceSetting("espeak", _PINYIN, pitch_hz=(105, 250), formants=0.9),
            },
        ),
    )
}


def _zh(low: int, high: int, formants: float, rate: float = 1.0, *extra: str) -> VoiceSetting:
    return VoiceSetting("espeak", _PINYIN, pitch_hz=(low, high), formants=formants, rate=rate, extra=extra)


def _en(low: int, high: int, formants: float, rate: float, *extra: str) -> VoiceSetting:
    return VoiceSetting("espeak", "en-us", pitch_hz=(low, high), formants=formants, rate=rate, extra=extra)


# Questions and reading sentences of training and validation.
QUESTION_VOICES: dict[str, dict[str, VoiceSetting]] = {
    "en": {
        "en-slt-hts": VoiceSetting("festival", _HTS),
        "en-slt-hts-high": VoiceSetting("festival", _HTS, resample=1.08, rate=1.05),
        "en-rms": VoiceSetting("flite", "rms"),
        "en-rms-low": VoiceSetting("flite", "rms", resample=0.92),
        "en-rms-high": VoiceSetting("flite", "rms", resample=1.15),
        "en-rms-fast": VoiceSetting("flite", "rms", resample=1.06, rate=1.18),
        "en-awb": VoiceSetting("flite", "awb", rate=0.95),
        "en-awb-low": VoiceSetting("flite", "awb", resample=0.93, rate=0.9),
        "en-awb-high": VoiceSetting("flite", "awb", resample=1.1),
        "en-kal-girl": VoiceSetting("flite", "kal16", f0_hz=230, resample=1.12),
        "en-kal-woman": VoiceSetting("flite", "kal16", f0_hz=180, resample=1.08, rate=0.95),
        "en-kal-light": VoiceSetting("flite", "kal16", f0_hz=150, resample=1.1, rate=1.08),
        "en-espeak-man": _en(80, 130, 1.0, 0.9, "klatt 4"),
        "en-espeak-woman": _en(140, 220, 1.1, 0.88),
    },
    "zh": {
        "zh-man": _zh(80, 200, 1.0),
        "zh-man-low": _zh(60, 150, 0.92, 0.92),
        "zh-man-fast": _zh(90, 230, 0.96, 1.15),
        "zh-man-large": _zh(75, 190, 0.88),
        "zh-man-klatt": _zh(85, 210, 1.0, 0.95, "klatt 4"),
        "zh-middle": _zh(110, 260, 1.04),
        "zh-woman": _zh(140, 320, 1.12),
        "zh-woman-slow": _zh(130, 310, 1.1, 0.88),
        "zh-woman-fast": _zh(160, 350, 1.15, 1.12),
        "zh-woman-klatt": _zh(150, 330, 1.08, 1.0, "klatt 2"),
        "zh-woman-rough": _zh(135, 300, 1.14, 1.0, "roughness 3", "breath 0 2 3 3 3 3 3 2"),
        "zh-child": _zh(200, 440, 1.25),
        "zh-girl": _zh(190, 420, 1.18, 1.05),
    },
}

# Questions of the test split only. flite's slt is an engine voice training never hears; the low kal16 is a
# man where training has it only raised to a woman's voice; the others are espeak settings of their own.
HELD_OUT_VOICES: dict[str, dict[str, VoiceSetting]] = {
    "en": {
        "test-en-slt": VoiceSetting("flite", "slt"),
        "test-en-slt-low": VoiceSetting("flite", "slt", resample=0.94, rate=0.95),
        "test-en-kal-man": VoiceSetting("flite", "kal16"),
        "test-en-kal-large": VoiceSetting("flite", "kal16", f0_hz=110, resample=0.95),
    },
    "zh": {
        "test-zh-man": _zh(95, 240, 0.94, 1.05),
        "test-zh-woman": _zh(145, 340, 1.09, 0.95, "roughness 1", "breath 0 4 6 6 6 6 0 10"),
        "test-zh-klatt": _zh(110, 270, 1.05, 1.0, "klatt 3"),
        "test-zh-high": _zh(175, 390, 1.16, 0.97),
    },
}

# Festival is the slowest engine, and espeak's English the hardest to understand: both speak less.
QUESTION_WEIGHTS: dict[str, float] = {
    "en-espeak-man": 0.5,
    "en-espeak-woman": 0.4,
    "en-slt-hts": 0.8,
    "en-slt-hts-high": 0.8,
}

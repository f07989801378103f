"""Every suite: who reads its data, what a system is asked, and how its result file becomes figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import (
    aishell1,
    asr,
    covost2,
    fleurs,
    kespeech,
    librispeech,
    openaudiobench,
    reconstruction,
    recordings,
    s2sbench,
    seed_tts,
    voicebench,
    wenetspeech,
)
from .items import Benchmark
from .scores import likelihood, speech, translation
from .scores import voicebench as voicebench_scores
from .scores.units import Units
from .summary import SETTINGS, answer_units, summarize


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    load: its reader. version: of what is asked. settings: what can be asked, and `default` what is asked where nothing
    is chosen. score, units: from a result file to figures, and to one unit an item for comparisons. judged:
    whether a judge sees the replies. listens: whether sounds are read back by an ASR; measures: whether their quality
    is measured. layout, figure: for people.
    """

    load: Callable[[Path, bool], Benchmark]
    version: str
    settings: tuple[str, ...]
    default: tuple[str, ...]
    score: Callable[[Path], dict[str, Any]]
    units: Callable[[Path], Units]
    layout: str
    figure: str
    judged: bool = False
    listens: bool = False
    measures: bool = False


def _recognition(load: Callable[[Path, bool], Benchmark], layout: str, figure: str) -> Suite:
    return Suite(load, asr.VERSION, ("asr",), ("asr",), asr.score, asr.error_units, layout, figure)


SUITES = {
    "openaudiobench": Suite(
        openaudiobench.load, openaudiobench.VERSION, SETTINGS, ("s2t",), summarize, answer_units,
        "eval_datas/<set>/{<set>.csv,audios/}", "points of a judge", judged=True,
    ),
    "voicebench": Suite(
        voicebench.load, voicebench.VERSION, SETTINGS, ("s2t",), voicebench_scores.score_voicebench,
        voicebench_scores.voicebench_units, "<set>/*.parquet, or <set>/*.jsonl with recordings",
        "points of a judge, or of what the reply states", judged=True,
    ),
    "librispeech": _recognition(
        librispeech.load, "<split>/<speaker>/<chapter>/{*.flac,<speaker>-<chapter>.trans.txt}", "word error rate"
    ),
    "aishell1": _recognition(
        aishell1.load, "data_aishell/{wav/test/S*/*.wav,transcript/aishell_transcript_v0.8.txt}",
        "character error rate",
    ),
    "fleurs": _recognition(
        fleurs.load, "<language>/test/*.wav and metadata/<language>/test.tsv", "word or character error rate"
    ),
    "wenetspeech": _recognition(wenetspeech.load, "WenetSpeech.json and audio/", "character error rate"),
    "kespeech": _recognition(
        kespeech.load, "Tasks/ASR/test/{wav.scp,text,utt2spk,utt2subdialect}",
        "character error rate of each sub-dialect",
    ),
    "recordings": _recognition(
        recordings.load, "manifest.jsonl with path, transcript, language, set and speaker",
        "word or character error rate of each set",
    ),
    "covost2": Suite(
        covost2.load, covost2.VERSION, ("s2tt",), ("s2tt",), translation.score_translations,
        translation.translation_units, "covost_v2.<from>_<to>.test.tsv and <from>/clips/", "BLEU",
    ),
    "seed_tts": Suite(
        seed_tts.load, seed_tts.VERSION, ("tts",), ("tts",), speech.score_tts, speech.tts_units,
        "{en,zh}/meta.lst, zh/hardcase.lst and prompt recordings", "ASR error, likeness of the voice, predicted MOS",
        listens=True, measures=True,
    ),
    "reconstruction": Suite(
        reconstruction.load, reconstruction.VERSION, ("codec",), ("codec",), speech.score_codec, speech.codec_units,
        "that of librispeech, aishell1 or fleurs, or any folder of sounds",
        "mel error, PESQ, STOI, predicted MOS, ASR error, codebook use, bit rate", listens=True, measures=True,
    ),
    "s2sbench": Suite(
        s2sbench.load, s2sbench.VERSION, likelihood.SETTINGS, likelihood.SETTINGS, likelihood.score_likelihoods,
        likelihood.likelihood_units,
        "S2S/StoryCloze/{sStory_s2t,zh_story}.jsonl, S2S/cmmlu/cmmlu_rewrite_4.jsonl and recordings",
        "accuracy by likelihood",
    ),
}  # fmt: skip
"""Name -> suite."""

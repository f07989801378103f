"""Figures that others published, with the setting and the source of each, to be read beside measured ones.

Only what a source states is here; a figure without its setting says so. Numbers of different judges, prompts and
normalisers are no ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Value = float | None


@dataclass(frozen=True)
class Column:
    """One figure: what it is called, and where a measured one stands below `sets` of the figures of a result file.

    path may begin with a set's name, or with "*" for the mean over all sets.
    """

    title: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table of one suite. rows: system, its setting, and a value a column; None where the source has none."""

    suite: str
    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, str, tuple[Value, ...]], ...]
    sources: tuple[str, ...]
    measured_setting: str


_KIMI = "Kimi-Audio README (MoonshotAI/Kimi-Audio, 0260b0b): by their toolkit Kimi-Audio-Evalkit"
_PAPER = "Baichuan-Audio technical report, arXiv 2502.17239"
_FDB = "Full-Duplex-Bench README, v1.0 results (DanielLin94144/Full-Duplex-Bench, d7336bd)"
_BBA = "arXiv 2605.23463 and NVIDIA's card of Nemotron 3 VoiceChat, as quoted in surveys of 2026; not checked again"


def _answers(setting: str) -> tuple[Column, ...]:
    titles = {
        "alpaca_eval": "AlpacaEval",
        "llama_questions": "Llama Questions",
        "reasoning_qa": "Reasoning QA",
        "trivia_qa": "TriviaQA",
        "web_questions": "Web Questions",
    }
    return tuple(Column(title, (name, "settings", setting, "strict", "value")) for name, title in titles.items())


PUBLISHED: Sequence[PublishedTable] = (
    PublishedTable(
        "openaudiobench",
        "OpenAudioBench, spoken question to text",
        "points",
        _answers("s2t"),
        (
            ("Baichuan-Audio", "s2t, the report", (None, 78.4, None, None, None)),
            ("Baichuan-Audio", "s2t, rerun by Kimi", (59.65, 74.33, 46.73, 55.40, 58.70)),
            ("Kimi-Audio", "s2t", (75.73, 79.33, 58.02, 62.10, 70.20)),
            ("Qwen2.5-Omni", "s2t, rerun by Kimi", (72.76, 75.33, 63.76, 57.06, 62.80)),
            ("Step-Audio-Chat", "s2t, rerun by Kimi", (56.53, 72.33, 60.00, 56.80, 73.00)),
            ("GLM-4-Voice", "s2t, rerun by Kimi", (57.89, 76.00, 47.43, 51.80, 55.40)),
            ("Qwen2-Audio-Chat", "s2t, rerun by Kimi", (57.19, 69.67, 42.77, 40.30, 45.20)),
        ),
        (_PAPER, _KIMI),
        "s2t, strict",
    ),
    PublishedTable(
        "openaudiobench",
        "OpenAudioBench, text of the spoken reply",
        "points",
        _answers("s2s_text"),
        (("Baichuan-Audio", "s2s, merged text, the report", (None, 74.5, None, None, None)),),
        (_PAPER,),
        "s2s, text of the reply, strict",
    ),
    PublishedTable(
        "openaudiobench",
        "OpenAudioBench, sound of the spoken reply",
        "points",
        _answers("s2s_asr"),
        (("Kimi-Audio", "s2s, by ASR, UltraEval-Audio", (None, None, None, None, 33.69)),),
        ("UltraEval-Audio (OpenBMB/UltraEval-Audio, 9b69da6); the same model has 70.20 from spoken question to text",),
        "s2s, sound read back by an ASR, strict",
    ),
    PublishedTable(
        "librispeech",
        "LibriSpeech",
        "% WER",
        tuple(Column(name, (name, "error_rate", "value")) for name in ("test-clean", "test-other")),
        (
            ("Baichuan-Audio-Base", "rerun by Kimi", (3.02, 6.04)),
            ("Kimi-Audio", "", (1.28, 2.42)),
            ("Qwen2.5-Omni", "rerun by Kimi", (2.37, 4.21)),
            ("Step-Audio-Chat", "rerun by Kimi", (3.19, 10.67)),
            ("Qwen2-Audio-Base", "rerun by Kimi", (1.74, 4.04)),
        ),
        (_KIMI,),
        "whisper-en",
    ),
    PublishedTable(
        "fleurs",
        "FLEURS",
        "% error",
        (
            Column("Mandarin, CER", ("cmn_hans_cn", "error_rate", "value")),
            Column("English, WER", ("en_us", "error_rate", "value")),
        ),
        (
            ("Baichuan-Audio-Base", "rerun by Kimi", (4.15, 8.07)),
            ("Kimi-Audio", "", (2.69, 4.44)),
            ("Qwen2.5-Omni", "rerun by Kimi", (2.92, 4.17)),
            ("Step-Audio-Chat", "rerun by Kimi", (4.26, 8.56)),
            ("Qwen2-Audio-Base", "rerun by Kimi", (3.63, 5.20)),
        ),
        (_KIMI,),
        "characters-zh, whisper-en",
    ),
    PublishedTable(
        "aishell1",
        "AISHELL-1",
        "% CER",
        (Column("test", ("test", "error_rate", "value")),),
        (
            ("Baichuan-Audio-Base", "rerun by Kimi", (1.93,)),
            ("Kimi-Audio", "", (0.60,)),
            ("Qwen2.5-Omni", "rerun by Kimi", (1.13,)),
            ("Step-Audio-Chat", "rerun by Kimi", (2.14,)),
            ("Qwen2-Audio-Base", "rerun by Kimi", (1.52,)),
        ),
        (_KIMI,),
        "characters-zh",
    ),
    PublishedTable(
        "full_duplex_bench",
        "Full-Duplex-Bench v1.0",
        "shares and seconds",
        (
            Column("Pauses, synthetic: taken over ↓", ("v1_0/synthetic_pause_handling", "taken_over", "value")),
            Column("Pauses, Candor: taken over ↓", ("v1_0/candor_pause_handling", "taken_over", "value")),
            Column("Backchannel, ICC: taken over ↓", ("v1_0/icc_backchannel", "taken_over", "value")),
            Column("Turns, Candor: taken over ↑", ("v1_0/candor_turn_taking", "taken_over", "value")),
            Column("latency s ↓", ("v1_0/candor_turn_taking", "response_s", "p50")),
            Column("Interruption: taken over ↑", ("v1_0/synthetic_user_interruption", "taken_over", "value")),
            Column("latency s ↓", ("v1_0/synthetic_user_interruption", "response_s", "p50")),
        ),
        (
            ("GPT-Realtime", "mean latency", (1.0, 12.0, 0.0, 100.0, 1.470, 97.0, 1.500)),
            ("PersonaPlex", "mean latency", (58.4, 66.2, 32.7, 99.2, 0.070, 100.0, 0.400)),
            ("Freeze-Omni", "mean latency", (64.2, 48.1, 63.6, 33.6, 0.953, 86.7, 1.409)),
            ("Moshi", "mean latency", (98.5, 98.0, 100.0, 94.1, 0.265, 100.0, 0.257)),
            ("dGSLM", "mean latency", (93.4, 93.5, 69.1, 97.5, 0.352, 91.7, 2.531)),
        ),
        (_FDB,),
        "median latency",
    ),
    PublishedTable(
        "big_bench_audio",
        "Big Bench Audio",
        "% right",
        (Column("all categories", ("*", "correct", "value")),),
        (
            ("StepAudio 2.5 Realtime", "arXiv 2605.23463", (97.6,)),
            ("GPT-Realtime-2", "quoted there", (96.6,)),
            ("Freeze-Omni", "NVIDIA's model card", (33.9,)),
            ("Nemotron 3 VoiceChat 12B", "NVIDIA's model card", (29.2,)),
            ("PersonaPlex", "NVIDIA's model card", (12.6,)),
            ("Moshi", "NVIDIA's model card", (1.7,)),
        ),
        (_BBA,),
        "spoken answers, matched or judged",
    ),
)

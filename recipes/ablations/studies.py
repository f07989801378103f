"""The studies: which runs each has, and what is measured of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from workspace import VOICE, Workspace, last_values

import baichuan_audio
from baichuan_audio.audio.griffin_lim import sound_of_mel
from baichuan_audio.audio.mel import FLOW_MEL, natural_log_mel
from baichuan_audio.audio.waveform import resample
from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.data.pipeline.backends.registry import load_backend
from baichuan_audio.data.store.codes_store import CodesStore
from baichuan_audio.data.store.manifest import ClipStore
from baichuan_audio.evaluation.metrics import error_rate, mel_mae
from baichuan_audio.flow_decoder import FlowDecoder
from baichuan_audio.training.common.checkpointing import load_part
from baichuan_audio.training.common.recipe import load_stage_recipe
from baichuan_audio.training.flow.train import decoder_hidden
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.language_model.validation import Validation

Rows = dict[str, dict[str, float]]
"""Row of the table -> metric -> value of one run."""


@dataclass(frozen=True)
class Study:
    """`run(workspace, variant, seed)` trains and measures one run."""

    question: str
    variants: tuple[str, ...]
    run: Callable[[Workspace, str, int, str], Rows]


def codebooks(work: Workspace, variant: str, seed: int, recogniser: str) -> Rows:
    values = last_values(tuned_tokenizer(work, int(variant), seed)[1])
    names = {"phonetic_errors_en": "phoneme errors, %", "mel_l1": "mel L1, nepers"}
    scale = {"phonetic_errors_en": 100.0}
    return {
        f"{variant} codebooks": {
            shown: scale.get(name, 1.0) * values[f"validation/{name}"] for name, shown in names.items()
        }
    }


def tuned_tokenizer(work: Workspace, count: int, seed: int) -> tuple[Path, Path]:
    """config.json and output of a run of study `codebooks`."""
    config, state = work.cut_tokenizer(count)
    changes = {"config": config, "init_from": state, "dataset": work.audio, "seed": seed}
    return config, work.train("tokenizer", "tokenizer", changes, f"tokenizer-{count}-{seed}")


def decoder(work: Workspace, variant: str, seed: int, recogniser: str) -> Rows:
    config, tokenizer = tuned_tokenizer(work, 8, seed)
    values = json.loads(config.read_text(encoding="utf-8"))
    values["flow_matching_config"]["diffusion_steps"] = 10
    flow_config = work.root / "flow.json"
    flow_config.write_text(json.dumps(values), encoding="utf-8")
    codes = work.codes(tokenizer, f"codes-{seed}", config)
    changes = {"config": flow_config, "tokenizer": tokenizer, "init_from": work.base, "dataset": work.audio,
               "codes": codes, "seed": seed}  # fmt: skip
    output = work.train("flow", "flow", changes, f"flow-{seed}")
    part, flow = AudioTokenizer.from_config(values), FlowDecoder.from_config(values)
    load_part(part, "tokenizer", tokenizer)
    load_part(flow, "flow", output)
    return decoded_speech(work, part.eval(), flow.eval(), CodesStore(codes), recogniser)


@torch.no_grad()
def decoded_speech(
    work: Workspace, tokenizer: AudioTokenizer, flow: FlowDecoder, codes: CodesStore, recogniser: str
) -> Rows:
    """Validation clips decoded in each way, all by Griffin-Lim: word errors of a recogniser and mel distance at 16 kHz,
    of which 0.2 s at the end are left out."""
    store, write = ClipStore(work.audio), load_backend("asr", recogniser)
    texts: list[str] = []
    written: dict[str, list[str]] = {}
    distances: dict[str, list[float]] = {}
    clips = [clip for clip in store.select(split="validation") if clip.id in codes]
    for clip in [clip for clip in clips if clip.source == "synthetic"][:14] + store.select(
        split="validation", source="librispeech"
    ):
        waveform, row = store.waveform(clip), codes[clip.id][None]
        hidden = decoder_hidden(tokenizer, row)
        coarse, refined = tokenizer.decoder.mels(hidden)
        mu = flow.prenet(hidden)
        noise = torch.randn(mu.transpose(1, 2).shape, generator=torch.Generator().manual_seed(0))
        mels = {
            "coarse mel": (coarse[0].T, tokenizer.coarse.mel),
            "refined mel": (refined[0].T, tokenizer.coarse.mel),
            "prenet's mel": (mu[0].T, FLOW_MEL),
            "flow matching, 10 steps": (flow.sample_batch(mu, noise)[0], FLOW_MEL),
            "recording's mel": (natural_log_mel(waveform[None], FLOW_MEL)[0], FLOW_MEL),
        }
        texts.append(clip.transcript or "")
        target = resample(waveform, clip.sample_rate, 16000)
        for name, (mel, config) in mels.items():
            made = resample(sound_of_mel(mel.float(), config), config.sample_rate, 16000)
            hypothesis = write(made.numpy(), "en")
            written.setdefault(name, []).append(hypothesis.text if hypothesis else "")
            end = min(len(made), len(target)) - 3200
            distances.setdefault(name, []).append(mel_mae(made[:end], target[:end], tokenizer.coarse.mel))
    return {
        name: {
            "word errors, %": 100 * error_rate(texts, written[name], "en").rate,
            "mel distance, nepers": sum(values) / len(values),
        }
        for name, values in distances.items()
    }


_SPEECH = {"validation/asr/text": "transcripts, nats a token", "validation/tts/code_0": "codebook 0, nats",
           "validation/tts/code_0_accuracy": "codebook 0 right, %", "guard/text_accuracy": "text guard, %"}  # fmt: skip


def stages(work: Workspace, variant: str, seed: int, recogniser: str) -> Rows:
    return {variant: shown(last_values(speech_model(work, variant, seed, by_words=False)), _SPEECH)}


def interleaving(work: Workspace, variant: str, seed: int, recogniser: str) -> Rows:
    output = speech_model(work, "one stage", seed, by_words=variant.startswith("fine"))
    return {variant: shown(last_values(output), _SPEECH)}


def speech_model(work: Workspace, variant: str, seed: int, by_words: bool) -> Path:
    """Output of the last stage of a run of `lm_speech.yaml`: 80 steps, in one stage or in two."""
    start, name = work.text_model(by_words), f"lm-{'words' if by_words else 'clauses'}"
    shared = {"dataset": work.audio, "codes": work.codes(work.base), "dialogues": f"[{work.texts}]", "seed": seed}
    fresh = {"init_from": start, "reset_audio_embeddings": True, "codebook_source": work.base}
    if variant == "one stage":
        return work.train("lm", "lm_speech", shared | fresh, f"{name}-one-{seed}")
    first = work.train("lm", "lm_speech", shared | fresh | {"stage": "stage1", "steps": 27}, f"{name}-two-1-{seed}")
    second = {"init_from": first / "model", "steps": 53}
    return work.train("lm", "lm_speech", shared | second, f"{name}-two-2-{seed}")


def adapters(work: Workspace, variant: str, seed: int, recogniser: str) -> Rows:
    shared = {"init_from": work.base, "dataset": work.audio, "codes": work.codes(work.base), "seed": seed,
              "dialogues": f"[{work.texts}]"}  # fmt: skip
    names = {name: shown for name, shown in _SPEECH.items() if name != "validation/asr/text"}
    names["guard/asr_error"] = "ASR guard, % errors"
    if variant == "base":
        entries = [f"{key}={value}" for key, value in shared.items()]
        path = Path(__file__).parent / "lm_adapters.yaml"
        recipe = load_stage_recipe(path, LanguageModelRecipe, [*entries, f"output={work.root / 'runs' / 'base'}"])
        model = baichuan_audio.load(work.base, dtype=torch.float32)
        model.config["voices"] = [*model.voices, VOICE]
        recipe.prepare()
        return {variant: shown(Validation(recipe, model).measure(), names)}
    changes = shared | ({"adapter": "{rank: 8, alpha: 16.0}"} if variant == "LoRA, rank 8" else {})
    kind = "lora" if "adapter" in changes else "all"
    return {variant: shown(last_values(work.train("lm", "lm_adapters", changes, f"adapters-{kind}-{seed}")), names)}


def shown(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """The values of `names`, under the table's headings; shares as percentages."""
    return {title: (100 if "%" in title else 1) * values[name] for name, title in names.items()}


STUDIES = {
    "codebooks": Study("8, 4 or 1 codebooks (report, Table 1)", ("8", "4", "1"), codebooks),
    "decoder": Study("flow matching against coarse mel (report, Table 3)", ("flow",), decoder),
    "stages": Study("two stages against one (report, Table 5)", ("two stages", "one stage"), stages),
    "interleaving": Study(
        "fine against coarse interleaving (arXiv 2510.20860)", ("coarse: clauses", "fine: words"), interleaving
    ),
    "adapters": Study("what a LoRA forgets", ("base", "LoRA, rank 8", "all weights"), adapters),
}

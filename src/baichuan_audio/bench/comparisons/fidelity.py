"""What quantised weights change in the replies of a model: logits, greedy choices, and what is heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...acceleration import optimize_for_inference
from ...audio.waveform import prepare_waveform
from ...errors import BaichuanAudioError
from ...evaluation.metrics import error_rate
from ...evaluation.statistics import Estimate, rate
from ...evaluation.systems.recognisers import WhisperRecogniser
from ...generation.events import AudioDelta, TextDelta
from ...generation.sequence import Token
from ...model import BaichuanAudio
from ...text.language import language_of

_RECOGNISER_HZ = 16000


def measure_fidelity(
    model: BaichuanAudio,
    name: str,
    kinds: Sequence[str],
    folder: Path,
    whisper: str | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Ask `model` the recordings in `folder`, unquantised and with each kind.

    Teacher-forced over the unquantised replies: relative L2 error of text and code logits, and the share of positions
    with the same most likely id or code. Free-running: replies with the same text, and with a Whisper size or folder
    the error rate of what it hears against the reply's own text, and its change against the unquantised replies to the
    same questions. A reply counts at most as many errors as it has words: Whisper may repeat itself without end.
    """
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise BaichuanAudioError(f"{folder}: there is no *.wav in it; name a folder of recorded questions.")
    paths = {"none": optimize_for_inference(model)} | {kind: optimize_for_inference(model, kind) for kind in kinds}
    recogniser = WhisperRecogniser(whisper) if whisper else None
    replies: dict[str, list[_Reply]] = {}
    for kind, path in paths.items():
        report(f"replies: {kind}")
        replies[kind] = [_ask(path, file) for file in files]
    rows: dict[str, dict[str, Any]] = {}
    read: dict[str, list[tuple[int, int]]] = {}
    for kind, path in paths.items():
        report(f"logits: {kind}")
        rows[kind] = _against(replies["none"], paths["none"], path)
        texts = [(mine.text, theirs.text) for mine, theirs in zip(replies[kind], replies["none"], strict=True)]
        rows[kind] |= {"same_text": sum(mine == theirs for mine, theirs in texts), "replies": len(files)}
        if recogniser is not None:
            report(f"listening: {kind}")
            read[kind] = [_recognition_errors(reply, recogniser) for reply in replies[kind]]
            errors, counts = zip(*read[kind], strict=True)
            rows[kind]["recognition_error"] = asdict(rate(errors, counts))
            before, sizes = zip(*read["none"], strict=True)
            changes = [now - then for now, then in zip(errors, before, strict=True)]
            rows[kind]["recognition_change"] = asdict(rate(changes, sizes))
    return {"model": {"name": name}, "kinds": rows}


class _Reply:
    """tokens: the whole sequence; start: where the reply begins in it."""

    def __init__(self, tokens: list[Token], start: int, text: str, waveform: Tensor, rate: int) -> None:
        self.tokens, self.start, self.text, self.waveform, self.rate = tokens, start, text, waveform, rate


def _ask(model: BaichuanAudio, file: Path) -> _Reply:
    conversation = model.conversation(seed=0)
    deltas = conversation.ask({"audio": str(file)})
    start, text, pieces = len(conversation.session), "", []
    for delta in deltas:
        if isinstance(delta, TextDelta):
            text += delta.text
        elif isinstance(delta, AudioDelta):
            pieces.append(delta.waveform.cpu())
    waveform = torch.cat(pieces) if pieces else torch.zeros(0)
    return _Reply(list(conversation.session.tokens), start, text, waveform, model.sample_rate)


@torch.inference_mode()
def _logits(model: BaichuanAudio, reply: _Reply) -> tuple[Tensor, Tensor]:
    """Logits of the reply's text ids [N, V], and of its codes, all codebooks in a row [P, sizes]."""
    language_model, tokens = model.language_model, reply.tokens
    hidden = language_model.hidden(language_model.embed_sequence(tokens)[None], language_model.init_cache())[0].float()
    after = range(reply.start, len(tokens))
    texts = [i - 1 for i in after if not isinstance(tokens[i], tuple)]
    frames = [i - 1 for i in after if isinstance(tokens[i], tuple)]
    codes = torch.tensor([tokens[i + 1] for i in frames])
    heads = model.audio_head.logits(hidden[frames], codes) if frames else []
    return language_model.lm_head(hidden[texts]).float(), torch.cat([h[:, :-1].float() for h in heads], 1)


def _against(replies: Sequence[_Reply], full: BaichuanAudio, other: BaichuanAudio) -> dict[str, float]:
    sums = dict.fromkeys(("text", "text_norm", "text_same", "texts", "code", "code_norm", "code_same", "codes"), 0.0)
    sizes = list(full.audio_head.codebook_sizes)
    for reply in replies:
        (text, code), (other_text, other_code) = _logits(full, reply), _logits(other, reply)
        sums["text"] += float((other_text - text).square().sum())
        sums["text_norm"] += float(text.square().sum())
        sums["text_same"] += float((other_text.argmax(1) == text.argmax(1)).sum())
        sums["texts"] += len(text)
        sums["code"] += float((other_code - code).square().sum())
        sums["code_norm"] += float(code.square().sum())
        for mine, theirs in zip(other_code.split(sizes, 1), code.split(sizes, 1), strict=True):
            sums["code_same"] += float((mine.argmax(1) == theirs.argmax(1)).sum())
            sums["codes"] += len(mine)
    return {
        "text_error": (sums["text"] / sums["text_norm"]) ** 0.5,
        "text_agreement": sums["text_same"] / sums["texts"],
        "code_error": (sums["code"] / sums["code_norm"]) ** 0.5,
        "code_agreement": sums["code_same"] / sums["codes"],
    }


def _recognition_errors(reply: _Reply, recogniser: WhisperRecogniser) -> tuple[int, int]:
    """Errors in words (English) or characters (Mandarin) of what the recogniser hears, and how many the reply has."""
    language = language_of(reply.text) or "en"
    transcript = ""
    if len(reply.waveform):
        transcript = recogniser.transcribe(
            prepare_waveform(reply.waveform, reply.rate, _RECOGNISER_HZ).numpy(), language
        )
    result = error_rate([reply.text], [transcript], language)
    return min(result.errors, result.count), result.count


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [
        f"### {result['model']['name']}",
        "",
        "| weights | text logits, error | same id | code logits, error | same code | replies with the same text | "
        "read back by Whisper, errors | change |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, row in result["kinds"].items():
        names = "recognition_error", "recognition_change"
        recognised = " | ".join(_interval(Estimate(**row[name])) if name in row else "" for name in names)
        lines.append(
            f"| {kind} | {row['text_error']:.3f} | {row['text_agreement']:.1%} | {row['code_error']:.3f} | "
            f"{row['code_agreement']:.1%} | {row['same_text']} of {row['replies']} | {recognised} |"
        )
    return "\n".join(lines) + "\n"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"

"""encode, decode, reconstruct: audio to codes and back."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AudioError, DataError, MissingDependencyError
from .common import Progress, add_command, check_output, load_model, show

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import BaichuanAudio

CODES_FORMAT = "baichuan-audio-codes"
_MAX_CODES_BYTES = 1 << 30


def add_commands(commands: Any) -> None:
    """Add the commands `encode`, `decode` and `reconstruct` to the parser."""
    encode = add_command(commands, "encode", run_encode, "Encode audio as codes and write them to a file.")
    encode.add_argument("audio", help="an audio file: any format, rate and number of channels")
    encode.add_argument("--output", "-o", default="codes.safetensors", metavar="FILE", help="(default: %(default)s)")

    decode = add_command(commands, "decode", run_decode, "Decode a file of codes to audio.")
    decode.add_argument("codes", help="a file written by encode")
    decode.add_argument("--output", "-o", default="decoded.wav", metavar="FILE", help="(default: %(default)s)")

    reconstruct = add_command(
        commands,
        "reconstruct",
        run_reconstruct,
        "Encode and decode audio; print metrics and plot both mel spectrograms.",
    )
    reconstruct.add_argument("audio", help="an audio file: any format, rate and number of channels")
    reconstruct.add_argument(
        "--output", "-o", default="reconstructed.wav", metavar="FILE", help="(default: %(default)s)"
    )
    reconstruct.add_argument("--plot", metavar="PNG", help="plot both mel spectrograms (needs matplotlib)")


def run_encode(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, (".safetensors",))
    rate, waveform = _read(arguments.audio)
    model = load_model(arguments)
    with Progress(f"encoding {len(waveform) / rate:.0f} s of audio") as progress:
        codes = model.tokenizer.encode(waveform, rate)
    write_codes(arguments.output, codes, model)
    result = {
        "output": arguments.output,
        "codebooks": codes.shape[0],
        "frames": codes.shape[1],
        "seconds": round(len(waveform) / rate, 3),
        "bits_per_second": _bit_rate(model),
        "compute_s": round(progress.seconds, 3),
    }
    show(
        arguments,
        result,
        f"{arguments.output}: {codes.shape[0]} x {codes.shape[1]} codes for {result['seconds']:.2f} s of audio "
        f"({result['bits_per_second']:.0f} bits/s), encoded in {progress.seconds:.2f} s",
    )


def run_decode(arguments: argparse.Namespace) -> None:
    from ..audio.waveform import save_waveform

    check_output(arguments.output)
    codes = read_codes(arguments.codes)
    model = load_model(arguments)
    with Progress(f"decoding {codes.shape[1]} code frames") as progress:
        waveform = model.tokenizer.decode(codes)
    save_waveform(arguments.output, waveform, model.sample_rate)
    seconds = waveform.shape[0] / model.sample_rate
    result = {"output": arguments.output, "seconds": round(seconds, 3), "compute_s": round(progress.seconds, 3)}
    show(arguments, result, f"{arguments.output}: {seconds:.2f} s of audio, decoded in {progress.seconds:.2f} s")


def run_reconstruct(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, inputs=[arguments.audio])
    check_output(arguments.plot, (".png", ".svg", ".pdf"))
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("plots need matplotlib: pip install 'baichuan-audio[plot]'.")
    rate, waveform = _read(arguments.audio)
    model = load_model(arguments)
    metrics = reconstruct(model, waveform, rate, arguments.output, arguments.plot)
    show(
        arguments,
        metrics,
        f"{metrics['output']}: {metrics['seconds']:.2f} s at {metrics['bits_per_second']:.0f} bits/s, "
        f"mel error {metrics['mel_mae']:.3f} (mean |difference| of natural-log mels), "
        f"encoded in {metrics['encode_s']:.2f} s, decoded in {metrics['decode_s']:.2f} s\n"
        f"distinct codes by codebook: {' '.join(str(count) for count in metrics['distinct_codes'])}",
    )


def reconstruct(model: BaichuanAudio, waveform: Tensor, rate: int, output: str, plot: str | None) -> dict[str, Any]:
    """Encode and decode `waveform` [S]; write the audio `output` and, if named, the plot `plot` -> metrics."""
    from ..audio.waveform import resample, save_waveform
    from ..evaluation.metrics import mel_mae
    from ..evaluation.report.mels import plot_mels

    with Progress(f"encoding {len(waveform) / rate:.0f} s of audio") as encoding:
        codes = model.tokenizer.encode(waveform, rate)
    with Progress(f"decoding {codes.shape[1]} code frames") as decoding:
        decoded = model.tokenizer.decode(codes).cpu().float()
    save_waveform(output, decoded, model.sample_rate)
    original = resample(waveform, rate, model.sample_rate)
    if plot:
        waveforms = {"original": original.numpy(), "reconstructed": decoded.numpy()}
        plot_mels(waveforms, model.sample_rate, plot)
    return {
        "output": output,
        "plot": plot,
        "seconds": round(len(waveform) / rate, 3),
        "frames": codes.shape[1],
        "bits_per_second": _bit_rate(model),
        "mel_mae": round(mel_mae(original, decoded), 4),
        "distinct_codes": [int(level.unique().numel()) for level in codes],
        "encode_s": round(encoding.seconds, 3),
        "decode_s": round(decoding.seconds, 3),
    }


def write_codes(path: str, codes: Tensor, model: BaichuanAudio) -> None:
    """Write codes [K, T] as the int32 tensor `codes` of a safetensors file, with frame rate and codebook sizes."""
    import torch

    from ..safetensors_io import write_tensors

    about = {
        "format": CODES_FORMAT,
        "frame_rate": str(model.tokenizer.frame_rate),
        "codebook_sizes": json.dumps(list(model.tokenizer.codebook_sizes)),
    }
    write_tensors({"codes": codes.cpu().to(torch.int32).contiguous()}, path, about)


def read_codes(path: str) -> Tensor:
    """Read a file written by `write_codes` -> codes [K, T] int64. Raises DataError for any other file."""
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: there is no such file of codes.")
    if file.stat().st_size > _MAX_CODES_BYTES:
        raise DataError(f"{path}: larger than 1 GiB, so it is not a file of codes.")
    try:
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("format") != CODES_FORMAT or "codes" not in stored.keys():  # noqa: SIM118
                raise DataError(f"{path}: has no codes; write such a file with 'baichuan-audio encode'.")
            codes: Tensor = stored.get_tensor("codes")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a file of codes, or damaged ({error}).") from error
    if codes.ndim != 2 or codes.is_floating_point():
        raise DataError(f"{path}: the codes in it are not whole numbers of shape [codebooks, frames].")
    return codes.long()


def _read(path: str) -> tuple[int, Tensor]:
    """Audio file -> (24000, waveform [S]): at the rate of the decoded audio, so that both can be compared."""
    from ..audio.mel import FLOW_MEL
    from ..audio.waveform import load_waveform

    with Progress(f"reading {path}"):
        waveform = load_waveform(path, FLOW_MEL.sample_rate)
    if waveform.shape[0] == 0:
        raise AudioError(f"{path}: there are no samples in it.")
    return FLOW_MEL.sample_rate, waveform


def _bit_rate(model: BaichuanAudio) -> float:
    return round(sum(math.log2(size) for size in model.tokenizer.codebook_sizes) * model.tokenizer.frame_rate, 1)

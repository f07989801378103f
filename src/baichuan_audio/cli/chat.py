"""chat, transcribe, speak: dialogue, speech recognition and speech synthesis."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AudioError, BaichuanAudioError, NoSpeechError, PromptError
from .common import Progress, add_command, add_quantize, check_output, check_text, load_model, print_json, show

if TYPE_CHECKING:
    from torch import Tensor

    from ..conversation import Conversation
    from ..model import BaichuanAudio

_RATE = 16000  # Hz; sample rate to read audio at, which may be read before the model is loaded
_AUDIO_SUFFIXES = {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mpga", ".aiff", ".aif", ".au", ".caf", ".w64"),
    *(".m4a", ".mp4", ".mov", ".3gp", ".aac", ".amr", ".webm", ".weba", ".mkv", ".wma"),
}


def add_commands(commands: Any) -> None:
    """Add the commands `chat`, `transcribe` and `speak` to the parser."""
    chat = add_command(commands, "chat", run_chat, "Reply to spoken or typed turns in text and speech.")
    chat.add_argument(
        "turns",
        nargs="*",
        metavar="TURN",
        help="an audio file or a text; several make a dialogue; none: typed on standard input",
    )
    chat.add_argument("--voice", metavar="NAME", help="voice of the replies; `baichuan-audio info` lists the voices")
    chat.add_argument(
        "--system", metavar="TEXT", help="system prompt; follows the text that selects --voice, if that is given"
    )
    chat.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="audio file of the reply (default: answer.wav); of several: answer-1.wav, answer-2.wav ...",
    )
    _add_no_vad(chat)
    chat.add_argument("--text-only", action="store_true", help="reply in text only")
    chat.add_argument("--no-play", action="store_true", help="do not play the reply, even if there is an audio device")

    transcribe = add_command(commands, "transcribe", run_transcribe, "Transcribe the speech in audio files.")
    transcribe.add_argument("audio", nargs="+", help="audio files: any format, rate and number of channels")
    _add_no_vad(transcribe)

    speak = add_command(commands, "speak", run_speak, "Read a text aloud.")
    speak.add_argument("text", help="the text; - reads it from standard input")
    speak.add_argument("--voice", metavar="NAME", help="the voice; `baichuan-audio info` lists the voices")
    speak.add_argument("--output", "-o", default="speech.wav", metavar="FILE", help="(default: %(default)s)")
    speak.add_argument("--no-play", action="store_true", help="do not play it, even if there is an audio device")
    for parser in (chat, transcribe, speak):
        add_quantize(parser)


def _add_no_vad(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-vad", action="store_true", help="use the whole audio, without voice activity detection")


@dataclass
class TimedReply:
    """One reply, text and waveform [S], with its times in seconds since the request."""

    text: str
    waveform: Tensor | None
    sample_rate: int
    first_audio_s: float | None
    compute_s: float

    @property
    def seconds(self) -> float:
        return 0.0 if self.waveform is None else self.waveform.shape[0] / self.sample_rate

    def times(self) -> dict[str, Any]:
        """Times for --json; the real-time factor is computing time divided by the reply's duration."""
        return {
            "seconds": round(self.seconds, 3),
            "first_audio_s": None if self.first_audio_s is None else round(self.first_audio_s, 3),
            "compute_s": round(self.compute_s, 3),
            "real_time_factor": round(self.compute_s / self.seconds, 3) if self.seconds else None,
        }

    def timing_line(self) -> str:
        if not self.seconds:
            return f"no speech; replied in {self.compute_s:.2f} s"
        return (
            f"{self.seconds:.2f} s of speech in {self.compute_s:.2f} s (real-time factor "
            f"{self.compute_s / self.seconds:.2f}), first audio after {self.first_audio_s:.2f} s"
        )


def timed_reply(conversation: Conversation, content: Any, show: Callable[[str], None], sample_rate: int) -> TimedReply:
    """Ask `content`, pass each piece of the reply's text to `show` as it comes, and collect the whole reply."""
    import torch

    from ..generation.events import TextDelta

    started = time.perf_counter()
    first_audio: float | None = None
    text, pieces = "", []
    for piece in conversation.ask(content):
        if isinstance(piece, TextDelta):
            text += piece.text
            show(piece.text)
        elif piece.waveform.numel():
            first_audio = first_audio or time.perf_counter() - started
            pieces.append(piece.waveform)
    waveform = torch.cat(pieces) if pieces else None
    return TimedReply(text, waveform, sample_rate, first_audio, time.perf_counter() - started)


@dataclass(frozen=True)
class UserTurn:
    """A turn of the user: `content` as the model takes it, `shown` as it was typed."""

    content: Any
    shown: str


def run_chat(arguments: argparse.Namespace) -> None:
    output = arguments.output or "answer.wav"
    check_output(output, inputs=arguments.turns)
    turns = [read_turn(turn) for turn in arguments.turns]
    model = load_model(arguments)
    for text in (arguments.system, *(turn.content for turn in turns)):
        check_text(model, text)
    conversation = model.conversation(
        system=arguments.system,
        voice=arguments.voice,
        speak=not arguments.text_only,
        seed=arguments.seed,
        vad=not arguments.no_vad,
    )
    numbered = len(turns) != 1
    results = []
    for number, turn in enumerate(turns or _typed_turns(model), 1):
        file = _numbered(output, number) if numbered else output
        try:
            results.append(_answer_turn(model, conversation, turn, file, arguments))
        except NoSpeechError:
            sentence = f"{turn.shown}: no speech was found in it, so there is nothing to reply to."
            if turns or not sys.stdin.isatty():
                raise NoSpeechError(sentence) from None
            print(sentence, file=sys.stderr)
    if not results and not sys.stdin.isatty():
        raise PromptError("there is no turn to reply to; give a text or an audio file.")
    if arguments.json:
        print_json({"voice": arguments.voice or model.voices[0], "turns": results})


def _answer_turn(
    model: BaichuanAudio, conversation: Conversation, turn: UserTurn, file: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Reply to one turn: print it, write and play its audio -> its entry in the output of --json."""
    from ..audio.waveform import save_waveform

    quiet = arguments.json
    if not quiet:
        print(f"> {turn.shown}")
    show = (lambda text: None) if quiet else (lambda text: print(text, end="", flush=True))
    if quiet:
        with Progress(f"answering {turn.shown}"):
            reply = timed_reply(conversation, turn.content, show, model.sample_rate)
    else:
        reply = timed_reply(conversation, turn.content, show, model.sample_rate)
        print(f"\n  [{reply.timing_line()}]")
    written = None
    if reply.waveform is not None:
        save_waveform(file, reply.waveform, model.sample_rate)
        written = file
        if not quiet:
            print(f"  [{file}]")
        if not arguments.no_play:
            play(reply.waveform, model.sample_rate)
    return {"user": turn.shown, "text": reply.text, "output": written, **reply.times()}


def read_turn(argument: str) -> UserTurn:
    """An existing file, or a name with an audio suffix, is read as audio; anything else is a text."""
    from ..audio.reading import is_file
    from ..audio.waveform import load_waveform

    path = Path(argument)
    if is_file(path) or (path.suffix.lower() in _AUDIO_SUFFIXES and "\n" not in argument):
        with Progress(f"reading {argument}"):
            return UserTurn({"audio": (load_waveform(path, _RATE), _RATE)}, argument)
    if not argument.strip():
        raise PromptError("a turn is empty; give a text or an audio file.")
    return UserTurn(argument, argument)


def _typed_turns(model: BaichuanAudio) -> Iterator[UserTurn]:
    """Turns from standard input, one per line; on a terminal a line with an error can be typed again."""
    typing = sys.stdin.isatty()
    if typing:
        print("Type a question or the name of an audio file; an empty line ends.", file=sys.stderr)
    for line in typed_lines():
        if not line.strip():
            return
        try:
            turn = read_turn(line.strip())
            check_text(model, turn.content)
        except BaichuanAudioError as error:
            if not typing:
                raise
            print(error, file=sys.stderr)
            continue
        yield turn


def typed_lines() -> Iterator[str]:
    """Lines of standard input as they come. Raises PromptError if they are not UTF-8."""
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise PromptError("standard input is not UTF-8 text.") from error


def _numbered(output: str, number: int) -> str:
    path = Path(output)
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Transcribe each file. A bad file is reported and skipped, and the exit code is then 2."""
    model: BaichuanAudio | None = None
    results: list[dict[str, Any]] = []
    for path in arguments.audio:
        try:
            model, result = _transcribe(path, model, arguments)
        except AudioError as error:
            sentence = str(error) if path in str(error) else f"{path}: {error}"
            if len(arguments.audio) == 1:
                raise AudioError(sentence) from error
            print(f"baichuan-audio: {sentence}", file=sys.stderr)
            results.append({"audio": path, "error": sentence})
            continue
        if not arguments.json:
            print(f"{path}: {result['text']}" if len(arguments.audio) > 1 else result["text"], flush=True)
        if not result["text"]:
            print(f"baichuan-audio: {path}: no speech was found.", file=sys.stderr)
        results.append(result)
    if arguments.json:
        print_json({"transcripts": results})
    return 2 if any("error" in result for result in results) else 0


def _transcribe(
    path: str, model: BaichuanAudio | None, arguments: argparse.Namespace
) -> tuple[BaichuanAudio, dict[str, Any]]:
    """Transcribe one file -> (the model, loaded when the first file has been read; its entry in the output)."""
    from ..audio.formats import misnamed
    from ..audio.waveform import load_waveform

    with Progress(f"reading {path}"):
        waveform = load_waveform(path, _RATE)
    if (actual := misnamed(Path(path))) is not None:
        print(f"baichuan-audio: {path}: read as {actual}, which it is; its name says otherwise.", file=sys.stderr)
    model = model or load_model(arguments)
    seconds = waveform.shape[0] / _RATE
    with Progress(f"transcribing {seconds:.0f} s of {path}") as progress:
        text = model.transcribe((waveform, _RATE), vad=not arguments.no_vad)
    return model, {
        "audio": path,
        "text": text,
        "seconds": round(seconds, 3),
        "compute_s": round(progress.seconds, 3),
    }


def run_speak(arguments: argparse.Namespace) -> None:
    import torch

    from ..audio.waveform import save_waveform

    check_output(arguments.output)
    text = "".join(typed_lines()) if arguments.text == "-" else arguments.text
    if not text.strip():
        raise PromptError("there is no text to speak.")
    model = load_model(arguments)
    check_text(model, text)  # before normalization, which would silently remove a control token's name
    first_audio: float | None = None
    pieces = []
    with Progress("speaking") as progress:
        for piece in model.speak_pieces(text, voice=arguments.voice, seed=arguments.seed):
            first_audio = first_audio or time.perf_counter() - progress.started
            pieces.append(piece.waveform)
            progress.update(f"{sum(len(part) for part in pieces) / model.sample_rate:.1f} s of speech so far,")
    spoken = TimedReply(text, torch.cat([torch.zeros(0), *pieces]), model.sample_rate, first_audio, progress.seconds)
    assert spoken.waveform is not None
    save_waveform(arguments.output, spoken.waveform, model.sample_rate)
    result = {"text": text, "voice": arguments.voice or model.voices[0], "output": arguments.output}
    show(arguments, result | spoken.times(), f"{arguments.output}: {spoken.timing_line()}")
    if not arguments.no_play:
        play(spoken.waveform, model.sample_rate)


def play(waveform: Tensor, sample_rate: int) -> bool:
    """Play waveform [S] if sounddevice is installed and there is an output device; returns whether it was played."""
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError: PortAudio is missing
        return False
    try:
        sounddevice.query_devices(kind="output")
        sounddevice.play(waveform.numpy(), sample_rate, blocking=True)
    except (sounddevice.PortAudioError, ValueError):
        return False
    return True

"""chat, transcribe, speak: what people come for."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AudioError, BaichuanAudioError, NoSpeechError, PromptError
from .common import Progress, add_command, check_output, check_text, load_model, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..conversation import Conversation
    from ..model import BaichuanAudio

_RATE = 16000  # Hz; the rate audio is read at before the model is there to say its own
_AUDIO_SUFFIXES = {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mpga", ".aiff", ".aif", ".au", ".caf", ".w64"),
    *(".m4a", ".mp4", ".mov", ".3gp", ".aac", ".amr", ".webm", ".weba", ".mkv", ".wma"),
}


def add_commands(commands: Any) -> None:
    """Put this file's commands into the parser."""
    chat = add_command(commands, "chat", run_chat, "Answer spoken or written turns in text and speech.")
    chat.add_argument(
        "turns", nargs="*", metavar="TURN", help="an audio file or a text; several make a dialogue; none: ask here"
    )
    chat.add_argument("--voice", metavar="NAME", help="who answers; `baichuan-audio info` lists the voices")
    chat.add_argument("--system", metavar="TEXT", help="system text: after the words that choose --voice, or alone")
    chat.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="where to write the spoken answer (default: answer.wav); of several: answer-1.wav, answer-2.wav ...",
    )
    _add_no_vad(chat)
    chat.add_argument("--text-only", action="store_true", help="answer in text, without speech")
    chat.add_argument(
        "--no-play", action="store_true", help="do not play the answer, even where there is a sound device"
    )

    transcribe = add_command(commands, "transcribe", run_transcribe, "Write down what is said in audio files.")
    transcribe.add_argument("audio", nargs="+", help="audio files: any format, rate and number of channels")
    _add_no_vad(transcribe)

    speak = add_command(commands, "speak", run_speak, "Read a text aloud.")
    speak.add_argument("text", help="what to say; - reads it from standard input")
    speak.add_argument("--voice", metavar="NAME", help="who speaks; `baichuan-audio info` lists the voices")
    speak.add_argument("--output", "-o", default="speech.wav", metavar="FILE", help="(default: %(default)s)")
    speak.add_argument("--no-play", action="store_true", help="do not play it, even where there is a sound device")


def _add_no_vad(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-vad", action="store_true", help="read the audio as it is, without finding the speech in it first"
    )


@dataclass
class Answer:
    """One reply and what it took; times in seconds since the question was handed over."""

    text: str
    waveform: Tensor | None
    sample_rate: int
    first_sound_s: float | None
    compute_s: float

    @property
    def seconds(self) -> float:
        return 0.0 if self.waveform is None else self.waveform.shape[0] / self.sample_rate

    def figures(self) -> dict[str, Any]:
        """Times, and the real-time factor: computing time by length of the answer."""
        return {
            "seconds": round(self.seconds, 3),
            "first_sound_s": None if self.first_sound_s is None else round(self.first_sound_s, 3),
            "compute_s": round(self.compute_s, 3),
            "real_time_factor": round(self.compute_s / self.seconds, 3) if self.seconds else None,
        }

    def timing_line(self) -> str:
        if not self.seconds:
            return f"no speech; answered in {self.compute_s:.2f} s"
        return (
            f"{self.seconds:.2f} s of speech in {self.compute_s:.2f} s (real-time factor "
            f"{self.compute_s / self.seconds:.2f}), first sound after {self.first_sound_s:.2f} s"
        )


def answer(conversation: Conversation, content: Any, show: Callable[[str], None], sample_rate: int) -> Answer:
    """Ask, hand each piece of text to `show` as it comes, and collect the rest."""
    import torch

    from ..generation.events import TextDelta

    started = time.perf_counter()
    first_sound: float | None = None
    text, sound = "", []
    for piece in conversation.ask(content):
        if isinstance(piece, TextDelta):
            text += piece.text
            show(piece.text)
        elif piece.waveform.numel():
            first_sound = first_sound or time.perf_counter() - started
            sound.append(piece.waveform)
    waveform = torch.cat(sound) if sound else None
    return Answer(text, waveform, sample_rate, first_sound, time.perf_counter() - started)


@dataclass(frozen=True)
class Turn:
    """What the user says: `content` as the model takes it, `shown` as it was typed."""

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
            sentence = f"{turn.shown}: no speech was found in it, so there is nothing to answer."
            if turns or not sys.stdin.isatty():
                raise NoSpeechError(sentence) from None
            print(sentence, file=sys.stderr)
    if not results and not sys.stdin.isatty():
        raise PromptError("there is no turn to answer; give a text or an audio file.")
    if arguments.json:
        print_json({"voice": arguments.voice or model.voices[0], "turns": results})


def _answer_turn(
    model: BaichuanAudio, conversation: Conversation, turn: Turn, file: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Answer one turn, print or collect it, write and play its sound; the figures of --json."""
    from ..audio.waveform import save_waveform

    quiet = arguments.json
    if not quiet:
        print(f"> {turn.shown}")
    show = (lambda text: None) if quiet else (lambda text: print(text, end="", flush=True))
    if quiet:
        with Progress(f"answering {turn.shown}"):
            reply = answer(conversation, turn.content, show, model.sample_rate)
    else:
        reply = answer(conversation, turn.content, show, model.sample_rate)
        print(f"\n  [{reply.timing_line()}]")
    written = None
    if reply.waveform is not None:
        save_waveform(file, reply.waveform, model.sample_rate)
        written = file
        if not quiet:
            print(f"  [{file}]")
        if not arguments.no_play:
            play(reply.waveform, model.sample_rate)
    return {"user": turn.shown, "text": reply.text, "output": written, **reply.figures()}


def read_turn(argument: str) -> Turn:
    """An audio file, by its being there or by its suffix, is read at once; anything else is a text."""
    from ..audio.reading import is_file
    from ..audio.waveform import load_waveform

    path = Path(argument)
    if is_file(path) or (path.suffix.lower() in _AUDIO_SUFFIXES and "\n" not in argument):
        with Progress(f"reading {argument}"):
            return Turn({"audio": (load_waveform(path, _RATE), _RATE)}, argument)
    if not argument.strip():
        raise PromptError("a turn is empty; give a text or an audio file.")
    return Turn(argument, argument)


def _typed_turns(model: BaichuanAudio) -> Iterator[Turn]:
    """Turns from standard input, a line each, until it ends; on a terminal a bad one may be mended."""
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
    """Standard input as it comes; PromptError where it is no text."""
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise PromptError("standard input is no text in UTF-8.") from error


def _numbered(output: str, number: int) -> str:
    path = Path(output)
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Transcribe each file; one that cannot be used is named and the others go on, with exit code 2 at the end."""
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
    """The model, loaded once a first file is found to be audio, and what it makes of this one."""
    from ..audio.waveform import load_waveform

    with Progress(f"reading {path}"):
        waveform = load_waveform(path, _RATE)
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
    from ..text.normalization import normalize_for_speech

    check_output(arguments.output)
    text = "".join(typed_lines()) if arguments.text == "-" else arguments.text
    if not text.strip():
        raise PromptError("there is no text to speak.")
    model = load_model(arguments)
    check_text(model, text)  # as it was given: written for speech, a control token's spelling would be gone unseen
    said = normalize_for_speech(text)
    if not said:
        raise PromptError("nothing in this text can be said.")
    first_sound: float | None = None
    pieces = []
    with Progress("speaking") as progress:
        for piece in model.speak_pieces(said, voice=arguments.voice, seed=arguments.seed):
            first_sound = first_sound or time.perf_counter() - progress.started
            pieces.append(piece.waveform)
            progress.update(f"{sum(len(done) for done in pieces) / model.sample_rate:.1f} s of speech so far,")
    spoken = Answer(text, torch.cat([torch.zeros(0), *pieces]), model.sample_rate, first_sound, progress.seconds)
    assert spoken.waveform is not None
    save_waveform(arguments.output, spoken.waveform, model.sample_rate)
    if arguments.json:
        figures = {"text": text, "voice": arguments.voice or model.voices[0], "output": arguments.output}
        print_json(figures | spoken.figures())
    else:
        print(f"{arguments.output}: {spoken.timing_line()}")
    if not arguments.no_play:
        play(spoken.waveform, model.sample_rate)


def play(waveform: Tensor, sample_rate: int) -> bool:
    """Play waveform [S] where sounddevice is installed and a device exists; says whether it did."""
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError: the library is there, PortAudio is not
        return False
    try:
        sounddevice.query_devices(kind="output")
        sounddevice.play(waveform.numpy(), sample_rate, blocking=True)
    except (sounddevice.PortAudioError, ValueError):
        return False
    return True

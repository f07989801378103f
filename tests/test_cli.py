"""The commands, called in this process on a small random checkpoint: what they print and write."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import typing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open

from baichuan_audio.audio.waveform import load_waveform
from baichuan_audio.cli import main
from baichuan_audio.cli.app import COMMANDS, build_parser, current_names
from baichuan_audio.cli.common import default_model
from baichuan_audio.training import STAGE_NAMES
from baichuan_audio.training.stages import STAGES

ROOT = Path(__file__).parents[1]


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_info(tiny: Path, capsys):
    assert main(["info", "--json"]) == 0
    facts = result(capsys)
    assert facts["voices"] == ["邻家女声", "Ada"]
    assert facts["codebook_sizes"] == [64, 48, 32, 16, 16, 16, 16, 16]
    assert facts["parameters"] == sum(facts["parts"].values())
    assert main(["info"]) == 0
    assert "voices: 邻家女声, Ada" in capsys.readouterr().out


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(8000, 1, "wav"), (44100, 2, "flac"), (48000, 6, "ogg")])
def test_encode_and_decode_any_format(tiny: Path, tmp_path: Path, capsys, rate: int, channels: int, suffix: str):
    audio = tmp_path / f"tone.{suffix}"
    wave = 0.3 * np.sin(np.arange(rate) * 2 * np.pi * 220 / rate)
    soundfile.write(audio, np.repeat(wave[:, None], channels, axis=1), rate)
    codes = tmp_path / "codes.safetensors"
    assert main(["encode", str(audio), "-o", str(codes), "--json"]) == 0
    assert result(capsys)["codebooks"] == 8
    with safe_open(codes, "pt") as stored:
        assert stored.get_tensor("codes").shape == (8, 12)
        assert json.loads(stored.metadata()["codebook_sizes"]) == [64, 48, 32, 16, 16, 16, 16, 16]
    decoded = tmp_path / "decoded.wav"
    assert main(["decode", str(codes), "-o", str(decoded), "--json"]) == 0
    printed = result(capsys)
    info = soundfile.info(decoded)
    assert (info.samplerate, info.channels) == (24000, 1)
    assert info.frames / 24000 == pytest.approx(printed["seconds"], abs=1e-3)


def test_reconstruct_with_picture(tiny: Path, question: Path, tmp_path: Path, capsys):
    out, plot = tmp_path / "again.wav", tmp_path / "mels.png"
    assert main(["reconstruct", str(question), "-o", str(out), "--plot", str(plot), "--json"]) == 0
    figures = result(capsys)
    assert figures["mel_mae"] > 0 and len(figures["distinct_codes"]) == 8
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert load_waveform(out, 24000).shape[0] > 0


def test_transcribe_prints_the_models_words(tiny: Path, question: Path, capsys, model):
    assert main(["transcribe", str(question), "--json", "--seed", "0"]) == 0
    transcripts = result(capsys)["transcripts"]
    assert [entry["audio"] for entry in transcripts] == [str(question)]
    assert transcripts[0]["text"] == model.transcribe(question)


def test_speak_is_repeatable(tiny: Path, tmp_path: Path, capsys):
    waveforms = []
    for name in ("a.wav", "b.wav"):
        arguments = ["speak", "Hello.", "--voice", "Ada", "--seed", "3", "--no-play", "--json"]
        assert main([*arguments, "-o", str(tmp_path / name)]) == 0
        assert result(capsys)["voice"] == "Ada"
        waveforms.append(load_waveform(tmp_path / name, 24000))
    assert torch.equal(*waveforms)


def test_chat_of_two_turns(tiny: Path, question: Path, tmp_path: Path, capsys):
    out = tmp_path / "answer.wav"
    turns = [str(question), "and times two?"]
    assert main(["chat", *turns, "--seed", "0", "--no-play", "-o", str(out), "--json"]) == 0
    answers = result(capsys)["turns"]
    assert [entry["user"] for entry in answers] == turns
    for number, entry in enumerate(answers, 1):
        assert entry["output"] == str(tmp_path / f"answer-{number}.wav")
        assert soundfile.info(entry["output"]).frames / 24000 == pytest.approx(entry["seconds"], abs=1e-3)
        assert 0 < entry["first_audio_s"] <= entry["compute_s"]
    assert not out.exists()


def test_chat_in_text_writes_no_sound(tiny: Path, tmp_path: Path, capsys):
    out = tmp_path / "answer.wav"
    assert main(["chat", "hello", "--text-only", "--seed", "0", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("> hello\n") and "no speech" in printed
    assert not out.exists()


def test_demo_on_its_examples(tiny: Path, question: Path, tmp_path: Path, capsys):
    folder = tmp_path / "examples"
    folder.mkdir()
    shutil.copy(question, folder / "q.wav")
    items = [
        {"task": "chat", "name": "sum", "turns": ["q.wav", "and times two?"], "voice": "Ada"},
        {"task": "transcribe", "audio": "q.wav", "about": "a test"},
        {"task": "speak", "name": "hello", "text": "Hello.", "voice": "Ada"},
        {"task": "reconstruct", "audio": "q.wav"},
    ]
    (folder / "examples.json").write_text(json.dumps(items))
    assert main(["demo", "--examples", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("real-time factor") == 2 and "first audio after" in printed and "transcript:" in printed
    made = {path.name for path in (folder / "out").iterdir()}
    assert {"sum-1.wav", "sum-2.wav", "hello.wav", "q-reconstructed.wav", "q-mels.png", "report.json"} <= made


def test_default_model_is_found_or_named(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.delenv("BAICHUAN_AUDIO_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("baichuan_audio.cli.common.__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    assert main(["info"]) == 2
    assert "no model was named, and there is none" in capsys.readouterr().err
    for name in ("one", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
        if name == "one":
            assert default_model() == str(Path("models/one"))
    assert main(["info"]) == 2
    assert re.search(r"several \(models/one, models/other\); give --model DIR", capsys.readouterr().err)
    monkeypatch.setenv("BAICHUAN_AUDIO_MODEL", "models/other")
    assert default_model() == "models/other"


def test_commands_that_moved_say_where(capsys):
    assert main(["eval", "nano", "--model", "m", "--limit", "3"]) == 2
    assert "python recipes/nano/evaluate.py --model m --limit 3" in capsys.readouterr().err
    assert main(["data", "nano", "some.yaml", "--output", "x"]) == 2
    assert "python recipes/nano/make_corpus.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["assemble", "a", "b"], ["checkpoint", "assemble", "a", "b"]),
        (["data", "codes", "--corpus", "c"], ["data", "encode", "--corpus", "c"]),
    ],
    ids=["assemble", "data codes"],
)
def test_old_command_names_are_accepted_with_one_warning(old: list[str], new: list[str], capsys):
    assert current_names(old) == new
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert f"'{' '.join(old[: 2 if old[0] == 'data' else 1])}' is now called" in printed.err
    assert current_names(new) == new and capsys.readouterr().err == ""


def test_every_old_name_leads_to_a_command():
    for new in COMMANDS.values():
        command = build_parser()
        for word in new.split():
            command = subcommands(command)[word]


def test_every_stage_has_a_recipe():
    assert tuple(STAGES) == STAGE_NAMES
    for stage in STAGES.values():
        assert typing.get_type_hints(stage.train)["recipe"] is stage.recipe


def test_data_needs_its_corpus(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "align"])
    assert "--corpus" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion(shell: str, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("transcribe", "reconstruct", "voice", "tokenize"):
        assert word in script
    if shell != "tcsh" and shutil.which(shell):
        run = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
        assert run.returncode == 0, run.stderr


def test_bash_completes_commands_and_options(capsys):
    main(["completion", "bash"])
    script = (
        capsys.readouterr().out
        + "\nCOMP_WORDS=({words}); COMP_CWORD={at}; _shtab_baichuan_audio; echo ${{COMPREPLY[@]}}"
    )

    def complete(*words: str) -> str:
        text = script.replace("{words}", " ".join(words)).replace("{at}", str(len(words) - 1))
        text = text.replace("${{COMPREPLY[@]}}", "${COMPREPLY[@]}")
        return subprocess.run(["bash", "-c", text], text=True, capture_output=True, check=True).stdout.strip()

    assert complete("baichuan-audio", "trans") == "transcribe"
    assert complete("baichuan-audio", "speak", "--voi") == "--voice"
    assert complete("baichuan-audio", "train", "toke") == "tokenizer"
    assert complete("baichuan-audio", "checkpoint", "ass") == "assemble"
    assert complete("baichuan-audio", "checkpoint", "assemble", "--tem") == "--template"
    assert complete("baichuan-audio", "transcribe", str(ROOT / "pyproj")) == str(ROOT / "pyproject.toml")


def test_every_command_has_help_and_debug():
    commands = subcommands(build_parser())
    assert {"chat", "transcribe", "speak", "reconstruct", "encode", "decode", "info", "train"} <= set(commands)
    for group in ("checkpoint", "data"):
        commands |= {f"{group} {name}": command for name, command in subcommands(commands[group]).items()}
    for name, command in commands.items():
        assert command.description, name
        assert "--debug" in command.format_help() or subcommands(command)
        assert re.search(r"[.]$", command.description), f"{name}: a help text is a sentence"

"""Whatever is wrong with the input: exit code 2, one sentence on standard error, no traceback, no output file."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from baichuan_audio.cli import main


def write(path: Path, samples: np.ndarray, rate: int = 16000, subtype: str = "FLOAT") -> str:
    soundfile.write(path, samples, rate, subtype=subtype)
    return str(path)


def no_such_file(folder: Path) -> str:
    return str(folder / "nowhere.wav")


def not_audio(folder: Path) -> str:
    (folder / "notes.wav").write_text("these are notes, not sound\n" * 50)
    return str(folder / "notes.wav")


def no_bytes(folder: Path) -> str:
    (folder / "zero.wav").touch()
    return str(folder / "zero.wav")


def no_samples(folder: Path) -> str:
    return write(folder / "empty.wav", np.zeros(0, np.float32))


def ten_milliseconds(folder: Path) -> str:
    return write(folder / "short.wav", np.full(160, 0.1, np.float32))


def not_a_number(folder: Path) -> str:
    samples = np.full(16000, 0.1, np.float32)
    samples[77] = np.nan
    return write(folder / "nan.wav", samples)


def infinite(folder: Path) -> str:
    samples = np.full(16000, 0.1, np.float32)
    samples[77] = -np.inf
    return write(folder / "inf.wav", samples)


def ten_gigabytes(folder: Path) -> str:
    """A sparse file: it says 10 GB and takes no room. It must be refused before it is read."""
    path = write(folder / "huge.wav", np.zeros(1600, np.float32))
    os.truncate(path, 10 * 1000**3)
    return path


def thunder(folder: Path) -> str:
    return write(folder / "thunder.wav", np.full(16000, 1e30, np.float32))


def headerless(folder: Path) -> str:
    (folder / "samples.raw").write_bytes(bytes(32000))
    return str(folder / "samples.raw")


def long_name(folder: Path) -> str:
    return str(folder / ("a" * 300 + ".wav"))


def cut_header(folder: Path) -> str:
    path = write(folder / "cut.wav", np.zeros(1600, np.float32))
    os.truncate(path, 20)
    return path


def a_folder(folder: Path) -> str:
    (folder / "folder.wav").mkdir()
    return str(folder / "folder.wav")


AUDIO = [
    (no_such_file, "no such audio file"),
    (not_audio, "not audio"),
    (no_bytes, ""),
    (no_samples, "no samples"),
    (ten_milliseconds, "10 ms"),
    (not_a_number, "NaN"),
    (infinite, "infinite"),
    (ten_gigabytes, "2 GiB"),
    (cut_header, ""),
    (thunder, "e+30"),
    (headerless, "not audio"),
    (long_name, "no such audio file"),
    (a_folder, ""),
]


def assert_refused(code: int, capsys, message: str = "") -> None:
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.endswith(" ...")]  # signs of life aside
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("baichuan-audio: ") and lines[0].endswith(".") and message in lines[0]
    assert "Traceback" not in printed.err and len(lines[0]) < 500


@pytest.mark.parametrize(("make", "message"), AUDIO, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("command", ["transcribe", "chat", "encode", "reconstruct"])
def test_audio(tiny: Path, tmp_path: Path, capsys, command: str, make, message: str):
    output = tmp_path / ("out.safetensors" if command == "encode" else "out.wav")
    arguments = [command, make(tmp_path)]
    if command != "transcribe":
        arguments += ["--output", str(output)]
    assert_refused(main([*arguments, "--json"]), capsys, message)
    assert not output.exists()


@pytest.mark.parametrize("command", ["speak", "chat"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("  \n", ""),
        ("say <|endoftext|> and stop", "<|endoftext|>"),
        ("<C_A>", "control token"),
        ("<audio_start_baichuan><audio_pad_baichuan>", "control token"),
        ("half a pair \ud83d", "surrogate"),
    ],
)
def test_text(tiny: Path, tmp_path: Path, capsys, command: str, text: str, message: str):
    output = tmp_path / "out.wav"
    assert_refused(main([command, text, "--no-play", "--json", "--output", str(output)]), capsys, message)
    assert not output.exists()


def no_checkpoint(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


def broken_weights(folder: Path) -> str:
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text('{"audio_config": {')
    return str(folder / "broken")


def missing_checkpoint(folder: Path) -> str:
    return str(folder / "none")


@pytest.mark.parametrize("make", [no_checkpoint, broken_weights, missing_checkpoint])
@pytest.mark.parametrize("command", [["info"], ["speak", "hello", "--no-play"]])
def test_model_directory(tmp_path: Path, capsys, make, command: list[str]):
    assert_refused(main([*command, "--model", make(tmp_path)]), capsys)


def test_unknown_voice_and_device(tiny: Path, tmp_path: Path, capsys):
    output = ["--no-play", "-o", str(tmp_path / "out.wav")]
    assert_refused(main(["speak", "hi", "--voice", "Nobody", *output]), capsys, "Nobody")
    assert_refused(main(["speak", "hi", "--device", "abacus", *output]), capsys, "abacus")
    assert_refused(main(["speak", "hi", "--vocoder", str(tmp_path / "no.pt"), *output]), capsys, "no.pt")


def test_output_that_cannot_be_written(tiny: Path, question: Path, tmp_path: Path, capsys):
    for name in (str(tmp_path), str(tmp_path / "no" / "such" / "a.wav")):
        assert_refused(main(["speak", "hi", "--no-play", "-o", name]), capsys)
    assert_refused(main(["encode", str(question), "-o", str(tmp_path / "codes.wav")]), capsys, ".safetensors")
    assert_refused(main(["reconstruct", str(question), "--plot", str(tmp_path / "a.txt")]), capsys, ".png")
    for suffix in (".xyz", ".txt", ".raw", ".xi"):
        assert_refused(main(["speak", "hi", "--no-play", "-o", str(tmp_path / f"a{suffix}")]), capsys, suffix)
    assert_refused(main(["encode", str(question), "-o", str(tmp_path / ("a" * 300 + ".safetensors"))]), capsys, "long")


def test_a_recording_is_never_replaced(tiny: Path, question: Path, tmp_path: Path, capsys):
    recording = tmp_path / "mine.wav"
    recording.write_bytes(question.read_bytes())
    (tmp_path / "link.wav").symlink_to(recording)
    for command in (["reconstruct", str(recording)], ["chat", str(tmp_path / "link.wav"), "--no-play"]):
        assert_refused(main([*command, "-o", str(recording)]), capsys, "mine.wav")
    assert recording.read_bytes() == question.read_bytes()


def test_one_bad_recording_among_others(tiny: Path, question: Path, tmp_path: Path, capsys):
    bad = [no_such_file(tmp_path), ten_milliseconds(tmp_path)]
    assert main(["transcribe", str(question), *bad, str(question), "--json"]) == 2
    printed = capsys.readouterr()
    rows = json.loads(printed.out)["transcripts"]
    assert ["text" in row for row in rows] == [True, False, False, True]
    assert all(path in printed.err and path in row["error"] for path, row in zip(bad, rows[1:3], strict=True))


@pytest.mark.parametrize("command", [["speak", "-"], ["chat"]])
def test_standard_input_that_is_no_text(tiny: Path, tmp_path: Path, capsys, monkeypatch, command: list[str]):
    output = ["--no-play", "-o", str(tmp_path / "out.wav")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert_refused(main([*command, *output]), capsys, "UTF-8")
    monkeypatch.setattr("sys.stdin", None)
    assert_refused(main([*command, *output]), capsys, "there is no t")


def test_codes_that_are_none(tiny: Path, question: Path, tmp_path: Path, capsys):
    about = {"format": "baichuan-audio-codes"}
    good = torch.zeros(8, 5, dtype=torch.int32)
    cases = {
        "missing": None,
        "audio": question.read_bytes(),
        "no-metadata": ({"codes": good}, None),
        "wrong-shape": ({"codes": good[:3]}, about),
        "no-frames": ({"codes": good[:, :0]}, about),
        "out-of-range": ({"codes": good + 5000}, about),
        "negative": ({"codes": good - 1}, about),
        "floats": ({"codes": good.float()}, about),
        "one-axis": ({"codes": good[0]}, about),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save_file({key: tensor.contiguous() for key, tensor in content[0].items()}, path, metadata=content[1])
        assert_refused(main(["decode", str(path), "-o", str(tmp_path / "out.wav")]), capsys)
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("text", ["steps: [", "- a list", "wrong_name: 3\noutput: x\nsteps: 1", ""])
def test_recipes(tmp_path: Path, capsys, text: str):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert_refused(main(["train", "flow", str(recipe)]), capsys, "recipe.yaml")
    assert_refused(main(["train", "flow", str(tmp_path / "none.yaml")]), capsys, "none.yaml")


@pytest.mark.parametrize(
    "override",
    [
        *("steps=[", "steps.x=3", "steps=0", "steps=2024-13-45", "seed=-1", "threads=100000000"),
        *("log_every=0", "device=abacus", "mel_floor=0", "optimizer.learning_rate=[]", "optimizer.warmup_steps=-1"),
    ],
)
def test_overrides(tmp_path: Path, capsys, override: str):
    recipe = Path(__file__).parent.parent / "recipes" / "nano" / "stages" / "flow.yaml"
    assert_refused(
        main(["train", "flow", str(recipe), f"output={tmp_path}", override]),
        capsys,
        override.split("=")[0].split(".")[0],
    )


@pytest.mark.parametrize("text", ["", "{", '[{"task": "dance"}]', '[{"task": "chat"}]', "[3]"])
def test_demo_list(tiny: Path, tmp_path: Path, capsys, text: str):
    (tmp_path / "examples.json").write_text(text)
    assert_refused(main(["demo", "--examples", str(tmp_path)]), capsys, "examples.json")


def test_usage_errors_have_code_2(capsys):
    for arguments in ([], ["dance"], ["speak"], ["train", "everything", "x.yaml"], ["info", "--threads", "3"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()


def test_the_unforeseen_is_one_sentence_too(tiny: Path, monkeypatch, capsys):
    def burst(*_):
        raise RuntimeError("something\nnobody thought of")

    monkeypatch.setattr("baichuan_audio.cli.checkpoint.describe", burst)
    assert main(["info"]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "RuntimeError: something nobody thought of" in printed
    with pytest.raises(RuntimeError):
        main(["info", "--debug"])


def test_json_is_not_mixed_with_progress(tiny: Path, question: Path, capsys, monkeypatch):
    monkeypatch.setattr("baichuan_audio.cli.common.QUIET_S", 0.0)
    assert main(["transcribe", str(question), "--json"]) == 0
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert "transcribing" in printed.err

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from baichuan_audio.data.importers import read_manifest
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.errors import DataError
from nano.corpus.recordings import (
    RealSplit,
    pack_recordings,
    read_aishell,
    read_audio,
    read_fields,
    read_librispeech,
    read_recordings,
)
from nano.hashing import hash_fraction


def tone(samples, rate=24_000):
    return (0.3 * np.sin(np.arange(samples) / rate * 440 * 2 * np.pi)).astype(np.float32)


def make_manifest(folder):
    rows = []
    for speaker in range(40):
        for take in range(2):
            path = folder / "digits" / f"{speaker}_{take}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, tone(800, 8000), 8000)
            rows.append(
                {"path": f"digits/{path.name}", "language": "en", "speaker": f"s{speaker}", "transcript": "Seven"}
                | {"license": "CC0", "source": "test", "seconds": 0.1}
            )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def test_manifest_is_packed_once_and_split_by_speaker(tmp_path):
    manifest = make_manifest(tmp_path)
    split = RealSplit(validation_share=0.2, test_speakers=("s3",))
    with ClipWriter(tmp_path / "store") as writer:
        assert pack_recordings(list(read_manifest(manifest)), writer, split, progress=False) == 80
        assert pack_recordings(list(read_manifest(manifest)), writer, split, progress=False) == 0
    clips = ClipStore(tmp_path / "store").clips
    splits = {}
    for clip in clips:
        splits.setdefault(clip.speaker, set()).add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert splits["s3"] == {"test"}
    assert {"train", "validation", "test"} == set().union(*splits.values())
    assert clips[0].samples == 2400 and clips[0].transcript == "seven"


def test_long_recordings_are_cut_without_transcript(tmp_path):
    manifest = make_manifest(tmp_path)
    rows = list(read_manifest(manifest))[:1]
    with ClipWriter(tmp_path / "store") as writer:
        pack_recordings(rows, writer, RealSplit(), max_seconds=0.04, progress=False)
    clips = ClipStore(tmp_path / "store").clips
    assert [clip.id for clip in clips] == ["digits/0_0#0", "digits/0_0#1", "digits/0_0"]
    assert sum(clip.samples for clip in clips) == 2400
    assert all(clip.transcript is None for clip in clips)


def test_one_bad_recording_is_named_and_left_out(tmp_path, capsys):
    manifest = make_manifest(tmp_path)
    (tmp_path / "digits" / "7_1.wav").write_bytes(b"not audio")
    with ClipWriter(tmp_path / "store") as writer:
        assert pack_recordings(list(read_manifest(manifest)), writer, RealSplit(), progress=False) == 79
    assert "7_1.wav cannot be read" in capsys.readouterr().err
    (tmp_path / "digits" / "8_1.wav").write_bytes(b"not audio")
    with ClipWriter(tmp_path / "other") as writer, pytest.raises(DataError, match="2 of 80 recordings cannot be used"):
        pack_recordings(list(read_manifest(manifest)), writer, RealSplit(), progress=False)


def test_two_recordings_of_one_name_are_refused(tmp_path):
    row = next(read_manifest(make_manifest(tmp_path)))
    with ClipWriter(tmp_path / "store") as writer:
        assert pack_recordings([row, row], writer, RealSplit(), progress=False) == 1
        with pytest.raises(DataError, match="would both be 'digits/0_0'"):
            pack_recordings([row, replace(row, path=tmp_path / "b.wav")], writer, RealSplit(), progress=False)


def test_librispeech_and_aishell_layouts(tmp_path):
    chapter = tmp_path / "libri" / "dev-clean" / "84" / "121"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-121-0000.flac", tone(800, 16000), 16000)
    for data in (b"\xef\xbb\xbf84-121-0000\tGO DO YOU HEAR\r\n", "84-121-0000 GO DO YOU HEAR".encode("utf-16")):
        (chapter / "84-121.trans.txt").write_bytes(data)
        assert [row.transcript for row in read_librispeech(tmp_path / "libri")] == ["GO DO YOU HEAR"]
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 NO FILE\n")
    (found,) = read_librispeech(tmp_path / "libri")
    assert (found.id, found.speaker, found.transcript) == ("librispeech/84-121-0000", "ls84", "GO DO YOU HEAR")

    root = tmp_path / "data_aishell"
    (root / "wav" / "test" / "S0764").mkdir(parents=True)
    (root / "transcript").mkdir()
    soundfile.write(root / "wav" / "test" / "S0764" / "BAC009S0764W0121.wav", tone(800, 16000), 16000)
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text("BAC009S0764W0121 甚至 出现 交易\n")
    (row,) = read_aishell(root)
    assert (row.speaker, row.transcript, row.language) == ("S0764", "甚至出现交易", "zh")
    assert [list(read_recordings(folder)) for folder in (tmp_path / "libri", root)] == [[found], [row]]
    assert len(list(read_recordings(make_manifest(tmp_path)))) == 80

    with pytest.raises(DataError, match=r"dev-clean/84/nowhere: no recordings\. Name a manifest"):
        read_recordings(tmp_path / "libri" / "dev-clean" / "84" / "nowhere")
    for reader in (read_librispeech, read_aishell):
        with pytest.raises(DataError, match="laid out"):
            list(reader(tmp_path / "libri" / "dev-clean" / "84" / "empty"))


@pytest.mark.parametrize(
    ("data", "right"),
    [
        ("U1 你 好\nU2 再 见", True),
        ("\ufeffU1 你 好\r\nU2 再 见\r\n", True),
        ("U1\t你 好\nU2\t再  见\n\n", True),
        ("U1 你 好\nU2\n", False),
        ("U1 你 好\nU1 再 见\n", False),
        ("U3 你 好\n", False),
    ],
)
def test_transcripts_as_people_have_them(tmp_path, data, right):
    (tmp_path / "transcript").mkdir()
    (tmp_path / "wav" / "S1").mkdir(parents=True)
    for name in ("U1", "U2"):
        soundfile.write(tmp_path / "wav" / "S1" / f"{name}.wav", tone(800, 8000), 8000)
    (tmp_path / "transcript" / "t.txt").write_bytes(data.encode())
    if right:
        assert [(r.id, r.transcript) for r in read_recordings(tmp_path)] == [
            ("aishell1/U1", "你好"),
            ("aishell1/U2", "再见"),
        ]
    else:
        with pytest.raises(DataError, match=r"t\.txt"):
            list(read_recordings(tmp_path))


def test_kaldi_folders(tmp_path):
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", tone(800, 8000), 8000)
    (folder / "wav.scp").write_text(f"u1 a.wav\nu2\t{folder}/b.wav\n")
    (folder / "text").write_text("u1 你 好\nu2 HELLO THERE", encoding="utf-8")
    (folder / "utt2spk").write_text("u1 s1\nu2 s2\n")
    found = list(read_recordings(folder))
    assert [(r.id, r.path, r.language, r.speaker) for r in found] == [
        ("dev/u1", folder / "a.wav", "zh", "s1"),
        ("dev/u2", folder / "b.wav", "en", "s2"),
    ]
    (folder / "wav.scp").write_text("u1 a.wav\nu2 sox b.wav - |\n")
    with pytest.raises(DataError, match="line 2, is a command"):
        list(read_recordings(folder))
    (folder / "segments").touch()
    with pytest.raises(DataError, match="segments are not read"):
        list(read_recordings(folder))


def test_unreadable_audio_is_one_sentence(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"not audio")
    with pytest.raises(DataError, match=r"a\.wav cannot be read"):
        read_audio(tmp_path / "a.wav")


def test_audio_is_read_as_everywhere_else(tmp_path):
    """By content, at 24 kHz, with the channels that the shared reader takes."""
    wave = 0.5 * np.sin(np.arange(48_000) / 20).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", np.stack([wave, -wave], axis=1), 48_000)
    samples = read_audio((tmp_path / "a.flac").rename(tmp_path / "a.wav"))
    assert samples.shape == (24_000,) and samples.dtype == np.float32
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.02)


def test_hash_is_the_same_everywhere():
    assert hash_fraction("content:arithmetic:en:7+5") == pytest.approx(0.547089, abs=1e-6)
    values = [hash_fraction(str(number)) for number in range(2000)]
    assert 0.45 < sum(values) / len(values) < 0.55


def test_names_and_the_rest_of_their_lines(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffU1\t你 好 \r\nU2   再 见\r\n\r\nU1 你 好".encode())
    assert list(read_fields(path, "transcript")) == [(1, "U1", "你 好"), (2, "U2", "再 见")]
    path.write_text("U1 one\nU2\n")
    with pytest.raises(DataError, match="text, line 2: no transcript follows the name 'U2'"):
        list(read_fields(path, "transcript"))
    path.write_text("U1 one\nU1 two\n")
    with pytest.raises(DataError, match="lines 1 and 2 both name 'U1'"):
        list(read_fields(path, "transcript"))

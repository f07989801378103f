"""When each sound is said: English clips aligned with their text, the file that holds it, and how it grows."""

from pathlib import Path

import pytest
import soundfile
import soxr

from baichuan_audio.data.alignment.phone_alignment import (
    ALIGNMENT_FILE,
    aligned_clips,
    extend_alignments,
    read_alignments,
    write_alignments,
)
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.errors import DataError
from baichuan_audio.text.phonemes import SYMBOLS

EXAMPLES = Path(__file__).parents[2] / "examples"


def add(root: Path, name: str, transcript: str | None) -> None:
    waveform, rate = soundfile.read(EXAMPLES / name, dtype="float32")
    with ClipWriter(root) as writer:
        writer.add(
            soxr.resample(waveform, rate, 24000),
            id=name,
            language="en",
            speaker="someone",
            transcript=transcript,
            source="synthetic",
            license="CC0",
            split="train",
            kind="question",
        )


def test_sounds_are_found_and_a_grown_corpus_keeps_what_it_has(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    add(tmp_path, "real-digit-seven.wav", "seven")
    assert write_alignments(tmp_path) == 1
    symbols, ends = read_alignments(tmp_path)["real-digit-seven.wav"]
    said = [SYMBOLS[symbol] for symbol in symbols if symbol]
    assert said == ["S", "EH", "V", "AH", "N"]
    assert (ends[1:] >= ends[:-1]).all() and ends[-1] <= ClipStore(tmp_path).clips[0].seconds * 100 + 2

    before = (tmp_path / ALIGNMENT_FILE).read_text()
    marked = before.replace(str(int(ends[-1])), "9999")  # aligned anew, it would be another number again
    (tmp_path / ALIGNMENT_FILE).write_text(marked)
    add(tmp_path, "real-digit-six.wav", "six")
    assert write_alignments(tmp_path) == 1
    grown = (tmp_path / ALIGNMENT_FILE).read_text()
    assert grown.startswith(marked) and len(read_alignments(tmp_path)) == 2
    assert write_alignments(tmp_path) == 0  # nothing is missing: no error


def test_a_stopped_run_loses_nothing(tmp_path: Path) -> None:
    assert extend_alignments(tmp_path, [("a", [1], [10])]) == 1

    def stopped():
        yield "b", [2, 3], [5, 9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extend_alignments(tmp_path, stopped())
    assert set(read_alignments(tmp_path)) == {"a"}
    assert aligned_clips(tmp_path) == {"a", "b"}
    with (tmp_path / "alignments.part").open("a") as file:
        file.write('["c", [1')  # as a machine that fails leaves it
    assert extend_alignments(tmp_path, [("d", [4], [7])]) == 1
    assert set(read_alignments(tmp_path)) == {"a", "b", "d"}
    assert not (tmp_path / "alignments.part").exists()
    (tmp_path / "alignments.part").write_text('["a", ')  # stopped while it copied the old lines
    assert aligned_clips(tmp_path) == {"a", "b", "d"}


@pytest.mark.parametrize("line", ['["a", [1', '{"a": 1}', '["a", [1]]', '["a", ["x"], [2]]', "7"])
def test_a_damaged_list_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "alignments.jsonl").write_text('["a", [1], [2]]\n' + line + "\n")
    with pytest.raises(DataError, match=r"alignments\.jsonl, line 2, is no alignment"):
        read_alignments(tmp_path)


def test_a_corpus_without_english_text_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    add(tmp_path, "real-digit-seven.wav", None)
    with pytest.raises(DataError, match="no English clip"):
        write_alignments(tmp_path)
    assert not (tmp_path / ALIGNMENT_FILE).exists()

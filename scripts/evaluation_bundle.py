"""Makes the recordings of examples/evaluation: synthetic ones are spoken, real ones copied, all written as Opus.

    python scripts/evaluation_bundle.py --kokoro FOLDER --speech FOLDER

FOLDER of Kokoro: model.onnx, vocab.json and the .bin files of voices. FOLDER of speech: LibriSpeech and AISHELL-1 clips
with a manifest.jsonl (path, speaker, seconds, transcript). Texts stand in this file; tables are written beside sounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from baichuan_audio.data.pipeline.backends.tts import Voice

OUTPUT = Path(__file__).parents[1] / "examples" / "evaluation"
RATE = 16_000
# Held out: no recipe of this repository may train on these voices and speakers.
ENGLISH = ("bf_lily", "bm_fable", "am_eric", "af_river")
MANDARIN = ("zf_xiaoni", "zm_yunyang")
LIBRISPEECH = ("27", "26", "19")
AISHELL = ("S0252",)

QUESTIONS = {
    "llama_questions": (
        ("Questions", "Answer"),
        [
            ("What is the capital of France?", "Paris"),
            ("What is the capital of Japan?", "Tokyo"),
            ("What is the opposite of cold?", "Hot"),
            ("How many days are in a week?", "Seven"),
            ("What colour is the sky on a clear day?", "Blue"),
            ("How many legs does a spider have?", "Eight"),
            ("Which planet is known as the red planet?", "Mars"),
            ("What is the largest ocean on Earth?", "The Pacific Ocean"),
            ("Who wrote the play Romeo and Juliet?", "William Shakespeare"),
            ("Which gas do plants take in from the air?", "Carbon dioxide"),
        ],
    ),
    "web_questions": (
        ("question", "answers"),
        [
            ("what country is the city of toronto in?", "Canada"),
            ("what language do people speak in brazil?", "Portuguese;Brazilian Portuguese"),
            ("what currency is used in japan?", "Yen;Japanese yen"),
            ("who painted the mona lisa?", "Leonardo da Vinci;Da Vinci;Leonardo"),
            ("where is the eiffel tower?", "Paris;France"),
            ("what is the capital city of australia?", "Canberra"),
            ("what continent is egypt in?", "Africa"),
            ("what river flows through london?", "Thames;River Thames"),
        ],
    ),
    "trivia_qa": (
        ("question", "answer_normalized_aliases", "answer_normalized_value"),
        [
            ("In which city would you find the Colosseum?", "['rome', 'roma', 'rome italy']", "rome"),
            ("How many strings does a violin have?", "['four', '4']", "four"),
            ("Which animal is called the king of the jungle?", "['lion', 'lions']", "lion"),
            ("Which metal is liquid at room temperature?", "['mercury', 'quicksilver']", "mercury"),
            ("In which sport does the word love stand for a score of zero?", "['tennis', 'lawn tennis']", "tennis"),
            ("Which month has the fewest days?", "['february', 'feb']", "february"),
            ("What is the hardest natural substance?", "['diamond', 'diamonds']", "diamond"),
            ("What is the opposite of the word empty?", "['full']", "full"),
        ],
    ),
    "reasoning_qa": (
        ("Prompt", "参考答案"),
        [
            ("小明有三个苹果，又买了四个，一共有几个苹果？", "7个"),
            ("七加五等于几？", "12"),
            ("今天是星期一，三天以后是星期几？", "星期四"),
            ("一个正方形有几条边？", "4条"),
            ("哥哥比弟弟大三岁，弟弟今年六岁，哥哥今年几岁？", "9岁"),
            ("一斤棉花和一斤铁，哪一个更重？", "一样重"),
            ("鸡和兔子一共三只，一共有八条腿，有几只兔子？", "1只"),
            ("星期一之后是星期几？", "星期二"),
        ],
    ),
    "alpaca_eval": (
        ("instruction", "output"),
        [
            ("Give me one tip for sleeping better.", ""),
            ("Write a short greeting for a new neighbour.", ""),
            ("Count from three to six.", ""),
            ("Name three kinds of fruit.", ""),
            ("Explain in one sentence why leaves are green.", ""),
            ("Say thank you in a friendly way.", ""),
        ],
    ),
}
_VALID = "Is the argument, given the stated premises, deductively valid or invalid?"
_RETURN = "If you follow these instructions, do you return to the starting point?"
BIG_BENCH = (
    ("formal_fallacies", f"All bakers get up early. Tom is a baker. Therefore, Tom gets up early. {_VALID}", "valid"),
    ("formal_fallacies", f"All cats like milk. Kim likes milk. Therefore, Kim is a cat. {_VALID}", "invalid"),
    ("navigate", f"{_RETURN} Take three steps. Turn around. Take three steps.", "Yes"),
    ("navigate", f"{_RETURN} Always face forward. Take two steps left. Take one step right.", "No"),
    ("object_counting", "I have two apples, a banana and three pears. How many fruits do I have?", "6"),
    ("object_counting", "I have two drums and a flute. How many musical instruments do I have?", "3"),
    ("web_of_lies", "Ana tells the truth. Ben says Ana lies. Does Ben tell the truth?", "No"),
    ("web_of_lies", "Cora lies. Dan says Cora lies. Does Dan tell the truth?", "Yes"),
)
FLEURS = {
    "en_us": (
        "The museum opens at 9:30 and closes at 6.",
        "In 1997, more than 200 people lived on the island.",
        "She didn't expect the train to be so late.",
        "Fresh water is carried to the village by hand.",
    ),
    "cmn_hans_cn": (
        "这座桥长1500米，是1998年建成的。",
        "他们每天早上六点出发去学校。",
        "这种植物只生长在海拔很高的山上。",
        "天气预报说明天下午会有大雨。",
    ),
}
PAUSES = (("What is the capital", "of France?", 0.9), ("How many days", "are in a week?", 0.4))
TURNS = (
    "What is the capital of Italy?", "What is the opposite of big?", "How many minutes are in an hour?",
    "What is seven plus five?",
)  # fmt: skip
INTERRUPTIONS = (
    ("Count from one to ten.", "Stop. What is the capital of Spain?"),
    ("How do you spell elephant?", "Wait, how many days are in a week?"),
    ("What can you do?", "Sorry, what is two plus three?"),
)
OVERLAPS = {
    "user_interruption": (("Count from one to ten.", "Stop, please. What is the opposite of hot?"),),
    "user_backchannel": (("Count from one to ten.", "Uh huh."), ("What can you do?", "Right.")),
    "talking_to_other": (("Count from one to ten.", "Anna, could you close the window, please?"),),
    "background_speech": (("Count from one to ten.", None), ("What can you do?", None)),
}
REPLY_STARTS_S = 1.7  # after the end of the context: turn detection waits 0.5 s, a reply needs some tenths more
ANSWER_S = 4.0


class Speaker:
    """Speaks texts in Kokoro's voices: samples [S] at RATE."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, text: str, voice: str) -> np.ndarray:
        language = "zh" if voice.startswith("z") else "en"
        samples = Voice.parse(f"kokoro:{self._folder}@{voice}").speak(text, language)
        return level(trimmed(soxr.resample(samples, 24_000, RATE)))


class Recordings:
    """Real clips: `clips(kind, speaker)` are (name, samples [S], transcript), shortest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        self._rows = sorted((json.loads(line) for line in lines), key=lambda row: (row["seconds"], row["path"]))

    def clips(self, kind: str, speaker: str, least_s: float, count: int) -> list[tuple[str, np.ndarray, str]]:
        rows = [row for row in self._rows if row["path"].startswith(kind) and row["speaker"].endswith(speaker)]
        rows = [row for row in rows if row["transcript"] and row["seconds"] >= least_s][:count]
        return [(Path(row["path"]).stem, self._read(row["path"]), row["transcript"]) for row in rows]

    def _read(self, path: str) -> np.ndarray:
        samples, rate = soundfile.read(self._folder / path, dtype="float32")
        return level(soxr.resample(samples, rate, RATE).astype(np.float32))


def level(samples: np.ndarray) -> np.ndarray:
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends, so that the times in the tables are those of the speech."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def seconds(*parts: np.ndarray) -> float:
    return round(sum(map(len, parts)) / RATE, 3)


def write(path: Path, *parts: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), RATE, format="OGG", subtype="OPUS")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def openaudiobench(speak: Speaker) -> None:
    for name, (columns, rows) in QUESTIONS.items():
        folder = OUTPUT / "openaudiobench" / "eval_datas" / name
        voices = MANDARIN if name == "reasoning_qa" else ENGLISH
        folder.mkdir(parents=True)
        with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            table.writerow([*columns, "audio_filename"])
            for number, row in enumerate(rows):
                write(folder / "audios" / f"{number}.opus", speak(row[0], voices[number % len(voices)]))
                table.writerow([*row, f"{number}.opus"])


def big_bench_audio(speak: Speaker) -> None:
    folder, lines = OUTPUT / "big_bench_audio", []
    for number, (category, text, answer) in enumerate(BIG_BENCH):
        name = f"data/question_{number}.opus"
        write(folder / name, speak(text, ENGLISH[number % len(ENGLISH)]))
        lines.append({"category": category, "official_answer": answer, "file_name": name, "id": number})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def recognition(speak: Speaker, recordings: Recordings) -> None:
    for speaker in LIBRISPEECH:
        rows: dict[Path, list[str]] = {}
        for name, samples, text in recordings.clips("librispeech", f"ls{speaker}", 2.0, 4):
            folder = OUTPUT / "librispeech" / "LibriSpeech" / "test-clean" / speaker / name.split("-")[1]
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{name}.flac", samples, RATE)
            rows.setdefault(folder, []).append(f"{name} {text.upper()}\n")
        for folder, lines in rows.items():
            (folder / f"{speaker}-{folder.name}.trans.txt").write_text("".join(sorted(lines)), encoding="utf-8")
    base, lines = OUTPUT / "aishell1" / "data_aishell", []
    for speaker in AISHELL:
        for name, samples, text in recordings.clips("aishell1", speaker, 2.5, 6):
            path = base / "wav" / "test" / speaker / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, RATE, subtype="PCM_16")
            lines.append(f"{name} {text}\n")
    (base / "transcript").mkdir()
    (base / "transcript" / "aishell_transcript_v0.8.txt").write_text("".join(sorted(lines)), encoding="utf-8")
    for language, texts in FLEURS.items():
        table, voices = [], MANDARIN if language.startswith("cmn") else ENGLISH
        for number, text in enumerate(texts):
            samples = speak(text, voices[number % len(voices)])
            path = OUTPUT / "fleurs" / language / "test" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, RATE, subtype="PCM_16")
            plain = text.lower().strip(".。")
            table.append([str(number), path.name, text, plain, " ".join(plain), str(len(samples)), "FEMALE"])
        target = OUTPUT / "fleurs" / "metadata" / language / "test.tsv"
        target.parent.mkdir(parents=True)
        target.write_text("".join("\t".join(row) + "\n" for row in table), encoding="utf-8")


def full_duplex_v1(speak: Speaker, recordings: Recordings) -> None:
    base = OUTPUT / "full_duplex_bench" / "v1_0"
    for number, (first, second, pause) in enumerate(PAUSES, 1):
        voice = ENGLISH[number % len(ENGLISH)]
        before, after = [silence(0.3), speak(first, voice)], speak(second, voice)
        folder = base / "synthetic_pause_handling" / str(number)
        write_pause(folder, before, pause, after, f"{first} {second}")
    for number, speaker in enumerate(LIBRISPEECH[:2], 1):
        (_, first, one), (_, second, two) = recordings.clips("librispeech", f"ls{speaker}", 3.0, 2)
        before, pause = [silence(0.3), trimmed(first)], (0.8, 0.45)[number - 1]
        write_pause(base / "real_pause_handling" / str(number), before, pause, trimmed(second), f"{one} {two}")
    for number, text in enumerate(TURNS, 1):
        parts = [silence(0.3), speak(text, ENGLISH[number % len(ENGLISH)])]
        folder, end = base / "synthetic_turn_taking" / str(number), seconds(*parts)
        write(folder / "input.opus", *parts, silence(ANSWER_S))
        write_json(folder / "turn_taking.json", [{"text": "[TURN-TAKING]", "timestamp": [end, end + 0.4]}])
        write_json(folder / "transcription.json", {"text": text})
    for number, speaker in enumerate(LIBRISPEECH[:2], 1):
        ((_, samples, text),) = recordings.clips("librispeech", f"ls{speaker}", 6.0, 1)
        write(base / "real_backchannel" / str(number) / "input.opus", samples)
        write_json(base / "real_backchannel" / str(number) / "transcription.json", {"text": text})
    for number, (context, interruption) in enumerate(INTERRUPTIONS, 1):
        folder, voice = base / "synthetic_user_interruption" / str(number), ENGLISH[number % len(ENGLISH)]
        asked, spoken = speak(context, voice), speak(interruption, voice)
        parts = [silence(0.3), asked, silence(REPLY_STARTS_S)]
        start, end = seconds(*parts), seconds(*parts, spoken)
        write(folder / "input.opus", *parts, spoken, silence(ANSWER_S))
        write(folder / "context.opus", asked)
        write(folder / "interrupt.opus", spoken)
        row = {"context": context, "interrupt": interruption, "timestamp": [start, end]}
        write_json(folder / "interrupt.json", [row])


def write_pause(folder: Path, before: Sequence[np.ndarray], pause: float, after: np.ndarray, text: str) -> None:
    start = seconds(*before)
    write(folder / "input.opus", *before, silence(pause), after)
    write_json(folder / "pause.json", [{"text": "[PAUSE]", "timestamp": [start, round(start + pause, 3)]}])
    write_json(folder / "transcription.json", {"text": text})


def full_duplex_v15(speak: Speaker, recordings: Recordings) -> None:
    for task, cases in OVERLAPS.items():
        for number, (context, other) in enumerate(cases, 1):
            folder, voice = OUTPUT / "full_duplex_bench" / "v1_5" / task / str(number), ENGLISH[number]
            if other is None:
                ((_, sound, other),) = recordings.clips("librispeech", f"ls{LIBRISPEECH[number]}", 2.0, 1)
                sound = 0.3 * trimmed(sound)
            else:
                sound = speak(other, voice) * (0.6 if task == "talking_to_other" else 1.0)
            parts = [silence(0.3), speak(context, voice), silence(REPLY_STARTS_S)]
            write(folder / "input.opus", *parts, sound, silence(ANSWER_S))
            write(folder / "clean_input.opus", *parts, np.zeros_like(sound), silence(ANSWER_S))
            times = [seconds(*parts), seconds(*parts, sound)]
            row = {"context_text": context, "current_turn_text": other, "timestamps": times}
            write_json(folder / "metadata.json", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kokoro", required=True)
    parser.add_argument("--speech", type=Path, required=True)
    options = parser.parse_args()
    speak, recordings = Speaker(options.kokoro), Recordings(options.speech)
    for name in ("openaudiobench", "big_bench_audio", "librispeech", "aishell1", "fleurs", "full_duplex_bench"):
        shutil.rmtree(OUTPUT / name, ignore_errors=True)
    openaudiobench(speak)
    big_bench_audio(speak)
    recognition(speak, recordings)
    full_duplex_v1(speak, recordings)
    full_duplex_v15(speak, recordings)


if __name__ == "__main__":
    main()

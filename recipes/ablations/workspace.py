"""What all studies share: a small clip store, texts, codes, the checkpoints to begin with, and training by command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import baichuan_audio
from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.checkpoint import save
from baichuan_audio.cli.app import main
from baichuan_audio.data.alignment.phone_alignment import write_alignments
from baichuan_audio.data.dialogues import write_dialogues
from baichuan_audio.data.store.codes_store import encode_corpus
from baichuan_audio.data.store.manifest import Clip, ClipStore, ClipWriter
from baichuan_audio.errors import BaichuanAudioError
from baichuan_audio.training.common.checkpointing import load_part, save_training_state
from baichuan_audio.training.common.initialise import initialise_language_model

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "nano"))  # nano's dialogues are the texts
VOICE = "Hibari"
_SOURCES = {"hibari": (400, 40), "librispeech": (100, 14), "speechocean762": (250, 30)}  # clips: train, validation
_SPEED = (0.95, 1.05)  # of the synthetic voice: further off it is another timbre


def _source(clip: Clip) -> str | None:
    """The entry of `_SOURCES` that a clip belongs to; the synthetic voice goes by its speaker, e.g. hibari*1.03."""
    voice, _, speed = clip.speaker.partition("*")
    if voice == "hibari":
        return voice if _SPEED[0] <= float(speed or 1) <= _SPEED[1] else None
    return clip.source if clip.source in _SOURCES else None


@dataclass(frozen=True)
class Workspace:
    """Folders of the studies below `root`; what is missing is made on first use, what is there is kept.

    clips: a clip store with English speech of the sources above (`data clips`). base: nano.
    """

    root: Path
    clips: Path
    base: Path

    @cached_property
    def audio(self) -> Path:
        """A clip store of some 800 clips with phoneme alignments; one synthetic voice is called `VOICE`."""
        folder = self.root / "audio"
        if not (folder / "alignments.jsonl").is_file():
            self._copy_clips(folder)
            write_alignments(folder)
        return folder

    def _copy_clips(self, folder: Path) -> None:
        source, random = ClipStore(self.clips), np.random.default_rng(0)
        writer = ClipWriter(folder)
        for name, counts in _SOURCES.items():
            clips = [
                clip for clip in source.clips
                if _source(clip) == name and clip.split == "train" and clip.language == "en" and clip.transcript
                and 0.8 < clip.seconds < 15.0
            ]  # fmt: skip
            chosen = [clips[index] for index in random.permutation(len(clips))[: sum(counts)]]
            for number, clip in enumerate(chosen):
                if clip.id in writer.ids:
                    continue
                synthetic = name == "hibari"
                writer.add(
                    source.waveform(clip).numpy(), id=clip.id, language="en",
                    speaker=VOICE if synthetic else clip.speaker,
                    transcript=clip.transcript, text=clip.text, license=clip.license,
                    source="synthetic" if synthetic else name, kind="answer" if synthetic else "real",
                    split="train" if number < counts[0] else "validation",
                )  # fmt: skip
        writer.close()

    @cached_property
    def texts(self) -> Path:
        """Typed dialogues of nano's skills."""
        from nano.dialogues import generate_dialogues

        file = self.root / "texts.jsonl"
        if not file.is_file():
            rows = [
                row
                for split, count in (("train", 6000), ("validation", 120))
                for row in generate_dialogues(1, count, split)
            ]
            write_dialogues(rows, file)
        return file

    @cached_property
    def start(self) -> Path:
        """nano's tokenizer and decoders with an untrained language model that alternates by clauses."""
        folder = self.root / "start"
        if not (folder / "config.json").is_file():
            model = baichuan_audio.load(self.base)
            initialise_language_model(model)
            model.config = {key: value for key, value in model.config.items() if key != "interleave_min_letters"}
            model.config |= {"torch_dtype": "float32", "voices": ["邻家女声", VOICE]}
            save(model, folder)
        return folder

    def text_model(self, by_words: bool) -> Path:
        """The trained text model; `by_words`: one that alternates text and speech by runs of words."""
        model = self.train("lm", "lm_text", {"init_from": self.start, "dialogues": f"[{self.texts}]"}) / "model"
        if not by_words:
            return model
        folder = self.root / "lm_text_words"
        if not (folder / "config.json").is_file():
            changed = baichuan_audio.load(model)
            changed.config["interleave_min_letters"] = 5
            save(changed, folder)
        return folder

    def codes(self, tokenizer: Path, name: str = "codes", config: Path | None = None) -> Path:
        """Codes of all clips by the tokenizer of a checkpoint or of a training output with this `config`."""
        folder, store = self.root / name, ClipStore(self.audio)
        part = AudioTokenizer.from_config(json.loads((config or tokenizer / "config.json").read_text(encoding="utf-8")))
        load_part(part, "tokenizer", tokenizer)
        encode_corpus(part.eval(), store, folder)
        return folder

    def cut_tokenizer(self, codebooks: int) -> tuple[Path, Path]:
        """config.json and a state of the base's tokenizer with its first codebooks alone."""
        config, state = self.root / f"tokenizer-{codebooks}.json", self.root / f"tokenizer-{codebooks}"
        if not config.is_file():
            model = baichuan_audio.load(self.start)
            changed: dict[str, Any] = json.loads(json.dumps(model.config))
            sizes = changed["audio_config"]["vq_config"]["codebook_sizes"][:codebooks]
            changed["audio_config"]["vq_config"]["codebook_sizes"] = sizes
            tokenizer = AudioTokenizer.from_config(changed)
            names = tokenizer.state_dict().keys()
            whole = model.tokenizer.state_dict()
            tokenizer.load_state_dict({name: whole[name] for name in names})
            save_training_state(state, 1, {"tokenizer": tokenizer}, {})
            config.write_text(json.dumps(changed), encoding="utf-8")
        return config, state

    def train(self, stage: str, recipe: str, changes: Mapping[str, object], name: str | None = None) -> Path:
        """The output of a training run, which is made or gone on with where it is not finished."""
        output = self.root / "runs" / (name or recipe)
        if not (output / "finished").is_file():
            values = [f"{key}={value}" for key, value in (*changes.items(), ("output", output))]
            if main(["train", stage, str(HERE / f"{recipe}.yaml"), *values]):
                raise BaichuanAudioError(f"{output}: the training run failed, see above.")
            (output / "finished").touch()
        return output


def last_values(output: Path) -> dict[str, float]:
    """The last value of every scalar in a run's log."""
    values: dict[str, float] = {}
    for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        values |= {name: value for name, value in row.items() if isinstance(value, float) and math.isfinite(value)}
    return values

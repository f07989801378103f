"""The stages of nano's training, which starts from Whisper base and SmolLM2: what each reads and writes, its command.

`stages(settings)` is the whole run, `quick=True` a rehearsal of some ten minutes that touches every stage
with little data and few steps: the model it makes is good for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baichuan_audio.errors import ConfigError

PROJECT = "recipes/nano"
RECIPES = f"{PROJECT}/stages"
TEMPLATE = f"{RECIPES}/config.json"
LLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CORPORA = ("speech", "sentences", "recordings", "no_speech")
_QUICK_VOICES = (
    "synthesise.voices=[hibari,espeak@zh+f3] synthesise.reply_voices=[邻家女声=hibari,邻家女声=espeak@zh+f3]"
)


@dataclass(frozen=True)
class Stage:
    """`command`: arguments of Python. A stage waits for every stage before it that writes one of its `inputs`."""

    name: str
    command: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What the environment may change."""

    speech: str | None = None
    """SPEECH: manifest of recordings of people (docs/data.md); a rehearsal does without."""
    quick: bool = False
    """NANO=quick: the rehearsal."""
    tokenizer: str | None = None
    """TOKENIZER: file of a trained audio tokenizer (`checkpoint export`); without it one is trained."""

    @property
    def work(self) -> str:
        """Folder for data and training outputs; the recipes of the whole run name it."""
        return "work/nano_quick" if self.quick else "work/nano"

    @property
    def output(self) -> str:
        """Where the finished model goes."""
        return f"{self.work}/model"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises ConfigError where NANO has no meaning, or recordings are missing."""
        run, speech = environment.get("NANO") or "next", environment.get("SPEECH") or None
        if run not in ("next", "quick"):
            raise ConfigError(f"NANO must be quick, or next as where it is not set, not '{run}'.")
        if run == "next" and (speech is None or not Path(speech).is_file()):
            raise ConfigError("SPEECH must name a manifest of recordings with transcripts (docs/data.md).")
        tokenizer = environment.get("TOKENIZER") or None
        if tokenizer is not None and not Path(tokenizer).is_file():
            raise ConfigError(f"TOKENIZER: there is no file {tokenizer}; without TOKENIZER one is trained.")
        return cls(speech, run == "quick", tokenizer)


def stages(settings: Settings) -> list[Stage]:
    """All stages, each after those that it waits for."""
    make = _Maker(settings)
    return [
        *_texts(make),
        *_speech(make),
        *_hearing(make),
        *_language_model(make),
        *_sound(make),
        *_finish(make),
        *_measure(make),
    ]


class _Maker:
    """Writes stages as lines of words, in which {w} is the work folder, {p} that of pretrained parts, {r} that of the
    recipes, {t} the config.json of nano's sizes, {tok} the trained audio tokenizer and {out} the finished model."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.quick = settings, settings.quick
        self.corpora = [name for name in _CORPORA if settings.speech or name != "recordings"]
        parts = "work/nano/parts"  # fetched once, also for a rehearsal; the recipes name voices in it
        tokenizer = settings.tokenizer or f"{settings.work}/tokenizer"
        self._names = {
            "w": settings.work, "p": parts, "r": RECIPES, "t": TEMPLATE, "tok": tokenizer, "out": settings.output
        }  # fmt: skip

    def stage(self, name: str, command: str, reads: str, writes: str) -> Stage:
        """`command`: one of the package, or a script of this project."""
        words = self.words(command)
        program = (f"{PROJECT}/{words[0]}",) if words[0].endswith(".py") else ("-m", "baichuan_audio.cli", words[0])
        return Stage(name, program + words[1:], self.words(reads), self.words(writes))

    def words(self, text: str) -> tuple[str, ...]:
        """The words of `text`, filled in."""
        return tuple(word.format(**self._names) for word in text.split())

    def train(self, name: str, stage: str, entries: str, reads: str, quick: str) -> Stage:
        """A training stage whose output is {w}/`name`; `quick`: further entries of its recipe in a rehearsal."""
        limits = f"{quick} log_every=1 sample_every=1000 checkpoint_every=1000" if self.quick else ""
        command = f"train {stage} {{r}}/{name}.yaml output={{w}}/{name} {entries} {limits}"
        return self.stage(name, command, f"{{r}}/{name}.yaml {reads}", f"{{w}}/{name}")


def _texts(make: _Maker) -> list[Stage]:
    """Pretrained parts; questions with SmolLM2's own replies; skills; sentences to be read aloud."""
    questions, skills, sentences = (24, 20, 8) if make.quick else (6000, 4000, 5000)
    return [
        make.stage(
            "parts",
            "nano/fetch_parts.py {p}",
            "",
            f"{{p}}/smollm2/{LLM} {{p}}/whisper-base {{p}}/mandarin.txt {{p}}/wordnet.txt",
        ),
        make.stage(
            "questions",
            f"make_texts.py questions {{w}}/questions.jsonl --llm {{p}}/smollm2/{LLM} --license Apache-2.0 "
            f"--count {questions}",
            f"{{p}}/smollm2/{LLM}",
            "{w}/questions.jsonl",
        ),
        make.stage(
            "texts",
            "make_texts.py items {w}/texts --questions {w}/questions.jsonl --sentences {p}/mandarin.txt --license MIT "
            f"--wordnet {{p}}/wordnet.txt --skills {skills} --count {sentences}",
            "{w}/questions.jsonl {p}/mandarin.txt {p}/wordnet.txt",
            "{w}/texts",
        ),
    ]


def _speech(make: _Maker) -> list[Stage]:
    """Texts spoken, recordings cut and transcribed, audio without speech: shards; and all of it as clips for tokenizer
    and decoders."""
    result = [] if make.quick else [_training_recordings(make)]
    result += [_corpus(make, name) for name in make.corpora]
    for name in make.corpora:  # one after the other into the same store
        clips = f"data clips {{w}}/{name}/shards -o {{w}}/audio"
        result.append(make.stage(f"clips_{name}", clips, f"{{w}}/{name}/shards", "{w}/audio"))
    return result


def _corpus(make: _Maker, name: str) -> Stage:
    """`data run` of one corpus."""
    recipe, more, reads = f"{{r}}/{name}.yaml", "recognise.recognisers=[whisper:{p}/whisper-base]", "{p}/whisper-base"
    if name == "recordings":
        more += " sources={w}/recordings.jsonl"
        reads += " {w}/recordings.jsonl"
    elif name == "no_speech":
        recipe, reads = "recipes/data/no_speech.yaml", ""
        more = f"no_speech.count={12 if make.quick else 2000} no_speech.seed=1"
    else:
        texts = "dialogues" if name == "speech" else "sentences"
        quick = _QUICK_VOICES if name == "speech" else "synthesise.voices=[hibari,espeak@zh+f3]"
        more += f" texts={{w}}/texts/{texts}.jsonl {quick if make.quick else ''}"
        reads += " {w}/texts"
    folders = f"work={{w}}/{name} output={{w}}/{name}/shards"
    return make.stage(name, f"data run {recipe} {more} {folders}", f"{recipe} {reads}", f"{{w}}/{name}/shards")


def _training_recordings(make: _Maker) -> Stage:
    """The recordings that are not held out."""
    command = f"make_sets.py training {make.settings.speech} {{w}}/recordings.jsonl"
    return make.stage("training_recordings", command, "", "{w}/recordings.jsonl")


def _hearing(make: _Maker) -> list[Stage]:
    """The untrained model, its audio tokenizer, and everything in codes."""
    quick = "steps=12 quantize_start_step=4 ramp_steps=2 batch_seconds=12 optimizer.warmup_steps=2"
    init = make.stage(
        "init",
        # float32: rounded weights would be other ones than those of the base that is fetched.
        f"checkpoint init {{t}} {{w}}/init --llm {{p}}/smollm2/{LLM} --encoder {{p}}/whisper-base --dtype float32",
        f"{{t}} {{p}}/smollm2/{LLM} {{p}}/whisper-base",
        "{w}/init",
    )
    tokenizer = make.train(
        "tokenizer",
        "tokenizer",
        "dataset={w}/audio encoder={p}/whisper-base text_model={p}/whisper-base text_embeddings={w}/init",
        "{w}/audio {w}/init {p}/whisper-base",
        quick,
    )
    result = [
        init,
        *([] if make.settings.tokenizer else [tokenizer]),
        make.stage(
            "start",
            "checkpoint assemble {w}/init {w}/start --template {t} --tokenizer {tok}",
            "{t} {w}/init {tok}",
            "{w}/start",
        ),
        make.stage(
            "codes", "data encode --model {w}/start --corpus {w} --output {w}/codes", "{w}/start {w}/audio", "{w}/codes"
        ),
    ]
    for name in make.corpora:
        command = f"data tokenize {{w}}/{name}/shards -o {{w}}/{name}/codes --model {{w}}/start"
        reads = f"{{w}}/{name}/shards {{w}}/start"
        result.append(make.stage(f"codes_{name}", command, reads, f"{{w}}/{name}/codes"))
    return result


def _language_model(make: _Maker) -> list[Stage]:
    """Stage 1, stage 2 and SFT, on shards in codes."""
    codes = [f"{{w}}/{name}/codes" for name in make.corpora]
    # Braces are doubled: the words are filled in later.
    sets = ",".join(f'{{{{"path":{path}}}}}' for path in codes)
    quick = f"dataset=[{sets}] steps=3 tokens_per_step=512 optimizer.warmup_steps=1 validation_sequences=2"
    reads = " ".join(codes)
    adapters = "adapter_from={w}/lm_stage2/adapters.safetensors"
    return [
        make.train(
            "lm_stage1",
            "lm",
            "init_from={w}/start codebook_source={tok}",
            f"{{w}}/start {{tok}} {reads}",
            quick,
        ),
        make.train("lm_stage2", "lm", "init_from={w}/lm_stage1/model", f"{{w}}/lm_stage1 {reads}", quick),
        make.train("lm_sft", "sft", f"init_from={{w}}/lm_stage2/model {adapters}", f"{{w}}/lm_stage2 {reads}", quick),
    ]


def _sound(make: _Maker) -> list[Stage]:
    """From codes to a mel, from a mel to a waveform."""
    return [
        make.train(
            "flow",
            "flow",
            "tokenizer={w}/start dataset={w}/audio codes={w}/codes",
            "{w}/start {w}/audio {w}/codes",
            "steps=3 batch_seconds=4",
        ),
        make.train("vocoder", "vocoder", "dataset={w}/audio", "{w}/audio", "steps=3 batch_size=2"),
    ]


def _finish(make: _Maker) -> list[Stage]:
    """The parts put together; then what they have beyond the published language model, in 8 bits."""
    vocoder = "--vocoder {w}/vocoder/vocoder.safetensors"
    return [
        make.stage(
            "whole",
            "checkpoint assemble {w}/lm_sft/model {w}/whole --template {t} --tokenizer {w}/flow --flow {w}/flow "
            + vocoder,
            "{t} {w}/lm_sft {w}/flow {w}/vocoder",
            "{w}/whole",
        ),
        make.stage(
            "detached",
            "checkpoint detach {w}/whole {w}/detached --base {r}/base_model.json "
            "--adapters {w}/lm_sft/adapters.safetensors",
            "{r}/base_model.json {w}/whole {w}/lm_sft",
            "{w}/detached",
        ),
        make.stage("model", "checkpoint compress {w}/detached {out}", "{w}/detached", "{out}"),
    ]


def _measure(make: _Maker) -> list[Stage]:
    """What the model card says: on what is held out, in a rehearsal on the small bundle; then the peers, Whisper base
    and SmolLM2, on the same items."""
    data, read, hear, limit = "examples/evaluation", "", "librispeech", "--limit 1"
    result: list[Stage] = []
    if not make.quick:
        data, read, hear, limit = "{w}/sets", "{w}/sets", "recordings", ""
        command = f"make_sets.py sets {make.settings.speech} {data} --kokoro {{p}}/voices/kokoro"
        result.append(make.stage("sets", f"{command} --sentences {{w}}/texts/sentences.jsonl", "{w}/texts", data))
    whisper, llm = "{p}/whisper-base", f"{{p}}/smollm2/{LLM}"
    for name, suites, system, more in (
        ("speech", f"{hear} seed_tts reconstruction", "{out}", f"--whisper {whisper}"),
        ("answers", "openaudiobench", "{out}", f"--whisper {whisper} --settings t2t s2t s2s_text s2s_asr"),
        ("whisper", hear, f"whisper:{whisper}", ""),
        ("base", "openaudiobench", f"llm:{llm}", "--settings t2t"),
    ):
        output = f"{{w}}/evaluation/{name}"
        command = f"eval run {suites} --data {data} --system {system} --output {output} {limit} {more}"
        reads = f"{read} {whisper} {llm} {'{out}' if system == '{out}' else ''}"
        result.append(make.stage(f"evaluation_{name}", command, reads, output))
    return result

"""The stages of nano's training as data: what each reads and writes, and the command that runs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baichuan_audio.errors import ConfigError

PROJECT = "recipes/nano"
RECIPES = f"{PROJECT}/stages"
TEMPLATE = f"{PROJECT}/config.json"
_MOST_ROUNDS = 99


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

    work: str = "work/nano"
    """WORK: folder for corpus and training outputs."""
    output: str = "models/nano"
    """OUTPUT: where the finished model goes."""
    speech: str | None = None
    """SPEECH: recordings of people, several with commas between; empty for none, None for what the recipe names."""
    whisper: str = ""
    """WHISPER: a size or folder of Whisper, as a second recogniser of the evaluation; empty for none."""
    rounds: int = 3
    """ROUNDS of the language model at the end, an hour or more each; the shipped model learnt longer."""
    paper: bool = False
    """STAGES=paper: through the paper's stages 1 and 2; STAGES=joint: as nano was trained."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises ConfigError where a variable has no meaning, or asks for what is not installed."""
        rounds, stages = environment.get("ROUNDS", "3"), environment.get("STAGES", "joint")
        if not (rounds.isascii() and rounds.isdigit() and 2 <= int(rounds) <= _MOST_ROUNDS):
            raise ConfigError(f"ROUNDS must be a number from 2 to {_MOST_ROUNDS}, not '{rounds}'.")
        if stages not in ("joint", "paper"):
            raise ConfigError(f"STAGES must be joint or paper, not '{stages}'.")
        whisper = environment.get("WHISPER", "")
        if whisper and importlib.util.find_spec("faster_whisper") is None:  # now, and not after hours
            raise ConfigError(
                "WHISPER needs faster-whisper: .venv/bin/pip install -c constraints.txt 'baichuan-audio[whisper]'."
            )
        work, output = environment.get("WORK") or cls.work, environment.get("OUTPUT") or cls.output
        return cls(work, output, environment.get("SPEECH"), whisper, int(rounds), stages == "paper")


def stages(settings: Settings) -> list[Stage]:
    """All stages, each after those that it waits for."""
    make = _Maker(settings)
    return [
        *_corpus(make),
        *_tokenizer(make),
        *_before_codes(make),
        *_joint(make),
        *_sound(make),
        *_rounds(make),
        *_finish(make),
    ]


class _Maker:
    """Writes stages as lines of words, in which {w} is the work folder, {r} that of recipes, {t} the config.json of
    nano's sizes and {out} the finished model. Words are split before they are filled in: a path may hold spaces."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._names = {"w": settings.work, "out": settings.output, "r": RECIPES, "t": TEMPLATE}

    def stage(self, name: str, command: str, reads: str, writes: str, more: Sequence[str] = ()) -> Stage:
        """`command`: one of the package, or a script of this project; `more`: words that follow it."""
        words = (*self.words(command), *more)
        program = (f"{PROJECT}/{words[0]}",) if words[0].endswith(".py") else ("-m", "baichuan_audio.cli", words[0])
        return Stage(name, program + words[1:], self.words(reads), self.words(writes))

    def words(self, text: str) -> tuple[str, ...]:
        """The words of `text`, filled in."""
        return tuple(word.format(**self._names) for word in text.split())

    def texts(self, name: str, options: str) -> Stage:
        """Dialogues as text alone, for the run `name` of the language model."""
        path = f"{{w}}/texts/{name}.jsonl"
        return self.stage(f"texts_{name}", f"make_dialogues.py {path} {options}", "", path)

    def lm(self, name: str, recipe: str, start: str, texts: bool = True, more: str = "", reads: str = "") -> Stage:
        """One run of the language model on codes; the checkpoint `preview_decoder`, for samples, may come later."""
        texts_file = f",{{w}}/texts/{name}.jsonl" if texts else ""
        command = f"train lm {{r}}/{recipe}.yaml init_from={{w}}/{start} output={{w}}/{name}"
        dialogues = f"dialogues=[{{w}}/dialogues.jsonl{texts_file}]"
        data = f"{dialogues} dataset={{w}}/audio codes={{w}}/codes preview_decoder={{w}}/voice"
        inputs = f"{{r}}/{recipe}.yaml {{w}}/{start.removesuffix('/model')} {{w}}/dialogues.jsonl {texts_file[1:]}"
        return self.stage(
            name, f"{command} {data} {more}", f"{inputs} {{w}}/audio {{w}}/codes {reads}", f"{{w}}/{name}"
        )

    def codes(self, name: str, options: str = "") -> Stage:
        """The corpus in codes."""
        command = f"data encode --model {{w}}/hearing --corpus {{w}} --output {{w}}/{name} {options}"
        return self.stage(name, command, "{w}/hearing {w}/audio", f"{{w}}/{name}")

    def voiced(self, name: str, base: str) -> Stage:
        """A checkpoint of the language model, with what makes sound of its codes."""
        command = (
            f"checkpoint assemble {{w}}/{base} {{w}}/{name} --template {{t}} --tokenizer {{w}}/flow --flow {{w}}/flow"
        )
        vocoder = "--vocoder {w}/vocoder/vocoder.safetensors"
        return self.stage(name, f"{command} {vocoder}", f"{{w}}/{base} {{w}}/flow {{w}}/vocoder", f"{{w}}/{name}")


def _corpus(make: _Maker) -> list[Stage]:
    """Speech and dialogues, and a model of random weights with a text tokenizer for them."""
    speech = make.settings.speech
    recordings = () if speech is None else (f"recordings=[{speech}]",)
    return [
        make.stage(
            "corpus",
            "make_corpus.py {r}/corpus.yaml",
            "{r}/corpus.yaml",
            "{w}/audio {w}/dialogues.jsonl",
            (*recordings, "--output", make.settings.work),
        ),
        make.stage(
            "start",
            "checkpoint init {t} {w}/lm_start --dialogues {w}/dialogues.jsonl",
            "{t} {w}/dialogues.jsonl",
            "{w}/lm_start",
        ),
    ]


def _tokenizer(make: _Maker) -> list[Stage]:
    """The audio tokenizer and its codes.

    Told at every 20 ms what is being said, the encoder learns in minutes. English is aligned by pocketsphinx; what a
    first, short training hears then aligns the Mandarin. Codes are made with the weights as they will be stored: a
    rounded codebook picks other codes.
    """
    alignments = "{w}/audio/alignments.jsonl"
    train, reads = "train tokenizer {r}/tokenizer.yaml dataset={w}/audio", "{r}/tokenizer.yaml {w}/audio"
    return [
        make.stage("align_english", "data align --corpus {w}", "{w}/audio", alignments),
        make.stage(
            "tokenizer_first",
            f"{train} output={{w}}/tokenizer_first steps=1200 mel_start_step=1200 quantize_start_step=1200",
            f"{reads} {alignments}",
            "{w}/tokenizer_first",
        ),
        make.stage(
            "align_rest",
            "data align {r}/tokenizer.yaml --corpus {w} --tokenizer {w}/tokenizer_first",
            f"{reads} {alignments} {{w}}/tokenizer_first",
            alignments,
        ),
        make.stage("tokenizer", f"{train} output={{w}}/tokenizer", f"{reads} {alignments}", "{w}/tokenizer"),
        make.stage(
            "hearing",
            "checkpoint assemble {w}/lm_start {w}/hearing --template {t} --tokenizer {w}/tokenizer --dtype bfloat16",
            "{t} {w}/lm_start {w}/tokenizer",
            "{w}/hearing",
        ),
        make.codes("codes"),
    ]


def _before_codes(make: _Maker) -> list[Stage]:
    """The vocoder, and what the language model can learn before there are codes."""
    result = [
        make.stage(
            "vocoder",
            "train vocoder {r}/vocoder.yaml output={w}/vocoder dataset={w}/audio",
            "{r}/vocoder.yaml {w}/audio",
            "{w}/vocoder",
        ),
        make.texts("lm_text", "--seed 1 --count 60000 --text-question-share 0.3"),
        make.stage(
            "lm_text",
            "train lm {r}/lm_text.yaml init_from={w}/lm_start output={w}/lm_text dialogues=[{w}/texts/lm_text.jsonl]",
            "{r}/lm_text.yaml {w}/lm_start {w}/texts/lm_text.jsonl",
            "{w}/lm_text",
        ),
    ]
    if make.settings.paper:
        return result
    return [
        *result,
        make.texts("lm_pseudo", "--seed 5 --count 60000 --text-question-share 0.15"),
        make.stage(
            "lm_pseudo",
            "train lm {r}/lm_pseudo.yaml init_from={w}/lm_text/model output={w}/lm_pseudo dataset={w}/audio "
            "dialogues=[{w}/texts/lm_pseudo.jsonl]",
            "{r}/lm_pseudo.yaml {w}/lm_text {w}/audio/alignments.jsonl {w}/texts/lm_pseudo.jsonl",
            "{w}/lm_pseudo",
        ),
    ]


def _joint(make: _Maker) -> list[Stage]:
    """From hearing and reading aloud to spoken dialogues; then four more layers."""
    if make.settings.paper:
        sft = make.lm(
            "lm_sft", "lm_sft", "lm_stage2/model", more="reset_audio_embeddings=false after_pseudo_speech=false"
        )
        before = [
            make.lm("lm_stage1", "lm_stage1", "lm_text/model", texts=False),
            make.texts("lm_stage2", "--seed 3 --count 60000 --text-question-share 0.3"),
            make.lm("lm_stage2", "lm_stage2", "lm_stage1/model"),
        ]
    else:  # what was learnt of stand-in frames says nothing of true codes
        sft = make.lm("lm_sft", "lm_sft", "lm_pseudo/model", more="codebook_source={w}/hearing", reads="{w}/hearing")
        before = []
    return [
        *before,
        make.texts("lm_sft", "--seed 4 --count 60000 --text-question-share 0.3"),
        sft,
        make.stage("lm_deep", "checkpoint expand {w}/lm_sft/model {w}/lm_deep --layers 8", "{w}/lm_sft", "{w}/lm_deep"),
    ]


def _sound(make: _Maker) -> list[Stage]:
    """From codes to a mel; the vocoder goes on with mels of codes; questions at other speeds, for the rounds."""
    kinds = "--kinds question digits --threads 1"
    return [
        make.stage(
            "flow",
            "train flow {r}/flow.yaml output={w}/flow tokenizer={w}/hearing dataset={w}/audio codes={w}/codes",
            "{r}/flow.yaml {w}/hearing {w}/audio {w}/codes",
            "{w}/flow",
        ),
        make.voiced("voice", "lm_start"),  # to listen to while the language model learns
        make.stage(
            "vocoder_coded",
            "train vocoder {r}/vocoder_coded.yaml output={w}/vocoder_coded dataset={w}/audio "
            "init_from={w}/vocoder/vocoder.safetensors coded.decoder_checkpoint={w}/flow coded.codes={w}/codes",
            "{r}/vocoder_coded.yaml {w}/audio {w}/vocoder {w}/flow {w}/codes",
            "{w}/vocoder_coded",
        ),
        make.codes("codes_slow", f"--speed 0.9 {kinds}"),
        make.codes("codes_fast", f"--speed 1.13 {kinds}"),
    ]


def _rounds(make: _Maker) -> list[Stage]:
    """Rounds of two runs with other seeds, whose mean errs less than one run of twice the length."""
    last = make.settings.rounds
    result: list[Stage] = []
    for number in range(1, last + 1):
        start = "lm_deep" if number == 1 else f"round_{number - 1}"
        if number == last:
            result += _own_readings(make, start)
        changes, reads = _changes(number, last)
        for seed in (f"{number}1", f"{number}2"):
            name = f"round_{number}_{seed[-1]}"
            result.append(make.texts(name, f"--seed {seed} --count 50000 --sums 12000 --text-question-share 0.3"))
            more = f"seed={seed} additional_codes=[{{w}}/codes_slow,{{w}}/codes_fast] {changes}"
            inputs = f"{{w}}/codes_slow {{w}}/codes_fast {reads}"
            result.append(make.lm(name, "lm_rounds", start, more=more, reads=inputs))
        runs = [f"{{w}}/round_{number}_{seed}" for seed in (1, 2)]
        average = f"checkpoint average {{w}}/round_{number} {runs[0]}/model {runs[1]}/model"
        result.append(make.stage(f"round_{number}", average, " ".join(runs), f"{{w}}/round_{number}"))
    return result


def _changes(number: int, last: int) -> tuple[str, str]:
    """Entries of a round that differ from its recipe, and what they read: the rate falls, the sound head goes on."""
    if number == 1:
        return "", ""
    before = f"{{w}}/round_{number - 1}_1"
    if number == last:
        rate = "optimizer.learning_rate=0.0005 optimizer.final_lr_ratio=0.02"
        return f"{rate} phoneme_probe={before} takes={{w}}/takes mixture.takes=0.4", f"{before} {{w}}/takes"
    return f"optimizer.learning_rate=0.0008 optimizer.final_lr_ratio=0.45 phoneme_probe={before}", before


def _own_readings(make: _Maker, base: str) -> list[Stage]:
    """What the model says before the last round: its clearest readings, and the corpus as it says it."""
    data = "dataset={w}/audio codes={w}/codes seed=9 --model {w}/talking --threads 1"
    reads = "{r}/lm_rounds.yaml {w}/talking {w}/dialogues.jsonl {w}/audio {w}/codes"
    return [
        make.voiced("talking", base),
        make.texts("takes", "--seed 9 --count 50000 --sums 12000 --text-question-share 0.3"),
        make.stage(
            "takes",
            f"data rejection-sample {{r}}/lm_rounds.yaml dialogues=[{{w}}/texts/takes.jsonl,{{w}}/dialogues.jsonl] "
            f"{data} --phoneme-scorer {{w}}/tokenizer --output {{w}}/takes --count 3000",
            f"{reads} {{w}}/texts/takes.jsonl {{w}}/tokenizer",
            "{w}/takes",
        ),
        make.stage(
            "said",
            f"data sample-codes {{r}}/lm_rounds.yaml dialogues=[{{w}}/dialogues.jsonl] {data} "
            "--output {w}/codes_said --count 7500",
            reads,
            "{w}/codes_said",
        ),
    ]


def _finish(make: _Maker) -> list[Stage]:
    """Audio decoder, prenet and vocoder go on together; then the model is put together and measured."""
    base, whisper = f"{{w}}/round_{make.settings.rounds}", make.settings.whisper
    return [
        make.stage(
            "resynthesis",
            "train resynthesis {r}/resynthesis.yaml output={w}/resynthesis decoder_checkpoint={w}/flow "
            "vocoder={w}/vocoder_coded/vocoder.safetensors perceptual_model={w}/tokenizer "
            "dataset={w}/audio codes={w}/codes sampled_codes={w}/codes_said",
            "{r}/resynthesis.yaml {w}/flow {w}/vocoder_coded {w}/tokenizer {w}/audio {w}/codes {w}/codes_said",
            "{w}/resynthesis",
        ),
        make.stage(
            "model",
            f"checkpoint assemble {base} {{out}} --template {{t}} --tokenizer {{w}}/resynthesis "
            "--flow {w}/resynthesis --vocoder {w}/resynthesis/vocoder.safetensors --dtype bfloat16",
            f"{{t}} {base} {{w}}/resynthesis",
            "{out}",
        ),
        make.stage(
            "evaluation",
            "evaluate.py --model {out} --corpus {w} --phoneme-scorer {w}/tokenizer --output {w}/evaluation",
            "{out} {w}/dialogues.jsonl {w}/audio {w}/tokenizer",
            "{w}/evaluation",
            ("--whisper", whisper) if whisper else (),
        ),
    ]

"""The language model's stages: text, then audio (stages 1 and 2 of the paper), then spoken dialogues.

What may learn in each stage (spec section 8) is STAGES; what a step sees is a mixture of tasks; what is learnt of
each sequence is its two masks. The loss is cross-entropy of text ids, plus that of the code frames, averaged
over the codebooks.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import load, save
from ..data.batches import Batches
from ..data.dataset import CodesStore
from ..data.dialogues import Dialogue, parse_dialogue, read_dialogues
from ..data.manifest import Clip, ClipStore, normalise_transcript
from ..data.mixture import Diet, Mixture, Utterance
from ..data.phone_alignment import read_alignments
from ..data.pseudo_speech import PseudoSpeech, with_pseudo_clips
from ..data.read_along import ReadAlong
from ..errors import TrainingError
from ..language_model.audio_head import AudioHead
from ..language_model.interleaving import interleave_letters
from ..language_model.model import LanguageModel
from ..pipeline import BaichuanAudio
from .checkpointing import has_state, load_module, load_training_state, save_training_state
from .flow import load_part
from .initialise import embed_codebooks, embed_codes_like_sounds, initialise_audio
from .lm_batch import Batch, choose_frames, collate, forget_speech, say_itself
from .logging import TrainingLog, set_threads
from .muon import Muon, layer_matrices
from .optim import autocast, freeze_except, make_optimizer, optimizer_step
from .recipe import OptimizerRecipe, StageRecipe
from .sound_head import SoundHead

STAGES = {
    "text": (
        "language_model.embed_tokens.*",
        "language_model.layers.*",
        "language_model.norm.*",
        "language_model.lm_head.*",
    ),
    "stage1": ("language_model.audio_embed_layers.*", "audio_head.*"),
    "stage2": (
        "language_model.layers.*",
        "language_model.norm.*",
        "language_model.audio_embed_layers.*",
        "audio_head.*",
    ),
    "sft": ("language_model.*", "audio_head.*"),
}
"""Names that may learn; everything else is frozen. `text` makes a small text model where no pretrained one exists."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(StageRecipe):
    """One stage of the language model."""

    stage: str
    model: str
    """Checkpoint directory to start from; the result is written to `output`/model."""
    diet: Diet
    corpus: str | None = None
    """Folder with `dialogues.jsonl`."""
    clips: str | None = None
    """Folder with `clips.jsonl`."""
    codes: str | None = None
    """Folder with the clips' codes."""
    codes_heard_also: tuple[str, ...] = ()
    """Folders with codes of clips that are heard, made at other speeds (`baichuan-audio data codes --speed`)."""
    generated: int = 0
    """Text dialogues to generate in addition to the corpus' own."""
    sums: int = 0
    """Text dialogues of sums in a row to generate as well; `text_emphasis` calls them `sums`."""
    typed_share: float = 0.15
    """Share of generated dialogues whose questions are written as people type them."""
    pseudo_speech: bool = False
    """Whether the generated dialogues get stand-in codes, to learn hearing and speaking before there are true ones."""
    fresh_audio: bool = False
    """Draw audio embeddings and the audio head's outputs anew: after pseudo-speech, or for other codes."""
    codebooks: str | None = None
    """Checkpoint directory or training output of the audio tokenizer that made the codes: fresh audio embeddings start
    from its codebooks instead of at random."""
    after_pseudo_speech: bool = False
    """Whether fresh audio embeddings shall say of true codes what those of stand-in speech said of the same sounds;
    needs `codebooks`, `codes`, and `clips` with alignments."""
    languages: tuple[str, ...] = ("en", "zh")
    positions: int = 4096
    """Positions a step, padding left out."""
    audio_head_fraction: float = 1.0
    """Share of frames whose codes 1.. are learnt in a step, drawn anew each step; code 0 is always learnt."""
    audio_loss_weight: float = 1.0
    read_along: float = 0.0
    """Weight of naming, at every code frame, the text token that is being said (`data/read_along.py`); needs `clips`
    with alignments. Where a voice has come to in its text is then learnt in hundreds of steps instead of thousands."""
    sounds: float = 0.0
    """Weight of naming, from the middle of the backbone, the sounds of every code frame that is heard or about to be
    said (`sound_head.py`); needs `clips` with alignments. A clip is then heard, and not only recognised."""
    sound_head: str | None = None
    """Output of an earlier run whose sound head goes on; None: one that knows nothing yet."""
    forgotten_speech: float = 0.0
    """Share of the frames of its own speech that the model sees replaced by others while it learns what comes next.
    What it says in earnest is never quite what it was taught with; so it learns to go by the text."""
    own_speech: float = 0.0
    """Share of the frames of its own speech that it sees as it would have said them; costs a pass without gradients."""
    validation_sequences: int = 64
    muon: bool = True
    """Whether the backbone's matrices learn by Muon; everything else always learns by AdamW."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise TrainingError(f"stage must be one of {', '.join(STAGES)}, not '{self.stage}'.")
        if not 0 < self.audio_head_fraction <= 1:
            raise TrainingError("audio_head_fraction must lie in (0, 1].")


def losses(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batch: Batch,
    chosen: Tensor | None = None,
    sound_head: SoundHead | None = None,
) -> dict[str, Tensor]:
    """Mean cross-entropies in nats: `text`, `along`, `sounds`, `code_0`..`code_K-1`; none where there is no target.

    chosen [Y] bool: frames whose codes 1.. count (None: all). Logits are computed only where something is learnt.
    """
    found: dict[str, Tensor] = {}
    embedded = language_model.embed(batch.ids, batch.codes)
    listening: AbstractContextManager[list[Tensor]] = nullcontext([])
    if sound_head is not None:
        listening = sound_head.listening(language_model)
    with listening as inner:
        hidden = language_model.hidden(embedded).flatten(0, 1)
    if sound_head is not None and len(batch.sounds):
        found["sounds"] = sound_head.loss(inner[0].flatten(0, 1)[batch.sounds_at], batch.sounds)
    if len(batch.text):
        logits = language_model.lm_head(hidden[batch.text_at])
        found["text"] = F.cross_entropy(logits.float(), batch.text)
        found["text_right"] = (logits.argmax(-1) == batch.text).float().mean()
    if len(batch.along):
        found["along"] = F.cross_entropy(language_model.lm_head(hidden[batch.along_at]).float(), batch.along)
    if not len(batch.frames):
        return found
    states, frames = hidden[batch.frame_at], batch.frames
    if chosen is None or bool(chosen.all()):
        every = audio_head.logits(states, frames)
        first_losses = F.cross_entropy(every[0].float(), frames[:, 0])
    else:
        rest = audio_head.logits_at(states[~chosen], frames[~chosen, :0])
        every = audio_head.logits(states[chosen], frames[chosen])
        first = torch.cat([every[0], rest]).float()
        first_losses = F.cross_entropy(first, torch.cat([frames[chosen, 0], frames[~chosen, 0]]))
        frames = frames[chosen]
    found["code_0"] = first_losses
    for level in range(1, len(every) if len(frames) else 1):
        found[f"code_{level}"] = F.cross_entropy(every[level].float(), frames[:, level])
    return found


def total_loss(
    found: dict[str, Tensor], audio_weight: float, along_weight: float = 0.0, sounds_weight: float = 0.0
) -> Tensor:
    """Text loss plus the mean over the codebooks, plus what reading along and the sounds give."""
    codes = [value for name, value in found.items() if name.startswith("code_")]
    parts = [found["text"]] if "text" in found else []
    parts += [audio_weight * torch.stack(codes).mean()] if codes else []
    for name, weight in (("along", along_weight), ("sounds", sounds_weight)):
        parts += [weight * found[name]] if name in found else []
    if not parts:
        raise TrainingError("a batch held nothing to learn; check the tasks and the corpus.")
    return torch.stack(parts).sum()


def train(recipe: LanguageModelRecipe) -> None:
    """Run the stage, going on where an earlier run of the same output folder stopped."""
    set_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    output = Path(recipe.output)
    model = load(recipe.model, dtype=torch.float32, device=recipe.device)
    if recipe.fresh_audio and not has_state(output / "state"):  # a resumed run has its own
        start_audio(model, recipe)
    parts = learning_parts(model, recipe.stage)
    language_model, audio_head, sound_head = model.language_model, model.audio_head, None
    learning: dict[str, nn.Module] = {"parts": parts}
    if recipe.sounds:
        learning["sound_head"] = sound_head = SoundHead(language_model).to(recipe.device)
        if recipe.sound_head is not None:
            load_module(Path(recipe.sound_head) / "state", "sound_head", sound_head)
    optimizers = make_optimizers(parts, recipe, sound_head)
    batches = Batches(make_mixture(recipe, model, "train").draw, recipe.positions, recipe.seed, recipe.steps)
    held_out = validation_batches(recipe, model)
    pad_id, audio_pad_id = model.special.end_of_text, model.special.audio_pad
    step = load_training_state(output / "state", learning, optimizers)
    with TrainingLog(output, recipe.steps, step) as log:
        while step < recipe.steps:
            batch = collate(batches(step), pad_id, audio_pad_id, language_model.codebook_sizes)
            batch = forget_speech(batch, recipe.forgotten_speech, recipe.seed, step).to(recipe.device)
            if recipe.own_speech:
                with autocast(recipe.device):
                    batch = say_itself(batch, language_model, audio_head, recipe.own_speech, recipe.seed, step)
            chosen = choose_frames(len(batch.frames), recipe.audio_head_fraction, recipe.seed, step)
            with autocast(recipe.device):
                found = losses(language_model, audio_head, batch, chosen.to(recipe.device), sound_head)
                loss = total_loss(found, recipe.audio_loss_weight, recipe.read_along, recipe.sounds)
            loss.backward()
            norms = [optimizer_step(each, recipe.optimizer, step, recipe.steps) for each in optimizers.values()]
            step += 1
            log.advance()
            if step % recipe.log_every == 0 or step == recipe.steps:
                values = {name: float(value.detach()) for name, value in found.items()}
                log.scalars(
                    step,
                    {"loss": float(loss.detach()), **values, "gradient": max(norms), "positions": batch.ids.numel()},
                )
            if step % recipe.sample_every == 0 or step == recipe.steps:
                log.scalars(step, validate(language_model, audio_head, held_out, sound_head))
            if step % recipe.checkpoint_every == 0 or step == recipe.steps:
                save_training_state(output / "state", step, learning, optimizers)
                save(model, output / "model")


def start_audio(model: BaichuanAudio, recipe: LanguageModelRecipe) -> None:
    """Fresh audio embeddings and audio head outputs, as the recipe wants them."""
    learnt = copy.deepcopy(model.language_model.audio_embed_layers.state_dict())
    initialise_audio(model)
    if recipe.codebooks is None:
        return
    load_part(model.tokenizer, "tokenizer", recipe.codebooks)
    if not recipe.after_pseudo_speech:
        embed_codebooks(model, model.tokenizer)
        return
    if recipe.codes is None or recipe.clips is None:
        raise TrainingError("after_pseudo_speech needs `codes` and `clips`.")
    model.language_model.audio_embed_layers.load_state_dict(learnt)
    codes, alignments = CodesStore(recipe.codes), read_alignments(recipe.clips)
    explained = embed_codes_like_sounds(model, model.tokenizer, codes, alignments, recipe.seed)
    print(f"audio embeddings explain {explained:.0%} of what stand-in speech said of the sounds", file=sys.stderr)


def learning_parts(model: BaichuanAudio, stage: str) -> nn.ModuleDict:
    """Backbone and audio head with the stage's frozen set; every other part of the model is frozen."""
    model.requires_grad_(False)
    parts = nn.ModuleDict({"language_model": model.language_model, "audio_head": model.audio_head})
    freeze_except(parts, STAGES[stage])
    for name, parameter in parts.named_parameters():
        if name.endswith(("linear1.bias", "linear2.bias")):  # stored, but not applied
            parameter.requires_grad_(False)
    return parts


def make_optimizers(
    parts: nn.ModuleDict, recipe: LanguageModelRecipe, sound_head: SoundHead | None = None
) -> dict[str, torch.optim.Optimizer]:
    """AdamW, and Muon for the backbone's matrices where the recipe wants it and they may learn."""
    matrices = layer_matrices(parts["language_model"]) if recipe.muon else []
    apart = set(map(id, matrices))
    rest = [parameter for parameter in parts.parameters() if id(parameter) not in apart]
    rest += sound_head.parameters() if sound_head is not None else []
    optimizers: dict[str, torch.optim.Optimizer] = {"adamw": make_optimizer(rest, recipe.optimizer)}
    if matrices:
        optimizers["muon"] = Muon(matrices, recipe.optimizer.learning_rate, weight_decay=recipe.optimizer.weight_decay)
    return optimizers


def make_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> Mixture:
    """The recipe's tasks over one split of its corpus."""
    if recipe.pseudo_speech:
        return pseudo_mixture(recipe, model, split)
    codes = CodesStore(recipe.codes) if recipe.codes else None
    dialogues: list[Dialogue] = []
    if recipe.corpus:
        found = read_dialogues(Path(recipe.corpus) / "dialogues.jsonl", (split,))
        dialogues = [dialogue for dialogue in found if dialogue.language in recipe.languages]
    complete = [d for d in dialogues if codes is not None and all(c in codes for e in d.exchanges for c in e.clips)]
    return Mixture(
        recipe.diet,
        model.text_tokenizer,
        model.special,
        model.language_model.codebook_sizes,
        codes.__getitem__ if codes is not None else _no_codes,
        dialogues + generated_dialogues(recipe, split),
        complete,
        utterances_of(recipe, codes, dialogues, split, set(model.config.get("voices") or ())),
        read_along_of(recipe, model),
        [CodesStore(folder) for folder in recipe.codes_heard_also],
        interleave_letters(model.config),
    )


def read_along_of(recipe: LanguageModelRecipe, model: BaichuanAudio) -> ReadAlong | None:
    """By the alignments of the corpus, where the recipe wants reading along or the model speaks word by word."""
    wants = {
        "read_along": recipe.read_along,
        "sounds": recipe.sounds,
        "interleave_letters": interleave_letters(model.config),
    }
    wanted = next((name for name, wish in wants.items() if wish), None)
    if not recipe.codes or wanted is None:
        return None
    if recipe.clips is None:
        raise TrainingError(f"{wanted} takes the times of sounds from the alignments in `clips`: name that folder.")
    return ReadAlong(model.text_tokenizer, read_alignments(recipe.clips).get, model.tokenizer.frame_rate)


def _no_codes(clip: str) -> Tensor:
    raise TrainingError(f"the recipe names no codes, but a task asks for those of clip '{clip}'.")


def pseudo_mixture(recipe: LanguageModelRecipe, model: BaichuanAudio, split: str) -> Mixture:
    """The recipe's tasks over generated dialogues with stand-in codes."""
    texts = generated_dialogues(recipe, split)
    sizes = model.language_model.codebook_sizes
    dialogues = [
        with_pseudo_clips(d) for d in texts if not any(re.search("[0-9]", exchange.user) for exchange in d.exchanges)
    ]
    utterances = []
    for found in dialogues:
        for exchange in found.exchanges:
            said = [
                (exchange.user, exchange.user_clip, None),
                *((text, clip, found.voice) for text, clip in exchange.reply),
            ]
            for text, clip, voice in said:
                words = normalise_transcript(text, "en" if text.isascii() else "zh")
                if clip and words:
                    utterances.append(Utterance(clip, words, voice, "answer" if voice else "question", text.strip()))
    if recipe.clips is None:
        raise TrainingError(
            "pseudo_speech takes the lengths of sounds from the alignments in `clips`: name that folder."
        )
    speech = PseudoSpeech(sizes, read_alignments(recipe.clips).values())
    letters = interleave_letters(model.config)
    along = None
    if recipe.read_along or recipe.sounds or letters:
        along = ReadAlong(model.text_tokenizer, speech.alignment, model.tokenizer.frame_rate)
    codes = speech.__getitem__
    data = (codes, texts, dialogues, utterances, along)
    return Mixture(recipe.diet, model.text_tokenizer, model.special, sizes, *data, interleave_letters=letters)


def utterances_of(
    recipe: LanguageModelRecipe, codes: CodesStore | None, dialogues: Sequence[Dialogue], split: str, voices: set[str]
) -> list[Utterance]:
    """The transcribed clips of one split that have codes and are not too long."""
    if codes is None or not recipe.clips:
        return []
    written = {clip: text.strip() for d in dialogues for e in d.exchanges for text, clip in e.reply if clip}
    return [
        Utterance(
            clip.id,
            clip.transcript,
            clip.speaker if clip.speaker in voices else None,
            kind_of(clip),
            written.get(clip.id),
            clip.speaker if clip.source == "synthetic" else None,
        )
        for clip in ClipStore(recipe.clips).select(split=split)
        if clip.transcript and clip.id in codes and clip.language in recipe.languages
        if codes[clip.id].shape[1] <= (recipe.diet.longest or 1 << 30)
    ]


def kind_of(clip: Clip) -> str:
    """What `Diet.kinds` weighs: the source of a real clip, the kind of a synthetic one."""
    return clip.source if clip.kind == "real" else clip.kind


def generated_dialogues(recipe: LanguageModelRecipe, split: str) -> list[Dialogue]:
    """Text dialogues from the skills' generators; a twentieth as many for validation."""
    from ..data.synth import generate_dialogues, generate_sums

    dialogues = []
    for generate, wanted in ((generate_dialogues, recipe.generated), (generate_sums, recipe.sums)):
        count = wanted if split == "train" else -(-wanted // 20)
        rows = generate(recipe.seed, count, split, recipe.languages, recipe.typed_share)
        dialogues += [parse_dialogue(row) for row in rows]
    return dialogues


def validation_batches(recipe: LanguageModelRecipe, model: BaichuanAudio) -> list[Batch]:
    """Sequences of the validation split, the same in every run; none where the recipe asks for none."""
    if not recipe.validation_sequences:
        return []
    mixture = make_mixture(recipe, model, "validation")
    rng = np.random.default_rng([recipe.seed, 2])
    drawn = sorted((mixture.draw(rng) for _ in range(recipe.validation_sequences)), key=len)
    sizes = model.language_model.codebook_sizes
    return [
        collate(drawn[start : start + 16], model.special.end_of_text, model.special.audio_pad, sizes).to(recipe.device)
        for start in range(0, len(drawn), 16)
    ]


@torch.inference_mode()
def validate(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batches: Sequence[Batch],
    sound_head: SoundHead | None = None,
) -> dict[str, float]:
    """Mean of each loss over the batches, weighted by what they hold, as `validation_text` and so on."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        for name, value in losses(language_model, audio_head, batch, None, sound_head).items():
            targets = {"text": batch.text, "along": batch.along, "sounds": batch.sounds}
            count = len(targets.get(name.split("_")[0], batch.frames))
            sums[name] = sums.get(name, 0.0) + float(value) * count
            counts[name] = counts.get(name, 0) + count
    return {f"validation_{name}": sums[name] / counts[name] for name in sums}

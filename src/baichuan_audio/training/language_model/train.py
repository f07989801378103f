"""The language model's stages: text, then audio (stages 1 and 2 of the paper), then spoken dialogues.

What may learn in each stage (docs/model.md, 8) is STAGES; what a step sees is a mixture of tasks; what is learnt of
each sequence is its two masks. The loss is cross-entropy of text ids, plus that of the code frames, averaged
over the codebooks, of which the first may count more.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint import load, save
from ...data.alignment.phone_alignment import training_alignments
from ...data.mixture.batches import Batches
from ...data.store.codes_store import CodesStore
from ...errors import TrainingError
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...layers.precision import autocast
from ...model import BaichuanAudio
from ..common.checkpointing import has_state, load_module, load_training_state, save_training_state
from ..common.initialise import embed_codebooks, embed_codes_like_sounds, initialise_audio
from ..common.logging import TrainingLog, set_threads
from ..common.muon import layer_matrices, make_optimizers
from ..common.optim import freeze_except, optimizer_step
from ..flow.train import load_part
from .batch import Batch, collate, depth_loss_subset, frame_corruption, scheduled_sampling
from .data import make_mixture, validation_batches
from .phoneme_probe import PhonemeProbe
from .recipe import STAGES, LanguageModelRecipe
from .samples import LanguageModelSamples


def losses(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batch: Batch,
    chosen: Tensor | None = None,
    phoneme_probe: PhonemeProbe | None = None,
) -> dict[str, Tensor]:
    """Mean cross-entropies in nats: `text`, `along`, `sounds`, `code_0`..`code_K-1`; none where there is no target.

    chosen [Y] bool: frames whose codes 1.. count (None: all). Logits are computed only where something is learnt.
    """
    found: dict[str, Tensor] = {}
    embedded = language_model.embed(batch.ids, batch.codes)
    listening: AbstractContextManager[list[Tensor]] = nullcontext([])
    if phoneme_probe is not None:
        listening = phoneme_probe.listening(language_model)
    with listening as inner:
        hidden = language_model.hidden(embedded).flatten(0, 1)
    if phoneme_probe is not None and len(batch.sounds):
        found["sounds"] = phoneme_probe.loss(inner[0].flatten(0, 1)[batch.sounds_at], batch.sounds)
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


def total_loss(found: dict[str, Tensor], recipe: LanguageModelRecipe) -> Tensor:
    """Text loss plus the weighted mean over the codebooks, plus what reading along and the sounds give."""
    parts = [found["text"]] if "text" in found else []
    if "code_0" in found:
        first, *rest = (value for name, value in found.items() if name.startswith("code_"))
        weighted = torch.stack([recipe.codebook0_weight * first, *rest]).sum()
        parts += [recipe.audio_loss_weight * weighted / (recipe.codebook0_weight + len(rest))]
    for name, weight in (("along", recipe.read_along), ("sounds", recipe.sounds)):
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
    if recipe.reset_audio_embeddings and not has_state(output / "state"):  # a resumed run has its own
        start_audio(model, recipe)
    parts = learning_parts(model, recipe.stage)
    language_model, audio_head, phoneme_probe = model.language_model, model.audio_head, None
    learning: dict[str, nn.Module] = {"parts": parts}
    if recipe.sounds:
        learning["phoneme_probe"] = phoneme_probe = PhonemeProbe(language_model).to(recipe.device)
        if recipe.phoneme_probe is not None:
            load_module(Path(recipe.phoneme_probe) / "state", "phoneme_probe", phoneme_probe)
    parameters = [parameter for module in learning.values() for parameter in module.parameters()]
    matrices = layer_matrices(language_model) if recipe.muon else []
    optimizers = make_optimizers(parameters, matrices, recipe.optimizer)
    batches = Batches(make_mixture(recipe, model, "train").draw, recipe.positions, recipe.seed, recipe.steps)
    held_out, samples = validation_batches(recipe, model), LanguageModelSamples(recipe, model)
    pad_id, audio_pad_id = model.special.end_of_text, model.special.audio_pad
    step = load_training_state(output / "state", learning, optimizers)
    with TrainingLog(output, recipe.steps, step) as log:
        while step < recipe.steps:
            batch = collate(batches(step), pad_id, audio_pad_id, language_model.codebook_sizes)
            batch = frame_corruption(batch, recipe.frame_corruption_prob, recipe.seed, step).to(recipe.device)
            if recipe.scheduled_sampling_prob:
                with autocast(recipe.device):
                    batch = scheduled_sampling(
                        batch, language_model, audio_head, recipe.scheduled_sampling_prob, recipe.seed, step
                    )
            chosen = depth_loss_subset(len(batch.frames), recipe.audio_head_fraction, recipe.seed, step)
            with autocast(recipe.device):
                found = losses(language_model, audio_head, batch, chosen.to(recipe.device), phoneme_probe)
                loss = total_loss(found, recipe)
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
                log.scalars(step, validate(language_model, audio_head, held_out, phoneme_probe))
                samples.log(step, log)
            if step % recipe.checkpoint_every == 0 or step == recipe.steps:
                save(model, output / "model")  # before the state: a run stopped in between writes it once more
                save_training_state(output / "state", step, learning, optimizers)


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
    codes, alignments = CodesStore(recipe.codes), training_alignments(recipe.clips)
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


@torch.inference_mode()
def validate(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batches: Sequence[Batch],
    phoneme_probe: PhonemeProbe | None = None,
) -> dict[str, float]:
    """Mean of each loss over the batches, weighted by what they hold, as `validation_text` and so on."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        for name, value in losses(language_model, audio_head, batch, None, phoneme_probe).items():
            targets = {"text": batch.text, "along": batch.along, "sounds": batch.sounds}
            count = len(targets.get(name.split("_")[0], batch.frames))
            sums[name] = sums.get(name, 0.0) + float(value) * count
            counts[name] = counts.get(name, 0) + count
    return {f"validation_{name}": sums[name] / counts[name] for name in sums}

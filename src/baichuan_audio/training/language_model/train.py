"""Training of the language model: text, then audio (stages 1 and 2 of the paper), then spoken dialogues.

`recipe.TRAINABLE` says which parameters learn in each stage (docs/model.md, 8). A step's sequences are drawn from a
mixture of tasks; two masks say which positions have a loss. The loss is the cross-entropy of text ids plus that of code
frames, averaged over the codebooks, of which the first may have another weight.
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

from ...adapters import adapter_parameters, add_adapters, save_trained_adapters, train_only_adapters
from ...checkpoint import load, save
from ...data.alignment.phone_alignment import training_alignments
from ...data.mixture.batches import Batches
from ...data.store.codes_store import CodesStore
from ...errors import ConfigError, TrainingError
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...layers.precision import autocast
from ...model import BaichuanAudio
from ..common.checkpointing import has_state, load_module, load_part, load_training_state, save_training_state
from ..common.initialise import embed_codebooks, embed_codes_like_sounds, initialise_audio
from ..common.logging import TrainingLog, due
from ..common.muon import layer_matrices, make_optimizers
from ..common.optim import freeze_except, optimizer_step
from .batch import Batch, collate, depth_loss_subset, frame_corruption, scheduled_sampling
from .data import make_mixture, validation_batches
from .phoneme_probe import PhonemeProbe
from .recipe import TRAINABLE, LanguageModelRecipe
from .samples import LanguageModelSamples

ADAPTERS_FILE = "adapters.safetensors"


def losses(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batch: Batch,
    depth_subset: Tensor | None = None,
    phoneme_probe: PhonemeProbe | None = None,
) -> dict[str, Tensor]:
    """Mean cross-entropies in nats, each only where the batch has targets: `text` (and its accuracy), `alignment`,
    `phonemes`, `code_0` to `code_K-1`.

    depth_subset [Y] bool: frames with losses on codebooks 1.. (None: all). Logits are computed only at targets.
    """
    result: dict[str, Tensor] = {}
    embedded = language_model.embed(batch.ids, batch.codes)
    recording: AbstractContextManager[list[Tensor]] = nullcontext([])
    if phoneme_probe is not None:
        recording = phoneme_probe.recording(language_model)
    with recording as states:
        hidden = language_model.hidden(embedded).flatten(0, 1)
    if phoneme_probe is not None and len(batch.phonemes):
        result["phonemes"] = phoneme_probe.loss(states[0].flatten(0, 1)[batch.phonemes_at], batch.phonemes)
    if len(batch.text):
        logits = language_model.lm_head(hidden[batch.text_at])
        result["text"] = F.cross_entropy(logits.float(), batch.text)
        result["text_accuracy"] = (logits.argmax(-1) == batch.text).float().mean()
    if len(batch.aligned):
        logits = language_model.lm_head(hidden[batch.aligned_at])
        result["alignment"] = F.cross_entropy(logits.float(), batch.aligned)
    if len(batch.frames):
        result |= _code_losses(audio_head, hidden[batch.frame_at], batch.frames, depth_subset)
    return result


def _code_losses(
    audio_head: AudioHead, states: Tensor, frames: Tensor, depth_subset: Tensor | None
) -> dict[str, Tensor]:
    """`code_0`.. of states [Y, D] against frames [Y, K]; codebooks 1.. only of `depth_subset` (None: all)."""
    if depth_subset is None or bool(depth_subset.all()):
        logits = audio_head.logits(states, frames)
        first_logits, first_codes = logits[0], frames[:, 0]
    else:
        rest = audio_head.logits_at(states[~depth_subset], frames[~depth_subset, :0])
        logits = audio_head.logits(states[depth_subset], frames[depth_subset])
        first_logits = torch.cat([logits[0], rest])
        first_codes = torch.cat([frames[depth_subset, 0], frames[~depth_subset, 0]])
        frames = frames[depth_subset]
    result = {"code_0": F.cross_entropy(first_logits.float(), first_codes)}
    for level in range(1, len(logits) if len(frames) else 1):
        result[f"code_{level}"] = F.cross_entropy(logits[level].float(), frames[:, level])
    return result


def total_loss(values: dict[str, Tensor], recipe: LanguageModelRecipe) -> Tensor:
    """Text loss plus the weighted mean over the codebooks, plus the weighted auxiliary losses.

    Raises TrainingError where the batch had no target.
    """
    parts = [values["text"]] if "text" in values else []
    if "code_0" in values:
        first, *rest = (value for name, value in values.items() if name.startswith("code_"))
        weighted = torch.stack([recipe.codebook0_weight * first, *rest]).sum()
        parts += [recipe.audio_loss_weight * weighted / (recipe.codebook0_weight + len(rest))]
    auxiliary = {"alignment": recipe.alignment_loss_weight, "phonemes": recipe.phoneme_loss_weight}
    parts += [weight * values[name] for name, weight in auxiliary.items() if name in values]
    if not parts:
        raise TrainingError("a batch has no position with a loss; check the tasks and the dataset.")
    return torch.stack(parts).sum()


def train(recipe: LanguageModelRecipe) -> None:
    """Run the stage, from the newest state in `recipe.output` on.

    Raises CheckpointError, ConfigError, DataError or TrainingError where an input is missing or unfit.
    """
    recipe.prepare()
    output = Path(recipe.output)
    model = load(recipe.init_from, dtype=getattr(torch, recipe.base_dtype), device=recipe.device)
    if recipe.voices:
        model.config["voices"] = list(dict.fromkeys([*model.voices, *recipe.voices]))
    if recipe.reset_audio_embeddings and not has_state(output / "state"):  # a resumed run has them in its state
        reset_audio_embeddings(model, recipe)
    if recipe.adapter is not None:
        model = add_adapters(model, recipe.adapter, recipe.seed)
    learning = learning_modules(model, recipe)
    language_model, audio_head, phoneme_probe = model.language_model, model.audio_head, None
    if recipe.phoneme_loss_weight:
        learning["phoneme_probe"] = phoneme_probe = PhonemeProbe(language_model).to(recipe.device)
        if recipe.phoneme_probe is not None:
            load_module(Path(recipe.phoneme_probe) / "state", "phoneme_probe", phoneme_probe)
    parameters = [parameter for module in learning.values() for parameter in module.parameters()]
    matrices = layer_matrices(language_model) if recipe.muon and recipe.adapter is None else []
    optimizers = make_optimizers(parameters, matrices, recipe.optimizer)
    batches = Batches(make_mixture(recipe, model, "train").draw, recipe.tokens_per_step, recipe.seed, recipe.steps)
    validation, samples = validation_batches(recipe, model), LanguageModelSamples(recipe, model)
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
            subset = depth_loss_subset(len(batch.frames), recipe.audio_head_fraction, recipe.seed, step)
            with autocast(recipe.device):
                values = losses(language_model, audio_head, batch, subset.to(recipe.device), phoneme_probe)
                loss = total_loss(values, recipe)
            if loss.requires_grad:  # without audio there is none for an audio head that learns alone
                loss.backward()
            scalars = optimizer_step(optimizers.values(), recipe.optimizer, step, recipe.steps)
            step += 1
            log.advance()
            if due(step, recipe.log_every, recipe.steps):
                log.losses(step, {"loss": loss, **values}, scalars | {"tokens": batch.ids.numel()})
            if due(step, recipe.sample_every, recipe.steps):
                log.scalars(step, validate(language_model, audio_head, validation, phoneme_probe))
                samples.log(step, log)
            if due(step, recipe.checkpoint_every, recipe.steps):
                save_result(model, recipe)  # before the state: a run stopped in between writes it once more
                save_training_state(output / "state", step, learning, optimizers)


def reset_audio_embeddings(model: BaichuanAudio, recipe: LanguageModelRecipe) -> None:
    """Draw audio embeddings and audio head outputs anew, from codebooks or pseudo-codes where the recipe names them."""
    pseudo = copy.deepcopy(model.language_model.audio_embed_layers.state_dict())
    initialise_audio(model)
    if recipe.codebook_source is None:
        return
    load_part(model.tokenizer, "tokenizer", recipe.codebook_source)
    if not recipe.after_pseudo_speech:
        embed_codebooks(model, model.tokenizer)
        return
    if recipe.codes is None or recipe.dataset is None:
        raise ConfigError("after_pseudo_speech needs `codes` and `dataset`.")
    model.language_model.audio_embed_layers.load_state_dict(pseudo)
    codes, alignments = CodesStore(recipe.codes), training_alignments(recipe.dataset)
    explained = embed_codes_like_sounds(model, model.tokenizer, codes, alignments, recipe.seed)
    print(f"audio embeddings explain {explained:.0%} of the variance of the pseudo-codes' embeddings", file=sys.stderr)


def save_result(model: BaichuanAudio, recipe: LanguageModelRecipe) -> None:
    """Write what was trained: `model`, or of a model with adapters these alone.

    Raises CheckpointError where it cannot be written, or an adapter has learnt nothing.
    """
    if recipe.adapter is None:
        save(model, Path(recipe.output) / "model")
    else:
        save_trained_adapters(model, Path(recipe.output) / ADAPTERS_FILE)


def learning_modules(model: BaichuanAudio, recipe: LanguageModelRecipe) -> dict[str, nn.Module]:
    """What learns, by its name in the training state; of a model with adapters these alone, so the state is small."""
    if recipe.adapter is None:
        return {"parts": learning_parts(model, recipe.stage)}
    train_only_adapters(model)
    return {"adapters": nn.ParameterList(adapter_parameters(model).values())}


def learning_parts(model: BaichuanAudio, stage: str) -> nn.ModuleDict:
    """Backbone and audio head with the stage's frozen set; every other part of the model is frozen."""
    model.requires_grad_(False)
    parts = nn.ModuleDict({"language_model": model.language_model, "audio_head": model.audio_head})
    freeze_except(parts, TRAINABLE[stage])
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
    """Mean of each loss over the batches, weighted by their targets, as `validation/text` and so on."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        for name, value in losses(language_model, audio_head, batch, None, phoneme_probe).items():
            targets = {"text": batch.text, "alignment": batch.aligned, "phonemes": batch.phonemes}
            count = len(targets.get(name.split("_")[0], batch.frames))
            sums[name] = sums.get(name, 0.0) + float(value) * count
            counts[name] = counts.get(name, 0) + count
    return {f"validation/{name}": sums[name] / counts[name] for name in sums}

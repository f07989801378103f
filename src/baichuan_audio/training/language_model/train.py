"""Training of the language model: text, then audio (stages 1 and 2 of the paper), then spoken dialogues.

`recipe.TRAINABLE` says which parameters learn in each stage (docs/model.md, 8). A step's sequences are drawn from a
mixture of tasks; two masks say which positions have a loss. The loss is the cross-entropy of text ids plus that of code
frames, averaged over the codebooks, of which the first may have another weight.
"""

from __future__ import annotations

import copy
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint import load
from ...data.alignment.phone_alignment import training_alignments
from ...data.mixture.batches import Batches
from ...data.sequences import TokenSequence
from ...data.store.codes_store import CodesStore
from ...errors import ConfigError, TrainingError
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...model import BaichuanAudio
from ..common.checkpointing import has_state, load_module, load_part, save_whole
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import parallelize
from ..common.distributed.world import world
from ..common.initialise import embed_codebooks, embed_codes_like_sounds, initialise_audio
from ..common.logging import due
from ..common.muon import layer_matrices, make_optimizers
from ..common.optim import freeze_except
from .batch import Batch, collate, depth_loss_subset, frame_corruption, scheduled_sampling
from .data import make_mixture, validation_batches
from .phoneme_probe import PhonemeProbe
from .recipe import TRAINABLE, LanguageModelRecipe
from .samples import LanguageModelSamples
from .split import StepBatch, target_counts


def losses(
    language_model: LanguageModel,
    audio_head: AudioHead,
    batch: Batch,
    depth_subset: Tensor | None = None,
    phoneme_probe: PhonemeProbe | None = None,
    counts: Mapping[str, int] | None = None,
    by_row: Tensor | None = None,
) -> dict[str, Tensor]:
    """Cross-entropies in nats, each only where there are targets: `text` (and its accuracy), `alignment`, `phonemes`,
    `code_0` to `code_K-1`.

    Each is a sum over the batch's targets over `counts`, the step's targets of that kind on all processes: parts of a
    step add up to its mean. None: the batch is the step. depth_subset [Y] bool: frames with losses on codebooks 1..
    (None: all). Logits are computed only at targets; where a kind has some, but not in this batch, once for nothing,
    because processes exchange parameters at every pass. by_row [B, 2]: a row's sum of text and code_0 losses, and its
    number of targets, are added here.
    """
    subset = torch.ones(len(batch.frames), dtype=torch.bool) if depth_subset is None else depth_subset
    counts = target_counts(batch, subset) if counts is None else counts
    result: dict[str, Tensor] = {}
    embedded = language_model.embed(batch.ids, batch.codes)
    recording: AbstractContextManager[list[Tensor]] = nullcontext([])
    if phoneme_probe is not None:
        recording = phoneme_probe.recording(language_model)
    with recording as states:
        hidden = language_model.hidden(embedded).flatten(0, 1)
    if phoneme_probe is not None and counts["phonemes"]:
        logits = phoneme_probe(_at(states[0].flatten(0, 1), batch.phonemes_at)).flatten(0, 1)
        result["phonemes"] = _nll(logits, batch.phonemes.flatten()).sum() / counts["phonemes"]
    if counts["text"]:
        logits = language_model.lm_head(_at(hidden, batch.text_at))
        nll = _nll(logits, batch.text)
        result["text"] = nll.sum() / counts["text"]
        right = logits.argmax(-1)[: len(batch.text)] == batch.text
        result["text_accuracy"] = right.sum() / counts["text"]
        _add_by_row(by_row, batch.text_at // batch.ids.shape[1], nll)
    if counts["alignment"]:
        logits = language_model.lm_head(_at(hidden, batch.aligned_at))
        result["alignment"] = _nll(logits, batch.aligned).sum() / counts["alignment"]
    if counts["code_0"]:
        deep = subset.to(hidden.device)
        result |= _code_losses(audio_head, hidden, batch, deep, counts, by_row)
    return result


def _code_losses(
    audio_head: AudioHead,
    hidden: Tensor,
    batch: Batch,
    deep: Tensor,
    counts: Mapping[str, int],
    by_row: Tensor | None,
) -> dict[str, Tensor]:
    """`code_0`.. of the states at `batch.frame_at`; codebooks 1.. only of the frames `deep` [Y]."""
    at, frames = batch.frame_at[deep], batch.frames[deep]
    first_codes = torch.zeros(1, audio_head.num_codebooks, dtype=torch.long, device=hidden.device)
    logits = audio_head.logits(_at(hidden, at), frames if len(frames) else first_codes)
    levels = [_nll(logits[level], frames[:, level]) for level in range(len(logits))]
    first_nll, first_at = levels[0], at
    if counts["codes"] < counts["code_0"]:
        rest = batch.frame_at[~deep]
        logits_of_rest = audio_head.logits_at(_at(hidden, rest), first_codes.new_zeros(max(1, len(rest)), 0))
        nll = _nll(logits_of_rest, batch.frames[~deep, 0])
        first_nll, first_at = torch.cat([first_nll, nll]), torch.cat([at, rest])
    _add_by_row(by_row, first_at // batch.ids.shape[1], first_nll)
    result = {"code_0": first_nll.sum() / counts["code_0"]}
    for level in range(1, len(levels)):
        result[f"code_{level}"] = levels[level].sum() / counts["codes"]
    return result


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """states [N, D] at some positions; the first one where there are none."""
    return states[positions] if len(positions) else states[:1]


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihoods [X] of targets [X]; without targets [0], whose sum has the gradient 0 everywhere."""
    if not len(targets):
        return logits.float().sum(-1)[:0]
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _add_by_row(by_row: Tensor | None, rows: Tensor, nll: Tensor) -> None:
    if by_row is not None:
        by_row.index_add_(0, rows, torch.stack([nll.detach(), torch.ones_like(nll)], 1))


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
    model = load(recipe.init_from, dtype=torch.float32, device=recipe.device)
    if recipe.reset_audio_embeddings and not has_state(output / "state"):  # a resumed run has them in its state
        reset_audio_embeddings(model, recipe)
    parts = learning_parts(model, recipe.stage)
    language_model, audio_head, phoneme_probe = model.language_model, model.audio_head, None
    learning: dict[str, nn.Module] = {"parts": parts}
    if recipe.phoneme_loss_weight:
        learning["phoneme_probe"] = phoneme_probe = PhonemeProbe(language_model).to(recipe.device)
        if recipe.phoneme_probe is not None:
            load_module(Path(recipe.phoneme_probe) / "state", "phoneme_probe", phoneme_probe)
    trained = parallelize(learning, world(), recipe.in_bfloat16, recipe.activation_checkpointing)
    parameters = [parameter for module in learning.values() for parameter in module.parameters()]
    matrices = layer_matrices(language_model) if recipe.muon else []
    optimizers = make_optimizers(parameters, matrices, recipe.optimizer, recipe.in_bfloat16)
    draw = Batches(make_mixture(recipe, model, "train").draw, recipe.tokens_per_step, recipe.seed, recipe.steps)
    validation, samples = validation_batches(recipe, model), LanguageModelSamples(recipe, model)
    with TrainingRun(recipe, output / "state", trained, learning, optimizers, "tokens") as run:
        for step in run.steps():
            with run.loading():
                batch = step_batch(recipe, model, draw(step), step)
            values: dict[str, Tensor] = {}
            by_sample: dict[str, float] = {}
            tokens = 0
            for piece in range(recipe.gradient_accumulation):
                rows = run.world.part(range(len(batch.names)), recipe.gradient_accumulation, piece)
                part, subset = batch.rows(rows)
                by_row = torch.zeros(len(part.ids), 2, device=recipe.device)
                targets = (part.to(recipe.device), subset, phoneme_probe, batch.counts, by_row)
                with recipe.autocast():
                    found = trained(partial(losses, language_model, audio_head, *targets))
                    found["loss"] = total_loss(found, recipe)
                (found["loss"] * run.world.size).backward()  # FSDP divides the processes' sum by their number
                values = {name: value.detach() + values.get(name, 0.0) for name, value in found.items()}
                means = by_row[:, 0] / by_row[:, 1].clamp(min=1)
                by_sample |= dict(zip((batch.names[row] for row in rows), means.tolist(), strict=False))
                tokens += sum(batch.lengths[row] for row in rows)
            scalars = run.update(optimizers.values(), recipe.optimizer, step, values["loss"], list(by_sample), tokens)
            done = step + 1
            if due(done, recipe.log_every, recipe.steps):
                run.losses(done, values, scalars | {"tokens": batch.batch.ids.numel()}, by_sample)
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        run.log.scalars(done, validate(language_model, audio_head, validation, phoneme_probe))
                        samples.log(done, run.log)
            if due(done, recipe.checkpoint_every, recipe.steps):
                with run.patient():
                    save_whole(model, output / "model")  # first: a run stopped in between writes it once more
                run.save(done)


def step_batch(
    recipe: LanguageModelRecipe, model: BaichuanAudio, sequences: Sequence[TokenSequence], step: int
) -> StepBatch:
    """The batch of a step with the changes to its frames; a pure function of (seed, step), but for its own samples."""
    language_model, audio_head = model.language_model, model.audio_head
    pad_id, audio_pad_id = model.special.end_of_text, model.special.audio_pad
    batch = collate(sequences, pad_id, audio_pad_id, language_model.codebook_sizes)
    batch = frame_corruption(batch, recipe.frame_corruption_prob, recipe.seed, step)
    if share := recipe.scheduled_sampling_prob:
        if world().size > 1:
            raise ConfigError("scheduled_sampling_prob: the model samples in one process only; set it to 0.")
        with recipe.autocast():
            batch = batch.to(recipe.device)
            batch = scheduled_sampling(batch, language_model, audio_head, share, recipe.seed, step).to("cpu")
    subset = depth_loss_subset(len(batch.frames), recipe.audio_head_fraction, recipe.seed, step)
    names = [f"{step}.{row}-{zlib.crc32(each.ids.numpy().tobytes()):08x}" for row, each in enumerate(sequences)]
    return StepBatch(batch, subset, names, [len(sequence) for sequence in sequences], audio_pad_id)


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

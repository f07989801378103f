"""Training of the audio tokenizer: mel reconstruction, codebooks, and losses on the text (docs/model.md, 8)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...audio_tokenizer import AudioTokenizer
from ...audio_tokenizer.quantizer import QuantizerRecipe, dequantize, initialise, learn, quantize
from ...checkpoint import load
from ...data.alignment.phone_alignment import read_alignments
from ...data.store.manifest import ClipStore
from ...layers.lengths import valid_mask
from ...safetensors_io import read_json
from ..common.checkpointing import go_on_from, load_part
from ..common.distributed.micro_batches import backward
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import parallelize
from ..common.distributed.world import world
from ..common.logging import due
from ..common.optim import make_optimizer
from ..from_pretrained import load_encoder
from .batch import TokenizerBatch, prepare
from .clip_batches import ClipSampler
from .embedding_ctc import EmbeddingCtc, units_of
from .frozen_text_model import FrozenTextModel
from .frozen_whisper import FrozenWhisper, is_whisper
from .local_attention import BOTH_SIDES, PAST, local_attention_init
from .mel_losses import decode_rows, mel_losses
from .recipe import TokenizerRecipe
from .text_loss import PhoneticHead, frame_loss, phonetic_loss
from .validation import validate

TextModel = FrozenTextModel | FrozenWhisper


def train(recipe: TokenizerRecipe) -> None:
    """Run the stage, from its newest checkpoint if there is one.

    Raises CheckpointError, ConfigError, DataError or TrainingError where an input is missing or unfit.
    """
    recipe.prepare()
    tokenizer, head = build(recipe)
    modules: dict[str, nn.Module] = {"tokenizer": tokenizer, "phonetic_head": head}
    text_model = None
    if recipe.text_model is not None:
        kind = FrozenWhisper if is_whisper(recipe.text_model) else FrozenTextModel
        modules["text_model"] = text_model = kind(recipe.text_model, head.spread.in_features).to(recipe.device)
        go_on_from(text_model, "text_model", recipe.init_from)
    ctc = embedding_ctc(recipe, head.spread.in_features)
    if ctc is not None:
        modules["embedding_ctc"] = ctc
        go_on_from(ctc, "embedding_ctc", recipe.init_from)
    trained = parallelize(modules, world(), activation_checkpointing=recipe.activation_checkpointing)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    encoder = tokenizer.encoder.parameters()
    optimizer = make_optimizer(parameters, recipe.optimizer, encoder, recipe.encoder_lr_ratio)
    sampler = ClipSampler(ClipStore(recipe.dataset), recipe, recipe.seed)
    alignments = read_alignments(recipe.dataset) if recipe.weights.frame else None
    with TrainingRun(recipe, recipe.output, trained, modules, {"adamw": optimizer}) as run:
        for step in run.steps():
            if step == recipe.quantize_start_step and recipe.init_from is None:
                trained(partial(start_codebooks, tokenizer, sampler, recipe, step))
            tokenizer.requires_grad_(step >= recipe.head_warmup_steps)
            with run.loading():
                clips = sampler.batch(step)
                decoded = decoded_rows(recipe, step, len(clips.ids))
                whole = prepare(clips, tokenizer, recipe.augment, (recipe.seed, step), alignments, decoded)
                batches = [part.to(recipe.device) for part in whole.parts(run.world, recipe.gradient_accumulation)]

            def compute(batch: TokenizerBatch, step: int = step) -> dict[str, Tensor]:
                with recipe.autocast():
                    return trained(partial(compute_losses, tokenizer, head, batch, recipe, step, text_model, ctc))

            losses = backward(batches, compute)
            ids = [clips.ids[row] for batch in batches for row in batch.rows]
            frames = sum(int(batch.mel_lengths.sum()) for batch in batches)
            scalars = run.update([optimizer], recipe.optimizer, step, losses["loss"], ids, frames)
            done = step + 1
            if due(done, recipe.log_every, recipe.steps):
                run.losses(done, losses, scalars)
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        validate(tokenizer, head, recipe, run.log, done, text_model, ctc)
            if due(done, recipe.checkpoint_every, recipe.steps):
                run.save(done)


def build(recipe: TokenizerRecipe) -> tuple[AudioTokenizer, PhoneticHead]:
    """The tokenizer of `init_from`, or an untrained one, and an untrained phonetic head."""
    tokenizer = AudioTokenizer.from_config(read_json(Path(recipe.config)))
    head = PhoneticHead(tokenizer.config.d_model * tokenizer.config.avg_pooler, recipe.text_width)
    if recipe.init_from is None:
        initialise_for_training(tokenizer)
        if recipe.encoder is not None:
            load_encoder(tokenizer, recipe.encoder)
            nn.init.zeros_(tokenizer.bridge.down_proj.weight)  # the vectors are the encoder's features at first
    else:
        load_part(tokenizer, "tokenizer", recipe.init_from)
    return tokenizer.to(recipe.device), head.to(recipe.device)


def embedding_ctc(recipe: TokenizerRecipe, vector_width: int) -> EmbeddingCtc | None:
    """The untrained CTC head over the text embeddings of `recipe.text_embeddings`, None where that is not given."""
    if recipe.text_embeddings is None:
        return None
    model = load(recipe.text_embeddings)
    clips = ClipStore(recipe.dataset).select(split="train")
    units = units_of((clip.transcript for clip in clips), model.text_tokenizer)
    return EmbeddingCtc(model, units, vector_width).to(recipe.device)


def initialise_for_training(tokenizer: AudioTokenizer) -> None:
    """Set the weights of an untrained tokenizer so that its losses fall from the first steps on."""
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    # With PyTorch's initialisation the convolutions' output is a hundredth of the positions that are added to it.
    with torch.no_grad():
        encoder.conv1.weight.mul_(5.0)
        encoder.conv2.weight.mul_(5.0)
    local_attention_init(encoder.layers, BOTH_SIDES)
    local_attention_init(decoder.layers, PAST)
    # The mel branch starts at the level of speech; otherwise the first hundreds of steps only learn that.
    nn.init.constant_(decoder.dconv2.norm.bias, -5.5)
    nn.init.constant_(decoder.dconv2.norm.weight, 2.5)
    last = decoder.post_net.layers[-1]
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]


def quantised_share(step: int, recipe: TokenizerRecipe) -> float:
    """Share of samples whose vectors are quantised: 0 before `quantize_start_step`, then 10 % to 100 %."""
    if step < recipe.quantize_start_step:
        return 0.0
    return min(1.0, 0.1 + 0.9 * (step - recipe.quantize_start_step) / max(1, recipe.ramp_steps))


def decoded_rows(recipe: TokenizerRecipe, step: int, rows: int) -> int:
    """How many of a batch's clips, the first ones, are also decoded."""
    return max(1, round(recipe.mel_share * rows)) if step >= recipe.mel_start_step else 0


def compute_losses(
    tokenizer: AudioTokenizer,
    head: PhoneticHead,
    batch: TokenizerBatch,
    recipe: TokenizerRecipe,
    step: int,
    text_model: TextModel | None = None,
    ctc: EmbeddingCtc | None = None,
) -> dict[str, Tensor]:
    """This process's parts of all losses; `loss` is their weighted sum. Updates the codebooks once they are in use."""
    share = quantised_share(step, recipe)
    features = tokenizer.encoder(batch.log_mel, batch.mel_lengths)
    feature_lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
    vectors = tokenizer.bridge.pooled(features, feature_lengths).float()
    lengths = tokenizer.bridge.output_lengths(feature_lengths)
    losses: dict[str, Tensor] = {}
    if share > 0 and step < recipe.head_warmup_steps:  # only the head learns: codes keep their meaning
        vectors = dequantize(tokenizer.bridge.vq_list, quantize(tokenizer.bridge.vq_list, vectors))
    elif share > 0:
        vectors, losses["commitment"] = _through_codebooks(
            tokenizer, vectors, lengths, recipe.quantizer, share, (batch.rows, batch.batch_size)
        )
    if all_decoded := decoded_rows(recipe, step, batch.batch_size):
        mine = sum(row < all_decoded for row in batch.rows)
        decoded = max(1, mine)  # without any: one for nothing, the others wait
        mels = decode_rows(tokenizer, vectors[:decoded], lengths[:decoded])
        samples = batch.samples[:decoded] * min(1, mine)
        floor, l2 = recipe.weights.mel_floor, recipe.weights.mel_l2
        losses |= mel_losses(mels, batch.waveforms[:decoded], samples, tokenizer.coarse.mel, floor, l2, world())
    head_hidden = head.hidden(vectors)
    text_losses: dict[str, Tensor | None] = {}
    if recipe.weights.phonetic:
        text_losses["phonetic"] = phonetic_loss(head, head_hidden, lengths, batch.transcripts, world())
    if recipe.weights.frame:
        text_losses["frame"] = frame_loss(head, head_hidden, batch.labels, world())
    if text_model is not None:
        text_losses["text"] = text_model.loss(vectors, lengths, batch.texts, batch.languages, world())
    if ctc is not None:
        text_losses["embedding_ctc"] = ctc.loss(vectors, lengths, batch.transcripts, world())
    losses |= {name: value for name, value in text_losses.items() if value is not None}
    weights = {
        "coarse_mel": 1.0,
        "refined_mel": 1.0,
        "second_scale": recipe.weights.second_scale,
        "commitment": recipe.weights.commitment,
        "phonetic": recipe.weights.phonetic,
        "frame": recipe.weights.frame,
        "text": recipe.weights.text,
        "embedding_ctc": recipe.weights.embedding_ctc,
    }
    if world().size > 1:  # the head takes part in every process, also without a transcript
        losses["frame"] = losses.get("frame", 0.0) + 0.0 * head_hidden.sum()
    weighted = [weights[name] * value for name, value in losses.items()]
    # A batch without transcripts or alignments has no loss before `mel_start_step`.
    losses["loss"] = torch.stack(weighted).sum() if weighted else 0.0 * vectors.sum()
    return losses


def _through_codebooks(
    tokenizer: AudioTokenizer,
    vectors: Tensor,
    lengths: Tensor,
    recipe: QuantizerRecipe,
    share: float,
    step_rows: tuple[Sequence[int], int] | None = None,
) -> tuple[Tensor, Tensor]:
    """vectors [B, T, W] -> (vectors for the decoder [B, T, W], straight-through; commitment loss).

    step_rows: which rows these are of a step of how many, for all of which it is drawn; None: these are all.
    """
    rows, count = (list(range(len(vectors))), len(vectors)) if step_rows is None else (list(step_rows[0]), step_rows[1])
    levels = tokenizer.num_codebooks
    mask = valid_mask(lengths, vectors.shape[1])
    dropped = torch.rand(count, device=vectors.device) < recipe.quantizer_dropout
    kept = torch.where(dropped, torch.randint(1, max(2, levels), (count,), device=vectors.device), levels)[rows]
    flat = vectors[mask]
    row_of = torch.arange(len(rows), device=vectors.device)[:, None].expand_as(mask)[mask]
    with torch.autocast(vectors.device.type, enabled=False):
        quantised = _learn_together(
            tokenizer, flat, kept[row_of], torch.tensor(rows, device=row_of.device)[row_of], recipe
        )
    commitment = world().mean_part((flat - quantised).square().sum(), flat.numel())
    use = (torch.rand(count, device=vectors.device) < share)[rows][row_of, None]
    passed = torch.where(use, flat + (quantised - flat).detach(), flat)
    return vectors.masked_scatter(mask[..., None], passed), commitment


def _learn_together(
    tokenizer: AudioTokenizer, x: Tensor, keep: Tensor, rows: Tensor, recipe: QuantizerRecipe
) -> Tensor:
    """One training step of the codebooks on the vectors [N, W] of all processes, in the order of the step's `rows` [N]
    -> this process's vectors quantised. Vectors that are not finite teach nothing."""
    levels = tokenizer.bridge.vq_list

    def learn_all(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Sequence[Tensor]:
        vectors, keeps, numbers = (torch.cat([part[n].to(x.device) for part in parts]) for n in range(3))
        quantised, order = torch.empty_like(vectors), numbers.argsort(stable=True)
        if bool(vectors.isfinite().all()):
            quantised[order] = learn(levels, vectors[order], recipe, keeps[order])[0]
        else:
            quantised = dequantize(levels, quantize(levels, vectors))
        return quantised.split([len(part[0]) for part in parts])

    return world().together((x.detach(), keep, rows), learn_all, stand_in=x.detach())


@torch.no_grad()
def start_codebooks(tokenizer: AudioTokenizer, sampler: ClipSampler, recipe: TokenizerRecipe, step: int) -> None:
    """k-means on the vectors of the next steps' batches, enough for eight to an entry of the largest codebook."""
    num_vectors = 8 * max(tokenizer.codebook_sizes)
    vectors: list[Tensor] = []
    for later in itertools.count(step):
        batch = prepare(sampler.batch(later), tokenizer, recipe.augment, (recipe.seed, later)).to(recipe.device)
        features = tokenizer.encoder(batch.log_mel, batch.mel_lengths)
        lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
        pooled = tokenizer.bridge.pooled(features, lengths)
        vectors.append(pooled[valid_mask(tokenizer.bridge.output_lengths(lengths), pooled.shape[1])].float())
        if sum(len(v) for v in vectors) >= num_vectors:
            break
    initialise(tokenizer.bridge.vq_list, torch.cat(vectors))

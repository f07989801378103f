"""Training of the language model: text, then audio (stages 1 and 2 of the paper), then spoken dialogues.

`recipe.TRAINABLE` says which parameters learn in each stage (docs/model.md, 8). A step's sequences are drawn from a
mixture of tasks, and from shards; two masks say which positions have a loss (`losses.py`).
"""

from __future__ import annotations

import fnmatch
import sys
import zlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...adapters import (
    adapter_parameters,
    add_adapters,
    base_fingerprint,
    load_adapters,
    remove_adapters,
    train_only_adapters,
)
from ...adapters.files import write_adapters
from ...adapters.layers import WeightChange, refuse_zero
from ...adapters.model import adapted_layers
from ...checkpoint import load
from ...errors import ConfigError
from ...model import BaichuanAudio
from ..common.checkpointing import has_state, load_part, save_whole
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import parallelize, whole
from ..common.distributed.world import world
from ..common.initialise import embed_codebooks, initialise_audio
from ..common.logging import due
from ..common.muon import layer_matrices, make_optimizers
from ..common.optim import freeze_except
from ..tokenizer.embedding_ctc import embed_codebooks_as_text, trained_embedding_ctc
from .batch import Batch
from .losses import LossMeter, losses, target_counts, total_loss
from .recipe import TRAINABLE, LanguageModelRecipe
from .samples import LanguageModelSamples
from .steps import TrainingData
from .validation import Validation

ADAPTERS_FILE = "adapters.safetensors"
_FITTED_FRAMES = 20_000
_NOT_APPLIED = ("linear1.bias", "linear2.bias")  # stored in the released layout


def train(recipe: LanguageModelRecipe) -> None:
    """Run the stage, from the newest state in `recipe.output` on.

    Raises CheckpointError, ConfigError, DataError or TrainingError where an input is missing or unfit.
    """
    recipe.prepare()
    output = Path(recipe.output)
    model = load(recipe.init_from, dtype=getattr(torch, recipe.base_dtype), device=recipe.device)
    if recipe.voices:
        model.config["voices"] = list(dict.fromkeys([*model.voices, *recipe.voices]))
    data = TrainingData(recipe, model)
    if recipe.reset_audio_embeddings and not has_state(output / "state"):  # a resumed run has them in its state
        reset_audio_embeddings(model, recipe, data)
    base = ""
    if recipe.adapter is not None:
        if recipe.adapter_from is None:
            model = add_adapters(model, recipe.adapter, recipe.seed)
        else:
            model = load_adapters(model, recipe.adapter_from)
        base = base_fingerprint(model)
    learning = learning_modules(model, recipe)
    language_model, audio_head = model.language_model, model.audio_head
    used = {**learning}
    if used.pop("adapters", None) is not None:  # they and `also` are parameters of these
        used.pop("also", None)
        used["base"] = language_model_parts(model)
    trained = parallelize(used, world(), recipe.in_bfloat16, recipe.activation_checkpointing)
    if recipe.adapter is not None:
        learning |= learning_modules(model, recipe)  # parameters that are split over the processes are new ones
    parameters = [parameter for module in learning.values() for parameter in module.parameters()]
    matrices = layer_matrices(language_model) if recipe.muon and recipe.adapter is None else []
    optimizers = make_optimizers(parameters, matrices, recipe.optimizer, recipe.in_bfloat16)
    validation = Validation(recipe, model)
    samples = LanguageModelSamples(recipe, model)
    num_codebooks = len(language_model.codebook_sizes)
    with TrainingRun(recipe, output / "state", trained, learning, optimizers, "tokens") as run:
        for step in run.steps():
            with run.loading():
                batches, meter = data.batches(step, run.world.data_rank, run.world.data_size), LossMeter()
            counts = run.total(target_counts(batches))
            total = torch.zeros((), device=recipe.device)
            for batch in batches:
                batch = batch.to(recipe.device)
                with run.computing(batch.ids.numel()):
                    with recipe.autocast():
                        values = trained(partial(losses, language_model, audio_head, batch))
                        loss = total_loss(values, counts, recipe, num_codebooks)
                    if loss.requires_grad or run.world.size > 1:  # without audio an audio head alone has no gradient
                        (loss * run.world.data_size).backward()  # FSDP divides the processes' sum by their number
                total += loss.detach()
                meter.add(values, batch)
            if not step and (recipe.text_guard or recipe.asr_guard):  # not sooner: the first pass sets up the sharding
                with run.on_main() as here:
                    if here:
                        run.log.scalars(0, validation.guards())  # what later ones are compared with
            tokens, ids = sum(batch.ids.numel() for batch in batches), sample_ids(batches, step)
            scalars = run.update(optimizers.values(), recipe.optimizer, step, total, ids, tokens)
            done = step + 1
            if due(done, recipe.log_every, recipe.steps):
                scalars |= meter.means(run.world.gather)
                if recipe.packed:
                    scalars["pack_efficiency"] = data.pack_efficiency(step)
                run.losses(done, {"loss": total, "tokens": torch.tensor(tokens)}, scalars, meter.by_sample())
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        run.log.scalars(done, validation.measure())
                        samples.log(done, run.log)
            if due(done, recipe.checkpoint_every, recipe.steps):
                with run.patient():
                    save_result(model, recipe, base)  # first: a run stopped in between writes it once more
                run.save(done)


def sample_ids(batches: Sequence[Batch], step: int) -> list[str]:
    """The ids of all sequences; one without an id is named by the step and its content."""
    return [
        name or f"step {step}: {zlib.crc32(batch.ids[0 if batch.lengths else row].numpy(force=True).tobytes()):08x}"
        for batch in batches
        for row, (name, _) in enumerate(batch.names)
    ]


def reset_audio_embeddings(model: BaichuanAudio, recipe: LanguageModelRecipe, data: TrainingData) -> None:
    """Draw audio embeddings and audio head outputs anew, the former from the codebooks that the recipe names."""
    initialise_audio(model)
    if recipe.codebook_source is None:
        return
    load_part(model.tokenizer, "tokenizer", recipe.codebook_source)
    if not recipe.embeddings_as_text:
        embed_codebooks(model, model.tokenizer)
        return
    ctc, codes = trained_embedding_ctc(recipe.codebook_source, model), list[Tensor]()
    for step in range(recipe.steps):
        codes += [batch.codes for batch in data.batches(step)]
        if sum(part.shape[1] for part in codes) >= _FITTED_FRAMES:
            break
    explained = embed_codebooks_as_text(model, ctc, torch.cat(codes, 1))
    print(f"audio embeddings explain {explained:.0%} of the variance of the spoken text's embeddings", file=sys.stderr)


def save_result(model: BaichuanAudio, recipe: LanguageModelRecipe, base: str) -> None:
    """Write what was trained: `model`, or of a model with adapters these, with the fingerprint of their base, and a
    model with what learnt beside them.

    Raises CheckpointError where it cannot be written, or an adapter has learnt nothing.
    """
    if recipe.adapter is None:
        save_whole(model, Path(recipe.output) / "model")
        return
    file, changes = Path(recipe.output) / ADAPTERS_FILE, dict[str, WeightChange]()
    for name, layer in adapted_layers(model).items():
        magnitude = None if layer.magnitude is None else whole(layer.magnitude.detach())
        changes[name] = WeightChange(whole(layer.lora_A.detach()), whole(layer.lora_B.detach()), magnitude)
    refuse_zero(changes, str(file))
    if world().is_main:
        write_adapters(file, recipe.adapter, changes, base)
    if recipe.also_learn:
        save_whole(remove_adapters(model), Path(recipe.output) / "model")


def learning_modules(model: BaichuanAudio, recipe: LanguageModelRecipe) -> dict[str, nn.Module]:
    """What learns, by its name in the training state; of a model with adapters these alone, so the state is small."""
    if recipe.adapter is None:
        return {"parts": learning_parts(model, recipe.stage)}
    train_only_adapters(model)
    adapters = adapter_parameters(model)
    learning: dict[str, nn.Module] = {"adapters": nn.ParameterList(adapters.values())}
    if recipe.also_learn:
        learning["also"] = nn.ParameterList(_also_learning(model, recipe.also_learn, adapters))
    return learning


def _also_learning(model: BaichuanAudio, patterns: Sequence[str], adapters: Collection[str]) -> list[nn.Parameter]:
    """The parameters that learn beside the adapters, in float32: small updates are lost in bfloat16.

    Raises ConfigError for a pattern that none matches.
    """
    names = {name: parameter for name, parameter in model.named_parameters() if name not in adapters}
    chosen: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ConfigError(
                f"also_learn: no parameter matches '{pattern}'; they are called like {next(iter(names))}."
            )
        chosen |= {name: names[name] for name in matched if not name.endswith(_NOT_APPLIED)}
    for parameter in chosen.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return list(chosen.values())


def language_model_parts(model: BaichuanAudio) -> nn.ModuleDict:
    """Backbone and audio head."""
    return nn.ModuleDict({"language_model": model.language_model, "audio_head": model.audio_head})


def learning_parts(model: BaichuanAudio, stage: str) -> nn.ModuleDict:
    """Backbone and audio head with the stage's frozen set; every other part of the model is frozen."""
    model.requires_grad_(False)
    parts = language_model_parts(model)
    freeze_except(parts, TRAINABLE[stage])
    for name, parameter in parts.named_parameters():
        if name.endswith(_NOT_APPLIED):
            parameter.requires_grad_(False)
    return parts

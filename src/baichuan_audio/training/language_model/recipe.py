"""The recipe of the stages `lm` and `sft`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...adapters import AdapterConfig
from ...config import nearest
from ...data.mixture.config import MixtureConfig, ShardSet
from ...data.store.manifest import CLIPS_FILE
from ...errors import ConfigError
from ..common.recipe import OptimizerRecipe, StageRecipe

TRAINABLE = {
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
"""Parameters that learn in each stage; all others are frozen. `text` trains a small text model from nothing."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(StageRecipe):
    """Recipe of one stage of the language model."""

    stage: str
    """One of `TRAINABLE`."""
    init_from: str
    """Checkpoint directory to start from; the result is written to `output`/model."""
    adapter: AdapterConfig | None = None
    """LoRA or DoRA: only adapters learn, and the result is `output`/adapters.safetensors. `stage` then says which data
    the model sees, and `init_from` is the base that the file belongs to."""
    adapter_from: str | None = None
    """File of adapters that `adapter` goes on with; None: fresh ones."""
    also_learn: tuple[str, ...] = ()
    """Shell-style patterns of parameters that learn themselves beside the `adapter`, e.g. `audio_head.*`; the result is
    then `output`/model as well, which has them and the unchanged base of the adapters."""
    base_dtype: str = "float32"
    """Type of the weights under an `adapter`: bfloat16 halves the memory; the adapters are float32 in any case."""
    mixture: MixtureConfig | None = None
    """Tasks over dialogues and clips; None where all data are shards."""
    dialogues: tuple[str, ...] = ()
    """Dialogue files (docs/training.md), with clips or as text only."""
    dataset: str | tuple[ShardSet, ...] | None = None
    """Folder of the clip store; or a list of folders of shards with codes (`data tokenize`), each a `path` with
    `hours`, `weight` and `kinds`, and of one clip store at most."""
    mixture_share: float = 0.5
    """Share of a step's positions drawn from `mixture` where `dataset` names shards too."""
    codes: str | None = None
    """Folder with the clips' codes."""
    reset_audio_embeddings: bool = False
    """Draw audio embeddings and the audio head's outputs anew, for the codes of another tokenizer."""
    codebook_source: str | None = None
    """Checkpoint directory or training output of the audio tokenizer that made the codes: new audio embeddings are
    initialised from its codebooks; None: at random."""
    embeddings_as_text: bool = False
    """New audio embeddings look to the language model like the text being spoken; `codebook_source` must then be the
    output of a tokenizer stage with `text_embeddings`."""
    voices: tuple[str, ...] = ()
    """Speakers of the `dataset` that become voices of the model, under their names."""
    languages: tuple[str, ...] = ("en", "zh")
    tokens_per_step: int = 4096
    """Positions of a step, padding not counted."""
    packing: bool = False
    """Put a step's sequences one after the other into `packs_per_step` rows without padding, each attending to itself
    alone; always so where `dataset` names shards. The order of data is then another one than without."""
    packs_per_step: int = 1
    """Rows that a packed step is cut into; each is one forward and backward pass. Processes share them."""
    max_sequence_length: int = 8192
    """Longest sequence read from shards, in positions: a longer sample is split where its kind allows it, or left out
    and named in `output`/left_out.txt."""
    audio_head_fraction: float = 1.0
    """Share of frames with losses on codebooks 1.., drawn in every step; codebook 0 always has one."""
    audio_loss_weight: float = 1.0
    codebook0_weight: float = 1.0
    """Weight of codebook 0 relative to each of the others: it carries most of the phonetic content."""
    validation_sequences: int = 64
    """Held-out sequences that losses and accuracies are measured on, of the shards and of the mixture so many each."""
    text_guard: str | None = None
    """Dialogue file whose replies measure at every validation what is left of the text ability (`guard/text`)."""
    asr_guard: str | None = None
    """Manifest of recordings with transcripts that are transcribed at every validation (`guard/asr_error`)."""
    read_back: tuple[str, ...] = ("pocketsphinx",)
    """Recognisers that read the audio samples back (`data/pipeline/backends/asr.py`, e.g. `whisper:base`); the first
    that is installed and writes the language is used."""
    preview_decoder: str | None = None
    """Checkpoint directory whose audio decoder, flow decoder and vocoder make the audio samples; None: the model's own.
    While it does not exist yet (it may be training meanwhile), samples are text only."""
    tensor_parallel: int = 1
    """How many processes of a host compute the backbone's layers together, each some of the heads and of the
    feed-forward width, on the same samples; the number of key and value heads must be a multiple."""
    muon: bool = True
    """Train the backbone's matrices by Muon; everything else always uses AdamW."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in TRAINABLE:
            raise ConfigError(f"stage: there is no stage '{self.stage}'; {nearest(self.stage, tuple(TRAINABLE))}")
        if not 0 < self.audio_head_fraction <= 1:
            raise ConfigError("audio_head_fraction must lie in (0, 1].")
        if self.packs_per_step < 1 or self.max_sequence_length < 1:
            raise ConfigError("packs_per_step and max_sequence_length must be at least 1.")
        if not 0 < self.mixture_share < 1:
            raise ConfigError(
                "mixture_share must lie between 0 and 1; for one kind of data alone, leave out the other."
            )
        if self.mixture is None and not self.shards:
            raise ConfigError("there is nothing to train on: name tasks under `mixture`, or shards under `dataset`.")
        if len([entry for entry in self._entries if _is_clip_store(entry)]) > 1:
            raise ConfigError("dataset: more than one folder is a clip store; join them.")
        if self.base_dtype not in ("float32", "bfloat16") or (self.adapter is None and self.base_dtype != "float32"):
            raise ConfigError("base_dtype must be float32, or with an `adapter` bfloat16.")
        if self.tensor_parallel < 1 or (self.tensor_parallel > 1 and self.adapter is not None):
            raise ConfigError("tensor_parallel must be at least 1, and 1 with an `adapter`.")
        if self.adapter is None and (self.also_learn or self.adapter_from):
            raise ConfigError("also_learn and adapter_from go with an `adapter`; name its rank, or leave them out.")
        if self.embeddings_as_text and not (self.reset_audio_embeddings and self.codebook_source):
            raise ConfigError("embeddings_as_text goes with reset_audio_embeddings and a `codebook_source`.")
        if self.adapter is not None and self.reset_audio_embeddings:
            raise ConfigError("reset_audio_embeddings trains what the base has; it and `adapter` exclude each other.")

    @property
    def _entries(self) -> tuple[ShardSet, ...]:
        return self.dataset if isinstance(self.dataset, tuple) else ()

    @property
    def shards(self) -> tuple[ShardSet, ...]:
        """The folders of shards in `dataset`."""
        return tuple(entry for entry in self._entries if not _is_clip_store(entry))

    @property
    def clip_store(self) -> str | None:
        """The folder of the clip store in `dataset`."""
        if not isinstance(self.dataset, tuple):
            return self.dataset
        return next((entry.path for entry in self._entries if _is_clip_store(entry)), None)

    @property
    def packed(self) -> bool:
        """Whether steps are packed."""
        return self.packing or bool(self.shards)


def _is_clip_store(entry: ShardSet) -> bool:
    return (Path(entry.path) / CLIPS_FILE).is_file()

"""The recipe of the stage `tokenizer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...audio_tokenizer.quantizer import QuantizerRecipe
from ...errors import ConfigError
from ..common.recipe import AudioRecipe, OptimizerRecipe


@dataclass(frozen=True)
class AugmentRecipe:
    """Augmentation of the encoder's input; the target mel changes with the speed only."""

    speed_range: tuple[float, ...] = (0.88, 1.14)
    noise_share: float = 0.3
    noise_db_range: tuple[float, ...] = (-60.0, -32.0)
    gain_db_range: tuple[float, ...] = (-8.0, 6.0)
    tilt_db: float = 0.0
    """Largest spectral tilt, from one end of the spectrum to the middle."""
    masked_bands: int = 0
    """Largest number of adjacent mel bands masked, in half of the clips (SpecAugment, arXiv 1904.08779)."""
    warp: float = 0.0
    """Largest frequency warp of clips that are not decoded (VTLP: Jaitly and Hinton 2013)."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the sum."""

    mel_l2: float = 0.5
    second_scale: float = 0.3
    commitment: float = 0.25
    phonetic: float = 0.3
    frame: float = 0.0
    """Cross-entropy of the phoneme at each position, of clips with an alignment (`baichuan-audio data align`)."""
    text: float = 0.3
    embedding_ctc: float = 1.0
    mel_floor: float = 1e-5
    """Floor of the target mel's magnitude. Digital silence and the empty upper band of telephone recordings lie at
    1e-5; with the floor there, differences between kinds of silence dominate the loss."""

    def __post_init__(self) -> None:
        if self.mel_floor <= 0:
            raise ConfigError("weights: mel_floor must be positive.")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(AudioRecipe):
    """Recipe of the stage `tokenizer`."""

    config: str
    """The model's `config.json`."""
    batch_seconds: float = 32.0
    crop_seconds: float = 8.0
    """Longer clips are cropped to this length (their transcript is then not used)."""
    min_seconds: float = 0.3
    """Shorter clips are not used."""
    init_from: str | None = None
    """Training output or checkpoint directory whose tokenizer is trained further, codebooks included, and of an output
    the heads of the text losses; None: random."""
    encoder: str | None = None
    """Whisper model (a folder of either published layout) whose encoder an untrained tokenizer starts with; its
    codebooks start by k-means on that encoder's features."""
    head_warmup_steps: int = 0
    """Steps in which only the phonetic head learns, to read the tokenizer of `init_from`: gradients of an untrained
    head would undo what that has learnt."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    quantizer: QuantizerRecipe = field(default_factory=QuantizerRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    weights: LossWeights = field(default_factory=LossWeights)
    quantize_start_step: int = 300
    """Step at which the codebooks are initialised by k-means; until then vectors pass unquantised."""
    ramp_steps: int = 500
    """Steps in which the share of samples that pass through the codebooks rises from 10 % to 100 %."""
    mel_start_step: int = 0
    """First step of the mel losses and of the audio decoder; steps without them cost half."""
    mel_share: float = 1.0
    """Share of each batch's clips that are also decoded."""
    text_width: int = 192
    text_model: str | None = None
    """Checkpoint whose frozen language model gives the paper's text loss, or a Whisper model, whose text decoder does;
    None: without that loss."""
    text_embeddings: str | None = None
    """Checkpoint with the language model that will read the codes: a CTC loss over its text embeddings."""
    encoder_lr_ratio: float = 1.0
    """Learning rate of the encoder as a share of the others': low where it is pretrained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder is not None and self.init_from is not None:
            raise ConfigError("encoder and init_from both say where the encoder comes from; name one of them.")

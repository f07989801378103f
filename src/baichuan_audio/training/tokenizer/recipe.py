"""What a recipe of the stage `tokenizer` may say."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...audio_tokenizer.quantizer import QuantizerRecipe
from ...errors import ConfigError
from ..common.clip_batches import ClipRecipe
from ..common.recipe import OptimizerRecipe, StageRecipe


@dataclass(frozen=True)
class AugmentRecipe:
    """What the encoder hears is disturbed; the mel it must give back is not (but for the speed)."""

    speed_range: tuple[float, ...] = (0.88, 1.14)
    noise_share: float = 0.3
    noise_db_range: tuple[float, ...] = (-60.0, -32.0)
    gain_db_range: tuple[float, ...] = (-8.0, 6.0)
    tilt_db: float = 0.0
    """Most that the spectrum is lifted at one end and lowered at the other; voices and microphones differ so."""
    masked_bands: int = 0
    """Most neighbouring mel bands that are hidden in half of the clips (SpecAugment, arXiv 1904.08779)."""
    warp: float = 0.0
    """Most by which the frequencies of clips that are not decoded are stretched, as by a longer or shorter vocal tract
    at the same pitch (VTLP: Jaitly and Hinton 2013)."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the sum."""

    mel_l2: float = 0.5
    second_scale: float = 0.3
    commitment: float = 0.25
    phonetic: float = 0.3
    frame: float = 0.0
    """Which sound each position holds, for the clips that have an alignment (`baichuan-audio data align`)."""
    text: float = 0.3
    mel_floor: float = 1e-5
    """Magnitude below which the target mel counts as this. Digital silence and the empty upper band of telephone-like
    recordings lie at 1e-5; with the floor there, telling one silence from another leads the loss."""

    def __post_init__(self) -> None:
        if self.mel_floor <= 0:
            raise ConfigError("weights: mel_floor must be positive.")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(StageRecipe):
    """Recipe of the stage `tokenizer`."""

    config: str
    """The model's `config.json`."""
    clips: ClipRecipe
    initial: str | None = None
    """Checkpoint whose tokenizer goes on, codebooks and all, so that its codes keep their meaning; None: anew."""
    head_warmup_steps: int = 0
    """Steps in which the phonetic head alone learns to read an `initial` tokenizer: what a head that knows nothing asks
    for would undo what is known."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    quantizer: QuantizerRecipe = field(default_factory=QuantizerRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    weights: LossWeights = field(default_factory=LossWeights)
    quantize_start_step: int = 300
    """Steps before the codebooks are started by k-means; until then vectors pass unquantised."""
    ramp_steps: int = 500
    """Steps in which the share of samples that pass through the codebooks rises from 10 % to 100 %."""
    phonetic_start_step: int = 0
    """First step of the CTC loss. Before anything is heard it only teaches to say nothing, and holds `frame` up."""
    mel_start_step: int = 0
    """First step of the mel losses (and of the audio decoder): hearing comes first, and alone costs half."""
    mel_share: float = 1.0
    """Share of each batch's clips that are also decoded."""
    text_width: int = 192
    text_model: str | None = None
    """Checkpoint whose language model gives the paper's text loss, frozen; None leaves that loss out."""

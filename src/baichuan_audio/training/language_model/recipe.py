"""One stage of the language model, as its recipe describes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...data.mixture.config import MixtureConfig
from ...errors import TrainingError
from ..common.recipe import OptimizerRecipe, StageRecipe

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
    mixture: MixtureConfig
    dialogues: tuple[str, ...] = ()
    """Dialogue files (docs/training.md), with clips or as text alone."""
    clips: str | None = None
    """Folder with `clips.jsonl`."""
    codes: str | None = None
    """Folder with the clips' codes."""
    additional_codes: tuple[str, ...] = ()
    """Folders with codes of clips that are heard, made at other speeds (`baichuan-audio data encode --speed`)."""
    takes: str | None = None
    """Folder with what the model read aloud itself (`baichuan-audio data rejection-sample`)."""
    pseudo_speech: bool = False
    """Whether the dialogues get stand-in codes, to learn hearing and speaking before there are true ones."""
    reset_audio_embeddings: bool = False
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
    codebook0_weight: float = 1.0
    """How much code 0 counts against each of the others: it says most of which sound it is."""
    read_along: float = 0.0
    """Weight of naming, at every code frame, the text token that is being said (`data/alignment/token_alignment.py`);
    needs `clips` with alignments. Where a voice has come to in its text is then learnt in hundreds of steps instead
    of thousands."""
    sounds: float = 0.0
    """Weight of naming, from the middle of the backbone, the sounds of every code frame that is heard or about to be
    said (`phoneme_probe.py`); needs `clips` with alignments. A clip is then heard, and not only recognised."""
    phoneme_probe: str | None = None
    """Output of an earlier run whose sound head goes on; None: one that knows nothing yet."""
    frame_corruption_prob: float = 0.0
    """Share of the frames of its own speech that the model sees replaced by others while it learns what comes next.
    What it says in earnest is never quite what it was taught with; so it learns to go by the text."""
    scheduled_sampling_prob: float = 0.0
    """Share of the frames of its own speech that it sees as it would have said them; costs a pass without gradients."""
    validation_sequences: int = 64
    speaker: str | None = None
    """Folder of a checkpoint whose audio decoder, flow decoder and vocoder make the sound of samples; None: the model's
    own. Until it is there, samples are in writing: what makes sound may be learning beside."""
    muon: bool = True
    """Whether the backbone's matrices learn by Muon; everything else always learns by AdamW."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in STAGES:
            raise TrainingError(f"stage must be one of {', '.join(STAGES)}, not '{self.stage}'.")
        if not 0 < self.audio_head_fraction <= 1:
            raise TrainingError("audio_head_fraction must lie in (0, 1].")

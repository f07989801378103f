"""The RVQ bridge: four 50 Hz features become one vector, quantised by K codebooks (docs/model.md, 3.4, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.lengths import valid_mask
from .config import AudioConfig
from .quantizer import VectorQuantizer, dequantize, quantize


class AudioBridge(nn.Module):
    """Gated down-sampling by `avg_pooler`, residual quantisation, projection back to the model width."""

    def __init__(self, config: AudioConfig, codebook_sizes: Sequence[int]) -> None:
        super().__init__()
        self.pool = config.avg_pooler
        width = config.d_model * self.pool
        self.gate_proj = nn.Conv1d(config.d_model, width, self.pool, stride=self.pool, bias=False)
        self.up_proj = nn.Conv1d(config.d_model, width, self.pool, stride=self.pool, bias=False)
        self.down_proj = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width)
        self.proj_decoder = nn.Linear(width, config.d_model)
        self.vq_list = nn.ModuleList(VectorQuantizer(size, width) for size in codebook_sizes)

    def output_lengths(self, feature_lengths: Tensor) -> Tensor:
        """Number of code frames for numbers of 50 Hz features, [B] -> [B]."""
        return feature_lengths // self.pool

    def pooled(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """features [B, L, D], valid features [B] (None: all) -> vectors to quantise [B, L // pool, pool * D]."""
        if lengths is not None:
            features = features * valid_mask(lengths, features.shape[1])[..., None]
        frames = features.shape[1] // self.pool
        # An incomplete last group is not computed, because its result would be dropped.
        features = features[:, : frames * self.pool]
        concatenated = features.reshape(features.shape[0], frames, -1)
        channels_first = features.transpose(1, 2)
        gated = F.silu(self.gate_proj(channels_first)) * self.up_proj(channels_first)
        return self.layer_norm(self.down_proj(gated.transpose(1, 2)) + concatenated)

    def quantize(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """features [B, L, D] -> codes [B, K, T]; T = L // pool, positions beyond a row's length are arbitrary."""
        return quantize(self.vq_list, self.pooled(features, lengths)).transpose(1, 2)

    def dequantize(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> embeddings [B, T, D] for the audio decoder."""
        return self.project(dequantize(self.vq_list, codes.transpose(1, 2)))

    def project(self, vectors: Tensor) -> Tensor:
        """Quantised (or, in training, continuous) vectors [B, T, pool * D] -> embeddings [B, T, D]."""
        return self.proj_decoder(vectors.to(self.proj_decoder.weight.dtype))

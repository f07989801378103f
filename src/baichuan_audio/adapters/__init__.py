"""LoRA and DoRA adapters of the backbone and the audio head: add, train, save, load, merge.

    model = baichuan_audio.load(path, dtype=torch.float32)
    adapted = add_adapters(model, AdapterConfig(rank=16, alpha=32))
    optimizer = torch.optim.AdamW(train_only_adapters(adapted).values(), lr=1e-4)
    ...
    save_adapters(adapted, "adapters.safetensors")
    baichuan_audio.save(merge_adapters(adapted), "merged")  # the released layout

`baichuan_audio.load(path, adapters="adapters.safetensors")` merges them while it loads.
"""

from .files import load_adapters, merged_with, read_adapters, save_adapters
from .layers import AdapterConfig
from .model import (
    adaptable_layers,
    adapter_parameters,
    add_adapters,
    base_fingerprint,
    has_adapters,
    merge_adapters,
    remove_adapters,
    train_only_adapters,
)

__all__ = [
    "AdapterConfig",
    "adaptable_layers",
    "adapter_parameters",
    "add_adapters",
    "base_fingerprint",
    "has_adapters",
    "load_adapters",
    "merge_adapters",
    "merged_with",
    "read_adapters",
    "remove_adapters",
    "save_adapters",
    "train_only_adapters",
]

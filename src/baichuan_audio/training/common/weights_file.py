"""What a training run has learnt in one small file, for the stages that come after it (`checkpoint export`).

A safetensors file. Parts of the model have their released names, other modules `<module>.<name>`. Large matrices have
8 bits, codebooks 16: codes are those of this file, not of the state that it was written from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...checkpoint import module_name, released_name, with_sums_of_entries
from ...compressed import COMPUTED, KEPT, in_8_bits
from ...data.store.atomic import written_aside
from ...errors import CheckpointError
from ...safetensors_io import read_header, with_scales, write_tensors

_OF_TRAINING = "embedding_ctc"
"""The module of these that is no part of the model."""
MODULES = ("tokenizer", "flow", _OF_TRAINING)
"""What a file may hold: the modules that later stages read."""
_ENTRIES = ".codebook.embed"


def write_weights_file(modules: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Write the weights of `modules` (of `MODULES`). Raises CheckpointError where the file cannot be written."""
    tensors: dict[str, Tensor] = {}
    for module, weights in modules.items():
        for name, tensor in weights.items():
            whole = f"{module}.{name}"
            stored = whole if module == _OF_TRAINING else released_name(whole)
            if name.endswith(_ENTRIES):
                tensors[stored] = tensor.half()
            elif any(part in name for part in KEPT):
                tensors |= {} if name.endswith(COMPUTED) else {stored: tensor}
            else:
                tensors |= in_8_bits({stored: tensor})
    try:
        with written_aside(file) as aside:
            write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, {"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written ({error.strerror or error}).") from error


def read_weights_file(file: Path, module: str) -> dict[str, Tensor]:
    """One module's weights; none where the file has no such module. Raises CheckpointError for a damaged file."""
    prefix, weights = f"{module}.", dict[str, Tensor]()
    for stored, tensor in with_sums_of_entries(with_scales(read_header(file))).items():
        name = module_name(stored) or stored
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = tensor.read()
    return weights

"""Training states that are missing, damaged, or another model's: one sentence each; a full disk loses nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from baichuan_audio.errors import TrainingError
from baichuan_audio.training.common import checkpointing
from baichuan_audio.training.common.checkpointing import (
    has_state,
    load_module,
    load_training_state,
    module_weights,
    save_training_state,
)


def test_the_two_newest_states_are_kept_and_the_newest_goes_on(tmp_path: Path) -> None:
    module = nn.Linear(2, 1)
    for step in (1, 2, 10):
        nn.init.constant_(module.weight, step)
        save_training_state(tmp_path, step, {"m": module}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002.pt", "state-00000010.pt"]
    again = nn.Linear(2, 1)
    assert load_training_state(tmp_path, {"m": again}, {}) == 10
    assert torch.equal(again.weight, module.weight) and again.weight.tolist() == [[10, 10]]


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "list", "nothing", "other module", "other size"])
def test_what_cannot_be_resumed_is_one_sentence(tmp_path: Path, damage: str) -> None:
    module = nn.Linear(2, 1)
    path = save_training_state(tmp_path, 3, {"other" if damage == "other module" else "m": module}, {})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"modules": Path("elsewhere")}))  # asks for a class that weights have no use for
    elif damage == "list":
        torch.save([1], path)
    elif damage == "nothing":
        save_training_state(tmp_path, 4, {}, {})
    fitting = nn.Linear(3 if damage == "other size" else 2, 1)
    with pytest.raises(TrainingError, match=r"cannot be resumed \((?!Error)|not a training state|another stage"):
        load_training_state(tmp_path, {"m": fitting}, {})
    with pytest.raises(TrainingError, match=r"does not fit \(size mismatch|not a training state|another stage"):
        load_module(tmp_path, "m", fitting)


def test_a_folder_without_states(tmp_path: Path) -> None:
    assert not has_state(tmp_path) and load_training_state(tmp_path, {}, {}) == 0
    with pytest.raises(TrainingError, match="train that stage first"):
        module_weights(tmp_path, "m")


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save_training_state(tmp_path, 1, {}, {})

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointing.torch, "save", full)  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="No space left"):
        save_training_state(tmp_path, 2, {}, {})
    assert list(tmp_path.iterdir()) == [before]

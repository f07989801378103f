"""Training states that are missing, damaged, or another model's: one sentence each; a full disk loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from baichuan_audio.errors import TrainingError
from baichuan_audio.training.common.checkpointing import (
    has_state,
    load_module,
    load_training_state,
    module_weights,
    save_training_state,
)
from baichuan_audio.training.common.distributed import state_files


def test_the_two_newest_states_are_kept_and_the_newest_goes_on(tmp_path: Path) -> None:
    module = nn.Linear(2, 1)
    for step in (1, 2, 10):
        nn.init.constant_(module.weight, step)
        save_training_state(tmp_path, step, {"m": module}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002", "state-00000010"]
    again = nn.Linear(2, 1)
    assert load_training_state(tmp_path, {"m": again}, {}) == 10
    assert torch.equal(again.weight, module.weight) and again.weight.tolist() == [[10, 10]]


class Runs:
    """What an attacker pickles."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "bit", "no marker", "pickle", "nothing", "other module", "other size"]
)
def test_what_cannot_be_resumed_is_one_sentence(tmp_path: Path, damage: str) -> None:
    module = nn.Linear(2, 1)
    path = save_training_state(tmp_path, 3, {"other" if damage == "other module" else "m": module}, {})
    listing, tensors = path / ".metadata", path / "__0_0.distcp"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:300])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "bit":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    elif damage == "no marker":
        (path / "complete.json").unlink()
    elif damage == "pickle":  # a list of tensors that would run a program, with a marker that fits it
        listing.write_bytes(pickle.dumps(Runs()))
        marker = json.loads((path / "complete.json").read_text())
        digest = hashlib.sha256(listing.read_bytes()).hexdigest()
        marker["files"][".metadata"] = [listing.stat().st_size, digest]
        (path / "complete.json").write_text(json.dumps(marker))
    elif damage == "nothing":
        save_training_state(tmp_path, 4, {}, {})
    fitting = nn.Linear(3 if damage == "other size" else 2, 1)
    with pytest.raises(TrainingError, match=r"cannot be resumed \((?!Error)|not a training state|another stage"):
        load_training_state(tmp_path, {"m": fitting}, {})
    assert not (tmp_path / "ran").exists()
    if damage == "bit":
        return  # weights alone are read without their hash
    with pytest.raises(TrainingError, match=r"does not fit \(size mismatch|not a training state|another stage"):
        load_module(tmp_path, "m", fitting)


def test_a_folder_without_states(tmp_path: Path) -> None:
    assert not has_state(tmp_path) and load_training_state(tmp_path, {}, {}) == 0
    with pytest.raises(TrainingError, match="train that stage first"):
        module_weights(tmp_path, "m")


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save_training_state(tmp_path, 1, {}, {})

    def full(folder: Path, tensors: object, run: object) -> None:
        (folder / "__0_0.distcp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "_save", full)
    with pytest.raises(TrainingError, match=r"No space left.*the one before it is kept"):
        save_training_state(tmp_path, 2, {}, {})
    assert list(tmp_path.iterdir()) == [before]


def test_a_damaged_state_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Linear(2, 1)
    for step in (1, 2):
        nn.init.constant_(module.weight, step)
        path = save_training_state(tmp_path, step, {"m": module}, {})
    (path / "__0_0.distcp").write_bytes(b"torn")
    (tmp_path / "state-00000003.part").mkdir()  # of a process that was stopped while it wrote
    assert load_training_state(tmp_path, {"m": module}, {}) == 1 and module.weight.tolist() == [[1, 1]]
    assert "state-00000002: the state is damaged" in capsys.readouterr().err


def test_a_state_of_version_0_2_goes_on(tmp_path: Path) -> None:
    """It was one file: weights, optimizers by the order of their parameters, the generators."""
    torch.manual_seed(4)
    module, again = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer, fresh = (torch.optim.AdamW(m.parameters(), 0.1) for m in (module, again))
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"step": 3, "modules": {"m": module.state_dict()}, "optimizers": {"adamw": optimizer.state_dict()}}
    torch.save(state | {"random": {"cpu": torch.get_rng_state()}}, tmp_path / "state-00000003.pt")
    drawn = torch.rand(2)
    assert load_training_state(tmp_path, {"m": again}, {"adamw": fresh}) == 3
    assert torch.equal(torch.rand(2), drawn)
    for a, b in ((optimizer, fresh),):
        left, right = a.state_dict()["state"], b.state_dict()["state"]
        assert all(torch.equal(left[i][key], right[i][key]) for i in left for key in left[i])
    save_training_state(tmp_path, 4, {"m": again}, {"adamw": fresh}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000004"]

"""Several processes: the same samples, losses and weights as one; stopped, killed and broken runs."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lm_workspace import make_workspace
from lm_workspace import recipe as lm_recipe
from processes import Processes, free_port, run_in
from small_whisper import make_whisper

import baichuan_audio
from baichuan_audio.adapters import AdapterConfig, read_adapters
from baichuan_audio.audio_tokenizer.quantizer import QuantizerRecipe
from baichuan_audio.errors import ConfigError, TrainingError
from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.training.common.checkpointing import module_weights
from baichuan_audio.training.common.distributed import state_files
from baichuan_audio.training.common.distributed.run import STOPPED, TrainingRun
from baichuan_audio.training.common.distributed.sharding import local, parallelize, whole
from baichuan_audio.training.common.distributed.watchdog import EXIT_CODE
from baichuan_audio.training.common.distributed.world import World, exchange_problem, make_mesh
from baichuan_audio.training.common.muon import layer_matrices, make_optimizers
from baichuan_audio.training.common.recipe import OptimizerRecipe, StageRecipe
from baichuan_audio.training.flow import train as flow
from baichuan_audio.training.language_model import train as language_model
from baichuan_audio.training.tokenizer import train as tokenizer
from baichuan_audio.training.tokenizer.clip_batches import ClipBatch, ClipSampler
from baichuan_audio.training.tokenizer.recipe import LossWeights
from baichuan_audio.training.vocoder import train as vocoder
from baichuan_audio.vocoder.discriminators import DiscriminatorConfig
from baichuan_audio.vocoder.hift import HiftConfig
from baichuan_audio.vocoder.vocos import VocosConfig

ROOT = Path(__file__).parents[2]
COMMON: dict[str, Any] = {
    "steps": 4, "seed": 1, "threads": 1, "log_every": 1, "sample_every": 1000, "checkpoint_every": 1000,
    "precision": "float32", "optimizer": OptimizerRecipe(learning_rate=3e-3, warmup_steps=2, schedule="constant"),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("plain_log")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, and a corpus of six clips with codes and alignments."""
    folder = make_workspace(tmp_path_factory.mktemp("distributed"))
    (folder / "whisper").mkdir()
    make_whisper(folder / "whisper")
    return folder


def flow_recipe(root: Path, output: Path, **changes: Any) -> flow.FlowRecipe:
    settings = {"config": str(root / "model" / "config.json"), "tokenizer": str(root / "model")}
    settings |= {"dataset": str(root / "corpus"), "codes": str(root / "codes"), "output": str(output)}
    settings |= {"crop_seconds": 0.4, "batch_seconds": 2.0, "train_audio_decoder": True}
    return flow.FlowRecipe(**COMMON | settings | changes)


def run_flow(root: Path, output: Path) -> None:
    flow.train(flow_recipe(root, output))


def run_lm(root: Path, output: Path) -> None:
    settings = {"stage": "sft", "validation_sequences": 2, "audio_head_fraction": 0.5}
    settings |= {"checkpoint_every": 4, "sample_every": 4, "tokens_per_step": 600}
    settings |= {"packing": True, "packs_per_step": 4}
    language_model.train(lm_recipe(root, output, **COMMON | settings))


def run_adapters(root: Path, output: Path) -> None:
    settings = {"adapter": AdapterConfig(rank=4, method="dora"), "packing": True, "packs_per_step": 2}
    settings |= {"checkpoint_every": 4, "sample_every": 4, "tokens_per_step": 300, "validation_sequences": 2}
    settings |= {"text_guard": str(root / "corpus" / "dialogues.jsonl")}
    language_model.train(lm_recipe(root, output, **COMMON | settings))


def run_vocoder(root: Path, output: Path, **changes: Any) -> None:
    small = DiscriminatorConfig(periods=(2,), period_channels=2, fft_sizes=(256,), fft_channels=2)
    settings = {"output": str(output), "dataset": str(root / "corpus"), "batch_size": 4, "crop_frames": 10}
    settings |= {"vocos": VocosConfig(dim=24, ffn_dim=32, num_layers=1), "fft_sizes": (256, 512)}
    settings |= {"num_loss_mel_bins": 20, "adversarial_start_step": 2, "discriminators": small}
    vocoder.train(vocoder.VocoderRecipe(**COMMON | settings | changes))


def run_tokenizer(root: Path, output: Path, **changes: Any) -> None:
    settings = {"config": str(root / "model" / "config.json"), "dataset": str(root / "corpus"), "output": str(output)}
    settings |= {"batch_seconds": 2.5, "crop_seconds": 2.0, "text_width": 16}
    settings |= {"quantize_start_step": 2, "ramp_steps": 2}
    tokenizer.train(tokenizer.TokenizerRecipe(**COMMON | settings | changes))


RUNS: dict[str, tuple[Callable[[Path, Path], None], float]] = {
    "flow": (run_flow, 1e-5),
    "lm": (run_lm, 1e-5),
    "tokenizer": (run_tokenizer, 1e-5),
    "vocoder": (run_vocoder, 1e-5),
    "adapters": (run_adapters, 1e-5),
}


def steps(output: Path, name: str = "loss") -> dict[int, float]:
    """Step -> value; of a step logged again after a stop, the last one."""
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


def test_two_processes_train_every_stage_as_one_does(root: Path, tmp_path: Path) -> None:
    def all_stages(where: Path) -> None:
        for name, (run, _) in RUNS.items():
            run(root, where / name)

    run_in(2, lambda rank: all_stages(tmp_path / "two"))
    all_stages(tmp_path / "one")
    for name, stage in {"tokenizer": run_tokenizer, "vocoder": run_vocoder}.items():
        stage(root, tmp_path / "parts" / name, gradient_accumulation=2)
        one, parts = (list(steps(tmp_path / folder / name).values()) for folder in ("one", "parts"))
        assert one == pytest.approx(parts, rel=1e-5), name
    for name, (_, tolerance) in RUNS.items():
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert steps(one, "samples_crc") == steps(two, "samples_crc"), name
        assert list(steps(one).values()) == pytest.approx(list(steps(two).values()), rel=tolerance), name
        norms = [list(steps(folder, "grad_norm").values())[:2] for folder in (one, two)]
        assert norms[0] == pytest.approx(norms[1], rel=10 * tolerance), name
    assert {path.name for path in (tmp_path / "two" / "vocoder").iterdir()} >= {"vocoder.safetensors"}
    adapters = [read_adapters(tmp_path / name / "adapters" / "adapters.safetensors") for name in ("one", "two")]
    assert adapters[0].base == adapters[1].base and adapters[0].config == adapters[1].config
    for name, change in adapters[0].changes.items():
        for tensor, other in zip(vars(change).values(), vars(adapters[1].changes[name]).values(), strict=True):
            torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-4)
    model = baichuan_audio.load(tmp_path / "two" / "lm" / "model").state_dict()
    for name, tensor in baichuan_audio.load(tmp_path / "one" / "lm" / "model").state_dict().items():
        torch.testing.assert_close(tensor, model[name], rtol=1e-3, atol=1e-4)


def test_a_state_goes_on_with_any_number_of_processes(root: Path, tmp_path: Path) -> None:
    """2 -> 1 -> 4 -> 2 processes: the samples and losses of the unbroken run; the same number again: bit by bit."""
    last = 12  # 50 steps, which take half a minute, agree as well
    flow.train(flow_recipe(root, tmp_path / "whole", steps=last))
    for processes, stop in ((2, last // 4), (1, last // 2), (4, 3 * last // 4), (2, last)):
        changed = flow_recipe(root, tmp_path / "changed", steps=last)
        run_in(processes, lambda rank, stop=stop, recipe=changed: flow.train(recipe, stop))
        if stop == 3 * last // 4:
            shutil.copytree(tmp_path / "changed", tmp_path / "again")
    run_in(2, lambda rank: flow.train(flow_recipe(root, tmp_path / "again", steps=last)))
    whole, changed_log = tmp_path / "whole", tmp_path / "changed"
    assert steps(whole, "samples_crc") == steps(changed_log, "samples_crc")
    assert list(steps(whole).values()) == pytest.approx(list(steps(changed_log).values()), rel=1e-5)
    one, two = (module_weights(tmp_path / name, "flow") for name in ("changed", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def gradients(train: Callable[[], None]) -> dict[str, torch.Tensor]:
    """The whole gradients of the first step, of discriminators too."""
    seen: dict[str, torch.Tensor] = {}

    def look(run: Any, optimizers: Any, *rest: Any, **named: Any) -> dict[str, float]:
        for optimizer in optimizers:
            for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
                seen[run._names[id(p)]] = whole(p.grad).clone()
            optimizer.zero_grad()
        if "since" in named:  # the update of discriminators, before that of the vocoder
            return {}
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "update", look)
        with pytest.raises(KeyboardInterrupt):
            train()
    return seen


def assert_equal(split: dict[str, torch.Tensor], unsplit: dict[str, torch.Tensor], floor: float = 1e-9) -> None:
    for name, gradient in unsplit.items():
        other = split.get(name, torch.zeros_like(gradient))
        assert float((other - gradient).norm()) <= 1e-6 * float(gradient.norm()) + floor, name
    assert not any(gradient.any() for name, gradient in split.items() if name not in unsplit)


def test_any_split_has_the_same_gradient(root: Path, tmp_path: Path) -> None:
    settings = flow_recipe(root, tmp_path)

    def of(**changes: Any) -> dict[str, torch.Tensor]:
        return gradients(lambda: flow.train(replace(settings, **changes)))

    unsplit = of()
    splits = [of(gradient_accumulation=3), of(activation_checkpointing=True)]
    splits += run_in(2, lambda rank: of(gradient_accumulation=2))[:1]
    for split in splits:
        assert_equal(split, unsplit)


def run_tokenizer_of_few_texts(root: Path, output: Path, **changes: Any) -> None:
    """Only the first clip of a step has a transcript: the second process, and most micro-batches, have none."""
    real = ClipSampler.batch

    def without_texts(sampler: ClipSampler, step: int) -> ClipBatch:
        batch = real(sampler, step)
        none = [None] * (len(batch.ids) - 1)
        return replace(batch, transcripts=[*batch.transcripts[:1], *none], texts=[*batch.texts[:1], *none])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipSampler, "batch", without_texts)
        run_tokenizer(root, output, text_embeddings=str(root / "model"), **changes)


def few_texts(root: Path, output: Path, text_model: Path, **changes: Any) -> None:
    texts = {"text_model": str(text_model), "quantize_start_step": 9}
    run_tokenizer_of_few_texts(root, output, **texts | changes)


CAREFUL = QuantizerRecipe(gumbel_temperature=0.1)
GRADIENTS: dict[str, Callable[..., None]] = {
    "tokenizer": lambda root, output, **changes: run_tokenizer(
        root, output, quantize_start_step=0, mel_share=0.4, weights=LossWeights(frame=1.0), quantizer=CAREFUL, **changes
    ),
    "few texts": lambda root, output, **changes: few_texts(root, output, root / "model", **changes),
    "few texts, Whisper": lambda root, output, **changes: few_texts(root, output, root / "whisper", **changes),
    "vocos": lambda root, output, **changes: run_vocoder(root, output, adversarial_start_step=0, **changes),
    "hift": lambda root, output, **changes: run_vocoder(
        root, output, adversarial_start_step=0, architecture="hift", hift=HiftConfig(base_channels=16), **changes
    ),
}


def test_processes_and_micro_batches_have_the_gradient_of_a_whole_step(root: Path, tmp_path: Path) -> None:
    """In stages whose losses are ratios, or means over clips of different length; of discriminators too."""

    def all_stages(parts: int) -> list[dict[str, torch.Tensor]]:
        return [
            gradients(lambda run=run: run(root, tmp_path, gradient_accumulation=parts)) for run in GRADIENTS.values()
        ]

    splits = {"1 x 2": all_stages(2)}
    splits["2 x 1"], splits["2 x 2"] = run_in(2, lambda rank: [all_stages(parts) for parts in (1, 2)])[0]
    for index, (name, whole_step) in enumerate(zip(GRADIENTS, all_stages(1), strict=True)):
        whole_norm = float(torch.stack([gradient.norm() for gradient in whole_step.values()]).norm())
        assert whole_norm > 0, name
        if "texts" in name:
            assert whole_step["text_model.projection.weight"].any() and whole_step["embedding_ctc.blank.weight"].any()
        for split in splits.values():
            assert_equal(split[index], whole_step, floor=1e-6 * whole_norm)


def test_a_loss_that_is_not_finite_changes_nothing_anywhere(root: Path, tmp_path: Path) -> None:
    """Injected on one of two processes, in one step; then in three in a row."""
    real = flow.compute_losses

    def run(rank: int) -> tuple[list[torch.Tensor], str]:
        bad_steps: set[int] = {1}

        def injected(*arguments: Any) -> dict[str, torch.Tensor]:
            values = real(*arguments)
            bad = rank == 1 and arguments[-1] in bad_steps
            return {name: value * (float("inf") if bad else 1.0) for name, value in values.items()}

        flow.compute_losses = injected
        output, weights = tmp_path / "run", []
        for stop in (1, 2, 3):
            flow.train(flow_recipe(root, output, steps=9), stop)
            weights.append(module_weights(output, "flow")["conditional_decoder.final_proj.weight"])
        bad_steps |= {4, 5, 6}
        with pytest.raises(TrainingError) as stopped:
            flow.train(flow_recipe(root, output, steps=9, checkpoint_every=1))
        return weights, str(stopped.value)

    results = run_in(2, run)
    for (first, second, third), message in results:
        assert torch.equal(first, second) and not torch.equal(second, third)
        assert "not finite in 3 steps in a row, the last one step 7" in message and "@" in message
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    skipped = [row for row in rows if "skipped" in row]
    assert [row["step"] for row in skipped] == [2, 5, 6, 7] and all(row["samples"] for row in skipped)
    assert sorted(path.name for path in (tmp_path / "run").glob("state-*"))[-1] == "state-00000006"


def test_a_process_that_stands_still_ends_all(root: Path, tmp_path: Path) -> None:
    limit = 4.0

    def run(rank: int) -> None:
        real = flow.compute_losses

        def sleeping(*arguments: Any) -> dict[str, torch.Tensor]:
            if rank == 1 and arguments[-1] == 1:
                (tmp_path / "asleep").touch()
                time.sleep(600)
            return real(*arguments)

        flow.compute_losses = sleeping
        flow.train(flow_recipe(root, tmp_path / "run", stall_limit_s=limit))

    both = Processes(2, run)
    while not (tmp_path / "asleep").exists() and both.workers[1].is_alive():
        time.sleep(0.05)
    start = time.monotonic()
    assert both.join() == [EXIT_CODE, EXIT_CODE]
    assert time.monotonic() - start < 10 * 2 * limit  # on a busy machine; alone it is within 2 x the limit
    for rank in range(2):
        assert "Current thread" in both.errors(rank) or "Thread 0x" in both.errors(rank)
    assert "sleeping" in both.errors(1)  # the function that stood still is in its stack


def test_sigterm_saves_and_ends_with_a_line(root: Path, tmp_path: Path) -> None:
    recipe = flow_recipe(root, tmp_path / "run", steps=60)

    def run(rank: int) -> None:
        real = flow.compute_losses

        def slow(*arguments: Any) -> dict[str, torch.Tensor]:
            if arguments[-1] == 3:
                os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else None
            return real(*arguments)

        flow.compute_losses = slow
        flow.train(recipe)

    both = Processes(2, run)
    assert both.join() == [STOPPED, STOPPED]
    assert "stopped by SIGTERM after step 4; the state is saved, the same command goes on." in both.errors(0)
    assert [path.name for path in (tmp_path / "run").glob("state-*")] == ["state-00000004"]


def test_a_lost_process_ends_the_others(root: Path, tmp_path: Path) -> None:
    recipe = flow_recipe(root, tmp_path / "run", checkpoint_every=1)

    def run(rank: int) -> None:
        real = flow.compute_losses

        def dying(*arguments: Any) -> dict[str, torch.Tensor]:
            if rank == 1 and arguments[-1] == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        flow.compute_losses = dying
        flow.train(recipe)

    both = Processes(2, run)
    assert both.join() == [1, -signal.SIGKILL]
    assert "another process of the run has ended" in both.errors(0)
    assert (tmp_path / "run" / "state-00000001").is_dir()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 50ms for recv operation", "in time"),
        ("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3", "another process"),
        ("NCCL error: remote process exited or there was a network error", "another process"),
        ("[../gloo/transport/tcp/pair.cc:1] No route to host\nmore", r"cannot exchange data \(.*No route to host\);"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_what_a_failed_exchange_means(error: str, sentence: str | None) -> None:
    problem = exchange_problem(error)
    assert problem is None if sentence is None else re.search(sentence, problem)


def test_a_time_out_is_no_lost_process() -> None:
    """gloo's error where a process comes too late."""

    def run(rank: int) -> None:
        late = dist.new_group(timeout=timedelta(milliseconds=300))
        if rank == 0:
            dist.all_reduce(torch.zeros(1), group=late)
        time.sleep(1.0)

    both = Processes(2, run)
    assert both.join()[0] == 1
    assert "did not answer in time" in both.errors(0) and "has ended" not in both.errors(0)


def test_killed_at_random_moments_it_ends_like_the_unbroken_run(root: Path, tmp_path: Path) -> None:
    """SIGKILL at 20 moments of a run, most of them inside the writing of a state; every start goes on from the last
    state that is whole."""
    settings = {"steps": 12, "checkpoint_every": 1, "train_audio_decoder": False}
    flow.train(flow_recipe(root, tmp_path / "whole", **settings))
    random = np.random.default_rng(7)
    points = ["_save", "_size_and_hash", "_write_durably", "replace", "compute_losses"]

    def run_until_killed(point: str, calls: int) -> None:
        left = [calls]

        def then_kill(real: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    if point == "_save":  # in the middle of a file
                        (arguments[0] / "__0_0.distcp").write_bytes(b"half of a fi")
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return wrapped

        owner: Any = flow if point == "compute_losses" else state_files.os if point == "replace" else state_files
        setattr(owner, point, then_kill(getattr(owner, point)))
        flow.train(flow_recipe(root, tmp_path / "killed", **settings))

    ends = []
    for _ in range(20):
        point, calls = str(random.choice(points)), int(random.integers(1, 3))
        ends += Processes(1, lambda rank, point=point, calls=calls: run_until_killed(point, calls)).join()
    assert ends.count(-signal.SIGKILL) >= 15
    flow.train(flow_recipe(root, tmp_path / "killed", **settings))
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    one, two = (module_weights(tmp_path / name, "flow") for name in ("killed", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "killed").glob("*.part"))


def test_the_recipe_is_checked(root: Path, tmp_path: Path) -> None:
    for change in ({"precision": "half"}, {"stall_limit_s": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            StageRecipe(output="x", steps=1, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gradient_accumulation must be at least 1, not 0"):
        run_tokenizer(root, tmp_path, gradient_accumulation=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 5"):
        run_vocoder(root, tmp_path, gradient_accumulation=5)


def test_the_released_size_is_split_over_64_processes(tmp_path: Path) -> None:
    """The code of a real run on tensors without memory, in a process group that exchanges nothing."""
    config = json.loads((ROOT / "recipes" / "base-7b" / "config.json").read_text())

    def run(rank: int) -> list[float]:
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore

        start = time.process_time()
        dist.init_process_group("fake", rank=0, world_size=64, store=FakeStore())
        shares = []
        for on_host, tensor in ((64, 1), (8, 1), (8, 2)):
            with torch.device("meta"):
                parts = torch.nn.ModuleDict({
                    "language_model": LanguageModel.from_config(config), "audio_head": AudioHead.from_config(config)
                })  # fmt: skip
            mesh = make_mesh("cpu", 64, on_host, tensor)
            parallelize({"parts": parts}, World(0, 64, "cpu", mesh, tensor=tensor), True, True)
            make_optimizers(parts.parameters(), layer_matrices(parts["language_model"]), OptimizerRecipe())
            parameters = sum(parameter.numel() for parameter in parts.parameters())
            assert parameters == 9_142_520_328
            shares.append(sum(local(parameter).numel() for parameter in parts.parameters()) / parameters)
        return [*shares, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]

    hosts_apart, hybrid, tensor, seconds, gigabytes = run_in(1, run)[0]
    assert hosts_apart == pytest.approx(1 / 64, rel=0.01) and hybrid == pytest.approx(1 / 8, rel=0.01)
    split = 28 * (3584 * 3584 + 3 * 3584 * 18944) / 9_142_520_328  # of the layers, over 8 processes, the rest over 4
    assert tensor == pytest.approx(split / 8 + (1 - split) / 4, rel=0.01)
    assert seconds < 60 and gigabytes < 4


def test_the_command_of_the_docs(root: Path, tmp_path: Path) -> None:
    """torchrun itself, on a tiny recipe in place of the large one."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    command = re.search(r"^torchrun (--nproc-per-node 2 .*) recipes/base-7b/flow.yaml steps=1000$", page, re.MULTILINE)
    assert command is not None
    recipe = flow_recipe(root, tmp_path / "run", steps=1)
    values = {name: value for name, value in vars(recipe).items() if name not in ("optimizer", "source_weights")}
    (tmp_path / "flow.yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    arguments = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
    run = subprocess.run(
        [*arguments, *command[1].split(), str(tmp_path / "flow.yaml"), "steps=2"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert list(steps(tmp_path / "run")) == [1, 2] and (tmp_path / "run" / "state-00000002").is_dir()

"""Weights in 8 and 4 bits: the compiled product against integers in numpy, for every instruction set at hand."""

from __future__ import annotations

import copy
import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cpu import kernels as native
from baichuan_audio.acceleration.cpu.integers import GROUP, integer_product, round_to_int4, round_to_int8
from baichuan_audio.acceleration.cpu.model import MAX_STEP_POSITIONS, NativeLanguageModel
from baichuan_audio.engine.kv_slots import SlotCache, SlotTokens
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.layers.kv_cache import KVCache
from baichuan_audio.model import BaichuanAudio

KINDS = pytest.mark.parametrize("kind", ["int8", "int4"])


@pytest.fixture(scope="module")
def compiled() -> ctypes.CDLL:
    made = native.library()
    return made if made is not None else pytest.skip("there is no C compiler")


def _rounded(weight: torch.Tensor, kind: str) -> tuple[np.ndarray, np.ndarray]:
    numbers, scale = (round_to_int8 if kind == "int8" else round_to_int4)(weight)
    return numbers.numpy(), scale.float().numpy()


@KINDS
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 32), (37, 30), (33, 131)])
def test_products_of_any_size(compiled: ctypes.CDLL, outputs: int, inputs: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(outputs, 2 * inputs, generator=generator)[:, inputs:], torch.randn(outputs)
    packed, expected = native.PackedLinear(compiled, weight, bias, kind), _rounded(weight, kind)
    for rows in range(1, 10):
        x = torch.randn(rows, inputs, generator=generator)
        out = torch.full((rows + 1, outputs), 7.0)
        packed.multiply(x, out[:rows])
        reference = torch.from_numpy(integer_product(x.numpy(), *expected))
        torch.testing.assert_close(out[:rows], reference + bias, rtol=1e-5, atol=1e-5)
        assert bool((out[rows] == 7.0).all())  # nothing behind it is touched
        packed.multiply(x, out[:rows], add=True)
        torch.testing.assert_close(out[:rows], 2 * (reference + bias), rtol=1e-5, atol=1e-5)


@KINDS
def test_integers_multiply_exactly(compiled: ctypes.CDLL, kind: str) -> None:
    """Integers whose scales are 1, and the largest sums that there are."""
    generator, groups = torch.Generator().manual_seed(0), 5
    top, low = (127, -127) if kind == "int8" else (7, -8)
    weight = torch.randint(low, top + 1, (67, groups * GROUP), generator=generator).float()
    weight.view(67, groups, GROUP)[..., 0] = low  # makes every scale 1
    x = torch.randint(-127, 128, (6, groups * GROUP), generator=generator).float()
    x.view(6, groups, GROUP)[..., 1] = 127
    weight[3], x[2] = low, -127
    out = torch.empty(6, 67)
    native.PackedLinear(compiled, weight, kind=kind).multiply(x, out)
    assert torch.equal(out, (x.long() @ weight.long().T).float())


@KINDS
def test_a_row_does_not_depend_on_the_others(compiled: ctypes.CDLL, kind: str) -> None:
    packed = native.PackedLinear(compiled, torch.randn(50, 100), kind=kind)
    x, out, alone = torch.randn(7, 100), torch.empty(7, 50), torch.empty(1, 50)
    packed.multiply(x, out)
    for row in range(7):
        packed.multiply(x[row : row + 1].contiguous(), alone)
        assert torch.equal(alone[0], out[row])


def test_four_bits_are_near_and_zeros_stay_zeros() -> None:
    weight = torch.randn(30, 70, generator=torch.Generator().manual_seed(0))
    weight[4] = 0
    numbers, scale = round_to_int4(weight)
    restored = (numbers.view(30, -1, GROUP) * scale.float()[..., None]).flatten(1)[:, :70]
    assert float((restored - weight).norm() / weight.norm()) < 0.09 and not restored[4].any()
    plain, plain_scale = round_to_int8(weight)
    assert float((plain[:, :70] * plain_scale[:, None] - weight).norm() / weight.norm()) < 0.01


PROCESSORS = {
    "x86-64": {"sse2"},
    "haswell": {"avx2", "fma"},
    "skylake-avx512": {"avx512f", "avx512bw"},
    "alderlake": {"avx_vnni"},
    "icelake-server": {"avx512_vnni"},
}
"""Instructions that this processor must have to run what is compiled for another."""


@pytest.fixture(scope="module", params=PROCESSORS)
def processor(request: pytest.FixtureRequest, compiled: ctypes.CDLL) -> str:
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").is_file() else set[str]()
    if not PROCESSORS[request.param] <= flags:
        pytest.skip("this processor has not these instructions")
    return f"-march={request.param}"


@pytest.fixture(scope="module")
def other(processor: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels compiled for another processor whose instructions this one has too."""
    file = tmp_path_factory.mktemp("kernels") / "kernels.so"
    native.compile_kernels(["cc"], file, [(processor, "-O1")])
    return native.load_kernels(file)


@KINDS
def test_other_instructions_compute_the_same(other: ctypes.CDLL, kind: str) -> None:
    test_products_of_any_size(other, 37, 131, kind)
    test_integers_multiply_exactly(other, kind)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_prompts_steps_and_rows_of_a_quantised_model_agree(
    compiled: ctypes.CDLL, model: BaichuanAudio, kind: str
) -> None:
    """A prompt by torch's attention over decoded keys, a step by the kernels'; a row of a batch is as alone."""
    language_model = optimize_for_inference(model, kind).language_model
    assert isinstance(language_model, NativeLanguageModel)
    x = torch.randn(1, MAX_STEP_POSITIONS + 8, language_model.config.hidden_size) * 0.05
    whole = language_model.hidden(x, language_model.init_cache())
    cache, parts = language_model.init_cache(1, 8), []
    for count in (3, 1, 1, 20, 1, 14):
        first = cache.length
        parts.append(language_model.hidden(x[:, first : first + count], cache))
    assert _error(torch.cat(parts, 1), whole) < 0.05
    slots = SlotCache(language_model, 3, 64)
    slots.read([SlotTokens(0, [5, 6, 7]), SlotTokens(2, [8, 9])])
    together = slots.read([SlotTokens(0, [10]), SlotTokens(1, [11]), SlotTokens(2, [12])])
    other = SlotCache(language_model, 2, 64)
    other.read([SlotTokens(1, [8, 9])])
    assert torch.equal(other.read([SlotTokens(1, [12])])[0], together[2])


@torch.inference_mode()
def test_threads_change_nothing(compiled: ctypes.CDLL, model: BaichuanAudio) -> None:
    """Past the length of a block of attention, in 32 and 8 bits, and from several threads at once."""
    count = torch.get_num_threads()
    for kind in (None, "int8"):
        language_model = optimize_for_inference(model, kind).language_model
        assert isinstance(language_model, NativeLanguageModel) and not language_model.share_steps  # it is small
        language_model.share_steps, width = True, language_model.config.hidden_size
        cache = language_model.init_cache(2, 600)
        language_model.hidden(torch.randn(2, 560, width) * 0.05, cache)
        x = torch.randn(2, 1, width)

        def step(threads: int, model: LanguageModel = language_model, x: Tensor = x, cache: KVCache = cache) -> Tensor:
            torch.set_num_threads(threads)
            again = copy.copy(cache)  # the same position once more
            return model.hidden(x, again)

        try:
            alone = step(1)
            with ThreadPoolExecutor(4) as pool:
                assert all(torch.equal(alone, other) for other in pool.map(step, [3, 2, 4, 3] * 5))
        finally:
            torch.set_num_threads(count)


@torch.inference_mode()
def test_attention_over_a_long_past(compiled: ctypes.CDLL, model: BaichuanAudio) -> None:
    """Several blocks against torch, in float32 to rounding and in 8 bits nearly."""
    plain, x = model.language_model, torch.randn(1, 701, model.language_model.config.hidden_size) * 0.05
    expected = plain.hidden(x)[:, -1]
    for kind, worst in ((None, 1e-4), ("int8", 0.05)):
        optimized = optimize_for_inference(model, kind).language_model
        cache = optimized.init_cache()
        optimized.hidden(x[:, :700], cache)
        assert _error(optimized.hidden(x[:, 700:], cache)[:, -1], expected) < worst


def test_the_pool_works_in_a_forked_process(compiled: ctypes.CDLL) -> None:
    packed = native.PackedLinear(compiled, torch.randn(512, 640), kind="int8")
    x, out, expected = torch.randn(2, 640), torch.zeros(2, 512), torch.zeros(2, 512)

    def run(target: Tensor, threads: int) -> None:
        compiled.product(ctypes.byref(packed.structure), x.data_ptr(), 2, target.data_ptr(), 0, threads)

    run(expected, 1)
    for _ in range(20):
        run(out, 3)
    assert torch.equal(out, expected)
    child = os.fork()
    if child == 0:
        out.zero_()
        run(out, 3)
        os._exit(0 if bool((out == expected).all()) else 1)
    assert os.waitpid(child, 0)[1] == 0


def _error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def _check(tmp_path: Path, command: list[str], emulator: list[str]) -> None:
    """Compile kernels_check.c and run it."""
    source, program = Path(__file__).with_name("kernels_check.c"), tmp_path / "check"
    flags = ["-O1", "-std=gnu11", "-fno-math-errno", "-Wno-psabi", "-static", f"-I{Path(native.__file__).parent}"]
    subprocess.run([*command, *flags, str(source), "-o", str(program), "-lm", "-lpthread"], check=True)
    done = subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_attention_of_other_instructions(processor: str, tmp_path: Path) -> None:
    _check(tmp_path, ["cc", processor], [])


@pytest.mark.parametrize("processor", ["cortex-a53", "neoverse-n1"])  # without and with products of bytes
def test_arm_computes_the_same(tmp_path: Path, processor: str) -> None:
    """Compiled for ARM and run by an emulator, where both are installed."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("there is no compiler or emulator for ARM")
    _check(tmp_path, [compiler, f"-mcpu={processor}"], [emulator])

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rejuvenation.blocks import row_blocks
from rejuvenation.checkpoint import TensorEntry
from rejuvenation.fused import lerp

REAL = [torch.float32, torch.bfloat16, torch.float16]
MANTISSA_BITS = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}
SMALLEST = {torch.float32: 2.0**-149, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Unit in the last place of `dtype` at each value."""
    _, exponent = torch.frexp(values.double())
    return torch.ldexp(torch.ones_like(values.double()), exponent - 1 - MANTISSA_BITS[dtype]).clamp(SMALLEST[dtype])


def test_result_is_rounded_once_to_nearest_even() -> None:
    # bfloat16 has 7 mantissa bits: both midpoints are exact ties, one goes down and one goes up
    base = torch.tensor([1.0, 1 + 2**-7], dtype=torch.bfloat16)
    sft = torch.tensor([1 + 2**-7, 1 + 2**-6], dtype=torch.bfloat16)
    assert lerp(base, sft, 0.5).tolist() == [1.0, 1 + 2**-6]


def test_alpha_is_the_weight_of_the_sft_checkpoint() -> None:
    assert lerp(torch.tensor([0.0, 8.0]), torch.tensor([4.0, 0.0]), 0.75).tolist() == [3.0, 2.0]


@pytest.mark.parametrize("dtype", REAL)
def test_endpoints_are_copied_byte_for_byte(dtype: torch.dtype) -> None:
    base = torch.tensor([-0.0, 0.0, 1.1, float("nan"), float("inf")], dtype=dtype)
    sft = torch.tensor([0.0, -0.0, 2.3, 1.0, 3.0], dtype=dtype)
    assert same_bytes(lerp(base, sft, 1.0), sft)
    assert same_bytes(lerp(base, sft, 0.0), base)


@pytest.mark.parametrize("dtype", REAL)
def test_equal_tensors_are_copied_byte_for_byte(dtype: torch.dtype) -> None:
    values = torch.tensor([-0.0, 0.1, float("nan"), 3e-5], dtype=dtype)
    assert same_bytes(lerp(values.clone(), values, 0.37), values)


@pytest.mark.parametrize("dtype", REAL)
def test_entries_on_which_both_agree_stay(dtype: torch.dtype) -> None:
    base = torch.randn(5000, generator=torch.Generator().manual_seed(0)).to(dtype)
    sft = base.clone()
    sft[::7] += 1.0
    fused = lerp(base, sft, 0.3)
    agree = base == sft
    assert same_bytes(fused[agree], base[agree])
    assert not torch.equal(fused, sft)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("alpha", [0.3, 0.45, 0.5, 0.6, 0.9])
def test_float32_linear_merge_is_met_within_one_unit_in_the_last_place(dtype: torch.dtype, alpha: float) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(20000, generator=generator)
    sft = base + 0.1 * torch.randn(20000, generator=generator)
    sft[::3] = -base[::3] * (1 - alpha) / alpha + 1e-3 * sft[::3]  # cancellation
    base, sft = base.to(dtype), sft.to(dtype)
    weights = torch.tensor([alpha, 1 - alpha], dtype=torch.float32)
    linear = (weights[0] * sft.float() + weights[1] * base.float()) / weights.sum()
    exact = alpha * sft.double() + (1 - alpha) * base.double()
    room = ulp(torch.maximum((alpha * sft.double()).abs(), ((1 - alpha) * base.double()).abs()), dtype)
    fused = lerp(base, sft, alpha).double()
    assert ((fused - linear.to(dtype).double()).abs() <= room).all()
    # against exact arithmetic: half a unit at a result of up to twice the terms, and float32's own three roundings
    assert ((fused - exact).abs() <= (3 if dtype == torch.float32 else 1.01) * room).all()
    assert (exact.abs() < 0.01 * room / ulp(torch.ones(1), dtype)).any(), "the data must hold cancellations"


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 2**31), st.integers(1, 16))
def test_result_does_not_depend_on_where_the_tensor_is_cut(alpha: float, seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, sft = torch.randn(2, 17, generator=generator)
    parts = torch.cat([lerp(base[:cut], sft[:cut], alpha), lerp(base[cut:], sft[cut:], alpha)])
    assert same_bytes(parts, lerp(base, sft, alpha))


def test_dtype_is_that_of_the_sft_checkpoint() -> None:
    base = torch.tensor([1.0, 3.00001])
    sft = torch.tensor([2.0, 5.0], dtype=torch.bfloat16)
    fused = lerp(base, sft, 0.5)
    assert fused.dtype == torch.bfloat16
    assert fused.tolist() == [1.5, 4.0]
    assert lerp(sft, base, 0.5).dtype == torch.float32


class LiveBytes(TorchDispatchMode):
    """Sees how many bytes of tensors made inside are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(result is argument for argument in args):
            self._made.append(weakref.ref(result))
        alive = [tensor for made in self._made if (tensor := made()) is not None]
        self.most = max(self.most, sum({tensor.data_ptr(): tensor.nbytes for tensor in alive}.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fusion_of_narrow_weights_holds_two_float32_copies_at_most(dtype: torch.dtype) -> None:
    base, sft = (torch.randn(2, 1 << 16, generator=torch.Generator().manual_seed(0)) + 1).to(dtype)
    with LiveBytes() as live:
        lerp(base, sft, 0.3)
    inputs = base.nbytes + sft.nbytes  # seen as bytes in the comparison
    assert 2 * 4 * len(base) <= live.most <= 2 * 4 * len(base) + inputs


def test_blocks_of_a_large_tensor_are_1_mib_at_most() -> None:
    entry = TensorEntry("embedding", (151936, 3584), torch.bfloat16, "model.safetensors", 0)
    blocks = list(row_blocks(entry))
    assert max(stop - start for start, stop in blocks) * 3584 * 2 <= 1 << 20
    assert [blocks[0][0], blocks[-1][1]] == [0, 151936]
    assert len(blocks) == 1041


def test_integers_that_differ_are_refused() -> None:
    values = torch.tensor([1, 2])
    assert torch.equal(lerp(values, values.clone(), 0.5), values)
    with pytest.raises(ValueError, match="cannot be fused"):
        lerp(values, values + 1, 0.5)

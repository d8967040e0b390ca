"""The grid that training goes through, against plain autograd and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_transact.healing import grid as module
from edge_transact.healing.grid import Grid
from edge_transact.quantization import QUANTIZATIONS
from tests.support.grid import levels_of

FOUR_BITS = [name for name, quantization in QUANTIZATIONS.items() if quantization.bits]


def random_grid(rows: int, columns: int, name: str, seed: int = 0) -> tuple[Grid, dict[str, nn.Parameter]]:
    """A matrix, some of whose scales are negative and one 0, and a norm."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        "proj.weight": nn.Parameter(torch.randn(rows, columns, generator=generator)),
        "norm.weight": nn.Parameter(torch.randn(columns, generator=generator)),
    }
    scales = torch.randn(rows, -(-columns // 32), generator=generator) / 4
    scales[0, 0] = 0
    stored = torch.float16 if QUANTIZATIONS[name].model_dtype == "float16" else torch.bfloat16
    grid = Grid({"proj.weight": scales.to(stored)}, QUANTIZATIONS[name])
    grid.attach(parameters)
    return grid, parameters


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 100), st.sampled_from(FOUR_BITS), st.sampled_from([64, 1 << 18]))
def test_parameters_are_rounded(rows: int, columns: int, name: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "CHUNK_WEIGHTS", chunk)
        grid, parameters = random_grid(rows, columns, name)
    scales = grid.scales()["proj.weight"]
    wide = scales.float().repeat_interleave(32, dim=1)[:, :columns].numpy()
    expected = levels_of(grid.exact("proj.weight"), scales) * wide
    np.testing.assert_array_equal(parameters["proj.weight"].detach().numpy(), expected)
    stored = torch.float16 if "f16" in name else torch.bfloat16
    assert torch.equal(parameters["norm.weight"], grid.exact("norm.weight").to(stored).float())


@pytest.mark.parametrize("columns", [64, 72])
def test_step_is_that_of_plain_autograd(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCALE_RATE", 0.05)  # more than the next number in bf16
    grid, parameters = random_grid(24, columns, "q4f32_1")
    inputs = torch.randn(50, columns, generator=torch.Generator().manual_seed(1))
    before = grid.scales()["proj.weight"].float()
    exact, norm = (grid.exact(name).clone().requires_grad_() for name in parameters)
    change = torch.zeros_like(before).requires_grad_()

    # Straight through: the exact weights' gradient is that of the rounded ones, and codes are constants.
    levels = torch.from_numpy(levels_of(exact.detach(), before))
    scales = (before * change.exp()).repeat_interleave(32, dim=1)[:, :columns]
    rounded = exact - exact.detach() + levels * scales
    rounded_norm = norm + (norm.bfloat16().float() - norm).detach()
    nn.functional.silu((inputs * rounded_norm) @ rounded.T).square().sum().backward()

    weight, gain = parameters.values()
    nn.functional.silu((inputs * gain) @ weight.T).square().sum().backward()
    torch.testing.assert_close(weight.grad, exact.grad)
    torch.testing.assert_close(gain.grad, norm.grad)

    update = torch.optim.SGD(parameters.values(), lr=1e-5)
    grid.step(update.step, 0.5, 1)
    with torch.no_grad():
        expected = change - 0.5 * 0.05 * (change.grad / change.grad.abs().mean()).clamp(-1, 1)
        after = (before * expected.exp()).bfloat16().float()
        grown = torch.where(before == 0, 1, after / before).repeat_interleave(32, dim=1)[:, :columns]
        moved = (exact - 1e-5 * exact.grad) * grown
        ends = after.repeat_interleave(32, dim=1)[:, :columns]
        moved = moved.clamp(torch.minimum(-7.5 * ends, 8.5 * ends), torch.maximum(-7.5 * ends, 8.5 * ends))
    assert torch.equal(grid.scales()["proj.weight"], after) and not torch.equal(before, after)
    torch.testing.assert_close(grid.exact("proj.weight"), moved)
    torch.testing.assert_close(grid.exact("norm.weight"), norm.detach() - 1e-5 * norm.grad)


def test_codes_stay_while_scales_move() -> None:
    grid, parameters = random_grid(24, 64, "q4f16_1")
    codes = levels_of(grid.exact("proj.weight"), grid.scales()["proj.weight"])
    before = grid.scales()["proj.weight"]
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    for number in range(1, 20):
        grid.step(lambda: None, 1.0, number)
    after = grid.scales()["proj.weight"]
    assert not torch.equal(before, after)
    assert (levels_of(grid.exact("proj.weight"), after) != codes).mean() < 0.01  # those at the border of two


def test_what_is_not_trained_is_rounded_too() -> None:
    parameter = nn.Parameter(torch.randn(8, 32), requires_grad=False)
    exact = parameter.detach().clone()
    scales = torch.full((8, 1), 0.25)
    grid = Grid({"embedding": scales}, QUANTIZATIONS["q4f16_0"])
    grid.attach({"embedding": parameter})
    assert torch.equal(parameter, torch.from_numpy(levels_of(exact, scales)).float() * 0.25)
    rounded = parameter.clone()
    grid.step(lambda: None, 1.0, 1)
    assert torch.equal(parameter, rounded) and torch.equal(grid.scales()["embedding"].float(), scales)

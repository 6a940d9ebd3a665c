"""The grid follows from the noise alone, and what lies on it tells nothing of the sum's last bits."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pharma_fl.privacy import device_noise, noise
from pharma_fl.privacy.device_noise import DeviceNoise
from pharma_fl.privacy.grid import grid_of, round_to_grid
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.philox_noise import PhiloxNoise

SOURCES = {
    "system": SystemNoise,
    "device": lambda: DeviceNoise("cpu"),
    "philox": lambda: PhiloxNoise("cpu"),
}
stds = st.floats(-240, 240).map(lambda exponent: 10.0**exponent)


@pytest.fixture(params=SOURCES.values(), ids=SOURCES.keys())
def source(request):
    return request.param()


def rounded(values, std):
    noised = np.array(values, dtype=np.float64)
    round_to_grid(noised, std)
    return noised


@given(stds)
def test_the_grid_is_the_power_of_two_that_the_plan_says(std):
    spacing = grid_of(std)
    assert math.frexp(spacing)[0] == 0.5
    assert 2.0**-9 * std < spacing <= 2.0**-8 * std


def test_the_grid_changes_at_powers_of_two_and_nowhere_else():
    assert grid_of(4.0) == 2.0**-6
    assert grid_of(math.nextafter(8.0, 0)) == 2.0**-6
    assert grid_of(8.0) == 2.0**-5
    assert 2**-18 / 12 < grid_of(1.0) ** 2 / 12 < 1.3e-6  # the variance that rounding adds to 1


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, 1e-251, 1e251, 5e-324])
def test_no_other_deviation_has_a_grid(std):
    with pytest.raises(ValueError, match="Expected a standard deviation"):
        grid_of(std)
    with pytest.raises(ValueError, match="Expected a standard deviation"):
        rounded([1.0], std)


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf, 1e-300])
def test_a_source_refuses_such_a_deviation_and_leaves_the_sum(source, std):
    tensor = torch.ones(5)
    with pytest.raises(ValueError, match="Expected a standard deviation"):
        source.add_normal(tensor, std)
    assert (tensor == 1).all()


@given(stds, st.lists(st.floats(-(2.0**50), 2.0**50), min_size=1, max_size=20))
def test_a_sum_becomes_the_nearest_multiple(std, cells):
    spacing = grid_of(std)
    values = np.array(cells) * spacing
    expected = np.rint(values / spacing) * spacing
    assert np.array_equal(rounded(values, std), expected)
    tensor = torch.from_numpy(values)
    round_to_grid(tensor, std)
    assert np.array_equal(tensor.numpy(), expected)


def test_ties_go_to_the_even_multiple_and_zero_has_no_sign():
    assert rounded(np.array([0.5, 1.5, 2.5, -0.5, -1.5]) * grid_of(1.0), 1.0).tolist() == [
        cell * grid_of(1.0) for cell in (0, 2, 2, 0, -2)
    ]
    assert not np.signbit(rounded([-0.0, -1e-30, -(2.0**-10)], 1.0)).any()


def test_what_no_grid_can_hold_is_defined():
    largest = np.finfo(np.float64).max
    assert np.array_equal(rounded([np.inf, -np.inf, np.nan], 1.0), [np.inf, -np.inf, np.nan], equal_nan=True)
    for size in (2.0**51, 1.3 * 2.0**51, 1.7 * 2.0**52, 1e38, 1e300, largest / 2):
        values = np.array([size, -size])
        after = rounded(values, 256.0)
        assert np.allclose(after, values, rtol=2.0**-50, atol=0)
        assert np.array_equal(after, np.rint(after * 2) / 2)


@pytest.mark.parametrize("std", [1e-9, 1.0, 2.5, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_the_sum_the_same_numbers_can_come_out(source, std, dtype):
    spacing = grid_of(std)
    for total in (0.0, 1 / 3, -7.1, 1e-4):
        tensor = torch.full((2000,), total * std, dtype=dtype)
        source.add_normal(tensor, std, 0.25)
        cells = tensor.double() / (0.25 * spacing)
        assert torch.equal(cells, cells.round())
        assert float((cells * spacing / std - total).abs().max()) > 2
        assert not torch.signbit(tensor[tensor == 0]).any()


def share_of_coarse(values):
    """How many sums have no bit that a sum of 1,000 could not have."""
    return float((values * 2.0**43 == (values * 2.0**43).round()).double().mean())


def test_without_the_grid_the_last_bits_tell_the_sum(source, monkeypatch):
    """The attack of Mironov (2012) in its simplest form: it must work where nothing is rounded."""
    sums = [torch.full((500,), total, dtype=torch.float64) for total in (0.0, 1000.0)]
    with monkeypatch.context() as unrounded:
        for module in (noise, device_noise):
            unrounded.setattr(module, "round_to_grid", lambda *_: None)
        for total in sums:
            source.add_normal(total, 1.0)
    assert [share_of_coarse(total) > 0.9 for total in sums] == [False, True]
    sums = [torch.full((500,), total, dtype=torch.float64) for total in (0.0, 1000.0)]
    for total in sums:
        source.add_normal(total, 1.0)
    assert [share_of_coarse(total) for total in sums] == [1.0, 1.0]


def test_beyond_float32_a_value_is_infinite_without_a_warning(source):
    tensor = torch.tensor([3e38, -3e38, 1.0, torch.nan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.add_normal(tensor, 1.0, 1e10)
    assert tensor[:2].tolist() == [torch.inf, -torch.inf]
    assert torch.isfinite(tensor[2])
    assert torch.isnan(tensor[3])


@given(st.floats(-1e5, 1e5), st.floats(-9.5, 9.5), st.floats(0.5, 1.9))
def test_float64_puts_a_sum_into_the_cell_of_the_exact_one_but_near_a_border(total, draw, std):
    """Against rational arithmetic: eta of the module's notes, less what the draw itself may be off."""
    spacing = Fraction(grid_of(std))
    exact = Fraction(total) + Fraction(std) * Fraction(draw)
    cell = Fraction(float(rounded([draw * std + total], std)[0])) / spacing
    beyond = abs(exact / spacing - cell) * spacing - spacing / 2
    assert beyond <= Fraction(2.0**-52) * (abs(Fraction(total)) / 2 + 10 * Fraction(std))


def test_a_blurred_border_changes_a_cells_probability_as_the_notes_say():
    width = 2.0**-8  # the widest
    left = np.arange(-9.5, 9.5, width / 3)
    strips = norm.pdf(left) + norm.pdf(left + width)
    probability = np.where(left > 0, norm.sf(left) - norm.sf(left + width), norm.cdf(left + width) - norm.cdf(left))
    assert (strips * width / probability).max() < 2.01


def test_the_numbers_of_the_notes():
    unit = 2.01 * 2.0**9 * 2.0**-52
    assert unit == pytest.approx(2.3e-13, rel=0.01)
    assert 2 * unit * 81 < 4e-11
    for d, straight, walked in ((131_072, 5.6e-6, 1.4e-7), (71e6, 2.6e-3, 2.8e-6)):
        assert 2 * unit * (80 * d + math.sqrt(d) * 1e4 / 2) == pytest.approx(straight, rel=0.02)
        whole = unit * (80 * math.sqrt(d) + 1e4 / 2)
        walk = whole * (2 * math.sqrt(2 * math.log(1e15)) + 0.8 / 0.5) + 3 * whole**2
        assert walk == pytest.approx(walked, rel=0.02)
    for end, beyond in ((8, 1.2e-15), (9.4926, 2.3e-21), (12.226, 2.3e-34)):
        assert 2 * norm.sf(end) == pytest.approx(beyond, rel=0.05)

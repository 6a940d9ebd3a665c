"""The sparse products against dense ones, with their gradients, on rows of every kind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharma_fl.model.batches import Cells, SparseRows
from pharma_fl.model.kernel_choice import choose_kernel
from pharma_fl.model.kernels import (
    cell_products,
    coalesced,
    gather_sums,
    row_products,
    scatter_sums,
    sparse_row_squares,
)
from pharma_fl.model.layers import Head, SparseLinear
from pharma_fl.model.network import SparseMultitaskNetwork


def rows_of(dense, *, binary=False):
    """Compress dense rows."""
    filled = dense != 0
    counts = filled.sum(1)
    return SparseRows(
        indices=filled.nonzero()[:, 1],
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        values=None if binary else dense[filled],
        columns=dense.shape[1],
    )


def some_rows(seed, rows, columns, *, binary=False):
    generator = torch.Generator().manual_seed(seed)
    filled = torch.rand(rows, columns, generator=generator) < 0.3
    values = torch.ones(rows, columns) if binary else torch.rand(rows, columns, generator=generator) + 0.5
    return torch.where(filled, values, 0.0)


shapes = st.tuples(st.integers(0, 9), st.integers(1, 700), st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000), binary=st.booleans())
def test_products_equal_dense_ones(shape, seed, binary):
    rows, columns, width = shape
    dense = some_rows(seed, rows, columns, binary=binary)
    x = rows_of(dense, binary=binary)
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(columns, width, generator=generator, requires_grad=True)
    grad = torch.randn(rows, width, generator=generator)
    found = gather_sums(x, weight)
    torch.testing.assert_close(found, dense @ weight)
    (into,) = torch.autograd.grad(found, weight, grad, allow_unused=True)
    torch.testing.assert_close(into, dense.T @ grad)
    out = torch.full((columns, width), 3.0)
    scatter_sums(x, grad, out, add=True)
    torch.testing.assert_close(out, 3 + dense.T @ grad)
    scatter_sums(x, grad, out)
    torch.testing.assert_close(out, dense.T @ grad)
    torch.testing.assert_close(sparse_row_squares(x), dense.double().square().sum(1))
    torch.testing.assert_close(x.dense(), dense)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), tasks=st.integers(1, 6), width=st.integers(1, 40), seed=st.integers(0, 1000))
def test_labelled_cells_equal_the_whole_head(rows, tasks, width, seed):
    x = rows_of(some_rows(seed, rows, tasks))
    cells = Cells(columns=x.indices, offsets=x.offsets, values=x.values, censor=torch.zeros_like(x.values))
    generator = torch.Generator().manual_seed(seed + 1)
    features = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(tasks, width, generator=generator, requires_grad=True)
    grad = torch.randn(len(cells), generator=generator)
    found = cell_products(features, weight, cells)
    expected = (features @ weight.T)[cells.rows, cells.columns]
    torch.testing.assert_close(found, expected)
    if len(cells):
        ours = torch.autograd.grad(found, (features, weight), grad)
        theirs = torch.autograd.grad(expected, (features, weight), grad)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_places_that_come_twice_add_up_before_they_are_squared():
    x = SparseRows(
        indices=torch.tensor([4, 1, 4, 0, 1]),
        offsets=torch.tensor([0, 3, 3, 5]),
        values=torch.tensor([1.0, 2.0, 3.0, 1.0, -1.0]),
        columns=6,
    )
    assert sparse_row_squares(x).tolist() == [20.0, 0.0, 2.0]
    assert coalesced(x).indices.tolist() == [1, 4, 0, 1]
    pairs = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 0, 2])
    assert row_products(x, pairs[0], pairs[1]).tolist() == [20.0, -2.0, 0.0, 2.0]
    ones = SparseRows(indices=x.indices, offsets=x.offsets, values=None, columns=6)
    assert sparse_row_squares(ones).tolist() == [5.0, 0.0, 2.0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_dense_kernel_equals_the_gathering_one(dtype, tolerance):
    x = rows_of(some_rows(3, 20, 50))
    layer = SparseLinear(50, 7, scale=0.4)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    backprops = torch.randn(20, 7)
    coefficients = torch.rand(20)
    found = {}
    for kernel in ("gather", "dense"):
        layer.kernel, layer.dtype = kernel, dtype
        into = {"weight": torch.empty_like(layer.weight), "bias": torch.empty_like(layer.bias)}
        layer.gradient_sums(backprops, x, coefficients=coefficients, finite=True, into=into, add=False)
        found[kernel] = layer(x).detach(), into["weight"], into["bias"], layer.input_squares(x)
    for a, b in zip(*found.values(), strict=True):
        assert float((a - b).norm() / a.norm()) < tolerance
    assert found["dense"][1].dtype == torch.float32
    assert layer.dense_shapes() == [(50, 7)]


def test_the_kernel_that_is_measured_as_faster_is_set():
    from pharma_fl.config import ModelSettings

    model = ModelSettings(input_bits=8192, hidden=(64,), frozen_layers=1, adapter_rank=2)
    network = SparseMultitaskNetwork(model, class_tasks=1, value_tasks=0, seed=0)
    kernel = choose_kernel(network.trunk, rows=256, precision="float32")
    assert {layer.kernel for layer in network.modules() if isinstance(layer, SparseLinear)} == {kernel}


def test_a_slower_kernel_is_not_taken(monkeypatch):
    from pharma_fl.config import ModelSettings
    from pharma_fl.model import kernel_choice

    seconds = iter([2.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(kernel_choice, "_seconds", lambda act, device: next(seconds))
    kernel_choice._faster.cache_clear()
    network = SparseMultitaskNetwork(ModelSettings(input_bits=16, hidden=(4,)), class_tasks=1, value_tasks=0, seed=0)
    assert choose_kernel(network.trunk, rows=256, precision="bfloat16") == "dense"
    assert network.trunk.input.kernel == "dense"
    assert network.trunk.input.dtype == torch.float32  # bfloat16 is for GPUs
    kernel_choice._faster.cache_clear()


def test_a_head_without_tasks_or_labels_gives_nothing():
    head = Head(5, 0)
    empty = Cells(
        columns=torch.zeros(0, dtype=torch.int64),
        offsets=torch.zeros(4, dtype=torch.int64),
        values=torch.zeros(0),
        censor=torch.zeros(0),
    )
    assert head(torch.ones(3, 5), empty).shape == (0,)
    assert head(torch.ones(3, 5)).shape == (3, 0)

"""The fast source has the law of the others, and goes on from nothing."""

import multiprocessing
import secrets

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pharma_fl.privacy import philox_noise
from pharma_fl.privacy.device_noise import chunk_on
from pharma_fl.privacy.grid import grid_of
from pharma_fl.privacy.philox_noise import PhiloxNoise

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


def draws(n, std=1.0, device="cpu"):
    tensor = torch.zeros(n, device=device)
    PhiloxNoise(device).add_normal(tensor, std)
    return tensor.cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
def test_the_right_sigma_is_accepted_and_wrong_ones_rejected(device):
    sample = draws(200_000, 2.5, device)
    assert kstest(sample / 2.5, "norm").pvalue > 1e-6
    assert kstest(sample / (2.5 * 2 / 3), "norm").pvalue < 1e-12
    assert kstest(sample / (2.5 * 3 / 2), "norm").pvalue < 1e-12


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.8, 1.0])
def test_masks_keep_their_share(device, probability):
    n = 300_001
    first, second = (PhiloxNoise(device).keep_mask(n, probability).cpu() for _ in range(2))
    assert first.dtype == torch.bool
    spread = np.sqrt(probability * (1 - probability) / n)
    assert abs(first.double().mean().item() - probability) <= 6 * spread
    assert abs((first & second).double().mean().item() - probability**2) <= 8 * spread


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_other_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match="probability"):
        PhiloxNoise("cpu").keep_mask(1, probability)


def test_every_call_is_seeded_anew_with_64_bits_and_keeps_nothing(monkeypatch):
    asked, seeds = [], []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or 2**64 - len(asked))

    class Watched(torch.Generator):
        def manual_seed(self, seed):
            seeds.append(seed)
            return super().manual_seed(seed)

    monkeypatch.setattr(philox_noise.torch, "Generator", Watched)
    noise = PhiloxNoise("cpu")
    assert asked == []
    noise.add_normal(torch.zeros(2 * chunk_on(torch.device("cpu")) + 1), 1.0)
    noise.keep_mask(5, 0.5)
    noise.add_normal(torch.zeros(3), 1.0)
    assert asked == [64] * 3
    assert seeds == [2**64 - 1, 2**64 - 2, 2**64 - 3]
    assert vars(noise) == {"_device": torch.device("cpu")}


def test_each_number_follows_from_its_calls_seed_alone(monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 77)
    chunk = chunk_on(torch.device("cpu"))
    generator = torch.Generator().manual_seed(77)
    parts = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (chunk, 9)]
    spacing = grid_of(3.0)
    expected = torch.round((torch.cat(parts) * 3.0 + 1) / spacing) * spacing
    for _ in range(2):
        tensor = torch.ones(chunk + 9, dtype=torch.float64)
        PhiloxNoise("cpu").add_normal(tensor, 3.0)
        assert torch.equal(tensor, expected)


def test_chunks_and_calls_are_independent():
    chunk = chunk_on(torch.device("cpu"))
    noise = PhiloxNoise("cpu")
    rows = torch.zeros(2, 3 * chunk)
    for row in rows:
        noise.add_normal(row, 1.0)
    table = rows.view(6, chunk)
    table = torch.cat([table, table.abs()])
    assert (torch.corrcoef(table) - torch.eye(12)).abs().max() < 7 / np.sqrt(chunk)


def test_no_global_generator_is_touched_and_none_fixes_it():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = draws(1000)
    PhiloxNoise("cpu").keep_mask(10, 0.5)
    assert torch.rand(1) == expected
    torch.manual_seed(3)
    assert not np.array_equal(draws(1000), first)


def _in_child(source, queue):
    tensor = torch.zeros(8)
    source.add_normal(tensor, 1.0)
    queue.put(tensor.tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_draws_its_own():
    source = PhiloxNoise("cpu")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_in_child, args=(source, queue)) for _ in range(2)]
    for child in children:
        child.start()
    tensor = torch.zeros(8)
    source.add_normal(tensor, 1.0)
    seen = [queue.get(), queue.get(), tensor.tolist()]
    for child in children:
        child.join()
    assert len({tuple(values) for values in seen}) == 3


@CUDA
def test_a_gpu_reads_all_bits_of_the_seed(monkeypatch):
    seen = []
    for seed in (7, 7 + 2**32, 7 + 2**63):
        monkeypatch.setattr(secrets, "randbits", lambda _, seed=seed: seed)
        seen.append(tuple(draws(64, device="cuda")))
    assert len(set(seen)) == 3

"""The noise has its law, and a wrong law is rejected; nobody shares a draw."""

import copy
import multiprocessing
import pickle
import random
import secrets

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import kstest

from pharma_fl.privacy.noise import SystemNoise, poisson_sample


def draws(std=1.0, n=200_000):
    tensor = torch.zeros(n)
    SystemNoise().add_normal(tensor, std)
    return tensor.numpy()


def test_the_right_sigma_is_accepted_and_wrong_ones_rejected():
    sample = draws(2.5)
    assert kstest(sample / 2.5, "norm").pvalue > 1e-6
    assert kstest(sample / (2.5 * 2 / 3), "norm").pvalue < 1e-12
    assert kstest(sample / (2.5 * 3 / 2), "norm").pvalue < 1e-12


def test_noise_is_added_and_chunks_are_independent():
    tensor = torch.full((1 << 19,), 7.0)
    SystemNoise().add_normal(tensor, 0.5)
    first, second = tensor[: 1 << 18] - 7, tensor[1 << 18 :] - 7
    assert float(first.mean()) == pytest.approx(0, abs=0.01)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.01


def test_seeding_the_process_fixes_nothing():
    def seeded():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the legacy generator is what must not matter
        torch.manual_seed(1)
        return draws(n=8)

    assert not np.allclose(seeded(), seeded())


def test_no_global_generator_is_touched():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draws(n=1000)
    poisson_sample(SystemNoise(), records=100, sample_rate=0.5)
    assert torch.rand(1) == expected


def _in_child(source, queue):
    queue.put(source.uniform(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_draws_its_own():
    source = SystemNoise()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_in_child, args=(source, queue)) for _ in range(2)]
    for child in children:
        child.start()
    seen = [queue.get(), queue.get(), source.uniform(4)]
    for child in children:
        child.join()
    assert len({tuple(values) for values in seen}) == 3


def test_poisson_sampling_has_its_law():
    source = SystemNoise()
    counts = np.zeros(200)
    sizes = []
    for _ in range(4000):
        rows = poisson_sample(source, records=200, sample_rate=0.1)
        counts[rows] += 1
        sizes.append(len(rows))
    assert np.all(np.abs(counts / 4000 - 0.1) < 0.03)
    assert np.mean(sizes) == pytest.approx(20, abs=0.5)
    assert np.var(sizes) == pytest.approx(18, rel=0.15)


def test_an_empty_sample_is_possible():
    assert len(poisson_sample(SystemNoise(), records=0, sample_rate=0.5)) == 0
    assert len(poisson_sample(SystemNoise(), records=5, sample_rate=1.0)) == 5


def test_each_thread_has_a_key_of_128_bits_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or len(asked))
    source = SystemNoise(threads=3)
    assert asked == [128] * 3
    assert len({tuple(generator.random(4)) for generator in source._generators}) == 3


def test_the_key_stream_is_that_of_aes_in_counter_mode(monkeypatch):
    """Against another implementation of AES-128, with randomgen's counter: little-endian, from zero."""
    key = 0x2B7E151628AED2A6ABF7158809CF4F3C
    monkeypatch.setattr(secrets, "randbits", lambda _: key)
    stream = SystemNoise(threads=1)._generators[0].bit_generator.random_raw(64).astype("<u8").tobytes()
    cipher = Cipher(algorithms.AES(key.to_bytes(16, "little")), modes.ECB()).encryptor()  # one block at a time
    assert stream == b"".join(cipher.update(counter.to_bytes(16, "little")) for counter in range(32))


def test_several_threads_draw_all_of_it_once():
    one, several = torch.zeros(1_000_003), torch.zeros(1_000_003)
    SystemNoise(threads=1).add_normal(one, 1.0)
    SystemNoise(threads=3).add_normal(several, 1.0)
    for sample in (one, several):
        assert kstest(sample.numpy(), "norm").pvalue > 1e-6
        assert len(torch.unique(sample)) > 950_000
        assert int((sample == 0).sum()) <= 1


def test_masks_have_their_law():
    mask = SystemNoise().keep_mask(200_000, 0.7, torch.device("cpu"))
    assert mask.dtype == torch.bool
    assert float(mask.double().mean()) == pytest.approx(0.7, abs=0.006)
    assert bool(SystemNoise().keep_mask(100, 1.0, torch.device("cpu")).all())


def test_the_sum_is_multiplied_on_the_way():
    tensor = torch.full((100_003,), 8.0)
    SystemNoise().add_normal(tensor, 1e-9, 0.25)
    assert float((tensor - 2.0).abs().max()) < 1e-6
    sample = torch.zeros(100_003)
    SystemNoise().add_normal(sample, 4.0, 0.25)
    assert kstest(sample.numpy(), "norm").pvalue > 1e-6


def test_a_source_cannot_be_copied():
    """Two mechanisms with one key stream would add the same noise, and their difference none."""
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="same noise twice"):
            act(SystemNoise())

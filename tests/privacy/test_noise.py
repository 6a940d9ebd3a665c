"""The noise has its law, and a wrong law is rejected; nobody shares a draw."""

import copy
import multiprocessing
import pickle
import random
import secrets
import threading

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import kstest

from pharma_fl.privacy.device_noise import DeviceNoise
from pharma_fl.privacy.noise import _CHUNK, SystemNoise
from pharma_fl.privacy.philox_noise import PhiloxNoise


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
    SystemNoise().uniform(100)
    SystemNoise().keep_mask(100, 0.5, torch.device("cpu"))
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


def test_uniform_has_its_law():
    sample = SystemNoise().uniform(200_001)
    assert sample.shape == (200_001,)
    assert sample.dtype == np.float64
    assert sample.min() >= 0
    assert sample.max() < 1
    assert kstest(sample, "uniform").pvalue > 1e-6
    assert kstest(sample * 1.02, "uniform").pvalue < 1e-6
    assert SystemNoise().uniform(0).shape == (0,)


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


def correlations(chunks):
    """Return the largest correlation of two chunks' values or sizes."""
    rows = np.concatenate([chunks, np.abs(chunks)])
    return np.abs(np.corrcoef(rows) - np.eye(len(rows))).max()


@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_draw_all_of_it_once(threads):
    start = 0.3  # not on the grid, so that what is left out stays
    tensor = torch.full((1_000_003,), start)
    SystemNoise(threads=threads).add_normal(tensor, 1.0)
    assert (tensor != start).all()
    sample = tensor.numpy() - np.float32(start)
    assert kstest(sample, "norm").pvalue > 1e-6
    chunks = sample[: 30 * _CHUNK].reshape(30, _CHUNK)
    assert correlations(chunks) < 7 / np.sqrt(_CHUNK)


def test_threads_with_one_key_would_be_noticed(monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 5)
    tensor = torch.zeros(30 * _CHUNK)
    SystemNoise(threads=3).add_normal(tensor, 1.0)
    assert correlations(tensor.numpy().reshape(30, _CHUNK)) > 0.99


def test_threads_that_share_a_source_share_no_draw():
    source, seen = SystemNoise(threads=2), []

    def draw():
        noise = torch.zeros(2 * _CHUNK, dtype=torch.float64)
        for _ in range(5):
            seen.append(source.uniform(1000))
            source.add_normal(noise, 1.0)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(np.unique(np.concatenate(seen))) == 20_000


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


def test_no_noise_leaves_the_tensor():
    tensor = torch.tensor([1.0, -0.0, torch.inf, torch.nan])
    before = tensor.numpy().tobytes()
    SystemNoise().add_normal(tensor, 0.0)
    assert tensor.numpy().tobytes() == before
    SystemNoise().add_normal(tensor, 0.0, 0.5)
    assert tensor[0] == 0.5


def test_any_shape_is_noised_in_place():
    for shape in ((), (0,), (3, 0), (7,), (13, 41)):
        tensor = torch.full(shape, 0.3)
        SystemNoise().add_normal(tensor, 1.0)
        assert tensor.shape == shape
        assert (tensor != 0.3).all()
    parameter = torch.nn.Parameter(torch.full((10,), 0.3))
    SystemNoise().add_normal(parameter, 1.0)
    assert (parameter != 0.3).all()


@pytest.mark.parametrize("tensor", [torch.zeros(4, 3).T, torch.zeros(10)[::2], torch.zeros(2, dtype=torch.int64)])
def test_other_tensors_are_refused(tensor):
    with pytest.raises(ValueError, match="Expected a "):
        SystemNoise().add_normal(tensor, 1.0)
    assert (tensor == 0).all()


@pytest.mark.parametrize(("secure", "kind"), [(True, DeviceNoise), (False, PhiloxNoise)])
def test_the_switch_chooses_the_source_of_other_devices(secure, kind):
    source = SystemNoise(secure=secure)
    device = torch.device("meta")
    assert type(source._on(device)) is kind
    assert source._on(device) is source._on(device)
    assert type(SystemNoise()._on(device)) is DeviceNoise


def test_on_a_cpu_the_switch_changes_nothing(monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 11)
    drawn = []
    for secure in (True, False):
        source = SystemNoise(threads=2, secure=secure)
        tensor = torch.zeros(3 * _CHUNK)
        source.add_normal(tensor, 1.0)
        mask = source.keep_mask(1000, 0.5, torch.device("cpu"))
        drawn.append((tensor, mask, torch.from_numpy(source.uniform(5))))
        assert source._devices == {}
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))


def test_a_source_cannot_be_copied():
    """Two mechanisms with one key stream would add the same noise, and their difference none."""
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="same noise twice"):
            act(SystemNoise())

"""The key stream is ChaCha20's, the noise has its law, and nobody shares a draw."""

import copy
import logging
import multiprocessing
import pickle
import secrets
import threading

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy.stats import kstest

from pharma_fl.privacy import device_noise
from pharma_fl.privacy.device_noise import DeviceNoise, chacha20_blocks, normals, start_state, unit
from pharma_fl.privacy.grid import grid_of

KEY = bytes(range(32))
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LIMITS = (-(2**31), 2**31 - 1)


def oracle(key, first, n, nonce=bytes(8)):
    """Return OpenSSL's blocks as unsigned words (16, n); one cipher a block, as some builds count 32 bits alone."""
    counters = (counter.to_bytes(8, "little") for counter in range(first, first + n))
    ciphers = (Cipher(algorithms.ChaCha20(key, counter + nonce), mode=None) for counter in counters)
    stream = b"".join(cipher.encryptor().update(bytes(64)) for cipher in ciphers)
    return np.frombuffer(stream, dtype="<u4").reshape(n, 16).T


def unsigned(words):
    return words.cpu().numpy().view(np.uint32)


def draws(n, std=1.0, device="cpu"):
    tensor = torch.zeros(n, device=device)
    DeviceNoise(device).add_normal(tensor, std)
    return tensor.cpu()


@pytest.fixture
def known_key(monkeypatch):
    monkeypatch.setattr(secrets, "token_bytes", lambda _: KEY)


@pytest.fixture(scope="module")
def many():
    return draws(1 << 22).numpy()


def test_the_block_of_rfc_8439_section_2_3_2():
    nonce = bytes.fromhex("000000090000004a00000000")
    # the RFC's nonce has 96 bits; its first 32 are the upper half of our counter
    counter = 1 | int.from_bytes(nonce[:4], "little") << 32
    expected = """e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3
        466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2"""
    block = unsigned(chacha20_blocks(start_state(KEY, nonce[4:]), counter, 1))
    assert [f"{word:08x}" for word in block[:, 0]] == expected.split()


@pytest.mark.parametrize("first", [0, 1, 2**31 - 5, 2**32 - 5, 2**38 + 3, 2**63 - 1000])
@pytest.mark.parametrize("n", [1, 77, 999])
def test_the_key_stream_is_that_of_openssl(first, n):
    key = secrets.token_bytes(32)
    assert np.array_equal(unsigned(chacha20_blocks(start_state(key), first, n)), oracle(key, first, n))


def test_the_fused_double_round_is_the_same():
    state = torch.randint(*LIMITS, (16, 13), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(device_noise._double_round_of_words(state), device_noise._double_round_of_rows(state))


def test_each_number_is_what_its_bits_say(known_key):
    noise = DeviceNoise("cpu")

    words = oracle(KEY, 0, 64).astype(object)  # Python's own integers
    radius = np.sqrt(-2 * np.log(((words[:4] * 2**32 + words[4:8]) ^ 2**63 ^ 2**31).astype(float) * 2.0**-64))
    angle = 2 * np.pi * ((words[8:12] * 2**32 + words[12:]) ^ 2**63 ^ 2**31).astype(float) * 2.0**-64
    tensor = torch.ones(500, dtype=torch.float64)
    noise.add_normal(tensor, 3.0)
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).ravel()[:500]
    spacing = grid_of(3.0)
    assert np.array_equal(tensor.numpy(), np.rint((1 + 3 * values) / spacing) * spacing)

    words = oracle(KEY, 64, 64).astype(object)
    expected = ((words[:8] % 2**21) * 2**32 + words[8:]).astype(float) * 2.0**-53
    assert np.array_equal(noise.uniform(500).numpy(), expected.ravel()[:500])

    words = oracle(KEY, 128, 64)
    assert np.array_equal(noise.keep_mask(1000, 0.3).numpy(), ((words ^ 2**31) < 0.3 * 2**32).ravel()[:1000])


def test_the_extremes_are_finite_and_reach_beyond_nine_sigma():
    lowest, highest = (torch.tensor([word], dtype=torch.int32) for word in LIMITS)
    assert float(unit(lowest, lowest)) == 2.0**-65
    assert float(unit(lowest, lowest + 1)) == 3 * 2.0**-65
    assert float(unit(highest, highest)) == 1
    for high, low, size in ((lowest, lowest, 9.4926), (highest, highest, 0.0)):
        blocks = torch.cat([high.repeat(4), low.repeat(4), lowest.repeat(8)])[:, None]
        values = normals(blocks)
        assert torch.isfinite(values).all()
        assert values.abs().max().item() == pytest.approx(size, abs=1e-4)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="needs floating-point numbers longer than float64")
def test_a_draw_is_as_near_to_the_real_one_as_the_grid_assumes(known_key):
    """Of `grid`'s 80 units of 2^-52, Box and Muller's values have 78; the product and the sum take the rest."""
    words = chacha20_blocks(start_state(KEY), 0, 1 << 16)
    tails = words.clone()
    tails[:4], tails[4:8] = LIMITS[0], tails[4:8] // 2**24  # radii of 6 to 9.49
    for blocks in (words, tails):
        bits = blocks.numpy().astype(np.int64) + 2**31
        wide = [(bits[i : i + 4] * np.longdouble(2**32) + bits[i + 4 : i + 8] + 0.5) * 2.0**-64 for i in (0, 8)]
        radius = np.sqrt(-2 * np.log(wide[0]))
        angle = 2 * np.longdouble("3.14159265358979323846264338") * wide[1]
        error = normals(blocks).numpy() - np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).ravel()
        units = np.abs(error) / np.finfo(np.float64).eps
        small = np.tile(radius.ravel(), 2) < 0.01
        assert units[~small].max() < 78
        assert (units * np.tile(radius.ravel(), 2))[small].max(initial=0) < 0.5


def test_the_right_sigma_is_accepted_and_wrong_ones_rejected():
    sample = draws(200_000, 2.5).numpy()
    assert kstest(sample / 2.5, "norm").pvalue > 1e-6
    assert kstest(sample / (2.5 * 2 / 3), "norm").pvalue < 1e-12
    assert kstest(sample / (2.5 * 3 / 2), "norm").pvalue < 1e-12


def test_the_tails_are_a_normal_laws(many):
    wide = many.astype(np.float64)
    assert (wide**4).mean() / (wide**2).mean() ** 2 == pytest.approx(3, abs=0.015)
    assert (wide**3).mean() == pytest.approx(0, abs=0.012)
    expected = 6.334e-5 * len(many)
    for tail in (many > 4, many < -4):
        assert abs(tail.sum() - expected / 2) < 6 * np.sqrt(expected / 2)
    # the count would not pass with another sigma
    assert (np.abs(many) > 4 * 2 / 3).sum() > 10 * expected
    assert (np.abs(many) > 4 * 3 / 2).sum() < expected / 10


def unrelated(first, second):
    """Return whether neither values nor sizes go together."""
    bound = 6 / np.sqrt(len(first))
    pairs = ((first, second), (first**2, second**2), (first**2, second))
    return all(abs(np.corrcoef(one, other)[0, 1]) < bound for one, other in pairs)


def test_values_chunks_and_calls_are_independent(many):
    chunk = device_noise._CHUNK["cpu"]
    pair = chunk // 2  # the distance of two values that share a radius
    for distance in (1, 2, pair // 4, pair, chunk, chunk + 1):
        assert unrelated(many[:-distance], many[distance:])
    noise = DeviceNoise("cpu")
    first, second = torch.zeros(2, 10_007)
    noise.add_normal(first, 1)
    noise.add_normal(second, 1)
    assert unrelated(first.numpy(), second.numpy())
    assert not unrelated(first.numpy(), first.numpy())


def test_no_block_is_used_twice(monkeypatch):
    spans = []
    blocks = device_noise.chacha20_blocks
    monkeypatch.setattr(
        device_noise, "chacha20_blocks", lambda start, first, n: spans.append((first, n)) or blocks(start, first, n)
    )
    noise = DeviceNoise("cpu")
    noise.add_normal(torch.zeros(3 * device_noise._CHUNK["cpu"] + 1), 1)
    noise.uniform(1)
    noise.keep_mask(5, 0.5)
    noise.uniform(8 * 64 + 1)
    assert len(spans) == 7
    assert [first for first, _ in spans] == [sum(n for _, n in spans[:i]) for i in range(7)]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (7,), (13, 41), ((1 << 17) + 3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_entry_of_any_shape_gets_noise(shape, dtype):
    start = 0.3  # not on the grid, so that what is left out stays
    tensor = torch.full(shape, start, dtype=dtype)
    assert DeviceNoise("cpu").add_normal(tensor, 0.5) is None
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert (tensor != start).all()
    assert ((tensor - start).abs() < 9.5 * 0.5).all()


def test_float64_keeps_its_digits_and_float32_is_rounded_once(known_key):
    exact, rounded = torch.full((1000,), 1e6, dtype=torch.float64), torch.full((1000,), 1e6)
    DeviceNoise("cpu").add_normal(exact, 1.0, 1 / 3)
    DeviceNoise("cpu").add_normal(rounded, 1.0, 1 / 3)
    assert not torch.equal(exact, exact.float().double())
    assert torch.equal(exact.float(), rounded)


def test_no_noise_leaves_the_tensor():
    tensor = torch.tensor([1.0, -0.0, torch.inf, torch.nan])
    before = tensor.numpy().tobytes()
    DeviceNoise("cpu").add_normal(tensor, 0.0)
    assert tensor.numpy().tobytes() == before


def test_a_parameter_and_a_slice_are_noised_in_place():
    parameter = torch.nn.Parameter(torch.full((10,), 0.3))
    DeviceNoise("cpu").add_normal(parameter, 1.0)
    assert (parameter != 0.3).all()
    whole = torch.full((10,), 0.3)
    DeviceNoise("cpu").add_normal(whole[3:6], 1.0)
    assert ((whole != 0.3) == torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0, 0]).bool()).all()


@pytest.mark.parametrize("tensor", [torch.zeros(4, 3).T, torch.zeros(10)[::2], torch.zeros(2, dtype=torch.int64)])
def test_other_tensors_are_refused(tensor):
    with pytest.raises(ValueError, match="Expected a "):
        DeviceNoise("cpu").add_normal(tensor, 1.0)
    assert (tensor == 0).all()


def test_uniform_has_its_law():
    sample = DeviceNoise("cpu").uniform(200_001)
    assert sample.shape == (200_001,)
    assert sample.dtype == torch.float64
    assert kstest(sample.numpy(), "uniform").pvalue > 1e-6
    assert kstest(sample.numpy() * 1.02, "uniform").pvalue < 1e-6
    assert DeviceNoise("cpu").uniform(0).shape == (0,)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_masks_keep_their_share(probability):
    n = 300_001
    noise = DeviceNoise("cpu")
    first, second = (noise.keep_mask(n, probability) for _ in range(2))
    assert first.shape == (n,)
    assert first.dtype == torch.bool
    spread = np.sqrt(probability * (1 - probability) / n)
    assert abs(first.double().mean().item() - probability) <= 6 * spread
    both = probability**2
    for one, other in ((first, second), (first[:-1], first[1:])):
        assert abs((one & other).double().mean().item() - both) <= 8 * np.sqrt(both * (1 - both) / n)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_other_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match="probability"):
        DeviceNoise("cpu").keep_mask(1, probability)


def test_seeding_the_process_fixes_nothing():
    def seeded():
        torch.manual_seed(1)
        return set(DeviceNoise("cpu").uniform(10_000).tolist())

    assert not seeded() & seeded()


def test_no_global_generator_is_touched():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draws(1000)
    DeviceNoise("cpu").keep_mask(10, 0.5)
    DeviceNoise("cpu").uniform(10)
    assert torch.rand(1) == expected


def test_the_key_has_256_bits_and_is_not_shown(monkeypatch):
    asked = []
    monkeypatch.setattr(secrets, "token_bytes", lambda count: asked.append(count) or KEY)
    noise = DeviceNoise("cpu")
    assert asked == [32]
    assert "tensor" not in repr(noise)


@pytest.mark.parametrize("repeat", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_source_cannot_be_copied(repeat):
    with pytest.raises(TypeError, match="repeat"):
        repeat(DeviceNoise("cpu"))


def test_threads_draw_their_own():
    noise = DeviceNoise("cpu")
    seen = [set(noise.uniform(100).tolist())]
    threads = [threading.Thread(target=lambda: seen.append(set(noise.uniform(100).tolist()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set.union(*seen)) == 400


def _in_child(source, queue):
    queue.put(source.uniform(4).tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_draws_its_own():
    source = DeviceNoise("cpu")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_in_child, args=(source, queue)) for _ in range(2)]
    for child in children:
        child.start()
    seen = [queue.get(), queue.get(), source.uniform(4).tolist()]
    for child in children:
        child.join()
    assert len({tuple(values) for values in seen}) == 3


def _no_compiler(*_, **__):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (_no_compiler, "RuntimeError"),
        (lambda *_, **__: torch.zeros_like, "its result is wrong"),
        (lambda f, **__: f, ""),
    ],
)
def test_a_compiler_that_fails_or_errs_is_not_used(monkeypatch, caplog, compiler, reason):
    monkeypatch.setattr(torch, "compile", compiler)
    with caplog.at_level(logging.WARNING):
        chosen = device_noise._compiled_if_right(torch.device("cpu"))
    assert (chosen is device_noise._double_round_of_rows) == bool(reason)
    assert len(caplog.records) == bool(reason)
    assert reason in caplog.text


def test_a_cpu_never_compiles(monkeypatch):
    device_noise._double_round_on.cache_clear()
    monkeypatch.setattr(torch, "compile", _no_compiler)
    assert torch.isfinite(draws(10)).all()


@CUDA
def test_a_gpu_has_the_same_key_stream():
    key = secrets.token_bytes(32)
    for first in (0, 2**32 - 5, 2**38 + 3):
        for n in (1, 64, 1000):
            blocks = chacha20_blocks(start_state(key).cuda(), first, n)
            assert np.array_equal(unsigned(blocks), oracle(key, first, n))


@CUDA
def test_noise_on_a_gpu_has_its_law():
    sample = draws((1 << 22) + 13, 2.5, "cuda").numpy()  # a second chunk
    assert (sample != 0).all()
    assert kstest(sample[-200_000:] / 2.5, "norm").pvalue > 1e-6
    assert kstest(sample[-200_000:] / (2.5 * 2 / 3), "norm").pvalue < 1e-12
    assert DeviceNoise("cuda").keep_mask(100_000, 0.3).double().mean().item() == pytest.approx(0.3, abs=0.01)


def test_the_sum_is_multiplied_on_the_way():
    noise = DeviceNoise("cpu")
    tensor = torch.full((100_003,), 8.0)
    noise.add_normal(tensor, 1e-9, 0.25)
    assert float((tensor - 2.0).abs().max()) < 1e-6
    noise.add_normal(tensor, 0.0, 0.5)
    assert float((tensor - 1.0).abs().max()) < 1e-6

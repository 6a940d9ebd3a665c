"""Randomness that nobody can predict or replay."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from randomgen import AESCounter
from torch import Tensor

from pharma_fl.privacy.device_noise import DeviceNoise, check_noisable
from pharma_fl.privacy.discrete_gaussian import add_to, check_addable
from pharma_fl.privacy.grid import round_to_grid
from pharma_fl.privacy.philox_noise import PhiloxNoise

_CHUNK = 1 << 15
"""Normals drawn at a time by one thread: they stay in its processor's cache."""


class NoiseSource(Protocol):
    """Where sampling, noise and dropout's masks come from."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return float64 (count,) in [0, 1)."""

    def keep_mask(self, count: int, probability: float, device: torch.device) -> Tensor:
        """Return bool (count,), each true with that probability, independently."""

    def add_normal(self, tensor: Tensor, std: float, scale: float = 1.0) -> None:
        """Add independent Gaussian noise to every entry, round to the grid and multiply the sum, in place."""

    def add_discrete_gaussian(self, vector: NDArray[np.int32] | NDArray[np.int64], std: float) -> None:
        """Add independent discrete Gaussian noise to every entry, in place, modulo two to the number of its bits."""


class SystemNoise:
    """AES-128 in counter mode, each thread's key drawn from the operating system.

    Keys follow from no seed, round or run, are never stored or logged, and are drawn anew in a forked
    process, so that no two threads, processes, partners or rounds share a draw. A restart draws new keys.
    Sampling always comes from here. Noise and masks for a tensor on a GPU are made there.

    Parameters
    ----------
    threads : int, optional
        How many draw at the same time; left out, as many as PyTorch uses.
    secure : bool
        On a GPU: `DeviceNoise`, a cipher's key stream, or the faster `PhiloxNoise`, which is none. On a CPU it changes
        nothing, as there is little to gain: processors have AES built in, and a normal from it takes 10 ns of one core
        against 8 with numpy's fastest generator and 12 with its Philox.
    """

    def __init__(self, threads: int | None = None, *, secure: bool = True) -> None:
        self._threads = threads or torch.get_num_threads()
        self._secure = secure
        self._process = -1
        self._pool: ThreadPoolExecutor | None = None
        self._devices: dict[torch.device, DeviceNoise | PhiloxNoise] = {}
        self._generators: list[np.random.Generator] = []
        self._rekey()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A copied noise source would draw the same noise twice. Make another SystemNoise.")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return float64 (count,) in [0, 1), of 53 bits."""
        self._check_process()
        return self._generators[0].random(count)

    def keep_mask(self, count: int, probability: float, device: torch.device) -> Tensor:
        """Return bool (count,), each true with that probability to 2^-32, independently."""
        self._check_process()
        if device.type != "cpu":
            return self._on(device).keep_mask(count, probability)
        bits = np.frombuffer(self._generators[0].bytes(4 * count), dtype=np.uint32)
        return torch.from_numpy(bits < round(probability * 2**32))

    def add_normal(self, tensor: Tensor, std: float, scale: float = 1.0) -> None:
        """Add independent Gaussian noise, round to the public grid and multiply, in place and chunk by chunk.

        Parameters, errors and what is rounded when are those of `device_noise.add_in_chunks`.
        """
        check_noisable(tensor, std)
        self._check_process()
        if tensor.device.type != "cpu":
            self._on(tensor.device).add_normal(tensor, std, scale)
            return
        if std == 0:
            tensor.detach().mul_(scale)
            return
        flat = tensor.detach().view(-1).numpy()
        self._in_threads(len(flat), lambda generator, starts: _add(generator, flat, starts, std, scale))

    def add_discrete_gaussian(self, vector: NDArray[np.int32] | NDArray[np.int64], std: float) -> None:
        """Add independent discrete Gaussian noise, in place and chunk by chunk.

        Parameters and errors are those of `discrete_gaussian.add_to`.
        """
        check_addable(vector, std)
        self._check_process()
        flat = vector.reshape(-1)

        def add(generator: np.random.Generator, starts: Iterable[int]) -> None:
            for start in starts:
                add_to(generator, flat[start : start + _CHUNK], std)

        self._in_threads(len(flat), add)

    def _in_threads(self, count: int, add: Callable[[np.random.Generator, Iterable[int]], None]) -> None:
        """Share the chunks of `count` values between threads; each draws from a generator of its own."""
        starts = range(0, count, _CHUNK)
        workers = min(self._threads, len(starts))
        if workers <= 1:
            add(self._generators[0], starts)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="noise")
        shares = [
            self._pool.submit(add, self._generators[worker], starts[worker::workers]) for worker in range(workers)
        ]
        for share in shares:
            share.result()

    def _on(self, device: torch.device) -> DeviceNoise | PhiloxNoise:
        if device not in self._devices:
            self._devices[device] = DeviceNoise(device) if self._secure else PhiloxNoise(device)
        return self._devices[device]

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            self._rekey()

    def _rekey(self) -> None:
        self._process = os.getpid()
        # A fork leaves no threads behind.
        self._pool, self._devices = None, {}
        keys = (secrets.randbits(128) for _ in range(self._threads))
        self._generators = [np.random.Generator(AESCounter(key=key)) for key in keys]


def _add(
    generator: np.random.Generator, flat: NDArray[np.float32], starts: Iterable[int], std: float, scale: float
) -> None:
    drawn = np.empty(_CHUNK)
    for start in starts:
        part = flat[start : start + _CHUNK]
        noise = drawn[: len(part)]
        generator.standard_normal(out=noise)
        noise *= std
        noise += part
        round_to_grid(noise, std)
        with np.errstate(over="ignore"):  # a warning would tell of the sum; what float32 cannot hold is infinite
            np.multiply(noise, scale, out=part, casting="same_kind")

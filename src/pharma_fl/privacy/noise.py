"""Randomness that nobody can predict or replay."""

from __future__ import annotations

import os
import secrets
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from randomgen import ChaCha
from torch import Tensor

_CHUNK = 1 << 18


class NoiseSource(Protocol):
    """Where sampling and noise come from."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return float64 (count,) in [0, 1)."""

    def add_normal(self, tensor: Tensor, std: float) -> None:
        """Add independent Gaussian noise to every entry, in place."""


class SystemNoise:
    """ChaCha20 keyed with 256 bits from the operating system.

    The key follows from no seed, round or run, is never stored or logged, and is drawn anew in a forked
    process, so that no two processes, partners or rounds share a draw. A restart draws a new key.
    """

    def __init__(self) -> None:
        self._rekey()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return float64 (count,) in [0, 1)."""
        self._check_process()
        return self._generator.random(count)

    def add_normal(self, tensor: Tensor, std: float) -> None:
        """Add noise drawn in float64, chunk by chunk, without a second copy of the tensor."""
        self._check_process()
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            noise = torch.from_numpy(self._generator.standard_normal(part.numel()) * std)
            part.copy_(part.to(torch.float64) + noise.to(part.device))

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            self._rekey()

    def _rekey(self) -> None:
        self._process = os.getpid()
        self._generator = np.random.Generator(ChaCha(key=secrets.randbits(256), rounds=20))


def poisson_sample(noise: NoiseSource, *, records: int, sample_rate: float) -> NDArray[np.int64]:
    """Include each of `records` rows independently with probability `sample_rate`.

    Returns
    -------
    ndarray
        int64 (b,): sorted row numbers; b is random and may be 0.
    """
    return np.flatnonzero(noise.uniform(records) < sample_rate).astype(np.int64)

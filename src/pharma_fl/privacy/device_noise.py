"""Gaussian noise that nobody can predict, made where the tensor lies.

A ChaCha20 key stream in torch integer operations, so that a GPU needs no random numbers from the host. It
runs on a CPU too, where `SystemNoise` is the faster of the two.

Noise does not depend on data, so a thread on the CPU could draw it ahead instead. But two cores draw a normal in 6 ns,
which is 0.4 s a step for the 71 million parameters of a wide network: a GPU would wait for that, and for 284 MB across
the bus. The noise of the next step would lie in the host's memory before it is used, and the thread would have to be
stopped, forked and keyed with care. Made on the device, a draw exists for as long as one chunk takes to be added.
ChaCha20 is the cipher for that: it adds, rotates and xors words of 32 bits, which torch can; AES needs tables or a
processor's own instructions.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import secrets
import struct
import threading
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from pharma_fl.privacy.grid import grid_of, round_to_grid

_LOG = logging.getLogger("pharma_fl.privacy")
_CHUNK = {"cuda": 1 << 22, "cpu": 1 << 16}  # values at a time: a GPU wants many, a CPU what its cache holds
_QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
)


class DeviceNoise(threading.local):
    """ChaCha20 keyed with 256 bits from the operating system, one key stream a thread.

    The key follows from no seed, round or run and is never stored, logged, copied or pickled. Each thread draws its
    own, and so does a forked process; a restart draws a new one.

    Parameters
    ----------
    device : device or str
        Where the numbers are made; tensors given to `add_normal` lie there.

    Notes
    -----
    The block counter has 64 bits and the nonce is zero, as in the original ChaCha: a key is never used for two
    streams, and a counter of 32 bits would repeat after 2^38 bytes, 340 steps' noise for 10^8 parameters.
    The counter moves on before its blocks are made, so that an interrupted draw is lost and not repeated.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._rekey()

    def add_normal(self, tensor: Tensor, std: float, scale: float = 1.0) -> None:
        """Add independent Gaussian noise, round to the grid and multiply, as `add_in_chunks`.

        The scratch memory is about 45 bytes a value of one chunk (180 MiB on a GPU, 3 MiB on a CPU).
        """
        add_in_chunks(tensor, std, scale, lambda count: normals(self._blocks(count, a_block=8))[:count])

    def uniform(self, count: int) -> Tensor:
        """Return float64 (count,) in [0, 1), multiples of 2^-53."""
        words = self._blocks(count, a_block=8).to(torch.int64)
        bits = ((words[:8] & 0x1FFFFF) << 32) | (words[8:] & 0xFFFFFFFF)
        return bits.view(-1)[:count].to(torch.float64) * 2.0**-53

    def keep_mask(self, count: int, probability: float) -> Tensor:
        """Return bool (count,), each True with `probability` (rounded to a multiple of 2^-32).

        Raises
        ------
        ValueError
            The probability is not in [0, 1].
        """
        check_probability(probability)
        mask = torch.empty(count, dtype=torch.bool, device=self._device)
        limit = round(probability * 2**32) - 2**31  # words are signed
        chunk = chunk_on(self._device)
        for at in range(0, count, chunk):
            part = mask[at : at + chunk]
            words = self._blocks(part.numel(), a_block=16).view(-1)[: part.numel()]
            part.copy_(words.to(torch.int64) < limit)
        return mask

    def __reduce__(self) -> NoReturn:
        raise TypeError("A noise source is neither copied nor pickled: the copy would repeat its draws.")

    def _blocks(self, count: int, *, a_block: int) -> Tensor:
        """Return fresh blocks for `count` draws, `a_block` from each: int32 (16, n)."""
        if os.getpid() != self._process:
            self._rekey()
        n = -(-count // (a_block * 64)) * 64  # full multiples: no short shapes that would be compiled anew
        first = self._counter
        self._counter += n
        return chacha20_blocks(self._start, first, n)

    def _rekey(self) -> None:
        self._process = os.getpid()
        self._counter = 0
        self._start = start_state(secrets.token_bytes(32)).to(self._device)


def chunk_on(device: torch.device) -> int:
    """Return how many values to draw at a time on a device."""
    return _CHUNK.get(device.type, _CHUNK["cpu"])


def add_in_chunks(tensor: Tensor, std: float, scale: float, draw: Callable[[int], Tensor]) -> None:
    """Add independent Gaussian noise, round the sum to the public grid and multiply it, in place, chunk by chunk.

    Noise and sum are float64. What is on the grid is multiplied and then rounded once more, to the tensor's type: that
    follows from what was released, so it tells nothing.

    Parameters
    ----------
    tensor : Tensor
        Contiguous, float32 or float64, of any shape.
    std : float
        Standard deviation; 0 adds nothing, rounds nothing and draws nothing.
    scale : float
        What the sum is multiplied with.
    draw : callable
        Gives so many fresh standard normal values: float64 (count,) on the tensor's device.

    Raises
    ------
    ValueError
        The tensor is not contiguous or of another type, or `std` is none (`grid.grid_of`). Nothing was drawn.
    """
    check_noisable(tensor, std)
    if std == 0:
        tensor.detach().mul_(scale)
        return
    flat, chunk = tensor.detach().view(-1), chunk_on(tensor.device)
    for at in range(0, flat.numel(), chunk):
        part = flat[at : at + chunk]
        noised = draw(part.numel()).mul_(std).add_(part)
        round_to_grid(noised, std)
        part.copy_(noised.mul_(scale))


def check_noisable(tensor: Tensor, std: float) -> None:
    """Refuse a tensor or a standard deviation that noise cannot be added with; errors as `add_in_chunks`."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Expected a float32 or float64 tensor, got {tensor.dtype}.")
    if not tensor.is_contiguous():
        raise ValueError(f"Expected a contiguous tensor, got strides {tensor.stride()} of {tuple(tensor.shape)}.")
    if std != 0:
        grid_of(std)


def check_probability(probability: float) -> None:
    """Raise ValueError unless a probability is in [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(f"Expected 0 <= probability <= 1, got {probability}.")


def start_state(key: bytes, nonce: bytes = bytes(8)) -> Tensor:
    """Return ChaCha20's state before the counter is set: int32 (16,), from a key of 32 bytes."""
    return torch.tensor(struct.unpack("<16i", b"expand 32-byte k" + key + bytes(8) + nonce), dtype=torch.int32)


def chacha20_blocks(start: Tensor, first: int, n: int) -> Tensor:
    """Return the ChaCha20 blocks `first` to ``first + n - 1`` of a key stream.

    Parameters
    ----------
    start : Tensor
        int32 (16,) of `start_state`, on the device of the result.
    first, n : int
        Counter of the first block, below 2^63, and how many.

    Returns
    -------
    Tensor
        int32 (16, n): column i is block ``first + i`` as 16 little-endian words.

    References
    ----------
    Bernstein 2008, "ChaCha, a variant of Salsa20" (64-bit counter); RFC 8439, section 2.3 (block function).
    """
    with torch.no_grad():  # one mode, one compiled graph
        counter = torch.arange(first, first + n, device=start.device)
        state = start[:, None].repeat(1, n)
        state[12] = counter.to(torch.int32)  # keeps the low 32 bits
        state[13] = (counter >> 32).to(torch.int32)
        double_round = _double_round_on(start.device)
        words = state
        for _ in range(10):
            words = double_round(words)
        return words + state


def normals(blocks: Tensor) -> Tensor:
    """Return float64 (8 n,) standard normal values from int32 (16, n) uniform bits.

    Box and Muller's transformation of 64 bits for a radius and 64 for an angle gives two values, up to 9.49 in
    size; a true normal value lies beyond with a probability of 2e-21.
    """
    radius = unit(blocks[0:4], blocks[4:8]).log_().mul_(-2).sqrt_()
    angle = unit(blocks[8:12], blocks[12:16]).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()]).view(-1)


def unit(high: Tensor, low: Tensor) -> Tensor:
    """Return ``(k + 1/2) / 2^64`` for k of 64 bits in two int32 words, rounded to float64, in (0, 1].

    Adding 2^31 to a signed word is a bijection onto the 32-bit numbers, so k is uniform. Small values are exact:
    the tails of the normal law come from there.
    """
    fraction = low.to(torch.float64).add_(2.0**31 + 0.5).mul_(2.0**-32)
    return high.to(torch.float64).add_(2.0**31).add_(fraction).mul_(2.0**-32)


def _rotate(word: Tensor, bits: int) -> Tensor:
    # the right shift copies the sign, which the mask takes away
    return (word << bits) | ((word >> (32 - bits)) & ((1 << bits) - 1))


def _quarter_round(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a = a + b
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


def _double_round_of_rows(state: Tensor) -> Tensor:
    """Do four quarter rounds at a time: a quarter of the calls, for eager execution."""
    a, b, c, d = _quarter_round(*state.view(4, 4, -1).unbind())
    a, b, c, d = _quarter_round(a, b.roll(-1, 0), c.roll(-2, 0), d.roll(-3, 0))
    return torch.cat([a, b.roll(1, 0), c.roll(2, 0), d.roll(3, 0)])


def _double_round_of_words(state: Tensor) -> Tensor:
    """Do one quarter round at a time: no value crosses columns, so that a compiler makes one kernel of it."""
    words = list(state.unbind())
    for i, j, k, m in _QUARTERS:
        words[i], words[j], words[k], words[m] = _quarter_round(words[i], words[j], words[k], words[m])
    return torch.stack(words)


@functools.cache
def _double_round_on(device: torch.device) -> Callable[[Tensor], Tensor]:
    return _compiled_if_right(device) if device.type == "cuda" else _double_round_of_rows


def _compiled_if_right(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compile the double round for a device, or return the eager one and say so once."""
    try:
        compiled = torch.compile(_double_round_of_words, fullgraph=True, dynamic=True)
        probe = torch.arange(16 * 64, dtype=torch.int32, device=device).view(16, 64) * 0x3C6EF35F
        if torch.equal(compiled(probe), _double_round_of_rows(probe)):
            return compiled
        reason = "its result is wrong"
    except Exception as error:  # noqa: BLE001 - a compiler fails in many ways, and noise is needed in all of them
        reason = type(error).__name__
    _LOG.warning("Noise on %s is made without torch.compile (%s); it is slower and as good.", device, reason)
    return _double_round_of_rows

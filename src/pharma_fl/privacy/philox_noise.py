"""Gaussian noise from a GPU's own fast generator: not predictable by accident, but no cipher."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from pharma_fl.privacy.device_noise import add_in_chunks, check_probability, chunk_on


class PhiloxNoise:
    """PyTorch's generator on a device, seeded with 64 bits from the operating system for every call.

    **Not cryptographic.** On a GPU that generator is Philox (4x32, 10 rounds), made to pass statistical tests and not
    to resist an attacker: nobody has shown that it takes much to find the seed, and with it all of a call's noise,
    from some of that noise. What leaves is noise plus a sum, on a grid, which hides most of each draw, but that is no
    proof. Choose it where speed matters more than that.

    No generator, seed or position is kept from call to call, nor stored or logged: no two calls, threads, processes,
    partners or rounds go on from one another, and there is nothing that a copy could repeat. Among a million calls
    two have the same seed with a probability of 3e-8.

    Parameters
    ----------
    device : device or str
        Where the numbers are made. On a CPU PyTorch's generator is a Mersenne twister that reads 32 bits of its seed,
        which is for tests alone; `SystemNoise` never takes it.

    References
    ----------
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def add_normal(self, tensor: Tensor, std: float, scale: float = 1.0) -> None:
        """Add independent Gaussian noise, round to the grid and multiply, as `device_noise.add_in_chunks`."""
        generator = self._seeded()
        add_in_chunks(
            tensor,
            std,
            scale,
            lambda count: torch.randn(count, generator=generator, dtype=torch.float64, device=self._device),
        )

    def keep_mask(self, count: int, probability: float) -> Tensor:
        """Return bool (count,), each True with `probability` (to 2^-53), independently.

        Raises
        ------
        ValueError
            The probability is not in [0, 1].
        """
        check_probability(probability)
        mask = torch.empty(count, dtype=torch.bool, device=self._device)
        generator, chunk = self._seeded(), chunk_on(self._device)
        for at in range(0, count, chunk):
            part = mask[at : at + chunk]
            drawn = torch.rand(part.numel(), generator=generator, dtype=torch.float64, device=self._device)
            torch.lt(drawn, probability, out=part)
        return mask

    def _seeded(self) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(secrets.randbits(64))

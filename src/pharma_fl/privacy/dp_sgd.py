"""The mechanism: one private step, from Poisson sample to optimizer step, with one plan's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor, nn

from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.noise import NoiseSource, poisson_sample
from pharma_fl.privacy.plan import PrivacyPlan


class Records(Protocol):
    """Something that has records and can gather some of them."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64]) -> Any:
        """Gather the records with these row numbers."""


class NoisedOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer over clipped sums, with noise from our own source.

    Opacus draws noise from PyTorch's generator, which is not cryptographic, and its secure mode does
    not install today. Everything else (the division by the expected batch, the step hook that feeds
    Opacus's accountants) is Opacus's own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, plan: PrivacyPlan, noise: NoiseSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clipping_norm,
            expected_batch_size=plan.expected_batch,
            loss_reduction="mean",
        )
        self._noise = noise

    def add_noise(self) -> None:
        """Turn the clipped sums into noised gradients, in place."""
        for parameter in self.params:
            if self.noise_multiplier > 0:
                self._noise.add_normal(parameter.summed_grad, self.noise_multiplier * self.max_grad_norm)
            parameter.grad = parameter.summed_grad.view_as(parameter)


class DpSgd:
    """Sampling, clipping and noise of one plan over one network: trunk and heads are one mechanism.

    Every step covers all parameters that the optimizer holds, and they must be all parameters of the
    network: a head trained without noise would carry its data into the next trunk update.

    Parameters
    ----------
    plan : PrivacyPlan
        All parameters of the mechanism.
    network : Module
        Trunk and heads.
    optimizer : Optimizer
        Owns every parameter; what it does with a noised gradient is post-processing.
    record_losses : callable
        ``(network, batch) -> float32 (b,)``, each entry a function of its own record alone.
    noise : NoiseSource
        Randomness of sampling and noise.
    placebo : bool
        Replace the data's part of every sum by zero, leaving noise alone. A control experiment; it can
        only make the run more private.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        record_losses: Callable[[nn.Module, Any], Tensor],
        noise: NoiseSource,
        placebo: bool = False,
    ) -> None:
        owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if {id(p) for p in owned} != {id(p) for p in network.parameters()}:
            raise ValueError("expected an optimizer that owns every parameter of the network")
        self.plan = plan
        self.optimizer = NoisedOptimizer(optimizer, plan=plan, noise=noise)
        self.steps_taken = 0
        self._network = network
        self._record_losses = record_losses
        self._noise = noise
        self._placebo = placebo

    def step(self, records: Records) -> None:
        """Take one private step. An empty sample is a step like any other and gets its noise."""
        rows = poisson_sample(self._noise, records=len(records), sample_rate=self.plan.sample_rate)
        batch = records.batch(rows)
        sums = clipped_gradients(
            self._network,
            lambda: self._record_losses(self._network, batch),
            self.plan.clipping_norm if self.plan.protected else math.inf,
        )
        for name, parameter in self._network.named_parameters():
            parameter.grad = torch.zeros_like(parameter) if self._placebo else sums[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_taken += 1

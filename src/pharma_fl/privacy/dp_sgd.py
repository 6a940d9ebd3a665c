"""The mechanism: one private step, from Poisson sample to optimizer step, with one plan's parameters."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import ClippedSums, clipped_gradients
from pharma_fl.privacy.noise import NoiseSource
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.row_independence import GRANULE, block_rows, independent_rows
from pharma_fl.privacy.sampling import Sample

_LOG = logging.getLogger(__name__)
_BLANK = -1
"""The series of blank rows."""
_BFLOAT16_MARGIN = {"compound": 0.99, "series": 0.92}
"""Each factor of a product in bfloat16 is rounded by at most 2^-8 of itself, so both by less than one percent, and the
products of a series, which together may be ten times as long as their sum counts, by less than eight."""


class Records(Protocol):
    """Something that has records and can gather some of them.

    Where the plan's unit is a series it has ``series`` too: int32 (n,), the series of each record.
    """

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64], size: int) -> Any:
        """Gather the records with these row numbers; blank rows, whatever they hold, fill the batch up to `size`."""


class Engine(Protocol):
    """What computes clipped sums: `clipping.clipped_gradients`, or one of `opacus_engines`."""

    def __call__(
        self,
        network: nn.Module,
        record_losses: Callable[[], Tensor],
        clip: Clip,
        *,
        records: int | None,
        masks: NoiseSource | None,
        into: Mapping[str, Tensor] | None,
        add: bool,
        series: Tensor | None,
    ) -> ClippedSums:
        """Put the clipped sums of one block into `into`."""


class NoisedOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus's optimizer over clipped sums, with noise from our own source, in place.

    Opacus draws noise from PyTorch's generator, which is not cryptographic, and its secure mode does
    not install today; and it copies every gradient three times. Everything else (the division by the expected batch,
    the step hook that feeds Opacus's accountants) is as in Opacus.

    Attributes
    ----------
    noise_std : dict
        Standard deviation of the noise on each parameter, by the parameter's id.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, plan: PrivacyPlan, noise: NoiseSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clipping_norm,
            expected_batch_size=plan.expected_batch,
            loss_reduction="mean",
        )
        self.noise_std: dict[int, float] = {}
        self._noise = noise

    def accumulate(self) -> None:
        """Take the clipped sums as they are: micro-batches were summed before."""
        for parameter in self.params:
            parameter.summed_grad = parameter.grad

    def add_noise(self) -> None:
        """Turn the clipped sums into noised means over the expected batch, in one pass."""
        scale = 1.0 / self.expected_batch_size
        for parameter in self.params:
            if parameter.grad is None:  # it leaves in a secure sum
                continue
            std = self.noise_std[id(parameter)]
            if std > 0:
                self._noise.add_normal(parameter.grad, std, scale)
            else:
                parameter.grad.mul_(scale)

    def scale_grad(self) -> None:
        """Do nothing: `add_noise` divided by the expected batch already."""


class DpSgd:
    """Sampling, clipping and noise of one plan over one network: trunk and heads are one mechanism.

    Every step covers all trained parameters of the network, and the optimizer must hold them all: a head trained
    without noise would carry its data into the next trunk update. What is frozen must stay as it is.

    Where the plan's unit is a series, whole series are sampled and clipped, and no series lies in two blocks: each part
    would be clipped by itself, and one series count twice.

    Parameters
    ----------
    plan : PrivacyPlan
        All parameters of the mechanism.
    network : Module
        Trunk and heads.
    optimizer : Optimizer
        Owns every trained parameter; what it does with a noised gradient is post-processing.
    record_losses : callable
        ``(network, batch) -> float32 (b,)``, each entry a function of its own record alone.
    noise : NoiseSource
        Randomness of sampling, noise and dropout.
    placebo : bool
        Replace the data's part of every sum by zero, leaving noise alone. A control experiment; it can
        only make the run more private.
    clip : Clip, optional
        Where an adaptive clip stands after earlier steps of the run; left out, the plan's start.
    physical_batch : int, optional
        Rows that are in memory at a time; left out, as many as a sample of compounds rarely exceeds. Noise is drawn
        once a step.
    precision : {"float32", "bfloat16"}
        Of products. In bfloat16 norms and sums stay float32 or better, and the clip is 1 % lower than the plan's, or
        8 % where the unit is a series.
    engine : callable
        What computes the clipped sums; others than the default are for comparison.
    summed : sequence of str
        Under shared noise, the parameters whose sums leave in a secure sum, in its order.

    Raises
    ------
    PrivacyError
        ``PFL-P01`` Opacus's validator refuses the network; ``PFL-P05`` the plan's sum has another size than `summed`;
        ``PFL-P08`` a block does not hold the largest series.
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
        clip: Clip | None = None,
        physical_batch: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        engine: Engine = clipped_gradients,
        summed: Sequence[str] = (),
    ) -> None:
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
        if owned != {id(value) for value in trained.values()}:
            raise ValueError("expected an optimizer that owns every trained parameter of the network, and no other")
        problems = ModuleValidator.validate(network, strict=False)
        if problems:
            raise PrivacyError("PFL-P01", f"Opacus refuses the network: {problems[0]}")
        values = sum(trained[name].numel() for name in summed)
        if values != plan.summed_values:
            raise PrivacyError(
                "PFL-P05",
                f"The plan's secure sum has {plan.summed_values:,} values, and the trunk {values:,} that are trained. "
                "Both sides need one version of pharma-fl and one model.",
            )
        self.plan = plan
        self.clip = clip or plan.first_clip
        self.optimizer = NoisedOptimizer(optimizer, plan=plan, noise=noise)
        self.steps_taken = 0
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._least_rows = plan.max_series_size if plan.unit == "series" else 1
        # How many compounds a sampled series has on average follows from the data, so the block does not ask.
        wanted = physical_batch or max(block_rows(plan.expected_batch), _in_granules(self._least_rows))
        self.physical_batch = independent_rows(network, wanted, dtype=self._dtype)
        if self.physical_batch < self._least_rows:
            raise _too_small(self.physical_batch, self._least_rows)
        self._network, self._record_losses, self._noise = network, record_losses, noise
        self._placebo, self._precision, self._engine = placebo, precision, engine
        self._summed = tuple(summed)
        self._sums = {name: torch.empty_like(value) for name, value in trained.items()}

    def step(self, records: Records) -> None:
        """Take one private step. An empty sample is a step like any other and gets its noise.

        Raises
        ------
        PrivacyError
            ``PFL-P07`` a block does not fit into memory. Nothing was changed, and the step is not tried in smaller
            blocks: one compound more would then decide how all others are rounded. `rehearse` comes first.
            ``PFL-P08`` the plan's unit is a series, and the records do not say which series each is of.
        """
        if self._summed:
            raise ValueError("expected summed_step under shared noise: a share of it protects no step by itself")
        count = self._clipped_sums(records)
        multipliers = self.plan.multipliers

        def std_of(name: str) -> float:
            group = self.clip.group_of(name)
            return multipliers[group] * self.clip.norm_of(group) if self.plan.protected else 0.0

        self._descend({name: std_of(name) for name in self._sums})
        if self.clip.mode == "adaptive":
            self._adapt(count)

    def summed_step(self, records: Records, mask: Callable[[NDArray[Any]], None]) -> NDArray[Any]:
        """Take one private step whose trunk is stepped by others, who see a sum over partners alone.

        The heads step here, with the noise that they need by themselves. Noise and masks are drawn while the gradients
        are computed.

        Parameters
        ----------
        records : Records
        mask : callable
            Adds this partner's masks of the round to a vector, in place.

        Returns
        -------
        ndarray
            int32 or int64 (values,): rounded clipped sums, this partner's share of the noise, and masks.

        Raises
        ------
        PrivacyError
            As `step`.
        """
        shared = self.plan.shared

        def share() -> NDArray[Any]:
            vector = np.zeros(shared.values, dtype=f"int{shared.ring_bits}")
            shared.add_share(vector, self._noise)
            mask(vector)
            return vector

        with ThreadPoolExecutor(1, thread_name_prefix="share") as aside:
            drawn = aside.submit(share)
            self._clipped_sums(records)
            vector = drawn.result()
        start = 0
        for name in self._summed:
            sums = self._sums[name].zero_() if self._placebo else self._sums[name]
            shared.add_sums(vector[start : start + sums.numel()], sums.detach().cpu().reshape(-1))
            start += sums.numel()
        self._descend({name: shared.head_std for name in self._sums if name not in self._summed})
        return vector

    def _clipped_sums(self, records: Records) -> float:
        """Sample and put the clipped sums in place; return the count for an adaptive clip."""
        # Factors rounded to fewer bits would exceed the clip, and some containers ask for that.
        torch.set_float32_matmul_precision("highest")
        sample = self.plan.sample(self._noise, len(records), getattr(records, "series", None))
        try:
            below = self._over_blocks(records, sample)
        except torch.OutOfMemoryError as error:
            raise _too_large(self.physical_batch) from error
        # A unit counts as plus or minus one half, so that one more or less moves the count by one half.
        return 0.0 if self._placebo else below - sample.units / 2

    def _descend(self, noise_std: Mapping[str, float]) -> None:
        """Step the named parameters by their noised sums."""
        for name, parameter in self._network.named_parameters():
            if name in noise_std:
                parameter.grad = self._sums[name].zero_() if self._placebo else self._sums[name]
                self.optimizer.noise_std[id(parameter)] = noise_std[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_taken += 1

    def rehearse(self, make: Callable[[int], Any]) -> None:
        """Try whether a block fits into the device's memory, and halve it until it does; call before any charge.

        The block's size decides how products round, so it may depend on public numbers alone, never on a sample.

        Parameters
        ----------
        make : callable
            Gives a made batch of so many rows, with more labels than records usually have.

        Raises
        ------
        PrivacyError
            ``PFL-P07`` the smallest block does not fit; ``PFL-P08`` one that fits does not hold the largest series.
        """
        while True:
            rows = self.physical_batch
            # As many pairs of rows as there can be.
            series = np.arange(rows) // self._least_rows if self.plan.unit == "series" else None
            try:
                self._sum_block(lambda rows=rows: make(rows), self.plan.first_clip, records=rows, series=series)  # type: ignore[misc]
            except torch.OutOfMemoryError as error:
                if rows <= GRANULE:
                    raise _too_large(rows) from error
            else:
                return
            # Outside of the handler, whose traceback holds on to what did not fit.
            torch.cuda.empty_cache()
            self.physical_batch = independent_rows(self._network, rows // 2, dtype=self._dtype)
            if self.physical_batch < self._least_rows:
                raise _too_small(self.physical_batch, self._least_rows)
            _LOG.warning("Out of memory: going on with physical batches of %d records.", self.physical_batch)

    def _over_blocks(self, records: Records, sample: Sample) -> int:
        clip, size = self.clip, self.physical_batch
        if not self.plan.protected:
            clip = Clip(norm=math.inf)
        elif self._precision == "bfloat16":
            clip = clip.tightened(_BFLOAT16_MARGIN[self.plan.unit])
        below = 0
        for block in sample.blocks(size):
            part = sample.rows[block]
            filled = size if len(part) else 0
            blank = np.full(filled - len(part), _BLANK)
            series = None if sample.series is None else np.concatenate([sample.series[block], blank])
            below += self._sum_block(
                lambda part=part, filled=filled: records.batch(part, size=filled),  # type: ignore[misc]
                clip,
                records=len(part),
                series=series,
                add=block.start > 0,
            )
        return below

    def _sum_block(
        self,
        batch: Callable[[], Any],
        clip: Clip,
        *,
        records: int,
        series: NDArray[np.int64] | None,
        add: bool = False,
    ) -> int:
        device = next(iter(self._sums.values())).device

        def losses() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                return self._record_losses(self._network, batch())

        sums = self._engine(
            self._network,
            losses,
            clip,
            records=records,
            masks=self._noise,
            into=self._sums,
            add=add,
            series=None if series is None else torch.from_numpy(series).to(device),
        )
        return sums.below

    def _adapt(self, count: float) -> None:
        noised = torch.tensor([count], dtype=torch.float64)
        self._noise.add_normal(noised, self.plan.count_noise)
        self.clip = self.clip.adapted(
            float(noised) / self.plan.expected_batch + 0.5,
            quantile=self.plan.clip_quantile,
            learning_rate=self.plan.clip_learning_rate,
            first_norm=self.plan.clipping_norm,
        )


def _in_granules(rows: int) -> int:
    return -(-rows // GRANULE) * GRANULE


def _too_small(rows: int, series: int) -> PrivacyError:
    return PrivacyError(
        "PFL-P08",
        f"A series is clipped in one block. Expected blocks of at least {series} rows (federation.toml: "
        f"privacy.max_series_size), got {rows}: partner.toml asks for no more (compute.physical_batch), or memory or "
        "rounding on this machine allows no more. Raise compute.physical_batch, agree on a lower "
        "privacy.max_series_size, or on model.hidden of multiples of 16.",
    )


def _too_large(rows: int) -> PrivacyError:
    return PrivacyError(
        "PFL-P07",
        f"A block of {rows} records does not fit into the device's memory. Set compute.physical_batch in partner.toml "
        "to half of that, or use a smaller network or another device (compute.device).",
    )

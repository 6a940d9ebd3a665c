"""The plan: sampling, clipping, noise and accounting as one object, so that they cannot disagree."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.federation import (
    MOST_STEPS,
    ClipMode,
    ClippingNorm,
    PrivacySettings,
    Probability,
    SampleRate,
    TrainingSettings,
    check_clipping,
)
from pharma_fl.privacy.accountant import Charge, calibrate_noise, epsilon
from pharma_fl.privacy.clip import Clip, gradient_multiplier, group_multipliers


class PrivacyPlan(Settings):
    """A Poisson-subsampled Gaussian mechanism, repeated.

    Every field is public and fixed before the run. One **record** is one compound: one standardised
    structure with all its measurements at that partner. **Neighbouring** data sets differ by adding or
    removing one record. Each step includes every record independently with probability `sample_rate`,
    clips each record's joint gradient of trunk and heads to `clipping_norm`, sums, and adds to every
    coordinate Gaussian noise of standard deviation ``noise_multiplier * clipping_norm``; the result is
    divided by the constant `expected_batch`.

    `noise_multiplier` is what the step costs in every mode of clipping. Where a step releases two things of one
    sample (two groups; a gradient and a count of records within the norm), each gets more noise, so that both
    together are one Gaussian mechanism of that multiplier (`privacy.clip`).

    Exceptions to the guarantee: it assumes real numbers, while noise is drawn in float64 and added in
    float32; it treats the partner's list of tasks and the settings of its preparation as public; it
    does not cover a compound that several partners own as one (each partner's epsilon then adds up).

    Parameters
    ----------
    mechanism : {"dp-sgd", "none"}
        ``"none"`` trains without clip and noise; its epsilon is infinite.
    sample_rate, noise_multiplier, clipping_norm, expected_batch, delta : float
        As above; `delta` is where epsilon is reported.
    rounds, steps_per_round : int
        Length of the run.
    clipping, head_clipping_norm, head_noise_ratio, clip_quantile, clip_learning_rate, clip_count_noise
        As in ``[privacy]`` of federation.toml.

    References
    ----------
    Abadi et al. 2016, arXiv 1607.00133, algorithm 1.
    """

    mechanism: Literal["dp-sgd", "none"] = "dp-sgd"
    sample_rate: SampleRate
    noise_multiplier: Annotated[float, Field(ge=0)]
    clipping_norm: ClippingNorm
    expected_batch: Annotated[float, Field(gt=0)]
    delta: Probability
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    clipping: ClipMode = "flat"
    head_clipping_norm: ClippingNorm | None = None
    head_noise_ratio: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    clip_quantile: Annotated[float, Field(ge=0, le=1)] = 0.5
    clip_learning_rate: Annotated[float, Field(gt=0, le=2)] = 0.2
    clip_count_noise: Annotated[float | None, Field(gt=0)] = None
    unit: Literal["compound"] = "compound"
    relation: Literal["add-or-remove-one"] = "add-or-remove-one"

    @model_validator(mode="after")
    def _noise_fits(self) -> Self:
        if self.protected != (self.noise_multiplier > 0):
            raise ValueError('expected noise_multiplier > 0 with mechanism "dp-sgd", and 0 with "none"')
        return self

    @model_validator(mode="after")
    def _clipping_fits(self) -> Self:
        check_clipping(self.clipping, self.head_clipping_norm, self.mechanism)
        if self.clipping == "adaptive":
            gradient_multiplier(self.noise_multiplier, self.count_noise)
        return self

    @model_validator(mode="after")
    def _can_be_priced(self) -> Self:
        if self.rounds * self.steps_per_round > MOST_STEPS:
            raise ValueError(f"expected rounds * steps_per_round <= {MOST_STEPS:,}")
        return self

    @property
    def protected(self) -> bool:
        """Whether the plan has any guarantee at all."""
        return self.mechanism == "dp-sgd"

    @property
    def first_clip(self) -> Clip:
        """The clip of the first step."""
        return Clip(mode=self.clipping, norm=self.clipping_norm, head_norm=self.head_clipping_norm or math.nan)

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Noise standard deviation over clipping norm, of each group of parameters."""
        if self.clipping == "groups":
            return group_multipliers(self.noise_multiplier, self.head_noise_ratio)
        if self.clipping == "adaptive":
            return (gradient_multiplier(self.noise_multiplier, self.count_noise),)
        return (self.noise_multiplier,)

    @property
    def count_noise(self) -> float:
        """Standard deviation of the noise on the count of records within an adaptive clip."""
        return self.clip_count_noise or max(self.expected_batch / 20, 2 * self.noise_multiplier)

    @property
    def round_charge(self) -> Charge:
        """Cost of one round."""
        return self.charge_of(1)

    def charge_of(self, rounds: int) -> Charge:
        """Return what the first `rounds` rounds cost."""
        return Charge(self.sample_rate, self.noise_multiplier, rounds * self.steps_per_round)

    def epsilon(self) -> float:
        """Epsilon of the whole run on its own, at `delta`; infinite without protection."""
        return epsilon((self.charge_of(self.rounds),), self.delta)


def propose(privacy: PrivacySettings, training: TrainingSettings) -> PrivacyPlan:
    """Make the plan of a federation.toml, solving the noise multiplier from epsilon where it is left out.

    The solved plan never costs more than the epsilon asked for.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` no noise multiplier reaches that epsilon.
    """
    noise = 0.0
    if privacy.mechanism == "dp-sgd":
        steps = training.rounds * training.local_steps
        noise = privacy.noise_multiplier or calibrate_noise(
            target_epsilon=float(privacy.epsilon or 0),
            delta=privacy.delta,
            sample_rate=privacy.sample_rate,
            steps=steps,
        )
    return PrivacyPlan(
        mechanism=privacy.mechanism,
        sample_rate=privacy.sample_rate,
        noise_multiplier=noise,
        clipping_norm=privacy.clipping_norm,
        expected_batch=privacy.expected_batch,
        delta=privacy.delta,
        rounds=training.rounds,
        steps_per_round=training.local_steps,
        clipping=privacy.clipping,
        head_clipping_norm=privacy.head_clipping_norm,
        head_noise_ratio=privacy.head_noise_ratio,
        clip_quantile=privacy.clip_quantile,
        clip_learning_rate=privacy.clip_learning_rate,
        clip_count_noise=privacy.clip_count_noise,
    )

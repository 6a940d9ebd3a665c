"""The plan: sampling, clipping, noise and accounting as one object, so that they cannot disagree."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
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
    Unit,
    check_clipping,
)
from pharma_fl.privacy.charge import Adversary, Charge
from pharma_fl.privacy.clip import Clip, gradient_multiplier, group_multipliers
from pharma_fl.privacy.sampling import Sample, compound_sample, known_series, series_sample
from pharma_fl.privacy.shared_noise import SharedNoise

if TYPE_CHECKING:
    from pharma_fl.privacy.noise import NoiseSource

MOST_SHARED_ROUNDS = 10_000
"""Of a run with shared noise: partners exchange keys for all of its rounds before the first."""


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

    With ``unit = "series"`` one record is a series: all of the partner's compounds of one scaffold family, of which at
    most `max_series_size` take part in a step. Neighbouring data sets then differ by a whole series.

    With ``noise_mode = "shared"`` each of `contributors` partners rounds its sum to whole units, adds a share of the
    noise, and nothing but the sum over partners is opened. `noise_multiplier` is what the sum holds against the
    coordinator together with `tolerated_colluders` partners, with `tolerated_losses` shares missing; who knows no share
    faces more. Noise is then measured in the sensitivity of the rounded sum, which is the clipping norm and up to one
    part in 128 (`shared_noise` proves what follows).

    Exceptions to the guarantee: it assumes real numbers, while noise is drawn in float64, rounded to a grid and kept in
    float32 (shared noise is drawn in whole numbers); it treats the partner's list of tasks and the settings of its
    preparation as public; it does not cover a compound that several partners own as one (each partner's epsilon then
    adds up).

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
    unit, max_series_size, noise_mode, tolerated_colluders, tolerated_losses
        As above.
    contributors, summed_values, ring_bits : int
        Partners that add a share of the noise; how many values of the trunk are summed; and the bits of each sum. With
        ``noise_mode = "local"`` they are 1, 0 and 32.

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
    unit: Unit = "compound"
    max_series_size: Annotated[int, Field(ge=1, le=1024)] = 32
    relation: Literal["add-or-remove-one"] = "add-or-remove-one"
    noise_mode: Literal["local", "shared"] = "local"
    contributors: Annotated[int, Field(ge=1, le=10_000)] = 1
    tolerated_colluders: Annotated[int, Field(ge=0)] = 0
    tolerated_losses: Annotated[int, Field(ge=0)] = 0
    summed_values: Annotated[int, Field(ge=0, le=2**40)] = 0
    ring_bits: Literal[32, 64] = 32

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
    def _shares_fit(self) -> Self:
        if self.noise_mode == "local":
            if (self.contributors, self.tolerated_colluders, self.tolerated_losses) != (1, 0, 0):
                raise ValueError('noise_mode "local" has one contributor and tolerates everybody: remove the others')
            if (self.summed_values, self.ring_bits) != (0, 32):
                raise ValueError('noise_mode "local" sums nothing in a ring: remove summed_values and ring_bits')
            return self
        if not self.protected or self.clipping in ("groups", "adaptive"):
            raise ValueError('noise_mode "shared" needs mechanism "dp-sgd" and clipping "flat" or "automatic"')
        if self.steps_per_round != 1:
            # Between the steps of a round a partner's own share is all the noise there is.
            raise ValueError(f'noise_mode "shared" needs steps_per_round = 1, got {self.steps_per_round}')
        if self.rounds > MOST_SHARED_ROUNDS:
            raise ValueError(f'noise_mode "shared" needs rounds <= {MOST_SHARED_ROUNDS:,}, got {self.rounds:,}')
        colluders, losses = self.tolerated_colluders, self.tolerated_losses
        if colluders < 1 or colluders + losses >= self.contributors:
            raise ValueError(
                "expected 1 <= tolerated_colluders and tolerated_colluders + tolerated_losses < contributors = "
                f"{self.contributors}, got {colluders} and {losses}"
            )
        if losses * (losses + 1) >= self.contributors - colluders:
            # With more, a coordinator that tells partners different stories of who is missing could open the vectors
            # of fewer honest partners than the shares are sized for.
            raise ValueError(
                "expected tolerated_losses * (tolerated_losses + 1) < contributors - tolerated_colluders = "
                f"{self.contributors - colluders}, got tolerated_losses = {losses}"
            )
        _ = self.shared  # it says itself what does not fit
        return self

    @model_validator(mode="after")
    def _can_be_priced(self) -> Self:
        if self.rounds * self.steps_per_round > MOST_STEPS:
            raise ValueError(f"expected rounds * steps_per_round <= {MOST_STEPS:,}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but `contributors`, by which a partner approves a plan: who joins is known later."""
        return hashlib.sha256(self.model_dump_json(exclude={"contributors"}).encode()).hexdigest()

    @property
    def protected(self) -> bool:
        """Whether the plan has any guarantee at all."""
        return self.mechanism == "dp-sgd"

    @property
    def first_clip(self) -> Clip:
        """The clip of the first step."""
        return Clip(mode=self.clipping, norm=self.clipping_norm, head_norm=self.head_clipping_norm or math.nan)

    @property
    def shared(self) -> SharedNoise:
        """How noise is shared; with ``noise_mode = "local"`` there is no such thing, and asking raises ValueError."""
        if self.noise_mode == "local":
            raise ValueError('noise_mode "local" shares no noise')
        return SharedNoise(
            clipping_norm=self.clipping_norm,
            noise_multiplier=self.noise_multiplier,
            contributors=self.contributors,
            tolerated_colluders=self.tolerated_colluders,
            tolerated_losses=self.tolerated_losses,
            values=self.summed_values,
            ring_bits=self.ring_bits,
        )

    def noise_against(self, adversary: Adversary, contribution: float = 1.0) -> float:
        """Return the noise multiplier that an adversary faces: the same for everybody unless noise is shared.

        `contribution` is this partner's, of what the others may contribute (`SharedNoise.clip_of`, which raises the
        same errors); other than 1 only where noise is shared.
        """
        if self.noise_mode == "local":
            if contribution != 1:
                raise ValueError(f'noise_mode "local" needs contribution = 1, got {contribution}')
            return self.noise_multiplier
        self.shared.clip_of(contribution)
        return self.shared.noise_against(adversary) / contribution

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Standard deviation of a partner's own noise over the clipping norm, of each group of parameters.

        Where noise is shared that is the heads' alone; the trunk's is `SharedNoise.add_share`.
        """
        if self.noise_mode == "shared":
            return (self.shared.head_std / self.clipping_norm,)
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
        """Cost of one round against the other partners, who are the strongest adversary."""
        return self.charge_of(1)

    def charge_of(self, rounds: int, adversary: Adversary = "partners", contribution: float = 1.0) -> Charge:
        """Return what the first `rounds` rounds cost against an adversary; `contribution` as in `noise_against`."""
        noise = self.noise_against(adversary, contribution)
        return Charge(self.sample_rate, noise, rounds * self.steps_per_round, self.unit)

    def epsilon(self, adversary: Adversary = "partners") -> float:
        """Epsilon of the whole run on its own, at `delta`, for one `unit`; infinite without protection."""
        from pharma_fl.privacy.accountant import epsilon  # noqa: PLC0415 - it takes a second to import

        return epsilon((self.charge_of(self.rounds, adversary),), self.delta, unit=self.unit)

    def sample(self, noise: NoiseSource, records: int, series: NDArray[np.int32] | None = None) -> Sample:
        """Draw one step's sample of this plan's unit, at this plan's rate.

        Parameters
        ----------
        noise : NoiseSource
            Randomness.
        records : int
            How many compounds there are.
        series : ndarray, optional
            int32 (records,): the series of each compound; read with ``unit = "series"`` alone.

        Raises
        ------
        PrivacyError
            ``PFL-P08`` the unit is the series, and the data do not say which series a compound is of.
        """
        if self.unit == "compound":
            return compound_sample(noise, records=records, sample_rate=self.sample_rate)
        known = known_series(series)
        return series_sample(noise, series=known, sample_rate=self.sample_rate, most=self.max_series_size)


def propose(
    privacy: PrivacySettings, training: TrainingSettings, *, partners: int = 1, summed_values: int = 0
) -> PrivacyPlan:
    """Make the plan of a federation.toml, solving the noise multiplier from epsilon where it is left out.

    The solved plan never costs more than the epsilon asked for. `partners` is how many share the noise and
    `summed_values` how many values of the trunk they sum, where noise is shared. The ring is then the narrowest one
    that holds the sum.

    Raises
    ------
    PrivacyError
        ``PFL-P03`` no noise multiplier reaches that epsilon.
    ValueError
        Noise is shared and nobody said how many values are summed, or the plan's settings contradict each other.
    """
    noise, shared = 0.0, privacy.noise_mode == "shared"
    if privacy.mechanism == "dp-sgd":
        from pharma_fl.privacy.calibration import calibrate_noise  # noqa: PLC0415 - it takes a second to import

        steps = training.rounds * training.local_steps
        noise = privacy.noise_multiplier or calibrate_noise(
            target_epsilon=float(privacy.epsilon or 0),
            delta=privacy.delta,
            sample_rate=privacy.sample_rate,
            steps=steps,
        )
    plan = PrivacyPlan(
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
        unit=privacy.unit,
        max_series_size=privacy.max_series_size,
        noise_mode=privacy.noise_mode,
        contributors=partners if shared else 1,
        tolerated_colluders=privacy.tolerated_colluders if shared else 0,
        tolerated_losses=privacy.tolerated_losses if shared else 0,
        summed_values=summed_values if shared else 0,
        ring_bits=64 if shared else 32,
    )
    return plan.model_copy(update={"ring_bits": plan.shared.least_ring_bits}) if shared else plan

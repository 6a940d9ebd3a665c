"""federation.toml: what the coordinator proposes and every partner can read before joining."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pharma_fl.config.base import Settings
from pharma_fl.config.deployment import SuperLinkSettings

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Probability = Annotated[float, Field(gt=0, lt=1)]
ClipMode = Literal["flat", "groups", "automatic", "adaptive"]
Unit = Literal["compound", "series"]
Width = Annotated[int, Field(ge=1, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, le=1e6)]
# Bounds within which float32 computes the clip and the accountant its epsilon; far beyond any useful value.
SampleRate = Annotated[float, Field(ge=1e-6, le=1)]
ClippingNorm = Annotated[float, Field(ge=1e-9, le=1e9)]
MOST_STEPS = 1_000_000
"""Private steps of a run: what is priced in a second."""


class ModelSettings(Settings):
    """The network's shape and start: everything in front of the private heads is the shared trunk."""

    input_bits: Annotated[int, Field(ge=8, le=1_048_576)] = 4096
    """Fingerprint bits after folding; the prepared bits are folded to this width by position modulo it."""
    input_scale: Annotated[float, Field(ge=1e-3, le=1e3)] = 0.4
    """Value of a set bit. It balances the first layer's gradient against the others' under one clip."""
    input_transform: Literal["none", "binarize", "log1p", "tanh"] = "none"
    """What becomes of counts; bits that were prepared without counts are 1 under ``none``."""
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (32,)
    activation: Literal["relu", "tanh"] = "tanh"
    dropout: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    head_start: Annotated[float, Field(ge=0, le=1e3)] = 4.0
    """Scale of the heads' public start, in units of 1 / sqrt(features). Column k starts equal at every
    partner; 0 starts every head at zero."""
    class_features: Width | None = None
    """How many of the trunk's outputs, from the left, the classification head sees; left out, all."""
    value_features: Width | None = None
    """How many of the trunk's outputs, from the right, the regression head sees; left out, all."""
    regression_weight: Annotated[float, Field(ge=0, le=1e3)] = 0.1
    """Weight of a squared error against a cross-entropy, a public constant."""
    censored_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What a censored value's weight is multiplied with, a public constant."""
    catalogue: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=20_000)] = ()
    """Ids of catalogue tasks that mean the same at every partner: their columns are shared with the trunk."""
    pretrained: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    """SHA-256 of the public checkpoint that the trunk starts from; every partner has a copy."""
    frozen_layers: Annotated[int, Field(ge=0, le=4)] = 0
    """How many of the trunk's layers, from the input, stay as they start and do not travel."""
    adapter_rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """Rank of a trained product beside each frozen layer; 0 for none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        features, seen = self.hidden[-1], (self.class_features, self.value_features)
        if any(part is not None and part > features for part in seen):
            raise ValueError(f"expected class_features and value_features of at most hidden[-1] = {features}")
        if sum(features if part is None else part for part in seen) < features:
            raise ValueError(f"class_features and value_features must cover all hidden[-1] = {features} outputs")
        if len(set(self.catalogue)) != len(self.catalogue):
            raise ValueError("catalogue names a task twice")
        if self.frozen_layers > len(self.hidden):
            raise ValueError(f"frozen_layers = {self.frozen_layers} exceeds the {len(self.hidden)} trunk layers")
        if self.adapter_rank and not self.frozen_layers:
            raise ValueError("adapter_rank adapts frozen layers; set frozen_layers")
        if self.frozen_layers == len(self.hidden) and not self.adapter_rank and not self.catalogue:
            raise ValueError("with every layer frozen and neither adapters nor a catalogue nothing would be shared")
        return self


class TrainingSettings(Settings):
    """How the trunk and the heads move."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = 10
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Private steps a round, each paid for."""
    trunk_learning_rate: LearningRate = 0.45
    head_learning_rate: LearningRate = 0.15
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: LearningRate = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of SGD, or Adam's first decay rate. With SGD, rate 1 and momentum 0 the coordinator averages."""

    @model_validator(mode="after")
    def _can_be_priced(self) -> Self:
        if self.rounds * self.local_steps > MOST_STEPS:
            raise ValueError(f"expected rounds * local_steps <= {MOST_STEPS:,}")
        return self


class PrivacySettings(Settings):
    """The mechanism that the coordinator proposes.

    `noise_multiplier` is solved from `epsilon` when it is left out. With ``mechanism = "none"`` nothing
    is protected, and a partner takes part only if its own policy says so.
    """

    mechanism: Literal["dp-sgd", "none"] = "dp-sgd"
    epsilon: Annotated[float | None, Field(gt=0)] = None
    noise_multiplier: Annotated[float | None, Field(gt=0)] = None
    delta: Probability = 1e-5
    sample_rate: SampleRate = 0.3
    clipping_norm: ClippingNorm = 1.0
    expected_batch: Annotated[float, Field(gt=0)] = 256.0
    """Public constant that divides the noised sum; never a count taken from data."""
    clipping: ClipMode = "flat"
    """``flat``: trunk and heads under one norm. ``groups``: each under its own, with its own noise. ``automatic``:
    every gradient is brought near the norm. ``adaptive``: the norm follows a noised quantile, which is paid for."""
    head_clipping_norm: ClippingNorm | None = None
    """The heads' norm under ``groups``; clipping_norm is then the trunk's."""
    head_noise_ratio: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Under ``groups``, the heads' noise multiplier over the trunk's; both together cost noise_multiplier."""
    clip_quantile: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Under ``adaptive``, the share of records that shall be within the norm."""
    clip_learning_rate: Annotated[float, Field(gt=0, le=2)] = 0.2
    """Under ``adaptive``, how fast the norm follows."""
    clip_count_noise: Annotated[float | None, Field(gt=0)] = None
    """Under ``adaptive``, standard deviation of the noise on the count of records within the norm; left out, a
    twentieth of expected_batch, but at least twice the noise multiplier."""
    unit: Unit = "compound"
    """What is sampled, clipped and protected as one: a compound, or a series (all compounds of one scaffold family)."""
    max_series_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most compounds of a sampled series that take part in a step; of larger ones some are drawn."""
    noise_mode: Literal["local", "shared"] = "local"
    """``local``: each partner adds the whole noise. ``shared``: each adds a share, and only a secure sum is opened."""
    tolerated_colluders: Annotated[int, Field(ge=0)] = 1
    """Under ``shared``, partners that may tell the coordinator their shares without breaking the guarantee."""
    tolerated_losses: Annotated[int, Field(ge=0)] = 0
    """Under ``shared``, partners that may be missing in a round, whose sum then still opens."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.mechanism == "dp-sgd" and (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("expected exactly one of epsilon and noise_multiplier")
        if self.mechanism == "none" and (self.epsilon is not None or self.noise_multiplier is not None):
            raise ValueError('mechanism "none" protects nothing: remove epsilon and noise_multiplier')
        check_clipping(self.clipping, self.head_clipping_norm, self.mechanism)
        return self


def check_clipping(clipping: ClipMode, head_clipping_norm: float | None, mechanism: str) -> None:
    """Raise ValueError where the settings of clipping contradict each other."""
    if (clipping == "groups") != (head_clipping_norm is not None):
        raise ValueError('expected head_clipping_norm with clipping = "groups", and only there')
    if mechanism == "none" and clipping != "flat":
        raise ValueError('mechanism "none" clips nothing: remove clipping')


class QuorumSettings(Settings):
    """When a round counts."""

    min_partners: Annotated[int | None, Field(ge=1)] = None
    """Fewest good replies a round needs; left out, every partner of the federation."""
    join_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    round_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a round waits for partners that have not answered."""
    when_missed: Literal["wait", "skip", "stop"] = "wait"
    """What to do when too few have answered by then. ``wait``: as long as wait_s, for those who may still come, then
    stop. ``skip``: go on with the next round; this one is void. ``stop``: end the run."""
    wait_s: Annotated[float, Field(ge=0)] = 3600.0
    """Under ``wait``, seconds beyond a round's deadline."""
    void_rounds: Annotated[int, Field(ge=0, le=1000)] = 2
    """Rounds in a row that may be void, skipped or with a sum that does not open, before the run stops; they stay
    charged."""
    ask_again_s: Annotated[float, Field(gt=0)] = 60.0
    """After so long without an answer a partner is asked again; who has answered already answers the same."""
    largest_sample: Annotated[float, Field(ge=1)] = 8.0
    """Expected batches that a partner's sample may have in a step: its reply may move the trunk by so much and no more.
    To be raised where some partners have far more compounds than others."""
    quarantine_after: Annotated[int, Field(ge=1)] = 3
    """Bad replies after which a partner is left out for the rest of the run."""


class EvaluationSettings(Settings):
    """Noised metrics on the partners' validation folds. Each partner that answers is charged for them."""

    every: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Rounds from one request to the next; 0 asks for none."""
    noise_multiplier: Annotated[float, Field(ge=0.1, le=1e6)] = 10.0
    """Standard deviation of the noise on each count, over clipping_norm."""
    clipping_norm: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    """Largest norm of what one compound adds to all counts together; a label alone adds 1."""
    bins: Annotated[int, Field(ge=2, le=100)] = 20
    """Bins of equal width between predicted probability 0 and 1. Fewer have less noise together, and tell less of how
    predictions that are close to each other are ranked."""


class TrackingSettings(Settings):
    """Where the coordinator's MLflow run goes. Best effort: it never fails or delays a round."""

    enabled: bool = True
    uri: str | None = None
    """Left out: MLFLOW_TRACKING_URI, else SQLite in the coordinator's folder."""
    experiment: str | None = None
    """Left out: the federation's name."""
    run_name: str | None = None


class Federation(Settings):
    """federation.toml, whole."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the trunk's public start only; noise and sampling never depend on it."""
    partners: Annotated[dict[Name, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Public weight of each partner's update, by partner name."""
    pretrained: str | None = None
    """The coordinator's copy of the public checkpoint that model.pretrained names, relative to federation.toml."""
    output: str = "coordinator"
    """Folder of checkpoints and round records, relative to federation.toml."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 5
    """How many rounds' models stay on disk beside the public start; every round's record does."""
    roster: str | None = None
    """File of the partners' public keys, relative to federation.toml; left out, as in simulations, nodes are believed
    who they say they are."""
    superlink: SuperLinkSettings | None = None
    ledger_heads: str = "ledger-heads.json"
    """File that keeps, from run to run, a bare hash of each partner's ledger, relative to federation.toml."""
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings
    quorum: QuorumSettings = QuorumSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _quorum_is_possible(self) -> Self:
        wanted = self.quorum.min_partners
        if wanted is not None and wanted > len(self.partners):
            raise ValueError(f"quorum.min_partners = {wanted} exceeds the {len(self.partners)} partners listed")
        return self

    @model_validator(mode="after")
    def _sums_are_plain(self) -> Self:
        if self.privacy.noise_mode == "local":
            return self
        if self.training.local_steps != 1:
            # Between the steps of a round a partner's own share is all the noise there is.
            raise ValueError(
                f'privacy.noise_mode "shared" needs training.local_steps = 1, got {self.training.local_steps}'
            )
        if len(set(self.partners.values())) > 1:
            raise ValueError('privacy.noise_mode "shared" adds up without weights: expected equal numbers in partners')
        return self

    @model_validator(mode="after")
    def _checkpoint_is_named_twice(self) -> Self:
        if (self.pretrained is None) != (self.model.pretrained is None):
            raise ValueError("expected pretrained (the file) and model.pretrained (its SHA-256) together, or neither")
        return self

    @property
    def min_partners(self) -> int:
        """Fewest good replies a round needs."""
        return len(self.partners) if self.quorum.min_partners is None else self.quorum.min_partners

"""A request for noised metrics and its reply: every field that travels, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pharma_fl.config import ModelSettings
from pharma_fl.config.federation import EvaluationSettings
from pharma_fl.messages.rounds import digest


@dataclass(frozen=True, kw_only=True)
class MetricsRequest:
    """What the coordinator asks for after a round; everything in it is public.

    Attributes
    ----------
    federation, run : str
        Names of the federation and of the run.
    round : int
        The round that has just been done, from 1.
    evaluation, model : settings
        As agreed for the run.
    seed : int
        Of the public start of the heads.
    trunk : dict
        Shared parameters after the round, by name.
    witnesses : tuple of str
        As in `RoundRequest`.
    """

    federation: str
    run: str
    round: int
    evaluation: EvaluationSettings
    model: ModelSettings
    seed: int
    trunk: dict[str, Tensor]
    witnesses: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the reply: all tasks pooled and each catalogue task, by class and bin. It follows from settings."""
        return 1 + len(self.model.catalogue), 2, self.evaluation.bins

    @property
    def plan(self) -> str:
        """Identifies what stays as it is during the run."""
        return digest({}, self.federation, self.run, *self._settings)

    @property
    def digest(self) -> str:
        """Identifies the request, so that only the very same one gets a stored reply."""
        return digest(self.trunk, self.federation, self.run, self.round, *self._settings)

    @property
    def _settings(self) -> tuple[object, ...]:
        return self.evaluation.model_dump(), self.model.model_dump(), self.seed


@dataclass(frozen=True, kw_only=True)
class MetricsReply:
    """All that leaves the partner.

    Attributes
    ----------
    histogram : Tensor
        float64, of the request's shape: noised counts of labelled cells of the validation fold. Along the first axis
        all classification tasks pooled, then each task of ``model.catalogue``; then inactive and active; then bins of
        the predicted probability, from 0 to 1.
    """

    histogram: Tensor

"""One round's question for noised metrics, and what came of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from flwr.app import MetricRecord, RecordDict
from numpy.typing import NDArray

from pharma_fl.messages.metrics import MetricsRequest
from pharma_fl.messages.wire import metrics_request
from pharma_fl.strategies.asking import Reply
from pharma_fl.strategies.boundary import Wanted, read_histogram
from pharma_fl.strategies.ledger_heads import Witnesses
from pharma_fl.strategies.noised_metrics import POOLED, noised_areas

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies


class Evaluation:
    """Asks some partners for noised counts and adds them up. What a partner refuses ends nothing.

    Parameters
    ----------
    request : MetricsRequest
        The question.
    names : iterable of str
        Partners that are asked.

    Attributes
    ----------
    evaluated : list of str
        Partners whose counts were used.
    refused : dict
        Code of every other partner that was asked, by name.
    areas : dict
        As `noised_areas`, of the sum of all counts.
    """

    def __init__(self, request: MetricsRequest, names: Iterable[str]) -> None:
        self._request = request
        self._counts: dict[str, NDArray[np.float64]] = {}
        self.evaluated: list[str] = []
        self.refused = dict.fromkeys(names, "PFL-F13")
        self.areas: dict[str, dict[str, float]] = {}

    def questions(self, witnesses: Witnesses) -> dict[str, RecordDict]:
        """Return what to ask each partner, with what the coordinator remembers of its ledger."""
        return {name: metrics_request(replace(self._request, witnesses=witnesses.of(name))) for name in self.refused}

    def take(self, name: str, reply: Reply) -> bool:
        """Take a partner's reply, and say whether it is good. Of several the first counts."""
        if name not in self.refused or name in self._counts:
            return False
        found, code = None, "PFL-F11"
        if not isinstance(reply, Exception):
            wanted = Wanted(run=self._request.run, round=self._request.round)
            found, code = read_histogram(reply, self._request.shape, wanted)
        if found is None:
            self.refused[name] = code
            return False
        self._counts[name] = found
        return True

    def result(self) -> MetricRecord | None:
        """Add up what came; return the metric of all tasks together, or None where its noise is too large."""
        for name in self._counts:
            self.refused.pop(name, None)
        for name, code in sorted(self.refused.items()):
            _LOG.warning("Round %d: no metrics of %s (%s).", self._request.round, name, code)
        self.evaluated = sorted(self._counts)
        if self._counts:
            wanted = self._request.evaluation
            std = wanted.noise_multiplier * wanted.clipping_norm * math.sqrt(len(self._counts))
            total = np.sum(list(self._counts.values()), axis=0)
            self.areas = noised_areas(total, self._request.model.catalogue, std=std)
        if POOLED not in self.areas:
            return None
        pooled = self.areas[POOLED]
        return MetricRecord(
            {"noised_auc_roc": pooled["value"], "noised_auc_roc_standard_error": pooled["standard_error"]}
        )

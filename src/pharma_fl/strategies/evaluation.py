"""One round's question for noised metrics, and what came of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from flwr.app import Message, MessageType, MetricRecord

from pharma_fl.messages.metrics import MetricsRequest
from pharma_fl.messages.wire import metrics_request
from pharma_fl.strategies.boundary import read_histogram
from pharma_fl.strategies.noised_metrics import POOLED, noised_areas

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies


class Evaluation:
    """Asks some partners for noised counts and adds them up. What a partner refuses ends nothing.

    Parameters
    ----------
    request : MetricsRequest
        The question.
    nodes : mapping
        Flower node id of each partner that is asked, by name.

    Attributes
    ----------
    evaluated : list of str
        Partners whose counts were used.
    refused : dict
        Code of every other partner that was asked, by name.
    areas : dict
        As `noised_areas`, of the sum of all counts.
    """

    def __init__(self, request: MetricsRequest, nodes: Mapping[str, int]) -> None:
        self._request, self._nodes = request, dict(nodes)
        self.evaluated: list[str] = []
        self.refused = dict.fromkeys(self._nodes, "PFL-F13")
        self.areas: dict[str, dict[str, float]] = {}

    def messages(self, witnesses: Mapping[str, tuple[str, ...]], *, lifetime_s: float) -> list[Message]:
        """Return one message for each partner, with what the coordinator remembers of its ledger.

        After its lifetime a message is not delivered any more: it would be charged, and not be waited for.
        """
        return [
            Message(
                metrics_request(replace(self._request, witnesses=witnesses.get(name, ()))),
                dst_node_id=node,
                message_type=MessageType.EVALUATE,
                ttl=lifetime_s,
            )
            for name, node in self._nodes.items()
        ]

    def take(self, replies: Iterable[Message]) -> MetricRecord | None:
        """Take the good replies; return the metric of all tasks together, or None where its noise is too large."""
        names, counts = {node: name for name, node in self._nodes.items()}, {}
        for reply in replies:
            # Of several replies the first counts.
            name = names.pop(reply.metadata.src_node_id, None)
            if name is None:
                continue
            found, code = read_histogram(reply, self._request.shape)
            if found is None:
                self.refused[name] = code
            else:
                counts[name] = found
                del self.refused[name]
        for name, code in sorted(self.refused.items()):
            _LOG.warning("Round %d: no metrics of %s (%s).", self._request.round, name, code)
        self.evaluated = sorted(counts)
        if counts:
            wanted = self._request.evaluation
            std = wanted.noise_multiplier * wanted.clipping_norm * math.sqrt(len(counts))
            self.areas = noised_areas(np.sum(list(counts.values()), axis=0), self._request.model.catalogue, std=std)
        if POOLED not in self.areas:
            return None
        pooled = self.areas[POOLED]
        return MetricRecord(
            {"noised_auc_roc": pooled["value"], "noised_auc_roc_standard_error": pooled["standard_error"]}
        )

"""A trunk that was trained on public measurements, with where it comes from; partners start from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from pharma_fl.config import ModelSettings
from pharma_fl.errors import ModelError
from pharma_fl.model.network import SparseMultitaskNetwork, Trunk, trunk_of
from pharma_fl.model.weights import check_shapes, load_weights, save_weights

_PROVENANCE = "provenance"
_SHAPE = ("input_bits", "input_scale", "input_transform", "hidden", "activation")
"""What must be equal in the checkpoint's settings and the federation's, or the weights would mean something else."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A public checkpoint.

    Attributes
    ----------
    weights : dict
        The trunk's parameters by name.
    provenance : dict
        Source, settings, versions, key id and scores, as `pharma-fl pretrain` wrote them.
    digest : str
        SHA-256 of the file, which federation.toml names.
    """

    weights: dict[str, Tensor]
    provenance: dict[str, Any]
    digest: str


def save_pretrained(path: Path, trunk: Trunk, provenance: dict[str, Any]) -> str:
    """Write a trunk with its provenance to one safetensors file, and return the file's SHA-256."""
    save_weights(path, base_weights(trunk), {_PROVENANCE: json.dumps(provenance, sort_keys=True)})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_pretrained(path: Path, digest: str | None = None) -> Pretrained:
    """Read a public checkpoint.

    Raises
    ------
    ModelError
        ``PFL-M02`` the file is missing or damaged; ``PFL-M11`` it is another one than `digest` says, or not such a
        checkpoint.
    """
    weights, metadata = load_weights(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest is not None and found != digest:
        raise ModelError(
            "PFL-M11",
            f"Expected the checkpoint of SHA-256 {digest} (federation.toml: model.pretrained), but {path} has {found}. "
            "Get the federation's file.",
        )
    if _PROVENANCE not in metadata:
        raise ModelError("PFL-M11", f"{path} was not made by pharma-fl pretrain: it says nothing of its source.")
    try:
        provenance = json.loads(metadata[_PROVENANCE])
    except ValueError as error:
        raise ModelError("PFL-M11", f"The provenance in {path} is no JSON. Get the file again.") from error
    return Pretrained(weights=weights, provenance=provenance, digest=found)


def start_from(network: SparseMultitaskNetwork, pretrained: Pretrained) -> None:
    """Set the trunk's own layers to a checkpoint's; adapters, catalogue and heads keep their start.

    Raises
    ------
    ModelError
        ``PFL-M11`` the checkpoint reads its input otherwise, ``PFL-M03`` a layer is of another shape.
    """
    try:
        theirs = ModelSettings(**pretrained.provenance["model"])
    except (KeyError, TypeError, ValidationError) as error:
        raise ModelError("PFL-M11", f"The checkpoint's provenance cannot be read: {error}. Make it again.") from error
    different = [name for name in _SHAPE if getattr(theirs, name) != getattr(network.settings, name)]
    if different:
        named = ", ".join(f"{name} = {getattr(theirs, name)}" for name in different)
        raise ModelError(
            "PFL-M11", f"The checkpoint was trained with {named}. Set the same under [model] of federation.toml."
        )
    own = base_weights(network.trunk)
    check_shapes(own, pretrained.weights, place="The public checkpoint")
    for name, value in own.items():
        value.copy_(pretrained.weights[name])


def initial_trunk(settings: ModelSettings, seed: int, pretrained: Pretrained | None = None) -> dict[str, Tensor]:
    """Return the public start of what travels: what round 1 sends to every partner."""
    network = SparseMultitaskNetwork(settings, class_tasks=1, value_tasks=0, seed=seed)
    if pretrained is not None:
        start_from(network, pretrained)
    return trunk_of(network)


def base_weights(trunk: Trunk) -> dict[str, Tensor]:
    """Return the parameters of a trunk's own layers by name, without adapters and catalogue; not copies."""
    return {
        name: value.detach()
        for name, value in trunk.named_parameters()
        if "adapter" not in name and not name.startswith("catalogue.")
    }

"""The network as a run starts it at a partner: the public seed, and the public checkpoint where one is named."""

from __future__ import annotations

from pharma_fl.config import ModelSettings, Partner
from pharma_fl.data.matrices import PreparedData
from pharma_fl.errors import ModelError
from pharma_fl.model.fit import new_network
from pharma_fl.model.network import SparseMultitaskNetwork
from pharma_fl.model.pretrained import load_pretrained, start_from
from pharma_fl.model.records import Records


def start_network(partner: Partner, model: ModelSettings, records: Records, seed: int) -> SparseMultitaskNetwork:
    """Return a federation's network at its start, with the heads that the partner's records need.

    Raises
    ------
    ModelError
        ``PFL-M11`` the federation starts from a checkpoint that the partner lacks, or that was made with another
        consortium key or otherwise prepared fingerprints; the codes of `load_pretrained` and `start_from`.
    """
    network = new_network(model, records, seed)
    if model.pretrained is None:
        return network
    if partner.pretrained is None:
        raise ModelError(
            "PFL-M11",
            "The federation starts from a public checkpoint, and partner.toml names none. Get the file and name it "
            "(partner.toml: pretrained).",
        )
    pretrained = load_pretrained(partner.path(partner.pretrained), model.pretrained)
    manifest = PreparedData.open(partner.path(partner.data)).manifest
    for fact in ("key_id", "key_scheme", "fingerprint"):
        own = (manifest if fact != "fingerprint" else manifest.get("settings", {})).get(fact)
        theirs = pretrained.provenance.get(fact)
        if own != theirs:
            raise ModelError(
                "PFL-M11",
                f"The public checkpoint was made with another {fact}: it has {theirs}, this partner {own}. Its bits "
                "mean something else. Prepare with what the federation agreed on, or get the checkpoint made for it.",
            )
    start_from(network, pretrained)
    return network

"""Which configuration file a Flower app reads: the one difference between simulation and deployment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pharma_fl.errors import ConfigError

FEDERATION_VARIABLE = "PHARMA_FL_FEDERATION"
PARTNERS_VARIABLE = "PHARMA_FL_PARTNERS"


def federation_file(run_config: Mapping[str, object]) -> Path:
    """Return the coordinator's federation.toml.

    Parameters
    ----------
    run_config : mapping
        Flower's run configuration; its key ``federation`` wins over the environment variable
        ``PHARMA_FL_FEDERATION``.

    Raises
    ------
    ConfigError
        ``PFL-C04`` neither names a file.
    """
    named = run_config.get("federation") or os.environ.get(FEDERATION_VARIABLE)
    if not named:
        raise ConfigError(
            "PFL-C04",
            "No federation file. Pass --run-config 'federation=\"/path/federation.toml\"' to flwr run, "
            f"or set {FEDERATION_VARIABLE}.",
        )
    return Path(str(named))


def partner_file(node_config: Mapping[str, object], run_config: Mapping[str, object]) -> Path:
    """Return this partner's partner.toml.

    A SuperNode names its own file with ``--node-config 'partner="/path/partner.toml"'``, and nothing
    that the coordinator sends can change that. Only a simulated node, which Flower gives a
    ``partition-id``, looks into the folder of simulated partners.

    Raises
    ------
    ConfigError
        ``PFL-C05`` no file is named, or there are fewer simulated partners than nodes.
    """
    own = node_config.get("partner")
    if own:
        return Path(str(own))
    if "partition-id" not in node_config:
        raise ConfigError(
            "PFL-C05",
            "No partner file. Start flower-supernode with --node-config 'partner=\"/path/partner.toml\"'.",
        )
    folder = run_config.get("partners") or os.environ.get(PARTNERS_VARIABLE)
    if not folder:
        raise ConfigError(
            "PFL-C05",
            f"No folder of simulated partners. Pass --run-config 'partners=\"/path\"', or set {PARTNERS_VARIABLE}.",
        )
    files = sorted(Path(str(folder)).glob("*/partner.toml"))
    index = int(str(node_config["partition-id"]))
    if index >= len(files):
        raise ConfigError(
            "PFL-C05",
            f"Simulated partner {index} was asked for, but {folder} holds {len(files)} partner.toml files. "
            "Start as many nodes as there are partners.",
        )
    return files[index]

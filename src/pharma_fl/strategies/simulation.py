"""Running the very apps of a deployment on Flower's simulation runtime, in this process and Ray's."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.simulation import run_simulation

from pharma_fl.config import Federation
from pharma_fl.config.locate import FEDERATION_VARIABLE, PARTNERS_VARIABLE
from pharma_fl.errors import FederationError
from pharma_fl.strategies.app import app as server_app
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.run_record import RunEnd


def simulate(
    federation_path: Path, partners: Path, client_app: ClientApp, *, workers: int, verbose: bool = False
) -> RunEnd:
    """Run a federation with simulated partners.

    Parameters
    ----------
    federation_path : Path
        federation.toml.
    partners : Path
        Folder with one folder a partner, each with its partner.toml.
    client_app : ClientApp
        The partner's app.
    workers : int
        Partners that train at the same time.
    verbose : bool
        Show Flower's own log.

    Returns
    -------
    RunEnd
        How the run ended.

    Raises
    ------
    ConfigError
        federation.toml is invalid.
    FederationError
        ``PFL-F20`` the folder holds a run already, or the simulation broke.
    """
    federation = Federation.load(federation_path)
    checkpoints = Checkpoints(federation_path.resolve().parent / federation.output)
    checkpoints.check_free()
    nodes = len(list(partners.glob("*/partner.toml")))
    if nodes == 0:
        raise FederationError("PFL-F20", f"{partners} holds no NAME/partner.toml. Name the folder of the partners.")
    with _environment(federation_path.resolve(), partners.resolve()), _quiet(verbose=verbose):
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=nodes,
            backend_config={
                "init_args": {"num_cpus": workers, "include_dashboard": False, "log_to_driver": verbose},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    end = checkpoints.end()
    if end is None:
        raise FederationError("PFL-F20", "The simulation broke before the run ended. Run it again with --verbose.")
    return end


@contextmanager
def _environment(federation: Path, partners: Path) -> Iterator[None]:
    settings = {
        FEDERATION_VARIABLE: str(federation),
        PARTNERS_VARIABLE: str(partners),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # One partner, one core: several threads each would only fight over the same cores.
        "OMP_NUM_THREADS": "1",
    }
    # Flower's Ray backend writes PYTHONPATH for its workers and leaves it so.
    before = {name: os.environ.get(name) for name in (*settings, "PYTHONPATH")}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(before if verbose else logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

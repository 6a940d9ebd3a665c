"""`flwr run .` submits the very apps to a SuperLink; the bundle it ships carries configuration alone."""

import json
import os
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from tests.conftest import PROJECT
from tests.loopback import free_port, listens
from tests.partners import METRICS_ALLOWED, a_partner

from pharma_fl.config import Partner
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.ledger import Ledger

BIN = Path(sys.executable).parent


@pytest.fixture
def superlink(tmp_path):
    """A SuperLink of our own in simulation mode, on loopback; yields the environment in which flwr finds it."""
    port = free_port()
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    own = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    with (tmp_path / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=own, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 60
            while not listens(port):
                assert process.poll() is None, (tmp_path / "superlink.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield own
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.e2e
@pytest.mark.slow
def test_flwr_run(tmp_path, superlink):
    for seed, name in enumerate(("east", "north")):
        a_partner(tmp_path / "partners", name, seed=seed, **METRICS_ALLOWED)
    (tmp_path / "federation.toml").write_text(
        """
        name = "flwr-run"
        [partners]
        east = 1.0
        north = 1.0
        [model]
        input_bits = 64
        hidden = [8]
        [training]
        rounds = 2
        local_steps = 2
        [privacy]
        epsilon = 2.0
        [evaluation]
        every = 2
        [tracking]
        enabled = false
        """
    )
    done = subprocess.run(
        [
            "flwr",
            "run",
            str(PROJECT),
            "own",
            "--stream",
            "--federation-config",
            "num-supernodes=2 client-resources-num-cpus=1",
            "--run-config",
            f'federation="{tmp_path}/federation.toml" partners="{tmp_path}/partners"',
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env=superlink,
    )
    end = tmp_path / "coordinator" / "end.json"
    assert end.exists(), done.stdout + done.stderr + (tmp_path / "superlink.log").read_text()
    assert json.loads(end.read_text())["status"] == "completed"
    for name in ("east", "north"):
        partner = Partner.load(tmp_path / "partners" / name / "partner.toml")
        history = Ledger.of(partner).history()
        assert 1.98 < epsilon(history.charges(purposes=("train",)), 1e-5) <= 2.0
        assert history.charges(purposes=("metrics",)) == (Charge(1.0, 10.0, 1),)
    rounds = [json.loads(line) for line in (tmp_path / "coordinator" / "rounds.jsonl").read_text().splitlines()]
    assert [record["evaluated"] for record in rounds] == [[], ["east", "north"]]


def test_the_bundle_carries_no_code():
    from flwr.cli.build import build_fab_from_disk

    with zipfile.ZipFile(BytesIO(build_fab_from_disk(PROJECT))) as bundle:
        names = set(bundle.namelist())
    assert names == {
        ".info/CONTENT",
        "pyproject.toml",
        "strategies/dp-fedavg.toml",
        "strategies/dp-fedsgd.toml",
        "strategies/fedavg-unprotected.toml",
    }

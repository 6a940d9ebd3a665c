"""What is installed is what the lock says."""

import re
from importlib.metadata import distributions

import pytest
from tests.conftest import PROJECT

# Tools of the environment itself, this project, and what PyTorch's GPU builds bring along.
EXEMPT = re.compile(r"^(pip|setuptools|wheel|pharma-fl|triton|nvidia-.*|cuda-.*)$")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version.strip() for name, version in pins}


def installed():
    return {canonical(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}


def test_every_installed_package_has_the_locked_version():
    pins = locked()
    found = {name: version for name, version in installed().items() if not EXEMPT.match(name)}
    wrong = {name: (version, pins.get(name)) for name, version in found.items() if pins.get(name) != version}
    assert not wrong, f"installed, locked: {wrong}. Run make setup, or make lock for a new lock."


@pytest.mark.parametrize("name", ["torch", "flwr", "opacus", "rdkit", "mlflow", "dp-accounting", "qc-b3db"])
def test_the_lock_names_what_results_depend_on(name):
    assert name in locked()

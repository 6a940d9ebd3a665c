"""Three accountants agree; a fourth, which understates, is used nowhere."""

import ast
import math
import warnings
from pathlib import Path

import pytest

import pharma_fl
from pharma_fl.privacy.accountant import composed, epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.second_opinions import epsilon_by_opacus, epsilon_by_rdp

PRV_ERROR = 0.01  # Opacus's eps_error, by which its upper bound is above what it computed

GRID = [
    (rate, noise, steps, delta)
    for rate, noise, steps in [
        (0.001, 0.6, 100),
        (0.001, 1.0, 5000),
        (0.01, 0.8, 1000),
        (0.01, 2.0, 3000),
        (0.05, 1.0, 200),
        (0.05, 4.0, 2000),
        (0.3, 2.4, 150),
        (0.3, 5.0, 150),
        (0.9, 8.0, 50),
        (1.0, 5.0, 20),
    ]
    for delta in (1e-5, 1e-7)
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), GRID)
def test_three_accountants_agree(rate, noise, steps, delta):
    charges = [Charge(rate, noise, steps)]
    by_loss = composed(charges).get_epsilon_for_delta(delta)
    assert epsilon(charges, delta) == by_loss  # the Renyi bound is never the smaller one here
    assert by_loss <= epsilon_by_rdp(charges, delta) + 1e-9
    assert by_loss - 1e-4 <= epsilon_by_opacus(charges, delta) <= by_loss + PRV_ERROR + 1e-3


def test_three_accountants_agree_on_a_mixed_history():
    charges = [Charge(0.3, 5.0, 60), Charge(0.1, 2.0, 40), Charge(0.02, 1.5, 300)]
    found = epsilon(charges, 1e-5)
    assert found - 1e-4 <= epsilon_by_opacus(charges, 1e-5) <= found + PRV_ERROR + 1e-3
    assert found <= epsilon_by_rdp(charges, 1e-5)


def test_opacus_says_nothing_of_what_it_does_not_know_or_cannot_compute():
    mixed = [Charge(0.1, 2.0, 40), Charge(0.1, 2.0, 40, "series")]
    assert epsilon_by_opacus(mixed, 1e-5) is None
    assert epsilon_by_opacus(mixed, 1e-5, unit="series") is None
    assert epsilon_by_opacus(mixed[1:], 1e-5, unit="series") == epsilon_by_opacus(mixed[:1], 1e-5)
    assert epsilon_by_opacus([Charge(0.9, 0.3, 10_000)], 1e-5) is None


@pytest.mark.parametrize("opinion", [epsilon_by_opacus, epsilon_by_rdp])
def test_both_ends_of_a_history(opinion):
    assert opinion([], 1e-5) == 0.0
    assert opinion([Charge(0.1, 2.0, 40), Charge(0.1, 0.0, 1)], 1e-5) == math.inf


def test_renyi_knows_every_kind_of_charge():
    for unit in ("compound", "series"):
        charge = Charge(0.05, 3.0, 50, unit)
        for price in ("compound", "series"):
            found = epsilon_by_rdp([charge], 1e-5, unit=price, members=3)
            assert epsilon([charge], 1e-5, unit=price, members=3) <= found < math.inf


def understated(rate, noise, steps, delta):
    from opacus.accountants import GaussianAccountant

    accountant = GaussianAccountant.__new__(GaussianAccountant)
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return epsilon([Charge(rate, noise, steps)], delta) / accountant.get_epsilon(delta=delta)


def test_opacus_gdp_accountant_understates_up_to_ten_times():
    """It takes the central limit of infinitely many small steps for the truth."""
    factors = [
        understated(0.001, 0.6, 100, 1e-6),
        understated(0.001, 0.6, 20000, 1e-6),
        understated(0.05, 0.6, 100, 1e-5),
        understated(0.05, 4.0, 1000, 1e-6),
    ]
    assert min(factors) > 1
    assert max(factors) == pytest.approx(9.6, abs=0.1)


def names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)
            yield getattr(node, "module", None) or ""
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_gdp(name):
    return name == "gdp" or "GaussianAccountant" in name or "accountants.gdp" in name


def test_opacus_gdp_accountant_is_used_nowhere():
    root = Path(pharma_fl.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 20
    assert [file for file in files if any(map(is_gdp, names(ast.parse(file.read_text()))))] == []
    # The search finds what it looks for.
    for guilty in (
        'create_accountant("gdp")',
        "from opacus.accountants import GaussianAccountant",
        "a.GaussianAccountant()",
    ):
        assert any(map(is_gdp, names(ast.parse(guilty))))

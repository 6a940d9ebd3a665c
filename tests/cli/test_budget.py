"""`pharma-fl budget`: every command of it, on a partner that took part in a run."""

import json
import sqlite3
import struct
import subprocess
import sys

import pytest
from tests.conftest import PROJECT
from tests.partners import a_partner, a_plan, a_request
from tests.privacy.ledgers import a_spend
from typer.testing import CliRunner

from pharma_fl.cli import main as module
from pharma_fl.clients.train import train_round
from pharma_fl.config import Partner
from pharma_fl.errors import PharmaFlError
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.ledger import Ledger

FEDERATION = """
name = "trial"
[partners]
north = 1.0
south = 1.0
[privacy]
epsilon = 2.0
sample_rate = 0.2
[training]
rounds = 20
local_steps = 5
"""


def call(*arguments):
    result = CliRunner().invoke(module.app, ["budget", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


def as_json(*arguments):
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def size_of(picture):
    """Width and height, from a PNG file's header."""
    return struct.unpack(">II", picture.read_bytes()[16:24])


@pytest.fixture
def toml(tmp_path):
    """Three rounds were carried out."""
    partner = a_partner(tmp_path)
    for number in (1, 2, 3):
        train_round(partner, a_request(number))
    (tmp_path / "federation.toml").write_text(FEDERATION)
    return tmp_path / "north" / "partner.toml"


SPENT = epsilon([Charge(0.5, 4.0, 6)], 1e-5)


def test_a_new_partner_has_all_its_budget_and_a_look_makes_no_ledger(tmp_path):
    partner = a_partner(tmp_path)
    shown = as_json("show", tmp_path / "north" / "partner.toml")
    assert (shown["epsilon_spent"], shown["epsilon_left"], shown["ledger"]) == (0, 5.0, "none yet")
    assert "records no spending" in shown["guarantees"][0]["statement"]
    assert "no ledger at" in str(call("verify", tmp_path / "north" / "partner.toml").exception)
    assert not partner.path(partner.signing_key).exists()
    assert not partner.path(partner.ledger).exists()


def test_show_says_what_was_spent_and_what_it_means(toml):
    shown = as_json("show", toml, "--plan", toml.parent.parent / "federation.toml", "--plot", toml.parent / "plot.png")
    assert shown["epsilon_spent"] == SPENT
    assert abs(shown["epsilon_spent_by_opacus"] - SPENT) < 0.02
    assert shown["steps"] == 6
    (found,) = shown["guarantees"]
    assert found["adversary"] == "everybody"
    assert found["epsilon_by_delta"] == {"1e-05": SPENT, "1e-06": epsilon([Charge(0.5, 4.0, 6)], 1e-6)}
    assert 0 < found["attacker_advantage"] < 1
    assert list(found["attacker_tpr_by_fpr"]) == ["0.001", "0.01"]
    together = found["epsilon_of_compounds_together"]
    assert together["5"] == epsilon([Charge(0.5, 4.0, 6)], 1e-5, members=5) > together["2"] > SPENT
    assert found["epsilon_of_a_compound_by_owners"]["3"] == epsilon([Charge(0.5, 4.0, 18)], 1e-5)
    assert f"epsilon {SPENT:.3g} at delta 1e-05" in found["statement"]
    assert shown["plan"]["policy_allows"] == "yes"
    assert shown["plan"]["epsilon_alone"] <= 2.0
    assert min(size_of(toml.parent / "plot.png")) > 400


def test_show_refuses_what_a_round_would_refuse(toml):
    (toml.parent / "ledger.sqlite").unlink()
    assert "PFL-P15" in str(call("show", toml).exception)


def test_show_says_what_is_left_of_each_limit_and_when_rounds_are_refused(toml):
    text = toml.read_text().replace("epsilon = 5.0", "epsilon = 6.0\nepsilon_per_year = 1.5")
    toml.write_text(text)
    shown = as_json("show", toml)
    assert shown["left"] == {
        "budget.epsilon": 6.0 - SPENT,
        "budget.epsilon_per_year": 1.5 - SPENT,
        "budget.epsilon_for_metrics": 0.0,
    }
    assert shown["looser_than_the_ledger_allows"] == ["budget.epsilon: 5.0 to 6.0"]
    printed = " ".join(call("show", toml).output.split())
    assert "rounds are refused" in printed
    assert "left of budget.epsilon_per_year" in printed


def test_show_is_readable(toml):
    printed = " ".join(call("show", toml).output.split())
    for words in ("Privacy budget of north", "worst-case attacker", "compounds together", "partners own", "Relation"):
        assert words in printed


def test_after_an_unprotected_round_there_is_no_epsilon_anywhere(tmp_path):
    partner = a_partner(tmp_path, policy={"allow_unprotected": True})
    train_round(partner, a_request(plan=a_plan(mechanism="none", noise_multiplier=0.0)))
    toml = tmp_path / "north" / "partner.toml"
    shown = as_json("show", toml, "--plot", tmp_path / "plot.png")
    (found,) = shown["guarantees"]
    assert shown["epsilon_spent"] is None
    assert shown["epsilon_spent_by_opacus"] is None
    assert set(found["epsilon_by_delta"].values()) == {None}
    assert set(found["epsilon_of_compounds_together"].values()) == {None}
    assert set(found["epsilon_of_a_compound_by_owners"].values()) == {None}
    assert (found["attacker_advantage"], *found["attacker_tpr_by_fpr"].values()) == (1, 1, 1)
    assert "there is no epsilon" in found["statement"]
    assert as_json("verify", toml)["epsilon"] is None
    printed = call("show", toml).output
    assert "no epsilon" in printed
    assert "inf" not in printed.replace("information", "")


def test_cohorts_are_shown_by_their_days(tmp_path):
    table = {"form": "wide", "files": ["a.csv"], "date": "date"}
    partner = a_partner(tmp_path, days=[9000] * 150, tables=table, budget={"epsilon": 5.0, "cohorts": ["2020-01-01"]})
    train_round(partner, a_request())
    shown = as_json("show", tmp_path / "north" / "partner.toml")
    one = epsilon([Charge(0.5, 4.0, 2)], 1e-5)
    assert shown["cohorts"] == [
        {"since": None, "until": "2020-01-01", "epsilon_spent": one},
        {"since": "2020-01-01", "until": None, "epsilon_spent": one},
    ]
    assert "Compounds from 2020-01-01 to now" in call("show", tmp_path / "north" / "partner.toml").output


def test_verify_finds_a_whole_ledger_whole_and_a_broken_one_broken(toml):
    found = as_json("verify", toml)
    assert (found["charges"], found["charges_without_a_reply"], found["epsilon"]) == (3, 0, SPENT)
    assert found["epsilon_by_renyi"] >= SPENT
    connection = sqlite3.connect(toml.parent / "ledger.sqlite")
    connection.executescript("DROP TRIGGER no_delete; DELETE FROM entries WHERE seq > 6")
    connection.close()
    assert "PFL-P15" in str(call("verify", toml).exception)
    assert call("verify", toml).exit_code == 1  # the entry point makes it 2


def test_verify_knows_what_the_state_remembers(toml):
    (toml.parent / "audit.jsonl").unlink()
    (toml.parent / "ledger.sqlite").unlink()
    assert "PFL-P15" in str(call("verify", toml).exception)


def test_an_export_is_checked_and_priced_by_the_lines_in_the_docs(toml, tmp_path):
    assert call("export", toml, "--to", tmp_path / "ledger.jsonl").exit_code == 0
    assert call("export", toml).stdout == (tmp_path / "ledger.jsonl").read_text()
    docs = (PROJECT / "docs" / "budget.md").read_text()
    script = docs.partition("```python\n")[2].partition("```")[0]
    run = [sys.executable, "-W", "ignore", "-c", script]
    printed = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(SPENT, abs=1e-6)
    exported = (tmp_path / "ledger.jsonl").read_text()
    (tmp_path / "ledger.jsonl").write_text(exported.replace('noise_multiplier\\":4.0', 'noise_multiplier\\":9.0'))
    assert (tmp_path / "ledger.jsonl").read_text() != exported
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_a_backup_comes_back_with_what_it_lacks(toml, tmp_path):
    assert call("backup", toml, "--to", tmp_path / "backup.sqlite").exit_code == 0
    train_round(Partner.load(toml), a_request(4))
    (toml.parent / "ledger.sqlite").unlink()
    refused = call("restore", toml, "--from", tmp_path / "none.sqlite", "--by", "A. Roe", "--why", "a try")
    assert "PFL-P13" in str(refused.exception)
    done = call("restore", toml, "--from", tmp_path / "backup.sqlite", "--by", "A. Roe", "--why", "the disk died")
    assert "2 entries" in done.output
    assert as_json("verify", toml)["charges"] == 4
    train_round(Partner.load(toml), a_request(5))


def test_limits_are_loosened_on_the_record(toml):
    text = toml.read_text()
    toml.write_text(text.replace("epsilon = 5.0", "epsilon = 6.0"))
    with pytest.raises(PharmaFlError, match="PFL-P21"):
        train_round(Partner.load(toml), a_request(4))
    assert "budget.epsilon: 5.0 to 6.0" in call("loosen", toml, "--by", "A. Roe", "--why", "second year").output
    train_round(Partner.load(toml), a_request(4))
    assert "Nothing is looser" in call("loosen", toml, "--by", "A. Roe", "--why", "again").output
    for missing in (("--by", "A. Roe"), ("--why", "x")):
        assert call("loosen", toml, *missing).exit_code == 2


def test_what_was_spent_elsewhere_is_declared(toml):
    done = call(
        *("declare", toml, "--sample-rate", 0.5, "--noise-multiplier", 4, "--steps", 4),
        *("--by", "A. Roe", "--why", "a study of last year"),
    )
    assert done.exit_code == 0, done.output
    assert as_json("show", toml)["epsilon_spent"] == epsilon([Charge(0.5, 4.0, 10)], 1e-5)
    entry = Ledger.of(Partner.load(toml)).entries()[-1]
    assert (entry.purpose, entry.by, entry.why) == ("declared", "A. Roe", "a study of last year")


def test_declared_runs_may_have_sampled_series_and_words_are_needed(toml):
    words = ("--by", "A. Roe", "--why", "a study")
    steps = ("--sample-rate", 0.04, "--noise-multiplier", 2.37, "--steps", 600)
    assert call("declare", toml, *steps, "--unit", "series", *words).exit_code == 0
    charge = Ledger.of(Partner.load(toml)).charges()
    assert Charge(0.04, 2.37, 600, "series") in charge
    assert call("declare", toml, *steps, "--by", " ", "--why", "x").exit_code == 2
    assert call("declare", toml, *steps, "--covers", "no hash", *words).exit_code == 2
    nothing = ("--noise-multiplier", 0, "--steps", 1)
    assert call("declare", toml, *nothing, *words).exit_code == 2
    assert "no epsilon" in call("declare", toml, *nothing, "--yes", *words).output


def test_what_was_spent_is_declared_whatever_the_limits_are(toml):
    toml.write_text(toml.read_text().replace("epsilon = 5.0", "epsilon = 9.0"))
    steps = ("--sample-rate", 0.5, "--noise-multiplier", 1, "--steps", 100)
    done = call("declare", toml, *steps, "--by", "A. Roe", "--why", "a study")
    assert done.exit_code == 0, done.exception
    assert "above the budget of 9" in " ".join(done.output.split())


def test_lost_entries_are_declared_at_once(toml, tmp_path):
    call("backup", toml, "--to", tmp_path / "backup.sqlite")
    for number in (4, 5):
        train_round(Partner.load(toml), a_request(number))
    log = toml.parent / "audit.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[-2:]) + "\n")
    (toml.parent / "ledger.sqlite").unlink()
    words = ("--by", "A. Roe", "--why", "fire")
    said = call("restore", toml, "--from", tmp_path / "backup.sqlite", *words).output
    assert "2 more that the log tells of are lost" in said
    assert "PFL-P15" in str(call("verify", toml).exception)
    steps = ("--sample-rate", 0.5, "--noise-multiplier", 4, "--steps", 4)
    done = call("declare", toml, *steps, "--covers-lost", *words)
    assert done.exit_code == 0, done.exception
    assert as_json("verify", toml)["declared_charges"] == 1
    train_round(Partner.load(toml), a_request(6))


def test_a_family_larger_than_the_budget_says_is_named(tmp_path):
    budget = {"epsilon": 5.0, "unit": "series", "series_size": 3}
    partner = a_partner(tmp_path, series=[n // 10 for n in range(150)], budget=budget)
    ledger = Ledger.of(partner)
    charge = Charge(0.1, 9.0, 20)
    spend = a_spend(1, charge=charge, coordinator_noise=9.0)
    ledger.reserve(spend, budget=partner.budget, policy=partner.policy)
    printed = " ".join(call("show", tmp_path / "north" / "partner.toml").output.split())
    assert "largest series has 10 compounds, more than budget.series_size 3" in printed
    assert "(if they are 3 at most)" in printed


# --- plan ---------------------------------------------------------------------------------------------------------

GIVEN = {"--epsilon": 3.0, "--noise-multiplier": 4.0, "--sample-rate": 0.2, "--rounds": 20}
NAMES = {
    "--epsilon": "epsilon",
    "--noise-multiplier": "noise_multiplier",
    "--sample-rate": "sample_rate",
    "--rounds": "rounds",
}


@pytest.mark.parametrize("left_out", GIVEN)
def test_a_plan_is_solved_for_what_is_left_out_and_never_overshoots(left_out, tmp_path):
    options = [part for name, value in GIVEN.items() if name != left_out for part in (name, value)]
    found = as_json("plan", *options, "--local-steps", 5, "--plot", tmp_path / "plan.png")
    assert found["solved_for"] == NAMES[left_out]
    charge = Charge(found["sample_rate"], found["noise_multiplier"], found["rounds"] * 5)
    assert epsilon([charge], 1e-5) == found["epsilon"]
    for name, value in GIVEN.items():
        if name not in {left_out, "--epsilon"}:
            assert found[NAMES[name]] == value
    if left_out != "--epsilon":
        assert found["epsilon"] <= 3.0
        worse = {
            "--noise-multiplier": charge._replace(noise_multiplier=0.99 * charge.noise_multiplier),
            "--sample-rate": charge._replace(sample_rate=1.01 * charge.sample_rate),
            "--rounds": charge._replace(steps=charge.steps + 5),
        }[left_out]
        assert epsilon([worse], 1e-5) > 3.0
    middle = [row for row in found["trade"] if row["rounds"] == found["rounds"]]
    assert any(row["epsilon"] == found["epsilon"] for row in middle)
    assert min(size_of(tmp_path / "plan.png")) > 300


def test_a_plan_longer_than_any_run_is_refused_at_once():
    options = ("--epsilon", 3, "--sample-rate", 0.05, "--rounds", 100_000, "--local-steps", 10_000)
    assert call("plan", *options).exit_code == 2


def test_a_plan_needs_exactly_one_unknown():
    assert call("plan", "--epsilon", 3, "--rounds", 10).exit_code == 2
    assert call("plan", *(part for item in GIVEN.items() for part in item)).exit_code == 2


def test_a_plan_that_cannot_be_says_why():
    tiny = call("plan", "--epsilon", 0.001, "--noise-multiplier", 0.5, "--sample-rate", 0.5, "--local-steps", 100)
    assert "PFL-P03" in str(tiny.exception)


def test_a_plan_is_readable():
    options = [part for name, value in GIVEN.items() if name != "--epsilon" for part in (name, value)]
    printed = call("plan", *options).output
    assert "solved for" in printed
    assert "more or fewer rounds and noise" in printed

"""A federation of real processes with TLS and node authentication, and all that happens to machines and networks.

What the faults did is written to docs/reliability.md by `make reliability`; any other run of this test fails where the
page says something else.
"""

import json
import os
import shutil

import pytest
from tests.conftest import PROJECT
from tests.deployment.faults import GARBAGE, SILENT, Cable, Replaced, kill_all
from tests.deployment.kits import Kits, supernode, write_federation
from tests.loopback import free_port
from tests.strategies.federations import ledger_of

from pharma_fl.cli.demo_steps import SECRET, write_partner
from pharma_fl.config import Partner
from pharma_fl.data.b3db import write_partner_tables
from pharma_fl.data.prepare import prepare
from pharma_fl.deployment.provision import provision_partner
from pharma_fl.model.weights import load_weights
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.strategies.checkpoints import Checkpoints

NAMES = ("north", "east", "south", "west")
ROUNDS, CALM = 40, 2
PAGE = PROJECT / "docs" / "reliability.md"
SECTIONS = f"""
    [model]
    input_bits = 1024
    hidden = [16]
    [training]
    rounds = {ROUNDS}
    local_steps = 2
    [privacy]
    epsilon = 3.0
    sample_rate = 0.3
    expected_batch = 64.0
    [quorum]
    min_partners = 3
    round_timeout_s = 75.0
    ask_again_s = 25.0
    quarantine_after = 2
    [tracking]
    enabled = false
"""


def prepared(folder, names, federation, changes):
    """Partners with a part of B3DB, prepared from tables."""
    for count in write_partner_tables(folder, names, SECRET, every=8):
        settings = {"supernode": supernode(federation)} | changes.get(count.name, {})
        partner = write_partner(folder, count.name, settings | {"budget": {"epsilon": 4.0}})
        key_file = folder / count.name / "consortium.key"
        key_file.write_bytes(SECRET + b"\n")
        key_file.chmod(0o600)
        prepare(partner, workers=2)


class Federation:
    """What is seen of a run from its coordinator's folder."""

    def __init__(self, folder, kits):
        self.folder, self.kits, self.place = folder, kits, Checkpoints(folder / "coordinator" / "coordinator")

    def records(self):
        return self.place.rounds()

    def done(self):
        return len(self.records())

    def wait(self, condition, what, seconds=300):
        self.kits.wait(condition, seconds, what)

    def wait_done(self, rounds, seconds=300):
        self.wait(lambda: self.done() >= rounds, f"round {rounds}", seconds)

    def wait_asked(self, name):
        """Wait until a partner has a round's question, and return the round."""

        def asked():
            facts = self.progress()
            return facts["phase"] == "training" and facts["round"] > self.done() and facts["partners"][name]["asked"]

        self.wait(asked, f"{name} to be asked")
        return self.progress()["round"]

    def progress(self):
        return json.loads((self.place.folder / "progress.json").read_text())

    def took_part(self, name, after=0):
        return [record.round for record in self.records() if name in record.participants and record.round > after]

    def wait_back(self, name, after, seconds=300):
        self.wait(lambda: self.took_part(name, after), f"{name} to take part again", seconds)

    def end_process(self):
        self.wait(lambda: not self.kits.lives("run"), "the end of flwr run", 120)

    def resume(self):
        """Submit a run that goes on, as soon as the SuperLink takes one."""
        before, started = self.done(), self.kits.log("run").count("Successfully started run")

        def submitted():
            if self.kits.log("run").count("Successfully started run") > started:
                return True
            if "run" not in self.kits.processes or not self.kits.lives("run"):
                self.kits.submit(resume=True)
            return False

        self.wait(submitted, "the SuperLink to take the run", 120)
        self.wait_done(before + 1)

    def intact(self):
        """Check model, ledgers and state as they are now."""
        trunk, of = load_weights(self.place.latest() / "trunk.safetensors")
        state = self.place.load()
        assert all(value.isfinite().all() for value in trunk.values())
        assert (int(of["round"]), of["run"]) == (state.round, state.run)
        assert [record.round for record in self.records()] == list(range(1, self.done() + 1))
        for name in NAMES:
            ledger = ledger_of(self.folder, name)
            charged = [entry.round for entry in ledger.entries() if entry.kind == "reserved"]
            # Everything that left is paid for, once.
            assert set(self.took_part(name)) <= set(charged)
            assert len(charged) == len(set(charged)), name
        return "intact"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not os.environ.get("PHARMA_FL_WRITE_PAGES"), reason="takes a quarter of an hour: make reliability")
def test_a_federation_survives_what_happens_to_machines_and_networks(tmp_path):
    federation = write_federation(tmp_path / "coordinator", NAMES, SECTIONS)
    port, cable_port = int(federation.superlink.address.split(":")[1]), free_port()
    east = {"supernode": supernode(federation) | {"superlink": f"localhost:{cable_port}"}}
    prepared(tmp_path, NAMES, federation, {"east": east})
    cable, rows = Cable(cable_port, port), []
    # Someone with a registered SuperNode who is in no roster, and one who says he is north.
    for name in ("stranger", "thief", "unregistered"):
        shutil.copytree(tmp_path / "north", tmp_path / name)
        (tmp_path / name / "partner.toml").unlink()
        called = "north" if name == "thief" else name
        write_partner(tmp_path / "made" / name, called, {"supernode": supernode(federation)})
        (tmp_path / "made" / name / called / "partner.toml").replace(tmp_path / name / "partner.toml")
    with Kits(tmp_path, NAMES) as kits:
        run = Federation(tmp_path, kits)

        def row(fault, what):
            rows.append((fault, what, *[run.intact()] * 3))

        for name in ("stranger", "thief", "unregistered"):
            (tmp_path / name / "tls").mkdir(exist_ok=True)
            (tmp_path / name / "tls" / "ca.pem").write_bytes((kits.coordinator / "tls" / "ca.pem").read_bytes())
            provision_partner(tmp_path / name / "partner.toml")
        kits.start_all()
        for name in ("stranger", "thief"):
            public = tmp_path / name / "keys" / "supernode.pub"
            assert kits.flwr("supernode", "register", str(public), "pharma-fl").returncode == 0, kits.logs()
            kits.start_node(name)
        kits.start_node("unregistered")
        kits.wait(lambda: set(kits.nodes().values()) == {"online"}, 120, "the SuperNodes to be known")
        kits.submit()
        run.wait_done(CALM)
        calm = run.records()[:CALM]
        assert all(record.participants == sorted(NAMES) for record in calm), kits.logs()
        row("none", "all four partners take part in every round")
        said = kits.log("superlink") + kits.log("run")
        assert "says it is stranger, which is not believed (PFL-F16)" in said, kits.logs()
        row("a registered node that is not on the roster", "ignored and logged (PFL-F16)")
        assert "says it is north, which is not believed (PFL-F16)" in said, kits.logs()
        row("a registered node that says it is another partner", "not believed (PFL-F16); the partner takes part")
        kits.wait(lambda: "Exit Code: 305" in kits.log("unregistered"), 120, "the unregistered key to be refused")
        row("a SuperNode with a key that is not registered", "refused by the SuperLink")
        for name in ("stranger", "thief", "unregistered"):
            kits.stop(name)

        number = run.wait_asked("south")
        kits.kill("south")
        kits.start_node("south")
        run.wait_done(number)
        run.wait_back("south", number - 1)
        row("a partner is killed in the middle of a round, and started again", "the others go on, and it comes back")

        number = run.wait_asked("north")
        assert kill_all("flwr-serverapp", f"FLWR_HOME={tmp_path}") == 1
        run.end_process()
        row("the coordinator's ServerApp is killed in the middle of a round", "the run is over for Flower")
        run.resume()
        assert run.records()[number - 1].round == number
        row("it is resumed", "the round is asked again and goes on with the replies that partners stored")

        number = run.wait_asked("north")
        kits.kill("superlink")
        kill_all("flwr-serverapp", f"FLWR_HOME={tmp_path}")
        kits.start_link()
        kits.stop("run")
        run.resume()
        row("the SuperLink is killed and restarted on its database, and the run resumed", "all go on")

        number = run.wait_asked("east")
        cable.cut()
        run.wait(lambda: any("east" not in r.participants for r in run.records()[number - 1 :]), "a round without east")
        cable.mend()
        run.wait_back("east", run.done())
        row("a partner's network is cut, and mended", "rounds go on without it, and it takes part again")

        silent = Replaced(tmp_path / "south", SILENT)
        run.wait(lambda: "south" not in run.records()[-1].participants, "a round without south")
        silent.restore()
        kill_all("sleep", f"FLWR_HOME={tmp_path / 'south'}")
        run.wait_back("south", run.done())
        row("a partner never answers", "the round is done without it at its deadline; later it takes part again")

        number = run.done()
        Replaced(tmp_path / "west", GARBAGE)
        run.wait(lambda: run.records()[-1].refused.get("west") == "PFL-F14", "west to be left out")
        codes = [record.refused.get("west") for record in run.records()[number:]]
        assert codes.count("PFL-F12") == 2, codes
        row("a partner answers garbage", "its replies are dropped (PFL-F12); after two it is left out (PFL-F14)")

        run.wait(lambda: not kits.lives("run"), "the end of the run", 600)
        logs = kits.logs()
    cable.close()
    end = run.place.end()
    assert (end.status, end.rounds) == ("completed", ROUNDS), logs
    row("all of them", f"the run completes its {ROUNDS} rounds")
    for name in NAMES:
        partner = Partner.load(tmp_path / name / "partner.toml")
        assert Ledger.of(partner).epsilon(partner.budget) <= 3.0 + 1e-6
    held_against_the_page(rows)


def held_against_the_page(rows):
    table = "\n".join(
        f"| {' | '.join(row)} |" for row in (("fault", "what happened", "model", "ledgers", "state"), *rows)
    )
    table = table.replace("\n", "\n|---|---|---|---|---|\n", 1)
    head, _, rest = PAGE.read_text("utf-8").partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end of table -->\n")
    written = f"{head}<!-- table -->\n{table}\n<!-- end of table -->\n{tail}"
    if os.environ.get("PHARMA_FL_WRITE_PAGES"):
        PAGE.write_text(written, "utf-8")
    assert PAGE.read_text("utf-8") == written, "docs/reliability.md says something else: make reliability"

"""The coordinator remembers bare hashes of the partners' ledgers, so that an owner notices one that went back."""

import json

import pytest
from tests.partners import a_partner
from tests.strategies.federations import Grid, a_federation, ledger_of, run

from pharma_fl.strategies.ledger_heads import LedgerHeads, is_head

A, B = "a" * 64, "b" * 64


def test_heads_are_kept_beside_those_of_partners_that_said_nothing(tmp_path):
    heads = LedgerHeads(tmp_path / "heads.json")
    assert heads.load() == {}
    heads.save({"north": A, "south": B})
    heads.save({"north": B})
    assert heads.load() == {"north": B, "south": B}


@pytest.mark.parametrize(
    "word", [None, 7, "", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", ["a" * 64], "../" + "a" * 61]
)
def test_what_is_no_hash_is_no_head(tmp_path, word):
    assert not is_head(word)
    (tmp_path / "heads.json").write_text(json.dumps({"north": word, "south": A}))
    assert LedgerHeads(tmp_path / "heads.json").load() == {"south": A}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe"])
def test_a_damaged_file_is_forgotten_and_written_anew(tmp_path, caplog, content):
    path = tmp_path / "heads.json"
    path.write_bytes(content)
    heads = LedgerHeads(path)
    assert heads.load() == {}
    heads.save({"north": A})
    assert heads.load() == {"north": A}


def two(folder):
    for seed, name in enumerate(("north", "south")):
        a_partner(folder, name, seed=seed, budget={"epsilon": 20.0})
    return [folder / name / "partner.toml" for name in ("north", "south")]


def asked_with(grid):
    """The witnesses of each node in the last round that was asked for."""
    return {
        m.metadata.dst_node_id: list(m.content["config"]["witnesses"])
        for m in grid.sent
        if "train" in m.metadata.message_type
    }


def test_heads_told_at_joining_come_back_in_every_round_of_this_run_and_the_next(tmp_path):
    files, heads = two(tmp_path), LedgerHeads(tmp_path / "heads.json")
    federation = a_federation(("north", "south"), rounds=1)
    grid = Grid(files)
    run(tmp_path, federation, grid, heads=heads)
    first = heads.load()
    assert asked_with(grid) == {100: [first["north"]], 101: [first["south"]]}
    assert set(first) == {"north", "south"}
    after = ledger_of(tmp_path, "north").head
    grid = Grid(files)
    run(tmp_path, federation, grid, heads=heads, output="again")
    assert heads.load()["north"] == after
    assert asked_with(grid)[100] == [first["north"], after]


def test_without_a_file_the_heads_of_this_run_are_remembered(tmp_path):
    grid = Grid(two(tmp_path))
    run(tmp_path, a_federation(("north", "south"), rounds=1), grid)
    assert all(is_head(one) for heads in asked_with(grid).values() for one in heads)
    assert len(asked_with(grid)) == 2


def test_a_partner_whose_ledger_and_state_went_back_together_refuses(tmp_path):
    """Nothing at the partner knows it then; the coordinator's word does."""
    files, heads = two(tmp_path), LedgerHeads(tmp_path / "heads.json")
    north = tmp_path / "north"
    federation = a_federation(("north", "south"), rounds=2, quorum="min_partners = 1")
    run(tmp_path, federation, Grid(files), heads=heads)
    kept = {path: path.read_bytes() for path in north.rglob("*") if path.is_file() and path.parent.name != "data"}
    run(tmp_path, federation, Grid(files), heads=heads, output="second")
    later = Grid(files)
    # A third run's joining tells the head after the second.
    run(tmp_path, a_federation(("north", "south"), rounds=1), later, heads=heads, output="third")
    put_back(north, kept)
    # What it tells now does not take the place of what is known, however often it joins.
    for output in ("fourth", "fifth"):
        watcher, _, _ = run(tmp_path, federation, Grid(files), heads=heads, output=output)
        assert watcher.end.status == "completed"
        for record in watcher.rounds:
            assert (record.participants, record.refused) == (["south"], {"north": "PFL-P15"})


def put_back(folder, kept):
    """Restore files as a backup does; what came later is gone."""
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "data" and path not in kept:
            path.unlink()
    for path, content in kept.items():
        # In place, as a restored disk would: another file would be told apart as a copy.
        with path.open("r+b") as stream:
            stream.write(content)
            stream.truncate()


def test_what_is_no_head_is_not_sent_on(tmp_path):
    """A partner of another version, or a hostile one, cannot plant a witness that the others choke on."""

    def garbage(reply, number, node):
        reply.content["config"]["ledger"] = "<script>" if node == 100 else "z" * 64
        return reply

    grid = Grid(two(tmp_path), garbage, spoiled="query.join")
    heads = LedgerHeads(tmp_path / "heads.json")
    watcher, _, _ = run(tmp_path, a_federation(("north", "south"), rounds=1), grid, heads=heads)
    assert watcher.end.status == "completed"
    assert asked_with(grid) == {100: [], 101: []}
    assert heads.load() == {}

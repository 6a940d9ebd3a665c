"""A ledger that was edited, cut, rolled back, copied or lost is noticed by `verify` and by the next round."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.privacy.ledgers import BUDGET, POLICY, a_ledger, a_plan, a_spend, spend

from pharma_fl.errors import PrivacyError
from pharma_fl.privacy.chain import link_hash
from pharma_fl.privacy.charge import Charge
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.restoring import restore
from pharma_fl.privacy.verification import exported, verified


def edit(path, *statements):
    """Write past the triggers, as somebody with the file and SQLite can."""
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;" + ";".join(statements))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def rows_of(path):
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(path)
        return connection.execute("SELECT * FROM entries").fetchall()
    except sqlite3.DatabaseError:
        return []
    finally:
        connection.close()


def refused(folder, code, *, partner="north"):
    """The whole check, a look, and the next round refuse, and nothing is written."""
    path = folder / "ledger.sqlite"
    before = rows_of(path)
    with pytest.raises(PrivacyError, match=code):
        a_ledger(folder, partner).look()
    with pytest.raises(PrivacyError, match=code):
        verified(a_ledger(folder, partner), BUDGET)
    with pytest.raises(PrivacyError, match=code):
        spend(a_ledger(folder, partner), [90])
    assert rows_of(path) == before


def knowing(ledger, *hashes):
    ledger.witnesses = hashes
    return ledger


def a_history(folder, rounds=3):
    ledger = a_ledger(folder)
    for number in range(1, rounds + 1):
        spend(ledger, [number])
        ledger.release("train", "r", number, f"{number:02}")
    return ledger


def test_a_whole_ledger_passes(tmp_path):
    ledger = a_history(tmp_path)
    ledger.witnesses = (ledger.links()[3].hash,)
    found = verified(ledger, BUDGET)
    assert (found["entries"], found["charges"], found["charges_without_a_reply"]) == (8, 3, 0)
    assert found["epsilon"] == ledger.epsilon(BUDGET)
    assert found["epsilon"] <= found["epsilon_by_renyi"]
    assert abs(found["epsilon"] - found["epsilon_by_opacus"]) < 0.02
    spend(ledger, [4])
    assert verified(ledger, BUDGET)["charges_without_a_reply"] == 1


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE entries SET body = replace(body, '"noise_multiplier":5.0', '"noise_multiplier":9.0') WHERE seq = 5""",
        """UPDATE entries SET body = replace(body, '"steps":5', '"steps":1') WHERE seq = 7""",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 5",
        "UPDATE entries SET hash = 'x' WHERE seq = 4",
        "UPDATE entries SET signature = substr(signature, 3) || 'aa' WHERE seq = 8",
        "UPDATE entries SET seq = 99 WHERE seq = 8",
        "INSERT INTO entries SELECT seq + 1, body, hash || 'a', signature FROM entries WHERE seq = 8",
    ],
)
def test_a_hand_edited_ledger_is_noticed(tmp_path, statement):
    a_history(tmp_path)
    edit(tmp_path / "ledger.sqlite", statement)
    refused(tmp_path, "PFL-P12")


def test_the_next_round_of_the_same_process_notices_too(tmp_path):
    """It remembers what it verified, but not past a change of the file."""
    ledger = a_history(tmp_path)
    edit(ledger.path, "UPDATE entries SET hash = 'x' WHERE seq = 2")
    with pytest.raises(PrivacyError, match="PFL-P12"):
        spend(ledger, [4])


def test_an_early_signature_is_looked_at_by_verify(tmp_path):
    """The last signature vouches for all hashes, so a round needs no other; the whole check looks at each."""
    ledger = a_history(tmp_path)
    edit(ledger.path, "UPDATE entries SET signature = substr(signature, 3) || 'aa' WHERE seq = 3")
    with pytest.raises(PrivacyError, match="PFL-P12.*entry 3|entry 3"):
        verified(a_ledger(tmp_path), BUDGET)


@pytest.mark.parametrize("with_a_key_of_their_own", [False, True])
def test_a_chain_written_anew_needs_the_partners_key(tmp_path, with_a_key_of_their_own):
    """All hashes fit, and only the key is missing."""
    ledger = a_history(tmp_path)
    forger, previous, rows = Ed25519PrivateKey.generate(), "0" * 64, []
    for link in ledger.links():
        body = link.body.replace('"noise_multiplier":5.0', '"noise_multiplier":50.0')
        if with_a_key_of_their_own:
            body = body.replace(ledger.entries()[0].public_key, forger.public_key().public_bytes_raw().hex())
        previous = link_hash(previous, body)
        rows.append((body, previous, forger.sign(bytes.fromhex(previous)).hex()))
    edit(ledger.path, "DELETE FROM entries")
    connection = sqlite3.connect(ledger.path)
    connection.executemany("INSERT INTO entries (body, hash, signature) VALUES (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    # With a key of the forger's own the chain is whole, and not what the audit log tells of.
    refused(tmp_path, "PFL-P15" if with_a_key_of_their_own else "PFL-P12")


def test_a_forger_who_also_lost_the_audit_log_lacks_the_key(tmp_path):
    ledger = a_history(tmp_path)
    own = tmp_path / "ledger.key"
    own.rename(tmp_path / "hidden.key")
    spend(a_ledger(tmp_path / "forged"), [1])
    (tmp_path / "audit.jsonl").unlink()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.move(tmp_path / "forged" / "ledger.sqlite", tmp_path / "ledger.sqlite")
    (tmp_path / "hidden.key").rename(own)
    with pytest.raises(PrivacyError, match="PFL-P13.*not the key"):
        spend(a_ledger(tmp_path), [2])
    assert ledger.path.exists()


@pytest.mark.parametrize("gone", [1, 2, 5])
def test_a_ledger_cut_off_at_the_end_is_noticed(tmp_path, gone):
    a_history(tmp_path)
    edit(tmp_path / "ledger.sqlite", f"DELETE FROM entries WHERE seq > {8 - gone}")
    refused(tmp_path, "PFL-P15")


def test_a_truncated_file_is_noticed(tmp_path):
    ledger = a_history(tmp_path, 12)
    content = ledger.path.read_bytes()
    for share in (0.9, 0.5, 0.01):
        ledger.path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(PrivacyError, match="PFL-P1[235]"):
            verified(a_ledger(tmp_path), BUDGET)
        with pytest.raises(PrivacyError, match="PFL-P1[235]"):
            spend(a_ledger(tmp_path), [90])


def test_a_rolled_back_ledger_is_noticed(tmp_path):
    """Written into the very same file, so that only what it says is old."""
    ledger = a_history(tmp_path)
    old = ledger.path.read_bytes()
    spend(ledger, [4])
    ledger.path.write_bytes(old)
    refused(tmp_path, "PFL-P15")


def test_a_rolled_back_ledger_and_audit_log_are_noticed_by_who_remembers_more(tmp_path):
    ledger = a_history(tmp_path)
    old = [(path, path.read_bytes()) for path in (ledger.path, ledger.journal.path)]
    spend(ledger, [4])
    head = ledger.head
    for path, content in old:
        path.write_bytes(content)
    assert verified(a_ledger(tmp_path), BUDGET)["charges"] == 3
    with pytest.raises(PrivacyError, match="PFL-P15"):
        verified(knowing(a_ledger(tmp_path), head), BUDGET)
    with pytest.raises(PrivacyError, match="PFL-P15"):
        spend(a_ledger(tmp_path), [4], witnesses=[head])


def test_a_lost_ledger_is_noticed(tmp_path):
    ledger = a_history(tmp_path)
    ledger.path.unlink()
    refused(tmp_path, "PFL-P15")


def test_a_copied_ledger_is_noticed(tmp_path):
    """Two copies would each spend the whole budget."""
    ledger = a_history(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    refused(tmp_path / "copy", "PFL-P18")
    spend(ledger, [4])
    # Into the ledger's own place too: another file is another file.
    shutil.copy(ledger.path, tmp_path / "aside")
    (tmp_path / "aside").replace(ledger.path)
    refused(tmp_path, "PFL-P18")


def test_another_partners_ledger_is_noticed(tmp_path):
    a_history(tmp_path)
    refused(tmp_path, "PFL-P18", partner="south")


def test_a_ledger_may_move_with_its_folder(tmp_path):
    a_history(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    spend(a_ledger(tmp_path / "there"), [4])


@pytest.mark.parametrize("spoil", ["lost", "another", "open to others", "no key"])
def test_without_its_key_nothing_is_added(tmp_path, spoil):
    ledger = a_history(tmp_path)
    if spoil == "lost":
        ledger.key.unlink()
    if spoil == "another":
        spend(a_ledger(tmp_path / "other"), [1])
        shutil.copy(tmp_path / "other" / "ledger.key", ledger.key)
    if spoil == "open to others":
        ledger.key.chmod(0o644)
    if spoil == "no key":
        ledger.key.write_bytes(b"not a key")
    with pytest.raises(PrivacyError, match="PFL-P13"):
        spend(a_ledger(tmp_path), [4])
    with pytest.raises(PrivacyError, match="PFL-P13"):
        verified(a_ledger(tmp_path), BUDGET)
    assert len(a_ledger(tmp_path).entries()) == 8


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database" * 100)
    refused(tmp_path, "PFL-P13")


def declare(ledger, number, covers=()):
    lost = {"purpose": "declared", "charge": Charge(0.3, 5.0, 5), "covers": covers, "by": "A. Roe", "why": "fire"}
    ledger.reserve(a_spend(number, run="declared", **lost), budget=BUDGET, policy=POLICY)


# --- backups ------------------------------------------------------------------------------------------------------


def test_an_old_backup_is_noticed_and_the_audit_log_brings_back_the_rest(tmp_path):
    ledger = a_history(tmp_path)
    assert ledger.back_up(tmp_path / "backup" / "old.sqlite") == 8
    spend(ledger, [4, 5])
    spent = ledger.epsilon(BUDGET)
    # By hand, as an administrator would: noticed.
    for ending in ("", "-wal", "-shm"):
        ledger.path.with_name(f"ledger.sqlite{ending}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup" / "old.sqlite", ledger.path)
    refused(tmp_path, "PFL-P1[58]")  # the file system may give a new file the old one's number
    assert restore(a_ledger(tmp_path), None, by="A. Roe", why="the disk died") == 2
    found = a_ledger(tmp_path)
    assert found.epsilon(BUDGET) == spent
    last = found.entries()[-1]
    assert (last.kind, last.replayed, last.by, last.why) == ("restored", 2, "A. Roe", "the disk died")
    verified(found, BUDGET)
    with pytest.raises(PrivacyError, match="PFL-P11"):
        spend(found, [5])
    spend(found, [6])


def test_a_backup_is_put_in_place_by_the_command(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4])
    ledger.path.write_bytes(b"damaged")
    assert restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="damage") == 1
    assert verified(a_ledger(tmp_path), BUDGET)["charges"] == 4
    kept = list(tmp_path.glob("ledger.sqlite.replaced-*"))
    assert [path.read_bytes() for path in kept] == [b"damaged"]


def test_a_backup_never_replaces_a_ledger_that_knows_more(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4])
    ledger.journal.path.unlink()
    with pytest.raises(PrivacyError, match="PFL-P15.*knows entries"):
        restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="a try")
    assert verified(a_ledger(tmp_path), BUDGET)["charges"] == 4


def test_what_is_lost_for_good_stays_noticed_until_it_is_declared(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4])
    head = ledger.head
    ledger.path.unlink()
    ledger.journal.path.unlink()
    restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="fire")
    with pytest.raises(PrivacyError, match="PFL-P15"):
        spend(a_ledger(tmp_path), [5], witnesses=[head])
    declare(a_ledger(tmp_path), 1, covers=(head,))
    spend(a_ledger(tmp_path), [5], witnesses=[head])
    verified(knowing(a_ledger(tmp_path), head), BUDGET)


@pytest.mark.parametrize("kept", [1, 3])
def test_entries_lost_though_the_audit_log_tells_of_them_are_not_forgotten_by_restoring(tmp_path, kept):
    """The log's lines in between are gone, so nothing can be brought back, and each that is left must be declared."""
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4, 5, 6, 7])
    lines = ledger.journal.path.read_text().splitlines()
    ledger.journal.path.write_text("\n".join(lines[-kept:]) + "\n")
    ledger.path.unlink()
    assert restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="fire") == 0
    lost = a_ledger(tmp_path).history().lost
    assert len(lost) == kept
    refused(tmp_path, "PFL-P15")
    with pytest.raises(PrivacyError, match="PFL-P15"):
        declare(a_ledger(tmp_path), 1, covers=lost[1:])
    declare(a_ledger(tmp_path), 1, covers=lost)
    spend(a_ledger(tmp_path), [8])
    verified(a_ledger(tmp_path), BUDGET)
    assert a_ledger(tmp_path).history().lost == ()
    assert a_ledger(tmp_path).journal.last().link.hash == a_ledger(tmp_path).head


def test_one_damaged_line_of_the_log_is_noticed_by_restoring(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4, 5, 6])
    lines = ledger.journal.path.read_text().splitlines()
    lines[-2] = lines[-2][:-40]
    ledger.journal.path.write_text("\n".join(lines) + "\n")
    ledger.path.unlink()
    assert restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="fire") == 1
    refused(tmp_path, "PFL-P15")


def test_a_restore_that_is_killed_leaves_a_ledger_in_its_place(tmp_path, monkeypatch):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    spend(ledger, [4])
    for step in ("link", "replace"):
        with monkeypatch.context() as patch:
            owner = os if step == "link" else Path

            def die(*_):
                raise KeyboardInterrupt

            patch.setattr(owner, step, die)
            with pytest.raises(KeyboardInterrupt):
                restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="a try")
        assert a_ledger(tmp_path).entries()
    restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="a try")
    assert verified(a_ledger(tmp_path), BUDGET)["charges"] == 4


def test_a_restore_that_cannot_be_changes_nothing(tmp_path):
    """Another partner's ledger, or a key that is not there."""
    ledger = a_history(tmp_path)
    spend(a_ledger(tmp_path / "south", "south"), [1])
    with pytest.raises(PrivacyError, match="PFL-P18"):
        restore(a_ledger(tmp_path), tmp_path / "south" / "ledger.sqlite", by="A. Roe", why="a mistake")
    verified(a_ledger(tmp_path), BUDGET)
    ledger.key.rename(tmp_path / "kept.key")
    with pytest.raises(PrivacyError, match="PFL-P13"):
        restore(a_ledger(tmp_path), None, by="A. Roe", why="a try")
    (tmp_path / "kept.key").rename(ledger.key)
    verified(a_ledger(tmp_path), BUDGET)


def test_a_backup_overwrites_nothing(tmp_path):
    ledger = a_history(tmp_path)
    for name in ("ledger.key", "ledger.sqlite", "audit.jsonl"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(PrivacyError, match="PFL-P22"):
            ledger.back_up(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_tampered_backup_is_refused(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    edit(tmp_path / "backup.sqlite", "UPDATE entries SET signature = substr(signature, 3) || 'aa' WHERE seq = 3")
    with pytest.raises(PrivacyError, match="PFL-P12"):
        restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="a try")
    for name, content in (("empty", None), ("missing", None)):
        if name == "empty":
            (tmp_path / name).touch()
        with pytest.raises(PrivacyError, match="PFL-P13"):
            restore(a_ledger(tmp_path), tmp_path / name, by="A. Roe", why=str(content))


def test_lines_that_somebody_put_into_the_audit_log_are_not_brought_back(tmp_path):
    ledger = a_history(tmp_path)
    ledger.back_up(tmp_path / "backup.sqlite")
    body = ledger.links()[-1].body.replace('"seq":8', '"seq":9')
    forged = {"event": "ledger", "seq": 9, "entry": body, "hash": link_hash(ledger.head, body), "signature": "00" * 64}
    with ledger.journal.path.open("a") as log:
        log.write(json.dumps(forged) + "\n")
    ledger.path.unlink()
    with pytest.raises(PrivacyError, match="PFL-P12"):
        restore(a_ledger(tmp_path), tmp_path / "backup.sqlite", by="A. Roe", why="a try")


# --- export -------------------------------------------------------------------------------------------------------


def test_an_export_can_be_checked_and_priced_without_this_package(tmp_path):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    ledger = a_history(tmp_path)
    spend(ledger, [1], a_plan(noise_multiplier=8.0), run="s")
    previous, accountant, key = "0" * 64, PLDAccountant(), None
    for line in map(json.loads, exported(ledger).splitlines()):
        entry = json.loads(line["entry"])
        key = key or Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry["public_key"]))
        assert line["hash"] == link_hash(previous, line["entry"])
        key.verify(bytes.fromhex(line["signature"]), bytes.fromhex(line["hash"]))
        previous = line["hash"]
        if entry["kind"] == "reserved":
            event = PoissonSampledDpEvent(entry["sample_rate"], GaussianDpEvent(entry["noise_multiplier"]))
            accountant.compose(event, entry["steps"])
    assert accountant.get_epsilon(1e-5) == pytest.approx(ledger.epsilon(BUDGET), rel=1e-6)


def test_a_ledger_of_another_version_says_so(tmp_path):
    ledger = a_history(tmp_path)
    with ledger.held():
        previous, body = ledger.head, '{"kind":"unheard-of","seq":9}'
        row = (9, body, link_hash(previous, body), "00" * 64)
        ledger._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
    with pytest.raises(PrivacyError, match="PFL-P12.*version"):
        Ledger(ledger.path, partner="north").entries()

"""Putting a backup in a ledger's place, so that it is noticed, written down, and forgets as little as possible."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from pharma_fl.atomic import flush
from pharma_fl.errors import PrivacyError
from pharma_fl.locks import locked
from pharma_fl.privacy import chain
from pharma_fl.privacy.chain import Link
from pharma_fl.privacy.entries import Opened, Restored
from pharma_fl.privacy.journal import Journal
from pharma_fl.privacy.ledger_file import WAIT_S, LedgerFile
from pharma_fl.signing_key import SigningKey


def restore(ledger: LedgerFile, source: Path | None, *, by: str, why: str) -> int:
    """Put a backup in the ledger's place, or adopt the file that lies there, and return how many entries it lacked.

    Entries that the backup does not know come back from the audit log, as far as they follow from it. Others that the
    log tells of are written down as lost, and nothing is spent until they are declared. What was there is kept beside,
    as ``NAME.replaced-TIME``. That a ledger was restored is an entry of its own.

    Raises
    ------
    PrivacyError
        ``PFL-P12`` the backup was tampered with. ``PFL-P13`` it is no ledger, or empty. ``PFL-P15`` the ledger in place
        knows entries that backup and audit log do not. ``PFL-P18`` it is another partner's.
    """
    source = source or ledger.path
    if not source.exists():
        raise PrivacyError("PFL-P13", f"There is no file {source}. Name a backup (pharma-fl budget backup).")
    with chain.opened(source) as connection:
        links = chain.links(connection)
    if not links:
        raise PrivacyError("PFL-P13", f"{source} holds no entries. Name a backup (pharma-fl budget backup).")
    chain.check_signatures(links)
    first = links[0].entry
    if not isinstance(first, Opened) or first.partner != ledger.partner:
        raise PrivacyError("PFL-P18", f"{source} is another partner's ledger. Nothing was changed.")
    if SigningKey(ledger.key).public != first.public_key:
        raise PrivacyError(
            "PFL-P13",
            f"{ledger.key} is not the key that signs {source}. Nothing was changed. Restore the key first "
            "(partner.toml: signing_key).",
        )
    whole = _replayed(links, ledger.journal)
    with locked(ledger.lock, wait_s=WAIT_S):
        try:
            present = ledger.links()
        except PrivacyError:
            present = ()  # what is broken proves nothing
        if not {link.hash for link in present} <= {link.hash for link in whole}:
            raise PrivacyError(
                "PFL-P15",
                f"The ledger in place ({ledger.path}) knows entries that {source} and the audit log do not. Nothing "
                "was changed. If it has to go all the same, move it away first, and declare what it had spent: "
                "pharma-fl budget declare.",
            )
        _put(whole, ledger.path)
    lacked = len(whole) - len(links)
    there = {link.hash for link in whole}
    told = ledger.journal.all() if ledger.journal else ()
    lost = tuple(dict.fromkeys(echo.link.hash for echo in told if echo.link.hash not in there))
    with ledger.held():
        inode = ledger.path.stat().st_ino
        ledger.append(lambda facts: Restored(replayed=lacked, lost=lost, inode=inode, by=by, why=why, **facts))
    return lacked


def _replayed(links: tuple[Link, ...], journal: Journal | None) -> tuple[Link, ...]:
    whole = list(links)
    for echo in journal.all() if journal else ():
        if echo.seq == len(whole) + 1 and echo.link.hash == chain.link_hash(whole[-1].hash, echo.link.body):
            chain.check_signatures((whole[0], echo.link), last_alone=True)
            whole.append(echo.link)
    return tuple(whole)


def _put(links: tuple[Link, ...], path: Path) -> None:
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    part.touch(mode=0o600)
    with chain.opened(part) as connection:
        with chain.transaction(connection):
            for seq, link in enumerate(links, start=1):
                chain.insert(connection, seq, link)
        # One file, so that it can be put in place by one rename.
        connection.execute("PRAGMA journal_mode = DELETE")
    flush(part)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = path.with_name(f"{path.name}.replaced-{moment}")
    if path.exists():
        # A second name first, so that there is no moment without a ledger in its place.
        os.link(path, aside)
    for ending in ("-wal", "-shm"):
        old = path.with_name(path.name + ending)
        if old.exists():
            old.rename(aside.with_name(aside.name + ending))
    part.replace(path)
    flush(path.parent)

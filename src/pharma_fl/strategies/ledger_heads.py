"""What the coordinator remembers of each partner's ledger: a bare hash, so that a ledger that went back is noticed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pharma_fl.atomic import write_atomic

_LOG = logging.getLogger("flwr")  # beside Flower's own strategies
_HASH = re.compile(r"[0-9a-f]{64}")


def is_head(value: object) -> bool:
    """Whether a partner's word for its ledger's head can be one."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


class LedgerHeads:
    """The last head that each partner told at joining, kept from run to run.

    Parameters
    ----------
    path : Path
        A JSON file, partner's name to hash.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, str]:
        """Return the heads by partner; nothing where the file is missing or damaged, which is logged."""
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _LOG.warning("Cannot read %s (%s): what partners' ledgers were is forgotten.", self._path, error)
            return {}
        heads = content if isinstance(content, dict) else {}
        return {str(name): head for name, head in heads.items() if is_head(head)}

    def save(self, heads: Mapping[str, str]) -> None:
        """Remember heads beside those of partners that said nothing this time."""
        whole = self.load() | dict(heads)
        write_atomic(self._path, (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode())


class Witnesses:
    """What each partner's ledger must still have: what it told in this run, and before.

    Parameters
    ----------
    heads : LedgerHeads or None
        What was told in earlier runs, where that is kept.
    told : mapping
        Hash of each partner's ledger at joining, by name.
    """

    def __init__(self, heads: LedgerHeads | None, told: Mapping[str, str]) -> None:
        self._heads, self._told = heads, told
        self._before = heads.load() if heads else {}

    def of(self, name: str) -> tuple[str, ...]:
        """Return the hashes that a partner is to check in every round."""
        return tuple(dict.fromkeys(known[name] for known in (self._before, self._told) if name in known))

    def remember(self, names: Iterable[str]) -> None:
        """Keep for later runs what partners told that have taken part, and so have found what they told before.

        What a ledger says that went back must not take the place of what is known of it.
        """
        told = {name: self._told[name] for name in names if name in self._told}
        if self._heads and told.items() - self._heads.load().items():
            self._heads.save(told)

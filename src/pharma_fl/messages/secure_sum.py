"""What partner and coordinator say to each other about a secure sum: three questions before a run, one after a round.

Keys, shares and seeds travel as bytes. The coordinator hands them on; what it could do with them is in `secagg`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from flwr.app import ConfigRecord, RecordDict

from pharma_fl.errors import FederationError
from pharma_fl.messages.envelope import CONFIG, NAME, config_of, settings_of
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.secagg.keys import Advert
from pharma_fl.secagg.session import Unmasking
from pharma_fl.secagg.terms import Terms

KEYS, SHARES, KEEP, UNMASK = "keys", "shares", "keep", "unmask"
"""Flower's names of the questions, after ``query.``."""


def terms_of(federation: str, run: str, plan: PrivacyPlan) -> Terms:
    """Return what every key and mask of a run is bound to."""
    return Terms(
        federation=federation,
        run=run,
        plan=hashlib.sha256(plan.model_dump_json().encode()).hexdigest(),
        rounds=plan.rounds,
        contributors=plan.contributors,
        tolerated_colluders=plan.tolerated_colluders,
        tolerated_losses=plan.tolerated_losses,
        values=plan.summed_values,
        ring_bits=plan.ring_bits,
    )


def keys_request(federation: str, run: str, plan: PrivacyPlan) -> RecordDict:
    """Ask a partner for its signed keys of a run."""
    return _packed({"federation": federation, "run": run, "plan": plan.model_dump_json()})


def read_keys_request(content: RecordDict) -> tuple[str, str, PrivacyPlan]:
    """Read federation, run and plan; ``PFL-F01`` where they are not that."""
    config = config_of(content, {"federation", "run", "plan"})
    return _name(config, "federation"), _name(config, "run"), settings_of(content, "plan", PrivacyPlan)


def keys_reply(advert: Advert) -> RecordDict:
    """Pack a partner's signed keys."""
    return _packed(
        {
            "status": "done",
            "name": advert.name,
            "sealing": advert.sealing,
            "rounds": advert.rounds,
            "signature": advert.signature,
        }
    )


def read_keys_reply(content: RecordDict) -> Advert:
    """Read a partner's signed keys; whether they are its own is for the other partners to check."""
    config = config_of(content, {"status", "name", "sealing", "rounds", "signature"})
    return Advert(
        name=_name(config, "name"),
        sealing=_bytes(config["sealing"]),
        rounds=_bytes(config["rounds"]),
        signature=_bytes(config["signature"]),
    )


def shares_request(run: str, adverts: Collection[Advert]) -> RecordDict:
    """Show a partner the keys of all, and ask for its sealed shares."""
    return _packed(
        {
            "run": run,
            "names": [one.name for one in adverts],
            "sealing": [one.sealing for one in adverts],
            "rounds": [one.rounds for one in adverts],
            "signatures": [one.signature for one in adverts],
        }
    )


def read_shares_request(content: RecordDict) -> tuple[str, tuple[Advert, ...]]:
    """Read the run and all partners' keys."""
    config = config_of(content, {"run", "names", "sealing", "rounds", "signatures"})
    names = _names(config, "names")
    columns = [_all_bytes(config, key, len(names)) for key in ("sealing", "rounds", "signatures")]
    return _name(config, "run"), tuple(
        Advert(name=name, sealing=sealing, rounds=rounds, signature=signature)
        for name, sealing, rounds, signature in zip(names, *columns, strict=True)
    )


def shares_reply(sealed: Mapping[str, bytes]) -> RecordDict:
    """Pack shares that are sealed for other partners, by name."""
    return _packed({"status": "done", "names": list(sealed), "sealed": list(sealed.values())})


def read_shares_reply(content: RecordDict) -> dict[str, bytes]:
    """Read sealed shares by the name of whom they are for."""
    return _by_name(config_of(content, {"status", "names", "sealed"}), "names", "sealed")


def keep_request(run: str, sealed: Mapping[str, bytes]) -> RecordDict:
    """Hand a partner the shares that the others sealed for it, by the name of whom they are from."""
    return _packed({"run": run, "names": list(sealed), "sealed": list(sealed.values())})


def read_keep_request(content: RecordDict) -> tuple[str, dict[str, bytes]]:
    """Read the run and the sealed shares by sender."""
    config = config_of(content, {"run", "names", "sealed"})
    return _name(config, "run"), _by_name(config, "names", "sealed")


def keep_reply() -> RecordDict:
    """Say that all shares could be opened."""
    return _packed({"status": "done"})


def unmask_request(run: str, round_number: int, survivors: Collection[str]) -> RecordDict:
    """Name the partners whose vectors arrived, and ask for what opens their sum."""
    return _packed({"run": run, "round": round_number, "survivors": sorted(survivors)})


def read_unmask_request(content: RecordDict) -> tuple[str, int, frozenset[str]]:
    """Read run, round and survivors."""
    config = config_of(content, {"run", "round", "survivors"})
    number, survivors = config["round"], _names(config, "survivors")
    if type(number) is not int or len(set(survivors)) != len(survivors):
        raise FederationError("PFL-F01", "The request to unmask names its round or partners wrongly.")
    return _name(config, "run"), number, frozenset(survivors)


def unmask_reply(unmasking: Unmasking) -> RecordDict:
    """Pack what opens a sum."""
    seeds, keys = unmasking.self_seeds, unmasking.round_keys
    return _packed(
        {
            "status": "done",
            "survivors": list(seeds),
            "self_seeds": list(seeds.values()),
            "missing": list(keys),
            "round_keys": list(keys.values()),
        }
    )


def read_unmask_reply(content: RecordDict) -> Unmasking:
    """Read what opens a sum."""
    config = config_of(content, {"status", "survivors", "self_seeds", "missing", "round_keys"})
    return Unmasking(
        self_seeds=_by_name(config, "survivors", "self_seeds"), round_keys=_by_name(config, "missing", "round_keys")
    )


def _packed(config: dict[str, object]) -> RecordDict:
    return RecordDict({CONFIG: ConfigRecord(config)})  # type: ignore[arg-type]


def _name(config: ConfigRecord, key: str) -> str:
    value = config[key]
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise FederationError("PFL-F01", f"The message about a secure sum names its {key} wrongly.")
    return value


def _names(config: ConfigRecord, key: str) -> list[str]:
    value = config[key]
    if not isinstance(value, list) or not all(isinstance(one, str) and NAME.fullmatch(one) for one in value):
        raise FederationError("PFL-F01", f"The message about a secure sum lists its {key} wrongly.")
    return [str(one) for one in value]


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise FederationError("PFL-F01", "The message about a secure sum holds something else where bytes belong.")
    return value


def _all_bytes(config: ConfigRecord, key: str, count: int) -> list[bytes]:
    value = config[key]
    if not isinstance(value, list) or len(value) != count:
        raise FederationError("PFL-F01", f"The message about a secure sum has not as many {key} as names.")
    return [_bytes(one) for one in value]


def _by_name(config: ConfigRecord, names: str, values: str) -> dict[str, bytes]:
    listed = _names(config, names)
    found = dict(zip(listed, _all_bytes(config, values, len(listed)), strict=True))
    if len(found) != len(listed):
        raise FederationError("PFL-F01", f"The message about a secure sum lists one of its {names} twice.")
    return found

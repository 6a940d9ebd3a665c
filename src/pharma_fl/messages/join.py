"""The question with which a run begins, and what a partner says of itself: nothing in it is computed from its data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal

from flwr.app import ConfigRecord, RecordDict

from pharma_fl.errors import FederationError
from pharma_fl.messages.envelope import CONFIG, NAME, config_of, settings_of
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.signing_key import SigningKey, is_signed

JOIN = "join"
"""Flower's name of the question, after ``query.``."""
CHALLENGE_BYTES = 32
MOST_AGREEMENT = 4 * 1024 * 1024
"""Characters of an agreement that a coordinator reads; a real one has some 60,000."""
_PURPOSE = b"pharma-fl join 1\0"
"""Nothing else that the identity signs begins so."""
_KEYS = {"status", "partner", "code", "version", "plan", "agreement", "ledger", "affordable_rounds", "signature"}


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """What the coordinator asks before a run.

    Attributes
    ----------
    federation, run : str
        Which run this is.
    plan : PrivacyPlan
        What it proposes.
    challenge : bytes
        32 random bytes, so that an answer given once cannot be shown again.
    """

    federation: str
    run: str
    plan: PrivacyPlan
    challenge: bytes


@dataclass(frozen=True, kw_only=True)
class JoinAnswer:
    """What a partner says of itself.

    Attributes
    ----------
    status : {"joined", "refused"}
        Whether its policy allows the plan.
    partner : str
        Its name.
    code : str
        Why it refuses; empty where it does not.
    version : str
        Of pharma-fl.
    plan : str
        Digest of the plan as it read it.
    agreement : str
        Its agreement.json: settings, digests and what public molecules became; empty where it has none or refuses.
    ledger : str
        Hash of its ledger's last entry; empty where it refuses.
    affordable_rounds : int
        Rounds of the plan that its budget still covers; -1 where its policy does not tell.
    signature : bytes
        Ed25519, of its identity key, over all of it and the question; empty where it has no such key.
    """

    status: Literal["joined", "refused"]
    partner: str
    code: str = ""
    version: str
    plan: str
    agreement: str = ""
    ledger: str = ""
    affordable_rounds: int = -1
    signature: bytes = b""

    def signed(self, request: JoinRequest, key: SigningKey) -> JoinAnswer:
        """Return the same answer with the partner's signature."""
        return replace(self, signature=key.sign(self._content(request)))

    def is_of(self, public: str, request: JoinRequest) -> bool:
        """Whether the holder of a public key, raw in hexadecimal, gave this answer to this very question."""
        return is_signed(public, self.signature, self._content(request))

    def _content(self, request: JoinRequest) -> bytes:
        said = [
            request.federation,
            request.run,
            request.challenge.hex(),
            self.status,
            self.partner,
            self.code,
            self.version,
            self.plan,
            hashlib.sha256(self.agreement.encode()).hexdigest(),
            self.ledger,
            self.affordable_rounds,
        ]
        return _PURPOSE + json.dumps(said).encode()


def join_request(request: JoinRequest) -> RecordDict:
    """Pack the question."""
    return RecordDict(
        {
            CONFIG: ConfigRecord(
                {
                    "federation": request.federation,
                    "run": request.run,
                    "plan": request.plan.model_dump_json(),
                    "challenge": request.challenge,
                }
            )
        }
    )


def read_join_request(content: RecordDict) -> JoinRequest:
    """Unpack and validate the question; ``PFL-F01`` where it is none."""
    config = config_of(content, {"federation", "run", "plan", "challenge"})
    federation, run, challenge = config["federation"], config["run"], config["challenge"]
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in (federation, run)):
        raise FederationError("PFL-F01", "The join request names federation or run wrongly.")
    if not isinstance(challenge, bytes) or len(challenge) != CHALLENGE_BYTES:
        raise FederationError("PFL-F01", f"The join request needs a challenge of {CHALLENGE_BYTES} bytes.")
    return JoinRequest(
        federation=str(federation), run=str(run), plan=settings_of(content, "plan", PrivacyPlan), challenge=challenge
    )


def join_answer(answer: JoinAnswer) -> RecordDict:
    """Pack the answer."""
    return RecordDict({CONFIG: ConfigRecord({key: getattr(answer, key) for key in _KEYS})})


def read_join_answer(content: RecordDict) -> JoinAnswer:
    """Unpack an answer, whoever gave it; ``PFL-F11`` where it is none."""
    config = content.config_records.get(CONFIG)
    if config is None or set(config) != _KEYS or set(content) != {CONFIG}:
        raise FederationError("PFL-F11", "A join answer lacks a key or has an unknown one.")
    texts = [config[key] for key in ("status", "partner", "code", "version", "plan", "agreement", "ledger")]
    # True is an int to isinstance.
    if not all(isinstance(text, str) for text in texts) or type(config["affordable_rounds"]) is not int:
        raise FederationError("PFL-F11", "A join answer holds a value of the wrong type.")
    if config["status"] not in ("joined", "refused") or not isinstance(config["signature"], bytes):
        raise FederationError("PFL-F11", "A join answer holds a value of the wrong type.")
    if len(str(config["agreement"])) > MOST_AGREEMENT:
        raise FederationError("PFL-F11", f"A join answer's agreement is longer than {MOST_AGREEMENT:,} characters.")
    return JoinAnswer(**{key: config[key] for key in _KEYS})  # type: ignore[arg-type]

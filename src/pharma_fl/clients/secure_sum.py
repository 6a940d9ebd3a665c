"""A partner's part in secure sums: the setup before a run, and one answer a round to who is there.

What must happen once happens once: keys and answers are on disk before they leave, and another question gets the same
answer or none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from pharma_fl.atomic import write_atomic
from pharma_fl.clients.session_file import SessionFile
from pharma_fl.clients.state import PrivateState
from pharma_fl.clients.witnesses import ledger_of
from pharma_fl.config import Partner, PartnerKeys
from pharma_fl.errors import FederationError
from pharma_fl.messages.secure_sum import terms_of
from pharma_fl.privacy.contribution import contribution
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.policy import check_policy
from pharma_fl.secagg.bundles import open_bundles, seal_bundles
from pharma_fl.secagg.keys import Advert, Secrets, check_adverts, make_advert
from pharma_fl.secagg.session import Session, Unmasking
from pharma_fl.signing_key import SigningKey

_ANSWER_FILE = "unmasked.json"


def keys_of_run(partner: Partner, federation: str, run: str, plan: PrivacyPlan) -> Advert:
    """Make this partner's signed keys of a run, or return those that it made.

    Raises
    ------
    PolicyViolation, BudgetExceeded
        As a round of the plan would be refused.
    FederationError
        ``PFL-F30`` the plan sums fewer partners than this one's own list, or policy.min_contributors. ``PFL-F34`` the
        plan shares no noise; the run has keys for another plan; or it has begun, and its keys are gone.
    PrivacyError
        ``PFL-P13`` the identity key is missing.
    """
    check_policy(plan, partner.policy, partner.budget, federation=federation)
    if plan.noise_mode == "local":
        raise FederationError("PFL-F34", "Keys were asked for, and the plan shares no noise: there is nothing to sum.")
    identity = SigningKey(partner.path(partner.identity_key), setting="identity_key")
    known = _known_keys(partner, identity)
    least = partner.policy.min_contributors or len(known.partners)
    if plan.contributors < least:
        raise FederationError(
            "PFL-F30",
            f"The plan sums {plan.contributors} partners, and this one takes part in no sum of fewer than {least} "
            "(partner.toml: policy.min_contributors; left out, all of partner_keys). Nothing was sent.",
        )
    terms, ledger = terms_of(federation, run, plan), ledger_of(partner)
    with ledger.held():
        stored = SessionFile.load(partner.path(partner.state))
        if stored is not None and stored.terms.run == run:
            if stored.terms != terms:
                raise FederationError("PFL-F34", f"Run {run} has keys for another plan. Start another run.")
            return stored.own
        if ledger.history().charges(run=run):
            raise FederationError(
                "PFL-F34",
                f"Run {run} has begun, and its keys are not in the state folder (partner.toml: state). New ones would "
                "hide nothing that the old ones hid. Restore the folder from a backup, or start another run.",
            )
        contribution(plan, ledger, budget=partner.budget, policy=partner.policy, run=run)
        secrets = Secrets.fresh()
        advert = make_advert(partner.name, secrets, terms, identity.sign)
        SessionFile(terms=terms, root=secrets.root, own=advert).save(partner.path(partner.state))
        return advert


def shares_of_run(partner: Partner, run: str, adverts: Collection[Advert]) -> dict[str, bytes]:
    """Check the keys of all partners, and return this one's shares, each sealed for one other partner.

    Raises
    ------
    FederationError
        ``PFL-F30``, ``PFL-F31`` the list is not what this partner's own list of keys and the plan say. ``PFL-F34`` the
        run has no keys here, or was shown another list before.
    """
    identity = SigningKey(partner.path(partner.identity_key), setting="identity_key")
    with ledger_of(partner).held():
        folder = partner.path(partner.state)
        stored = _stored(partner, run)
        digest = check_adverts(
            adverts, terms=stored.terms, own=stored.own, partner_keys=_known_keys(partner, identity).partners
        )
        if stored.digest not in ("", digest):
            raise FederationError(
                "PFL-F34", f"Run {run} was shown another list of keys before. One of them is forged. Leave the run."
            )
        sealed, own = seal_bundles(Secrets(stored.root), partner.name, adverts, stored.terms, digest)
        if not stored.digest:
            stored.shown(adverts, digest, {partner.name: own}).save(folder)
        return sealed


def keep_shares(partner: Partner, run: str, sealed: Mapping[str, bytes]) -> None:
    """Open and keep the shares that all others sealed for this partner: from now on it can take part in rounds.

    Raises
    ------
    FederationError
        ``PFL-F32`` a share cannot be opened: its sender was shown another list. ``PFL-F34`` the run has no keys here.
    """
    with ledger_of(partner).held():
        stored = _stored(partner, run)
        if not stored.digest:
            raise _no_setup(run)
        opened = open_bundles(sealed, Secrets(stored.root), partner.name, stored.adverts, stored.terms, stored.digest)
        if not stored.complete:
            own = {partner.name: stored.bundles[partner.name]}
            stored.shown(stored.adverts, stored.digest, own | opened).save(partner.path(partner.state))


def session_of(partner: Partner, federation: str, run: str, plan: PrivacyPlan) -> Session:
    """Return this partner's part in the sums of a run.

    Raises
    ------
    FederationError
        ``PFL-F34`` the setup was not gone through to its end, or for another plan.
    """
    stored = _stored(partner, run)
    if not stored.complete or stored.terms != terms_of(federation, run, plan):
        raise _no_setup(run)
    return _session(partner, stored)


def unmask_round(partner: Partner, run: str, round_number: int, survivors: frozenset[str]) -> Unmasking:
    """Answer, once a round, with the shares that open the sum of the survivors' vectors.

    Raises
    ------
    FederationError
        ``PFL-F33`` the question is not about this partner's last round, was answered for other survivors, or names too
        few. ``PFL-F34`` the run has no setup here.
    """
    folder = partner.path(partner.state)
    ledger = ledger_of(partner)
    with ledger.held():
        stored, standing = _stored(partner, run), PrivateState.standing(folder)
        if not stored.complete:
            raise _no_setup(run)
        # A state that was put back is of an older round than the ledger.
        last = ledger.history().last_round("train", run)
        if standing != (run, round_number) or last != round_number:
            raise FederationError(
                "PFL-F33",
                f"Shares for round {round_number} of run {run} were asked for, and this partner's last vector is "
                f"{'none' if standing is None else 'of round {1} of run {0}'.format(*standing)}. No share was given.",
            )
        question = {"run": run, "round": round_number, "survivors": sorted(survivors)}
        place = folder / _ANSWER_FILE
        before = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
        if (before.get("run"), before.get("round")) == (run, round_number) and before != question:
            raise FederationError(
                "PFL-F33",
                f"Round {round_number} of run {run} was answered for other survivors. With both answers a partner's "
                "own vector could be opened. No share was given.",
            )
        answer = _session(partner, stored).unmask(round_number, survivors)
        write_atomic(place, (json.dumps(question) + "\n").encode())
        return answer


def _session(partner: Partner, stored: SessionFile) -> Session:
    return Session(
        terms=stored.terms,
        name=partner.name,
        root=stored.root,
        adverts=stored.adverts,
        digest=stored.digest,
        bundles=stored.bundles,
    )


def _known_keys(partner: Partner, identity: SigningKey) -> PartnerKeys:
    known = PartnerKeys.load(partner.path(partner.partner_keys))
    if known.partners.get(partner.name) != identity.public:
        raise FederationError(
            "PFL-F30",
            f"{partner.path(partner.partner_keys)} lists another key for {partner.name} than {partner.identity_key} "
            "has, or none. The partners need one list: pharma-fl identity shows the line for it.",
        )
    return known


def _stored(partner: Partner, run: str) -> SessionFile:
    stored = SessionFile.load(partner.path(partner.state))
    if stored is None or stored.terms.run != run:
        raise _no_setup(run)
    return stored


def _no_setup(run: str) -> FederationError:
    return FederationError(
        "PFL-F34",
        f"Run {run} has no finished setup of its secure sum at this partner. Nothing was sent. Start another run; if "
        "the state folder was lost, restore it from a backup (partner.toml: state).",
    )

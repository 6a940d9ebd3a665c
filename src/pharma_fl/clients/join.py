"""What a partner answers before a run: who it is, whether its policy allows the plan, how its data were prepared."""

from __future__ import annotations

from dataclasses import replace

from pharma_fl import __version__
from pharma_fl.config import Partner
from pharma_fl.data.layout import AGREEMENT
from pharma_fl.errors import PharmaFlError
from pharma_fl.messages.join import JoinAnswer, JoinRequest
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.policy import check_policy
from pharma_fl.signing_key import SigningKey


def join_run(partner: Partner, request: JoinRequest) -> JoinAnswer:
    """Answer the question with which a run begins.

    Nothing in the answer is computed from the partner's data. The ledger's head is a bare hash; how much budget is left
    is told where policy.report_budget says so.
    """
    answer = JoinAnswer(status="joined", partner=partner.name, version=__version__, plan=request.plan.digest)
    try:
        check_policy(request.plan, partner.policy, partner.budget, federation=request.federation)
        # A bare hash, so that the coordinator can notice a ledger that went back.
        ledger = Ledger.of(partner)
        answer = replace(
            answer,
            agreement=_agreement(partner),
            ledger=ledger.head,
            affordable_rounds=_affordable(partner, request, ledger),
        )
    except PharmaFlError as error:
        # Who refuses says so under its name, or the coordinator would look for it elsewhere.
        answer = replace(answer, status="refused", code=error.code)
    # Without an identity, as in simulations, it is for the coordinator to say whether a bare word is enough.
    if partner.path(partner.identity_key).exists():
        answer = answer.signed(request, SigningKey(partner.path(partner.identity_key), setting="identity_key"))
    return answer


def _agreement(partner: Partner) -> str:
    # Imported matrices hold no structures to compare, and have none.
    path = partner.path(partner.data) / AGREEMENT
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _affordable(partner: Partner, request: JoinRequest, ledger: Ledger) -> int:
    if not partner.policy.report_budget:
        return -1
    least = 1.0 if request.plan.noise_mode == "local" else partner.policy.min_contribution
    return ledger.affordable_rounds(request.plan, partner.budget, contribution=least)

"""The partner's Flower ClientApp: reads the message, calls, answers. Nothing else happens here.

Flower starts a process for each message, and what training needs takes seconds to import: each question imports what it
needs itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pharma_fl import __version__
from pharma_fl.clients.audit import check_writable, write_audit
from pharma_fl.config import Partner, partner_file
from pharma_fl.errors import FederationError
from pharma_fl.messages.envelope import CONFIG, refusal

Act = Callable[[Partner], RecordDict]

audit_facts: dict[str, str] = {"version": __version__}
"""What every line of the audit log says of what runs here; the guard adds the bundle's digest."""


def join(partner: Partner, content: RecordDict) -> RecordDict:
    """Say who this partner is, and whether its policy allows the proposed plan."""
    from pharma_fl.clients.join import join_run
    from pharma_fl.messages.join import join_answer, read_join_request

    return join_answer(join_run(partner, read_join_request(content)))


def train(partner: Partner, content: RecordDict) -> RecordDict:
    """Carry out one round."""
    from pharma_fl.clients.train import train_round
    from pharma_fl.messages.wire import read_round_request, round_reply

    request = read_round_request(content)
    return round_reply(train_round(partner, request), request)


def evaluate(partner: Partner, content: RecordDict) -> RecordDict:
    """Release noised metrics of one round."""
    from pharma_fl.clients.evaluate import evaluate_round
    from pharma_fl.messages.wire import metrics_reply, read_metrics_request

    request = read_metrics_request(content)
    return metrics_reply(evaluate_round(partner, request), request)


def keys(partner: Partner, content: RecordDict) -> RecordDict:
    """Make signed keys for the secure sums of a run."""
    from pharma_fl.clients.secure_sum import keys_of_run
    from pharma_fl.messages.secure_sum import keys_reply, read_keys_request

    return keys_reply(keys_of_run(partner, *read_keys_request(content)))


def shares(partner: Partner, content: RecordDict) -> RecordDict:
    """Check all partners' keys, and share this one's secrets among them."""
    from pharma_fl.clients.secure_sum import shares_of_run
    from pharma_fl.messages.secure_sum import read_shares_request, shares_reply

    return shares_reply(shares_of_run(partner, *read_shares_request(content)))


def keep(partner: Partner, content: RecordDict) -> RecordDict:
    """Keep what the others shared with this partner."""
    from pharma_fl.clients.secure_sum import keep_shares
    from pharma_fl.messages.secure_sum import keep_reply, read_keep_request

    keep_shares(partner, *read_keep_request(content))
    return keep_reply()


def unmask(partner: Partner, content: RecordDict) -> RecordDict:
    """Help to open the sum of one round."""
    from pharma_fl.clients.secure_sum import unmask_round
    from pharma_fl.messages.secure_sum import read_unmask_request, unmask_reply

    return unmask_reply(unmask_round(partner, *read_unmask_request(content)))


def unknown(partner: Partner, content: RecordDict) -> RecordDict:
    """Refuse what is no question of ours."""
    del partner, content
    raise FederationError("PFL-F01", "A message asks for what this version does not know. Nothing was done.")


QUESTIONS = {
    "train": train,
    "evaluate": evaluate,
    "query.join": join,
    "query.keys": keys,
    "query.shares": shares,
    "query.keep": keep,
    "query.unmask": unmask,
}
"""What may be asked, by Flower's message type."""


class PartnerApp(ClientApp):
    """Answers every message, whatever it is: an exception that reached Flower would send its text away."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        act = QUESTIONS.get(message.metadata.message_type, unknown)
        return answer(message, context, lambda partner: act(partner, message.content))


def answer(message: Message, context: Context, act: Act) -> Message:
    """Answer with what `act` returns, or with a code; the partner's own log says why."""
    try:
        partner = Partner.load(partner_file(context.node_config, context.run_config))
        content = _audited(partner, message, act)
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may travel
        content = refusal(error)
    return Message(content, reply_to=message)


def _audited(partner: Partner, message: Message, act: Act) -> RecordDict:
    log, facts = partner.path(partner.audit_log), {"asked": message.metadata.message_type} | audit_facts
    check_writable(log)
    try:
        content = act(partner)
    except Exception as error:
        # Its own code is what helps, and a refusal tells nothing that would need a line.
        with suppress(FederationError):
            write_audit(log, event="refused", **facts, error=str(error))
        raise
    write_audit(log, event="answered", **facts, status=content.config_records[CONFIG]["status"])
    return content


app = PartnerApp()

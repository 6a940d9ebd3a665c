"""The partner's Flower ClientApp: reads the message, calls, answers. Nothing else happens here."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pharma_fl.clients.audit import write_audit
from pharma_fl.clients.join import join_run
from pharma_fl.clients.secure_sum import keep_shares, keys_of_run, shares_of_run, unmask_round
from pharma_fl.config import Partner, partner_file
from pharma_fl.messages.join import join_answer, read_join_request
from pharma_fl.messages.secure_sum import (
    KEEP,
    KEYS,
    SHARES,
    UNMASK,
    keep_reply,
    keys_reply,
    read_keep_request,
    read_keys_request,
    read_shares_request,
    read_unmask_request,
    shares_reply,
    unmask_reply,
)
from pharma_fl.messages.wire import (
    CONFIG,
    metrics_reply,
    read_metrics_request,
    read_round_request,
    refusal,
    round_reply,
)

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who this partner is, and whether its policy allows the proposed plan."""
    return _answer(message, context, lambda partner: join_answer(join_run(partner, read_join_request(message.content))))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carry out one round."""
    return _answer(message, context, lambda partner: _train(partner, message.content))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Release noised metrics of one round."""
    return _answer(message, context, lambda partner: _evaluate(partner, message.content))


@app.query(KEYS)
def keys(message: Message, context: Context) -> Message:
    """Make signed keys for the secure sums of a run."""
    return _answer(
        message, context, lambda partner: keys_reply(keys_of_run(partner, *read_keys_request(message.content)))
    )


@app.query(SHARES)
def shares(message: Message, context: Context) -> Message:
    """Check all partners' keys, and share this one's secrets among them."""
    return _answer(
        message, context, lambda partner: shares_reply(shares_of_run(partner, *read_shares_request(message.content)))
    )


@app.query(KEEP)
def keep(message: Message, context: Context) -> Message:
    """Keep what the others shared with this partner."""
    return _answer(message, context, lambda partner: _keep(partner, message.content))


@app.query(UNMASK)
def unmask(message: Message, context: Context) -> Message:
    """Help to open the sum of one round."""
    return _answer(
        message, context, lambda partner: unmask_reply(unmask_round(partner, *read_unmask_request(message.content)))
    )


def _keep(partner: Partner, content: RecordDict) -> RecordDict:
    keep_shares(partner, *read_keep_request(content))
    return keep_reply()


# Flower starts a process for each message, and Opacus takes a second to import: only what needs it does.
def _train(partner: Partner, content: RecordDict) -> RecordDict:
    from pharma_fl.clients.train import train_round  # noqa: PLC0415 - as said above

    request = read_round_request(content)
    return round_reply(train_round(partner, request), request)


def _evaluate(partner: Partner, content: RecordDict) -> RecordDict:
    from pharma_fl.clients.evaluate import evaluate_round  # noqa: PLC0415 - as said above

    request = read_metrics_request(content)
    return metrics_reply(evaluate_round(partner, request), request)


def _answer(message: Message, context: Context, act: Callable[[Partner], RecordDict]) -> Message:
    # An exception that reached Flower would send its text to the coordinator.
    try:
        partner = Partner.load(partner_file(context.node_config, context.run_config))
        content = _audited(partner, message, act)
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may travel
        content = refusal(error)
    return Message(content, reply_to=message)


def _audited(partner: Partner, message: Message, act: Callable[[Partner], RecordDict]) -> RecordDict:
    log, asked = partner.path(partner.audit_log), message.metadata.message_type
    try:
        content = act(partner)
    except Exception as error:
        write_audit(log, event="refused", asked=asked, error=str(error))
        raise
    write_audit(log, event="answered", asked=asked, status=content.config_records[CONFIG]["status"])
    return content

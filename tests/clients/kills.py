"""A partner that is killed again and again: what a child does, and what it leaves for the test to count."""

import json
import os

from tests.partners import MODEL, TRAINING, a_plan, a_request

from pharma_fl.clients import train
from pharma_fl.config import Partner
from pharma_fl.errors import FederationError, PrivacyError
from pharma_fl.messages.rounds import digest
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.dp_sgd import DpSgd

PLAN = a_plan(noise_multiplier=30.0, rounds=5_000)
TRUNK = initial_trunk(MODEL, 0)


def budget():
    """Room for all rounds."""
    return {"epsilon": 40.0, "delta": 1e-5}


def request(number):
    """What the coordinator asks for, the same however often it asks."""
    training = TRAINING.model_copy(update={"rounds": PLAN.rounds})
    return a_request(number, plan=PLAN, training=training, trunk=TRUNK)


def append(path, line):
    """Write a line that survives a kill in the next moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, (line + "\n").encode())
    os.close(handle)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def go_on(folder):
    """Answer rounds until killed, keeping count of the noise that is drawn and of the replies that leave.

    The coordinator asks again for a round until it has an answer.
    """
    step = DpSgd.step

    def counted(self, records):
        append(folder / "steps.log", "step")
        step(self, records)

    DpSgd.step = counted
    partner = Partner.load(folder / "north" / "partner.toml")
    while True:
        number = 1 + len(lines(folder / "coordinator.log"))
        try:
            reply = train.train_round(partner, request(number))
        except (PrivacyError, FederationError) as error:
            append(folder / "coordinator.log", json.dumps({"round": number, "code": error.code}))
        else:
            append(folder / "outbox.log", json.dumps({"round": number, "reply": digest(reply.released, "reply")}))
            append(folder / "coordinator.log", json.dumps({"round": number, "code": ""}))

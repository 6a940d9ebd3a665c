"""Whole federations in this process: Flower's grid with partners behind it, and a coordinator that runs over it."""

from flwr.app import Context, RecordDict
from tests.partners import a_partner

from pharma_fl.clients.app import app as client_app
from pharma_fl.config import Federation, Partner
from pharma_fl.messages.wire import from_arrays, to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.run_record import Checkpoints


class Grid:
    """Flower's grid, calling each partner's ClientApp directly; `spoil` may replace any reply of the kind `spoiled`."""

    def __init__(self, files, spoil=lambda reply, number, node: reply, *, spoiled="train"):
        self.files = list(files)
        self.spoil, self.spoiled = spoil, spoiled
        self.sent, self.waiting = [], []

    def get_node_ids(self):
        return range(100, 100 + len(self.files))

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            self.sent.append(message)
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            numbers.append(message.metadata.message_id)
            own = {"partner": str(self.files[node - 100])}
            context = Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config={})
            reply = client_app(message, context)
            reply.metadata.__dict__["_src_node_id"] = node
            if message.metadata.message_type == self.spoiled:
                reply = self.spoil(reply, message.content["config"].get("round"), node)
            if reply is not None:
                self.waiting.append((numbers[-1], reply))
        return numbers

    def pull_messages(self, numbers):
        wanted = set(numbers)
        ready = [reply for number, reply in self.waiting if number in wanted]
        self.waiting = [item for item in self.waiting if item[0] not in wanted]
        return ready

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


class Watcher:
    def __init__(self):
        self.rounds, self.end = [], None

    def run_started(self, federation, plan, folder):
        pass

    def round_finished(self, record):
        self.rounds.append(record)

    def run_finished(self, end):
        self.end = end


def a_federation(
    names=("east", "north", "south"), *, privacy="epsilon = 3.0", quorum="", rounds=4, weights=None, more=""
):
    roster = "\n".join(f"{name} = {(weights or {}).get(name, 1.0)}" for name in names)
    return Federation.parse(
        f"""
        name = "test"
        [partners]
        {roster}
        [model]
        input_bits = 64
        hidden = [8]
        [training]
        rounds = {rounds}
        local_steps = 2
        [privacy]
        {privacy}
        sample_rate = 0.5
        expected_batch = 40.0
        [quorum]
        join_timeout_s = 1.0
        {quorum}
        {more}
        """,
        source="test",
    )


def ledger_of(folder, name):
    return Ledger.of(Partner.load(folder / name / "partner.toml"))


def spent(folder, name):
    return ledger_of(folder, name).epsilon(Partner.load(folder / name / "partner.toml").budget)


def run(folder, federation, grid, *, output="coordinator", heads=None):
    watcher = Watcher()
    plan = propose(federation.privacy, federation.training)
    strategy = DpFedAvg(federation, plan, Checkpoints(folder / output), [watcher], heads)
    result = strategy.start(grid, to_arrays(initial_trunk(federation.model, federation.seed)))
    return watcher, strategy.checkpoints, from_arrays(result.arrays)


def three(folder, **settings):
    for seed, name in enumerate(("east", "north", "south")):
        a_partner(folder, name, seed=seed, **settings)
    return [folder / name / "partner.toml" for name in ("east", "north", "south")]

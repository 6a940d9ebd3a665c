"""Whole federations in this process: Flower's grid with partners behind it, and a coordinator that runs over it."""

from flwr.app import Context, RecordDict
from tests.partners import NAMES, a_partner, share_keys

from pharma_fl.clients.app import app as client_app
from pharma_fl.config import Federation, Partner
from pharma_fl.messages.wire import from_arrays, to_arrays
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.ledger import Ledger
from pharma_fl.privacy.plan import propose
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.dp_fedsgd import DpFedSgd
from pharma_fl.strategies.proposal import proposed_plan


class Grid:
    """Flower's grid, calling each partner's ClientApp directly.

    `spoil` may replace any reply of the kind `spoiled`, or of one of these; a message with `lost` (kind, round, node)
    reaches nobody.
    """

    def __init__(
        self,
        files,
        spoil=lambda reply, number, node: reply,
        *,
        spoiled="train",
        lost=lambda kind, number, node: False,
    ):
        self.files = list(files)
        self.spoil, self.lost = spoil, lost
        self.spoiled = {spoiled} if isinstance(spoiled, str) else set(spoiled)
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
            kind, number = message.metadata.message_type, message.content["config"].get("round")
            if self.lost(kind, number, node):
                continue
            own = {"partner": str(self.files[node - 100])}
            context = Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config={})
            reply = client_app(message, context)
            reply.metadata.__dict__["_src_node_id"] = node
            if kind in self.spoiled:
                reply = self.spoil(reply, number, node)
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
    names=("east", "north", "south"),
    *,
    privacy="epsilon = 3.0",
    sample_rate=0.5,
    training="local_steps = 2",
    quorum="",
    rounds=4,
    weights=None,
    when_missed="stop",
    timeout=0.5,
    more="",
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
        {training}
        [privacy]
        {privacy}
        sample_rate = {sample_rate}
        expected_batch = 40.0
        [quorum]
        join_timeout_s = 1.0
        round_timeout_s = {timeout}
        when_missed = "{when_missed}"
        {quorum}
        {more}
        """,
        source="test",
    )


def a_summing_federation(
    names=NAMES,
    *,
    privacy="noise_multiplier = 4.0",
    losses=1,
    training="local_steps = 1",
    when_missed="skip",
    **settings,
):
    """As `a_federation`, with shared noise."""
    shared = f'noise_mode = "shared"\n        tolerated_losses = {losses}\n        {privacy}'
    return a_federation(names, privacy=shared, training=training, when_missed=when_missed, **settings)


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


def four(folder, names=NAMES, *, by_name=None, **settings):
    """Make partners that know each other's keys; `by_name` are settings of single ones."""
    for seed, name in enumerate(names):
        a_partner(folder, name, seed=seed, **(settings | (by_name or {}).get(name, {})))
    share_keys(folder, names)
    return [folder / name / "partner.toml" for name in names]


def run_sums(folder, federation, grid, *, output="coordinator", plan=None, timeout=0.2):
    """As `run`, with shared noise; the timeout is what an answer that never comes is waited for."""
    watcher = Watcher()
    strategy = DpFedSgd(federation, plan or proposed_plan(federation), Checkpoints(folder / output), [watcher])
    start = to_arrays(initial_trunk(federation.model, federation.seed))
    result = strategy.start(grid, start, timeout=timeout)
    return watcher, strategy.checkpoints, from_arrays(result.arrays)

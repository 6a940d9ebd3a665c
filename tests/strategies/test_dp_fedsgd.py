"""Whole federations under shared noise: sums, losses, lies, and what the coordinator gets to know of anybody."""

from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from tests.partners import METRICS_ALLOWED, NAMES, Silence
from tests.secagg.randomness import findings
from tests.strategies.federations import Grid, a_summing_federation, four, ledger_of, run_sums

from pharma_fl.clients import train
from pharma_fl.clients.records import open_records, training_folds
from pharma_fl.clients.state import PrivateState
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import ConfigError
from pharma_fl.messages.rounds import MASKED
from pharma_fl.messages.wire import from_arrays
from pharma_fl.model.fit import new_network
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import TRUNK_PREFIX, load_trunk
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.model.weights import load_weights
from pharma_fl.privacy.accountant import epsilon
from pharma_fl.secagg.bundles import seal_bundles
from pharma_fl.secagg.keys import Secrets, round_key
from pharma_fl.secagg.masks import add_streams
from pharma_fl.secagg.opening import Opening
from pharma_fl.strategies.proposal import proposed_plan

NODES = dict(zip(NAMES, range(100, 104), strict=True))
VALUES = 65 * 8
CLIP = 3.0
UNIT = CLIP * 2.0**-13
"""32 is the power of two above the root of 520, and then come 8 bits more."""
RICH = {"budget": {"epsilon": 50.0, "delta": 1e-5}, "policy": {"report_budget": False}}


# Without noise


@pytest.fixture
def silent(monkeypatch):
    """Nobody adds noise, and everybody takes all compounds."""
    monkeypatch.setattr(train, "SystemNoise", lambda **_: Silence())


def silent_federation(rounds, **changes):
    return a_summing_federation(rounds=rounds, sample_rate=1.0, **({"privacy": QUIET} | changes))


QUIET = f"noise_multiplier = 4.0\nclipping_norm = {CLIP}"


class OneProcess:
    """All compounds of all partners in one place: each one's gradient is clipped, in a loop, and summed in float64."""

    def __init__(self, folder, federation):
        self.federation, self.rates = federation, federation.training
        self.trunk = {name: value.double() for name, value in initial_trunk(federation.model, 0).items()}
        self.records, self.networks = {}, {}
        for name in federation.partners:
            partner = Partner.load(folder / name / "partner.toml")
            self.records[name] = open_records(partner, federation.model, training_folds(partner))
            self.networks[name] = new_network(federation.model, self.records[name], 0)
        self.clipped = self.seen = 0

    def clipped_sum(self, name):
        """One partner's sum over trunk and heads, by parameter."""
        network, records = self.networks[name], self.records[name]
        load_trunk(network, {part: value.float() for part, value in self.trunk.items()})
        total = {part: torch.zeros_like(value).double() for part, value in network.named_parameters()}
        for row in range(len(records)):
            network.zero_grad()
            network_losses(network, records.batch(np.array([row])), weights=records.weights).sum().backward()
            found = {part: value.grad.double() for part, value in network.named_parameters() if value.grad is not None}
            size = float(torch.cat([value.flatten() for value in found.values()]).norm())
            self.clipped, self.seen = self.clipped + (size > CLIP), self.seen + 1
            for part, value in found.items():
                total[part] += value * min(1.0, CLIP / size)
        return total

    def round(self, summed=NAMES, working=NAMES):
        """Step the heads of those who work, and the trunk along the sum of some."""
        sums = {name: self.clipped_sum(name) for name in working}
        for name, total in sums.items():
            with torch.no_grad():
                for part, value in self.networks[name].named_parameters():
                    if not part.startswith(TRUNK_PREFIX):
                        value.sub_(self.rates.head_learning_rate * total[part].float() / 40.0)
        if summed:
            for part, value in self.trunk.items():
                whole = sum(sums[name][TRUNK_PREFIX + part] for name in summed)
                value.sub_(self.rates.trunk_learning_rate * whole / (40.0 * len(NAMES)))
        return self

    def agrees(self, folder, trunk):
        """Whether a federation's trunk, and each partner's heads, are these to the precision of units."""
        # Each of four partners rounds to half a unit; five rounds; and gradients follow the trunk.
        allowed = {"rtol": 1e-5, "atol": 20 * self.rates.trunk_learning_rate * 2 * UNIT / 160.0 + 1e-6}
        for part, value in self.trunk.items():
            torch.testing.assert_close(trunk[part].double(), value, **allowed)
        for name, network in self.networks.items():
            heads = PrivateState.load(folder / name / "state").heads
            for part, value in network.heads.state_dict().items():
                torch.testing.assert_close(heads[part], value, **allowed)


def test_masked_and_without_noise_it_is_one_process_over_all_rows(tmp_path, silent):
    """Five rounds of full batches, heads included; every second gradient is clipped."""
    federation = silent_federation(rounds=5)
    watcher, _, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20, **RICH)))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 5)
    oracle = OneProcess(tmp_path, federation)
    for _ in range(4):
        oracle.round()
    missing = deepcopy(oracle).round(NAMES[1:])
    oracle.round().agrees(tmp_path, trunk)
    assert 0.2 < oracle.clipped / oracle.seen < 0.8
    with pytest.raises(AssertionError):
        missing.agrees(tmp_path, trunk)


def losing(kind, number, *names):
    """A grid's rule that loses what some are asked."""
    nodes = {NODES[name] for name in names}
    return {"lost": lambda sent, at, node: sent == kind and at == number and node in nodes}


def dropping(kind, number, *names):
    """A grid's rule that loses what some answer."""
    nodes = {NODES[name] for name in names}
    return {"spoil": lambda reply, at, node: None if at == number and node in nodes else reply, "spoiled": kind}


MISSING = {
    "a partner that is not reached": (losing("train", 2, "south"), NAMES[:2] + NAMES[3:], NAMES[:2] + NAMES[3:]),
    "a vector that is lost": (dropping("train", 2, "south"), NAMES[:2] + NAMES[3:], NAMES),
    "a partner that is not reached afterwards": (losing("query.unmask", 2, "north"), NAMES, NAMES),
    "shares that are lost": (dropping("query.unmask", 2, "west"), NAMES, NAMES),
}


@pytest.mark.parametrize(("grid", "summed", "working"), MISSING.values(), ids=MISSING.keys())
def test_one_partner_may_be_missing_at_any_message(tmp_path, silent, grid, summed, working):
    """The sum is that of the vectors that came, and whoever missed a round goes on in the next."""
    federation = silent_federation(rounds=3)
    watcher, _, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20, **RICH), **grid))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 3)
    assert [record.participants for record in watcher.rounds] == [list(NAMES), list(summed), list(NAMES)]
    assert not any(record.void for record in watcher.rounds)
    missing = set(NAMES) - set(summed)
    assert watcher.rounds[1].refused == dict.fromkeys(missing, "PFL-F13")
    oracle = OneProcess(tmp_path, federation).round().round(summed, working).round()
    oracle.agrees(tmp_path, trunk)
    charged = {name: [e.round for e in ledger_of(tmp_path, name).entries() if e.kind == "reserved"] for name in NAMES}
    assert charged == {name: [1, 2, 3] if name in working else [1, 3] for name in NAMES}


def both(*rules):
    """Two things that go wrong in one round."""
    (first, second) = rules
    kinds = {first["spoiled"], second["spoiled"]}

    def spoil(reply, number, node):
        mine = first if reply.metadata.message_type == first["spoiled"] else second
        return mine["spoil"](reply, number, node)

    return {"spoil": spoil, "spoiled": kinds}


def with_config(reply, **changes):
    config = ConfigRecord(dict(reply.content["config"]) | changes)
    return with_content(reply, RecordDict({"config": config}))


def with_content(reply, content):
    reply.__dict__["_content"] = content
    return reply


def lying(number, *names):
    """Wrong shares of the right form."""
    nodes = {NODES[name] for name in names}

    def spoil(reply, at, node):
        if at != number or node not in nodes:
            return reply
        told = reply.content["config"]["self_seeds"]
        return with_config(reply, self_seeds=[bytes(32 * [7]), *told[1:]])

    return {"spoil": spoil, "spoiled": "query.unmask"}


VOID = {
    "two vectors": dropping("train", 2, "south", "west"),
    "two that are not reached": losing("train", 2, "east", "north"),
    "two answers": dropping("query.unmask", 2, "south", "west"),
    "a vector and another's answer": both(dropping("train", 2, "south"), dropping("query.unmask", 2, "west")),
    "two that lie": lying(2, "east", "north"),
    "a vector, and another lies": both(dropping("train", 2, "south"), lying(2, "west")),
    "all of them": dropping("train", 2, *NAMES),
}


@pytest.mark.parametrize("grid", VOID.values(), ids=VOID.keys())
def test_a_round_that_misses_more_is_void_and_stays_charged(tmp_path, grid):
    """The trunk stays as it was, nobody is asked for another vector, and the next round goes on."""
    grid = Grid(four(tmp_path, n=20), **grid)
    watcher, checkpoints, trunk = run_sums(tmp_path, a_summing_federation(rounds=3), grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert [record.void for record in watcher.rounds] == [False, True, False]
    assert watcher.rounds[1].change_norm == 0.0
    assert watcher.rounds[2].participants == list(NAMES)
    asked = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert [m.content["config"]["round"] for m in asked] == [1] * 4 + [2] * 4 + [3] * 4
    trunks = {m.content["config"]["round"]: from_arrays(m.content["arrays"]) for m in asked}
    assert all(torch.equal(trunks[2][name], value) for name, value in trunks[3].items())
    assert not any(torch.equal(trunks[1][name], value) for name, value in trunks[2].items())
    assert not any(torch.equal(trunks[3][name], value) for name, value in trunk.items())
    assert checkpoints.rounds() == watcher.rounds
    assert checkpoints.latest().name == "round-0003"
    reached = {name for name in NAMES if not grid.lost("train", 2, NODES[name])}
    for name in NAMES:
        charged = [entry.round for entry in ledger_of(tmp_path, name).entries() if entry.kind == "reserved"]
        assert charged == ([1, 2, 3] if name in reached else [1, 3])


def void_in(*numbers):
    nodes = {NODES["south"], NODES["west"]}
    return {"spoil": lambda reply, at, node: None if at in numbers and node in nodes else reply}


def test_too_many_void_rounds_in_a_row_end_the_run(tmp_path):
    federation = a_summing_federation(rounds=6, quorum="void_rounds = 1")
    watcher, checkpoints, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20), **void_in(2, 3)))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 1)
    assert "2 rounds in a row were void" in watcher.end.reason
    assert "quorum.void_rounds" in watcher.end.reason
    assert watcher.end.refused == {"south": "PFL-F13", "west": "PFL-F13"}
    assert [record.void for record in watcher.rounds] == [False, True, True]
    # A void round is done, and its trunk that of the round before.
    assert checkpoints.latest().name == "round-0003"
    stored, _ = load_weights(checkpoints.latest() / "trunk.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in trunk.items())
    assert checkpoints.end() == watcher.end


def test_void_rounds_apart_do_not_add_up(tmp_path):
    federation = a_summing_federation(rounds=4, quorum="void_rounds = 1")
    watcher, _, _ = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20), **void_in(2, 4)))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert [record.void for record in watcher.rounds] == [False, True, False, True]


def test_a_void_round_tells_no_metrics_of_an_earlier_one(tmp_path):
    federation = a_summing_federation(rounds=3, more="[evaluation]\nevery = 1")
    watcher, _, _ = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20, **METRICS_ALLOWED), **void_in(2)))
    assert [record.evaluated for record in watcher.rounds] == [list(NAMES), [], list(NAMES)]
    assert watcher.rounds[1].noised_auc_roc == {}


# Vectors that nobody should trust


def vector_of(reply):
    return reply.content["arrays"][MASKED].numpy()


def with_vector(reply, vector):
    reply.content["arrays"] = ArrayRecord({MASKED: Array(vector)})
    return reply


def with_more(reply):
    arrays = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    reply.content["arrays"] = ArrayRecord({name: Array(a) for name, a in (arrays | {"heads": np.zeros(3)}).items()})
    return reply


def renamed(reply):
    reply.content["arrays"] = ArrayRecord({"change": Array(vector_of(reply))})
    return reply


def with_bytes(reply, data):
    array = reply.content["arrays"][MASKED]
    reply.content["arrays"][MASKED] = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=data)
    return reply


def failed(reply):
    question = Message(RecordDict(), dst_node_id=reply.metadata.src_node_id, message_type="train")
    question.metadata.__dict__["_message_id"] = "q"
    error = Message(Error(code=2, reason="CC(=O)O"), reply_to=question)
    error.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return error


BAD = {
    "float": (lambda r: with_vector(r, vector_of(r).astype(np.float32)), "PFL-F12"),
    "wider": (lambda r: with_vector(r, vector_of(r).astype(np.int64)), "PFL-F12"),
    "unsigned": (lambda r: with_vector(r, vector_of(r).view(np.uint32)), "PFL-F12"),
    "big-endian": (lambda r: with_vector(r, vector_of(r).astype(">i4")), "PFL-F12"),
    "one value less": (lambda r: with_vector(r, vector_of(r)[:-1].copy()), "PFL-F12"),
    "one row": (lambda r: with_vector(r, vector_of(r)[None].copy()), "PFL-F12"),
    "an array more": (with_more, "PFL-F12"),
    "another name": (renamed, "PFL-F12"),
    "no bytes": (lambda r: with_bytes(r, b""), "PFL-F12"),
    "a pickle": (lambda r: with_bytes(r, b"\x80\x04]\x94."), "PFL-F12"),
    "a record more": (lambda r: with_content(r, RecordDict(dict(r.content) | {"more": ConfigRecord()})), "PFL-F11"),
    "no record": (lambda r: with_content(r, RecordDict()), "PFL-F11"),
    "an error of Flower's": (failed, "PFL-F10"),
}


@pytest.mark.parametrize(("spoil", "code"), BAD.values(), ids=BAD.keys())
def test_a_vector_of_another_form_is_dropped_and_the_others_are_summed(tmp_path, spoil, code):
    def spoil_north(reply, number, node):
        return spoil(reply) if node == NODES["north"] else reply

    watcher, _, _ = run_sums(tmp_path, a_summing_federation(rounds=1), Grid(four(tmp_path, n=20), spoil_north))
    assert (watcher.end.status, watcher.end.rounds, watcher.rounds[0].void) == ("completed", 1, False)
    assert watcher.rounds[0].participants == ["east", "south", "west"]
    assert watcher.rounds[0].refused == {"north": code}


def test_garbage_of_the_right_form_makes_a_round_void_and_moves_nothing(tmp_path, caplog):
    """Nobody can tell whose vector it was, but that no partners in order have such a sum."""
    rng = np.random.default_rng(0)

    def spoil(reply, number, node):
        if (number, node) != (2, NODES["north"]):
            return reply
        return with_vector(reply, rng.integers(-(2**31), 2**31, VALUES).astype(np.int32))

    watcher, _, trunk = run_sums(tmp_path, a_summing_federation(rounds=3), Grid(four(tmp_path, n=20), spoil))
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert [record.void for record in watcher.rounds] == [False, True, False]
    assert watcher.rounds[1].participants == list(NAMES)
    assert any("more than the plan allows (PFL-F17)" in line.getMessage() for line in caplog.records)
    assert all(torch.isfinite(value).all() for value in trunk.values())


def test_one_that_lies_about_shares_is_outvoted(tmp_path, silent):
    federation = silent_federation(rounds=1)
    watcher, _, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20, **RICH), **lying(1, "east")))
    assert not watcher.rounds[0].void
    OneProcess(tmp_path, federation).round().agrees(tmp_path, trunk)


def test_one_that_gave_out_wrong_shares_ends_the_run_and_breaks_nothing(tmp_path, monkeypatch):
    """Nobody can take its own mask off the sum, and as long as its vectors come no sum opens."""

    class Liar(Secrets):
        def self_seed(self, terms, round_number):
            return 7

    def seal(secrets, name, *given):
        return seal_bundles(Liar(secrets.root) if name == "north" else secrets, name, *given)

    monkeypatch.setattr("pharma_fl.clients.secure_sum.seal_bundles", seal)
    watcher, _, _ = run_sums(tmp_path, a_summing_federation(rounds=5), Grid(four(tmp_path, n=20)))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 0)
    assert [record.void for record in watcher.rounds] == [True] * 3


SHARES = {
    "short shares": lambda r: with_config(r, self_seeds=[b"x"] * 4),
    "shares of fewer": lambda r: with_config(r, survivors=["east"], self_seeds=[bytes(32)]),
    "shares of others": lambda r: with_config(r, survivors=["a", "b", "c", "d"]),
    "no bytes": lambda r: with_config(r, self_seeds=[1, 2, 3, 4]),
    "text": lambda r: with_config(r, survivors="east"),
    "numbers too large": lambda r: with_config(r, self_seeds=[b"\xff" * 32] * 4),
    "more than was asked for": lambda r: with_config(r, missing=["east"], round_keys=[bytes(32)]),
    "nothing": lambda r: with_content(r, RecordDict()),
    "an error of Flower's": failed,
}


@pytest.mark.parametrize("spoil", SHARES.values(), ids=SHARES.keys())
def test_an_answer_of_another_form_does_not_keep_the_sum_closed(tmp_path, spoil):
    def spoil_north(reply, number, node):
        return spoil(reply) if node == NODES["north"] else reply

    grid = Grid(four(tmp_path, n=20), spoil_north, spoiled="query.unmask")
    watcher, _, _ = run_sums(tmp_path, a_summing_federation(rounds=1), grid)
    assert (watcher.end.status, watcher.rounds[0].void) == ("completed", False)


class Unreadable(Grid):
    """Flower unpacks replies where they are pulled, and fails at what one node sends of a kind."""

    def __init__(self, files, kind):
        super().__init__(files)
        self.kind = kind

    def pull_messages(self, numbers):
        wanted = set(numbers)
        for number, reply in self.waiting:
            if number in wanted and (reply.metadata.message_type, reply.metadata.src_node_id) == (self.kind, 101):
                raise ValueError("cannot unpack")
        return super().pull_messages(wanted)


@pytest.mark.parametrize(
    ("kind", "end"), [("query.keys", "stopped"), ("query.keep", "stopped"), ("query.unmask", "completed")]
)
def test_a_reply_that_flower_cannot_unpack_is_one_partners_fault(tmp_path, kind, end):
    watcher, _, _ = run_sums(tmp_path, a_summing_federation(rounds=1), Unreadable(four(tmp_path, n=20), kind))
    assert watcher.end.status == end


# What the coordinator gets to know


class Seen:
    """Vectors as the coordinator has them, and what it learns when it opens their sum."""

    def __init__(self, monkeypatch):
        self.vectors, self.openings, self.totals = {}, [], []
        opened, add = Opening.opened, Opening.add

        def watched(opening, unmaskings):
            self.openings.append((opening, unmaskings))
            self.totals.append(opened(opening, unmaskings))
            return self.totals[-1]

        def watched_add(opening, name, vector):
            self.vectors[opening._bound.number, name] = vector.copy()
            add(opening, name, vector)

        monkeypatch.setattr(Opening, "opened", watched)
        monkeypatch.setattr(Opening, "add", watched_add)


def together(vectors):
    """Some thousand values, which statistics need, of vectors of some hundred."""
    return np.concatenate(vectors)


def test_before_it_is_opened_neither_a_vector_nor_the_sum_can_be_read(tmp_path, silent, monkeypatch):
    """Vectors are of a few hundred units, without noise, and look like numbers of the whole ring."""
    seen, rounds = Seen(monkeypatch), 8
    watcher, _, _ = run_sums(tmp_path, silent_federation(rounds), Grid(four(tmp_path, n=20, **RICH)))
    assert watcher.end.rounds == rounds
    assert max(np.abs(total).max() for total in seen.totals) < 2**20
    half = range(1, rounds // 2 + 1)
    for name in NAMES:
        first, second = (together([seen.vectors[n + more, name] for n in half]) for more in (0, rounds // 2))
        assert findings(first, second) == set()
        assert np.abs(first.astype(np.int64)).max() > 2**30
    sums = [sum(seen.vectors[number, name] for name in NAMES) for number in range(1, rounds + 1)]
    assert findings(together(sums[: rounds // 2]), together(sums[rounds // 2 :])) == set()
    # The same tests tell what was opened.
    assert findings(together(seen.totals[: rounds // 2]), together(seen.totals[rounds // 2 :])) != set()


def test_a_late_vector_does_not_count_and_stays_closed(tmp_path, silent, monkeypatch):
    """By then the others have told what opens its masks with them; its own mask is what hides it."""
    late = {}

    def withhold(reply, number, node):
        if node != NODES["south"] or number > 6:
            return reply
        late[number] = vector_of(reply).copy()
        return None

    seen, federation = Seen(monkeypatch), silent_federation(rounds=7)
    watcher, _, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20, **RICH), withhold))
    three = [name for name in NAMES if name != "south"]
    assert [record.participants for record in watcher.rounds] == [three] * 6 + [list(NAMES)]
    oracle = OneProcess(tmp_path, federation)
    for _ in range(6):
        oracle.round(three)
    oracle.round().agrees(tmp_path, trunk)
    left = []
    for (opening, unmaskings), number in zip(seen.openings, late, strict=False):
        points = {name: share.round_keys["south"] for name, share in unmaskings.items()}
        seed = opening._seed("south", points, lambda seed, o=opening: o._is_round_seed(o._adverts["south"], seed))
        bound, vector = opening._bound, late[number].copy()
        private = round_key(seed, opening._terms, number)
        add_streams(
            vector,
            [
                bound.pair_stream(private, opening._adverts[name].key_of(number), "south", name).negated()
                for name in three
            ],
        )
        left.append(vector)
    assert len(left) == 6
    assert findings(together(left[:3]), together(left[3:])) == set()


def test_records_tell_nothing_of_single_partners(tmp_path):
    watcher, checkpoints, _ = run_sums(tmp_path, a_summing_federation(rounds=2), Grid(four(tmp_path, n=20)))
    for record in watcher.rounds:
        assert record.partner_change_norms == {}
        assert record.change_norm > 0
        assert set(record.epsilon_spent) == set(NAMES)
        assert len(set(record.epsilon_spent.values())) == 1
        by_partner = {key for key, value in asdict(record).items() if isinstance(value, dict) and value}
        assert by_partner == {"epsilon_spent", "epsilon_left"}
    assert checkpoints.rounds() == watcher.rounds
    for place in (tmp_path / "coordinator" / "checkpoints").glob("round-*"):
        stored, _ = load_weights(place / "trunk.safetensors")
        assert set(stored) == {"input.weight", "input.bias"}


def test_everything_that_is_sent_is_known(tmp_path):
    grid = Grid(four(tmp_path, n=20))
    run_sums(tmp_path, a_summing_federation(rounds=2), grid)
    kinds = [message.metadata.message_type for message in grid.sent]
    setup = ["query.join", "query.keys", "query.shares", "query.keep"]
    assert kinds == [kind for kind in [*setup, *["train", "query.unmask"] * 2] for _ in NAMES]
    keys = {
        "query.join": {"federation", "run", "plan", "challenge"},
        "query.keys": {"federation", "run", "plan"},
        "query.shares": {"run", "names", "sealing", "rounds", "signatures"},
        "query.keep": {"run", "names", "sealed"},
        "query.unmask": {"run", "round", "survivors"},
    }
    for message in grid.sent:
        if message.metadata.message_type != "train":
            assert set(message.content) == {"config"}
            assert set(message.content["config"]) == keys[message.metadata.message_type]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_payload_that_is_recorded_is_the_one_that_came(tmp_path, bits):
    federation = a_summing_federation(rounds=1)
    plan = proposed_plan(federation)
    plan = plan.model_validate(plan.model_dump() | {"ring_bits": bits})
    watcher, _, _ = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20)), plan=plan)
    assert watcher.rounds[0].bytes_sent == 4 * VALUES * 4
    assert watcher.rounds[0].bytes_received == 4 * VALUES * bits // 8


def test_each_partner_pays_what_the_plan_says_against_either_adversary(tmp_path):
    federation = a_summing_federation(rounds=3)
    plan = proposed_plan(federation)
    watcher, _, _ = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20)))
    for name in NAMES:
        ledger = ledger_of(tmp_path, name)
        found = {who: epsilon(ledger.charges(who), plan.delta) for who in ("partners", "coordinator")}
        assert found == {who: pytest.approx(plan.epsilon(who)) for who in found}
        assert found["coordinator"] < 0.9 * found["partners"]
        assert watcher.rounds[-1].epsilon_spent[name] == found["partners"]


# The coordinator's step


def a_server(kind, momentum, trunk):
    parameters = [torch.nn.Parameter(value.clone()) for value in trunk.values()]
    if kind == "adam":
        return parameters, torch.optim.Adam(parameters, lr=0.01, betas=(momentum, 0.999))
    return parameters, torch.optim.SGD(parameters, lr=0.01, momentum=momentum)


@pytest.mark.parametrize(("kind", "momentum"), [("sgd", 0.9), ("adam", 0.8)])
def test_the_server_optimizer_steps_along_the_opened_sums(tmp_path, monkeypatch, kind, momentum):
    """Also over a round that is void, which it does not see."""
    training = f'server_optimizer = "{kind}"\nserver_momentum = {momentum}\nserver_learning_rate = 0.01'
    federation = a_summing_federation(rounds=4, training=f"local_steps = 1\n{training}")
    seen = Seen(monkeypatch)
    _, _, trunk = run_sums(tmp_path, federation, Grid(four(tmp_path, n=20), **void_in(2)))
    assert len(seen.totals) == 3
    start = initial_trunk(federation.model, 0)
    names = sorted(start)
    parameters, optimizer = a_server(kind, momentum, {name: start[name] for name in names})
    for total in seen.totals:
        mean = torch.from_numpy(total * 2.0**-13 / 160.0).float() * federation.training.trunk_learning_rate
        for parameter, piece in zip(parameters, torch.split(mean, [p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.reshape(parameter.shape)
        optimizer.step()
    for name, parameter in zip(names, parameters, strict=True):
        torch.testing.assert_close(trunk[name], parameter.detach(), rtol=1e-5, atol=1e-7)
        assert not torch.allclose(trunk[name], start[name], atol=1e-4)


# Who takes part


def test_who_joins_when_one_is_absent_shares_the_noise_if_all_of_them_allow_it(tmp_path):
    files = four(tmp_path, n=20, policy={"min_contributors": 3})[:3]
    federation = a_summing_federation(rounds=2, losses=0, quorum="min_partners = 3")
    grid = Grid(files)
    watcher, checkpoints, _ = run_sums(tmp_path, federation, grid)
    assert (watcher.end.status, watcher.end.rounds) == ("completed", 2)
    assert watcher.rounds[-1].participants == ["east", "north", "south"]
    assert '"contributors": 3' in (checkpoints.latest() / "state.json").read_text()
    # Fewer shares hold the same noise against the others, and less than four would against the coordinator.
    ledger, planned = ledger_of(tmp_path, "north"), proposed_plan(federation)
    (mine,), (coordinators,) = ledger.charges(), ledger.charges("coordinator")
    assert mine.noise_multiplier == planned.noise_multiplier
    assert coordinators.noise_multiplier == pytest.approx(planned.noise_multiplier * (3 / 2) ** 0.5)


@pytest.mark.parametrize(
    ("losses", "policy", "refused", "reason"),
    [
        (0, {}, dict.fromkeys(["east", "north", "south"], "PFL-F30") | {"west": "PFL-F13"}, "north (PFL-F30)"),
        (1, {"min_contributors": 3}, {"west": "PFL-F13"}, "3 partners are too few for the plan"),
    ],
    ids=["a partner's policy", "the plan"],
)
def test_where_fewer_than_listed_are_not_allowed_the_run_does_not_begin(tmp_path, losses, policy, refused, reason):
    files = four(tmp_path, n=20, policy=policy)[:3]
    federation = a_summing_federation(rounds=2, losses=losses, quorum="min_partners = 3")
    watcher, checkpoints, _ = run_sums(tmp_path, federation, Grid(files))
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 0)
    assert watcher.end.refused == refused
    assert reason in watcher.end.reason
    assert "Value error" not in watcher.end.reason
    assert checkpoints.latest().name == "round-0000"
    assert all(not ledger_of(tmp_path, name).charges() for name in NAMES)


def forged(reply):
    return with_config(reply, sealing=bytes(range(32)))


SETUPS = {
    "keys that are not signed": ("query.keys", forged, {"east": "PFL-F31", "south": "PFL-F31", "west": "PFL-F31"}),
    "another's name": ("query.keys", lambda r: with_config(r, name="south"), {"north": "PFL-F11"}),
    "no keys": ("query.keys", lambda r: None, {"north": "PFL-F13"}),
    "keys of another form": ("query.keys", lambda r: with_config(r, sealing="text"), {"north": "PFL-F11"}),
    "shares for too few": ("query.shares", lambda r: with_config(r, names=[], sealed=[]), {"north": "PFL-F11"}),
    "shares that cannot be opened": (
        "query.shares",
        lambda r: with_config(r, sealed=[bytes(20)] * 3),
        {"east": "PFL-F32", "south": "PFL-F32", "west": "PFL-F32"},
    ),
    "no answer at the end": ("query.keep", lambda r: None, {"north": "PFL-F13"}),
    "an error of Flower's": ("query.shares", failed, {"north": "PFL-F10"}),
}


@pytest.mark.parametrize(("kind", "spoil", "refused"), SETUPS.values(), ids=SETUPS.keys())
def test_a_setup_that_fails_ends_the_run_with_names_and_codes_uncharged(tmp_path, kind, spoil, refused):
    def spoil_north(reply, number, node):
        return spoil(reply) if node == NODES["north"] else reply

    grid = Grid(four(tmp_path, n=20), spoil_north, spoiled=kind)
    watcher, checkpoints, _ = run_sums(tmp_path, a_summing_federation(rounds=2), grid)
    assert (watcher.end.status, watcher.end.rounds) == ("stopped", 0)
    assert watcher.end.refused.items() >= refused.items()
    assert all(f"{name} ({code})" in watcher.end.reason for name, code in refused.items())
    assert watcher.rounds == []
    assert all(not ledger_of(tmp_path, name).charges() for name in NAMES)
    assert checkpoints.latest().name == "round-0000"


def test_a_partner_whose_budget_covers_too_little_ends_the_run_before_it_costs_anybody_anything(tmp_path):
    files = four(tmp_path, n=20, by_name={"south": {"budget": {"epsilon": 0.05, "delta": 1e-5}}})
    watcher, _, _ = run_sums(tmp_path, a_summing_federation(rounds=2), Grid(files))
    assert (watcher.end.status, watcher.end.refused) == ("stopped", {"south": "PFL-P10"})
    assert all(not ledger_of(tmp_path, name).charges() for name in NAMES)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": "local_steps = 2"},
        {"privacy": 'noise_multiplier = 4.0\nclipping = "adaptive"'},
        {"privacy": 'noise_multiplier = 4.0\nclipping = "groups"\nhead_clipping_norm = 1.0'},
        {"privacy": "noise_multiplier = 4.0\ntolerated_colluders = 0"},
        {"privacy": "noise_multiplier = 4.0\ntolerated_colluders = 3"},
        {"privacy": 'mechanism = "none"'},
        {"losses": 2},
    ],
)
def test_settings_under_which_shares_protect_nothing_are_refused(changes):
    with pytest.raises(ConfigError, match="PFL-C03"):
        proposed_plan(a_summing_federation(**changes))


def test_weights_are_refused_as_a_sum_has_none():
    text = a_summing_federation().model_dump_json()
    with pytest.raises(ConfigError, match="PFL-C03.*\n?.*equal numbers"):
        Federation.parse_json(text.replace('"north":1.0', '"north":2.0'), source="test")

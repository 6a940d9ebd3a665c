"""The noise as the coordinator sees it: in the bytes of the replies of a partner that sends noise alone."""

import ast
import inspect
import itertools
import logging
import math
import re
import secrets
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tomli_w
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from pydantic import BaseModel
from scipy.stats import kstest
from tests.conftest import PROJECT, SeededNoise
from tests.partners import MODEL, TRAINING, a_partner, a_plan, a_request

from pharma_fl.clients import train
from pharma_fl.clients.app import app
from pharma_fl.config import Federation, Partner
from pharma_fl.errors import ConfigError
from pharma_fl.messages.wire import from_arrays, round_request
from pharma_fl.model.pretrained import initial_trunk
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan

WIDE = MODEL.model_copy(update={"input_bits": 4096, "hidden": (16,)})
RUN = 6
"""So many equal values in a row, in units of the grid, are no chance: two vectors have one with probability 1e-9."""


def placebo(folder, name="north"):
    """Make a partner whose replies are noise alone."""
    a_partner(folder, name, n=60, bits=4096, policy={"placebo": True, "report_budget": False})
    return folder / name / "partner.toml"


def wide_request(number=1, **changes):
    return a_request(number, model=WIDE, trunk=initial_trunk(WIDE, 0), **changes)


def leaving(partner_file, request):
    """Return what a reply's content is on the wire."""
    node = {"partner": str(partner_file)}
    context = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})
    message = Message(round_request(request), dst_node_id=2, message_type=MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "m"
    return recorddict_to_proto(app(message, context).content).SerializeToString()


def noise_in(raw):
    """Read every number of a reply's arrays: float32 (n,)."""
    content = recorddict_from_proto(ProtoRecordDict.FromString(raw))
    assert content.config_records["config"]["status"] == "done", dict(content.config_records["config"])
    arrays = from_arrays(content.array_records["arrays"])
    return torch.cat([arrays[name].flatten() for name in sorted(arrays)]).numpy()


def trunk_std(plan):
    """Standard deviation of a step's noise on the trunk's sum, from the plan's numbers alone."""
    multiplier = plan.noise_multiplier
    if plan.clipping == "groups":
        multiplier *= math.sqrt(1 + plan.head_noise_ratio**-2)
    return multiplier * plan.clipping_norm


def step_size(plan):
    return TRAINING.trunk_learning_rate / plan.expected_batch


def cells(raw, plan=None):
    """Return the noise in units of the grid: int64 (n,). It must lie on the grid."""
    plan = plan or a_plan()
    spacing = 2.0 ** (math.floor(math.log2(trunk_std(plan))) - 8) * step_size(plan)
    in_units = noise_in(raw).astype(np.float64) / spacing
    assert np.abs(in_units - np.rint(in_units)).max() < 0.02, "the noise does not lie on the grid"
    return np.rint(in_units).astype(np.int64)


def runs(values):
    """Return a number of 64 bits for each run: uint64 (n - RUN + 1,)."""
    weights = np.random.default_rng(0).integers(2**63, size=RUN).astype(np.uint64)
    return np.lib.stride_tricks.sliding_window_view(values.astype(np.uint64), RUN) @ weights


def share_draws(first, second):
    """Return whether two vectors go together place by place, or have a run of equal values anywhere."""
    bound = 6.5 / math.sqrt(len(first))
    pairs = (first, second), (np.abs(first), np.abs(second))
    together = any(abs(np.corrcoef(one, other)[0, 1]) > bound for one, other in pairs)
    return together or len(np.intersect1d(runs(first), runs(second))) > 0


def repeats_itself(values):
    return len(np.unique(runs(values))) < len(values) - RUN + 1


PLANS = {
    "flat, one step": a_plan(steps_per_round=1, clipping_norm=0.3),
    "flat, five steps": a_plan(steps_per_round=5, noise_multiplier=6.0, expected_batch=30.0),
    "groups, two steps": a_plan(clipping="groups", head_clipping_norm=2.0, head_noise_ratio=0.6, clipping_norm=0.7),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_what_leaves_has_the_plans_sigma(tmp_path, plan):
    raw = leaving(placebo(tmp_path), wide_request(plan=plan))
    cells(raw, plan)
    noise = noise_in(raw)
    assert len(noise) == 4097 * 16
    sigma = trunk_std(plan) * math.sqrt(plan.steps_per_round) * step_size(plan)
    assert kstest(noise / sigma, "norm").pvalue > 1e-6
    assert kstest(noise / (sigma * 2 / 3), "norm").pvalue < 1e-12
    assert kstest(noise / (sigma * 3 / 2), "norm").pvalue < 1e-12


ELSEWHERE = """
    import os, sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    import torch
    torch.set_num_threads(1)  # OpenMP's threads do not survive the fork
    from flwr.supercore.task_identity import TaskIdentity
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    from tests.clients.test_noise_that_leaves import leaving, wide_request

    folder = Path({folder!r})
    north = lambda name: folder / name / "north" / "partner.toml"
    (folder / "again 1").write_bytes(leaving(north("again"), wide_request(1)))
    child = os.fork()
    name = "parent" if child else "child"
    (folder / f"{{name}} 1").write_bytes(leaving(north(name), wide_request(1)))
    if not child:
        os._exit(0)
    sys.exit(os.waitpid(child, 0)[1])
"""


def from_another_process(folder):
    """Ask the same partner for the same round in a new process, and in a child and its parent after a fork."""
    for name in ("again", "child", "parent"):
        placebo(folder / name)
    script = textwrap.dedent(ELSEWHERE).format(root=str(PROJECT), folder=str(folder))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return {f"{name} 1": (folder / f"{name} 1").read_bytes() for name in ("again", "child", "parent")}


def from_two_threads(folder):
    raw = {}

    def ask(name, partner_file):
        raw[name] = leaving(partner_file, wide_request(1))

    threads = [threading.Thread(target=ask, args=(f"thread {i}", placebo(folder, f"thread-{i}"))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raw


def test_no_two_replies_share_a_draw(tmp_path):
    north, south = (placebo(tmp_path, name) for name in ("north", "south"))
    raw = {
        "round 1": leaving(north, wide_request(1)),
        "round 2": leaving(north, wide_request(2)),
        "another partner": leaving(south, wide_request(1)),
        "another run": leaving(north, wide_request(1, run="run-2")),
        "another seed": leaving(south, wide_request(1, run="run-2", seed=7)),
        **from_two_threads(tmp_path),
        **from_another_process(tmp_path),
    }
    noise = {name: cells(content) for name, content in raw.items()}
    assert len(noise) == 10
    assert [name for name, values in noise.items() if repeats_itself(values)] == []
    shared = [pair for pair in itertools.combinations(noise, 2) if share_draws(*(noise[name] for name in pair))]
    assert shared == []


def test_a_shifted_or_scaled_draw_is_noticed():
    values, other = np.random.default_rng(0).normal(scale=360, size=(2, 65_552)).round().astype(np.int64)
    assert not share_draws(values, other)
    assert not repeats_itself(values)
    assert share_draws(values, -values)
    assert share_draws(values, values // 3 + other)
    assert share_draws(values, np.roll(values, 1001))
    assert share_draws(values, np.concatenate([other[:-9], values[:9]]))
    assert repeats_itself(np.concatenate([values, values[100:110]]))


def test_a_key_that_follows_from_the_round_is_noticed(tmp_path, monkeypatch):
    files = [placebo(tmp_path, name) for name in ("north", "south")]
    noise = []
    for number in (1, 2):
        monkeypatch.setattr(secrets, "randbits", lambda _, number=number: number)
        noise.append([cells(leaving(file, wide_request(number))) for file in files])
    for (north, south), after in zip(noise, reversed(noise), strict=True):
        assert share_draws(north, south)
        assert not share_draws(north, after[0])


def test_a_key_that_all_share_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 2**100 + 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    file, plan = placebo(tmp_path), a_plan(steps_per_round=1)
    first, second = (cells(leaving(file, wide_request(number, plan=plan)), plan) for number in (1, 2))
    assert share_draws(first, second)
    assert repeats_itself(first)  # two threads with one key


def test_a_seeded_source_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SystemNoise", lambda **_: SeededNoise(1))
    with pytest.raises(AssertionError, match="grid"):
        cells(leaving(placebo(tmp_path), wide_request()))


@pytest.mark.parametrize("secure", [True, False])
def test_the_partners_switch_reaches_the_source(tmp_path, monkeypatch, secure):
    made = []

    class Watched(SystemNoise):
        def __init__(self, **settings):
            made.append(settings)
            super().__init__(**settings)

    monkeypatch.setattr(train, "SystemNoise", Watched)
    a_partner(tmp_path, compute={"secure_noise": secure})
    leaving(tmp_path / "north" / "partner.toml", a_request())
    assert made == [{"secure": secure}]


def settings_within(annotation):
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from settings_within(argument)


def keys_of(model, at=""):
    for name, field in model.model_fields.items():
        yield f"{at}{name}"
        for inner in settings_within(field.annotation):
            yield from keys_of(inner, f"{at}{name}.")


CHANCE = re.compile(
    r"seed|noise|random|entropy|generator|rng|nonce|draw|replay|deterministic|reproducib", re.IGNORECASE
)


def test_no_key_of_a_settings_file_chooses_the_draws():
    found = {key for model in (Partner, Federation, PrivacyPlan) for key in keys_of(model) if CHANCE.search(key)}
    how_much = re.compile(r"(noise_multiplier|noise_ratio|count_noise)$")
    whose = {"privacy.noise_mode", "noise_mode"}
    assert {key for key in found if not how_much.search(key)} - whose == {
        "seed",  # of the federation: test_no_two_replies_share_a_draw asks for one seed again and again
        "compute.secure_noise",
    }
    assert type(Partner.model_fields["compute"].default.secure_noise) is bool


@pytest.mark.parametrize("section", ["compute", "policy"])
@pytest.mark.parametrize("key", ["noise_seed", "seed", "noise", "generator"])
def test_a_key_that_would_is_refused(tmp_path, section, key):
    content = {"name": "north", "budget": {"epsilon": 1.0}, section: {key: 1}}
    (tmp_path / "partner.toml").write_text(tomli_w.dumps(content))
    with pytest.raises(ConfigError, match=f"PFL-C03.*\n?.*{section}.{key}: unknown key"):
        Partner.load(tmp_path / "partner.toml")


def test_the_app_asks_for_no_noise_but_the_systems(tmp_path, monkeypatch):
    asked, real = [], train.train_round
    monkeypatch.setattr("pharma_fl.clients.train.train_round", lambda *given, **named: asked.append((given, named)))
    placebo(tmp_path)
    leaving(tmp_path / "north" / "partner.toml", wide_request())
    (given, named) = asked[0]
    assert (len(given), named) == (2, {})
    assert inspect.signature(real).parameters["noise"].default is None


def test_no_reproducible_source_is_in_the_package():
    sources, imported = set(), set()
    for path in Path(train.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
                assert node.name != "SeededNoise"
                sources |= {node.name} if "add_normal" in methods else set()
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    assert sources == {"NoiseSource", "SystemNoise", "DeviceNoise", "PhiloxNoise"}
    assert not [name for name in imported if name.split(".")[0] in {"tests", "conftest"}]


class Secrets:
    """What the operating system gave during a round, and what was drawn from it."""

    def __init__(self, monkeypatch):
        self.keys, self.draws = [], []
        for name in ("randbits", "token_bytes"):
            monkeypatch.setattr(secrets, name, self._watched(getattr(secrets, name)))
        add, uniform = SystemNoise.add_normal, SystemNoise.uniform

        def add_normal(source, tensor, std, scale=1.0):
            before = tensor.detach().clone()
            add(source, tensor, std, scale)
            self.draws += (tensor.detach() / scale - before).flatten()[:200].tolist()

        def watched_uniform(source, count):
            drawn = uniform(source, count)
            self.draws += drawn[:50].tolist()
            return drawn

        monkeypatch.setattr(SystemNoise, "add_normal", add_normal)
        monkeypatch.setattr(SystemNoise, "uniform", watched_uniform)

    def _watched(self, ask):
        def asked(count):
            self.keys.append(ask(count))
            return self.keys[-1]

        return asked

    @property
    def numbers(self):
        """Keys and seeds as integers; those of a few bits would be found by chance."""
        ordered = ((key, "big") for key in self.keys if isinstance(key, bytes))
        whole = [key for key in self.keys if isinstance(key, int)]
        return [n for n in whole + [int.from_bytes(key, order) for key, order in ordered] if n >= 2**40]

    def in_text(self, text):
        """Find keys in any usual notation, and draws by their first seven digits."""
        text = text.lower()
        forms = {form for n in self.numbers for form in (str(n), f"{n:x}")}
        forms |= {f"{draw:.8g}"[:-1] for draw in self.draws if 1e-3 < abs(draw) < 1e3 and len(f"{draw:.8g}") > 8}
        return sorted(form for form in forms if form in text)

    def in_bytes(self, content):
        """Find keys in a file's bytes, in both orders and as text."""
        forms = [n.to_bytes(-(-n.bit_length() // 8), order) for n in self.numbers for order in ("big", "little")]
        forms += [form.encode() for n in self.numbers for form in (str(n), f"{n:x}")]
        return [form for form in forms if form in content]


@pytest.fixture
def everything_logged(caplog):
    """Log from every logger at every level, flwr's too, which does not propagate."""
    caplog.set_level(logging.DEBUG)
    for name in ("", "flwr", "pharma_fl", "pharma_fl.privacy"):
        caplog.set_level(logging.DEBUG, logger=name)
    apart = logging.getLogger("flwr")
    apart.addHandler(caplog.handler)
    yield caplog
    apart.removeHandler(caplog.handler)


def test_neither_key_nor_draw_is_logged_or_kept(tmp_path, monkeypatch, everything_logged, capfd):
    a_partner(tmp_path)
    seen = Secrets(monkeypatch)
    leaving(tmp_path / "north" / "partner.toml", a_request())
    logging.getLogger("flwr").debug("heard")
    assert "heard" in everything_logged.text
    written = [path.read_bytes() for path in (tmp_path / "north").rglob("*") if path.is_file()]
    printed = capfd.readouterr()
    audit = (tmp_path / "north" / "audit.jsonl").read_text()
    assert len(seen.numbers) >= torch.get_num_threads()
    assert len(seen.draws) > 500
    assert seen.in_text(everything_logged.text + printed.out + printed.err + audit) == []
    assert [found for content in written for found in seen.in_bytes(content)] == []
    assert seen.in_text(repr(SystemNoise()) + str(SystemNoise(secure=False))) == []


@pytest.mark.parametrize("form", ["%d", "%x"])
def test_a_logged_key_or_draw_would_be_found(tmp_path, monkeypatch, everything_logged, form):
    rekey, uniform = SystemNoise._rekey, SystemNoise.uniform
    seen = Secrets(monkeypatch)

    def careless(source):
        rekey(source)
        logging.getLogger("pharma_fl.privacy").debug(f"key {form}", seen.keys[-1])  # noqa: G004 - the form is the test

    def talkative(source, count):
        drawn = uniform(source, count)
        seen.draws += drawn.tolist()
        logging.getLogger("pharma_fl.privacy").debug("drew %s", drawn)
        return drawn

    a_partner(tmp_path)
    monkeypatch.setattr(SystemNoise, "_rekey", careless)
    monkeypatch.setattr(SystemNoise, "uniform", talkative)
    leaving(tmp_path / "north" / "partner.toml", a_request())
    found = seen.in_text(everything_logged.text)
    assert any(form % n in found for n in seen.numbers)
    assert any("." in one for one in found)

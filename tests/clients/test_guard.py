"""Nothing of a coordinator's bundle runs at a partner: it is looked at, and the installed package answers."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import types
import warnings
import zipfile

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk, build_fab_from_files
from flwr.supernode.cli.flwr_clientapp import _parse_args_run_flwr_clientapp
from flwr.supernode.runtime import run_clientapp
from tests.conftest import PROJECT
from tests.partners import a_join, a_partner

from pharma_fl import __version__
from pharma_fl.clients import app as clients
from pharma_fl.clients import bundle, guard
from pharma_fl.errors import FederationError

PARTS = ("install_from_fab", "get_load_client_app_fn", "install_app_dependencies")

HONEST = """
    [project]
    name = "x"
    version = "1"
    [tool.flwr.app.components]
    serverapp = "pharma_fl.strategies.app:app"
    clientapp = "pharma_fl.clients.app:app"
"""


def a_bundle(more=(), pyproject=HONEST):
    """Zip a pyproject.toml and more files, given as name and content."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pyproject.toml", pyproject)
        for name, content in more:
            with warnings.catch_warnings(action="ignore"):  # two entries of one name
                archive.writestr(name, content)
    return packed.getvalue()


def a_link():
    entry = zipfile.ZipInfo("strategies/link.toml")
    entry.external_attr = 0o120777 << 16
    return entry


def a_bomb():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", HONEST)
        archive.writestr("more.toml", b"\n" * (50 * 1024 * 1024))
    return packed.getvalue()


def a_broken_one():
    packed = bytearray(a_bomb())
    packed[60:90] = bytes(30)
    return bytes(packed)


def packed_as(method):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("pyproject.toml", HONEST)
    return packed.getvalue()


def test_the_bundles_of_this_project_are_let_through():
    content = build_fab_from_disk(PROJECT)
    assert bundle.check_bundle(content) == hashlib.sha256(content).hexdigest()
    assert bundle.check_bundle(a_bundle([("README.md", "x"), ("strategies/own.toml", "")]))


MALICIOUS = {
    "an app of its own": a_bundle(
        [("evil.py", "raise SystemExit")], HONEST.replace("pharma_fl.clients.app:app", "evil:app")
    ),
    "another app of the package": a_bundle(
        pyproject=HONEST.replace("pharma_fl.clients.app:app", "pharma_fl.cli.main:app")
    ),
    "a package over the installed one": a_bundle([("pharma_fl/clients/app.py", "app = None")]),
    "what Python runs at its start": a_bundle([("sitecustomize.py", "")]),
    "a path file": a_bundle([("evil.pth", "import os")]),
    "a library": a_bundle([("evil.so", b"\x7fELF")]),
    "a script without an ending": a_bundle([("run", "#!/bin/sh")]),
    "a path out of it": a_bundle([("../../evil.toml", "")]),
    "an absolute path": a_bundle([("/etc/evil.toml", "")]),
    "a link": a_bundle([(a_link(), "/etc/passwd")]),
    "a bomb": a_bomb(),
    "no pyproject": a_bundle()[:10],
    "no components": a_bundle(pyproject="[project]\nname = 'x'\n"),
    "one component more": a_bundle(pyproject=HONEST + 'other = "x:y"\n'),
    "components that are none": a_bundle(pyproject='tool = "x"\n'),
    "components by another name of the same file": a_bundle(
        pyproject=HONEST.replace("pharma_fl.clients.app", "pharma_fl..clients.app")
    ),
    "an ending in capitals": a_bundle([("evil.PY", "")]),
    "two endings": a_bundle([("evil.toml.py", "")]),
    "a name that is an ending": a_bundle([(".py", "")]),
    "a path of Windows": a_bundle([("..\\evil.toml", "")]),
    "two of one name": a_bundle([("pyproject.toml", HONEST)]),
    "what can unpack into gigabytes of memory": packed_as(zipfile.ZIP_LZMA),
    "another packing": packed_as(zipfile.ZIP_BZIP2),
    "a stream that breaks off": a_broken_one(),
    "a pyproject that takes long to read": a_bundle(pyproject=HONEST + "#" * 300_000),
    "a pyproject that is deep": a_bundle(pyproject=HONEST + "x = " + "[" * 100_000),
    "a pyproject in no encoding": a_bundle(pyproject=b"\xff\xfe"),
    "no TOML": a_bundle(pyproject="= ="),
    "no zip": b"PK",
    "nothing": b"",
    "too much": bytes(11 * 1024 * 1024),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_every_other_bundle_is_refused(name):
    with pytest.raises(FederationError, match="PFL-F40"):
        bundle.check_bundle(MALICIOUS[name])


@pytest.fixture
def flower():
    """A stand-in for Flower's module, with the parts that the guard replaces."""
    module = types.ModuleType("flower")
    for part in PARTS:
        setattr(module, part, lambda *_, **__: pytest.fail("not replaced"))
    module.run_clientapp = run_clientapp.run_clientapp
    return module


def answered(module, content, partner):
    """What comes of a message that Flower handles with its parts replaced."""
    module.install_from_fab(content, skip_prompt=True)
    app = module.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)("x/y", "1", "hash")
    message = Message(a_join(), dst_node_id=2, message_type="query.join")
    message.metadata.__dict__["_message_id"] = "m"
    context = Context(run_id=1, node_id=2, node_config={"partner": str(partner)}, state=RecordDict(), run_config={})
    return app, dict(app(message, context).content["config"])


def audit(folder):
    return [json.loads(line) for line in (folder / "north" / "audit.jsonl").read_text().splitlines()]


def test_with_an_honest_bundle_the_installed_app_answers_and_the_log_says_what_ran(tmp_path, flower, monkeypatch):
    monkeypatch.setattr(clients, "audit_facts", dict(clients.audit_facts))
    a_partner(tmp_path)
    guard.guard(flower)
    content = a_bundle()
    app, said = answered(flower, content, tmp_path / "north" / "partner.toml")
    assert app is clients.app
    assert said["status"] == "joined"
    (line,) = [line for line in audit(tmp_path) if line["event"] == "answered"]
    assert (line["version"], line["bundle"]) == (__version__, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["an app of its own", "a package over the installed one", "no zip"])
def test_with_another_bundle_every_message_is_refused_and_the_log_says_why(tmp_path, flower, name):
    a_partner(tmp_path)
    guard.guard(flower)
    _, said = answered(flower, MALICIOUS[name], tmp_path / "north" / "partner.toml")
    assert (said["status"], said["code"]) == ("refused", "PFL-F40")
    assert said["reason"] == FederationError.public
    (line,) = [line for line in audit(tmp_path) if line["event"] == "refused"]
    assert "None of it was run" in line["error"]
    assert not (tmp_path / "north" / "ledger.sqlite").exists()


def test_the_parts_that_are_replaced_are_those_that_flower_uses():
    code = run_clientapp.run_clientapp.__code__
    assert set(PARTS) <= set(code.co_names)
    # Nothing else in it writes a bundle or loads an app.
    assert not {"load_app", "get_fab_config", "exec"} & set(code.co_names)


@pytest.mark.parametrize("part", PARTS)
def test_without_these_parts_nothing_is_started(flower, part):
    delattr(flower, part)
    with pytest.raises(FederationError, match=f"PFL-F41.*no {part} where"):
        guard.guard(flower)


def test_parts_that_are_there_and_not_used_guard_nothing(flower):
    flower.run_clientapp = lambda: flower.another_way_in() or 0
    with pytest.raises(FederationError, match="PFL-F41.*install_from_fab, get_load"):
        guard.guard(flower)
    assert flower.install_from_fab is not None


def test_the_arguments_are_those_of_flower():
    def options(parser):
        return {
            option: (action.dest, action.default, type(action), action.type or str)
            for action in parser._actions
            for option in action.option_strings
        }

    assert options(guard.parser()) == options(_parse_args_run_flwr_clientapp())


def test_what_a_bundle_depends_on_is_not_installed(flower):
    guard.guard(flower)
    assert flower.install_app_dependencies(PROJECT, launch_id="x", run_id=1) is None


def test_an_app_without_a_bundle_refuses(tmp_path, flower):
    a_partner(tmp_path)
    guard.guard(flower)
    flower.install_from_fab = lambda *_, **__: None
    _, said = answered(flower, b"", tmp_path / "north" / "partner.toml")
    assert (said["status"], said["code"]) == ("refused", "PFL-F41")


@pytest.mark.parametrize("flag", ["--allow-runtime-dependency-installation", "--allow-runtime"])
def test_installing_at_run_time_is_refused(monkeypatch, flag):
    for part in (*PARTS, "run_clientapp"):
        monkeypatch.setattr(run_clientapp, part, getattr(run_clientapp, part))
    with pytest.raises(FederationError, match="PFL-F41.*may install code"):
        guard.main(["--token", "x", flag])


def test_a_package_from_elsewhere_is_refused(tmp_path, monkeypatch):
    assert bundle.installed_package() == PROJECT / "src" / "pharma_fl"
    assert bundle.changed_files() == []
    monkeypatch.setattr(bundle.pharma_fl, "__file__", str(tmp_path / "pharma_fl" / "__init__.py"))
    with pytest.raises(FederationError, match="PFL-F41.*not where it is installed"):
        bundle.installed_package()


FULL = """
    [project]
    name = "x"
    version = "1"
    [tool.flwr.app]
    publisher = "x"
    [tool.flwr.app.components]
    serverapp = "SERVER:app"
    clientapp = "CLIENT:app"
"""
OURS = {"SERVER": "pharma_fl.strategies.app", "CLIENT": "pharma_fl.clients.app"}
EVIL = """
from pathlib import Path
from flwr.app import Message
from flwr.clientapp import ClientApp
Path({mark!r}).write_text("ran")
app = ClientApp()
@app.query("join")
def join(message, context):
    return Message(message.content, reply_to=message)
"""


def run_one(how, folder, files):
    """Hand one message and a bundle of Flower's own making to Flower's own program, or to the guard."""
    (folder / "bundle").write_bytes(build_fab_from_files(files)[0])
    command = [sys.executable, "-m", "tests.clients.hostile_run", how, str(folder / "bundle")]
    ended = subprocess.run(
        [*command, str(folder / "north" / "partner.toml")],
        cwd=PROJECT,
        env=os.environ | {"FLWR_HOME": str(folder / "flwr")},
        capture_output=True,
        text=True,
        check=False,
    )
    (reply,) = [line for line in ended.stdout.splitlines() if line.startswith("REPLY ")] or [ended.stderr]
    return json.loads(reply.removeprefix("REPLY "))


def hostile(mark, *, shadowing):
    names = OURS if shadowing else {"SERVER": "evil", "CLIENT": "evil"}
    pyproject = FULL
    for place, name in names.items():
        pyproject = pyproject.replace(place, name)
    evil = EVIL.format(mark=str(mark)).encode()
    files = {"pyproject.toml": pyproject.encode(), "README.md": b"x"}
    if shadowing:
        return files | {"pharma_fl/__init__.py": b"", "pharma_fl/clients/app.py": evil, "sitecustomize.py": evil}
    return files | {"evil.py": evil}


@pytest.mark.slow
@pytest.mark.parametrize("shadowing", [False, True], ids=["an app of its own", "a package over the installed one"])
def test_what_flower_runs_of_a_hostile_bundle_does_not_run_behind_the_guard(tmp_path, shadowing):
    """The same bundle twice: Flower's own program writes the mark, so the bundle is one that works."""
    a_partner(tmp_path)
    mark = tmp_path / "mark"
    assert run_one("stock", tmp_path, hostile(mark, shadowing=shadowing)) == {"x": 1}
    assert mark.exists()
    assert list((tmp_path / "flwr" / "apps").iterdir())
    mark.unlink()
    shutil.rmtree(tmp_path / "flwr")
    said = run_one("guarded", tmp_path, hostile(mark, shadowing=shadowing))
    assert said == {"status": "refused", "code": "PFL-F40", "reason": FederationError.public}
    assert not mark.exists()
    assert not (tmp_path / "flwr" / "apps").exists()


@pytest.mark.slow
def test_an_honest_bundle_is_answered_and_nothing_of_it_is_written(tmp_path):
    a_partner(tmp_path)
    files = {"pyproject.toml": FULL.replace("SERVER", OURS["SERVER"]).replace("CLIENT", OURS["CLIENT"]).encode()}
    said = run_one("guarded", tmp_path, files)
    # The message is no question of ours, and the installed app says so.
    assert (said["status"], said["code"]) == ("refused", "PFL-F01")
    assert not (tmp_path / "flwr" / "apps").exists()


@pytest.mark.slow
def test_it_runs_as_flowers_program_and_fails_closed():
    """As Flower's own it says what it needs; a refusal is one line and a failing exit."""
    command = [sys.executable, "-I", "-m", "pharma_fl.clients.guard"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (helped.returncode, "--runtime-api-address" in helped.stdout) == (0, True)
    refused = subprocess.run(
        [*command, "--token", "x", "--allow-runtime-dependency-installation"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("[PFL-F41]")

"""Nothing of a coordinator's bundle runs at a partner: it is looked at, and the installed package answers."""

import hashlib
import io
import json
import subprocess
import sys
import types
import zipfile

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supernode.runtime import run_clientapp
from tests.conftest import PROJECT
from tests.partners import a_join, a_partner

from pharma_fl import __version__
from pharma_fl.clients import app as clients
from pharma_fl.clients import bundle, guard
from pharma_fl.errors import FederationError

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
    module.install_from_fab = module.get_load_client_app_fn = lambda *_, **__: pytest.fail("not replaced")
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
    assert {"install_from_fab", "get_load_client_app_fn"} <= set(code.co_names)
    # Nothing else in it writes a bundle or loads an app.
    assert not {"load_app", "get_fab_config", "exec"} & set(code.co_names)


def test_without_these_parts_nothing_is_started():
    with pytest.raises(FederationError, match="PFL-F41.*install_from_fab"):
        guard.guard(types.ModuleType("another version"))


def test_an_app_without_a_bundle_refuses(tmp_path, flower):
    a_partner(tmp_path)
    guard.guard(flower)
    flower.install_from_fab = lambda *_, **__: None
    _, said = answered(flower, b"", tmp_path / "north" / "partner.toml")
    assert (said["status"], said["code"]) == ("refused", "PFL-F41")


def test_installing_at_run_time_is_refused():
    with pytest.raises(FederationError, match="PFL-F41.*allow-runtime-dependency-installation"):
        guard.main(["--allow-runtime-dependency-installation"])


def test_a_package_from_elsewhere_is_refused(tmp_path, monkeypatch):
    assert bundle.installed_package() == PROJECT / "src" / "pharma_fl"
    assert bundle.changed_files() == []
    monkeypatch.setattr(bundle.pharma_fl, "__file__", str(tmp_path / "pharma_fl" / "__init__.py"))
    with pytest.raises(FederationError, match="PFL-F41.*not where it is installed"):
        bundle.installed_package()


@pytest.mark.slow
def test_it_runs_as_flowers_program_and_fails_closed():
    """As Flower's own it says what it needs; a refusal is one line and a failing exit."""
    command = [sys.executable, "-I", "-m", "pharma_fl.clients.guard"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (helped.returncode, "--runtime-api-address" in helped.stdout) == (0, True)
    refused = subprocess.run(
        [*command, "--allow-runtime-dependency-installation"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("[PFL-F41]")

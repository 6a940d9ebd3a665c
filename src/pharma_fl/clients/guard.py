"""Flower's ``flwr-clientapp`` for partners: the installed package answers, and nothing of a coordinator's bundle runs.

For each message a SuperNode starts the program ``flwr-clientapp`` that it finds in PATH. Flower's own unpacks what the
coordinator ships and runs the app that it names: whoever coordinates can run any code at every partner, with the data
before its eyes. A partner's kit puts a program of this name in front, which runs this module:

    python -I -m pharma_fl.clients.guard ARGUMENTS OF flwr-clientapp

It is what Flower's own program runs, with three parts replaced. Where a bundle would be unpacked, its bytes are looked
at. Where its app would be loaded, the installed one is, or one that refuses. Where what it depends on would be
installed, nothing is. Where Flower has no such parts, as in another version, nothing is started.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from types import ModuleType

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
from flwr.supercore.constant import SUPERNODE_DEFAULT_CLIENT_ADDRESS
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.supernode.runtime import run_clientapp as flower

from pharma_fl.clients import app
from pharma_fl.clients.bundle import check_bundle, installed_package
from pharma_fl.config import Partner
from pharma_fl.errors import FederationError, PharmaFlError

_REPLACED = ("install_from_fab", "get_load_client_app_fn", "install_app_dependencies")


def main(arguments: list[str]) -> None:
    """Run Flower's program with the parts replaced.

    Parameters
    ----------
    arguments : list of str
        Those of ``flwr-clientapp``.

    Raises
    ------
    FederationError
        ``PFL-F41`` Flower or pharma_fl is not what this was made for. Nothing was started.
    """
    installed_package()
    guard(flower)
    # As Flower's flwr_clientapp does, which sits in a package that imports all of a SuperNode: half a second of CPU for
    # each message.
    given = parser().parse_args(arguments)
    if given.runtime_dependency_install:
        raise FederationError(
            "PFL-F41", "The SuperNode was started so that a bundle may install code (dependencies). Leave that out."
        )
    flower.run_clientapp(
        runtime_api_address=given.runtime_api_address,
        token=try_obtain_flwr_app_token(given),
        insecure=given.insecure,
        certificates=validate_and_resolve_root_certificates(given.root_certificates, given.insecure),
        parent_pid=given.parent_pid,
        runtime_dependency_install=False,
    )


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments of ``flwr-clientapp``."""
    reading = argparse.ArgumentParser(prog="flwr-clientapp", description="Run the installed pharma_fl ClientApp")
    reading.add_argument("--runtime-api-address", default=SUPERNODE_DEFAULT_CLIENT_ADDRESS)
    add_args_flwr_app_common(parser=reading)
    return reading


def guard(module: ModuleType) -> None:
    """Replace what unpacks bundles, what loads apps and what installs in Flower's module."""
    code = getattr(getattr(module, "run_clientapp", None), "__code__", None)
    used = code.co_names if code else ()
    missing = [name for name in _REPLACED if name not in used or not callable(getattr(module, name, None))]
    if missing:
        raise FederationError(
            "PFL-F41",
            f"This version of Flower has no {', '.join(missing)} where the guard expects them, so nothing keeps a "
            "bundle's code from running. Install the version of flwr that pharma-fl asks for.",
        )
    seen: list[str | PharmaFlError] = []

    def look_at(content: bytes, *_: object, **__: object) -> None:
        try:
            seen.append(check_bundle(content))
        except PharmaFlError as error:
            seen.append(error)

    def loader(*_: object, **__: object) -> Callable[..., ClientApp]:
        return lambda *_, **__: app_for(seen[-1] if seen else _unseen())

    def install_nothing(*_: object, **__: object) -> None:
        return None

    vars(module).update(zip(_REPLACED, (look_at, loader, install_nothing), strict=True))


def app_for(bundle: str | PharmaFlError) -> ClientApp:
    """Return the installed app, which writes the bundle's digest to the audit log, or one that refuses everything."""
    if isinstance(bundle, str):
        app.audit_facts["bundle"] = bundle
        return app.app
    return _Refusing(bundle)


class _Refusing(ClientApp):
    """Answers every message with the code of what is wrong with the bundle."""

    def __init__(self, error: PharmaFlError) -> None:
        super().__init__()
        self._error = error

    def __call__(self, message: Message, context: Context) -> Message:
        def refuse(_: Partner) -> RecordDict:
            raise self._error

        return app.answer(message, context, refuse)


def _unseen() -> FederationError:
    return FederationError("PFL-F41", "Flower shows no bundle before it loads the app. Nothing was run.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PharmaFlError as failure:
        sys.exit(str(failure))

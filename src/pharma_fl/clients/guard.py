"""Flower's ``flwr-clientapp`` for partners: the installed package answers, and nothing of a coordinator's bundle runs.

For each message a SuperNode starts the program ``flwr-clientapp`` that it finds in PATH. Flower's own unpacks what the
coordinator ships and runs the app that it names: whoever coordinates can run any code at every partner, with the data
before its eyes. A partner's kit puts a program of this name in front, which runs this module:

    python -I -m pharma_fl.clients.guard ARGUMENTS OF flwr-clientapp

It is Flower's own program with two parts replaced. Where a bundle would be unpacked, its bytes are looked at. Where its
app would be loaded, the installed one is, or one that refuses. Where Flower has no such parts, as in another version,
nothing is started.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supernode.runtime import run_clientapp as flower

from pharma_fl.clients.bundle import check_bundle, installed_package
from pharma_fl.config import Partner
from pharma_fl.errors import FederationError, PharmaFlError

_REPLACED = ("install_from_fab", "get_load_client_app_fn")
_INSTALLING = "--allow-runtime-dependency-installation"


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
    if _INSTALLING in arguments:
        raise FederationError(
            "PFL-F41", f"The SuperNode was started with {_INSTALLING}, which lets a bundle install code. Leave it out."
        )
    guard(flower)
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp  # noqa: PLC0415 - after the parts are replaced

    sys.argv = ["flwr-clientapp", *arguments]
    flwr_clientapp()


def guard(module: ModuleType) -> None:
    """Replace what unpacks bundles and what loads apps in Flower's module."""
    missing = [name for name in _REPLACED if not callable(getattr(module, name, None))]
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

    vars(module).update(install_from_fab=look_at, get_load_client_app_fn=loader)


def app_for(bundle: str | PharmaFlError) -> ClientApp:
    """Return the installed app, which writes the bundle's digest to the audit log, or one that refuses everything."""
    from pharma_fl.clients import app  # noqa: PLC0415 - what it imports is not needed where nothing is started

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
        from pharma_fl.clients import app  # noqa: PLC0415 - as above

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

"""Every error this package raises on purpose.

    PharmaFlError
    ├── ConfigError          PFL-C..  a TOML file says something impossible
    ├── DataError            PFL-D..  a table, structure or matrix cannot be used
    ├── ModelError           PFL-M..  a network or checkpoint does not fit
    ├── PrivacyError         PFL-P..  a plan, accountant or ledger refuses
    │   ├── BudgetExceeded   PFL-P10  the round would spend more than the partner allows
    │   └── PolicyViolation  PFL-P20  the request is outside the partner's policy
    └── FederationError      PFL-F..  a round or a message is not what was agreed

Each class of failure has a stable code with an entry in docs/errors.md. `str(error)` is for the person
who owns the machine. Only `error.code` and `error.public` may travel to another company: `public` is a
fixed sentence that never quotes a value, a path or a structure.
"""

from __future__ import annotations


class PharmaFlError(Exception):
    """An error with a stable code.

    Parameters
    ----------
    code : str
        Stable identifier, for example ``"PFL-C02"``; listed in docs/errors.md.
    message : str
        What is wrong, naming the setting or place, the value and the remedy. Stays on this machine.
    """

    public = "The request could not be carried out."

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __str__(self) -> str:
        return f"[{self.code}] {self.args[0]}"

    def __reduce__(self) -> tuple[type[PharmaFlError], tuple[str, str]]:
        return type(self), (self.code, str(self.args[0]))


class ConfigError(PharmaFlError):
    """A configuration file or setting is invalid."""

    public = "The partner's configuration is invalid."


class DataError(PharmaFlError):
    """A table, structure or prepared matrix cannot be used."""

    public = "The partner's prepared data cannot be used."


class ModelError(PharmaFlError):
    """A network, checkpoint or array does not fit."""

    public = "The model does not fit what the partner holds."


class PrivacyError(PharmaFlError):
    """A privacy plan, accountant or ledger refuses."""

    public = "The partner's privacy accounting refused the request."


class BudgetExceeded(PrivacyError):
    """The round would spend more than the partner's budget."""

    public = "The partner's privacy budget does not cover this round."


class PolicyViolation(PrivacyError):
    """The request is outside what the partner's policy allows."""

    public = "The request is outside the partner's policy."


class FederationError(PharmaFlError):
    """A round, reply or roster is not what was agreed."""

    public = "The message is not part of the agreed run."

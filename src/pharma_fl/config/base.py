"""Reading a TOML file into a frozen, validated model."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pharma_fl.errors import ConfigError

_FORMS = frozenset({"tuner", "wide", "long"})


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate one TOML file.

        Parameters
        ----------
        path : Path
            The TOML file.

        Raises
        ------
        ConfigError
            ``PFL-C01`` the file is missing or unreadable, ``PFL-C02`` it is not TOML, ``PFL-C03`` a
            key is unknown, missing or has an impossible value. All bad keys are named at once.
        """
        return cls.parse(read_text(path), source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> Self:
        """Validate TOML text; `source` names it in errors."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("PFL-C02", f"{source} is not valid TOML: {error}. Correct that line.") from error
        except ValidationError as error:
            raise _invalid(error, source) from error

    @classmethod
    def parse_json(cls, text: str, *, source: str) -> Self:
        """Validate JSON text, as in a message; `source` names it in errors."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _invalid(error, source) from error


def read_text(path: Path) -> str:
    """Return a file's text, or raise `ConfigError` ``PFL-C01`` naming it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError("PFL-C01", f"Cannot read {path}: {reason}. Check the path and its rights.") from error


def _invalid(error: ValidationError, source: str) -> ConfigError:
    lines = [_describe(item["loc"], item["msg"], item["type"], item["input"]) for item in error.errors()]
    return ConfigError("PFL-C03", f"{source}:\n  " + "\n  ".join(lines))


def _describe(location: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    # pydantic adds which form of [tables] it chose.
    named = [
        part for number, part in enumerate(location) if not (number == 1 and location[0] == "tables" and part in _FORMS)
    ]
    key = ".".join(str(part) for part in named) or "(file)"
    if kind == "extra_forbidden":
        return f"{key}: unknown key. Remove it, or check its spelling in docs/configuration.md."
    if kind == "missing":
        return f"{key}: required key is missing. Add it; docs/configuration.md describes it."
    said = message.removeprefix("Value error, ")
    # What is wrong between keys is said in full; the whole section would drown it.
    return f"{key}: {said}." if isinstance(value, dict) else f"{key}: {said}, got {value!r}."

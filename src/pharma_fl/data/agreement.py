"""What partners show each other, and the coordinator, to see that they prepared alike: agreement.json.

It holds versions, the key's public id, every setting and rule that must be equal, a digest for each step, and what
the probe molecules became (see `probe`). Nothing in it is computed from the partner's own data, and neither its name
nor a path is in it: partners that prepared alike write the same bytes. The catalogue, which is the consortium's
list, is in it as an HMAC alone.

Two partners of the same rules may still differ, by a release of RDKit or by a defect: the probe shows that. And
settings may differ where no probe molecule does. So both are in it, and `differences` compares both.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import rdkit
from pydantic import ConfigDict, Field, ValidationError

from pharma_fl.config import Partner
from pharma_fl.config.base import Settings
from pharma_fl.data.keys import Keys
from pharma_fl.data.layout import AGREEMENT
from pharma_fl.data.layout import FORMAT as PREPARED_FORMAT
from pharma_fl.data.molecules import STEPS as MOLECULE_STEPS
from pharma_fl.data.probe import probe_digest
from pharma_fl.data.rules import Rules
from pharma_fl.errors import DataError

FORMAT = "pharma-fl-agreement"
FORMAT_VERSION = 1

STEPS = {
    "structures": MOLECULE_STEPS["structure"],
    "fingerprint": MOLECULE_STEPS["fingerprint"],
    "permutation": 1,
    "folds": MOLECULE_STEPS["family"],
    "credible_ranges": 1,
    "replicates": 1,
    "thresholds": 1,
    "quorums": 1,
    "weights": 1,
    "catalogue": 1,
}
"""A step's number is raised when it computes something else from the same input and settings."""

_LARGEST = 16 * 1024 * 1024
_PROBLEMS = 8

Text = Annotated[str, Field(max_length=2000)]
Scalar = bool | int | float | Text | None


class _Strict(Settings):
    model_config = ConfigDict(strict=True)


class Versions(_Strict):
    """Releases that prepared."""

    rdkit: Text
    numpy: Text
    pharma_fl: Text


class Key(_Strict):
    """What may be known of the key."""

    id: Text
    scheme: Text


class Step(_Strict):
    """One step of the preparation."""

    version: int
    settings: dict[Text, Scalar | list[Scalar]]
    digest: Text


class Steps(_Strict):
    """All of them."""

    structures: Step
    fingerprint: Step
    permutation: Step
    folds: Step
    credible_ranges: Step
    replicates: Step
    thresholds: Step
    quorums: Step
    weights: Step
    catalogue: Step


class Result(_Strict):
    """What a probe molecule became: a reason, or the others; see `probe_results`."""

    reason: Text | None = None
    structure: Text | None = None
    bits: Text | None = None
    family: Text | None = None
    permuted: Text | None = None
    fold: Text | None = None


class ProbeResults(_Strict):
    """What the probe molecules became, and a digest of their list."""

    digest: Text
    results: dict[Text, Result]


class Agreement(_Strict):
    """A partner's agreement, its form checked."""

    format: Literal["pharma-fl-agreement"]
    format_version: Literal[1]
    versions: Versions
    key: Key
    steps: Steps
    probe: ProbeResults


def agreement(
    *,
    partner: Partner,
    keys: Keys,
    rules: Rules,
    catalogue: pd.DataFrame | None,
    probe: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Return the agreement of one partner.

    Parameters
    ----------
    partner : Partner
        Source of the settings of structures, fingerprint and folds. ``structures.time_limit_s`` is a guard and
        no rule, and which folds are held out is each partner's own choice, so neither is part of it.
    keys : Keys
        Its public id and scheme are shown; `Keys.probe` keys the digest of the catalogue.
    rules : Rules
        Rules for measurements.
    catalogue : DataFrame or None
        T_cat as read, if there is one. The order of its rows and columns does not matter.
    probe : mapping
        From `probe_results`.

    Returns
    -------
    dict
        What JSON can hold; equal for all partners that prepared alike.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {
            "rdkit": rdkit.__version__,
            "numpy": np.__version__,
            "pharma_fl": importlib.metadata.version("pharma-fl"),
        },
        "key": {"id": keys.key_id, "scheme": keys.scheme},
        "steps": {
            step: {"version": STEPS[step], "settings": settings, "digest": _digest(step, settings)}
            for step, settings in _settings(partner, keys, rules, catalogue).items()
        },
        "probe": {"digest": probe_digest(), "results": {name: dict(result) for name, result in probe.items()}},
    }


def read_agreement(path: Path) -> dict[str, Any]:
    """Read an agreement: a file, or ``agreement.json`` of a prepared folder.

    Raises
    ------
    DataError
        ``PFL-D14`` it is missing, unreadable, larger than 16 MiB, not an agreement or of another format version.
    """
    file = path / AGREEMENT if path.is_dir() else path
    try:
        if not file.is_file():
            imported = "; it was imported, and matrices hold no structures to compare" if path.is_dir() else ""
            raise DataError(
                "PFL-D14",
                f"There is no file {file}{imported if (path / 'manifest.json').is_file() else ''}. "
                "Name an agreement, or a folder that prepare made of tables.",
            )
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise DataError("PFL-D14", f"Cannot read {file}: {error.strerror}. Check the path and its rights.") from error
    return parse_agreement(content, source=str(file))


def parse_agreement(content: bytes, *, source: str) -> dict[str, Any]:
    """Take an agreement from the bytes of a file or message; `source` names it in errors, which are as above."""
    remedy = f"Ask its partner for the {AGREEMENT} that `pharma-fl prepare` of your release wrote."
    if len(content) > _LARGEST:
        raise DataError("PFL-D14", f"{source} is larger than 16 MiB, so no agreement. {remedy}")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError("PFL-D14", f"{source} is not JSON. {remedy}") from error
    if isinstance(parsed, dict) and parsed.get("format") == PREPARED_FORMAT:
        raise DataError(
            "PFL-D14",
            f"{source} is a manifest.json: it describes its owner's data and must not be sent. Delete it wherever it "
            f"is not at home. {remedy}",
        )
    read = understood(parsed)
    if isinstance(read, str):
        raise DataError("PFL-D14", f"{source}: {read} {remedy}")
    return dict(parsed)


def understood(content: Any) -> Agreement | str:
    """Check the form of any JSON; return it as an agreement, or say why it is none."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        return f'It is no agreement (expected format "{FORMAT}").'
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        return f"Expected format_version {FORMAT_VERSION}, got {shown(version)}."
    try:
        return Agreement.model_validate(dict(content))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        words = {"missing": "is missing", "extra_forbidden": "is unknown"}
        lines = [
            f"{'.'.join(plain(str(part)) for part in one['loc'])}: {words.get(one['type'], plain(one['msg']))}"
            for one in found[:_PROBLEMS]
        ]
        more = f", and {len(found) - _PROBLEMS} more" if len(found) > _PROBLEMS else ""
        return f"It is no agreement: {'; '.join(lines)}{more}."


def shown(value: Any) -> str:
    """Return a foreign JSON value as text for a person."""
    if value is None:
        return "nothing"
    try:
        return plain(value if isinstance(value, str) else json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return "a value that cannot be shown"


def plain(text: str) -> str:
    """Make foreign text safe for a terminal: printable ASCII, at most 80 characters."""
    ascii_text = text[:200].encode("ascii", "backslashreplace").decode()
    safe = "".join(sign if sign.isprintable() else " " for sign in ascii_text)
    return safe if len(safe) <= 80 else f"{safe[:77]}..."


def _settings(partner: Partner, keys: Keys, rules: Rules, catalogue: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = {step: {} for step in STEPS}
    content["structures"] = partner.structures.model_dump(mode="json", exclude={"time_limit_s"})
    content["fingerprint"] = partner.fingerprint.model_dump(mode="json")
    content["permutation"] = {"key_scheme": keys.scheme}
    content["folds"] = partner.folds.model_dump(mode="json", include={"method", "count", "cutoffs"})
    content["folds"]["key_scheme"] = keys.scheme
    for section, values in rules.settings().items():
        for key, value in values.items():
            content[_rule_step(key)][f"{section}.{key}"] = value
    content["catalogue"] = {"content": None if catalogue is None else _catalogue_digest(catalogue, keys)}
    return content


def _rule_step(key: str) -> str:
    if key in {"measurements.lowest", "measurements.highest"}:
        return "credible_ranges"
    if key.startswith("measurements."):
        return "replicates"
    if key.startswith("thresholds.") or key == "binary_threshold":
        return "thresholds"
    return "weights" if key in {"initial_weight", "censored_share"} else "quorums"


def _digest(step: str, settings: Mapping[str, Any]) -> str:
    chemistry = step in {"structures", "fingerprint"} or (step == "folds" and settings["method"] != "temporal")
    content: dict[str, Any] = {"step": step, "version": STEPS[step], "settings": settings}
    if chemistry:
        content["rdkit"] = rdkit.__version__
    return hashlib.sha256(_canonical(content)).hexdigest()


def _catalogue_digest(catalogue: pd.DataFrame, keys: Keys) -> str:
    columns = ["catalog_assay_id", "catalog_task_id", "threshold", "threshold_method"]
    columns += [f"expert_threshold_{number}" for number in range(1, 6)]
    rows = catalogue.reindex(columns=columns).itertuples(index=False, name=None)
    lines = sorted(_canonical([_cell(value) for value in row]) for row in rows)
    return hmac.new(keys.probe, b"pharma-fl/catalogue\0" + b"\n".join(lines), hashlib.sha256).hexdigest()


def _cell(value: Any) -> str | float | None:
    """Make a cell of T_cat independent of its column's type: 1 and 1.0 are the same, and so are both zeros."""
    if isinstance(value, str):
        return value
    return None if pd.isna(value) else float(value) + 0.0


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

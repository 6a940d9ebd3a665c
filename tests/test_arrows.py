"""The arrows between the rooms: imports point one way, and each foreign library has its room."""

import ast
from pathlib import Path

import pytest
from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "pharma_fl"

# What each room may import of the others. Root modules (errors, atomic) are everybody's.
ARROWS = {
    "config": set(),
    "data": {"config"},
    "model": {"config", "data"},
    "privacy": {"config"},
    "secagg": set(),
    "messages": {"config", "privacy", "secagg"},
    "clients": {"config", "data", "model", "privacy", "secagg", "messages"},
    "strategies": {"config", "data", "model", "privacy", "secagg", "messages"},
    "evaluation": {"config", "data", "model"},
    "tracking": {"config", "privacy"},
    "deployment": {"config"},
    "cli": {
        "config",
        "data",
        "model",
        "privacy",
        "secagg",
        "messages",
        "clients",
        "strategies",
        "evaluation",
        "tracking",
        "deployment",
    },
}
# The ServerApp is where strategy and tracking meet; annotations alone do not couple.
EXCEPTIONS = {("strategies/app.py", "tracking")}

HOMES = {
    "flwr": {"messages", "clients", "strategies"},
    "mlflow": {"tracking"},
    "rdkit": {"data"},
    "torch": {"model", "privacy", "messages", "clients", "strategies", "evaluation", "cli"},
    "opacus": {"privacy"},
    "dp_accounting": {"privacy"},
    "sqlite3": {"privacy", "data"},
    "cryptography": {"privacy", "data", "secagg", "deployment"},
    "pyarrow": {"data"},
    "pebble": {"data"},
    "typer": {"cli"},
    "matplotlib": {"tracking"},
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


def modules():
    return sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE)


def imports(path):
    """Yield the dotted names that a module imports at run time."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_one_way(path):
    room = path.relative_to(SOURCE).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "pharma_fl" and len(parts) > 1 and (SOURCE / parts[1]).is_dir():
            allowed = ARROWS[room] | {room}
            assert parts[1] in allowed or (name_of(path), parts[1]) in EXCEPTIONS, f"{room} -> {parts[1]}"
        assert room in HOMES.get(parts[0], {room}), f"{parts[0]} does not belong into {room}"
        assert parts[0] not in FORBIDDEN, f"{parts[0]} is used nowhere"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_unsafe_is_called(path):
    calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not {"torch.load", "torch.save", "eval", "exec"} & set(calls)


def test_modules_are_of_a_readable_size():
    lengths = sorted(len(path.read_text().splitlines()) for path in modules())
    assert lengths[len(lengths) // 2] <= 180
    assert lengths[-1] <= 500


def test_the_tracking_folder_shadows_no_package():
    assert not list((PROJECT / "mlflow").rglob("*.py"))

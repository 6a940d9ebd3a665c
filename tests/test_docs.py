"""The docs name what the code has, and nothing else."""

import re
import typing

import pytest
from tests.conftest import PROJECT

from pharma_fl.config import Federation, Partner

DOCS = sorted([*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"])
CODE = re.compile(r"PFL-[A-Z]\d\d")


def source():
    return "\n".join(path.read_text() for path in (PROJECT / "src").rglob("*.py"))


def test_every_error_code_has_its_line():
    listed = set(re.findall(r"^\| (PFL-[A-Z]\d\d) \|", (PROJECT / "docs" / "errors.md").read_text(), re.MULTILINE))
    assert listed == set(CODE.findall(source()))


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_a_code_that_is_mentioned_exists(path):
    assert set(CODE.findall(path.read_text())) <= set(CODE.findall(source()))


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_a_file_that_is_linked_exists(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def keys(model):
    for name, field in model.model_fields.items():
        yield name
        for inner in models_in(field.annotation):
            yield from keys(inner)


def models_in(annotation):
    """Yield the settings models that an annotation names, also inside unions and containers."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models_in(inner)


@pytest.mark.parametrize("model", [Federation, Partner])
def test_every_key_is_documented(model):
    text = (PROJECT / "docs" / "configuration.md").read_text()
    assert not [
        key for key in keys(model) if f"`{key}`" not in text and f".{key}`" not in text and f"[{key}]" not in text
    ]


def test_every_dependency_has_its_reason():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    text = (PROJECT / "docs" / "dependencies.md").read_text().lower()
    assert not [one for one in listed if re.split(r"[\[<>=~]", one)[0].lower() not in text]

"""rules.toml: a table for people, complete, strict, and each key of it in use."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import pharma_fl.data
from pharma_fl.config.tables import AssayType
from pharma_fl.data.rules import Rules
from pharma_fl.errors import ConfigError

TEXT = files("pharma_fl.data").joinpath("rules.toml").read_text("utf-8")


def parse(old="", new=""):
    assert old in TEXT
    return Rules.parse(TEXT.replace(old, new, 1), source="rules.toml")


def test_the_built_in_rules_are_those_of_the_file_and_read_once(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(TEXT, encoding="utf-8")
    assert Rules.load(path) == Rules.built_in()
    assert Rules.built_in() is Rules.built_in()


def test_every_type_of_t0_has_its_rules():
    kinds = get_args(AssayType)
    assert [name for name in Rules.built_in().settings() if name != "every_type"] == list(kinds)
    for kind in kinds:
        assert Rules.built_in().of(kind) is not None


def test_the_numbers_of_the_source():
    settings = Rules.built_in().settings()
    ranges = {
        kind: (keys.get("measurements.lowest"), keys.get("measurements.highest")) for kind, keys in settings.items()
    }
    assert ranges == {
        "every_type": (None, None),
        "ADME": (-1e12, 1e12),
        "OTHER": (3, 10),
        "NON-CATALOG-PANEL": (3, 10),
        "CATALOG-PANEL": (3, 10),
        "AUX_HTS": (-10, 10),
        "AUX_PL": (None, None),
    }
    assert {
        kind: keys.get("measurements.decimals") for kind, keys in settings.items() if "measurements.decimals" in keys
    } == {
        "OTHER": 2,
        "NON-CATALOG-PANEL": 2,
    }
    assert {kind for kind, keys in settings.items() if keys.get("auxiliary")} == {"AUX_HTS", "AUX_PL"}
    assert settings["AUX_PL"]["initial_weight"] == settings["AUX_HTS"]["initial_weight"] == 0.1
    assert settings["CATALOG-PANEL"]["thresholds.auxiliary"] == [4.53]
    assert settings["every_type"] == {"binary_threshold": 0.0, "least_spread": 1e-12, "censored_share": 0.05}


def test_the_settings_are_json_and_tell_apart_what_differs():
    settings = Rules.built_in().settings()
    assert json.loads(json.dumps(settings)) == settings
    assert all(not isinstance(value, dict) for keys in settings.values() for value in keys.values())
    # A number is the same however it is written, and another number is another.
    assert parse("lowest = 3.0", "lowest = 3").settings() == settings
    assert parse("lowest = 3.0", "lowest = 3.5").settings() != settings


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trial_share = 0.2", "trial_share = 2", ["OTHER.thresholds", "trial_share"]),
        ("initial_weight", "initial_wait", ["ADME.initial_wait", "unknown key"]),
        ("censored_share = 0.05\n", "", ["every_type.censored_share", "missing"]),
        ('replicates = "median"', 'replicates = "mean"', ["ADME.measurements.replicates", "median"]),
        ("lowest = 3.0", "lowest = 30.0", ["OTHER.measurements", "lowest below highest"]),
        ('rule = "fixed"', 'rule = "fixt"', ["AUX_HTS.thresholds", "fixt"]),
        ("training.actives = 25\n", "", ["ADME.classification.training", "either labels, or actives and inactives"]),
        (
            "training.labels = 400",
            "training.labels = 400\ntraining.actives = 1",
            ["CATALOG-PANEL.classification.training"],
        ),
        ('otherwise = "NON-CATALOG-PANEL"\n', "", ["CATALOG-PANEL", "otherwise"]),
        ('otherwise = "NON-CATALOG-PANEL"', 'otherwise = "AUX_PL"', ["otherwise", "AUX_PL"]),
        ('otherwise = "NON-CATALOG-PANEL"', 'otherwise = "CATALOG-PANEL"', ["otherwise", "CATALOG-PANEL"]),
        ("auxiliary = false", "auxiliary = true", ["ADME", "evaluation"]),
        ("[ADME.regression]\ntraining", "[ADME.regressed]\ntraining", ["ADME.regressed", "unknown key"]),
        ("[ADME]", "[ADMET]", ["ADMET", "unknown key"]),
    ],
)
def test_a_wrong_file_is_refused_by_key(old, new, words):
    text = re.sub(r"^# .*\n", "", TEXT, flags=re.MULTILINE)
    assert old in text
    with pytest.raises(ConfigError) as caught:
        Rules.parse(text.replace(old, new, 1), source="our-rules.toml")
    assert caught.value.code == "PFL-C03"
    for word in ["our-rules.toml", *words]:
        assert word in str(caught.value)


def test_rules_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Rules.built_in().adme.initial_weight = 2


def test_every_key_is_explained():
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z_.]+ = ", line):
            above = lines[number - 1]
            # One comment may explain a pair, such as lowest and highest.
            assert above.startswith("#") or lines[number - 2].startswith("#"), line
        if re.match(r"\[[A-Za-z_-]+\]", line):
            assert lines[number - 1].startswith("# "), line


def test_every_key_is_used():
    """A number that is configured and changes nothing is worse than none."""
    folder = Path(pharma_fl.data.__file__).parent
    modules = ("activities", "thresholds", "labels", "quorums", "weights", "targets")
    code = "".join(folder.joinpath(f"{name}.py").read_text("utf-8") for name in modules)
    names: set[str] = set()

    def collect(model):
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                collect(value)
            elif field.alias is None:
                names.add(name)

    collect(Rules.built_in())
    # The name of a threshold rule is spent when the file is read.
    assert {name for name in names if not re.search(rf"\.{name}\b", code)} == {"rule"}

"""Agreements: what is in them, what is not, and that every difference is found and named."""

import base64
import copy
import dataclasses
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pharma_fl.config import Partner
from pharma_fl.data.agreement import (
    FORMAT,
    STEPS,
    agreement,
    parse_agreement,
    plain,
    read_agreement,
    shown,
    understood,
)
from pharma_fl.data.differences import Difference, check, differences
from pharma_fl.data.keys import Keys
from pharma_fl.data.probe import probe_molecules, probe_results
from pharma_fl.data.rules import Rules
from pharma_fl.errors import DataError

SECRET = b"the secret of the tests"
CATALOGUE = pd.DataFrame(
    {
        "catalog_assay_id": [1, 1, 2],
        "catalog_task_id": [10, 11, 12],
        "threshold": [5.0, 6.0, 0.0],
        "threshold_method": ["expert", "aux_high", "expert"],
        "expert_threshold_1": [5.0, 5.0, np.nan],
        **{f"expert_threshold_{number}": [np.nan] * 3 for number in range(2, 6)},
    }
)


@dataclasses.dataclass
class Outcome:
    """A stand-in for what preparation makes of a molecule; these tests are not about chemistry."""

    smiles: str
    bits: np.ndarray
    counts: np.ndarray | None
    family: str
    reason: str | None = None


def outcomes(bits=1024):
    made = []
    for number, probe in enumerate(probe_molecules()):
        digest = hashlib.sha256(probe.name.encode()).digest()
        places = np.unique(np.frombuffer(digest[:16], dtype="<u2").astype(np.int32) % bits)
        reason = "unparsable" if number % 20 == 0 else None
        made.append(
            Outcome("C" * (1 + number), places, np.ones(len(places), np.uint16), f"family {number % 9}", reason)
        )
    return made


def a_partner(tmp_path, name="north", toml=""):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    path = folder / "partner.toml"
    path.write_text(f'name = "{name}"\n{toml}\n[budget]\nepsilon = 1.0\n')
    return Partner.load(path)


@pytest.fixture
def made(tmp_path):
    """Make an agreement, as JSON would bring it; any part of it can be another."""

    def make(toml="", *, secret=SECRET, scheme="hkdf", rules=None, catalogue=CATALOGUE, change=None, **more):
        partner = a_partner(tmp_path, toml=f"[fingerprint]\nbits = 1024\n{toml}" if "fingerprint" not in toml else toml)
        keys = Keys.derive(secret, scheme)
        results = outcomes()
        if change:
            change(results)
        probe = probe_results(results, keys, bits=1024, folds=partner.folds.count)
        content = agreement(
            partner=partner, keys=keys, rules=rules or Rules.built_in(), catalogue=catalogue, probe=probe, **more
        )
        return json.loads(json.dumps(content))

    return make


def where(found):
    return {difference.where for difference in found if difference.serious}


def rules_with(section, key, value):
    """Return the built-in rules with one key of the table changed."""
    content = Rules.built_in().model_dump(mode="json", by_alias=True, exclude_none=True)
    *path, last = [section, *key.split(".")]
    inner = content
    for part in path:
        inner = inner[part]
    inner[last] = value
    return Rules.model_validate(content)


# --- What is in it -----------------------------------------------------------------------------------------------


def test_it_has_the_form_that_is_documented(made):
    content = made()
    assert list(content) == ["format", "format_version", "versions", "key", "steps", "probe"]
    assert content["format"] == FORMAT
    assert content["versions"].keys() == {"rdkit", "numpy", "pharma_fl"}
    assert content["key"] == {"id": Keys.derive(SECRET, "hkdf").key_id, "scheme": "hkdf"}
    assert list(content["steps"]) == list(STEPS)
    for step in content["steps"].values():
        assert step.keys() == {"version", "settings", "digest"}
        assert re.fullmatch("[0-9a-f]{64}", step["digest"])
    assert content["probe"]["results"].keys() == {probe.name for probe in probe_molecules()}


def test_digests_follow_their_definition(made):
    content = made()
    for name, step in content["steps"].items():
        expected = {"step": name, "version": step["version"], "settings": step["settings"]}
        if name in {"structures", "fingerprint", "folds"}:
            expected["rdkit"] = content["versions"]["rdkit"]
        text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
        assert step["digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_every_rule_is_in_exactly_one_step(made):
    steps = made()["steps"]
    expected = {
        f"{section}.{key}": value
        for section, values in json.loads(json.dumps(Rules.built_in().settings())).items()
        for key, value in values.items()
    }
    found = [
        pair
        for step in ("credible_ranges", "replicates", "thresholds", "quorums", "weights")
        for pair in steps[step]["settings"].items()
    ]
    assert dict(found) == expected
    assert len(found) == len(expected)
    assert steps["credible_ranges"]["settings"]["OTHER.measurements.highest"] == 10.0
    assert steps["replicates"]["settings"]["ADME.measurements.replicates"] == "median"
    assert steps["thresholds"]["settings"]["AUX_HTS.thresholds.threshold"] == 3.0
    assert steps["quorums"]["settings"]["ADME.regression.training.exact"] == 25
    assert steps["weights"]["settings"]["AUX_PL.initial_weight"] == 0.1


def test_guards_and_a_partners_own_choices_are_not_in_it(made):
    text = json.dumps(made())
    assert "time_limit_s" not in text
    assert '"test"' not in text
    assert '"validation"' not in text
    same = made("[structures]\ntime_limit_s = 5\n[folds]\ntest = 1\nvalidation = 2\n")
    assert same == made()


def test_partners_of_other_data_write_the_same_bytes(tmp_path):
    """Names, folders, tables and everything that a partner decides for itself leave no trace."""
    north = a_partner(tmp_path, "north", 'data = "here"\n')
    south = a_partner(
        tmp_path,
        "south-pharma",
        'data = "elsewhere"\ncache = "c"\nstate = "s"\nkey_file = "other.key"\n'
        '[tables]\nform = "wide"\nfiles = ["secret-project.csv"]\n[policy]\nmax_sample_rate = 0.5\n'
        "[regression]\ncenter = 3.0\n",
    )
    keys = Keys.derive(SECRET, "hkdf")
    probe = probe_results(outcomes(32_000), keys, bits=32_000, folds=5)
    texts = [
        json.dumps(agreement(partner=one, keys=keys, rules=Rules.built_in(), catalogue=None, probe=probe)).encode()
        for one in (north, south)
    ]
    assert texts[0] == texts[1]
    for word in ("north", "south", "pharma-south", str(tmp_path), "secret-project", "here", "elsewhere", "other.key"):
        assert word.encode() not in texts[1]


@pytest.mark.parametrize("scheme", ["hkdf", "tuner"])
def test_no_key_is_in_it(made, scheme):
    text = json.dumps(made(scheme=scheme))
    keys = Keys.derive(SECRET, scheme)
    for value in (SECRET, keys.permutation, keys.folds, keys.families, keys.probe):
        forms = {value.hex(), base64.b64encode(value).decode(), base64.urlsafe_b64encode(value).decode(), repr(value)}
        forms |= {value.decode("latin-1"), hashlib.sha256(value).hexdigest()[:16]}
        assert not any(form in text for form in forms)


def test_the_catalogue_is_in_it_as_a_keyed_digest_alone(made):
    digest = made()["steps"]["catalogue"]["settings"]["content"]
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert made(secret=b"another")["steps"]["catalogue"]["settings"]["content"] != digest
    assert made(catalogue=None)["steps"]["catalogue"]["settings"]["content"] is None
    # What a reader may do to the table without changing what it says:
    turned = CATALOGUE.iloc[::-1, ::-1].assign(META_note="x")
    typed = turned.astype({"catalog_assay_id": "float64", "threshold": "object"}).replace({"threshold": {0.0: -0.0}})
    for same in (turned, typed, typed.assign(expert_threshold_3=None)):
        assert made(catalogue=same)["steps"]["catalogue"]["settings"]["content"] == digest
    for column, value in (("threshold", 5.5), ("threshold_method", "fixed"), ("catalog_task_id", 99)):
        other = CATALOGUE.copy()
        other.loc[0, column] = value
        assert made(catalogue=other)["steps"]["catalogue"]["settings"]["content"] != digest
    assert made(catalogue=CATALOGUE.iloc[:2])["steps"]["catalogue"]["settings"]["content"] != digest


# --- Reading -----------------------------------------------------------------------------------------------------


def test_a_file_or_a_prepared_folder_is_read(tmp_path, made):
    content = made()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agreement.json").write_text(json.dumps(content))
    assert read_agreement(tmp_path / "data") == read_agreement(tmp_path / "data" / "agreement.json") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"{}", "no agreement"),
        (b"[1]", "no agreement"),
        (b'{"format": "pharma-fl-prepared", "format_version": 1}', "must not be sent"),
        (b'{"format": "pharma-fl-agreement", "format_version": 2}', "format_version 1, got 2"),
        (b'{"format": "pharma-fl-agreement", "format_version": true}', "format_version 1, got true"),
        (b'{"format": "pharma-fl-agreement", "format_version": 1}', "steps: is missing"),
        (b" " * (16 * 1024 * 1024 + 1), "larger than 16 MiB"),
    ],
)
def test_what_is_no_agreement_is_refused(tmp_path, content, words):
    path = tmp_path / "agreement.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_agreement(path)
    assert caught.value.code == "PFL-D14"
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_missing_or_closed_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no file") as caught:
        read_agreement(tmp_path / "nowhere.json")
    assert caught.value.code == "PFL-D14"
    with pytest.raises(DataError, match="no file"):
        read_agreement(tmp_path)  # a folder without one
    (tmp_path / "closed.json").write_text("{}")

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", closed)
    with pytest.raises(DataError, match="Permission denied"):
        read_agreement(tmp_path / "closed.json")


def test_unknown_and_wrong_keys_are_named(made):
    content = made()
    content["extra\x1b[31m"] = 1
    content["steps"]["folds"]["settings"]["count"] = {"deep": 5}
    content["steps"]["structures"]["version"] = "1"
    del content["key"]["id"]
    with pytest.raises(DataError) as caught:
        parse_agreement(json.dumps(content).encode(), source="south")
    message = str(caught.value)
    assert "is unknown" in message
    assert "\x1b" not in message
    assert "key.id: is missing" in message
    assert "steps.structures.version" in message
    assert "steps.folds.settings.count" in message


# --- Differences -------------------------------------------------------------------------------------------------


def test_the_same_agree(made):
    assert differences(made(), made()) == ()


@pytest.mark.parametrize(
    ("toml", "expected", "words"),
    [
        ("[structures]\nmax_atoms = 99\n", "structures.max_atoms", "100 at A, 99 at B. Agree on [structures]"),
        ("[structures]\nstereo = true\n", "structures.stereo", "false at A, true at B"),
        ("[structures]\ntautomer_rules = 'v2'\n", "structures.tautomer_rules", "v1 at A, v2 at B"),
        ("[folds]\ncount = 6\n", "folds.count", "5 at A, 6 at B. Agree on [folds]"),
        ("[folds]\nmethod = 'lsh'\n", "folds.method", "scaffold at A, lsh at B"),
        ("[fingerprint]\nbits = 1024\nradius = 2\n", "fingerprint.radius", "3 at A, 2 at B. Agree on [fingerprint]"),
        ("[fingerprint]\nbits = 1024\nkind = 'fcfp'\n", "fingerprint.kind", "ecfp at A, fcfp at B"),
        ("[fingerprint]\nbits = 1024\ncounts = true\n", "fingerprint.counts", "false at A, true at B"),
        ("[fingerprint]\nbits = 2048\n", "fingerprint.bits", "1024 at A, 2048 at B"),
    ],
)
def test_a_setting_is_named_with_both_values_and_the_remedy(made, toml, expected, words):
    first, second = made(), made(toml)
    if "tautomer_rules" in expected and "v1" not in json.dumps(first):
        pytest.skip("v2 is the default")
    found = differences(first, second, names=("A", "B"))
    assert where(found) == {expected}
    assert words in found[0].what


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("OTHER", "measurements.lowest", 2.0, "credible_ranges.OTHER.measurements.lowest"),
        ("ADME", "measurements.decimals", 3, "replicates.ADME.measurements.decimals"),
        ("OTHER", "thresholds.trials", [9.0], "thresholds.OTHER.thresholds.trials"),
        ("ADME", "classification.training.actives", 26, "quorums.ADME.classification.training.actives"),
        ("every_type", "least_spread", 1e-6, "quorums.every_type.least_spread"),
        ("AUX_HTS", "initial_weight", 0.2, "weights.AUX_HTS.initial_weight"),
        ("every_type", "censored_share", 0.1, "weights.every_type.censored_share"),
    ],
)
def test_a_rule_is_named(made, section, key, value, expected):
    found = differences(made(), made(rules=rules_with(section, key, value)))
    assert where(found) == {expected}
    assert "Use one rules file" in found[0].what


def test_a_version_of_a_step_is_named(made):
    other = made()
    other["steps"]["replicates"]["version"] = 2
    other["steps"]["replicates"]["digest"] = "0" * 64
    found = differences(made(), other)
    assert where(found) == {"replicates.version"}
    assert "1 at the first, 2 at the second" in found[0].what


def test_another_key_is_said_once(made):
    found = differences(made(), made(secret=b"another"))
    assert where(found) == {"key.id"}
    assert "key_file" in found[0].what
    # What does not depend on the key is still compared.
    changed = made(secret=b"another", change=lambda all_of_them: setattr(all_of_them[3], "smiles", "N"))
    assert where(differences(made(), changed)) == {"key.id", "probe.structure"}


def test_another_scheme_is_said_once(made):
    found = differences(made(), made(scheme="tuner"))
    assert where(found) == {"key.scheme"}
    assert "hkdf at the first, tuner at the second" in found[0].what


def test_releases_of_numpy_and_of_this_package_are_remarks_and_of_rdkit_is_not(made):
    for package, serious in (("numpy", False), ("pharma_fl", False), ("rdkit", True)):
        other = made()
        other["versions"][package] = "9.9"
        (one,) = differences(made(), other)
        assert (one.where, one.serious) == (f"versions.{package}", serious)
        assert "9.9 at the second" in one.what
        assert check({"A": made(), "B": other}).agree != serious


def test_a_release_of_rdkit_explains_the_digests_of_chemistry(made, monkeypatch):
    first = made()
    monkeypatch.setattr("pharma_fl.data.agreement.rdkit.__version__", "2021.03.5")
    assert where(differences(first, made())) == {"versions.rdkit"}


def test_an_edited_file_is_noticed(made):
    other = made()
    other["steps"]["folds"]["digest"] = "0" * 64
    assert where(differences(made(), other)) == {"folds.digest"}


def test_catalogues(made):
    other = CATALOGUE.assign(threshold=[5.0, 6.5, 0.0])
    (found,) = differences(made(), made(catalogue=other))
    assert (found.where, found.serious) == ("catalogue", True)
    assert "tables.catalogue" in found.what
    (found,) = differences(made(), made(catalogue=None), names=("A", "B"))
    assert (found.where, found.serious) == ("catalogue", False)
    assert found.what.startswith("B uses no catalogue")
    # Under different keys their contents cannot be compared.
    assert where(differences(made(), made(secret=b"another", catalogue=other))) == {"key.id"}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"smiles": "N"}, "structure", "CCCC at the first, N at the second"),
        ({"reason": "timed_out"}, "structure", "refused as timed_out at the second"),
        ({"reason": "timed_out"}, "structure", "structures.time_limit_s"),
        ({"bits": np.array([1, 2], np.int32), "counts": None}, "bits", "other features"),
        ({"family": "another"}, "family", "holds out"),
    ],
)
def test_probe_molecules_are_named_with_what_they_exercise(made, changes, kind, words):
    def change(all_of_them):
        for name, value in changes.items():
            setattr(all_of_them[3], name, value)

    (found,) = differences(made(), made(change=change))
    assert found.where == f"probe.{kind}"
    assert f"1 of {len(probe_molecules())} probe molecules" in found.what
    assert f"{probe_molecules()[3].name} (refused as no molecule)" in found.what
    assert words in found.what


@pytest.mark.parametrize(("kind", "words"), [("permuted", "moved to other places"), ("fold", "another fold")])
def test_what_the_key_decides_is_compared_under_one_key(made, kind, words):
    other = made()
    other["probe"]["results"]["imatinib"][kind] = "0" * 16
    (found,) = differences(made(), other)
    assert found.where == f"probe.{kind}"
    assert "imatinib" in found.what
    assert words in found.what


def test_long_lists_are_cut(made):
    def change(all_of_them):
        for one in all_of_them:
            one.smiles += "N"

    (found,) = differences(made(), made(change=change))
    kept = sum(one.reason is None for one in outcomes())
    assert f"{kept} of {len(probe_molecules())} probe molecules" in found.what
    assert found.what.endswith(f"and {kept - 8} more.")
    assert len(found.what) < 3000


def test_a_molecule_that_only_one_shows(made):
    other = made()
    del other["probe"]["results"]["imatinib"]
    (found,) = differences(made(), other)
    assert found.where == "probe"
    assert "imatinib" in found.what


def test_other_lists_of_molecules_are_not_compared(made):
    other = made()
    other["probe"]["digest"] = "0" * 16
    other["probe"]["results"] = {"something new": {"structure": "C"}}
    assert where(differences(made(), other)) == {"probe"}


def test_numbers_are_equal_as_json_has_them(made):
    other = made()
    settings_of = other["steps"]["weights"]["settings"]
    settings_of["ADME.initial_weight"] = 1
    assert differences(made(), other) == ()
    settings_of["ADME.initial_weight"] = True
    assert where(differences(made(), other)) == {"weights.ADME.initial_weight"}


def test_differences_are_the_same_from_both_sides(made):
    one, other = made(), made("[structures]\nmax_atoms = 99\n[folds]\ncount = 7\n", secret=b"another")
    assert where(differences(one, other)) == where(differences(other, one))


def test_no_difference_tells_a_digest_that_the_key_made(made):
    other = made(secret=b"another", scheme="tuner")
    text = " ".join(found.what for found in differences(made(), other))
    for content in (made(), other):
        assert content["steps"]["catalogue"]["settings"]["content"] not in text
        assert not any(result.get("fold", "none") in text for result in content["probe"]["results"].values())


# --- Several partners --------------------------------------------------------------------------------------------


def test_the_larger_group_is_the_reference(made):
    odd = made("[folds]\ncount = 7\n")
    verdict = check({"odd": odd, "b": made(), "c": made()})
    assert not verdict.agree
    assert verdict.groups == (("b", "c"), ("odd",))
    assert verdict.reference == "b"
    assert where(verdict.differences["odd"]) == {"folds.count"}
    assert "5 at b, 7 at odd" in verdict.differences["odd"][0].what
    assert verdict.differences["c"] == ()


def test_of_equal_groups_the_first_is_the_reference(made):
    verdict = check({"a": made(), "b": made("[folds]\ncount = 7\n")})
    assert verdict.groups == (("a",), ("b",))
    assert verdict.reference == "a"


def test_partners_that_share_a_third_but_not_each_other_are_not_one_group(made):
    other = CATALOGUE.assign(threshold=[5.0, 6.5, 0.0])
    verdict = check({"none": made(catalogue=None), "one": made(), "other": made(catalogue=other)})
    assert verdict.groups == (("none", "one"), ("other",))
    assert not verdict.agree


def test_one_agrees_with_itself_and_none_is_refused(made):
    assert check({"a": made()}).agree
    with pytest.raises(ValueError):
        check({})


def test_what_is_no_agreement_agrees_with_nothing():
    verdict = check({"a": {}, "b": {}})
    assert not verdict.agree
    assert {one.where for one in verdict.differences["b"]} == {"agreement"}
    assert len(verdict.differences["b"]) == 2  # both are named


# --- Anything else -----------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
SURROGATES = st.text(st.characters(categories=["Cs", "Cc", "Cf", "Lu"]))


def presentable(found):
    for one in found:
        assert isinstance(one, Difference)
        assert one.where.isprintable()
        assert one.what.isprintable()
        assert one.what.isascii()
        assert len(one.what) < 5000


@given(JSON, JSON)
@settings(deadline=None)
def test_any_json_is_taken(first, second):
    found = differences(first, second)
    assert where(found) == {"agreement"}
    presentable(found)
    verdict = check({"a": first, "b": second})
    assert not verdict.agree


def places(content, path=()):
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@given(st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_agreement_with_anything_at_any_place_is_taken(made, data):
    if not hasattr(made, "content"):
        made.content = made()
        # Fewer molecules, so that other places are chosen too.
        kept = ("imatinib", "empty", "acetone")
        made.content["probe"]["results"] = {name: made.content["probe"]["results"][name] for name in kept}
        made.places = list(places(made.content))[1:]
    other = copy.deepcopy(made.content)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(made.places))
        inner = other
        try:
            for part in path:
                inner = inner[part]
            if data.draw(st.booleans()):
                inner[last] = data.draw(JSON | SURROGATES | st.integers(10**400, 10**401))
            else:
                inner[data.draw(SURROGATES)] = data.draw(JSON | SURROGATES)
        except (TypeError, KeyError, IndexError):
            continue
    found = differences(made.content, other)
    presentable(found)
    assert where(found) == where(differences(other, made.content))
    if not found:
        assert isinstance(understood(other), type(understood(made.content)))


@given(SURROGATES | st.text())
@settings(deadline=None)
def test_foreign_text_is_short_printable_ascii(text):
    for shown_text in (plain(text), shown(text), shown([text]), shown({text: 1})):
        assert shown_text.isascii()
        assert shown_text.isprintable()
        assert len(shown_text) <= 80


def test_what_json_cannot_hold_is_shown_as_such():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in (object(), {1, 2}, nested, 10**5000):
        assert shown(value) == "a value that cannot be shown"
    assert shown(None) == "nothing"


def test_a_manifest_is_told_from_an_agreement(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "pharma-fl-prepared"}')
    with pytest.raises(DataError, match="must not be sent") as caught:
        read_agreement(tmp_path / "manifest.json")
    assert caught.value.code == "PFL-D14"
    with pytest.raises(DataError, match="it was imported"):
        read_agreement(tmp_path)

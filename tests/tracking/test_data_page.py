"""The page says what the description says: numbers, escaping, gaps, and nothing fetched."""

import copy
import re

import pytest
from tests.tracking.test_report import Page

from pharma_fl.tracking.data_charts import bin_names, histogram, percent, written
from pharma_fl.tracking.data_page import page

NOTICE = "Exact numbers: do not send them."


def numbers(edges, counts, *, scale="linear", low=0.0, high=9.0):
    marks = {"lowest": low, "quartile_1": 2.0, "median": 4.0, "quartile_3": 6.0, "highest": high, "mean": 4.25}
    return marks | {"histogram": {"scale": scale, "edges": edges, "counts": counts}}


def whole():
    return numbers([0, 1, 2, 5, 10], [1200, 0, 3, 1], scale="doubling")


def a_task(name, share):
    return {"task": name, "assay_type": "ADME", "labels": 40, "actives": int(40 * share), "actives_share": share}


def an_assay(name, **changes):
    facts = {
        "task": f"assay-{name}/value",
        "assay": name,
        "assay_type": "OTHER",
        "values": 1500,
        "censored": 300,
        "censored_share": 0.2,
        "distribution": numbers([-1.5, 0.0, 1.5], [1000, 500], low=-1.5, high=1.5),
    }
    return facts | changes


def a_line(kind, **changes):
    facts = {
        "kind": kind,
        "assay_type": "ADME",
        "assays": 12,
        "tasks": 16,
        "auxiliary": 4,
        "data_derived": 3,
        "training_quorum": 8,
        "evaluate": 2,
        "entries": 4321,
        "filled_share": 0.25,
        "actives_share": 0.125,
        "censored_share": None,
    }
    return facts | changes


def dropped(read, reasons):
    lost = sum(reasons.values())
    listed = [{"reason": name, "count": count, "meaning": f"because {name}"} for name, count in reasons.items()]
    return {"read": read, "kept": read - lost, "dropped": lost, "adds_up": True, "reasons": listed}


def density(**changes):
    facts = {"count": 4321, "filled_share": 0.25, "compounds": 1100, "per_compound": whole(), "per_task": whole()}
    return facts | changes


def described(**changes):
    content = {
        "notice": NOTICE,
        "folder": "/data/north",
        "partner": "north",
        "verified": False,
        "compounds": {
            "count": 1204,
            "without_label_or_value": 104,
            "bits": 2048,
            "bits_in_use": 1024,
            "counts_stored": False,
            "bits_per_compound": numbers([0, 10, 20, 30], [4, 1000, 200]),
        },
        "tasks": {
            "classification": 16,
            "regression": 2,
            "auxiliary": 4,
            "data_derived": 3,
            "training_quorum": 9,
            "evaluate": 2,
            "by_type": [a_line("classification"), a_line("regression", tasks=2, training_quorum=1, evaluate=0)],
            "data_derived_assays": ["a1", "a2"],
        },
        "labels": density(actives=540, actives_share=0.125),
        "balance": {
            "tasks": 15,
            "without_labels": 1,
            "one_class": 2,
            "actives_share": numbers([0.0, 0.5, 1.0], [10, 5], high=1.0) | {"quartile_1": 0.1, "median": 0.2},
            "auxiliary_left_out": 7,
            "most_balanced": [a_task("assay-1/binary", 0.5)],
            "least_balanced": [a_task("assay-2/binary", 1.0), a_task("assay-3/binary", 0.025)],
        },
        "values": density(censored=300, censored_share=0.2, below=290, above=10)
        | {
            "by_task": [
                an_assay("sol"),
                an_assay("empty", values=0, censored=0, censored_share=None, distribution=None),
            ]
        },
        "folds": [
            {
                "fold": fold,
                "role": role,
                "compounds": 602,
                "share": 0.5,
                "labels": 2000,
                "actives": 250,
                "actives_share": share,
                "values": 750,
            }
            for fold, role, share in ((0, "test", 0.125), (1, "training", None))
        ],
        "dropped": {
            "structures": dropped(2000, {"unparsable": 1, "too_long": 9}),
            "activities": dropped(9000, {}),
            "labels": dropped(5000, {"ambiguous": 679}),
        },
        "merged": {"compounds": 1204, "values": 7777},
        "assays": {"read": 20, "with_task": 18},
        "settings": {"fingerprint": {"bits": 2048, "kind": "ecfp"}, "folds": {"count": 2, "cutoffs": []}},
        "imported": None,
        "key": {"id": "00ff" * 4, "scheme": "hkdf"},
        "versions": {"rdkit": "2026.09.1"},
        "format_version": 3,
    }
    return copy.deepcopy(content | changes)


def read(**changes):
    return Page(page(described(**changes)))


def cells(found, start):
    return [[cell[0] for cell in row] for row in found.table(start)]


def test_the_notice_comes_first():
    text = page(described())
    found = Page(text)
    assert re.sub(r"<[^>]*>", "", text[text.index("<body") :]).startswith(NOTICE)
    assert found.words.count(NOTICE) == 1
    assert "not to be sent to anybody" in text[text.index("@media print", text.index("color-scheme: light dark")) :]


def test_the_tables_hold_the_numbers():
    found = read()
    tasks = cells(found, "Tasks by kind")
    assert tasks[1] == ["classification", "ADME", "12", "16", "4", "3", "8", "2", "4,321", "25.0%"]
    assert tasks[2][6:8] == ["1", "0"]
    assert cells(found, "Most balanced") == [
        ["Task", "Share of actives", "Actives", "Labels"],
        ["assay-1/binaryADME", "50.0%", "20", "40"],
    ]
    assert [row[0] for row in cells(found, "Least balanced")[1:]] == ["assay-2/binaryADME", "assay-3/binaryADME"]
    sol, empty = cells(found, "Values by assay")[1:]
    assert sol == ["solOTHER", "1,500", "20.0%", "", "\u22121.5", "2", "4", "6", "1.5"]
    assert empty == ["emptyOTHER", "0", "\u2013", "", *["\u2013"] * 5]
    assert cells(found, "Compounds and labels by fold")[1:] == [
        ["0", "test", "602", "50.0%", "2,000", "12.5%", "750"],
        ["1", "training", "602", "50.0%", "2,000", "\u2013", "750"],
    ]
    assert cells(found, "Structures dropped")[1:] == [
        ["unparsable", "1", "0.1%", "because unparsable"],
        ["too_long", "9", "0.4%", "because too_long"],
    ]
    settings = dict(cells(found, "What these data"))
    assert settings["fingerprint.bits"] == "2048"
    assert settings["folds.cutoffs"] == "[]"
    assert settings["key id"] == "00ff" * 4
    assert settings["version of rdkit"] == "2026.09.1"
    for words in (
        "2,000 read = 1,990 kept + 10 dropped",
        "one compound: 1,204 compounds",
        "one value: 7,777 values",
        "104 without label or value",
        "290, above it for 10",
        "1,024 of 2,048 bits (50.0%)",
        "Private training refuses these data (PFL-P04)",
        "(2): a1, a2.",
        "2 tasks have labels of one class alone",
        "leaving out 7 auxiliary ones",
    ):
        assert words in found.words


def test_each_chart_has_its_numbers_beside_it():
    found = read()
    assert cells(found, "Labels per compound") == [
        ["Number", "Compounds"],
        ["0", "1,200"],
        ["1", "0"],
        ["2 to 4", "3"],
        ["5 to 9", "1"],
    ]
    assert cells(found, "Share of actives by task")[1:] == [["0% to 50%", "10"], ["50% to 100%", "5"]]
    charts = [attributes for tag, attributes in found.tags if tag == "svg" and attributes["class"] == "columns"]
    assert len(charts) == 6
    assert all(len(chart["aria-label"]) > 40 and chart["role"] == "img" for chart in charts)
    for tag, attributes in found.tags:
        if tag == "rect":
            assert float(attributes["y"]) + float(attributes["height"]) <= 100.01


def test_the_page_stands_alone():
    text = page(described())
    found = Page(text)
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert not {"script", "link", "img", "iframe", "object", "a", "form"} & {tag for tag, _ in found.tags}
    policy = next(one for tag, one in found.tags if tag == "meta" and "http-equiv" in one)
    assert policy["content"].startswith("default-src 'none'")
    assert {"title", "main", "h1", "h2", "caption", "figcaption"} <= {tag for tag, _ in found.tags}
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_every_name_is_escaped():
    content = described(partner="<b>", folder="/a&b", imported={"format": "<i>m</i>"})
    content["tasks"]["data_derived_assays"] = ["<script>alert(1)</script>"]
    content["values"]["by_task"][0]["assay"] = '"><u>'
    content["balance"]["most_balanced"][0]["task"] = "<s>task</s>"
    content["dropped"]["labels"]["reasons"][0]["reason"] = "<q>"
    content["settings"]["<k>"] = "<v>"
    text = page(content)
    found = Page(text)
    assert not re.search(r"<(b|i|u|s|q|k|v|script)>", text)
    for shown in ("<b>", "/a&b", "<script>alert(1)</script>", '"><u>', "<s>task</s>", "<q>", "<k>", "<v>", "<i>m</i>"):
        assert shown in found.words


def test_a_page_of_imported_data_says_what_is_not_known():
    found = read(
        partner=None,
        verified=True,
        dropped=dict.fromkeys(("structures", "activities", "labels")),
        merged={"compounds": 1204, "values": None},
        key={"id": None, "scheme": None},
        settings={},
        versions={},
        imported={"format": "MELLODDY-TUNER", "sha256": {"x.npz": "ab"}},
    )
    assert found.words.count("not prepared from tables here") == 3
    assert "has the content that the manifest names" in found.words
    assert dict(cells(found, "What these data"))["imported.sha256.x.npz"] == "ab"
    assert "Structures dropped" not in found.words


def test_a_page_without_any_task_of_a_kind():
    nothing = density(count=0, filled_share=None, compounds=0, per_compound=None, per_task=None)
    content = described()
    content["tasks"] |= {"classification": 0, "regression": 0, "by_type": [], "data_derived_assays": []}
    content["labels"] = nothing | {"actives": 0, "actives_share": None}
    content["values"] = nothing | {"censored": 0, "censored_share": None, "below": 0, "above": 0, "by_task": []}
    content["balance"] |= {"tasks": 0, "actives_share": None, "most_balanced": [], "least_balanced": []}
    found = Page(page(content))
    assert "No classification task has a label" in found.words
    assert "There is no regression task" in found.words
    assert "PFL-P04" not in found.words
    assert "Values" not in cells(found, "Compounds and labels by fold")[0]


def test_counts_that_do_not_add_up_are_said():
    content = described()
    content["dropped"]["activities"] |= {"kept": 1, "adds_up": False}
    assert "counts do not add up: 9,000 read, 1 kept, 0 dropped" in Page(page(content)).words


def test_many_assays_are_cut():
    content = described()
    content["values"]["by_task"] = [an_assay(f"a{n}") for n in range(60)]
    content["tasks"]["data_derived_assays"] = [f"a{n}" for n in range(60)]
    found = Page(page(content))
    assert len(found.table("Values by assay, the 50 of 60 with most")) == 51
    assert "a19 and 40 more." in found.words


@pytest.mark.parametrize("counts", [[5], [0, 5, 0], list(range(1, 26))])
@pytest.mark.parametrize("unit", ["whole", "real", "share"])
def test_any_histogram_is_drawn(counts, unit):
    edges = list(range(len(counts) + 1)) if unit == "whole" else [n / len(counts) for n in range(len(counts) + 1)]
    found = Page(histogram("Title", numbers(edges, counts), unit, counted="things"))
    assert [row[1][0] for row in found.table("Title")[1:]] == [str(count) for count in counts]
    lefts = [float(one["style"].split()[1][:-1]) for tag, one in found.tags if tag == "span" and "style" in one]
    assert 0 < len(lefts) <= 9
    assert lefts == sorted(lefts)
    assert max(lefts) <= 100


def test_a_log_scale_is_named():
    content = described()
    content["values"]["by_task"][0]["distribution"]["histogram"]["scale"] = "log"
    assert "log scale" in Page(page(content)).words


def test_numbers_are_written_without_pretence():
    assert [percent(one) for one in (None, 0, 0.0004, 0.9996, 1)] == [
        "\u2013",
        "0.0%",
        "under 0.1%",
        "over 99.9%",
        "100.0%",
    ]
    assert [written(one, "real") for one in (0.0, 1234.5, 2.5e7, 0.00012345)] == ["0", "1,234", "2.5e+07", "0.0001234"]
    assert bin_names([2.0, 2.0], "real") == ["2"]

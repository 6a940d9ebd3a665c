"""The page says what the summary says: numbers, escaping, tolerance, and nothing fetched."""

import json
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image
from tests.tracking.conftest import LEVELS, PARTNERS, make_summary, write_folder

from pharma_fl.errors import DataError
from pharma_fl.tracking.report import write_report
from pharma_fl.tracking.report_page import page as page_of
from pharma_fl.tracking.run_folders import read_runs
from pharma_fl.tracking.summary import parse_summary

ALONE = ("sp", None, False)
VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """Tables by caption, as rows of (text, full value or None) cells; every element balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.images, self.text = [], [], {}, [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append(["", []])
        if tag == "data" and {"td", "th"} & set(self.open):
            self.rows[-1][-1][1].append(float(attributes["value"]))
        if tag == "img":
            self.images.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.text.append(data)
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1][0] += data

    def table(self, start):
        return next(rows for caption, rows in self.tables.items() if caption.startswith(start))

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


def render(folder, summary, *, runs=True):
    report, figure = write_report(write_folder(folder, summary, runs=runs))
    return Page(report.read_text("utf-8")), report.read_text("utf-8"), figure.read_bytes()


def read(summary):
    """The page without its pictures, which take most of the time."""
    return Page(page_of(parse_summary(summary), [], {"utility": b"", "partners": b""}))


def mean_of(summary, key, partners=None, metric="auc_roc"):
    values = [
        one["value"]
        for one in summary["results"]
        if (one["setting"], one["epsilon"], one["personalised"], one["metric"]) == (*key, metric)
        and (partners is None or one["partner"] in partners)
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_the_tables_hold_the_numbers_of_the_summary(seeds):
    summary = make_summary(seeds=seeds)
    page = read(summary)
    utility = page.table("AUC-ROC by partner")
    assert [cell[0] for cell in utility[0][3:9]] == list(PARTNERS)
    assert len(utility) == 1 + len(LEVELS)
    rows = {row[0][0].replace("\N{NO-BREAK SPACE}", " "): row for row in utility[1:]}
    row = rows["Federated, ε = 3, personalised"]
    key = ("fed-dp", 3.0, True)
    assert row[1][1][0] == pytest.approx(mean_of(summary, key))
    assert row[2][1] == [pytest.approx(mean_of(summary, key) - mean_of(summary, ALONE))]
    for column, partner in enumerate(PARTNERS, start=3):
        level, moved = row[column][1]
        assert level == pytest.approx(mean_of(summary, key, {partner}))
        assert moved == pytest.approx(level - mean_of(summary, ALONE, {partner}))
        assert row[column][0].startswith(f"{level:.3f}")
    others = page.table("Other metrics")
    assert [cell[0].split(" ")[0] for cell in others[0][1:]] == ["auc_pr", "rmse/assay-2/value"]
    means = {row[0][0]: row[1][1] for row in others[1:]}
    assert means["Alone"] == [pytest.approx(mean_of(summary, ALONE, metric="auc_pr"))]


def test_many_metrics_become_rows():
    summary = make_summary()
    first = summary["results"][0]
    summary["results"] += [first | {"metric": f"auc_roc/assay-{number}", "value": number / 100} for number in range(30)]
    rows = {row[0][0].split(" ")[0]: row for row in read(summary).table("Other metrics")[1:]}
    assert len(rows) == 32
    assert rows["auc_roc/assay-7"][1][0] == "1"
    assert rows["auc_roc/assay-7"][2][1] == [0.07]
    assert rows["auc_roc/assay-7"][3][1] == []


def test_budgets_are_those_of_the_ledgers():
    summary = make_summary(seeds=(0, 1))
    page = read(summary)
    rows = page.table("Epsilon by run and partner")[1:]
    assert len(rows) == 3 * len(PARTNERS)
    for row in rows:
        epsilon = float(row[0][0].split("\N{NO-BREAK SPACE}")[-1])
        (entry, _) = [one for one in summary["budgets"] if one["partner"] == row[1][0] and one["epsilon"] == epsilon]
        assert row[3][1] == [entry["epsilon_spent"]]
        assert row[4][1] == [pytest.approx(entry["epsilon_budget"] - entry["epsilon_spent"])]
        assert row[7][0] == "0, 1"
    total = 2 * sum(0.993 * epsilon for epsilon in (8, 3, 1))
    assert f"up to epsilon {total:.3f}" in page.words


def test_one_seed_is_said_to_be_one_seed():
    one, three = read(make_summary()), read(make_summary(seeds=(0, 1, 2)))
    assert "One seed cannot tell small differences" in one.words
    assert "One seed cannot tell" not in three.words
    assert "3 of 3 seeds" in three.words


def test_every_string_is_escaped(tmp_path):
    summary = make_summary(partners=("<b>", "a&b", '"q"', "$x$"))
    summary["dataset"] = "<script>alert(1)</script>"
    summary["notes"] = ["<i>note</i>"]
    summary["headline"] = {"task": "<task>", "description": "<u>"}
    summary["versions"] = {"<p>": "<1>"}
    summary["plans"][0]["plan"]["<k>"] = "<v>"
    summary["results"].append(summary["results"][0] | {"metric": "<m>"})
    write_folder(tmp_path, summary)
    (tmp_path / "runs" / "<run>" / "coordinator").mkdir(parents=True)
    (tmp_path / "runs" / "<run>" / "coordinator" / "end.json").write_text('{"status": "<s>", "reason": "<r>"}')
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert not {"script", "b", "i", "u", "task", "m", "k", "v", "run", "s", "r"} & {tag for tag, _ in page.tags}
    assert not re.search(r"<(b|i|u|script|m)>", text)
    for shown in ("<b>", "a&b", '"q"', "$x$", "<script>alert(1)</script>", "<i>note</i>", "<run>", "<s>: <r>", "<m>"):
        assert shown in page.words


def test_the_page_stands_alone(tmp_path):
    page, text, _ = render(tmp_path, make_summary())
    assert "http://" not in text
    assert "https://" not in text
    assert "mlflow.example" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert "href" not in attributes
    tags = dict(reversed(page.tags))
    assert tags["html"]["lang"] == "en"
    assert {"title", "main", "h1", "h2", "caption", "figcaption"} <= tags.keys()
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")
    assert all(attributes["scope"] in {"col", "row"} for tag, attributes in page.tags if tag == "th")
    assert len(page.images) == 4
    assert all(len(image["alt"]) > 40 for image in page.images)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_the_figure_is_a_picture_with_something_on_it(tmp_path, seeds):
    _, _, figure = render(tmp_path, make_summary(seeds=seeds), runs=False)
    picture = Image.open(BytesIO(figure))
    picture.load()
    assert picture.format == "PNG"
    assert picture.size == (1680, 660)
    assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert len(picture.convert("RGB").getcolors(100_000) or range(100_000)) > 20


def test_rounds_are_counted(tmp_path):
    page, _, _ = render(tmp_path, make_summary())
    rows = {row[0][0]: row for row in page.table("The coordinator's record")[1:]}
    assert rows.keys() == {"fed-seed0", "fed-dp-eps8-seed0", "fed-dp-eps3-seed0", "fed-dp-eps1-seed0"}
    row = rows["fed-dp-eps3-seed0"]
    assert [cell[0] for cell in row[1:5]] == ["completed", "10", "59 of 60", "north: PFL-P10 (1)"]
    assert row[5][1] == [pytest.approx(3.0)]
    assert [cell[1] for cell in row[7:]] == [[15.0], [30.0], [10.0]]
    assert rows["fed-seed0"][5][1] == []
    shared = {row[0][0] for row in page.table("Settings that all runs share")}
    assert {"training.rounds", "name"} <= shared
    assert "privacy.epsilon" in {cell[0] for cell in page.table("Settings that differ")[0]}


def test_a_round_that_missed_the_quorum_is_counted_once(tmp_path):
    write_folder(tmp_path, make_summary())
    run = tmp_path / "runs" / "fed-dp-eps3-seed0" / "coordinator"
    (run / "end.json").write_text(
        '{"status": "stopped", "rounds": 10, "reason": "quorum", "refused": {"north": "PFL-P10"}}'
    )
    with (run / "rounds.jsonl").open("a") as stream:
        stream.write('{"round": 11, "partici')
    found = {one.name: one for one in read_runs(tmp_path)}["fed-dp-eps3-seed0"]
    assert found.refusals == {("north", "PFL-P10"): 2}
    assert len(found.rounds) == 10


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"results": {}}', '{"results": [1]}', '{"results": [{"setting": "sp"}]}', '{"plans": [{}]}'],
)
def test_a_summary_that_cannot_be_used_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(DataError) as caught:
        write_report(tmp_path)
    assert caught.value.code == "PFL-D20"
    assert "summary.json" in str(caught.value)
    assert "pharma-fl demo" in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"results": []},
        {"results": [{"setting": "sp", "partner": "a", "value": 0.7}]},
        {"results": [{"setting": "fed-dp", "epsilon": 3, "personalised": True, "partner": "a", "value": 0.7}]},
        {"results": [{"setting": "placebo", "partner": "a", "value": float("nan")}]},
        {"results": [{"setting": "new <kind>", "epsilon": None, "partner": "a", "value": 0.5}]},
        {"budgets": [{"partner": "a", "epsilon_spent": float("inf"), "setting": "fed"}]},
        {"budgets": [{"partner": "a", "epsilon_spent": 2000.0}]},
        {"seconds": None, "phases": None, "versions": None, "plans": None, "notes": None, "headline": None},
    ],
)
def test_missing_keys_are_tolerated(tmp_path, summary):
    page, _, figure = render(tmp_path, {"partners": [], "results": []} | summary, runs=False)
    assert "These results cannot say" in page.words
    assert figure


@pytest.mark.parametrize(
    "missing", ["dataset", "partners", "budgets", "headline", "seconds", "phases", "versions", "plans"]
)
def test_each_optional_key_may_be_missing(missing):
    summary = make_summary()
    del summary[missing]
    page = read(summary)
    assert len(page.table("AUC-ROC by partner")) == 1 + len(LEVELS)


def test_a_headline_task_is_found_where_only_tasks_are_listed():
    summary = make_summary()
    for one in summary["results"]:
        one["metric"] = one["metric"].replace("auc_roc", "auc_roc/bbb/high/0.5")
    page = read(summary)
    assert len(page.table("AUC-ROC by partner")) == 1 + len(LEVELS)


def test_the_report_is_written_again_over_an_old_one(tmp_path):
    write_folder(tmp_path, make_summary(), runs=False)
    write_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"dataset": "another"}))
    report, _ = write_report(tmp_path)
    assert "<h1>Federated or alone: another</h1>" in report.read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "report.html", "utility.png"}

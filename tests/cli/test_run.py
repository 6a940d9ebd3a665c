"""`pharma-fl run` and `stop`: submitted, followed, left, found again, stopped, and every way in which a run ends."""

import io
import json

import pytest
from rich.console import Console
from tests.cli.fake_flower import (
    FEDERATION,
    NOT_KNOWN,
    NUMBER,
    OVER,
    SILENT,
    a_fake_flower,
    a_round,
    no_waiting,  # noqa: F401 - a fixture
    server_app_s,
)
from typer.testing import CliRunner

from pharma_fl.cli import flower as flower_module
from pharma_fl.cli import follow
from pharma_fl.cli import main as module
from pharma_fl.cli.news import new_rounds, news, round_line
from pharma_fl.deployment.run_folder import look, note_submitted
from pharma_fl.errors import PharmaFlError
from pharma_fl.locks import locked

pytestmark = pytest.mark.usefixtures("no_waiting")


def call(*arguments):
    result = CliRunner().invoke(module.app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | PharmaFlError):
        raise result.exception
    return result


def as_json(*arguments):
    result = call(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "kit" / "federation.toml"
    (path.parent / "app").mkdir(parents=True)
    (path.parent / "app" / "pyproject.toml").write_text("")
    path.write_text(FEDERATION)
    return path


@pytest.fixture
def output(toml):
    return toml.parent / "coordinator"


@pytest.fixture
def flower(monkeypatch, tmp_path, output):
    return a_fake_flower(monkeypatch, tmp_path, output)


def test_a_run_is_submitted_and_followed_to_its_end(toml, output, flower):
    server_app_s(flower.after("run"), rounds=5, phase="ended", end="completed")
    code, shown = as_json("run", toml)
    assert code == 0
    (submitted,) = flower.calls("run")
    assert submitted[1:4] == [str(toml.parent / "app"), "pharma-fl", "--run-config"]
    assert submitted[4:] == [f'federation="{toml}" resume=false', "--format", "json"]
    assert (shown["status"], shown["rounds"], shown["flower_run"], shown["run"]) == ("completed", 5, NUMBER, "trial-1")
    assert shown["model"] == str(output / "checkpoints" / "round-0005")


def test_a_run_that_misses_its_quorum_is_exit_code_3(toml, flower):
    server_app_s(flower.after("run"), end="stopped")
    result = call("run", toml)
    assert result.exit_code == 3
    assert "Stopped after 2 rounds. 1 partners took part where 2 are needed." in result.output
    assert f"pharma-fl run {toml} --resume" in result.output


def test_a_server_app_that_dies_is_exit_code_4_with_its_last_words(toml, flower):
    server_app_s(flower.after("run"))
    result = call("run", toml)
    assert result.exit_code == 4
    assert "Broke off after 2 rounds. The ServerApp's process is gone" in result.output
    assert "ERROR :     ServerApp raised [PFL-F35] a sum" in result.output
    assert f"pharma-fl run {toml} --resume" in result.output


def test_a_server_app_that_never_began_is_known_by_flower_s_word(toml, flower):
    flower.lists("finished:failed", "No heartbeat received from the task")
    code, shown = as_json("run", toml)
    assert (code, shown["status"], shown["model"]) == (4, "broke-off", None)
    assert "No heartbeat" in shown["reason"]


def test_a_run_that_somebody_stops_is_exit_code_3(toml, flower):
    server_app_s(flower.after("run"))
    flower.lists("finished:stopped")
    code, shown = as_json("run", toml)
    assert (code, shown["status"], shown["reason"]) == (3, "stopped", "It was stopped by hand.")


def test_a_resumed_run_is_submitted_as_such(toml, output, flower):
    server_app_s(output, number=1)
    server_app_s(flower.after("run"), rounds=5, end="completed")
    assert call("run", toml, "--resume").exit_code == 0
    assert "resume=true" in flower.calls("run")[0][4]


@pytest.mark.parametrize(
    ("end", "words"), [("completed", "a finished run"), ("stopped", "stopped. Go on"), (None, "broke off. Go on")]
)
def test_a_folder_that_holds_a_run_is_refused(toml, output, flower, end, words):
    server_app_s(output, end=end)
    error = call("run", toml).exception
    assert error.code == "PFL-F20"
    assert words in str(error)
    assert not flower.calls()


def test_resuming_a_finished_run_says_so_and_submits_nothing(toml, output, flower):
    server_app_s(output, rounds=5, end="completed")
    result = call("run", toml, "--resume")
    assert result.exit_code == 0
    assert "Completed after 5 rounds." in result.output
    assert not flower.calls()


def test_resuming_nothing_is_refused(toml, flower):
    assert call("run", toml, "--resume").exception.code == "PFL-F22"
    assert not flower.calls()


def test_a_run_in_progress_is_followed_and_none_is_submitted(toml, output, flower):
    server_app_s(output)
    server_app_s(flower.after("list"), rounds=5, end="completed")
    with locked(output / "run.lock"):
        result = call("run", toml)
    assert result.exit_code == 0
    assert f"A run is in progress (Flower's {NUMBER})" in result.output
    assert not flower.calls("run")


def test_a_run_whose_server_app_has_not_begun_is_found_again(toml, output, flower):
    note_submitted(output, NUMBER)
    flower.lists("pending")
    assert call("run", toml, "--detach").exit_code == 0
    assert not flower.calls("run")


def test_a_run_of_which_the_superlink_has_forgotten_is_no_run(toml, output, flower):
    note_submitted(output, 123)
    flower.refuses("list", NOT_KNOWN)
    server_app_s(flower.after("run"), rounds=5, end="completed")
    assert call("run", toml).exit_code == 0
    assert flower.calls("run")


def test_a_folder_in_use_by_an_unknown_run_is_not_entered(toml, output, flower):
    with locked(output / "run.lock"):
        assert call("run", toml).exception.code == "PFL-F23"


def test_detached_it_says_how_to_go_on(toml, output, flower):
    code, shown = as_json("run", toml, "--detach")
    assert (code, shown["flower_run"]) == (0, NUMBER)
    assert look(output).waiting == NUMBER
    assert f"pharma-fl stop {toml}" in call("run", toml, "--detach").output


def test_ctrl_c_leaves_the_run_alone(toml, output, flower, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "look", interrupted)
    result = call("run", toml)
    assert result.exit_code == 130
    assert "Detached; the run goes on." in result.output
    for command in ("run", "status", "stop"):
        assert f"pharma-fl {command} {toml}" in result.output
    assert not flower.calls("stop")


def test_the_server_app_s_log_is_shown_where_it_is_wanted(toml, flower):
    server_app_s(flower.after("log"), rounds=5, end="completed")
    result = call("run", toml, "--log")
    assert "INFO :      Start `flwr-serverapp` process" in result.output
    assert flower.calls("log") == [["log", str(NUMBER), "pharma-fl", "--stream"]]


def test_stop_stops_the_run_in_progress_and_says_how_to_go_on(toml, output, flower):
    note_submitted(output, NUMBER)
    server_app_s(flower.after("stop"))
    # Whether it is over is asked before; then it is.
    result = call("stop", toml)
    assert flower.calls("stop") == [["stop", str(NUMBER), "pharma-fl", "--format", "json"]]
    assert result.exit_code == 0
    assert f"pharma-fl run {toml} --resume" in result.output
    assert look(output).state == "stopped"


def test_stop_comes_too_late_for_a_run_that_ends_meanwhile(toml, output, flower):
    note_submitted(output, NUMBER)
    flower.refuses("stop", OVER)
    server_app_s(flower.after("stop"), rounds=5, end="completed")
    code, shown = as_json("stop", toml)
    assert (code, shown["status"]) == (0, "completed")


def test_there_is_nothing_to_stop_where_nothing_runs(toml, output, flower):
    assert call("stop", toml).exception.code == "PFL-F26"
    server_app_s(output)
    assert call("stop", toml).exception.code == "PFL-F26"


def test_a_superlink_that_is_silent_is_named_with_its_start(toml, flower):
    flower.refuses("run", SILENT)
    error = call("run", toml).exception
    assert error.code == "PFL-F24"
    assert str(toml.parent / "start") in str(error)


def test_what_the_superlink_refuses_is_said_without_what_was_said_before(toml, flower):
    flower.refuses("run", "Using SuperLink: pharma-fl (127.0.0.1:18990)\n\nThe SuperLink takes commands from its own.")
    assert str(call("run", toml).exception).endswith(
        "the SuperLink refuses: The SuperLink takes commands from its own."
    )


@pytest.mark.parametrize("said", ["", "Usage: flwr run", '["success"]', "{}"])
def test_words_of_another_flower_are_not_understood(toml, flower, said):
    flower.says("run", said)
    assert call("run", toml).exception.code == "PFL-F25"


def test_without_flower_nothing_runs(toml, flower, monkeypatch, tmp_path):
    monkeypatch.setattr(flower_module, "program", lambda: tmp_path / "none")
    assert call("run", toml).exception.code == "PFL-F25"


def test_a_federation_that_is_no_deployment_is_told_of_simulate(toml, flower):
    toml.write_text(FEDERATION[: FEDERATION.index("[superlink]")])
    error = call("run", toml).exception
    assert error.code == "PFL-C08"
    assert "pharma-fl simulate" in str(error)
    assert "pharma-fl init coordinator" in str(error)


def test_a_kit_without_its_bundle_is_provisioned_first(toml, flower):
    (toml.parent / "app" / "pyproject.toml").unlink()
    assert "pharma-fl provision" in str(call("run", toml).exception)


def test_a_superlink_that_goes_silent_does_not_end_following(toml, output, flower):
    server_app_s(output)
    flower.refuses("list", SILENT)
    looks = []

    def show(now):
        looks.append(now)
        if len(looks) > 20:
            server_app_s(output, rounds=5, end="completed")

    from pharma_fl.config import Federation

    with locked(output / "run.lock"):
        outcome = follow.follow(flower_module.Flower(toml, Federation.load(toml)), output, NUMBER, show)
    assert outcome.status == "completed"
    assert len(flower.calls("list")) > 1


def test_each_round_is_told_once_and_so_is_what_becomes_of_partners(output):
    away = {"state": "silent", "code": "PFL-F13"}
    server_app_s(output, rounds=2)
    before = look(output)
    server_app_s(output, rounds=4, partners={"north": {"state": "joined", "code": ""}, "south": away})
    now = look(output)
    assert [record["round"] for record in new_rounds(before, now)] == [3, 4]
    assert [record["round"] for record in new_rounds(None, now)] == [4]
    assert news(before, now) == ["south is away; it takes part again when it is back (PFL-F13)"]
    assert news(now, now) == []
    assert news(None, before) == ["Training", "north takes part", "south takes part"]


def test_a_void_round_and_a_score_are_told():
    record = a_round(3, participants=[], refused={"north": "PFL-F35"}, void=True, epsilon_spent={}, epsilon_left={})
    record["noised_auc_roc"] = {"pooled": {"value": 0.71234, "standard_error": 0.02}}
    line = "Round 3 of 5: void, the model stays as it was; without north (PFL-F35); 19.3 s; AUC-ROC 0.712 (noise 0.020)"
    assert round_line(record, 5) == line


def test_on_a_terminal_a_bar_shows_where_the_run_stands(output, monkeypatch):
    shown = Console(force_terminal=True, width=100, file=io.StringIO())
    monkeypatch.setattr(follow, "terminal", lambda: shown)
    with follow.display() as display:
        for rounds in (2, 3):
            server_app_s(output, rounds=rounds)
            display.show(look(output))
        (task,) = display._bar.tasks
        assert (task.description, task.completed, task.total) == ("training", 3, 5)
        assert task.fields["last"] == "19.3 s a round"

"""What a long command shows while it works."""

from pharma_fl.cli import output


def test_progress_elsewhere_than_on_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with output.progress("Preparing north") as report:
        for done, at in ((32, 1.0), (3200, 40.0), (3300, 41.0), (6000, 75.0)):
            now[0] = at
            report(done, 10_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Preparing north: 3,200 of 10,000, 80/s, 0:01:25 left",
        "Preparing north: 6,000 of 10,000, 80/s, 0:00:50 left",
    ]

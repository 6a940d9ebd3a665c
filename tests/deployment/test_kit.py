"""Kit files: scripts and units run the lines of `pharma-fl commands`, and the start script never gives up."""

import configparser
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from pharma_fl.config import Federation, Partner, SuperLinkSettings
from pharma_fl.deployment.kit import coordinator_files, partner_files, write_kit
from pharma_fl.deployment.lines import coordinator_lines, local_address, partner_lines
from pharma_fl.deployment.templates import federation_text, partner_text
from pharma_fl.errors import ConfigError

NAMES = ("north", "east", "south")


def a_federation(**changes):
    text = federation_text(preset="dp-fedsgd", name="lipids", address="fl.example.com:8443", partners=NAMES)
    federation = Federation.parse(text, source="test")
    link = federation.superlink.model_copy(update=changes)
    return federation.model_copy(update={"superlink": link})


def a_partner(**changes):
    text = partner_text(preset="standard", name="north", superlink="fl.example.com:8443")
    return Partner.parse(text, source="test").model_copy(update=changes)


@pytest.fixture
def coordinator(tmp_path):
    write_kit(tmp_path, coordinator_files(tmp_path, a_federation()))
    return tmp_path, coordinator_lines(tmp_path, a_federation())


@pytest.fixture
def partner(tmp_path):
    write_kit(tmp_path, partner_files(tmp_path, a_partner()))
    return tmp_path, partner_lines(tmp_path, a_partner())


@pytest.fixture(params=["coordinator", "partner"])
def side(request):
    return request.getfixturevalue(request.param)


def unit_of(folder):
    (path,) = (folder / "systemd").iterdir()
    return path


def test_the_start_script_runs_the_line_in_its_environment(side):
    folder, lines = side
    script = [line.strip() for line in (folder / "start").read_text().splitlines()]
    split = [shlex.split(line.removesuffix(" &")) for line in script if line.startswith(("flower-", "export "))]
    assert list(lines.start) in split
    for key, value in lines.environment.items():
        assert ["export", f"{key}={value}"] in split


def test_the_unit_runs_the_line_in_its_environment(side):
    folder, lines = side
    text = unit_of(folder).read_text().splitlines()
    (command,) = [shlex.split(line.removeprefix("ExecStart=")) for line in text if line.startswith("ExecStart=")]
    assert Path(command[0]).is_absolute()
    assert Path(command[0]).name == lines.start[0]
    assert command[1:] == list(lines.start[1:])
    assert os.access(command[0], os.X_OK)
    assert {line.removeprefix("Environment=") for line in text if line.startswith("Environment=")} == {
        f"{key}={value}" for key, value in lines.environment.items()
    }


def test_the_register_script_runs_the_lines(coordinator):
    folder, lines = coordinator
    split = [
        shlex.split(line) for line in (folder / "register").read_text().splitlines() if line.startswith("register ")
    ]
    assert split == [["register", name, *command] for name, command in lines.register.items()]
    assert set(lines.register) == set(NAMES)


def test_flower_finds_its_own_programs_behind_ours(side):
    folder, lines = side
    path = lines.environment["PATH"]
    replaced = "flower-superlink" if lines.role == "coordinator" else "flwr-clientapp"
    assert Path(shutil.which(replaced, path=path)).parent == folder / "bin"
    for program in ("flower-superlink", "flower-supernode", "flower-superexec", "flwr", "flwr-serverapp", "pharma-fl"):
        if program != replaced:
            assert Path(shutil.which(program, path=path)).parent == Path(sys.executable).parent


def test_nothing_is_insecure_and_nothing_calls_home(side):
    _, lines = side
    assert "--insecure" not in lines.start
    assert lines.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert lines.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_the_superlink_asks_for_keys_and_installs_nothing(coordinator):
    _, lines = coordinator
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(lines.start)


@pytest.mark.parametrize(
    ("listen", "reached"),
    [
        ("0.0.0.0", "127.0.0.1:8443"),
        ("::", "[::1]:8443"),
        ("10.1.2.3", "10.1.2.3:8443"),
        ("fl.example.com", "fl.example.com:8443"),
    ],
)
def test_the_coordinator_reaches_its_own_superlink(tmp_path, listen, reached):
    """The gate takes commands from this machine alone, so they must not go around by the outside."""
    assert local_address(SuperLinkSettings(address="fl.example.com:8443", listen=listen)) == reached
    content = tomllib.loads(coordinator_files(tmp_path, a_federation(listen=listen))["flwr/config.toml"].content)
    connection = content["superlink"][content["superlink"]["default"]]
    assert connection == {"address": reached, "root-certificates": str(tmp_path / "tls" / "ca.pem")}


def test_the_bundle_names_our_apps_and_holds_no_code(tmp_path):
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate

    write_kit(tmp_path, coordinator_files(tmp_path, a_federation()))
    config, warnings = load_and_validate(tmp_path / "app" / "pyproject.toml")
    assert not warnings
    app = config["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "pharma_fl.strategies.app:app", "clientapp": "pharma_fl.clients.app:app"}
    assert set(app["config"]) == {"federation", "partners", "resume"}
    assert b".py" not in build_fab_from_disk(tmp_path / "app").replace(b"pyproject.toml", b"")


def test_secrets_and_scripts_are_for_their_owner(side):
    folder, _ = side
    for path in folder.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert os.access(folder / "start", os.X_OK)


def test_a_unit_may_write_where_the_partner_keeps_its_ledger(tmp_path):
    files = partner_files(tmp_path, a_partner(ledger="/srv/ledgers/north.sqlite"))
    (unit,) = [file.content for name, file in files.items() if name.startswith("systemd/")]
    assert f"ReadWritePaths={' '.join(sorted(['/srv/ledgers', str(tmp_path)]))}" in unit


@pytest.mark.parametrize(
    "line",
    ["NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "Restart=always", "StartLimitIntervalSec=0"],
)
def test_units_are_hardened_and_come_back(side, line):
    folder, _ = side
    assert line in unit_of(folder).read_text().splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_unit(side):
    folder, _ = side
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit_of(folder)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if unit_of(folder).name in line]
    assert not ours, done.stderr


def test_the_unit_is_a_unit(side):
    folder, _ = side
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(unit_of(folder).read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_register_waits_for_a_superlink_that_starts(coordinator):
    folder, _ = coordinator
    fake = folder / "bin" / "flwr"
    fake.write_text(
        f"""#!/bin/sh
echo x >>{folder}/calls
[ "$(wc -l <{folder}/calls)" -lt 4 ] || {{ echo "SuperNode 17 registered successfully."; exit 0; }}
echo "Error: Connection to the SuperLink is unavailable." >&2
exit 1
"""
    )
    fake.chmod(0o700)
    (folder / "bin" / "sleep").write_text("#!/bin/sh\n")
    (folder / "bin" / "sleep").chmod(0o700)
    (folder / "cards").mkdir()
    for name in NAMES:
        (folder / "cards" / f"{name}.pub").write_text("key\n")
    done = subprocess.run([folder / "register"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(written(folder / "calls")) == 6
    (folder / "calls").unlink()
    fake.write_text(
        f"#!/bin/sh\necho x >>{folder}/calls\necho 'Connection to the SuperLink is unavailable.' >&2\nexit 1\n"
    )
    assert subprocess.run([folder / "register"], capture_output=True, check=False).returncode == 1
    assert len(written(folder / "calls")) < 40


def test_a_second_write_changes_nothing_and_a_change_comes_through(tmp_path):
    write_kit(tmp_path, coordinator_files(tmp_path, a_federation()))
    assert write_kit(tmp_path, coordinator_files(tmp_path, a_federation())) == []
    (tmp_path / "start").chmod(0o600)
    changed = write_kit(tmp_path, coordinator_files(tmp_path, a_federation(address="other.example.com:9000")))
    assert {"start", "flwr/config.toml", "systemd/pharma-fl-superlink.service"} == set(changed)
    assert os.access(tmp_path / "start", os.X_OK)


@pytest.mark.parametrize("name", ["with space", "quo'te", 'double"', "dollar$", "colon:", "per%cent", "new\nline"])
def test_a_folder_that_a_shell_would_read_otherwise_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="PFL-C08"):
        coordinator_lines(tmp_path / name, a_federation())


@pytest.mark.parametrize(
    ("broken", "lines"),
    [
        (
            Federation.model_validate({"name": "a", "partners": {"b": 1.0}, "privacy": {"epsilon": 1.0}}),
            coordinator_lines,
        ),
        (Partner.model_validate({"name": "b", "budget": {"epsilon": 1.0}}), partner_lines),
    ],
)
def test_settings_of_a_simulation_make_no_kit(tmp_path, broken, lines):
    with pytest.raises(ConfigError, match="PFL-C08"):
        lines(tmp_path, broken)


@pytest.fixture
def looping(partner):
    """The partner's start script with a SuperNode of ours that notes its calls, and does what `behaviour` says."""
    folder, lines = partner
    fake = folder / "bin" / "flower-supernode"
    fake.write_text(
        f"""#!/bin/sh
(printf '%s|' "$@"; echo) >>{folder}/calls
. {folder}/behaviour
"""
    )
    fake.chmod(0o700)
    sleep = folder / "bin" / "sleep"
    sleep.write_text(f'#!/bin/sh\necho "$@" >>{folder}/sleeps\n')
    sleep.chmod(0o700)
    started = []

    def start(behaviour):
        (folder / "behaviour").write_text(behaviour)
        with (folder / "log").open("w") as log:
            started.append(subprocess.Popen([folder / "start"], stdout=log, stderr=log, start_new_session=True))
        return started[0]

    yield folder, lines, start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def written(path):
    return path.read_text().splitlines() if path.exists() else []


def test_start_tries_again_whatever_the_exit_code(looping):
    folder, lines, start = looping
    process = start(
        f'[ "$(wc -l <{folder}/calls)" -lt 4 ] || exec /bin/sleep 60\nexit $(($(wc -l <{folder}/calls) % 2))\n'
    )
    wait_for(lambda: len(written(folder / "calls")) == 4)
    assert {tuple(line.split("|")[:-1]) for line in written(folder / "calls")} == {lines.start[1:]}
    assert written(folder / "sleeps") == ["5", "15", "15"]
    assert process.poll() is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_start_ends_with_what_it_runs(looping, how):
    folder, _, start = looping
    process = start(f"trap 'echo ended >>{folder}/ended; exit 0' TERM\nwhile :; do /bin/sleep 0.05; done\n")
    wait_for(lambda: written(folder / "calls"))
    process.send_signal(how)
    assert process.wait(20) == 0
    assert written(folder / "ended") == ["ended"]
    assert len(written(folder / "calls")) == 1


def test_register_can_be_called_again_and_says_what_is_missing(coordinator):
    folder, _ = coordinator
    fake = folder / "bin" / "flwr"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/calls\n'
        "case $6 in\n"
        '  north) echo "✅ SuperNode 17 registered successfully." ;;\n'
        '  east) echo "Error: Public key already in use." >&2; exit 1 ;;\n'
        "esac\n"
    )
    fake.chmod(0o700)
    (folder / "cards").mkdir()
    for name in ("north", "east"):
        (folder / "cards" / f"{name}.pub").write_text("key\n")
    done = subprocess.run([folder / "register"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["east: was registered before", "north: registered as 17"]
    assert "south" in done.stderr
    assert (folder / "cards" / "north.node").read_text() == "17\n"
    assert not (folder / "cards" / "east.node").exists()

import argparse
from pathlib import Path

import pytest

from migrated.cli import build_parser, options
from migrated.config.load import Overrides


def overrides(*arguments: str) -> Overrides:
    return options.overrides(build_parser().parse_args(arguments))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(["-c", "a.toml"], Overrides(file="a.toml", databases=[]), id="-c"),
        pytest.param(["--config=a.toml"], Overrides(file="a.toml", databases=[]), id="--config"),
        pytest.param(["-d", "a.db"], Overrides(databases=["a.db"]), id="-d"),
        pytest.param(["-d", "a.db", "--database", "*.db"], Overrides(databases=["a.db", "*.db"]), id="-d twice"),
        pytest.param(["-m", "sql"], Overrides(databases=[], migrations="sql"), id="-m"),
        pytest.param(["--migrations", "sql"], Overrides(databases=[], migrations="sql"), id="--migrations"),
        pytest.param(["--log-format", "json"], Overrides(databases=[], log_format="json"), id="--log-format"),
        pytest.param(["--log-level", "debug"], Overrides(databases=[], log_level="debug"), id="--log-level"),
    ],
)
@pytest.mark.parametrize("command", ["run", "up", "down", "status", "plan", "verify", "wait"])
def test_option_is_accepted_before_and_after_the_command(
    command: str, given: list[str], expected: Overrides
) -> None:
    assert (expected, expected) == (overrides(*given, command), overrides(command, *given))


def test_no_options_override_nothing() -> None:
    assert overrides("status") == Overrides(databases=[])


def test_databases_before_and_after_the_command_add_up() -> None:
    assert overrides("-d", "a.db", "up", "-d", "b.db").databases == ["a.db", "b.db"]


def test_option_after_the_command_wins() -> None:
    assert overrides("-c", "a.toml", "-m", "a", "up", "-c", "b.toml") == Overrides(
        file="b.toml", databases=[], migrations="a"
    )


def test_databases_of_one_call_do_not_leak_into_the_next() -> None:
    overrides("up", "-d", "a.db")

    assert overrides("up").databases == []


@pytest.mark.parametrize("command", ["up", "down"])
@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10", 10.0), ("1.5", 1.5), ("5m", 300.0), ("0", 0.0)]
)
def test_commands_that_change_databases_have_lock_timeout(command: str, text: str, seconds: float) -> None:
    assert seconds == overrides(command, "--lock-timeout", text).lock_timeout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["upp"], id="unknown command"),
        pytest.param(["up", "--databas", "a.db"], id="abbreviated option"),
        pytest.param(["--conf", "a.toml", "up"], id="abbreviated option before the command"),
        pytest.param(["up", "--log-format", "xml"], id="unknown log format"),
        pytest.param(["up", "--log-level", "trace"], id="unknown log level"),
        pytest.param(["up", "-d"], id="no value"),
        pytest.param(["up", "--lock-timeout", "soon"], id="no duration"),
        pytest.param(["up", "--to", "x"], id="no version"),
        pytest.param(["down", "--steps", "0"], id="no steps"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "1 s", "1d", "1S", "1e3", "1.5.5", ".", "1s2s", "\u00b2", "\u0661s", "nan", "inf"],
)
def test_invalid_duration_is_quoted_in_the_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        options.duration(text)

    assert str(caught.value) == f'expected a duration such as "250ms", "30s" or "5m", got {text!r}'


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("007", 7), ("20240101120000", 20240101120000)])
def test_version_consists_of_digits(text: str, number: int) -> None:
    assert number == options.version(text)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "1_000", " 1", "x", "\u0661", "\u00b2", "7_add_users", str(2**63), "9" * 5000]
)
def test_invalid_version_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        options.version(text)

    assert str(caught.value) == f"expected a version, 0 to 9223372036854775807, got {text!r}"


@pytest.mark.parametrize("text", ["", "0", "00", "-1", "1.5", "x", "\u0661", "\u00b2"])
def test_invalid_count_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        options.count(text)

    assert str(caught.value) == f"expected a number, 1 or more, got {text!r}"


def test_count_is_1_or_more() -> None:
    assert options.count("12") == 12


def test_configuration_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "migrated.toml").write_text('log_level = "debug"\n')
    monkeypatch.chdir(tmp_path)

    config = options.configuration(build_parser().parse_args(["status", "-d", "other.db"]))

    assert config.log_level == "debug"
    assert config.targets[0].databases == ("other.db",)

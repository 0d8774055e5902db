"""What the README promises, read by a test."""

import argparse
import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT, query

from migrated.cli import COMMANDS, EXIT_CODES, build_parser
from migrated.config.file import HOOK_KEYS, POLICY_KEYS, TARGET_KEYS, TOP_KEYS
from migrated.config.load import Overrides, load_config
from migrated.config.settings import Config, HookName, Target
from migrated.core import errors
from migrated.core.migration import Directive
from migrated.core.status import OnChanged, OnLate, OnMissing, State
from migrated.daemon.control.protocol import NAMES, PROTOCOL
from migrated.fleet.hooks import Occasion
from migrated.logs.events import EVENTS

README = (ROOT / "README.md").read_text()


def _section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)

    assert found is not None, title
    return found[1]


def _table(text: str) -> list[list[str]]:
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-| ")][1:]


def _code(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)

    assert found is not None
    return found[1]


def test_table_of_events_is_the_code_s() -> None:
    expected = [[f"`{event.name}`", event.level, event.meaning] for event in EVENTS.values()]

    assert _table(_section("Log events")) == expected


def test_table_of_exit_codes_names_those_of_the_errors_and_of_the_help() -> None:
    in_readme = {int(row[0]) for row in _table(_section("Exit codes"))}
    in_help = {int(number) for number in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)}
    of_errors = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.MigrationError)
    }

    assert in_readme == in_help == of_errors | {0, 2, 3}


def test_table_of_commands_is_the_program_s() -> None:
    in_readme = [row[0].strip("`").split()[1] for row in _table(_section("Commands"))]

    assert sorted(in_readme) == sorted(COMMANDS)


def test_every_option_stands_in_the_readme() -> None:
    text = _section("Commands")
    subparsers = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    parsers = subparsers[0].choices.values()
    for parser in parsers:
        parser.load()
    options = {
        option
        for parser in parsers
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }

    assert "--lock-timeout" in options
    assert {option for option in options if option not in text} == set()


def test_configuration_shown_holds_every_key_with_its_default(tmp_path: Path) -> None:
    shown = _code(_section("Configuration"), "toml")
    # A key without a default stands in a comment.
    table = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", shown, flags=re.MULTILINE))
    (target,) = table.pop("target")
    (tmp_path / "migrated.toml").write_text(shown)
    config = load_config(Overrides(), tmp_path)

    assert table.keys() == TOP_KEYS.keys()
    assert table["hooks"].keys() == HOOK_KEYS.keys()
    assert target.keys() == TARGET_KEYS.keys() | POLICY_KEYS.keys()
    default = Target(str(tmp_path), ("app.db",), str(tmp_path / "migrations"))
    assert Config(str(tmp_path / "migrated.toml"), (default,)) == config


def test_what_hooks_are_told_stands_in_the_readme() -> None:
    occasion = Occasion(HookName.ON_FAILURE, "r", "failed", ("/srv/a.db",) * 20_000, (1,), "reason", "file")
    told = {*occasion.variables(), *occasion._replace(databases=("/srv/a.db",)).variables()}

    assert {row[0].strip("`") for row in _table(_section("Hooks"))} == told


@pytest.mark.parametrize(
    ("key", "choices"), [("on_changed", OnChanged), ("on_missing", OnMissing), ("on_late", OnLate)]
)
def test_policies_and_their_values_are_told(key: str, choices: type[OnChanged | OnLate | OnMissing]) -> None:
    (row,) = [row for row in _table(_section("When it refuses")) if row[1] == f"`{key}`"]

    assert [value for value in re.findall(r"`([a-z]+)`", row[2]) if value in list(choices)] == list(choices)


def test_states_and_directives_are_told() -> None:
    assert [state for state in State if f"`{state}`" not in _section("When it refuses")] == []
    assert [each for each in Directive if f"`-- migrated: {each}`" not in _section("Migration files")] == []


def test_errors_are_told() -> None:
    from migrated import __all__ as public

    assert [name for name in public if name.endswith("Error") and f"`{name}`" not in _section("Library")] == []


def test_requests_to_a_daemon_are_told() -> None:
    shown = [json.loads(row[0].strip("`")) for row in _table(_section("Control"))]

    assert [request["request"] for request in shown] == list(NAMES)
    assert {request["version"] for request in shown} == {PROTOCOL}


def test_keys_of_the_log_are_told() -> None:
    from migrated.core.errors import MigrationError
    from migrated.logs.logger import failure_keys

    keys = failure_keys(MigrationError("x")).keys() - {"excerpt"}

    assert {key for key in keys if f"`{key}`" not in _section("Log events")} == set()


def test_files_for_log_aggregation_are_those_there_are() -> None:
    told = {name for row in _table(_section("Log aggregation")) for name in re.findall(r"`([\w-]+\.\w+)`", row[0])}

    assert told == {path.name for path in (ROOT / "systemd/logging").iterdir()}


def test_ledger_shown_is_the_one_made(database: Path) -> None:
    from migrated import MigrationRunner

    MigrationRunner(database).init()
    ((made,),) = query(database, "SELECT sql FROM sqlite_schema WHERE name = '_migrations'")
    shown = _code(_section("The ledger"), "sql").strip().replace("IF NOT EXISTS ", "")

    assert shown == made


def test_lines_for_the_unit_of_an_application_are_those_of_the_example() -> None:
    shown = _code(_section("Service"), "ini").split()
    example = (ROOT / "systemd/example-application.service").read_text().split()

    assert set(shown) <= set(example)


def test_library_example_runs(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _code(_section("Library"), "python")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 create_users 20")


def test_migration_file_shown_is_applied_and_rolled_back(tmp_path: Path) -> None:
    from migrated import MigrationRunner

    (tmp_path / "migrations").mkdir()
    shown = _code(_section("Migration files"), "sql")
    (tmp_path / "migrations/20240101120000_create_users.sql").write_text(shown)
    runner = MigrationRunner(tmp_path / "app.db")
    runner.add_directory(tmp_path / "migrations")

    assert [entry.name for entry in runner.run()] == ["create_users"]
    assert [entry.name for entry in runner.run_to(0)] == ["create_users"]


def test_two_commands_do_the_set_up() -> None:
    """Continuous integration runs the second as it stands; here: both are there and make their own environment."""
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)

    assert [command.rpartition("&& ")[2] for command in commands] == [
        ".venv/bin/migrated run",
        ".venv/bin/python -m pytest",
    ]
    assert all(command.startswith("python3 -m venv --without-pip .venv && ") for command in commands)


def _names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} | {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }


def test_every_guarantee_names_a_test_that_is_there() -> None:
    guarantees = re.split(r"^- ", _section("Guarantees"), flags=re.MULTILINE)[1:]
    named = [re.findall(r"`(test_\w+|Test\w+)`", guarantee) for guarantee in guarantees]

    assert len(guarantees) > 10
    assert [text for text, tests in zip(guarantees, named, strict=True) if not tests] == []
    assert {test for tests in named for test in tests} - _names_of_tests() == set()


def test_table_of_benchmarks_is_the_one_that_was_measured() -> None:
    measured = (ROOT / "tests" / "benchmarks" / "results.md").read_text().splitlines()[2:]
    shown = _section("Benchmarks").splitlines()

    assert len(measured) > 50
    assert [line for line in measured if line not in shown] == []
    assert any(line.startswith("- 20") and "`python tests/benchmarks" in line for line in measured)

"""What the README and the manual promise, read by a test."""

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT, needs, query

from migrated.cli import COMMANDS, EXIT_CODES, build_parser
from migrated.config.file import HOOK_KEYS, POLICY_KEYS, TARGET_KEYS, TOP_KEYS
from migrated.config.load import Overrides, load_config
from migrated.config.settings import Config, HookName, Target
from migrated.core import errors
from migrated.core.migration import Directive
from migrated.core.status import MigrationState, OnChanged, OnLate, OnMissing
from migrated.daemon.control.protocol import NAMES, PROTOCOL
from migrated.fleet.hooks import HookEvent
from migrated.logs.events import EVENTS

LONGEST_README = 12_000
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "migrated" / "docs"
TOPICS = {path.stem: path.read_text() for path in sorted(DOCS.glob("*.md"))}
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
# Each guarantee in docs/safety.md, and the tests that hold it.
GUARANTEES = {
    "All or nothing": ["test_failed_migration_leaves_no_change"],
    "Crash-safe": [
        "test_a_disk_that_fails_anywhere_leaves_every_migration_whole",
        "test_any_failing_system_call_leaves_every_migration_whole",
        "test_a_power_cut_at_any_time_leaves_every_migration_whole",
    ],
    "Applied once": [
        "test_eight_processes_apply_each_migration_once",
        "test_runs_are_correct_without_the_lock_file",
    ],
    "Refused before anything runs": [
        "test_refusal_names_every_offender_of_every_kind",
        "test_edited_migration_is_refused_before_anything_runs",
    ],
    "Nothing is skipped": ["test_late_migration_is_applied_by_default"],
    "Complete rollbacks": [
        "test_rollback_over_an_irreversible_migration_is_refused_as_a_whole",
        "test_rollback_of_an_empty_database_does_nothing",
    ],
    "Same result as SQLite": [
        "test_valid_script_comes_to_the_same_as_in_sqlite_alone",
        "test_broken_script_comes_to_the_same_as_in_sqlite_or_to_nothing",
    ],
    "Only complete files": [
        "test_file_is_not_applied_while_its_writer_pauses",
        "test_file_without_a_lease_must_reach_the_minimum_age",
    ],
    "Exact errors": ["test_error_is_placed_exactly", "test_places_are_those_of_the_file"],
    "Quoted names are checked": ["test_error_is_placed_exactly"],
    "Forbidden statements": [
        "test_forbidden_statement_is_named_and_undoes_the_migration",
        "test_deny_list_applies_to_every_way_of_running_sql",
        "test_load_extension_is_not_allowed",
        "test_trigger_that_writes_to_the_ledger_is_refused",
    ],
    "Time limits": [
        "test_step_beyond_the_stop_deadline_is_rolled_back",
        "test_statement_beyond_the_limit_is_interrupted_and_named",
    ],
    "One transaction for a run": ["test_failure_of_one_migration_rolls_back_all"],
    "Known position": [
        "test_kill_between_statements_leaves_exactly_the_recorded_ones",
        "test_failure_leaves_exactly_the_statements_before_it",
        "test_everything_is_refused_until_the_migration_is_repaired",
    ],
    "Repeatables run once": [
        "test_only_new_or_changed_repeatables_are_applied",
        "test_redo_drops_and_recreates_views",
    ],
    "Harmless edits are recognised": [
        "test_tokens_are_those_of_sqlite",
        "test_white_space_and_comments_between_tokens_are_cosmetic",
        "test_changed_token_is_a_real_difference",
    ],
    "Safe table rebuilds": ["test_rebuilding_a_parent_keeps_the_rows_of_its_children"],
    "No new foreign-key violations": [
        "test_new_foreign_key_violations_are_listed_and_fail_the_migration",
        "test_old_foreign_key_violations_do_not_block_and_new_ones_fail",
    ],
    "Targeted foreign-key checks": [
        "test_untouched_tables_are_not_scanned",
        "test_every_kind_of_key_violation_is_found",
    ],
    "Lost indexes and triggers are reported": [
        "test_rebuild_reports_lost_objects",
        "test_recreated_objects_are_not_reported",
    ],
    "Redo is atomic": [
        "test_failure_leaves_the_database_as_before",
        "test_edited_migration_and_those_above_are_redone_with_the_current_text",
        "test_migration_without_down_text_restores_an_earlier_state_and_other_rows",
    ],
    "Rows survive a redo": [
        "test_rows_of_recreated_tables_are_restored",
        "test_rows_without_a_table_are_reported_with_the_snapshot",
    ],
    "Exact snapshots": [
        "test_snapshot_has_the_content_before_the_run",
        "test_nobody_can_write_between_the_snapshot_and_the_migration",
        "test_damaged_database_is_refused_and_unchanged",
        "test_killed_snapshot_is_not_listed_and_is_removed_by_the_next",
    ],
    "Atomic restore": [
        "test_restore_writes_the_content_into_the_same_file",
        "test_kill_at_any_step_leaves_the_database_and_the_next_restore_cleans_up",
        "test_nobody_writes_between_the_snapshot_and_the_end_of_the_restore",
    ],
    "Faithful schema file": [
        "test_random_schema_is_recreated",
        "test_database_created_from_the_schema_file_is_current",
        "test_failing_write_leaves_the_old_text_and_nothing_else",
        "test_last_of_concurrent_writers_writes_the_latest_schema",
    ],
    "Live applications": [
        "test_application_continues_while_a_runner_migrates",
        "test_application_continues_while_the_daemon_migrates",
    ],
    "Exact copies": [
        "test_copy_of_a_template_equals_a_run",
        "test_nondeterministic_migrations_have_no_template",
        "test_concurrently_written_content_is_not_overwritten",
    ],
    "Idle means closed": [
        "test_no_database_is_open_while_the_daemon_is_idle",
        "test_replaced_database_is_migrated_by_its_own_ledger",
    ],
    "Only trusted files": [
        "test_directory_writable_by_others_is_not_read",
        "test_user_trusts_only_root_himself_and_his_groups",
        "test_configuration_writable_by_others_is_refused_for_any_content",
    ],
    "Independent databases": ["test_broken_database_does_not_stop_the_others"],
    "Contained failures": [
        "test_rollout_is_halted_and_resumed",
        "test_failure_of_one_database_does_not_stop_a_resumed_rollout",
        "test_each_database_is_handled_independently",
        "test_busy_database_does_not_delay_the_others",
    ],
    "Hooks are harmless": [
        "test_failing_hook_does_not_undo_the_migration_and_reload_replaces_it",
        "test_passes_go_on_during_a_slow_hook_and_waiting_runs_are_merged",
    ],
    "Honest watchdog": ["test_hung_worker_stops_the_pings", "test_daemon_sends_pings_during_a_long_migration"],
    "Isolated control socket": ["test_hostile_clients_do_not_stop_the_work", "test_another_user_is_declined"],
    "Pause means pause": ["test_paused_daemon_applies_nothing_until_resumed"],
}
# What stands in a command for something of the reader's own.
_PLACEHOLDERS = {
    **dict.fromkeys(("VERSION", "V", "N"), "1"),
    **dict.fromkeys(("NAME", "ID", "DATABASE", "TEXT", "FILE", "DIR"), "name"),
    "DURATION": "1s",
}


def _section(topic: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TOPICS[topic], re.MULTILINE | re.DOTALL)

    assert found is not None, title
    return found[1]


def _readme_section(title: str) -> str:
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


def _prose(text: str) -> str:
    """A page without its blocks of code."""
    without_fences = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", without_fences, flags=re.MULTILINE)


def _anchors(page: Path) -> list[str]:
    titles = re.findall(r"^#+ (.*)$", _prose(page.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def _links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", _prose(text))


def test_readme_is_short() -> None:
    assert len(README.encode()) <= LONGEST_README


def test_readme_links_to_every_topic() -> None:
    linked = {
        link.removeprefix("migrated/docs/").partition(".md")[0] for link in _links(_readme_section("The manual"))
    }

    assert len(TOPICS) > 10
    assert TOPICS.keys() - linked == set()


@pytest.mark.parametrize("topic", TOPICS)
def test_topic_begins_with_its_title_and_one_sentence(topic: str) -> None:
    title, sentence, *_ = TOPICS[topic].split("\n\n")

    assert re.fullmatch(r"# [A-Z][a-z ]+", title)
    assert re.fullmatch(r"[A-Z].*\.", sentence, re.DOTALL)
    assert not re.search(r"\.\s+[A-Z]", sentence)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in _links(text) if not link.startswith(("https://", "http://"))]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in _anchors(target)):
            broken.append(link)

    assert broken == []
    assert len(_anchors(page)) == len(set(_anchors(page)))


@pytest.mark.parametrize("topic", ["README", *TOPICS])
def test_no_topic_names_a_test(topic: str) -> None:
    text = README if topic == "README" else TOPICS[topic]

    assert re.findall(r"\btest_\w+|\bTest[A-Z]\w+", text) == []


def _commands(text: str) -> list[list[str]]:
    """The arguments of every call of the program in blocks for a shell, and in the prose."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(text))]
    found = []
    for line in lines + spans:
        if not re.match(r"(?:sudo )?(?:\S*/)?migrated [a-z-]", line):
            continue
        words = shlex.split(line.removeprefix("sudo "), comments=True)[1:]
        call = words[: next((n for n, word in enumerate(words) if word in {"|", "&&", ";"}), None)]
        found.append([_PLACEHOLDERS.get(word.strip("[]"), word) for word in call])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_shown_are_understood_by_the_program(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for arguments in _commands(page.read_text()):
        # The name of a command alone may stand in a sentence.
        if len(arguments) == 1 and arguments[0] in COMMANDS:
            continue
        try:
            build_parser().parse_args(arguments)
        except SystemExit:
            refused.append((arguments, capsys.readouterr().err))

    assert refused == []


def test_many_commands_are_shown() -> None:
    shown = {call[0] for page in PAGES for call in _commands(page.read_text())}

    assert COMMANDS.keys() - shown == set()


@needs("patch")
def test_minute_of_use_goes_as_shown(tmp_path: Path) -> None:
    shown = _code(_readme_section("A minute of use"), "sh")
    checked, checks = re.subn(r"# refused with exit code (\d+).*", r'; [ "$?" = \1 ] || exit 99', shown)
    program = tmp_path / "bin" / "migrated"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m migrated "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        ["sh", "-c", checked],
        cwd=tmp_path / "work",
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, checks) == (0, 1), done.stderr
    assert "app.db: 1 snapshot\n" in done.stdout
    history = query(tmp_path / "work" / "app.db", "SELECT action, name FROM _migrations_history ORDER BY id")
    assert history == [("apply", "users"), ("rollback", "users")]


def test_changes_are_in_the_format_they_name() -> None:
    versions = re.findall(r"^## (.*)$", TOPICS["changes"], re.MULTILINE)
    kinds = set(re.findall(r"^### (.*)$", TOPICS["changes"], re.MULTILINE))

    assert [
        version
        for version in versions
        if not re.fullmatch(r"\[Unreleased\]|\[[\d.]+\] - \d{4}-\d\d-\d\d", version)
    ] == []
    assert versions[0] == "[Unreleased]"
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_table_of_events_is_the_code_s() -> None:
    expected = [[f"`{event.name}`", event.level, event.meaning] for event in EVENTS.values()]

    assert _table(_section("logs", "Events")) == expected


def test_table_of_exit_codes_names_those_of_the_errors_and_of_the_help() -> None:
    in_manual = {int(row[0]) for row in _table(_section("commands", "Exit codes"))}
    (in_short,) = re.findall(r"^Exit codes: (.*?)\.", README, re.MULTILINE | re.DOTALL)
    in_readme = {int(number) for number in re.findall(r"\d+", in_short)}
    in_help = {int(number) for number in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)}
    of_errors = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.MigrationError)
    }

    assert in_manual == in_readme == in_help == of_errors | {0, 2, 3}


def test_tables_of_commands_are_the_program_s() -> None:
    in_manual, in_readme = (
        [row[0].strip("`").split()[1] for row in _table(text)]
        for text in (TOPICS["commands"].partition("\n## ")[0], _readme_section("Commands"))
    )

    assert in_manual == in_readme
    assert sorted(in_manual) == sorted(COMMANDS)


def test_every_option_is_in_the_manual() -> None:
    text = TOPICS["commands"]
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
    shown = _code(_section("configuration", "Keys"), "toml")
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


def test_every_key_has_a_topic_that_explains_it() -> None:
    rows = [
        (key, topic)
        for row in _table(_section("configuration", "Keys"))
        for key in re.findall(r"`(\w+)`", row[0])
        for topic in re.findall(r"\((\w+)\.md", row[1])
    ]

    assert [key for key, topic in rows if not re.search(rf"[`.\[]{key}\b", TOPICS[topic])] == []
    explained = {key for key, _ in rows} | {"databases", "migrations", "create", "transaction", "application_id"}
    assert TOP_KEYS.keys() | TARGET_KEYS.keys() | POLICY_KEYS.keys() == explained


def test_variables_of_hooks_are_in_the_manual() -> None:
    occasion = HookEvent(HookName.ON_FAILURE, "r", "failed", ("/srv/a.db",) * 20_000, (1,), "reason", "file")
    told = {*occasion.variables(), *occasion._replace(databases=("/srv/a.db",)).variables()}

    assert {row[0].strip("`") for row in _table(TOPICS["hooks"])} == told


@pytest.mark.parametrize(
    ("key", "choices"), [("on_changed", OnChanged), ("on_missing", OnMissing), ("on_late", OnLate)]
)
def test_policies_and_their_values_are_in_the_manual(
    key: str, choices: type[OnChanged | OnLate | OnMissing]
) -> None:
    (row,) = [row for row in _table(_section("repair", "Policies")) if row[1] == f"`{key}`"]

    assert [value for value in re.findall(r"`([a-z]+)`", row[2]) if value in list(choices)] == list(choices)


def test_states_and_directives_are_in_the_manual() -> None:
    assert [row[0].strip("`") for row in _table(_section("repair", "States"))] == list(MigrationState)
    directives = {row[0] for row in _table(_section("files", "Directives"))}
    assert directives == {f"`-- migrated: {each}`" for each in Directive}


def test_public_names_and_calls_are_in_the_manual() -> None:
    from migrated import MigrationRunner
    from migrated import __all__ as public

    text = TOPICS["library"]
    calls = [name for name in vars(MigrationRunner) if not name.startswith("_") and name != "use"]

    assert [name for name in public if not re.search(rf"\b{name}\b", text)] == []
    assert [name for name in calls if f"`{name}(" not in text] == []


def test_requests_to_a_daemon_are_in_the_manual() -> None:
    shown = [json.loads(row[0].strip("`")) for row in _table(TOPICS["control"])]

    assert [request["request"] for request in shown] == list(NAMES)
    assert {request["version"] for request in shown} == {PROTOCOL}


def test_keys_of_the_log_are_in_the_manual() -> None:
    from migrated.core.errors import MigrationError
    from migrated.logs.logger import failure_keys

    keys = failure_keys(MigrationError("x")).keys() - {"excerpt"}

    assert {key for key in keys if f"`{key}`" not in _section("logs", "Keys")} == set()


def test_files_for_log_aggregation_are_those_there_are() -> None:
    rows = _table(_section("logs", "Alerts"))
    told = {name for row in rows for name in re.findall(r"`([\w-]+\.\w+)`", row[0])}

    assert told == {path.name for path in (ROOT / "systemd/logging").iterdir()}


def test_ledger_shown_is_the_one_made(database: Path) -> None:
    from migrated import MigrationRunner

    MigrationRunner(database).init()
    ((made,),) = query(database, "SELECT sql FROM sqlite_schema WHERE name = '_migrations'")
    shown = _code(_section("safety", "Migrations table"), "sql").strip().replace("IF NOT EXISTS ", "")

    assert shown == made


def test_lines_for_the_unit_of_an_application_are_those_of_the_example() -> None:
    shown = _code(TOPICS["service"], "ini").split()
    example = (ROOT / "systemd/example-application.service").read_text().split()

    assert set(shown) <= set(example)


def test_library_example_runs(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _code(TOPICS["library"], "python")],
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
    shown = _code(_section("files", "Format"), "sql")
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


def test_every_guarantee_is_held_by_tests_that_are_there() -> None:
    stated = re.findall(r"^- \*\*(.*?)\.\*\*", _section("safety", "Guarantees"), re.MULTILINE)

    assert stated == list(GUARANTEES)
    assert len(stated) == _section("safety", "Guarantees").count("\n- ")
    assert [guarantee for guarantee, tests in GUARANTEES.items() if not tests] == []
    assert {test for tests in GUARANTEES.values() for test in tests} - _names_of_tests() == set()


def test_ten_guarantees_of_the_readme_are_those_of_the_manual() -> None:
    stated = re.findall(r"^\d+\. \*\*(.*?)\.\*\* .*\.$", _readme_section("Ten guarantees"), re.MULTILINE)

    assert len(stated) == 10
    assert set(stated) <= GUARANTEES.keys()


def test_ratios_in_the_readme_are_those_that_were_measured() -> None:
    measured = (ROOT / "tests" / "benchmarks" / "results.md").read_text().splitlines()
    compared, what = {}, ""
    for row in _table("\n".join(measured)):
        what = row[0] or what
        compared[what, row[2]] = row[4]
    shown = _table(_readme_section("Speed"))

    assert len(compared) > 50
    assert any(line.startswith("- 20") and "`python tests/benchmarks" in line for line in measured)
    assert len(shown) > 4
    assert [row for row in shown if compared.get((row[0], row[1])) != row[2]] == []


def test_modules_named_for_contributors_are_there() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    rooms = "cli|checks|daemon|fleet|engine|config|sources|logs|system|core"
    named = {name.rstrip("/") for name in re.findall(rf"`((?:{rooms})/[\w/]+)`", text)}

    assert len(named) > 30
    package = ROOT / "migrated"
    assert [
        name for name in sorted(named) if not ((package / f"{name}.py").is_file() or (package / name).is_dir())
    ] == []

from pathlib import Path

import pytest

from migrated.config.file import TOP_KEYS
from migrated.config.load import Overrides, load_config
from migrated.config.settings import Config, HookName, Hooks, Target, parse_duration, parse_size
from migrated.core.errors import ConfigError
from migrated.core.status import OnChanged, OnLate, OnMissing, Policy

HINT = "\nhint: `migrated help configuration` lists every key and its values"
DURATION = 'expected a duration such as "250ms", "30s" or "5m", got '


def write(directory: Path, text: str, name: str = "migrated.toml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def load(directory: Path, text: str) -> Config:
    write(directory, text)
    return load_config(Overrides(), directory)


def refusal(directory: Path, overrides: Overrides = Overrides()) -> ConfigError:  # noqa: B008 - frozen
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, directory)
    return caught.value


def target(directory: Path, *databases: str, migrations: str = "migrations") -> Target:
    return Target(str(directory), databases or ("app.db",), str(directory / migrations))


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0), ("0s", 0.0), ("1.5s", 1.5), ("0.5m", 30.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "30", "30 s", " 30s", "30s ", "30s\n", "30S", "30sec", "1d", "1us", "-1s", "+1s", ".5s", "5.s"),
        *("1,5s", "1m30s", "1e3s", "nan", "infs", "\u0663s"),
    ],
)
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        parse_duration(text)

    assert str(caught.value) == f"{DURATION}{text!r}"


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(
            ("0B", 0),
            ("512B", 512),
            ("1kB", 1000),
            ("1KB", 1000),
            ("256MB", 256_000_000),
            ("1.5 GB", 1_500_000_000),
        ),
        *(("2TB", 2 * 10**12), ("1KiB", 1024), ("3MiB", 3 * 2**20), ("1GiB", 2**30), ("1TiB", 2**40)),
    ],
)
def test_size(text: str, size: int) -> None:
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "MB", "256", "256 mb", "-1MB", "1e3MB", "1M", "1Mb", "1MB ", "nanMB"])
def test_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        parse_size(text)

    assert str(caught.value) == f'expected a size such as "256MB" or "1GiB", got {text!r}'


# Without a file


def test_defaults(tmp_path: Path) -> None:
    assert load_config(Overrides(), tmp_path) == Config(
        "defaults and options, no configuration file",
        (Target(str(tmp_path), ("app.db",), str(tmp_path / "migrations")),),
        log_format="auto",
        log_level="info",
        settle=0.05,
        settle_max=2.0,
        resync_interval=30.0,
        watch="auto",
        lock_timeout=10.0,
    )


def test_default_policy_refuses_changed_and_missing_and_applies_late() -> None:
    assert Policy() == Policy(OnChanged("refuse"), OnMissing("refuse"), OnLate("apply"))


@pytest.mark.parametrize(
    ("url", "database"),
    [
        pytest.param("sqlite:data.db", "data.db", id="path"),
        pytest.param("sqlite:./data/app.db", "./data/app.db", id="path with a dot"),
        pytest.param("sqlite:/var/lib/app.db", "/var/lib/app.db", id="absolute path"),
        pytest.param("sqlite:///data.db", "data.db", id="three slashes"),
        pytest.param("sqlite:////var/lib/app.db", "/var/lib/app.db", id="four slashes"),
        pytest.param("sqlite:a b%20#.db", "a b%20#.db", id="taken as it stands"),
    ],
)
def test_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, database: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    assert load_config(Overrides(), tmp_path).targets == (target(tmp_path, database),)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("app.db", id="no scheme"),
        pytest.param("sqlite", id="scheme without its colon"),
        pytest.param("sqlite:", id="no path"),
        pytest.param("sqlite:///", id="slashes alone"),
        pytest.param("sqlite://app.db", id="two slashes: that would be a host"),
        pytest.param("sqlite://host/app.db", id="a host"),
        pytest.param("sqlite3:app.db", id="another scheme"),
        pytest.param("SQLITE:app.db", id="upper case"),
        pytest.param("file:app.db", id="a file URI"),
        pytest.param("postgres://localhost/app", id="another database"),
        pytest.param("sqlite:app.db?mode=ro", id="parameters"),
        pytest.param("sqlite::memory:", id="in memory"),
        pytest.param("sqlite:///:memory:", id="in memory, three slashes"),
    ],
)
def test_bad_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    assert refusal(tmp_path).faults == (
        f"options: DATABASE_URL: expected sqlite:PATH or sqlite:///PATH, got {url!r}",
    )


def test_database_url_is_ignored_with_a_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://localhost/app")

    assert load(tmp_path, "").targets == (target(tmp_path),)


def test_database_url_is_ignored_with_the_database_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://localhost/app")

    assert load_config(Overrides(databases=["a.db"]), tmp_path).targets == (target(tmp_path, "a.db"),)


# Which file


def test_every_key(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        log_format = "json"
        log_level = "debug"
        settle = "75ms"
        settle_max = "3s"
        resync_interval = "1m"
        watch = "polling"
        lock_timeout = "0s"

        [[target]]
        databases = ["data/app.db", "tenants/*.db"]
        migrations = "sql"
        create = false
        busy_timeout = "1h"
        on_changed = "refuse"
        on_missing = "rollback"
        on_late = "refuse"

        [[target]]
        """,
    )

    first = Target(
        str(tmp_path),
        ("data/app.db", "tenants/*.db"),
        str(tmp_path / "sql"),
        create=False,
        policy=Policy(OnChanged.REFUSE, OnMissing.ROLLBACK, OnLate.REFUSE),
        busy_timeout=3600.0,
    )
    assert config == Config(
        str(tmp_path / "migrated.toml"),
        (first, target(tmp_path)),
        log_format="json",
        log_level="debug",
        settle=0.075,
        settle_max=3.0,
        resync_interval=60.0,
        watch="polling",
        lock_timeout=0.0,
    )


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config(str(tmp_path / "migrated.toml"), (target(tmp_path),))


def test_table_in_pyproject(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[project]\nname = "x"\n[tool.migrated]\nsettle = "1s"\n[[tool.migrated.target]]\ndatabases = ["a.db"]\n',
        "pyproject.toml",
    )

    assert load_config(Overrides(), tmp_path) == Config(str(path), (target(tmp_path, "a.db"),), settle=1.0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[project]\nname = "migrated"\n', id="the word elsewhere"),
        pytest.param('[tool.other]\nmigrated = "yes"\n', id="a key of another tool"),
        pytest.param('[tool]\nmigrated = "yes"\n', id="no table"),
        pytest.param("[tool.migrated-x]\nsettle = 1\n", id="a longer name"),
        pytest.param("[migrated]\nsettle = 1\n", id="not under tool"),
        pytest.param("[[[ not TOML", id="not TOML, and not about us"),
    ],
)
def test_pyproject_without_the_table_is_ignored(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, "pyproject.toml")

    assert load_config(Overrides(), tmp_path) == Config(
        "defaults and options, no configuration file", (target(tmp_path),)
    )


def test_migrated_toml_has_precedence_over_pyproject(tmp_path: Path) -> None:
    write(tmp_path, "[tool.migrated]\nsettle = 1\n", "pyproject.toml")
    path = write(tmp_path, 'settle = "1s"\n')

    assert load_config(Overrides(), tmp_path) == Config(str(path), (target(tmp_path),), settle=1.0)


def test_file_given_by_option_has_precedence(tmp_path: Path) -> None:
    write(tmp_path, "settle = 1\n")
    path = write(tmp_path, 'settle = "2s"\n', "other/name.toml")

    config = load_config(Overrides(file="other/name.toml"), tmp_path)

    assert config == Config(str(path), (target(tmp_path / "other"),), settle=2.0)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[[target]]\ndatabases = ["a.db", "/b.db"]\nmigrations = "../sql"\n', "deploy/x.toml")

    config = load_config(Overrides(file="deploy/x.toml"), tmp_path)

    here = tmp_path / "deploy"
    assert config.targets == (Target(str(here), ("a.db", "/b.db"), str(here / "../sql")),)


def test_absolute_migrations_stay_absolute(tmp_path: Path) -> None:
    config = load(tmp_path, '[[target]]\nmigrations = "/srv/sql"\n')

    assert config.targets == (target(tmp_path, migrations="/srv/sql"),)


def test_relative_working_directory_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "")

    assert load_config(Overrides()).targets == (target(tmp_path),)


# Over the file


def test_options_override_the_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        'log_format = "json"\nlog_level = "debug"\nlock_timeout = "1s"\n'
        '[[target]]\ndatabases = ["a.db"]\nmigrations = "a"\ncreate = false\n',
    )

    config = load_config(
        Overrides(
            databases=["b.db", "c/*.db"], migrations="b", log_format="console", log_level="error", lock_timeout=0.0
        ),
        tmp_path,
    )

    expected = Target(str(tmp_path), ("b.db", "c/*.db"), str(tmp_path / "b"), create=False)
    assert config == Config(
        str(tmp_path / "migrated.toml"), (expected,), log_format="console", log_level="error", lock_timeout=0.0
    )


def test_options_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    write(tmp_path, '[[target]]\ndatabases = ["a.db"]\nmigrations = "a"\n', "deploy/x.toml")

    config = load_config(Overrides(file="deploy/x.toml", databases=["b.db"], migrations="b"), tmp_path)

    assert config.targets == (target(tmp_path, "b.db", migrations="b"),)


def test_single_option_keeps_the_other_values_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[[target]]\ndatabases = ["a.db"]\nmigrations = "a"\n', "deploy/x.toml")

    config = load_config(Overrides(file="deploy/x.toml", migrations="b"), tmp_path)

    assert config.targets == (Target(str(tmp_path / "deploy"), ("a.db",), str(tmp_path / "b")),)


@pytest.mark.parametrize("overrides", [Overrides(databases=["x.db"]), Overrides(migrations="x")], ids=["-d", "-m"])
def test_database_option_with_several_targets_is_a_fault(tmp_path: Path, overrides: Overrides) -> None:
    path = write(tmp_path, '[[target]]\ndatabases = ["a.db"]\n[[target]]\ndatabases = ["b.db"]\n')

    assert str(refusal(tmp_path, overrides)) == (
        f"{path}:1: target: -d and -m replace a single target; the configuration has several{HINT}"
    )


@pytest.mark.parametrize("database", ["", ":memory:"])
def test_database_option_must_be_a_file(tmp_path: Path, database: str) -> None:
    error = refusal(tmp_path, Overrides(databases=[database]))

    assert str(error) == f"options: -d: {database!r} is not a file path{HINT}"


# Faults


def test_all_faults_are_reported_together_with_key_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """log_format = "xml"
log_level = 3
settle = 50
settle_max = 0.5
resync_interval = "0s"
watch = "no"
lock_timeout = "soon"
colour = true

[[target]]
databases = "a.db"
migrations = 7
create = "yes"
on_missing = true
on_late = "never"
snapshots = { when = "always", keep = 0 }
extra = 1

[[target]]
databases = []
migrations = ""
busy_timeout = "-1s"

[[target]]
databases = ["", ":memory:", "a.db"]
""",
    )
    top_keys = ", ".join(TOP_KEYS)
    when = "expected one of never, before-run, before-each"
    target_keys = (
        "databases, migrations, create, busy_timeout, statement_timeout, transaction, snapshots, application_id, "
        "schema_file, waves, max_failures, on_changed, on_missing, on_late"
    )
    faults = [
        "1: log_format: expected one of auto, json, ecs, otel, console, got 'xml'",
        "2: log_level: expected one of debug, info, warning, error, critical, got 3",
        f"3: settle: {DURATION}50",
        f"4: settle_max: {DURATION}0.5",
        "6: watch: expected one of auto, events, polling, got 'no'",
        f"7: lock_timeout: {DURATION}'soon'",
        f"8: colour: unknown key; known are {top_keys}",
        "5: resync_interval: must be greater than zero",
        "11: target[0].databases: expected `array`, got 'a.db'",
        "12: target[0].migrations: expected `str`, got 7",
        "13: target[0].create: expected `bool`, got 'yes'",
        "14: target[0].on_missing: expected one of refuse, ignore, rollback, got True",
        "15: target[0].on_late: expected one of apply, refuse, got 'never'",
        f"16: target[0].snapshots.when: {when}, got {{'when': 'always', 'keep': 0}}",
        f"17: target[0].extra: unknown key; known are {target_keys}",
        f"22: target[1].busy_timeout: {DURATION}'-1s'",
        "20: target[1].databases: expected at least one path or glob",
        "21: target[1].migrations: '' is not a file path",
        "25: target[2].databases: '' is not a file path",
        "25: target[2].databases: ':memory:' is not a file path",
    ]
    expected = tuple(f"{path}:{fault}" for fault in faults)

    error = refusal(tmp_path)

    assert expected == error.faults
    assert str(error) == "the configuration has 20 faults:\n" + "\n".join(expected) + HINT
    assert error.exit_code == 78


def test_single_fault_is_reported_without_a_count(tmp_path: Path) -> None:
    path = write(tmp_path, "# how long to wait\n\nsettle = 50\n")

    assert str(refusal(tmp_path)) == f"{path}:3: settle: {DURATION}50{HINT}"


@pytest.mark.parametrize("value", ['"redoo"', '"Refuse"', '""', "true", "1"])
def test_unknown_policy_value_is_a_fault(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"[[target]]\non_changed = {value}\n")
    got = {"true": "True", "1": "1"}.get(value, value.replace('"', "'"))

    assert refusal(tmp_path).faults == (
        f"{path}:2: target[0].on_changed: expected one of {', '.join(OnChanged)}, got {got}",
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("target = []", id="no table"),
        pytest.param("target = [1]", id="no tables"),
        pytest.param('target = "a.db"', id="a text"),
        pytest.param("[target]\n", id="a single table"),
    ],
)
def test_targets_are_tables_in_a_list(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    assert refusal(tmp_path).faults == (f"{path}:1: target: expected one or more tables, written [[target]]",)


def test_misspelt_target_is_an_unknown_key(tmp_path: Path) -> None:
    path = write(tmp_path, "\n[[targets]]\n")

    known = ", ".join(TOP_KEYS)
    assert refusal(tmp_path).faults == (f"{path}:2: targets: unknown key; known are {known}",)


def test_fault_line_is_in_the_right_target(tmp_path: Path) -> None:
    path = write(tmp_path, '[[target]]\ncreate = true\n[[target]]\n"create" = 1\n[[target]]\ncreate = 2\n')

    assert refusal(tmp_path).faults == (
        f"{path}:4: target[1].create: expected `bool`, got 1",
        f"{path}:6: target[2].create: expected `bool`, got 2",
    )


def test_fault_in_an_inline_table_has_no_line(tmp_path: Path) -> None:
    path = write(tmp_path, "target = [{ create = 1 }]\n")

    assert refusal(tmp_path).faults == (f"{path}: target[0].create: expected `bool`, got 1",)


def test_faults_in_pyproject_have_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[project]\n[tool.migrated]\nsettle = 1\n\n[[tool.migrated.target]]\ncreate = 1\n",
        "pyproject.toml",
    )

    assert refusal(tmp_path).faults == (
        f"{path}:3: settle: {DURATION}1",
        f"{path}:6: target[0].create: expected `bool`, got 1",
    )


def test_line_is_not_that_of_another_tools_key(tmp_path: Path) -> None:
    """The table of pytest also has a key `log_level`."""
    path = write(
        tmp_path,
        '[tool.pytest.ini_options]\nlog_level = "DEBUG"\n\n[tool.migrated]\nlog_level = "loud"\n',
        "pyproject.toml",
    )

    assert refusal(tmp_path).faults == (
        f"{path}:5: log_level: expected one of debug, info, warning, error, critical, got 'loud'",
    )


def test_line_is_not_that_of_another_tools_target(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[[tool.other.target]]\ncreate = 1\n\n[[tool.migrated.target]]\ncreate = 1\n",
        "pyproject.toml",
    )

    assert refusal(tmp_path).faults == (f"{path}:5: target[0].create: expected `bool`, got 1",)


def test_faults_of_file_and_options_come_together(tmp_path: Path) -> None:
    path = write(tmp_path, "settle = 1\n")

    assert refusal(tmp_path, Overrides(databases=[":memory:"])).faults == (
        f"{path}:1: settle: {DURATION}1",
        f"{path}: -d: ':memory:' is not a file path",
    )


# Hooks


def test_hooks(tmp_path: Path) -> None:
    config = load(tmp_path, '[hooks]\nafter_apply = ["sqlc", "generate"]\ntimeout = "5m"\n')

    assert config.hooks == Hooks(("sqlc", "generate"), (), 300.0)
    assert [config.hooks.command(name) for name in HookName] == [("sqlc", "generate"), ()]


@pytest.mark.parametrize("text", ["", "[hooks]", "hooks = {}", "[hooks]\nafter_apply = []\non_failure = []"])
def test_there_are_no_hooks_by_default(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).hooks == Hooks((), (), 60.0)


def test_hooks_run_in_the_directory_of_the_file_despite_options(tmp_path: Path) -> None:
    write(tmp_path, "", "deploy/x.toml")
    overrides = Overrides(file="deploy/x.toml", databases=["b.db"], migrations="b")

    assert load_config(overrides, tmp_path).directory == str(tmp_path / "deploy")


def test_faults_of_hooks_have_their_key_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """[hooks]
after_apply = "sqlc generate --file 'a b'"
on_failure = ["alert", 3]
timeout = 60
before_apply = ["x"]
""",
    )
    expected = "expected a list of strings, the program and its arguments, such as"
    line = "sqlc generate --file 'a b'"

    assert refusal(tmp_path).faults == (
        f'{path}:2: hooks.after_apply: {expected} ["sqlc", "generate", "--file", "a b"], got {line!r}',
        f'{path}:3: hooks.on_failure: {expected} ["sqlc", "generate"], got [\'alert\', 3]',
        f"{path}:4: hooks.timeout: {DURATION}60",
        f"{path}:5: hooks.before_apply: unknown key; known are after_apply, on_failure, timeout",
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("hooks = 3", "1: hooks: expected a table, written [hooks]", id="a number"),
        pytest.param("[[hooks]]", "1: hooks: expected a table, written [hooks]", id="a list of tables"),
        pytest.param('[hooks]\ntimeout = "0s"', "2: hooks.timeout: must be greater than zero", id="no time"),
        pytest.param(
            "hooks = { timeout = 1 }", f"1: hooks.timeout: {DURATION}1", id="inline, at the line of the table"
        ),
        pytest.param(
            '[hooks]\non_failure = [""]',
            "2: hooks.on_failure: expected a program name as the first element, got ['']",
            id="no program",
        ),
        pytest.param(
            '[hooks]\non_failure = ["a", "\\u0000"]',
            "2: hooks.on_failure: arguments must not contain a NUL character, got ['a', '\\x00']",
            id="NUL",
        ),
        pytest.param(
            '[hooks]\non_failure = "it\'s"',
            '2: hooks.on_failure: expected a list of strings, the program and its arguments, such as ["sqlc", '
            '"generate"], got "it\'s"',
            id="a quotation mark left open",
        ),
    ],
)
def test_bad_hooks(tmp_path: Path, text: str, fault: str) -> None:
    path = write(tmp_path, text)

    assert refusal(tmp_path).faults == (f"{path}:{fault}",)


def test_line_is_not_that_of_another_tables_timeout(tmp_path: Path) -> None:
    """The table of pytest also has a key `timeout`."""
    path = write(
        tmp_path,
        "[tool.migrated]\n[tool.pytest.ini_options]\ntimeout = 60\n\n[tool.migrated.hooks]\ntimeout = 60\n",
        "pyproject.toml",
    )

    assert refusal(tmp_path).faults == (f"{path}:6: hooks.timeout: {DURATION}60",)


def test_file_that_is_not_toml(tmp_path: Path) -> None:
    path = write(tmp_path, "settle = \n")

    assert str(refusal(tmp_path)) == (
        f"{path}: not TOML: Invalid value (at line 1, column 10)\n"
        "hint: check the file given with -c, or the one in this directory; see `migrated help configuration`"
    )


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "migrated.toml"
    path.write_bytes(b'log_format = "\xff"\n')

    (fault,) = refusal(tmp_path).faults

    assert fault.startswith(f"{path}: not TOML: 'utf-8' codec can't decode byte 0xff")


def test_missing_file_given_by_option_is_a_fault(tmp_path: Path) -> None:
    assert str(refusal(tmp_path, Overrides(file="x.toml"))) == (
        f"{tmp_path / 'x.toml'}: cannot be read: No such file or directory\n"
        "hint: check the file given with -c, or the one in this directory; see `migrated help configuration`"
    )


@pytest.mark.parametrize("name", ["migrated.toml", "pyproject.toml"])
def test_file_that_cannot_be_read_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    assert refusal(tmp_path).faults == (f"{tmp_path / name}: cannot be read: Is a directory",)


def test_invalid_pyproject_that_mentions_migrated_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.migrated]\nsettle =\n", "pyproject.toml")

    assert refusal(tmp_path).faults == (f"{path}: not TOML: Invalid value (at line 2, column 9)",)


def test_pyproject_given_by_option_must_have_the_table(tmp_path: Path) -> None:
    path = write(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml")

    assert refusal(tmp_path, Overrides(file="pyproject.toml")).faults == (
        f"{path}: tool.migrated: there is no such table",
    )


@pytest.mark.parametrize("text", ["settle = " + "9" * 5000, "settle = " + "[" * 5000], ids=["digits", "depth"])
def test_toml_that_breaks_the_parser_is_a_fault(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    (fault,) = refusal(tmp_path).faults

    assert fault.startswith(f"{path}: not TOML: ")


def test_empty_database_url_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")

    assert load_config(Overrides(), tmp_path).targets == (target(tmp_path),)


# The schema file


def test_schema_file_is_relative_to_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, '[[target]]\nschema_file = "db/schema.sql"\n[[target]]\ndatabases = ["b.db"]\n')

    assert [one.schema_file for one in config.targets] == [str(tmp_path / "db/schema.sql"), None]


MIGRATIONS_DIRECTORY = "is in the migrations directory, where it would be read as a migration"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param('schema_file = ""', "'' is not a file path", id="empty"),
        pytest.param('schema_file = "a\\u0000"', "'a\\x00' is not a file path", id="NUL"),
        pytest.param("schema_file = 7", "expected `str`, got 7", id="no text"),
        pytest.param('schema_file = "there"', "{here}/there is a directory", id="directory"),
        pytest.param(
            'schema_file = "migrations/schema.sql"',
            f"{{here}}/migrations/schema.sql {MIGRATIONS_DIRECTORY}",
            id="migration",
        ),
        pytest.param(
            'schema_file = "link/schema.sql"\nmigrations = "there"',
            f"{{here}}/link/schema.sql {MIGRATIONS_DIRECTORY}",
            id="migration by a link",
        ),
        pytest.param(
            'schema_file = "other/schema.sql"\n[[target]]\nmigrations = "other"\ndatabases = ["b.db"]',
            f"{{here}}/other/schema.sql {MIGRATIONS_DIRECTORY}",
            id="migration of another target",
        ),
        pytest.param(
            'schema_file = "./there/../app.db"',
            "{here}/there/../app.db is, or would match, one of the databases app.db",
            id="database",
        ),
        pytest.param(
            'schema_file = "data/schema.sql"\ndatabases = ["a.db", "data/*"]',
            "{here}/data/schema.sql is, or would match, one of the databases a.db, data/*",
            id="database by a pattern",
        ),
    ],
)
def test_schema_file_that_would_overwrite_something_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    path = write(tmp_path, f"[[target]]\n{text}\n")

    assert refusal(tmp_path).faults == (f"{path}:2: target[0].schema_file: {fault.format(here=tmp_path)}",)


@pytest.mark.parametrize("second", ["schema.sql", "there/../schema.sql", "link.sql"])
def test_two_targets_cannot_have_one_schema_file(tmp_path: Path, second: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.sql").symlink_to("schema.sql")
    path = write(
        tmp_path,
        '[[target]]\nschema_file = "schema.sql"\n'
        f'[[target]]\ndatabases = ["b.db"]\nschema_file = "{second}"\n[[target]]\ndatabases = ["c.db"]\n',
    )

    (fault,) = refusal(tmp_path).faults

    reason = f"{tmp_path}/{second} is also the schema_file of another target; each target needs its own"
    assert fault == f"{path}:5: target[1].schema_file: {reason}"


def test_options_can_conflict_with_a_schema_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[[target]]\nschema_file = "sql/schema.sql"\n')

    (fault,) = refusal(tmp_path, Overrides(migrations="sql")).faults

    assert fault == f"{path}:2: target[0].schema_file: {tmp_path}/sql/schema.sql {MIGRATIONS_DIRECTORY}"


@pytest.mark.parametrize("below", ["migrations/db/schema.sql", "schema.sql"])
def test_schema_file_in_another_directory_is_accepted(tmp_path: Path, below: str) -> None:
    (tmp_path / "migrations").mkdir()

    assert load(tmp_path, f'[[target]]\nschema_file = "{below}"\n').targets[0].schema_file == str(tmp_path / below)

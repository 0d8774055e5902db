"""Log collectors with the shipped configurations, on a log that has every event."""

import json
import os
import random
import re
import shutil
import string
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from daemon_process import poll, running
from support import ROOT

from migrated.core.errors import ChecksumMismatchError, DatabaseError, ExecutionFailedError
from migrated.daemon.scheduler import RepeatTimer
from migrated.logs import events, logger
from migrated.logs.events import EVENTS, Event
from migrated.logs.logger import Log

SHIPPED = ROOT / "systemd/logging"
LINES = 4000
# Such texts as break what takes a log apart by itself.
TEXTS = [
    "plain",
    'quoted "twice" and \\ once',
    "two\nlines",
    "café \u2028 \U0001f600",
    "/srv/\udcff.db",
    "{x}: 1, '2'",
]
NUMBERS = {"version", "line", "column", "execution_time_ms", "rows_changed", "pending", "applied", "size"} | {
    *("statement_number", "statement_count"),
}
DATABASES = [f"tenants/{number}.db" for number in range(20)]
TROUBLES = {
    *(events.MIGRATION_FAILED, events.DATABASE_BLOCKED, events.DATABASE_UNAVAILABLE, events.INTERNAL_ERROR),
}
Counts = Counter[tuple[str, str]]


@dataclass
class Day:
    """Expected content of the log: lines counted by event and level, and the alerts."""

    path: Path
    counts: Counts = field(default_factory=Counter)
    alerts: int = 0
    heartbeats: int = 0

    def tell(self, log: Log, event: Event, **keys: object) -> None:
        log(event, **keys)
        self.count(event)

    def count(self, event: Event) -> None:
        self.counts[event.name, event.level] += 1

    def write(self) -> None:
        chance = random.Random(7)  # noqa: S311 - the same day each time
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        log = logger.configure("json", "debug", descriptor)
        for number in range(288):
            self.tell(log, events.DAEMON_ALIVE, reason="20 of 20", databases=20, current=20, blocked=0, pending=0)
            self.heartbeats += 1
            self._trouble(log.bind(database=chance.choice(DATABASES)), number % 6)
        for event in [*EVENTS.values(), *chance.choices(list(EVENTS.values()), k=LINES)]:
            if event not in TROUBLES:
                fields = {name for _, name, _, _ in string.Formatter().parse(event.sentence) if name}
                keys = {name: 7 if name in NUMBERS else chance.choice(TEXTS) for name in fields}
                self.tell(log.bind(run_id=logger.new_run_id()), event, **keys)
                self.heartbeats += event in {events.DAEMON_ALIVE, events.DAEMON_READY}
        os.close(descriptor)

    def _trouble(self, log: Log, repeated: int) -> None:
        failed = ExecutionFailedError(
            "no such table: x", version=7, name="x", statement=TEXTS[1] * 500, code="SQLITE_ERROR"
        )
        log.failure(events.MIGRATION_FAILED, failed)
        self.count(events.MIGRATION_FAILED)
        for event, error in (
            (events.DATABASE_BLOCKED, ChecksumMismatchError("7_x was changed", expected="aa", found="bb")),
            (events.DATABASE_UNAVAILABLE, DatabaseError(TEXTS[repeated], code="SQLITE_BUSY")),
            (events.INTERNAL_ERROR, DatabaseError("internal error", traceback=f"{TEXTS[1] * 500}KeyError: 1\n")),
        ):
            log.failure(event, error, repeated=repeated or None)
            self.count(event)
        self.alerts += 1 + 3 * (repeated >= 3)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    day = Day(tmp_path_factory.mktemp("day") / "migrated.jsonl")
    day.write()
    return day


def installed(program: str, modules: str = "") -> tuple[str, str]:
    """Return the program and its module folder, wherever the Debian package was unpacked."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None:
        pytest.skip(f"no {program} here")
    beside = Path(found).resolve().parents[1]
    folders = [*beside.glob(modules), ""] if modules else [""]
    return found, str(folders[0])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw(path)]


def raw(path: Path) -> list[bytes]:
    """Split the log as bytes: str.splitlines() also splits at characters that are not line ends."""
    return path.read_bytes().splitlines() if path.exists() else []


def counted(lines: list[dict[str, Any]]) -> Counts:
    return Counter((line["event"], line["level"]) for line in lines)


def in_directory(configuration: str, directory: Path) -> str:
    """Return a shipped configuration with a changed output path."""
    text = (SHIPPED / configuration).read_text()

    assert "/var/log/migrated/" in text
    return text.replace("/var/log/migrated/", f"{directory}/")


def with_strangers(day: Day, directory: Path) -> Path:
    """Return the log with foreign lines in it, such as systemd's own about the unit."""
    path = directory / "in"
    path.write_text(f"Started Migration daemon.\n{day.path.read_text()}Stopped Migration daemon.\n")
    return path


def judge(day: Day, directory: Path) -> None:
    """Wait until all lines have arrived, and compare them with the written ones."""
    expected = {"migrated": sum(day.counts.values()), "alerts": day.alerts, "heartbeat": day.heartbeats}
    poll(lambda: len(raw(directory / "other")) == 2, "what is not ours, which comes last")
    poll(
        lambda: all(len(raw(directory / f"{name}.jsonl")) >= count for name, count in expected.items()),
        "the whole day",
    )

    assert {name: len(read(directory / f"{name}.jsonl")) for name in expected} == expected
    assert read(directory / "migrated.jsonl") == read(day.path)
    assert counted(read(directory / "migrated.jsonl")) == day.counts
    assert [b"Migration daemon." in line for line in raw(directory / "other")] == [True, True]


def test_the_day_has_every_event(day: Day) -> None:
    assert {event for event, _ in day.counts} == set(EVENTS)
    assert counted(read(day.path)) == day.counts


def test_rsyslog_reads_every_line(day: Day, tmp_path: Path) -> None:
    program, modules = installed("rsyslogd", "lib/*/rsyslog")
    ours = in_directory("rsyslog.conf", tmp_path).replace(f"{tmp_path}/other.log", f"{tmp_path}/other")
    (tmp_path / "ours.conf").write_text(ours)
    (tmp_path / "rsyslog.conf").write_text(
        f"""
global(workDirectory="{tmp_path}")
module(load="imfile")
input(type="imfile" File="{with_strangers(day, tmp_path)}" Tag="migrated")
include(file="{tmp_path}/ours.conf")
"""
    )
    with running(program, "-n", "-i", "NONE", "-M", modules, "-f", tmp_path / "rsyslog.conf", cwd=tmp_path):
        judge(day, tmp_path)


def test_syslog_ng_reads_every_line(day: Day, tmp_path: Path) -> None:
    program, modules = installed("syslog-ng", "lib/syslog-ng/[0-9]*")
    (tmp_path / "ours.conf").write_text(in_directory("syslog-ng.conf", tmp_path))
    version = Path(modules).name
    (tmp_path / "syslog-ng.conf").write_text(
        f"""@version: {version}
source s_src {{ file("{with_strangers(day, tmp_path)}" flags(no-parse) program-override("migrated")); }};
@include "{tmp_path}/ours.conf"
log {{ source(s_src); destination {{ file("{tmp_path}/other" template("${{MESSAGE}}\\n")); }}; flags(fallback); }};
"""
    )
    state = [f"--{name}={tmp_path}/{name}" for name in ("persist-file", "pidfile", "control")]
    with running(
        program, "-F", "--no-caps", "-f", "syslog-ng.conf", "--module-path", modules, *state, cwd=tmp_path
    ):
        judge(day, tmp_path)


@pytest.fixture
def lnav(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    program, _ = installed("lnav")
    formats = tmp_path / "formats/migrated"
    formats.mkdir(parents=True)
    shutil.copy(SHIPPED / "lnav.json", formats / "migrated.json")

    def run(*arguments: str | Path) -> list[dict[str, Any]]:
        done = subprocess.run(
            [program, "-n", "-I", tmp_path, *arguments],
            env={**os.environ, "HOME": str(tmp_path), "TZ": "UTC"},
            capture_output=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, b"")
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


Lnav = Callable[..., list[dict[str, Any]]]


def test_lnav_finds_no_fault_in_the_format(lnav: Lnav) -> None:
    assert lnav("-C") == []


def test_lnav_reads_every_line(day: Day, lnav: Lnav) -> None:
    query = "SELECT event, log_level, count(*) AS lines FROM migrated_log GROUP BY event, log_level"
    rows = lnav("-c", f";{query}", "-c", ":write-jsonlines-to -", day.path)

    assert Counter({(row["event"], row["log_level"]): row["lines"] for row in rows}) == day.counts


def test_lnav_s_format_names_every_key() -> None:
    known = json.loads((SHIPPED / "lnav.json").read_text())["migrated_log"]["value"].keys()
    fields = {
        name for event in EVENTS.values() for _, name, _, _ in string.Formatter().parse(event.sentence) if name
    }
    of_errors = logger.failure_keys(DatabaseError("x")).keys() - {"error", "excerpt"}

    # `migration` stands in sentences alone: it is the name and the version as one.
    assert (fields | of_errors) - known - {"migration"} == set()


def test_lnav_shows_the_alerts(day: Day, lnav: Lnav) -> None:
    *alerts, heartbeat = lnav("-f", SHIPPED / "alerts.lnav", day.path)

    assert len(alerts) == day.alerts
    assert 0 <= heartbeat["minutes_ago"] <= 1


# Blocked from the 10th to the 39th minute, a failure in the 19th, the last heartbeat in the 25th.
PROMETHEUS_TEST = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: migrated_log_blocked, values: '0x9 1x30 0x60'}}
      - {{series: migrated_log_failed_total, values: '_x19 1x80'}}
      - {{series: migrated_log_alive_total, values: '_x5 1x4 2x4 3x4 4x4 5x80'}}
    promql_expr_test:
"""
FIRING = """
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})'
        eval_time: {minute}m
        exp_samples: [{samples}]
"""


def test_prometheus_alerts_when_it_should(tmp_path: Path) -> None:
    program, _ = installed("promtool")
    firing = {
        3: "",
        12: "",
        18: "",
        24: "MigratedFailed",
        26: "MigratedFailed MigratedBlocked",
        36: "MigratedBlocked",
        44: "MigratedSilent",
        60: "MigratedSilent",
    }
    test = PROMETHEUS_TEST.format(rules=SHIPPED / "prometheus-alerts.yaml")
    for minute, names in firing.items():
        samples = [f"{{labels: '{{alertname=\"{name}\"}}', value: 1}}" for name in names.split()]
        test += FIRING.format(minute=minute, samples=", ".join(samples))
    (tmp_path / "test.yaml").write_text(test)
    done = subprocess.run(
        [program, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("collector", ["vector.yaml", "fluent-bit.yaml", "migrated.alloy"])
def test_collectors_make_the_metrics_that_prometheus_alerts_on(collector: str) -> None:
    """These collectors are not run here; their files say so."""
    text = (SHIPPED / collector).read_text()
    used = set(re.findall(r"migrated_log_(\w+)", (SHIPPED / "prometheus-alerts.yaml").read_text()))

    assert used == set(
        re.findall(r"(?:metric_)?name:? *[:=] *\"?(failed_total|alive_total|blocked|unavailable)\b", text)
    )
    assert "NOT run" in text


def test_the_third_repetition_comes_after_seven_minutes() -> None:
    """The alerts of the shipped configurations begin at the third repetition."""
    complaint = RepeatTimer()
    told = [minute for minute in range(40) if complaint.should_log("x", minute * 60.0)]

    assert (told[3], told) == (7, [0, 1, 3, 7, 15, 30])

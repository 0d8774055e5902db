"""`migrated help` as a process: the list, a topic, a command; on a terminal, through a pager, and in a pipe."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import environment, migrated, on_a_terminal
from support import ROOT, needs

from migrated.cli import COMMANDS, manual

ESCAPE = "\x1b["
# `sed` shows which lines went through it, and the shell that the variable is a command line.
PAGER = "sed 's/^/paged: /'"
LONG, SHORT = {"LINES": "10"}, {"LINES": "500"}


def on_terminal(directory: Path, topic: str, variables: dict[str, str]) -> tuple[int, str]:
    """The exit code of `migrated help TOPIC`, and what a terminal of a hundred columns was sent."""
    return on_a_terminal(directory, "help", topic, stdout=None, **variables)


def test_list_names_every_topic_with_its_sentence(tmp_path: Path) -> None:
    done = migrated(tmp_path, "help")
    shown = " ".join(done.stdout.split())

    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  (\w+)", done.stdout, re.MULTILINE) == manual.topics()
    for path in (ROOT / "migrated" / "docs").glob("*.md"):
        sentence = manual.fill(manual.summary(manual.read(path.stem)), 1000)[0]
        assert f" {path.stem} {sentence} " in shown
    assert "Read one with `migrated help TOPIC`" in shown
    assert "`migrated help COMMAND` shows the options of a command." in shown


@pytest.mark.parametrize("topic", manual.topics())
def test_topic_in_a_pipe_is_plain_text(tmp_path: Path, topic: str) -> None:
    done = migrated(tmp_path, "help", topic, PAGER=PAGER, COLUMNS="")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(manual.render(manual.read(topic), 80, styled=False))
    assert ESCAPE not in done.stdout
    assert (f"The options of the command: migrated {topic} --help" in done.stdout) == (topic in COMMANDS)


@pytest.mark.parametrize("command", ["up", "wait", "help"])
def test_command_that_is_no_topic_shows_its_own_help(tmp_path: Path, command: str) -> None:
    done = migrated(tmp_path, "help", command)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == migrated(tmp_path, command, "--help").stdout


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        pytest.param("snapshot", "; did you mean snapshots?", id="near"),
        pytest.param("REPIAR", "; did you mean repair?", id="upper case"),
        pytest.param("log", "; did you mean logs?", id="two near"),
        pytest.param("xyzzy", "", id="nothing near"),
        pytest.param("../docs/files", None, id="path"),
        pytest.param("", "", id="empty"),
    ],
)
def test_unknown_topic_is_wrong_usage(tmp_path: Path, name: str, meant: str | None) -> None:
    done = migrated(tmp_path, "help", name)
    error, topics = done.stderr.splitlines()

    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith(f"migrated help: error: there is no topic and no command {name!r}")
    assert meant is None or error.endswith(f"{name!r}{meant}")
    assert topics == f"topics: {', '.join(manual.topics())}"


def test_nothing_of_the_project_is_needed(tmp_path: Path) -> None:
    (tmp_path / "migrated.toml").write_text("not = [toml")

    assert migrated(tmp_path, "help", "configuration").returncode == 0
    assert os.listdir(tmp_path) == ["migrated.toml"]


def test_program_s_help_names_the_manual(tmp_path: Path) -> None:
    assert migrated(tmp_path, "--help").stdout.endswith("\n\n`migrated help` lists the topics of the manual.\n")


def test_encoding_without_a_character_of_the_manual(tmp_path: Path) -> None:
    done = migrated(tmp_path, "help", "repair", PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stderr) == (0, "")
    assert "about 1, 2, 4 ? 300 seconds" in done.stdout


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "migrated", "help", "safety"],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_terminal_shows_headings_in_bold_at_its_width(tmp_path: Path) -> None:
    code, seen = on_terminal(tmp_path, "watching", {"PAGER": PAGER, **SHORT})

    assert (code, seen) == (0, manual.render(manual.read("watching"), 100, styled=True))
    assert seen.startswith("\x1b[1m\x1b[4mWatching\x1b[0m\n")


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_terminal_that_shall_have_no_escapes(tmp_path: Path, variable: dict[str, str]) -> None:
    expected = manual.render(manual.read("watching"), 100, styled=False)

    assert on_terminal(tmp_path, "watching", {**variable, **SHORT}) == (0, expected)


@needs("sed")
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"PAGER": PAGER}, id="PAGER"),
        pytest.param({"MANPAGER": PAGER, "PAGER": "cat"}, id="MANPAGER comes first"),
        pytest.param({"MANPAGER": "", "PAGER": PAGER}, id="an empty one does not count"),
    ],
)
def test_pager_shows_a_topic_longer_than_the_terminal(tmp_path: Path, variables: dict[str, str]) -> None:
    variables = {"MANPAGER": "", **variables}
    _, plain = on_terminal(tmp_path, "watching", {**variables, **SHORT})
    code, paged = on_terminal(tmp_path, "watching", {**variables, **LONG})

    assert "paged: " not in plain
    assert code == 0
    assert paged == "".join(f"paged: {line}\n" for line in plain.splitlines())


@needs("sed")
def test_pager_shows_the_list_too(tmp_path: Path) -> None:
    code, seen = on_a_terminal(tmp_path, "help", stdout=None, **{"MANPAGER": PAGER, **LONG})

    assert code == 0
    assert seen.startswith("paged: Topics of the manual:\n")


def test_less_is_the_default_and_shows_escapes(tmp_path: Path) -> None:
    less = tmp_path / "less"
    less.write_text('#!/bin/sh\necho "options: $*, LESS=$LESS"\nwhile read -r line; do echo "$line"; done\n')
    less.chmod(0o755)
    variables = {"MANPAGER": "", "PAGER": "", "LESS": "-i", "PATH": str(tmp_path)}

    code, seen = on_terminal(tmp_path, "watching", {**variables, **LONG})

    assert code == 0
    assert seen.startswith("options: -R, LESS=-R -i\n\x1b[1m\x1b[4mWatching")


@pytest.mark.parametrize("pager", ["", "no-such-pager -x"])
def test_without_a_pager_the_topic_is_printed(tmp_path: Path, pager: str) -> None:
    variables = {"MANPAGER": "", "PAGER": pager, "PATH": str(tmp_path)}

    code, seen = on_terminal(tmp_path, "watching", {**variables, **LONG})

    assert code == 0
    assert seen.endswith(manual.render(manual.read("watching"), 100, styled=True))


def test_pager_that_is_left_early_is_no_error(tmp_path: Path) -> None:
    variables = {"MANPAGER": "read -r line; echo left", **LONG}

    assert on_terminal(tmp_path, "safety", variables) == (0, "left\n")


@needs("less")
def test_escapes_pass_through_less(tmp_path: Path) -> None:
    # For `less` the terminal is long enough: with -F it then ends by itself.
    variables = {"MANPAGER": "LINES=500 less -F -X", "LESS": "", **LONG}

    code, seen = on_terminal(tmp_path, "watching", variables)

    assert code == 0
    assert "\x1b[1m\x1b[4mWatching" in seen
    assert "ESC" not in seen

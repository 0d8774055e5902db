"""The man pages: those in the package are what the manual and the options give."""

import os
import re
import subprocess
import tomllib
from collections import Counter

import pytest
from support import ROOT, needs

from migrated.cli import COMMANDS, manual_pages
from migrated.cli.manual_pages import PAGES, Page
from migrated.cli.markdown import Block, Code, Heading, Item, Paragraph, Table

DIRECTORY = ROOT / "migrated" / "docs" / "man"


def test_pages_are_current() -> None:
    written = {path.name: path.read_text() for path in DIRECTORY.iterdir()}

    assert written == manual_pages.pages(), "run: .venv/bin/python -m migrated.cli.manual_pages migrated/docs/man"


def test_pages_are_installed_in_the_folder_of_their_section() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]

    assert targets["wheel"]["shared-data"] == {
        f"migrated/docs/man/{page.file_name}": f"share/man/man{page.section}/{page.file_name}" for page in PAGES
    }


def test_every_command_has_its_options() -> None:
    page = manual_pages.pages()["migrated.1"]
    sections = page.partition(".SH COMMANDS\n")[2].partition("\n.SH ")[0].split(".SS migrated ")[1:]

    assert [section.split()[0].replace("\\", "") for section in sections] == list(COMMANDS)
    assert any(section.startswith("retry \\fIDATABASE\\fR\n") for section in sections)
    assert any(section.startswith("help [\\fITOPIC\\fR]\n") for section in sections)
    assert any("\n.TP\n\\fB\\-\\-steps\\fR \\fIN\\fR\n" in section for section in sections)
    # Those that every command has stand once, in a section of their own.
    assert page.count("\\fB\\-\\-config\\fR") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file_name)
def test_text_begins_no_line_as_a_request_does(page: Page) -> None:
    lines = manual_pages.pages()[page.file_name].splitlines()
    requests = {line.split()[0] for line in lines if line.startswith((".", "'"))}

    assert requests <= {
        *("'\\\"", '.\\"', ".TH", ".nh", ".nr", ".ad", ".ss", ".SH", ".SS", ".PP", ".TP", ".IP"),
        *(".RS", ".RE", ".EX", ".EE", ".TS", ".TE"),
    }


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        pytest.param(Paragraph(".ci runs"), [".PP", r"\&.ci runs"], id="dot at the beginning"),
        pytest.param(Paragraph("'s"), [".PP", r"\(aqs"], id="quote at the beginning"),
        pytest.param(Paragraph("`a-b` … c\\d"), [".PP", r"\fBa\-b\fR \[u2026] c\ed"], id="characters"),
        pytest.param(Paragraph("see [x](y.md)"), [".PP", "see x (y.md)"], id="link"),
        pytest.param(Paragraph(f"{'a ' * 50}.b"), [".PP", "a " * 49 + "a", r"\&.b"], id="dot after a line break"),
        pytest.param(
            Code((".x", "", "~")), [".PP", ".RS 4", ".EX", r"\&.x", "", r"\(ti", ".EE", ".RE"], id="code"
        ),
        pytest.param(Item("-", "a"), [r".IP \(bu 2", "a"], id="item"),
        pytest.param(Item("1.", "a"), [".IP 1. 4", "a"], id="numbered item"),
        pytest.param(Heading(2, "A b"), [".SH A B"], id="heading"),
        pytest.param(Heading(3, "A b"), [".SS A b"], id="lower heading"),
        pytest.param(Table(("a", "b"), (("x", "y"),)), [".TP", "x", "y"], id="two columns"),
        pytest.param(
            Table(("a", "b", "c"), (("x", "y", "z " * 20),)),
            [".PP", ".TS", "lb lb lb", "l l lx.", "a\tb\tT{", "c", "T}", "x\ty\tT{", "z " * 19 + "z", "T}", ".TE"],
            id="three columns",
        ),
    ],
)
def test_block_in_roff(block: Block, lines: list[str]) -> None:
    written = "\n".join(manual_pages._block(block, lambda link: link.target))

    assert written.splitlines() == lines


@needs("tbl")
@needs("groff")
@pytest.mark.parametrize("width", [70, 80, 200])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file_name)
def test_groff_shows_every_word_without_a_warning(page: Page, width: int) -> None:
    done = subprocess.run(
        ["groff", "-t", "-man", "-Tutf8", "-ww", f"-rLL={width}n", DIRECTORY / page.file_name],
        env={**os.environ, "GROFF_NO_SGR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    source = re.sub(r"\]\([^)\s]+\)", "]", (ROOT / f"migrated/docs/{page.topic}.md").read_text())
    # Without the languages of code, the title, and the tables in whose place the parser is asked.
    source = re.sub(r"^```\w+$|^# .*$|^\| (?:command|option) (?s:.*?)\n\n", "", source, flags=re.MULTILINE)
    source = re.sub(r"^\|.*\|\n(?=\|---\|---\|$)", "", source, flags=re.MULTILINE)
    shown = re.sub(".\x08", "", done.stdout)

    assert done.stderr == ""
    assert len(_words(source)) > 100
    assert _words(source) - _words(shown) == Counter()


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))

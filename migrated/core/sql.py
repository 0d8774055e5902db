"""Where strings, comments, statements and trigger bodies begin and end in SQL text.

SQLite itself splits and runs the statements of a migration; this module only answers what has to be
known before: which comment lines stand between statements, and whether there is a statement at all.
The rules are those of SQLite's tokenizer and of sqlite3_complete() (https://www.sqlite.org/c3ref/complete.html).
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

# No possessive quantifiers and no atomic groups: before CPython 3.11.5 matching continues from a wrong place after
# one of them fails (https://github.com/python/cpython/issues/106052), and a whole file was read as its UP section.
# None is needed: each pattern is one token, and whatever a repetition in it stops at, the rest matches there. So
# nothing backtracks, and a token costs time in proportion to its length and no memory.
# A vertical tab is white space only after white space, as in SQLite's tokenizer; sqlite3_complete() knows none.
_SPACE = r"[ \t\n\f\r][ \t\n\v\f\r]*|\ufeff"
_LINE_COMMENT = r"--[^\n]*"
_BLOCK_COMMENT = r"/\*[^*]*(?s:.*?)(?:\*/|\Z)"
# A quoted quote ('it''s') reads as two strings side by side, which ends at the same place.
_QUOTED = r"""'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
# Letters, digits, "_", "$" and all that is not ASCII. Written as what it excludes: `re` takes 5 ms to compile the
# range of all that is included, a tenth of the time that `migrated status` takes.
_NAME = r"[^\x00-#%-/:-@\[-^`{-\x7f]"
_TOKEN = re.compile(
    rf"""(?P<space>{_SPACE})
    |(?P<line_comment>{_LINE_COMMENT})
    |(?P<block_comment>{_BLOCK_COMMENT})
    |(?P<quoted>{_QUOTED})
    |(?P<semicolon>;)
    |(?P<word>{_NAME}+)
    |(?P<other>.)""",
    re.VERBOSE,
)
# What may stand between statements.
_GAP = re.compile(rf"{_SPACE}|;|{_LINE_COMMENT}|{_BLOCK_COMMENT}")
# All that matters in a statement that is not a trigger. Every alternative begins with a character of its own and
# without a group, so that `re` looks for those characters alone: a third of the time.
_LANDMARK = re.compile(rf";|\(|\)|{_QUOTED}|{_LINE_COMMENT}|{_BLOCK_COMMENT}")
_MAY_BE_TRIGGER = re.compile(r"EXPLAIN|CREATE(?! (?:TABLE|INDEX|UNIQUE|VIEW) )", re.IGNORECASE | re.ASCII)
_TRIGGER = re.compile(
    r"(?:EXPLAIN (?:QUERY PLAN )?)?CREATE (?:TEMP(?:ORARY)? )?TRIGGER(?: |\Z)", re.IGNORECASE | re.ASCII
)
_MOST_WORDS_TO_TRIGGER = 6
_BLANK = {"space", "line_comment", "block_comment"}
# SQLite's own tokens (https://sqlite.org/src/file/src/tokenize.c), each to its last character: x'41' is one, and
# x '41' are two that mean something else. A quoted quote is joined to its string by `exact_tokens`.
# Compiled when it is first used: only comparing texts needs it.
_EXACT_TOKEN = rf"""(?P<blank>[ \t\n\f\r][ \t\n\v\f\r]*|--[^\n]*|/\*(?!\Z)(?s:.*?)(?:\*/|\Z))
    |\ufeff
    |[xX]'[^']*(?:'|\Z)
    |(?P<quoted>'[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z)) | \[[^\]]*(?:\]|\Z)
    |(?:0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?){_NAME}*
    |[@:$\#](?:{_NAME}|::)+(?:\([^ \t\n\f\r)]*\)?)? | \?[0-9]*
    |{_NAME}+
    |->>?|==?|<[=><]?|>[=>]?|!=|\|\|
    |(?s:.)"""
# Of the statements that a migration may hold; END, which may not begin one, ends many a CASE.
_BEGINNINGS = re.compile(
    r"(?:ALTER|ANALYZE|CREATE|DELETE|DROP|EXPLAIN|INSERT|PRAGMA|REINDEX|REPLACE|SELECT|UPDATE|VACUUM|VALUES|WITH)"
    rf"(?!{_NAME})",
    re.IGNORECASE | re.ASCII,
)


class LineComment(NamedTuple):
    """One `--` comment: its text from the dashes on, and how it lies to the statements around it.

    It may stand inside one; or behind one that is whole but for its semicolon (`after_open_statement`).
    """

    start: int
    text: str
    inside_statement: bool
    after_open_statement: bool


def first_token(sql: str, start: int = 0) -> int | None:
    """Offset of the first statement at or after `start`, past white space, comments and stray semicolons."""
    while gap := _GAP.match(sql, start):
        start = gap.end()
    return start if start < len(sql) else None


def has_statement(sql: str) -> bool:
    return first_token(sql) is not None


def continuation(sql: str, start: int) -> int | None:
    """Where what comes next, past comments, goes on with a statement; None where one may begin, or at the end."""
    token = first_token(sql, start)
    return token if token is not None and _BEGINNINGS.match(sql, token) is None else None


def statement_end(sql: str, start: int) -> int:
    """Offset just past the statement that begins at `start`, its semicolon included."""
    statement = _Statement(sql, start)
    while statement.next_comment():
        pass
    return statement.position


def statements(sql: str) -> list[tuple[int, int]]:
    """Where each statement begins, at its first token, and ends, just past its semicolon or the text."""
    return list(each_statement(sql))


def each_statement(sql: str) -> Iterator[tuple[int, int]]:
    """As `statements`, one after another: of a long text, all of them take more memory than the text."""
    start = first_token(sql)
    while start is not None:
        end = statement_end(sql, start)
        yield start, end
        start = first_token(sql, end)


def words(sql: str) -> Iterator[str]:
    """The names and keywords of a text one after another, quoted ones without their quotes; no texts in ''."""
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "word":
            yield token.group()
        elif token.lastgroup == "quoted" and not token.group().startswith("'"):
            yield token.group()[1:-1]


def folded(name: str) -> str:
    """A name as SQLite compares it: only the letters A to Z have two cases (https://www.sqlite.org/faq.html#q18)."""
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def quoted(name: str) -> str:
    """A name as an identifier in SQL, whatever it consists of."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def terminated(sql: str) -> str:
    """A whole statement with its semicolon, which no comment at its end may swallow.

    The semicolon stands right behind the text: SQLite keeps what is before it, white space too.
    """
    if "--" not in sql.rpartition("\n")[2] and "/*" not in sql:
        return f"{sql};"
    *_, last = _TOKEN.finditer(sql)
    if last.lastgroup == "line_comment":
        # SQLite takes white space off the end of a view, so that it must not come and go here.
        return f"{sql.rstrip()}\n;"
    unfinished = last.lastgroup == "block_comment" and not last.group().endswith("*/", 2)
    return f"{sql}*/;" if unfinished else f"{sql};"


def significant(sql: str) -> list[str]:
    """The tokens of a text without white space and comments; names folded and without their quotes."""
    found = []
    for token in _TOKEN.finditer(sql):
        match token.lastgroup:
            case kind if kind in _BLANK:
                continue
            case "word":
                found.append(folded(token.group()))
            case "quoted" if not token.group().startswith("'"):
                found.append(folded(token.group()[1:-1]))
            case _:
                found.append(token.group())
    return found


def exact_tokens(sql: str) -> list[str]:
    """The tokens of a text as SQLite reads them, each as it is written; white space and comments left out."""
    found: list[str] = []
    start = quoted_end = -1
    for token in re.finditer(_EXACT_TOKEN, sql, re.VERBOSE):
        if token.lastgroup == "blank":
            continue
        if token.start() == quoted_end and sql[token.start()] == sql[start]:
            # 'it''s': one string with a quote in it.
            found.pop()
        else:
            start = token.start()
        found.append(sql[start : token.end()])
        quoted_end = token.end() if token.lastgroup == "quoted" else -1
    return found


def line_comments(
    sql: str, ends_statement: Callable[[LineComment], bool] = lambda _comment: False
) -> Iterator[LineComment]:
    """Every `--` comment that is one: not inside a string, a quoted name or a block comment.

    A statement is over at a comment that `ends_statement`, also without its semicolon.
    """
    position = 0
    while position < len(sql):
        if gap := _GAP.match(sql, position):
            if sql.startswith("--", position):
                comment = LineComment(position, gap.group(), inside_statement=False, after_open_statement=False)
                yield comment
                ends_statement(comment)
            position = gap.end()
            continue
        statement = _Statement(sql, position)
        while found := statement.next_comment():
            comment = LineComment(found.start(), found.group(), not statement.may_end, statement.may_end)
            yield comment
            if ends_statement(comment):
                break
        position = statement.position


class _Statement:
    """One open statement, read up to `position`. A trigger ends only at `; END ;`, as in sqlite3_complete()."""

    def __init__(self, sql: str, start: int) -> None:
        self.position = start
        self._sql = sql
        self._trigger = _begins_trigger(sql, start)
        self._depth = 0
        self._after_semicolon = False
        self._after_end = False

    @property
    def may_end(self) -> bool:
        """True if what was read so far would be whole if only its last semicolon were there."""
        return self._after_end if self._trigger else self._depth <= 0

    def next_comment(self) -> re.Match[str] | None:
        """The next line comment in it, None at its end; `position` is past that comment, or past its semicolon."""
        if self._trigger:
            return self._next_in_trigger()
        for mark in _LANDMARK.finditer(self._sql, self.position):
            match self._sql[mark.start()]:
                case ";":
                    self.position = mark.end()
                    return None
                case "-":
                    self.position = mark.end()
                    return mark
                case "(":
                    self._depth += 1
                case ")":
                    self._depth -= 1
                case _:  # a quoted text or a block comment
                    continue
        self.position = len(self._sql)
        return None

    def _next_in_trigger(self) -> re.Match[str] | None:
        for token in _TOKEN.finditer(self._sql, self.position):
            kind = token.lastgroup
            self.position = token.end()
            if kind == "line_comment":
                return token
            if kind == "semicolon":
                if self._after_end:
                    return None
                self._after_semicolon = True
            elif kind not in _BLANK:
                self._after_end = self._after_semicolon and kind == "word" and folded(token.group()) == "end"
                self._after_semicolon = False
        return None


def _begins_trigger(sql: str, start: int) -> bool:
    if _MAY_BE_TRIGGER.match(sql, start) is None:
        return False
    tokens = (token.group() for token in _TOKEN.finditer(sql, start) if token.lastgroup not in _BLANK)
    return _TRIGGER.match(" ".join(islice(tokens, _MOST_WORDS_TO_TRIGGER))) is not None

"""Where strings, comments, statements and trigger bodies begin and end in SQL text.

SQLite itself splits and runs the statements of a migration; this module only answers what has to be
known before: which comment lines stand between statements, and whether there is a statement at all.
The rules are those of SQLite's tokenizer and of sqlite3_complete() (https://www.sqlite.org/c3ref/complete.html).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Atomic: a comment ends at its own end, whatever is looked for behind it.
_BLANK = r"(?>[ \t\n\f\r]|--[^\n]*(?:\n|\Z)|/\*(?s:.*?)(?:\*/|\Z))"
# A quoted quote ('it''s') reads as two strings side by side, which ends at the same place.
_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+)
    |(?P<line_comment>--[^\n]*)
    |(?P<block_comment>/\*(?s:.*?)(?:\*/|\Z))
    |(?P<quoted>'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z))
    |(?P<semicolon>;)
    |(?P<open>\()
    |(?P<close>\))
    |(?P<word>[\w$]+)
    |(?P<other>[^\w$'"`\[;()\-/ \t\n\f\r]+|.)""",
    re.VERBOSE,
)
_TRIGGER = re.compile(
    rf"(?:EXPLAIN{_BLANK}+(?:QUERY{_BLANK}+PLAN{_BLANK}+)?)?CREATE{_BLANK}+(?:TEMP(?:ORARY)?{_BLANK}+)?TRIGGER\b",
    re.IGNORECASE,
)
# SQLite's own tokens (https://sqlite.org/src/file/src/tokenize.c), each to its last character: x'41' is one, and
# x '41' are two that mean something else.
_IN_NAME = r"[0-9A-Za-z_$\u0080-\U0010ffff]"
# Compiled when it is first used: that takes 5 ms, and only comparing texts needs it.
_EXACT_TOKEN = rf"""(?P<blank>[ \t\n\f\r][ \t\n\v\f\r]*|--[^\n]*|/\*(?!\Z)(?s:.*?)(?:\*/|\Z))
    |\ufeff
    |[xX]'[^']*(?:'|\Z)
    |'(?:[^']++|'')*+(?:'|\Z) | "(?:[^"]++|"")*+(?:"|\Z) | `(?:[^`]++|``)*+(?:`|\Z) | \[[^\]]*(?:\]|\Z)
    |(?:0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?){_IN_NAME}*
    |[@:$\#](?:{_IN_NAME}|::)+(?:\([^ \t\n\f\r)]*\)?)? | \?[0-9]*
    |{_IN_NAME}+
    |->>?|==?|<[=><]?|>[=>]?|!=|\|\|
    |(?s:.)"""
# Of the statements that a migration may hold; END, which may not begin one, ends many a CASE.
_BEGINNINGS = re.compile(
    r"(?:ALTER|ANALYZE|CREATE|DELETE|DROP|EXPLAIN|INSERT|PRAGMA|REINDEX|REPLACE|SELECT|UPDATE|VACUUM|VALUES|WITH)\b",
    re.IGNORECASE,
)
_NOT_A_STATEMENT = re.compile(rf"(?:{_BLANK}|;)*")


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
    found = _NOT_A_STATEMENT.match(sql, start)
    end = found.end() if found else start
    return end if end < len(sql) else None


def has_statement(sql: str) -> bool:
    return first_token(sql) is not None


def may_begin_statement(sql: str, start: int) -> bool:
    """Whether what comes next, past comments, can be the beginning of a statement, or is the end of the text."""
    token = first_token(sql, start)
    return token is None or _BEGINNINGS.match(sql, token) is not None


def statement_end(sql: str, start: int) -> int:
    """Offset just past the statement that begins at `start`, its semicolon included."""
    statement = _Statement(sql, start)
    for token in _TOKEN.finditer(sql, start):
        if statement.closed_by(token.lastgroup or "", token.group()):
            return token.end()
    return len(sql)


def statements(sql: str) -> list[tuple[int, int]]:
    """Where each statement begins, at its first token, and ends, just past its semicolon or the text."""
    found = []
    start = first_token(sql)
    while start is not None:
        end = statement_end(sql, start)
        found.append((start, end))
        start = first_token(sql, end)
    return found


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
            case "space" | "line_comment" | "block_comment":
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
    return [token.group() for token in re.finditer(_EXACT_TOKEN, sql, re.VERBOSE) if token.lastgroup != "blank"]


def line_comments(
    sql: str, ends_statement: Callable[[LineComment], bool] = lambda _comment: False
) -> Iterator[LineComment]:
    """Every `--` comment that is one: not inside a string, a quoted name or a block comment.

    A statement is over at a comment that `ends_statement`, also without its semicolon.
    """
    statement: _Statement | None = None
    for token in _TOKEN.finditer(sql):
        kind = token.lastgroup or ""
        if kind == "line_comment":
            is_whole = statement is not None and statement.may_end_here
            comment = LineComment(token.start(), token.group(), statement is not None and not is_whole, is_whole)
            yield comment
            if ends_statement(comment):
                statement = None
        elif kind in {"space", "block_comment"} or (statement is None and kind == "semicolon"):
            continue
        elif statement is None:
            statement = _Statement(sql, token.start())
            statement.closed_by(kind, token.group())
        elif statement.closed_by(kind, token.group()):
            statement = None


class _Statement:
    """One open statement, fed token by token. A trigger ends only at `; END ;`, as in sqlite3_complete()."""

    def __init__(self, sql: str, start: int) -> None:
        self._trigger = _TRIGGER.match(sql, start) is not None
        self._depth = 0
        self._after_semicolon = False
        self._after_end = False

    @property
    def may_end_here(self) -> bool:
        """Whether it would be whole if only its last semicolon were there."""
        return self._after_end if self._trigger else self._depth <= 0

    def closed_by(self, kind: str, text: str) -> bool:
        if kind in {"space", "line_comment", "block_comment"}:
            return False
        if kind == "semicolon":
            closed = self._after_end if self._trigger else True
            self._after_semicolon, self._after_end = True, False
            return closed
        self._depth += (kind == "open") - (kind == "close")
        self._after_end = self._after_semicolon and kind == "word" and text.upper() == "END"
        self._after_semicolon = False
        return False

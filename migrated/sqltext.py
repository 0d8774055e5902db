"""Where strings, comments, statements and trigger bodies begin and end in SQL text.

SQLite itself splits and runs the statements of a migration; this module only answers what has to be
known before: which comment lines stand between statements, and whether there is a statement at all.
The rules are those of SQLite's tokenizer and of sqlite3_complete() (https://www.sqlite.org/c3ref/complete.html).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Every repetition is possessive, so that a text of any size costs time in proportion and no memory: none of these
# could match more by giving back. A comment ends at its own end, whatever is looked for behind it.
_BLOCK_COMMENT = r"/\*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/|\Z)"
_BLANK = rf"(?>[ \t\n\f\r]++|--[^\n]*+(?:\n|\Z)|{_BLOCK_COMMENT})"
# A quoted quote ('it''s') reads as two strings side by side, which ends at the same place.
_QUOTED = r"""'[^']*+(?:'|\Z)|"[^"]*+(?:"|\Z)|`[^`]*+(?:`|\Z)|\[[^\]]*+(?:\]|\Z)"""
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\n\f\r]+)
    |(?P<line_comment>--[^\n]*)
    |(?P<block_comment>{_BLOCK_COMMENT})
    |(?P<quoted>{_QUOTED})
    |(?P<semicolon>;)
    |(?P<open>\()
    |(?P<close>\))
    |(?P<word>[\w$]+)
    |(?P<other>[^\w$'"`\[;()\-/ \t\n\f\r]+|.)""",
    re.VERBOSE,
)
_TRIGGER = re.compile(
    rf"(?:EXPLAIN{_BLANK}++(?:QUERY{_BLANK}++PLAN{_BLANK}++)?)?"
    rf"CREATE{_BLANK}++(?:TEMP(?:ORARY)?{_BLANK}++)?TRIGGER\b",
    re.IGNORECASE,
)
_MAY_BE_TRIGGER = r"(?i:EXPLAIN|CREATE(?! (?:TABLE|INDEX|UNIQUE|VIEW)\b))"
# A statement up to its semicolon or a line comment; and all that can be passed over before a line comment at once:
# block comments, and whole statements that are no triggers.
_WITHIN = rf"""(?:[^;'"`\[\-/]++|{_QUOTED}|{_BLOCK_COMMENT}|-(?!-)|/(?!\*))*+"""
_UP_TO_COMMENT = re.compile(_WITHIN)
_WHOLE = re.compile(rf"(?:[ \t\n\f\r;]++|{_BLOCK_COMMENT}|(?!{_MAY_BE_TRIGGER}){_WITHIN};)*+")
_PLAIN = re.compile(rf"(?!{_MAY_BE_TRIGGER}){_WITHIN};")
_LINE_COMMENT = re.compile(r"--[^\n]*+")
_PARENTHESIS = re.compile(rf"[()]|{_QUOTED}|{_BLOCK_COMMENT}")
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
_NOT_A_STATEMENT = re.compile(rf"(?:{_BLANK}|;)*+")


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
    end = _end(_NOT_A_STATEMENT, sql, start)
    return end if end < len(sql) else None


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
        plain = _PLAIN.match(sql, start)
        end = plain.end() if plain else statement_end(sql, start)
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
    position = 0
    while (position := _end(_WHOLE, sql, position)) < len(sql):
        if found := _LINE_COMMENT.match(sql, position):
            comment = LineComment(position, found.group(), inside_statement=False, after_open_statement=False)
            yield comment
            ends_statement(comment)
            position = found.end()
            continue
        statement = _Statement(sql, position)
        while found := statement.next_comment():
            is_whole = statement.may_end_at(found)
            comment = LineComment(found.start(), found.group(), not is_whole, is_whole)
            yield comment
            if ends_statement(comment):
                break
        position = statement.position


class _Statement:
    """One open statement, read up to `position`. A trigger ends only at `; END ;`, as in sqlite3_complete()."""

    def __init__(self, sql: str, start: int) -> None:
        self.position = start
        self._sql = sql
        self._trigger = _TRIGGER.match(sql, start) is not None
        self._depth = 0
        self._counted = start
        self._after_semicolon = False
        self._after_end = False

    def next_comment(self) -> re.Match[str] | None:
        """The next line comment in it, None at its end; `position` is past that comment, or past its semicolon."""
        if self._trigger:
            return self._next_in_trigger()
        self.position = _end(_UP_TO_COMMENT, self._sql, self.position)
        comment = _LINE_COMMENT.match(self._sql, self.position)
        self.position = comment.end() if comment else min(self.position + 1, len(self._sql))
        return comment

    def may_end_at(self, comment: re.Match[str]) -> bool:
        """Whether it would be whole if only its last semicolon were there; asked at each of its comments."""
        if self._trigger:
            return self._after_end
        for token in _PARENTHESIS.finditer(self._sql, self._counted, comment.start()):
            self._depth += (token.group() == "(") - (token.group() == ")")
        self._counted = comment.end()
        return self._depth <= 0

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
            elif kind not in {"space", "block_comment"}:
                self._after_end = self._after_semicolon and kind == "word" and token.group().upper() == "END"
                self._after_semicolon = False
        return None


def _end(pattern: re.Pattern[str], sql: str, start: int) -> int:
    """Where a match that may be empty ends."""
    found = pattern.match(sql, start)
    return found.end() if found else start

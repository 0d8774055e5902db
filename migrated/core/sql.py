"""Scan SQL text for strings, comments, statements and trigger bodies.

SQLite itself splits and runs the statements of a migration. This module only answers what must be known before:
which comments are between statements, and whether the text contains a statement at all.
The rules are those of SQLite's tokenizer and of sqlite3_complete() (https://www.sqlite.org/c3ref/complete.html).
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

# No possessive quantifiers and no atomic groups: before CPython 3.11.5, matching continues from a wrong position
# after one of them fails (https://github.com/python/cpython/issues/106052), and a whole file was read as its UP
# section. They are not needed: each pattern is one token, and wherever a repetition in it stops, the rest matches.
# So nothing backtracks, and a token takes time in proportion to its length and no extra memory. A vertical tab is
# white space only after other white space, as in SQLite's tokenizer; sqlite3_complete() accepts none.
_SPACE = r"[ \t\n\f\r][ \t\n\v\f\r]*|\ufeff"
_LINE_COMMENT = r"--[^\n]*"
_BLOCK_COMMENT = r"/\*[^*]*(?s:.*?)(?:\*/|\Z)"
# A doubled quote ('it''s') is read as two adjacent strings, which end at the same place.
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
# Everything that may be between statements.
_GAP = re.compile(rf"{_SPACE}|;|{_LINE_COMMENT}|{_BLOCK_COMMENT}")
# Everything that matters in a statement that is not a trigger. Every alternative begins with a literal character
# and has no group, so that `re` searches for those characters only; that takes a third of the time.
_LANDMARK = re.compile(rf";|\(|\)|{_QUOTED}|{_LINE_COMMENT}|{_BLOCK_COMMENT}")
_MAY_BE_TRIGGER = re.compile(r"EXPLAIN|CREATE(?! (?:TABLE|INDEX|UNIQUE|VIEW) )", re.IGNORECASE | re.ASCII)
_TRIGGER = re.compile(
    r"(?:EXPLAIN (?:QUERY PLAN )?)?CREATE (?:TEMP(?:ORARY)? )?TRIGGER(?: |\Z)", re.IGNORECASE | re.ASCII
)
_MOST_WORDS_TO_TRIGGER = 6
_BLANK = {"space", "line_comment", "block_comment"}
# SQLite's own tokens (https://sqlite.org/src/file/src/tokenize.c), complete: x'41' is one token, x '41' are two
# with another meaning. `exact_tokens` joins a doubled quote to its string. Compiled at first use: only comparing
# texts needs it.
_EXACT_TOKEN = rf"""(?P<blank>[ \t\n\f\r][ \t\n\v\f\r]*|--[^\n]*|/\*(?!\Z)(?s:.*?)(?:\*/|\Z))
    |\ufeff
    |[xX]'[^']*(?:'|\Z)
    |(?P<quoted>'[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z)) | \[[^\]]*(?:\]|\Z)
    |(?:0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?){_NAME}*
    |[@:$\#](?:{_NAME}|::)+(?:\([^ \t\n\f\r)]*\)?)? | \?[0-9]*
    |{_NAME}+
    |->>?|==?|<[=><]?|>[=>]?|!=|\|\|
    |(?s:.)"""
# First words of the statements allowed in a migration. END is not among them: it ends a CASE expression.
_BEGINNINGS = re.compile(
    r"(?:ALTER|ANALYZE|CREATE|DELETE|DROP|EXPLAIN|INSERT|PRAGMA|REINDEX|REPLACE|SELECT|UPDATE|VACUUM|VALUES|WITH)"
    rf"(?!{_NAME})",
    re.IGNORECASE | re.ASCII,
)


class LineComment(NamedTuple):
    """One `--` comment: its text including the dashes, and its position relative to statements.

    It may be inside a statement, or after one that is complete except for its semicolon (`after_open_statement`).
    """

    start: int
    text: str
    inside_statement: bool
    after_open_statement: bool


def first_token(sql: str, start: int = 0) -> int | None:
    """Return the offset of the first statement at or after `start`; None if there is none.

    White space, comments and stray semicolons are skipped.
    """
    while gap := _GAP.match(sql, start):
        start = gap.end()
    return start if start < len(sql) else None


def has_statement(sql: str) -> bool:
    return first_token(sql) is not None


def continuation(sql: str, start: int) -> int | None:
    """Return the offset of the next token if it can only continue a statement.

    None if the token may begin a statement, or at the end of the text.
    """
    token = first_token(sql, start)
    return token if token is not None and _BEGINNINGS.match(sql, token) is None else None


def statement_end(sql: str, start: int) -> int:
    """Return the offset after the statement that begins at `start`, including its semicolon."""
    statement = _Statement(sql, start)
    while statement.next_comment():
        pass
    return statement.position


def statements(sql: str) -> list[tuple[int, int]]:
    """Return the start and end offset of each statement, from its first token to after its semicolon."""
    return list(each_statement(sql))


def each_statement(sql: str) -> Iterator[tuple[int, int]]:
    """Yield what `statements` returns. For a long text, the list takes more memory than the text."""
    start = first_token(sql)
    while start is not None:
        end = statement_end(sql, start)
        yield start, end
        start = first_token(sql, end)


def words(sql: str) -> Iterator[str]:
    """Yield names and keywords, quoted names without their quotes; strings in '' are skipped."""
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "word":
            yield token.group()
        elif token.lastgroup == "quoted" and not token.group().startswith("'"):
            yield token.group()[1:-1]


def folded(name: str) -> str:
    """Return a name as SQLite compares it: only A to Z are case-folded.

    See https://www.sqlite.org/faq.html#q18.
    """
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def quoted(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def terminated(sql: str) -> str:
    """Return a statement with a semicolon that is not inside a trailing comment.

    The semicolon directly follows the text: SQLite stores everything before it, including white space.
    """
    if "--" not in sql.rpartition("\n")[2] and "/*" not in sql:
        return f"{sql};"
    *_, last = _TOKEN.finditer(sql)
    if last.lastgroup == "line_comment":
        # SQLite strips trailing white space from the stored text of a view, so it must not vary here either.
        return f"{sql.rstrip()}\n;"
    unfinished = last.lastgroup == "block_comment" and not last.group().endswith("*/", 2)
    return f"{sql}*/;" if unfinished else f"{sql};"


def significant(sql: str) -> list[str]:
    """Return the tokens without white space and comments; names folded and unquoted."""
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
    """Return the tokens as SQLite reads them, unchanged, without white space and comments."""
    found: list[str] = []
    start = quoted_end = -1
    for token in re.finditer(_EXACT_TOKEN, sql, re.VERBOSE):
        if token.lastgroup == "blank":
            continue
        if token.start() == quoted_end and sql[token.start()] == sql[start]:
            # 'it''s' is one string that contains a quote: join the two parts.
            found.pop()
        else:
            start = token.start()
        found.append(sql[start : token.end()])
        quoted_end = token.end() if token.lastgroup == "quoted" else -1
    return found


def line_comments(
    sql: str, ends_statement: Callable[[LineComment], bool] = lambda _comment: False
) -> Iterator[LineComment]:
    """Yield every `--` comment that is not inside a string, a quoted name or a block comment.

    A statement also ends, without its semicolon, at a comment for which `ends_statement` returns true.
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
    """One statement, read up to `position`. A trigger ends only at `; END ;`, as in sqlite3_complete()."""

    def __init__(self, sql: str, start: int) -> None:
        self.position = start
        self._sql = sql
        self._trigger = _begins_trigger(sql, start)
        self._depth = 0
        self._after_semicolon = False
        self._after_end = False

    @property
    def may_end(self) -> bool:
        """True if the text read so far is a complete statement except for its semicolon."""
        return self._after_end if self._trigger else self._depth <= 0

    def next_comment(self) -> re.Match[str] | None:
        """Return the next line comment in the statement; None at its end.

        `position` is then after that comment, or after the semicolon.
        """
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

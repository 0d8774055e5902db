"""What a random script knows while it is written: which tables and columns there are, and what they are called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import strategies as st

GROUND = """
CREATE TABLE "select" (id INTEGER PRIMARY KEY, "end" TEXT, [a;b] DEFAULT 'it''s; -- ');
CREATE TABLE plain (id INTEGER PRIMARY KEY AUTOINCREMENT, a, b);
INSERT INTO "select" ("end") VALUES ('one'), (''';'), (NULL);
INSERT INTO plain (a, b) VALUES (1, 'x'), (2.5, x'00c3a9'), (NULL, '/*');
"""
"""What a script finds; its tables are those of `Model()`."""

_NAMES = [
    *("begin", "end", "commit", "case", "trigger", "table", "when", "rollback", "from", "index"),
    *("a;b", "it's", 'say "so"', "back`tick", "[open", "close]", "-- dashes", "/* stars", "*/", "two words"),
    *("new\nline", "é", "名前", "🙂", "; END;", "-- DOWN", "a", "b", "c", "d", "e", "f", "g", "h", "k", "m", "n"),
]
_BARE = set("abcdefghkmn") | {"é", "名前", "🙂", "plain", "id"}
_PIECES = [
    *("'", '"', ";", "\n", "\r\n", "--", "/*", "*/", "BEGIN", "END;", "COMMIT;", "\n-- UP\n", "\n-- DOWN\n"),
    *("é", "名", "🙂", "[", "]", "`", " ", "x", "(", ")", "''", "\\", "%", "CASE"),
]
_NUMBERS = ["0", "1", "-1", "42", "1.5", "-2e3", "0x1F", "9223372036854775807"]
_BLOBS = ["x''", "x'00c3a9'", "X'3B2D2D'"]

Tokens = list[str]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Inner = Callable[[], Tokens]


@dataclass
class Table:
    """`free` are the columns that nothing else speaks of, so that they may be dropped."""

    name: str
    columns: list[str]
    free: set[str] = field(default_factory=set)
    is_pinned: bool = False
    has_triggers: bool = False
    is_written_by_trigger: bool = False
    is_temporary: bool = False


@dataclass
class Model:
    """What the database has at one moment of the script."""

    tables: list[Table] = field(
        default_factory=lambda: [Table("select", ["end", "a;b"]), Table("plain", ["a", "b"])]
    )
    indexes: dict[str, str] = field(default_factory=dict)
    triggers: dict[str, str] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)

    def names(self) -> set[str]:
        return {table.name for table in self.tables} | {*self.indexes, *self.triggers, *self.views}


class Words:
    """Draws names, values and expressions that mean something where the model stands."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.model = Model()
        self._ways = [
            self._in_parentheses,
            self._case,
            self._case_of,
            self._operation,
            self._function,
            self._count,
        ]

    # Drawing

    def one(self, choices: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(choices))

    def often(self) -> bool:
        return bool(self._draw(st.booleans()))

    def seldom(self) -> bool:
        return self.number(0, 4) == 4

    def number(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    # Names and expressions

    def name(self, name: str, *, in_expression: bool = False) -> str:
        """Quote a name one of the four ways; in an expression the single quotes would make it a text."""
        ways = ['"' + name.replace('"', '""') + '"', "`" + name.replace("`", "``") + "`"]
        if "]" not in name:
            ways.append(f"[{name}]")
        if not in_expression:
            ways.append(quoted_text(name))
        if name in _BARE:
            ways.append(name)
        return str(self.one(ways))

    def new_name(self, taken: set[str]) -> str:
        unused = next(name for name in map("x{}".format, count()) if name not in taken)
        return str(self.one([*(name for name in _NAMES if name not in taken), unused]))

    def table(self) -> Table:
        return self.one(self.model.tables)  # type: ignore[no-any-return]  # an element of what was given

    def literal(self) -> str:
        kind = self.number(0, 5)
        if kind == 0:
            return str(self.one(_NUMBERS))
        if kind == 1:
            return str(self.one([*_BLOBS, "NULL"]))
        return quoted_text("".join(self._draw(st.lists(st.sampled_from(_PIECES), max_size=5))))

    def expression(self, columns: Sequence[Tokens] = (), depth: int = 0) -> Tokens:
        """A value, a column, or something made of others; nested at most three deep."""
        if columns and self.number(0, 3) == 0:
            return list(self.one(columns))
        if depth == 3 or self.number(0, 1) == 0:
            return [self.literal()]
        a, b, c = (lambda: self.expression(columns, depth + 1) for _ in range(3))
        return self.one(self._ways)(a, b, c)  # type: ignore[no-any-return]  # an element of what was given

    def _in_parentheses(self, a: Inner, _b: Inner, _c: Inner) -> Tokens:
        return ["(", *a(), ")"]

    def _case(self, a: Inner, b: Inner, c: Inner) -> Tokens:
        return ["CASE", "WHEN", *a(), "THEN", *b(), "ELSE", *c(), "END"]

    def _case_of(self, a: Inner, b: Inner, c: Inner) -> Tokens:
        return ["CASE", *a(), "WHEN", *b(), "THEN", *c(), "END"]

    def _operation(self, a: Inner, b: Inner, _c: Inner) -> Tokens:
        return ["(", *a(), self.one(["||", "+", "IS", "IS NOT", "<", "AND"]), *b(), ")"]

    def _function(self, a: Inner, b: Inner, _c: Inner) -> Tokens:
        return [self.one(["coalesce", "ifnull", "nullif"]), "(", *a(), ",", *b(), ")"]

    def _count(self, _a: Inner, _b: Inner, _c: Inner) -> Tokens:
        # A trigger may speak of no temporary table.
        lasting = [table.name for table in self.model.tables if not table.is_temporary]
        return ["(", "SELECT", "count(*)", "FROM", self.name(self.one(lasting or ["sqlite_schema"])), ")"]

    def columns_of(self, table: Table, prefix: str = "") -> list[Tokens]:
        quoted = [self.name(column, in_expression=True) for column in table.columns]
        return [[prefix, ".", column] if prefix else [column] for column in quoted]

    def condition(self, columns: Sequence[Tokens]) -> Tokens:
        return ["WHERE", *self.expression(columns)] if self.often() else []

    def returning(self, table: Table) -> Tokens:
        # A virtual table takes no UPDATE … RETURNING.
        if not self.seldom() or table.name == "full_text":
            return []
        return ["RETURNING", *self.one([["*"], self.expression(self.columns_of(table))])]


def quoted_text(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"

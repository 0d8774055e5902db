"""One random statement after another, each valid where the model stands when it is written."""

from collections.abc import Callable, Sequence

from integration.sql_words import Draw, Table, Tokens, Words


class Author(Words):
    """Each method returns the tokens of one statement and takes its effect into the model; None: not now."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self._kinds: dict[str, Callable[[], Tokens | None]] = {
            "create table": self._create_table,
            "create table as": self._create_table_as,
            "create full-text table": self._create_full_text,
            "insert": self._insert_returning,
            "insert from select": self._insert_from_select,
            "replace": self._replace,
            "update": self._update_returning,
            "delete": self._delete,
            "create index": self._create_index,
            "create trigger": self._create_trigger,
            "create view": self._create_view,
            "add column": self._add_column,
            "rename column": self._rename_column,
            "drop column": self._drop_column,
            "rename table": self._rename_table,
            "drop": self._drop,
            "select": self._select,
            "values": self._values,
            "pragma": self._pragma,
            "explain": self._explain,
            "analyze": self._analyze,
        }

    def statement(self) -> tuple[str, Tokens]:
        """Some kind of statement, and one of that kind."""
        kind = self.one(list(self._kinds))
        tokens = self._kinds[kind]()
        return (kind, tokens) if tokens is not None else ("values", self._values())

    def _create_table(self) -> Tokens:
        name = self.new_name(self.model.names())
        temporary = ["TEMP"] if self.seldom() else []
        tokens = ["CREATE", *temporary, "TABLE", self.name(name), "(", self.name("id"), "INTEGER PRIMARY KEY"]
        columns: list[str] = []
        for _ in range(self.number(1, 3)):
            columns.append(self.new_name({"id", *columns}))
            tokens += [",", self.name(columns[-1]), *self.column_type()]
        self.model.tables.append(Table(name, columns, is_temporary=bool(temporary)))
        return [*tokens, ")"]

    def column_type(self) -> Tokens:
        kind = self.number(0, 4)
        if kind == 0:
            return ["DEFAULT", self.literal()]
        if kind == 1:
            return ["TEXT", "DEFAULT", "(", *self.expression_of_literals(), ")"]
        return [[], ["INTEGER"], ["VARCHAR", "(", "10", ")", "COLLATE", "NOCASE"]][kind - 2]

    def expression_of_literals(self) -> Tokens:
        return ["CASE", self.literal(), "WHEN", self.literal(), "THEN", self.literal(), "END"]

    def _create_table_as(self) -> Tokens:
        source = self.table()
        name = self.new_name(self.model.names())
        columns = [self.new_name({"id"})]
        columns.append(self.new_name({"id", *columns}))
        tokens = ["CREATE", "TABLE", self.name(name), "AS", "SELECT"]
        tokens += [*self.expression(self.columns_of(source)), "AS", self.name(columns[0]), ","]
        tokens += [self.literal(), "AS", self.name(columns[1]), "FROM", self.name(source.name)]
        self.model.tables.append(Table(name, columns))
        return tokens

    def _create_full_text(self) -> Tokens | None:
        if any(name.startswith("full_text") for name in self.model.names()):
            return None
        self.model.tables.append(Table("full_text", ["words"], is_pinned=True, has_triggers=True))
        return ["CREATE", "VIRTUAL", "TABLE", "full_text", "USING", "fts5", "(words)"]

    def _insert(self, table: Table | None = None, columns: Sequence[Tokens] = (), depth: int = 0) -> Tokens:
        table = table or self.table()
        chosen = table.columns[: self.number(1, len(table.columns))]
        tokens = ["INSERT", "INTO", self.name(table.name), "("]
        tokens += [*_listed([[self.name(column)] for column in chosen]), ")", "VALUES"]
        rows = [
            ["(", *_listed([self.expression(columns, depth) for _ in chosen]), ")"]
            for _ in range(self.number(1, 3))
        ]
        return tokens + _listed(rows)

    def _insert_returning(self) -> Tokens:
        table = self.table()
        return self._insert(table) + self.returning(table)

    def _insert_from_select(self) -> Tokens:
        table, source = self.table(), self.table()
        common = self.name(self.new_name(self.model.names()))
        tokens = ["WITH"]
        if self.often():
            numbers = [
                "VALUES",
                "(",
                "1",
                ")",
                "UNION",
                "SELECT",
                "(",
                "n",
                "*",
                "2",
                ")",
                "%",
                "7",
                "FROM",
                common,
            ]
            tokens += ["RECURSIVE", common, "(", "n", ")", "AS", "(", *numbers, ")"]
            columns = [["n"]]
        else:
            inner = self.expression(self.columns_of(source))
            tokens += [common, "(", "n", ")", "AS", "(", "SELECT", *inner, "FROM", self.name(source.name), ")"]
            columns = [["n"]]
        tokens += ["INSERT", "INTO", self.name(table.name), "(", self.name(table.columns[0]), ")", "SELECT"]
        tokens += [*self.expression(columns), "FROM", common, *self.condition(columns)]
        return [*tokens, "LIMIT", "5"]

    def _replace(self) -> Tokens | None:
        tables = [table for table in self.model.tables if table.name in {"select", "plain"}]
        if not tables:
            return None
        table = self.one(tables)
        verb = self.one([["REPLACE"], ["INSERT", "OR", "REPLACE"], ["INSERT", "OR", "IGNORE"]])
        names = ["(", self.name("id"), ",", self.name(table.columns[0]), ")"]
        row = ["(", str(self.number(1, 4)), ",", *self.expression(), ")"]
        return [*verb, "INTO", self.name(table.name), *names, "VALUES", *row, *self.returning(table)]

    def _update(self, table: Table | None = None, columns: Sequence[Tokens] = (), depth: int = 0) -> Tokens:
        table = table or self.table()
        known = [*self.columns_of(table), *columns]
        change = [self.name(self.one(table.columns)), "=", *self.expression(known, depth)]
        return ["UPDATE", self.name(table.name), "SET", *change, *self.condition(known)]

    def _update_returning(self) -> Tokens:
        return self._update(table := self.table()) + self.returning(table)

    def _delete(self, table: Table | None = None, columns: Sequence[Tokens] = (), depth: int = 0) -> Tokens:
        table = table or self.table()
        known = [*self.columns_of(table), *columns]
        return ["DELETE", "FROM", self.name(table.name), "WHERE", *self.expression(known, depth)]

    def _create_index(self) -> Tokens | None:
        tables = [table for table in self.model.tables if not table.is_temporary and table.name != "full_text"]
        if not tables:
            return None
        table = self.one(tables)
        name, column = self.new_name(self.model.names()), self.one(table.columns)
        self.model.indexes[name] = table.name
        table.free -= {column}
        tokens = ["CREATE", "INDEX", self.name(name), "ON", self.name(table.name), "("]
        quoted = self.name(column, in_expression=True)
        return [*tokens, quoted, ")", *(["WHERE", quoted, "IS", "NOT", "NULL"] if self.often() else [])]

    def _create_trigger(self) -> Tokens | None:
        # A table has triggers or is written by them, never both: so one row never makes thousands.
        watched = [t for t in self.model.tables if not (t.is_written_by_trigger or t.is_temporary)]
        watched = [table for table in watched if table.name != "full_text"]
        written = [t for t in self.model.tables if not (t.has_triggers or t.is_temporary)]
        if not watched or not written:
            return None
        table = self.one(watched)
        written = [target for target in written if target is not table]
        if not written:
            return None
        name = self.new_name(self.model.names())
        event = self.one(["INSERT", "UPDATE", "DELETE"])
        rows = [] if event == "INSERT" else self.columns_of(table, "old")
        rows += [] if event == "DELETE" else self.columns_of(table, "NEW")
        tokens = ["CREATE", "TRIGGER", self.name(name), *self.one([[], ["AFTER"], ["BEFORE"]]), event]
        tokens += ["ON", self.name(table.name), *self.one([[], ["FOR", "EACH", "ROW"]])]
        tokens += ["WHEN", *self.expression(rows, 1)] if self.often() else []
        tokens += ["BEGIN"]
        for _ in range(self.number(1, 3)):
            tokens += [*self._trigger_step(self.one(written), rows), ";"]
        table.has_triggers = True
        # An expression may count the rows of any table.
        for known in self.model.tables:
            known.is_pinned, known.free = True, set()
        self.model.triggers[name] = table.name
        return [*tokens, "END"]

    def _trigger_step(self, target: Table, rows: list[Tokens]) -> Tokens:
        target.is_written_by_trigger = True
        match self.number(0, 3):
            case 0:
                return self._insert(target, rows, 1)
            case 1:
                return self._update(target, rows, 1)
            case 2:
                return self._delete(target, rows, 1)
            case _:
                return ["SELECT", *self.expression_of_literals(), ",", *self.expression(rows, 1)]

    def _create_view(self) -> Tokens | None:
        tables = [table for table in self.model.tables if not table.is_temporary]
        table = self.one(tables)
        name = self.new_name(self.model.names())
        columns = self.columns_of(table)
        table.is_pinned, table.free = True, set()
        self.model.views.append(name)
        selected = [
            "SELECT",
            *self.one(columns),
            "AS",
            self.name("end"),
            ",",
            self.literal(),
            "AS",
            self.name("b"),
        ]
        return ["CREATE", "VIEW", self.name(name), "AS", *selected, "FROM", self.name(table.name)]

    def _alterable(self) -> list[Table]:
        return [table for table in self.model.tables if table.name != "full_text"]

    def _add_column(self) -> Tokens:
        table = self.one(self._alterable())
        column = self.new_name({"id", *table.columns})
        table.columns.append(column)
        table.free.add(column)
        kind = self.one([[], ["TEXT"], ["DEFAULT", self.literal()]])
        return ["ALTER", "TABLE", self.name(table.name), "ADD", "COLUMN", self.name(column), *kind]

    def _rename_column(self) -> Tokens:
        table = self.one(self._alterable())
        old = self.one(table.columns)
        new = self.new_name({"id", *table.columns})
        table.columns[table.columns.index(old)] = new
        if old in table.free:
            table.free = table.free - {old} | {new}
        return ["ALTER", "TABLE", self.name(table.name), "RENAME", "COLUMN", self.name(old), "TO", self.name(new)]

    def _drop_column(self) -> Tokens | None:
        tables = [table for table in self._alterable() if table.free and len(table.columns) > 1]
        if not tables:
            return None
        table = self.one(tables)
        column = self.one(sorted(table.free))
        table.columns.remove(column)
        table.free.discard(column)
        return ["ALTER", "TABLE", self.name(table.name), "DROP", "COLUMN", self.name(column)]

    def _rename_table(self) -> Tokens:
        table = self.one(self._alterable())
        new = self.new_name(self.model.names())
        tokens = ["ALTER", "TABLE", self.name(table.name), "RENAME", "TO", self.name(new)]
        for owned in (self.model.indexes, self.model.triggers):
            owned.update({name: new for name, owner in owned.items() if owner == table.name})
        table.name = new
        return tokens

    def _drop(self) -> Tokens | None:
        model = self.model
        tables = [table.name for table in model.tables if not table.is_pinned and len(model.tables) > 2]
        choices = [("TABLE", name) for name in tables]
        choices += [("INDEX", name) for name in model.indexes] + [("TRIGGER", name) for name in model.triggers]
        choices += [("VIEW", name) for name in model.views]
        if not choices:
            return None
        kind, dropped = self.one(choices)
        if kind == "VIEW":
            model.views.remove(dropped)
        model.tables = [table for table in model.tables if kind != "TABLE" or table.name != dropped]
        for owned in (model.indexes, model.triggers):
            for name in [name for name, owner in owned.items() if dropped in {name, owner}]:
                del owned[name]
        return ["DROP", kind, *self.one([[], ["IF", "EXISTS"]]), self.name(dropped)]

    def _select(self) -> Tokens:
        table = self.table()
        columns = self.columns_of(table)
        tokens = ["SELECT", *self.expression(columns), "AS", self.name("commit"), ",", *self.one(columns)]
        tokens += ["FROM", self.name(table.name), *self.condition(columns)]
        if self.seldom():
            return [*tokens, "UNION", "SELECT", self.literal(), ",", *self.expression()]
        return [*tokens, "ORDER", "BY", "1"]

    def _values(self) -> Tokens:
        return ["VALUES", *_listed([["(", *self.expression(), ")"] for _ in range(self.number(1, 3))])]

    def _pragma(self) -> Tokens:
        name = self.name(self.table().name)
        number = str(self.number(0, 9))
        return self.one(  # type: ignore[no-any-return]  # an element of what was given
            [
                ["PRAGMA", "user_version", "=", number],
                ["PRAGMA", "main", ".", "application_id", "=", number],
                ["PRAGMA", "user_version"],
                ["PRAGMA", "table_info", "(", name, ")"],
                ["PRAGMA", "table_xinfo", "=", name],
                ["PRAGMA", "foreign_key_list", "(", name, ")"],
                ["PRAGMA", "integrity_check"],
                ["PRAGMA", "foreign_keys", "=", "ON"],
                ["PRAGMA", "cache_size", "=", "10"],
            ]
        )

    def _explain(self) -> Tokens:
        way = self.one([["EXPLAIN"], ["EXPLAIN", "QUERY", "PLAN"]])
        return [*way, *self.one([self._select, self._update, self._delete, self._insert_from_select])()]

    def _analyze(self) -> Tokens:
        return [self.one(["ANALYZE", "REINDEX"]), self.name(self.one(self._alterable()).name)]


def _listed(items: list[Tokens]) -> Tokens:
    return [token for item in items for token in [",", *item]][1:]

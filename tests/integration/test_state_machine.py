"""Any order of edits, runs and rollbacks, on real files and a real database, beside a model in plain Python."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import checksum, execute, put_file, query, schema, write_migration

from migrated import (
    ChecksumMismatchError,
    ExecutionFailedError,
    LateMigrationError,
    MigrationError,
    MigrationNotFoundError,
    MigrationRunner,
    OnChanged,
    OnLate,
    OnMissing,
    Policy,
    RefusedError,
    RollbackFailedError,
)

VERSIONS = st.integers(1, 9)
UNKNOWN = 10
GOOD, EDITED, FAILING, DRAFT = "good", "edited", "failing", "draft"


def up_text(version: int, kind: str) -> str:
    return {
        GOOD: f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY);",
        EDITED: f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY, more);",
        FAILING: f"CREATE TABLE t{version} (id);\nINSERT INTO gone VALUES (1);",
        DRAFT: "-- to be written",
    }[kind]


def is_reversible(version: int) -> bool:
    return version != 5


class Expected:
    """What the model says of an action: the steps that are done, and the error that ends it.

    Where it `goes_back`, an older content is the beginning, and what the history says of it depends on which.
    Where it `may_be_stuck` as well, there may be no content that has everything which no file could apply again.
    """

    def __init__(
        self,
        steps: list[tuple[str, int]] | None = None,
        error: type[MigrationError] | None = None,
        culprits: set[int] | None = None,
        *,
        goes_back: bool = False,
        may_be_stuck: bool = False,
    ) -> None:
        self.steps = steps or []
        self.goes_back = goes_back
        self.may_be_stuck = may_be_stuck
        self.repeats = False
        self.is_redo = False
        self.error = error
        self.culprits = culprits or set()


class Migrating(RuleBasedStateMachine):
    """`files` is the directory, `ledger` what is applied: both map a version to the kind of its text.

    `rows` are those that a person typed into the tables of the migrations. `repeatables` and `views` are the files
    and what is there of repeatable migrations, each of which makes one view.
    """

    def __init__(self) -> None:
        super().__init__()
        # Thousands of commits: on a disk they would take minutes.
        in_memory = Path("/dev/shm")  # noqa: S108 - the directory made there has a name of its own
        self.home = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
        self.directory = self.home / "migrations"
        self.directory.mkdir()
        self.database = self.home / "app.db"
        self.policy = Policy()
        self.files: dict[int, str] = {}
        self.gone: dict[int, str] = {}
        self.ledger: dict[int, str] = {}
        self.history: list[tuple[str, int]] = []
        self.rows: dict[int, set[int]] = {}
        self.repeatables: dict[str, str] = {}
        self.views: dict[str, str] = {}
        self.typed = 0
        self.runner: MigrationRunner | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    @initialize(
        on_changed=st.sampled_from(OnChanged),
        on_missing=st.sampled_from(OnMissing),
        on_late=st.sampled_from([OnLate.APPLY, *OnLate]),
        versions=st.sets(VERSIONS, min_size=2, max_size=5),
    )
    def begin(self, on_changed: OnChanged, on_missing: OnMissing, on_late: OnLate, versions: set[int]) -> None:
        self.policy = Policy(on_changed, on_missing, on_late)
        for version in versions:
            self._put(version, GOOD)
        self.run()

    # The directory. One rule for all: Hypothesis switches some rules off for the length of an example.

    @rule(data=st.data())
    def change_the_directory(self, data: st.DataObject) -> None:
        applied_files = self.files.keys() & self.ledger.keys()
        unused = set(range(1, UNKNOWN)) - self.files.keys() - self.ledger.keys()
        unready = [v for v, kind in self.files.items() if kind in {FAILING, DRAFT} and v not in self.ledger]
        choices = {
            self._add: sorted(unused) * 2,
            self._edit: sorted(applied_files),
            self._undo: self._changed() * 4,
            self._delete: sorted(self.files),
            self._bring_back: sorted(self.gone.keys() - self.files.keys()) * 4,
            self._mend: unready * 2,
        }
        change, version = data.draw(
            st.sampled_from([(act, v) for act, versions in choices.items() for v in versions])
        )
        change(version, data)

    def _add(self, version: int, data: st.DataObject) -> None:
        self._put(version, data.draw(st.sampled_from([GOOD, GOOD, FAILING, DRAFT])))

    def _edit(self, version: int, data: st.DataObject) -> None:
        self._put(version, data.draw(st.sampled_from([EDITED, GOOD, FAILING, DRAFT])))

    def _undo(self, version: int, _data: st.DataObject) -> None:
        self._put(version, self.ledger[version])

    def _delete(self, version: int, _data: st.DataObject) -> None:
        self.gone[version] = self.files.pop(version)
        (self.directory / f"{version}_change.sql").unlink()
        self.runner = None

    def _bring_back(self, version: int, _data: st.DataObject) -> None:
        self._put(version, self.gone.pop(version))

    def _mend(self, version: int, _data: st.DataObject) -> None:
        self._put(version, GOOD)

    def _put(self, version: int, kind: str) -> None:
        down = f"DROP TABLE t{version};" if is_reversible(version) else None
        write_migration(self.directory, version, up=up_text(version, kind), down=down)
        self.files[version] = kind
        self.runner = None

    # The actions

    @precondition(lambda self: self.files.keys() & self.ledger.keys())
    @rule(data=st.data())
    def edit_and_run(self, data: st.DataObject) -> None:
        self._edit(data.draw(st.sampled_from(sorted(self.files.keys() & self.ledger.keys()))), data)
        self.runner = None
        self.run()

    @precondition(lambda self: self.ledger)
    @rule(data=st.data())
    def type_a_row(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.ledger)))
        self.typed += 1
        execute(self.database, f"INSERT INTO t{version} (id) VALUES ({self.typed})")
        self.rows.setdefault(version, set()).add(self.typed)

    @rule(name=st.sampled_from("ab"), kind=st.sampled_from([GOOD, EDITED, None]))
    def change_a_view(self, name: str, kind: str | None) -> None:
        self.runner = None
        if kind is not None:
            text = f"DROP VIEW IF EXISTS {name};\nCREATE VIEW {name} AS SELECT '{kind}' AS kind;"
            put_file(self.directory, f"R__{name}.sql", text)
            self.repeatables[name] = kind
        elif self.repeatables.pop(name, None):
            (self.directory / f"R__{name}.sql").unlink()

    @rule(restarted=st.booleans())
    def run_later(self, restarted: bool) -> None:  # noqa: FBT001 - drawn by name
        if restarted:
            self.runner = None
        self.run()

    @rule()
    def run(self) -> None:
        expected = self._upward(None)
        expected.repeats = True
        self._act(lambda runner: runner.run(), expected)

    @rule(data=st.data())
    def run_up_to(self, data: st.DataObject) -> None:
        goal = self._goal(data)
        expected = self._upward(goal) if self._knows(goal) else Expected(error=MigrationNotFoundError)
        self._act(lambda runner: runner.run_up_to(goal), expected)

    @rule(data=st.data())
    def run_to(self, data: st.DataObject) -> None:
        goal = self._goal(data)
        above = [version for version in self.ledger if version > goal]
        if self._changed():
            expected = Expected(error=ChecksumMismatchError, culprits=set(self._changed()))
        elif not self._knows(goal):
            expected = Expected(error=MigrationNotFoundError)
        elif [version for version in self._pending() if version <= goal]:
            expected = self._upward(goal)
        else:
            expected = self._downward(above)
        self._act(lambda runner: runner.run_to(goal), expected)

    @rule()
    def roll_back_one(self) -> None:
        self._act(lambda runner: runner.roll_back(), self._downward(sorted(self.ledger)[-1:]))

    @rule(data=st.data())
    def roll_back_to(self, data: st.DataObject) -> None:
        goal = self._goal(data)
        above = [version for version in self.ledger if version > goal]
        expected = self._downward(above) if self._knows(goal) else Expected(error=MigrationNotFoundError)
        self._act(lambda runner: runner.roll_back_to(goal), expected)

    def _goal(self, data: st.DataObject) -> int:
        known = sorted(self.files.keys() | self.ledger.keys())
        return data.draw(st.sampled_from([0, *known, *known, UNKNOWN]))

    def _act(self, action: Callable[[MigrationRunner], object], expected: Expected) -> None:
        if self.runner is None:
            self.runner = MigrationRunner(self.database, policy=self.policy)
            self.runner.add_directory(self.directory)
        error: MigrationError | None = None
        try:
            action(self.runner)
        except MigrationError as raised:
            error = raised
        if expected.may_be_stuck and isinstance(error, RollbackFailedError):
            expected = Expected(error=RollbackFailedError)
        self._take(expected)
        if expected.repeats and error is None:
            gone = self.views.keys() - self.repeatables.keys()
            if self.policy.on_missing is OnMissing.ROLLBACK or (expected.is_redo):
                self.views = {name: kind for name, kind in self.views.items() if name not in gone}
            self.views |= self.repeatables

        assert type(error) is (expected.error or type(None)), error
        if error is not None:
            # Rolling back what is missing clears the way; it is not part of the failed run.
            way = "rollback" if isinstance(error, RollbackFailedError) else "apply"
            done = [version for action, version in expected.steps if action == way]
            assert [entry.version for entry in error.completed] == done
        if isinstance(error, RefusedError) and expected.culprits:
            assert {offender.version for offender in error.offenders} == expected.culprits
        if isinstance(error, ExecutionFailedError):
            assert {error.version} == expected.culprits

    def _take(self, expected: Expected) -> None:
        for direction, version in expected.steps:
            if direction == "rollback":
                del self.ledger[version]
            else:
                self.ledger[version] = self.files[version]
        # A redo drops no row for good but of a table that is gone.
        again = {version for direction, version in expected.steps if direction != "rollback"}
        for version in {version for direction, version in expected.steps if direction == "rollback"} - again:
            self.rows.pop(version, None)
        if expected.goes_back:
            rows = query(
                self.database, "SELECT action, version FROM _migrations_history WHERE version > 0 ORDER BY id"
            )
            assert [(str(action), version) for action, version in rows][: len(self.history)] == self.history
            self.history = [(str(action), int(str(version))) for action, version in rows]
        else:
            self.history += expected.steps

    # What the contract says

    def _changed(self) -> list[int]:
        return [
            version
            for version in self.files
            if self.ledger.get(version, self.files[version]) != self.files[version]
        ]

    def _pending(self) -> list[int]:
        return sorted(
            version for version in self.files.keys() - self.ledger.keys() if self.files[version] != DRAFT
        )

    def _knows(self, target: int) -> bool:
        return target == 0 or target in self.files or target in self.ledger

    def _upward(self, target: int | None) -> Expected:
        missing = self.ledger.keys() - self.files.keys()
        late = {version for version in self._pending() if version < max(self.ledger, default=0)}
        redoes = self.policy.on_changed is OnChanged.REDO
        refusals: list[tuple[type[MigrationError], set[int]]] = [
            (ChecksumMismatchError, set() if redoes else set(self._changed())),
            (MigrationNotFoundError, set(missing) if self.policy.on_missing is OnMissing.REFUSE else set()),
            (LateMigrationError, late if self.policy.on_late is OnLate.REFUSE else set()),
        ]
        raised = [(error, culprits) for error, culprits in refusals if culprits]
        if raised:
            return Expected(error=raised[0][0], culprits=set().union(*(culprits for _, culprits in raised)))
        if self.policy.on_missing is not OnMissing.ROLLBACK:
            missing = set()
        if redoes and (missing or self._changed()):
            return self._redone(missing, target)
        expected = self._downward(list(missing))
        for version in [] if expected.error else self._pending():
            if target is not None and version > target:
                break
            if self.files[version] == FAILING:
                return Expected(expected.steps, ExecutionFailedError, {version})
            expected.steps.append(("apply", version))
        return expected

    def _redone(self, missing: set[int], target: int | None) -> Expected:
        lowest = min(self._changed(), default=UNKNOWN)
        back = {v for v in self.ledger if v in missing or (v >= lowest and v in self.files)}
        stuck = not all(is_reversible(version) for version in back)
        # What is not rolled back and has no file has to be there in the older content.
        may_be_stuck = stuck and bool(self.ledger.keys() - self.files.keys() - back)
        forth = sorted(
            version
            for version in (back & self.files.keys()) | set(self._pending())
            if self.files[version] != DRAFT
            and (target is None or version <= target or version in back or version in self.ledger)
        )
        failing = [version for version in forth if self.files[version] == FAILING]
        if failing:
            return Expected(error=ExecutionFailedError, culprits={failing[0]}, may_be_stuck=may_be_stuck)
        down = [("rollback", version) for version in sorted(back, reverse=True)]
        up = [("redo" if version in back else "apply", version) for version in forth]
        expected = Expected(down + up, goes_back=stuck, may_be_stuck=may_be_stuck)
        expected.repeats = expected.is_redo = True
        return expected

    def _downward(self, versions: list[int]) -> Expected:
        if self._changed() and self.policy.on_changed is OnChanged.REFUSE:
            return Expected(error=ChecksumMismatchError, culprits=set(self._changed()))
        if not all(is_reversible(version) for version in versions):
            return Expected(error=RollbackFailedError)
        return Expected([("rollback", version) for version in sorted(versions, reverse=True)])

    # What always holds

    @invariant()
    def ledger_and_schema_are_those_of_the_model(self) -> None:
        if not self.history:
            assert not self.database.exists() or not self.ledger
            return
        assert query(self.database, "SELECT version, name, checksum FROM _migrations ORDER BY version") == [
            (version, "change", checksum(up_text(version, kind))) for version, kind in sorted(self.ledger.items())
        ]
        assert [row for row in schema(self.database) if row[0] == "table"] == [
            ("table", f"t{version}", up_text(version, kind).rstrip(";"))
            for version, kind in sorted(self.ledger.items())
        ]
        assert query(self.database, "SELECT name, sql FROM sqlite_schema WHERE type = 'view' ORDER BY name") == [
            (name, f"CREATE VIEW {name} AS SELECT '{kind}' AS kind") for name, kind in sorted(self.views.items())
        ]
        for version in self.ledger:
            there = {row[0] for row in query(self.database, f"SELECT id FROM t{version}")}
            assert there == self.rows.get(version, set()), f"rows of t{version}"
        assert (
            query(self.database, "SELECT action, version FROM _migrations_history WHERE version > 0 ORDER BY id")
            == self.history
        )

    @invariant()
    def looking_agrees_with_the_model(self) -> None:
        runner = MigrationRunner(self.database)
        runner.add_directory(self.directory)
        assert [migration.version for migration in runner.pending()] == self._pending()
        assert runner.current_version() == max(self.ledger, default=None)


Migrating.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
TestMigrating = Migrating.TestCase

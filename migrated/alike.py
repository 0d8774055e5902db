"""Telling that a database has everything because its record is that of another one that has."""

from migrated.config.settings import Target
from migrated.core import refusals
from migrated.core.errors import MigrationError
from migrated.core.status import OnChanged
from migrated.discovery import DatabasePath
from migrated.engine.runner import Prepared
from migrated.engine.sqlite.database import SqliteDatabase
from migrated.engine.sqlite.ledger import Glance, glance

_MOST = 64


class Alike:
    """For one pass over a target. A fleet has few different records: most databases cost one small query each.

    Several threads may ask at once.
    """

    def __init__(self, prepared: Prepared, target: Target) -> None:
        self._prepared = prepared
        self._target = target
        # What was edited and only changes the record cannot be told from a glance.
        self._is_of_use = target.policy.on_changed is OnChanged.REFUSE
        self._known: set[Glance] = set()

    def is_current(self, database: DatabasePath) -> bool:
        """Whether it has everything, as far as can be told at a glance. False means nothing."""
        return bool(self._known) and self._glance(database) in self._known

    def learn(self, database: DatabasePath) -> None:
        """Take in what a database looks like that has everything, which is looked at once more for that."""
        if not self._is_of_use or len(self._known) >= _MOST:
            return
        before = self._glance(database)
        if before is None or before in self._known:
            return
        handle = SqliteDatabase(database.path, must_exist=True, application_id=self._target.application_id)
        try:
            findings = self._prepared.find(handle.look())
            refusals.refuse_by_policy(findings.statuses, self._target.policy)
        except MigrationError:
            return
        # Else somebody wrote to it between the looks.
        if not findings.pending and self._glance(database) == before:
            self._known.add(before)

    def _glance(self, database: DatabasePath) -> Glance | None:
        return glance(database.path, self._target.application_id)

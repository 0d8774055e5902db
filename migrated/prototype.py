"""What many new databases of one target are copied from, made once it is worth that."""

import threading
from collections.abc import Sequence

from migrated.config.settings import Target
from migrated.core.errors import MigrationError
from migrated.core.migration import Migration
from migrated.engine.backend import Template
from migrated.engine.runner import MigrationRunner


class Prototype:
    """For one pass, so that what is copied is not older than that. Used by several threads."""

    def __init__(self, target: Target, migrations: Sequence[Migration]) -> None:
        self._target = target
        self._migrations = migrations
        self._mutex = threading.Lock()
        self._asked = 0
        self._template: Template | None = None

    def template(self) -> Template | None:
        """For another new database: nothing for the first, which shows whether the migrations work at all."""
        with self._mutex:
            self._asked += 1
            if self._asked == 2:  # noqa: PLR2004 - the second one
                self._template = self._make()
            return self._template

    def _make(self) -> Template | None:
        runner = MigrationRunner(
            ":memory:",
            policy=self._target.policy,
            transaction=self._target.transaction,
            application_id=self._target.application_id,
        )
        try:
            runner.add_migrations(self._migrations)
            return runner.make_template()
        except MigrationError:
            # The databases themselves will show what is wrong.
            return None

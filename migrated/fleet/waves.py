"""Roll out a change in waves of growing size; stop after a wave with a failure.

After Ansible's `serial` and `max_fail_percentage`
(https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_strategies.html).
"""

import math
from collections.abc import Iterator

from migrated.config.settings import Share, WavePolicy

SMALLEST_FLEET = 11
"""Smaller fleets have no waves unless they are configured: waves would protect few databases."""
USUAL_WAVES = (Share(1), Share(10), Share(10, is_percent=True))
USUAL_LIMIT = Share(1, is_percent=True)


class Waves:
    """Decides for a fleet of `total` databases whether the next one may begin.

    Only databases that were changed or failed count: one with nothing to do does not test the migration.
    """

    def __init__(self, total: int, policy: WavePolicy) -> None:
        waves = policy.waves
        if waves is None:
            waves = USUAL_WAVES if total >= SMALLEST_FLEET else ()
        self._total = total
        self._max_failures = policy.max_failures
        self._sizes: Iterator[float] = iter([*(wave.of(total) for wave in waves), math.inf])
        self._may_halt = bool(waves)
        self._room = next(self._sizes)
        self._failed_in_wave = 0
        self.number = 1
        self.failures = 0
        self.changed = 0
        self.is_halted = False

    def room(self, running: int) -> float:
        """Return how many more may begin while `running` are in progress.

        Begins the next wave when the current one is complete and nothing is running.
        """
        # A running database may still fail: the next wave waits until all have finished.
        if self._room <= 0 and running == 0 and not self.is_halted:
            self._begin_next()
        return 0 if self.is_halted else self._room - running

    def count_change(self) -> None:
        """Count a database that was changed."""
        self.changed += 1
        self._room -= 1

    def count_failure(self) -> None:
        """Count a database in which a migration failed for a reason that is not temporary."""
        self._room -= 1
        self.failures += 1
        self._failed_in_wave += 1
        self.is_halted = self._may_halt and self._failed_in_wave > self._limit()

    def _limit(self) -> int:
        if self._max_failures is not None:
            return self._max_failures.of(self._total)
        return 1 if self.number == 1 else USUAL_LIMIT.of(self._total)

    def _begin_next(self) -> None:
        # A wave with any failure is the last one, so this counter is never reset.
        if self._failed_in_wave:
            self.is_halted = True
            return
        self.number += 1
        # Skip waves of size 0: a percentage of a small fleet may round down to it.
        while (size := next(self._sizes)) < 1:
            pass
        self._room = size

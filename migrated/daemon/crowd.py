"""Databases that are in trouble for one cause, and which of them are told of one by one."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from migrated.daemon.passes import Halted
from migrated.daemon.schedule import Complaint
from migrated.fleet.reporting import FEW, report_halt
from migrated.logs.log import Log


@dataclass(slots=True)
class Crowd:
    """Databases in trouble for one cause: a few that are `told` of one by one, and the `others`."""

    told: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    complaint: Complaint = field(default_factory=Complaint)

    def join(self, path: str) -> bool:
        """Take in a database. Whether it is told of by itself."""
        if path in self.told or (len(self.told) < FEW and path not in self.others):
            self.told.add(path)
            return True
        self.others.add(path)
        return False

    def leave(self, path: str) -> None:
        """It is in this trouble no more."""
        self.told.discard(path)
        self.others.discard(path)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has this trouble any more."""
        return not self.told and not self.others


class HaltComplaint:
    """That roll-outs are halted, told at once and again for as long as databases wait for one to go on."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._last: Halted | None = None
        self._complaint = Complaint()

    def take(self, halted: Halted) -> None:
        """These wait."""
        if halted.is_new:
            self._last, self._complaint = halted, Complaint()
        self._paths |= {database.path for database in halted.databases}

    def leave(self, path: str) -> None:
        """It waits no more."""
        self._paths.discard(path)

    def keep(self, paths: AbstractSet[str]) -> None:
        """All others are gone."""
        self._paths &= paths

    def tell(self, log: Log, now: float) -> None:
        """Log it if it is time to."""
        if self._last is not None and self._paths and self._complaint.is_due("halted", now):
            report_halt(self._last.halt, self._last.total, log.bind(repeated=self._complaint.repeated or None))

"""Databases that are in trouble for one cause, and which of them are told of one by one."""

from dataclasses import dataclass, field

from migrated.daemon.schedule import Complaint
from migrated.reports import FEW


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

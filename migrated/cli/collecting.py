"""Tune how often Python's cyclic garbage collector runs."""

import gc

_DEFAULT = gc.get_threshold()
# Objects allocated before the first collection: more than a thousand migrations and the modules that read them.
_RARE_THRESHOLD = 50_000


def collect_rarely() -> None:
    """For short commands: collections that find nothing take a twentieth of their run time."""
    gc.set_threshold(_RARE_THRESHOLD, *_DEFAULT[1:])


def restore_default() -> None:
    """For the daemon: with rare collections its memory would grow."""
    gc.set_threshold(*_DEFAULT)

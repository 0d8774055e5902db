"""How often Python looks for garbage that only a search finds."""

import gc

_USUAL = gc.get_threshold()
# Objects, before the first look at them: a thousand migrations and the modules that read them are fewer.
_MANY = 50_000


def seldom() -> None:
    """For a command that is soon over: a twentieth of a short one's time goes into searches that find nothing."""
    gc.set_threshold(_MANY, *_USUAL[1:])


def as_usual() -> None:
    """For what stays: searched more seldom, its memory would grow."""
    gc.set_threshold(*_USUAL)

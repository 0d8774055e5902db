"""Pure values and decisions: no clock, disk, thread, log or environment."""

VERSION = "0.1.0"
MINIMUM_PYTHON = (3, 11, 2)  # the version in Debian 12

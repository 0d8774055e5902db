"""The pure part: values and decisions, without clock, disk, thread, log or environment."""

VERSION = "0.1.0"
MINIMUM_PYTHON = (3, 11, 2)  # that of Debian 12

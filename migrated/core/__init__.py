"""Which program this is."""

VERSION = "0.1.0"
MINIMUM_PYTHON = (3, 11, 2)  # that of Debian 12

"""Measure migrated beside its floors and its peers: `python tests/benchmarks --help`."""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]

from benchmarks.command import main  # noqa: E402 - found by the path set above

if __name__ == "__main__":
    main()

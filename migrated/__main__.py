"""Entry point of `python -m migrated`."""

from migrated.cli import run

if __name__ == "__main__":
    run()

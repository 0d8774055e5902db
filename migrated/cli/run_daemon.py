"""migrated run."""

import argparse

from migrated.cli import options

NAME = "run"
SUMMARY = "the daemon: watch, and keep every database current, in the foreground"
EXAMPLE = "migrated run -c /etc/migrated.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT. SIGHUP reads the configuration again, SIGUSR1 looks at everything now."""
    from migrated import logs
    from migrated.daemon.loop import Daemon

    config = options.configuration(arguments)
    log = logs.configure(config.log_format, config.log_level, queued=True)
    try:
        return Daemon(config, lambda: options.configuration(arguments), log).run()
    finally:
        log.close()

"""What `run` and `dev` share: the daemon, in the foreground."""

import argparse
from collections.abc import Callable

from migrated.cli import collecting, options
from migrated.config.settings import Config


def serve(arguments: argparse.Namespace, adapt: Callable[[Config], Config] = lambda config: config) -> int:
    """Run until SIGTERM or SIGINT. SIGHUP reads the configuration again, SIGUSR1 looks at everything now."""
    from migrated.daemon.loop import Daemon
    from migrated.logs import log as logs

    collecting.as_usual()

    def load() -> Config:
        return adapt(options.configuration(arguments))

    config = load()
    log = logs.configure(config.log_format, config.log_level, queued=True)
    try:
        return Daemon(config, load, log).run()
    finally:
        log.close()

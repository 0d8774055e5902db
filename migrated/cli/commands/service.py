"""The commands `run`, `dev` and `install-service`: run the daemon, or write a systemd unit for it."""

import argparse
import glob
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.config.settings import Config, for_development
from migrated.core.errors import MigrationFileError, RefusedError

_UNIT = "migrated.service"
_SYSTEM = "/etc/systemd/system"
# With ProtectHome= systemd hides these directories from the service.
_HOMES = ("/home", "/root", "/run/user")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@=")


def configure_install_service(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--user", action="store_true", help="a unit for your own session, which runs `migrated dev`"
    )
    parser.add_argument("--print", action="store_true", help="print the unit, write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite a unit that differs")


def execute_install_service(arguments: argparse.Namespace) -> int:
    """Write the unit, or print it. Raises `RefusedError` if a different unit exists."""
    config = options.configuration(arguments)
    unit = _for_user(arguments, config) if arguments.user else _for_system(arguments, config)
    if arguments.print:
        print(unit, end="")
        return 0
    path = _place(for_user=arguments.user)
    _write(path, unit, force=arguments.force)
    manager = "systemctl --user" if arguments.user else "systemctl"
    print(f"wrote {path}. Next:\n  {manager} daemon-reload\n  {manager} enable --now migrated")
    return 0


def _for_system(arguments: argparse.Namespace, config: Config) -> str:
    from migrated.sources.directory import as_file_error

    directories = sorted({_directory(target.base, path) for target in config.targets for path in target.databases})
    with as_file_error(Path(directories[0]), "directory of the databases"):
        owner = os.stat(directories[0]).st_uid
    values = {
        "ExecStart": _command("run", arguments, config),
        "ExecReload": _command("reload --wait", arguments, config),
        "WorkingDirectory": _escaped(str(Path.cwd())),
        "User": _name_of(owner),
        "ReadWritePaths": " ".join(map(_word, directories)),
    }
    needed = [str(Path.cwd()), config.source, sys.prefix, sys.base_prefix, *directories]
    needed += [target.migrations for target in config.targets]
    if any(Path(path).is_relative_to(home) for path in needed for home in _HOMES):
        values["ProtectHome"] = "read-only"
    return _filled(_template(_UNIT), values)


def _for_user(arguments: argparse.Namespace, config: Config) -> str:
    values = {
        "ExecStart": _command("dev", arguments, config),
        "ExecReload": _command("reload --wait", arguments, config),
        "WorkingDirectory": _escaped(str(Path.cwd())),
    }
    return _filled(_template(f"user/{_UNIT}"), values)


def _command(name: str, arguments: argparse.Namespace, config: Config) -> str:
    """Return the command line that runs a command of this installation with the given options."""
    program = Path(sys.argv[0]).absolute()
    # Started with `python -m migrated`, argv[0] is __main__.py, which cannot be executed.
    words = [sys.executable, "-m", "migrated"] if program.suffix == ".py" else [str(program)]
    given = options.overrides(arguments)
    databases = given.databases
    if not databases and os.environ.get("DATABASE_URL") and not os.path.exists(config.source):
        # A service does not inherit DATABASE_URL: write its value into the unit.
        databases = config.targets[0].databases
    chosen = {
        "-c": [given.file],
        "-d": databases,
        "-m": [given.migrations],
        "--log-format": [given.log_format],
        "--log-level": [given.log_level],
    }
    options_given = [word for key, values in chosen.items() for value in values if value for word in (key, value)]
    # systemd expands $NAME in ExecStart; `$$` is a literal dollar sign.
    return " ".join([*map(_word, words), name, *(_word(word).replace("$", "$$") for word in options_given)])


def _directory(base: str, configured: str) -> str:
    """Return the deepest directory that contains everything a database path or glob may match."""
    path = Path(os.path.abspath(os.path.join(base, configured))).parent
    while glob.has_magic(str(path)):
        path = path.parent
    return str(path)


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _escaped(text: str) -> str:
    # A percent sign begins a specifier in unit files.
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """Quote one word of a unit's line (https://www.freedesktop.org/software/systemd/man/latest/systemd.syntax.html)."""
    if _PLAIN.issuperset(text):
        return text
    quoted = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _template(name: str) -> str:
    from importlib.resources import files

    package = files("migrated")
    # The units are inside the package in a wheel, and beside it in a checkout.
    installed = package / "units" / name
    return (installed if installed.is_file() else package / "../systemd" / name).read_text()


def _filled(template: str, values: dict[str, str]) -> str:
    """Fill the template with values; drop its header and EDIT marks, which are for people."""
    lines = ["# Written by `migrated install-service`.", ""]
    for line in template[template.index("[Unit]") :].splitlines():
        key = line.partition("=")[0]
        if not line.startswith("# EDIT:"):
            lines.append(f"{key}={values[key]}" if key in values else line)
    return "\n".join([*lines, ""])


def _place(*, for_user: bool) -> Path:
    if not for_user:
        return Path(_SYSTEM, _UNIT)
    configured = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(configured, "systemd/user", _UNIT)


def _write(path: Path, unit: str, *, force: bool) -> None:
    try:
        if not force and path.exists() and path.read_text() != unit:
            raise RefusedError(
                f"{path} already exists and differs from this unit",
                hint="--force overwrites it, --print shows what would be written",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit)
    except OSError as error:
        raise MigrationFileError(
            f"cannot write the unit: {error.strerror}",
            file=str(path),
            hint="run this as root, or use --user for a unit of your own session, or --print; "
            "see `migrated help service`",
        ) from error


def serve(arguments: argparse.Namespace, adapt: Callable[[Config], Config] = lambda config: config) -> int:
    """Run the daemon until SIGTERM or SIGINT. SIGHUP reloads the configuration, SIGUSR1 starts a full pass."""
    from migrated.daemon.loop import Daemon
    from migrated.logs import logger

    def load() -> Config:
        return adapt(options.configuration(arguments))

    config = load()
    log = logger.configure(config.log_format, config.log_level, queued=True)
    try:
        return Daemon(config, load, log).run()
    finally:
        log.close()


def serve_for_development(arguments: argparse.Namespace) -> int:
    """Run the daemon of `migrated dev`."""
    return serve(arguments, for_development)


COMMANDS = {
    "run": Command("migrated run -c /etc/migrated.toml", options.add_lock_timeout, serve),
    "dev": Command("migrated dev -d dev.db", options.add_lock_timeout, serve_for_development),
    "install-service": Command(
        "sudo migrated install-service -c /etc/migrated/migrated.toml",
        configure_install_service,
        execute_install_service,
    ),
}

"""The command line of ``image-registry``."""

import argparse
import difflib
import importlib.metadata
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from typing_extensions import override

from alauda_registry.server import run
from alauda_registry.server.commands import fsck, htpasswd
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import Key, Override, load_settings
from alauda_registry.serving.starting import CannotStart

_DESCRIPTION = """\
A container registry. Alone it needs a folder and nothing else:

  image-registry serve --root ./data
  docker push localhost:5000/team/app:1.0
"""
_SERVE_EXAMPLES = """\
examples:
  image-registry serve --root ./data
      for this machine only, at http://localhost:5000

  image-registry htpasswd add htpasswd alice
  REGISTRY_AUTH_HTPASSWD_PATH=htpasswd \
      image-registry serve --listen :443 --tls-certificate tls.crt --tls-key tls.key
      for the network, with TLS, for whoever has a password. All of these files are re-read when
      they change.

  image-registry serve --listen :5000 --allow-plain-http --allow-anonymous
      behind a proxy that speaks TLS and asks who is there

  image-registry serve --config /etc/distribution/config.yml --allow-plain-http --allow-anonymous
      with the configuration that registry:3 comes with, which is open to everybody, too

  REGISTRY_STORAGE=s3 REGISTRY_STORAGE_S3_BUCKET=images REGISTRY_STORAGE_S3_REGION=eu-west-1 \\
  image-registry serve
      keeps images in a bucket, with the keys that AWS programs find; see registry/README.md

  image-registry serve --root ./data --image-api
      and kubectl --server=http://127.0.0.1:5000 get imagestreams -A shows what was pushed

Every setting can also be given as a variable: log.level is REGISTRY_LOG_LEVEL.
Flags win over variables, variables over the file. See them all: image-registry check-config
"""
_CHECK_EXAMPLES = """\
examples:
  image-registry check-config
  REGISTRY_LOG_LEVEL=debug image-registry check-config --config config.yml
"""


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag of ``serve`` that sets a key."""

    name: str
    key: Key
    help: str
    metavar: str | None = None


_FLAGS = (
    _Flag("--root", ("storage", "filesystem", "rootdirectory"), "folder of the data", "DIR"),
    _Flag("--listen", ("http", "addr"), "address; :5000 is every one of this machine", "HOST:PORT"),
    _Flag("--workers", ("workers",), "processes that serve, one core each (default 1)", "N"),
    _Flag("--tls-certificate", ("http", "tls", "certificate"), "serve HTTPS with this", "FILE"),
    _Flag("--tls-key", ("http", "tls", "key"), "and this private key", "FILE"),
    _Flag("--allow-plain-http", ("http", "allowplainhttp"), "let others in without TLS"),
    _Flag("--allow-anonymous", ("http", "allowanonymous"), "let others in without asking who"),
    _Flag(
        "--allow-sparse", ("validation", "allowsparse"), "take manifests whose layers are missing"
    ),
    _Flag(
        "--read-only", ("storage", "maintenance", "readonly", "enabled"), "pulls only, no changes"
    ),
    _Flag("--image-api", ("imageapi", "enabled"), "serve image.alauda.io/v1 for kubectl, too"),
    _Flag("--log-level", ("log", "level"), "error, warn, info or debug", "LEVEL"),
    _Flag("--log-format", ("log", "formatter"), "text, json or auto", "FORMAT"),
)


def main(
    arguments: Sequence[str] | None = None,
    find_extension: run.ExtensionFinder = lambda _name: None,
) -> int:
    """Run the command; the exit code: 0 done, 1 it cannot be done, 2 it was not understood.

    A check has codes of its own for what it found.

    Args:
        arguments: Of the command line; those of the process unless given.
        find_extension: Finds what can be served beside the registry.
    """
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        if options.command == "fsck":
            return fsck.run(options)
        if options.command == "htpasswd":
            return htpasswd.run(options)
        overrides = [
            Override(flag.name, flag.key, str(value))
            for flag in _FLAGS
            if (value := getattr(options, _attribute(flag), None)) not in (None, False)
        ]
        loaded = load_settings(options.config, overrides)
        if options.command == "serve":
            return run.serve(loaded.settings, loaded.warnings, find_extension)
        for warning in loaded.warnings:
            _say(f"warning: {warning}")
        run.check(loaded.settings)
        sys.stdout.write(yaml.safe_dump(_effective(loaded.settings), sort_keys=False))
    except CannotStart as error:
        for line in str(error).splitlines():
            _say(f"image-registry: {line}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        return 0
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what was probably meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    @override
    def error(self, message: str) -> NoReturn:
        _say(f"{self.prog}: {message}")
        _say(f"Try: {self.prog} --help")
        sys.exit(2)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="image-registry", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"image-registry {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    serve = commands.add_parser(
        "serve",
        help="run the registry",
        description="Run the registry until SIGTERM or Ctrl-C.",
        epilog=_SERVE_EXAMPLES,
    )
    check = commands.add_parser(
        "check-config",
        help="print the effective settings, or say what is wrong with them",
        description="Print the effective settings as YAML; secrets are masked.",
        epilog=_CHECK_EXAMPLES,
    )
    for command in (serve, check):
        command.add_argument("--config", metavar="FILE", help="YAML, with distribution's keys")
        for flag in _FLAGS:
            if flag.metavar is None:
                command.add_argument(flag.name, action="store_true", help=flag.help)
            else:
                command.add_argument(flag.name, metavar=flag.metavar, help=flag.help)
    check_tree = commands.add_parser(
        "fsck",
        help="look for what is broken in the data, and repair it",
        description="Check a registry's data: ours, or that of registry:2 or registry:3.",
        epilog=fsck.EPILOG,
    )
    fsck.add_arguments(check_tree)
    users = commands.add_parser(
        "htpasswd",
        help="add, remove and list the users of auth.htpasswd",
        description="Keep the file of users and passwords (bcrypt) that auth.htpasswd.path names.",
        epilog=htpasswd.EPILOG,
    )
    htpasswd.add_arguments(users)
    names = list(commands.choices)
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    if arguments and arguments[0] == first and first not in names:
        parser.error(f"there is no command {first!r}{_suggest(first, names)}")
    first_flag = arguments[0].partition("=")[0] if arguments else ""
    if first_flag in {*_flag_names("serve"), *_flag_names("fsck")}:
        parser.error(f"{first_flag} belongs behind the command: {_in_order(arguments, names)}")
    options, rest = parser.parse_known_args(arguments)
    if rest:
        known = ["--help", "--version"]
        if options.command:
            known = ["--help", *_flag_names(options.command)]
        chosen = commands.choices.get(options.command, parser)
        chosen.error(f"{rest[0]} is not understood{_suggest(rest[0].split('=')[0], known)}")
    if options.command is None:
        parser.print_help(sys.stderr)
        sys.exit(2)
    return options


def _effective(settings: Settings) -> dict[str, Any]:
    effective = settings.model_dump(by_alias=True, mode="json")
    # A driver or a mode that is named is chosen, even if nothing is said about it.
    for choice in ("storage", "auth"):
        named = effective[choice].items()
        effective[choice] = {name: value for name, value in named if value is not None}
    return effective


def _version() -> str:
    try:
        return importlib.metadata.version("alauda-image-registry")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _in_order(arguments: list[str], names: Sequence[str]) -> str:
    flag = arguments[0].partition("=")[0]
    guess = "serve" if flag in _flag_names("serve") else "fsck"
    command = next((argument for argument in arguments if argument in names), guess)
    others = [argument for argument in arguments if argument != command]
    return shlex.join(["image-registry", command, *others])


def _flag_names(command: str) -> list[str]:
    if command == "fsck":
        return list(fsck.FLAGS)
    if command == "htpasswd":
        return list(htpasswd.FLAGS)
    return ["--config", *(flag.name for flag in _FLAGS)]


def _attribute(flag: _Flag) -> str:
    return flag.name.removeprefix("--").replace("-", "_")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")

"""The command ``image-registry htpasswd``: keeps the users of ``auth.htpasswd``.

The file is replaced whole, with the mode and the owner it had, so that a server never reads half of
it. A password comes from the terminal or from standard input, never from the command line, where
everybody on the machine can read it.
"""

import argparse
import contextlib
import fcntl
import getpass
import os
import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alauda_registry.auth.files import FileInvalid, sync_directory
from alauda_registry.auth.htpasswd import USUAL_COST, hash_password, read_passwords
from alauda_registry.serving.starting import CannotStart

FLAGS = ("--cost",)
EPILOG = """\
examples:
  image-registry htpasswd add /etc/registry/htpasswd alice
      asks for the password, twice; alice gets it, whether she is new or not

  printf %s "$PASSWORD" | image-registry htpasswd add /etc/registry/htpasswd ci
      takes it from standard input, which is whole, or ends with one line end

  image-registry htpasswd remove /etc/registry/htpasswd alice
  image-registry htpasswd list /etc/registry/htpasswd

A running registry takes note within a second. Whoever was removed, or has another password, is out
at once: their tokens are no good any more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    for name, text in (
        ("add", "give a user a password"),
        ("remove", "remove a user"),
        ("list", "print the names of the users"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("file", metavar="FILE", type=Path)
        if name != "list":
            action.add_argument("user", metavar="USER")
        if name == "add":
            action.add_argument(
                "--cost",
                type=int,
                choices=range(8, 16),
                metavar="N",
                default=USUAL_COST,
                help=f"of bcrypt, 8 to 15 (default {USUAL_COST}); one more takes twice as long",
            )


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code.

    Raises:
        CannotStart: It cannot be done; the message says why.
    """
    path: Path = options.file
    try:
        match options.action:
            case "add":
                _check_name(options.user)
                password = _ask_password(options.user)
                _replace(path, options.user, hash_password(password, options.cost))
            case "remove":
                _replace(path, options.user, None)
            case _:
                for name in read_passwords([path.read_bytes()]).hashes:
                    sys.stdout.write(f"{name}\n")
    except OSError as error:
        raise CannotStart(f"{error.filename or path}: {error.strerror}") from error
    except (FileInvalid, ValueError) as error:
        raise CannotStart(str(error)) from error
    return 0


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or set(name) & set(":, ") or name.startswith("#"):
        raise CannotStart(f"{name!r} is no name for a user: no colons, commas or spaces")


def _ask_password(name: str) -> str:
    if not sys.stdin.isatty():
        content = sys.stdin.buffer.read(4096).removesuffix(b"\n").removesuffix(b"\r")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise CannotStart("the password is not UTF-8") from error
    try:
        password = getpass.getpass(f"Password for {name}: ")
        again = getpass.getpass("Again: ")
    except EOFError as error:
        raise CannotStart("no password was given; nothing was changed") from error
    if again != password:
        raise CannotStart("the two are not the same; nothing was changed")
    return password


def _replace(path: Path, name: str, hashed: str | None) -> None:
    """Give a user this hash, or none."""
    # Through a link, which stays one.
    path = path.resolve()
    with _alone(path):
        if hashed is None and not path.exists():
            raise CannotStart(f"{path} is not there, so there is nobody to remove")
        content = path.read_bytes() if path.exists() else b""
        if hashed is None and name not in read_passwords([content]).hashes:
            raise CannotStart(f"there is no user {name!r} in {path}")
        start = name.encode() + b":"
        lines = [line for line in content.splitlines() if not line.strip().startswith(start)]
        if hashed is not None:
            lines.append(start + hashed.encode())
        _write(path, b"".join(line + b"\n" for line in lines))


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as file:
            if path.exists():
                found = path.stat()
                os.fchmod(descriptor, found.st_mode & 0o777)
                if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    sync_directory(path.parent)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Let nobody else change the file meanwhile: what one of two writes would be lost."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)

"""The data directory of the embedded PostgreSQL: made at once or not at all, and mended after a kill."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from closingbell.errors import ConfigurationError, FatalError

VERSION: Final = 18
USER: Final = "closingbell"
HOST: Final = "127.0.0.1"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A live server process on a data directory, by its own ``postmaster.pid``."""

    pid: int
    port: int
    ready: bool


def running(data: Path) -> Server | None:
    """The server that runs on ``data``; None if there is none, whatever a stale pid file says."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not _works_on(pid, data):
        return None
    port = int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else 0
    return Server(pid, port, ready=len(lines) > 7 and lines[7].strip() == "ready")


def last_port(data: Path) -> int | None:
    """The port that the previous server on ``data`` had, so that a URL someone noted down stays good."""
    try:
        return int((data / "postmaster.opts").read_text().split("port=")[1].split('"')[0])
    except (OSError, ValueError, IndexError):
        return None


def password(data: Path) -> str:
    """The password of :data:`USER`, made with the data directory and readable to its owner only.

    Raises:
        ConfigurationError: it is gone or unreadable.
    """
    try:
        return (data / "closingbell.password").read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            "the password of the embedded PostgreSQL cannot be read",
            value=f"{data / 'closingbell.password'} ({error.strerror})",
            fix="Run as the user who made it, or set DATABASE_URL to a server of your own.",
        ) from None


def account_of(data: Path) -> tuple[int, int] | None:
    """The (uid, gid) to run the server as, when we are root, which PostgreSQL refuses to be; else None."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as",
        fix="Run as an ordinary user, or set DATABASE_URL to a server of your own.",
    )


def bare_environment() -> dict[str, str]:
    """What the server's programs get to see of our environment: none of our secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def prepare(data: Path, binaries: Path) -> None:
    """Make ``data`` ready to start a server on: create it, or clear away what a killed server left.

    The caller holds the home's start lock and knows that no server runs on ``data``.

    Raises:
        ConfigurationError: it belongs to another user or another version of PostgreSQL.
        FatalError: it cannot be created.
    """
    account = account_of(data)
    if account:
        for directory in (data.parent, binaries):
            _let_through(directory, account[0])
    if not data.exists():
        _create(data, binaries, account)
        return
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        version = f"unreadable ({error.strerror})"
    if version != str(VERSION):
        raise ConfigurationError(
            f"the embedded database was not made by PostgreSQL {VERSION} and this user",
            value=f"{data}: version {version}",
            fix="Move it away to start afresh, or set DATABASE_URL to a server of your own.",
        )
    _end_leftovers(data)
    # Its pid may by now be that of any other process, which PostgreSQL would take for a running server.
    (data / "postmaster.pid").unlink(missing_ok=True)


def _create(data: Path, binaries: Path, account: tuple[int, int] | None) -> None:
    """Run initdb beside ``data`` and move the finished directory into place."""
    for scrap in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(scrap) if scrap.is_dir() else scrap.unlink()
    made = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    secret = secrets.token_urlsafe(24)
    descriptor, name = tempfile.mkstemp(prefix=f"{data.name}.new-", dir=data.parent)
    handed_over = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret)
        if account:
            os.chown(made, *account)
            os.chown(handed_over, *account)
        done = subprocess.run(  # noqa: S603 - the wheel's own program
            [
                *(str(binaries / "initdb"), "-D", str(made), "-U", USER, f"--pwfile={handed_over}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=bare_environment(),
            user=account[0] if account else None,
            group=account[1] if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            raise FatalError(
                "the embedded PostgreSQL could not be created",
                value=f"{data}\n{(done.stderr or done.stdout).strip()[-2000:]}\n",
                fix="Free what it misses (disk space, permissions), or set DATABASE_URL to a server of your own.",
            )
        kept = made / "closingbell.password"
        kept.touch(mode=0o600)
        kept.write_text(secret)
        _sync(kept)
        _sync(made)
        made.rename(data)
        _sync(data.parent)
    finally:
        handed_over.unlink(missing_ok=True)
        shutil.rmtree(made, ignore_errors=True)


def _sync(path: Path) -> None:
    """Put the file or directory on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _let_through(path: Path, uid: int) -> None:
    """As root: let the server's user pass through (never list) ``path`` and the directories above it."""
    for directory in (path, *path.parents):
        status = directory.stat()
        if status.st_uid != uid and not status.st_mode & stat.S_IXOTH:
            _log.warning("chmod o+x %s, for PostgreSQL does not run as root and has to pass through", directory)
            directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def _works_on(pid: int, data: Path) -> bool:
    """Whether the process is alive and a PostgreSQL of this data directory (its working directory)."""
    if sys.platform == "linux":
        try:
            process = Path(f"/proc/{pid}")
            # Of a zombie the directory cannot be read; someone's shell may be in it as well.
            return (process / "cwd").readlink() == data and (process / "comm").read_text().strip() == "postgres"
        except OSError:
            return False
    question = ["ps", "-o", "stat=,args=", "-p", str(pid)]
    shown = subprocess.run(question, capture_output=True, text=True, check=False)  # noqa: S603 - fixed, and a number
    return str(data) in shown.stdout and not shown.stdout.startswith("Z")


def _end_leftovers(data: Path) -> None:
    """End server processes that outlived a killed postmaster; while one lives, the data are not ours."""
    if sys.platform != "linux":
        return
    deadline = time.monotonic() + 10
    while pids := [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _works_on(int(entry.name), data)
    ]:
        for pid in pids:
            # They end by themselves within moments; SIGQUIT is what the postmaster would have sent.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.05)

"""Run one command on a leash: when those who need it are gone, however they went, so is it.

    python leash.py [--lock FILE] [--signal NAME] [--grace SECONDS] [--user UID:GID] [--report FD] -- COMMAND...

Without ``--lock`` the leash is held by whoever has the other end of its standard input; with it, by every
process that has a shared ``flock`` on FILE. The kernel lets go of both on ``kill -9`` too, so nothing here
relies on anyone's good manners. The command gets the signal (TERM by default), ``--grace`` seconds, and then
KILL; what it leaves behind is treated the same way. With ``--report`` a command that ends by itself leaves its
descendants alone: the exit status is written to FD at once, and they are ended when the leash is let go.

Standard library only, and run as a script: it must start in milliseconds and outlive whatever started it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _start(command: list[str], user: str | None, farewell: int) -> int:
    """Start the command in a session of its own, as ``user``; it dies with this process. Returns its pid."""
    leash = os.getpid()
    child = os.fork()  # safe: this process has no thread yet
    if child:
        return child
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if user:
            uid, gid = (int(number) for number in user.split(":"))
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        _prctl(_PR_SET_PDEATHSIG, farewell)  # after setuid, which clears it
        if os.getppid() != leash:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(command[0], command)  # noqa: S606 - the command is our caller's own
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _wait_until_unheld(lock: str | None) -> None:
    """Return when the last holder of the leash is gone."""
    if lock is None:
        while os.read(0, 4096):
            pass
    else:
        # Kept until exit: whoever comes next waits for it, and so finds the command entirely gone.
        fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGTERM)


def _children() -> list[int]:
    """The pids of this process's children, those inherited from dead descendants included."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _alive() -> bool:
    """Whether descendants of the command still run; where the kernel does not tell, none counts."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return bool(_children())


def _sweep(child: int, grace: float) -> None:
    """End what the command left behind: TERM, then KILL after ``grace`` seconds."""
    told: set[int] = set()
    deadline = time.monotonic() + grace
    with_proc = Path("/proc/self/task").exists()
    if not with_proc:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        late = time.monotonic() > deadline
        for pid in _children():
            if late or pid not in told:
                told.add(pid)
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        if not with_proc:
            return
        time.sleep(0.02)


def main() -> int:
    """Run the command line above; returns the command's exit status, 128 + n if signal n ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lock")
    parser.add_argument("--signal", default="TERM")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--user")
    parser.add_argument("--report", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    farewell = signal.Signals[f"SIG{options.signal}"]

    child = 0
    stopping = ended = False
    if options.report is not None:
        os.set_inheritable(options.report, False)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping and not ended:
            signal.setitimer(signal.ITIMER_REAL, options.grace)
            os.kill(child, farewell)
        stopping = True

    def kill(_signal: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)

    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    child = _start(options.command, options.user, farewell)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_wait_until_unheld, args=(options.lock,), daemon=True).start()

    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            break
    ended = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    if options.report is not None:
        with contextlib.suppress(BrokenPipeError):  # whoever wants to know is gone
            os.write(options.report, str(code).encode())
        os.close(options.report)
        while not stopping and _alive():
            time.sleep(0.1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _sweep(child, options.grace)
    return code


if __name__ == "__main__":
    sys.exit(main())

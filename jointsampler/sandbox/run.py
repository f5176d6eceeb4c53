"""Run an untrusted Python program within limits: the caller's side of the sandbox.

Each program has a fresh process tree, confined by ``confine.py`` (see there), and the
whole tree is gone when :func:`run_program` returns. There is no weaker mode: a machine
on which the sandbox cannot be built gets a UserError, and the program does not run.

The bounds hold against a program that is wrong or hostile. Whether it *passed* is told
by a word that it prints after its last line, which only a program that looks for the
word in its own text could print earlier.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

from ..errors import UserError
from . import confine

_MIB = 1 << 20
_SETUP_SECONDS = 60.0  # a busy machine; an idle one takes hundredths of a second
_NO_ANSWER = "no answer"
_SHOWN = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Limits:
    """What a program may use. All its processes together hold at most
    ``processes * memory_mib + disk_mib`` of memory.
    """

    cpu_seconds: int = 5  # of each process
    wall_seconds: float = 20.0  # of the whole tree
    memory_mib: int = 512  # address space of each process
    processes: int = 4  # processes and threads alive at once
    disk_mib: int = 16  # all files together, which lie in memory
    files: int = 256  # files and folders, and
    open_files: int = 64  # those open at once, per process
    output_bytes: int = 1 << 16  # standard output and error


@dataclass(frozen=True)
class Outcome:
    passed: bool  # ran to its end, and left with status 0
    reason: str  # in words
    output: str  # standard output and error, cut at the limit


def run_program(program: str, limits: Limits = Limits()) -> Outcome:
    """Run ``program`` as a script in an empty folder of its own.

    Raises UserError where this machine cannot confine it.
    """
    if not sys.platform.startswith("linux"):
        raise _no_sandbox(f"system: {sys.platform}")
    word = secrets.token_hex(16)
    program = f"{program}\n__import__('os').write(1, b'{word}')\n"
    with tempfile.TemporaryDirectory(prefix="jointsampler-") as root:
        here, there = socket.socketpair(type=socket.SOCK_SEQPACKET)  # one read, one message
        with here, there:
            command = [sys.executable, "-I", "-S", "-B", confine.__file__, str(there.fileno())]
            child = Popen(
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                pass_fds=[there.fileno()],
                env={},
                start_new_session=True,
            )
            there.close()
            with child:
                try:
                    told = _Told(child, here, limits)
                    told.ask(_request(program, root, limits))
                    told.listen()
                finally:
                    child.kill()  # and with it its namespace, where it has one
            return told.outcome(word.encode())


def run_programs(
    programs: Sequence[str],
    limits: Limits = Limits(),
    workers: int | None = None,
) -> list[Outcome]:
    """The outcomes of ``programs`` in their order; ``workers`` of them run at once (default: cores)."""
    workers = workers or min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def _no_sandbox(what: str) -> UserError:
    return UserError(
        f"This machine cannot confine a program ({what}), so code of a model is not run here: use Linux "
        "5.14 or later on x86-64 or AArch64, and let this user make user namespaces and mounts "
        "(user.max_user_namespaces above 0; in a container, no seccomp or AppArmor profile against it)."
    )


def _request(program: str, root: str, limits: Limits) -> dict[str, object]:
    """What the child needs; sizes in bytes."""
    python = Path(sys.executable).resolve()
    # The interpreter's own folder, unless it lies in one that is shown anyway.
    shown = [path for path in _SHOWN if Path(path).exists()]
    installed = [
        Path(sys.base_prefix).resolve(),
        Path(sys.base_exec_prefix).resolve(),
        python.parent,
    ]
    for path in installed:
        if not any(path.is_relative_to(other) for other in shown):
            shown.append(str(path))
    return {
        "program": program,
        "root": root,
        "python": str(python),
        "shown": shown,
        "limits": {
            "cpu": limits.cpu_seconds,
            "memory": limits.memory_mib * _MIB,
            # One more is process 1; without root, so is the process that waits for it.
            "processes": limits.processes + (1 if _root_maps() else 2),
            "disk": limits.disk_mib * _MIB,
            "files": limits.files,
            "open_files": limits.open_files,
        },
    }


def _root_maps() -> bool:
    """Whether this process may give the child a second user id: as root, where ``nobody`` exists.

    Limits on processes do not hold for root, so root's child runs the program as nobody.
    Any other user's child is that user, under the name of nobody.
    """
    if os.geteuid() != 0:
        return False
    for kind in ("uid", "gid"):
        ranges = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        if not any(0 <= confine.NOBODY - int(low) < int(size) for low, _, size in ranges):
            return False
    return True


def _map_ids(pid: int) -> None:
    """Write the user and group ids of the child's namespace (man 7 user_namespaces).

    Raises UserError where that is refused.
    """
    folder = Path(f"/proc/{pid}")
    if _root_maps():
        both = f"0 0 1\n{confine.NOBODY} {confine.NOBODY} 1\n"
        maps = {"uid_map": both, "gid_map": both}
    else:
        maps = {
            "setgroups": "deny",
            "uid_map": f"{confine.NOBODY} {os.geteuid()} 1\n",
            "gid_map": f"{confine.NOBODY} {os.getegid()} 1\n",
        }
    for name, text in maps.items():
        try:
            (folder / name).write_text(text)
        except OSError as error:
            raise _no_sandbox(f"{name}: {error.strerror}") from None


def _read(channel: int) -> bytes:
    """What there is to read; nothing at the end."""
    try:
        return os.read(channel, 1 << 16)
    except ConnectionResetError:  # the other end went with our answer unread
        return b""


class _Told:
    """What the child says on its control channel and prints, until it ends or must be ended."""

    def __init__(self, child: Popen[bytes], control: socket.socket, limits: Limits):
        self.child, self.control, self.limits = child, control, limits
        self.output = bytearray()
        self.messages: dict[str, str] = {}  # kind -> text; the kinds are those of confine.py
        self.stopped: str | None = None  # why the caller ended it

    def ask(self, request: dict[str, object]) -> None:
        assert self.child.stdin is not None
        try:
            with self.child.stdin as stdin:
                stdin.write(json.dumps(request).encode())
        except BrokenPipeError:  # it ended at once; its output says why
            pass

    def listen(self) -> None:
        """Read both channels until every process of the tree has closed them."""
        assert self.child.stdout is not None
        deadline = time.monotonic() + _SETUP_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0 and self.stopped is None:
                    self._stop("out of time" if "R" in self.messages else _NO_ANSWER)
                for key, _ in selector.select(max(left, 0) if self.stopped is None else None):
                    data = _read(key.fd)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self.child.stdout:
                        self._printed(data)
                    elif self._said(data):  # the program begins
                        deadline = time.monotonic() + self.limits.wall_seconds

    def _printed(self, data: bytes) -> None:
        self.output += data[: self.limits.output_bytes - len(self.output)]
        if len(self.output) >= self.limits.output_bytes and self.stopped is None:
            self._stop(f"more than {self.limits.output_bytes} bytes of output")

    def _said(self, data: bytes) -> bool:
        """Take in a message; whether it says that the program begins."""
        kind, text = chr(data[0]), data[1:].decode(errors="replace")
        self.messages[kind] = text
        if kind in "MR" and self.stopped is None:  # the child waits for an answer after each
            if kind == "M":
                _map_ids(self.child.pid)
            with contextlib.suppress(BrokenPipeError):  # it ended meanwhile
                self.control.send(b"k")
        return kind == "R"

    def _stop(self, reason: str) -> None:
        """End the child, and with it process 1 of its namespace, or one that waits for an answer."""
        self.stopped = reason
        self.child.kill()
        self.control.shutdown(socket.SHUT_RDWR)

    def outcome(self, word: bytes) -> Outcome:
        text = bytes(self.output).replace(word, b"").decode(errors="replace")
        if "E" in self.messages:
            raise _no_sandbox(self.messages["E"])
        if self.stopped is not None and self.stopped != _NO_ANSWER:
            return Outcome(False, self.stopped, text)
        if "X" not in self.messages:
            raise _no_sandbox(f"{_NO_ANSWER}: {text.strip()[-200:]!r}")
        status = int(self.messages["X"])
        if status == 0 and word in self.output:
            return Outcome(True, "ran to its end", text)
        return Outcome(False, _in_words(status), text)


def _in_words(status: int) -> str:
    """Why a program with this wait status, as ``os.wait`` gives it, did not pass."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        out_of_time = number == signal.SIGXCPU
        return "out of processor time" if out_of_time else f"ended by {signal.Signals(number).name}"
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code else "left before its last line"

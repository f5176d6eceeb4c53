"""The child's side of the sandbox: a program of its own that confines itself, then runs a program.

``run.py`` starts this file by path in a fresh interpreter, so it imports the standard
library alone. What it builds, in this order (clone flags and mounts: man pages
namespaces(7), pivot_root(2), mount_setattr(2), seccomp(2)):

1. user, mount, process, network, IPC and host-name namespaces of its own;
2. a file tree that holds the interpreter and its libraries read-only, and one
   writable folder in memory; what is not in the tree can be neither read nor
   written, and a link out of it leads nowhere;
3. process 1, which starts the program, waits for it, and by its end kills every other process;
4. the program: as nobody, within resource limits, without capabilities, without
   the system calls of :data:`DENIED`.

Which programs run, their deadline and their output are left to ``run.py``.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534  # the user and group of the program inside its namespace
FOLDER = "/box"  # the program's writable folder inside its file tree
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

_NEW = {
    "mount": 0x00020000,
    "host name": 0x04000000,
    "IPC": 0x08000000,
    "user": 0x10000000,
    "process": 0x20000000,
    "network": 0x40000000,
}
_NEW_CGROUP = 0x02000000
_NAMESPACES = sum(_NEW.values())

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442  # the number of the call on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2

# System calls that the program is refused, for x86-64 and for AArch64: sockets; new namespaces, in
# which it would have capabilities again; memory that no limit counts; interfaces of the kernel that
# a program of this kind has no use for.
DENIED = {
    "socket": (41, 198),
    "unshare": (272, 97),
    "setns": (308, 268),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "ptrace": (101, 117),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)  # its flags are in memory, where a filter cannot see them
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # (index above, audit arch)

_libc = ctypes.CDLL(None, use_errno=True)


class _SetupError(Exception):
    """A step of the confinement that this machine refuses."""


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise _SetupError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    given = (kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(source.encode(), target.encode(), *given))


def _prctl(option: int, *values: Any) -> None:
    _check(_libc.prctl(option, *(values + (ctypes.c_ulong(0),) * (4 - len(values)))))


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


# The file tree


def _bind(path: str, root: str) -> None:
    """Show ``path`` at the same place under ``root``; a symbolic link is copied as one."""
    target = Path(root + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(path):  # noqa: PTH114
        target.symlink_to(os.readlink(path))  # noqa: PTH115
        return
    if Path(path).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(path, str(target), None, _MS_BIND | _MS_REC)


def _build_tree(request: dict[str, Any]) -> None:
    """Make ``request["root"]``, an empty folder, the root of a new file tree, and enter it."""
    root, limits = request["root"], request["limits"]
    with _step("mount"):
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)  # nothing comes back to the caller's tree
        options = "mode=755,size=1m,nr_inodes=1024"
        _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
        for path in (*request["shown"], *DEVICES):
            _bind(path, root)
        folder = root + FOLDER
        Path(folder).mkdir()
    with _step("mount_setattr"):
        attributes = struct.pack("QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
        call = (_MOUNT_SETATTR, _AT_FDCWD, root.encode(), _AT_RECURSIVE)
        _check(_libc.syscall(*call, attributes, ctypes.c_size_t(len(attributes))))
    with _step("mount"):
        options = (
            f"mode=700,uid={NOBODY},gid={NOBODY},size={limits['disk']},nr_inodes={limits['files']}"
        )
        _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    with _step("pivot_root"):
        os.chdir(root)
        _check(_libc.pivot_root(b".", b"."))  # the old tree now lies over the new one
        _check(_libc.umount2(b".", _MNT_DETACH))
        os.chdir(FOLDER)


# System calls


def _filter(machine: str) -> bytes:
    """The seccomp filter as classic BPF (man 2 seccomp): each instruction a (code, jt, jf, k)."""
    index, arch = _MACHINES[machine]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050000
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, kill), (load, 0, 0, 0)]
    # x86-64 has a second set of numbers for the same calls.
    code += [(at_least, 0, 1, 0x40000000), (end, 0, 0, refuse | errno.EPERM)]
    for numbers in DENIED.values():
        code += [(equal, 0, 1, numbers[index]), (end, 0, 0, refuse | errno.EPERM)]
    code += [(equal, 0, 1, _CLONE3[index]), (end, 0, 0, refuse | errno.ENOSYS)]  # libc takes clone
    # clone with a flag of a new namespace among its first argument's low 32 bits.
    code += [(equal, 0, 3, _CLONE[index]), (load, 0, 0, 16)]
    code += [(any_bit, 0, 1, _NAMESPACES | _NEW_CGROUP), (end, 0, 0, refuse | errno.EPERM)]
    code += [(end, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _refuse_calls() -> None:
    code = ctypes.create_string_buffer(_filter(platform.machine()))
    program = struct.pack("HxxxxxxP", (len(code) - 1) // 8, ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), program)


# The processes


def _limit(limits: dict[str, int]) -> None:
    """Resource limits of the process that becomes the program; its children inherit them."""
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["disk"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, most = resource.getrlimit(kind)  # the machine's own limit may be lower
        # At the first limit of CPU seconds SIGXCPU ends it; one that ignores it has another second.
        hard = value + 1 if kind == resource.RLIMIT_CPU else value
        if most != resource.RLIM_INFINITY:
            value, hard = min(value, most), min(hard, most)
        resource.setrlimit(kind, (value, hard))


def _become_nobody() -> None:
    if os.getuid() != NOBODY:  # root's own id is mapped too, since only root may read root's files
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # and with the last root id go the capabilities
    _die_with_parent()  # a change of user clears it


def _become_program(request: dict[str, Any]) -> None:
    """Never returns: the process is the program, without capabilities since nobody execs it."""
    with _step("limits"):
        _limit(request["limits"])
    with _step("seccomp"):
        _prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
        _refuse_calls()
    with _step("exec"):
        # -s and -S: no packages. The hash seed makes the order of sets the same every time.
        command = [request["python"], "-s", "-S", "-B", "program.py"]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": FOLDER,
            "TMPDIR": FOLDER,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
        }
        os.execve(command[0], command, environment)


def _first_process(request: dict[str, Any], control: int) -> None:
    """Process 1 of the namespace; at its end the kernel kills all others.

    Messages to the caller: M and R (go on?), E with a reason, X with a wait status.
    """
    _die_with_parent()
    _build_tree(request)
    with _step("setresuid"):
        _become_nobody()
    Path("program.py").write_text(request["program"], encoding="utf-8", errors="surrogatepass")
    os.write(control, b"R")
    if os.read(control, 1) != b"k":  # a caller that gave up says nothing
        return
    with _step("fork"):
        program = os.fork()
    if program == 0:
        _become_program(request)
    while True:  # orphans of the program end here too
        ended, status = os.wait()
        if ended == program:
            os.write(control, b"X%d" % status)
            return


def _guarded(run: Any, *given: Any, control: int) -> None:
    """Leave the process after ``run``; what the machine refused goes to the caller."""
    try:
        run(*given)
    except _SetupError as error:
        os.write(control, b"E" + str(error).encode())
    os._exit(0)


def _unshared(request: dict[str, Any], control: int) -> None:
    if platform.machine() not in _MACHINES:
        raise _SetupError(f"seccomp: no filter for the architecture {platform.machine()}")
    _die_with_parent()
    with _step("unshare"):
        _check(_libc.unshare(_NAMESPACES))
    os.write(control, b"M")  # the caller writes the map of user ids
    if os.read(control, 1) != b"k":
        return
    with _step("fork"):
        first = os.fork()
    if first == 0:
        _guarded(lambda: _first_process(request, control), control=control)
    os.waitpid(first, 0)


if __name__ == "__main__":
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    asked = json.load(sys.stdin)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.umask(0o022)
    _guarded(lambda: _unshared(asked, channel), control=channel)

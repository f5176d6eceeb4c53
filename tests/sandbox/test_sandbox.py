"""A program in the sandbox can spend its own limits and nothing else; a right one passes."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from jointsampler import UserError
from jointsampler.sandbox import Limits, Outcome, confine, run, run_program, run_programs
from tests.support.sandbox import need_sandbox

LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5, memory_mib=256, processes=4, disk_mib=4, files=32)


@pytest.fixture(autouse=True)
def _sandbox(request):
    if "anywhere" not in request.fixturenames:
        need_sandbox()


@pytest.fixture
def anywhere():
    """The test needs no sandbox."""


def outcome(program: str) -> Outcome:
    return run_program(program, LIMITS)


def test_a_right_program_passes_and_its_output_is_kept():
    program = "import math, sys\nprint(math.gcd(12, 18))\nprint('bad', file=sys.stderr)"
    found = outcome(program)
    assert found.passed and sorted(found.output.split()) == ["6", "bad"]


def test_a_program_may_use_its_folder_threads_and_processes():
    assert outcome(
        "import subprocess, sys, tempfile, threading\n"
        "with tempfile.TemporaryFile() as file: file.write(b'x')\n"
        "open('kept', 'w').write('x')\n"
        "thread = threading.Thread(target=open, args=('kept',))\n"
        "thread.start(); thread.join()\n"
        "assert subprocess.check_output([sys.executable, '-c', 'print(2)']) == b'2\\n'"
    ).passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "exit status 1"),
        ("def f(:", "exit status 1"),
        ("raise SystemExit(0)", "left before its last line"),
        ("import os; os._exit(0)", "left before its last line"),
        ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV"),
    ],
)
def test_a_wrong_program_fails_with_a_reason(program, reason):
    found = outcome(program)
    assert not found.passed and found.reason == reason


# At most 50 processes, whatever the sandbox does; it prints how many there were.
CAPPED = """
import os, time
made = 0
try:
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made)
"""


def test_the_number_of_processes_is_bounded():
    found = outcome(CAPPED)
    assert found.passed and int(found.output) == LIMITS.processes - 1


FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
ENDLESS = "while True: pass"


@pytest.mark.parametrize("program", [FORK_BOMB, ENDLESS], ids=["fork bomb", "endless loop"])
def test_a_program_without_an_end_is_ended(program):
    found = outcome(program)
    assert not found.passed and found.reason in ("out of processor time", "out of time")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = bytearray(10 << 30)", "MemoryError"),
        ("import os\nos.memfd_create('x')", "Operation not permitted"),
        ("while True: open('x', 'ab').write(bytes(1 << 20))", "OSError"),
        ("for i in range(100): open(str(i), 'w')", "No space left"),
        ("files = [open('program.py') for _ in range(100)]", "Too many open files"),
    ],
    ids=["10 GB", "memory file", "large file", "many files", "open files"],
)
def test_memory_and_disk_are_bounded(program, said):
    found = outcome(program)
    assert not found.passed and said in found.output


def test_output_is_bounded():
    found = outcome("while True: print('x' * 1000)")
    assert not found.passed and "bytes of output" in found.reason
    assert len(found.output) == LIMITS.output_bytes


def test_nothing_outside_its_folder_can_be_written_or_read(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for path in (victim, tmp_path / "new", Path("/usr/new"), Path("/new"), Path("/dev/new")):
        assert not outcome(f"open({str(path)!r}, 'w').write('lost')").passed
        assert path == victim or not path.exists()
    assert not outcome(f"open({str(victim)!r}).read()").passed
    assert victim.read_text() == "kept"


def test_what_it_can_read_it_cannot_write(tmp_path, monkeypatch):
    """Even where everybody may write."""
    (tmp_path / "file").write_text("kept")
    for path, mode in ((tmp_path, 0o777), (tmp_path / "file", 0o666)):
        path.chmod(mode)
    monkeypatch.setattr(run, "_SHOWN", (*run._SHOWN, str(tmp_path)))
    assert outcome(f"assert open({str(tmp_path / 'file')!r}).read() == 'kept'").passed
    for name in ("file", "new"):
        found = outcome(f"open({str(tmp_path / name)!r}, 'w')")
        assert not found.passed and "Read-only file system" in found.output


def test_a_symbolic_link_leads_nowhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    program = f"import os\nos.symlink({str(tmp_path)!r}, 'out')\nopen('out/victim', 'w')"
    found = outcome(program)
    assert not found.passed and "FileNotFoundError" in found.output
    assert victim.read_text() == "kept" and list(tmp_path.iterdir()) == [victim]


def test_no_socket_can_be_made():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = server.getsockname()
        found = outcome(f"import socket\nsocket.create_connection({address})")
        assert not found.passed and "Operation not permitted" in found.output
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",  # a new user namespace
        "libc.syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0)",
        "libc.mount(b'none', b'/', None, ctypes.c_ulong(32), None)",  # writable again
        "libc.setuid(0)",
        "libc.ptrace(16, 1, 0, 0)",
    ],
)
def test_it_gains_no_privilege(call):
    call = call.format(clone=56 if platform.machine() == "x86_64" else 220)
    found = outcome(f"import ctypes\nlibc = ctypes.CDLL(None)\nassert {call} >= 0")
    assert not found.passed and "AssertionError" in found.output


def test_no_process_outlives_the_program():
    parent_and_child = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(100)"
    assert outcome(parent_and_child).passed
    assert outcome("import os\nprint(os.getpid())").output == "2\n"  # it sees its own tree alone


def test_the_order_of_sets_is_the_same_every_time():
    program = "print(list({'ann', 'bob', 'cid', 'dan'}))"
    assert len({found.output for found in run_programs([program] * 4, LIMITS)}) == 1


def test_programs_keep_their_order():
    found = run_programs(["print(0)", "assert False", "print(2)"], LIMITS, workers=2)
    assert [f.passed for f in found] == [True, False, True]
    assert [found[0].output, found[2].output] == ["0\n", "2\n"]


def test_the_caller_keeps_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run.tempfile, "tempdir", str(tmp_path))
    before = set(Path("/proc/self/fd").iterdir())
    outcome("open('x', 'w').write('x')")
    assert not list(tmp_path.iterdir())
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_with_its_caller_the_whole_tree_ends():
    """The caller is killed while the program sleeps: the pipe that the program holds closes."""
    begin, end = os.pipe()
    caller = os.fork()
    if caller == 0:
        real = run.Popen

        def printing_to_us(*args, **given):  # standard output is ours, and outlives the caller
            given["stderr"] = end
            return real(*args, **given)

        run.Popen = printing_to_us
        os.close(begin)
        run_program("import sys, time\nprint('up', file=sys.stderr, flush=True)\ntime.sleep(60)")
        os._exit(0)
    os.close(end)
    with os.fdopen(begin, "rb") as pipe:
        assert pipe.readline() == b"up\n"
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
        assert pipe.read() == b""  # every holder of the other end is gone


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as such a user")
def test_a_user_who_is_not_root_has_the_same_bounds():
    """The interpreter is the system's, because ours may lie where only root reads."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no /usr/bin/python3")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(shutil.copy(confine.__file__, folder))
        copy.chmod(0o644)
        child = os.fork()
        if child == 0:
            confine.__file__, sys.executable = str(copy), "/usr/bin/python3"
            sys.base_prefix = sys.base_exec_prefix = "/usr"
            os.setgroups([])
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
            found = [outcome(CAPPED), outcome("import socket; socket.socket()"), outcome("x = 1")]
            bounded = found[0].output == f"{LIMITS.processes - 1}\n"
            os._exit(0 if bounded and [f.passed for f in found] == [True, False, True] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_machine_without_namespaces_refuses(anywhere, monkeypatch, tmp_path):
    copy = tmp_path / "confine.py"
    text = Path(confine.__file__).read_text()
    copy.write_text(text.replace("_NAMESPACES = sum(_NEW.values())", "_NAMESPACES = 1 << 30 | 1"))
    monkeypatch.setattr(confine, "__file__", str(copy))  # a flag that no kernel knows
    with pytest.raises(UserError, match=r"cannot confine a program \(unshare: Invalid argument\)"):
        outcome("pass")


def test_another_system_refuses(anywhere, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="use Linux"):
        outcome("pass")

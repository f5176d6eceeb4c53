"""A lease on the folders of a run, so that no two submissions work in one at the same time.

``lease.json`` names its holder and counts its beats. The holder writes a new count
every few seconds. Another process that finds the file watches it: a count that goes
on is a run at work, and the second is refused. A count that stands still for
``STALE_S`` is left over from a run that was killed, and is taken over; at once if its
process was on this machine and is gone. No clocks of two machines are compared.

The file is written through ``jointsampler/storage.py``, in a folder or a bucket.
Neither can be asked to write only where nothing is, so a holder reads its own file
back, and before every beat again: of two that wrote at the same moment the one
whose file was replaced gives up.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from jointsampler import storage
from jointsampler.errors import UserError
from jointsampler.storage import Location
from jointsampler.uris import redacted, shown

LEASE = "lease.json"
BEAT_S = 5.0
STALE_S = 30.0
SETTLE_S = 0.5  # between writing a lease and believing in it

# Ends the body of a lost lease. Not SIGINT: a shell makes the background jobs of a script ignore it.
LOST = signal.SIGUSR1

Entry = dict[str, Any]


@contextmanager
def held(*places: Location) -> Iterator[None]:
    """Hold the lease of every place while the body runs.

    Raises UserError where another run holds one. The body gets a KeyboardInterrupt
    where a lease is lost, which takes a process that stood still for ``STALE_S``.
    For the main thread.
    """
    own = _identity()
    with ExitStack() as stack:
        before = signal.signal(LOST, signal.default_int_handler)
        stack.callback(signal.signal, LOST, before)
        for place in places:
            stack.enter_context(_held(place, dict(own)))
        yield


@contextmanager
def _held(place: Location, own: Entry) -> Iterator[None]:
    file = storage.join(place, LEASE)
    storage.make_folder(place)
    if _is_own(_read(file), own):  # one place by two names, such as a link
        yield
        return
    _wait_for(file)
    storage.write_json(file, own)
    time.sleep(SETTLE_S)
    if not _is_own(_read(file), own):
        raise _refusal(file, _read(file))
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(file, own, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(OSError, UserError):
            if _is_own(_read(file), own):
                storage.delete(file)


def _identity() -> Entry:
    """Who this process is, also to a process that runs after it."""
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": os.getpid(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "beat": 0,
    }


def _machine() -> str:
    """This boot of this machine, and the space that its process ids are in: a container has its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: then nothing is said about other processes
        return uuid.uuid4().hex


def _wait_for(file: Location) -> None:
    """Return when nobody holds the lease; UserError where somebody is at work."""
    first = _read(file)
    if first is None or _is_gone(first):
        return
    print(
        f"{shown(file)} is of process {first.get('process')} on {first.get('host')}: watching for "
        f"{STALE_S:.0f} s whether it is at work",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    limit = time.monotonic() + STALE_S
    while time.monotonic() < limit:
        time.sleep(BEAT_S / 4)
        now = _read(file)
        if now is None:
            return
        if now != first:
            raise _refusal(file, now)


def _is_gone(entry: Entry) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    same = entry.get("machine") == _machine()
    return same and _began(entry.get("process")) != entry.get("began")


def _began(process: int | None) -> int | None:
    """Clock ticks from the boot to the start of a process; None where there is no such process.

    Not a time of day: that of a running process changes when the clock is set.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])  # field 22 of proc(5)


def _beat(file: Location, own: Entry, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        try:
            if not _is_own(_read(file), own):
                print(
                    f"jointsampler: another run has taken {shown(file)} over, because this one stood "
                    "still: this one ends, and what is complete stays.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                signal.pthread_kill(threading.main_thread().ident, LOST)
                return
            own["beat"] += 1
            storage.write_json(file, own)
        except UserError:  # the storage is away: its stages will say so
            continue


def _read(file: Location) -> Entry | None:
    """The lease; None where there is none, or the file is no JSON. UserError: no permission, no storage."""
    try:
        data = storage.read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = redacted(str(error)).splitlines()[0].rstrip(".")
        raise UserError(f"Cannot read {shown(file)}: {reason}.") from None
    try:
        entry = json.loads(data)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _is_own(entry: Entry | None, own: Entry) -> bool:
    return entry is not None and entry.get("id") == own["id"]


def _refusal(file: Location, entry: Entry | None) -> UserError:
    entry = entry or {}
    place = shown(file).removesuffix(f"/{LEASE}")
    return UserError(
        f"Another run works in {place} (process {entry.get('process')} on {entry.get('host')}, since "
        f"{entry.get('since')}): wait for its end, stop it, or give another --out and run.storage."
    )

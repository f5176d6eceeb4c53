"""One run at a time works in a folder; a killed one's lease is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jointsampler import UserError, storage
from jointsampler.cli import main
from workflows import lease
from workflows.lease import LEASE, held


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "STALE_S", 3.0)
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)


def entry(place) -> dict:
    return json.loads(storage.read(storage.join(place, LEASE)))


def test_a_second_run_in_one_folder_is_refused_and_the_first_goes_on(tmp_path, capsys):
    with held(tmp_path):
        first = entry(tmp_path)["id"]
        sentence = r"Another run works in .*: wait for its end"
        with pytest.raises(UserError, match=sentence) as caught, held(tmp_path):
            raise AssertionError("it must not start")
        assert "\n" not in str(caught.value)
        assert main(["run", "report", "--out", str(tmp_path), "evaluate.judge=none"]) == 2
        assert "Another run works in" in capsys.readouterr().err
        assert entry(tmp_path)["id"] == first
    assert list(tmp_path.iterdir()) == []


def test_two_folders_of_one_storage_are_one_place(tmp_path):
    shared = tmp_path / "shared"
    refused = pytest.raises(UserError, match="Another run works in")
    with held(tmp_path / "a", shared), refused, held(tmp_path / "b", shared):
        raise AssertionError("it must not start")
    assert not (tmp_path / "b" / LEASE).exists()  # what it had, it gave back


def test_one_place_by_two_names_is_held_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    begin = time.monotonic()
    with held(tmp_path, tmp_path / "link", tmp_path.as_uri()):
        assert time.monotonic() - begin < lease.STALE_S
    assert not (tmp_path / LEASE).exists()


def test_the_start_of_a_process_counts_from_the_boot_and_not_by_the_clock():
    """The time of day of a start moves when the clock is set, and a live run would look gone."""
    began = lease._began(os.getpid())
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < began / os.sysconf("SC_CLK_TCK") < uptime
    assert lease._identity()["began"] == began
    assert lease._began(None) is None


def test_a_lease_ends_with_its_body_also_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    begin = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - begin < lease.STALE_S


def test_the_lease_of_a_process_that_is_gone_from_this_machine_is_taken_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    left = lease._identity() | {"process": process.pid}
    storage.write_json(tmp_path / LEASE, left)
    begin = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - begin < lease.STALE_S and entry(tmp_path)["id"] != left["id"]
    # A new process with the old one's number is not the old one.
    storage.write_json(tmp_path / LEASE, lease._identity() | {"began": 0.0})
    with held(tmp_path):
        assert time.monotonic() - begin < lease.STALE_S


def test_a_lease_of_another_machine_that_stands_still_is_taken_over_and_one_that_beats_is_not(
    tmp_path, capsys
):
    far = lease._identity() | {"machine": "another", "host": "far"}
    storage.write_json(tmp_path / LEASE, far)
    begin = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - begin >= lease.STALE_S
    assert "on far: watching for 3 s whether it is at work" in capsys.readouterr().err
    storage.write_json(tmp_path / LEASE, far)
    beat = threading.Timer(0.5, storage.write_json, (tmp_path / LEASE, far | {"beat": 1}))
    beat.start()
    with pytest.raises(UserError, match="on far"), held(tmp_path):
        raise AssertionError("it must not start")
    beat.join()


def test_a_run_whose_lease_was_taken_ends(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), held(tmp_path):
        other = lease._identity()
        storage.write_json(tmp_path / LEASE, other)
        limit = time.monotonic() + 20
        while time.monotonic() < limit:  # a stage at work
            time.sleep(0.05)
    assert "another run has taken" in capsys.readouterr().err
    assert entry(tmp_path)["id"] == other["id"]  # and leaves the other's lease alone


def test_a_storage_that_is_away_for_a_while_ends_no_run(tmp_path, monkeypatch):
    read, failures = storage.read, []

    def away(location):
        if len(failures) < 3:
            failures.append(location)
            raise UserError("Cannot use storage s3://runs: no connection.")
        return read(location)

    with held(tmp_path):
        before = entry(tmp_path)["beat"]
        monkeypatch.setattr(storage, "read", away)
        limit = time.monotonic() + 20
        while json.loads(read(tmp_path / LEASE))["beat"] <= before and time.monotonic() < limit:
            time.sleep(0.05)
        assert len(failures) == 3 and entry(tmp_path)["beat"] > before


def test_a_lease_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / LEASE).mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*lease\.json") as caught, held(tmp_path):
        raise AssertionError("it must not start")
    assert "\n" not in str(caught.value)


def test_a_bucket_has_a_lease_too(bucket):
    place = storage.join(bucket, "leased")
    with held(place), pytest.raises(UserError, match="works in s3://runs/leased "), held(place):
        raise AssertionError("it must not start")
    assert LEASE not in storage.names(place)

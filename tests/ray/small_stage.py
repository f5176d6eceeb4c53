"""A stage of a test: items that do as they are told, spread over the cluster by the real code.

    python -m tests.ray.small_stage MODE FOLDER

MODE: "slow" items take eight seconds each; "broken" fails to load on the node that a
process came to first, and half of the items end only after it has failed three times;
"poison" ends the process at item 3, and "error" raises there; "unset" is "slow" with Ray
Data's own settings; "late": two items, each of which ends when both have begun, and one
process is not loaded before the other has begun. Prints the items done, sorted, as its last line.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from jointsampler.errors import UserError
from workflows import cluster, spread
from workflows.stage import Progress

ITEMS = 8


@dataclass(frozen=True)
class SmallPlan:
    mode: str
    folder: Path


class SmallActor(spread.Worker):
    def load(self) -> None:
        if self.plan.mode == "late":
            self._load_late()
        if self.plan.mode != "broken":
            return
        here, first = ray.get_runtime_context().get_node_id(), self.plan.folder / "first"
        try:
            with first.open("x") as file:
                file.write(here)
        except FileExistsError:
            time.sleep(0.5)  # its writer may not be done
        if first.read_text() == here:
            with (self.plan.folder / "failures").open("a") as file:
                file.write("failed\n")
            raise RuntimeError("The driver of this node is too old")

    def _load_late(self) -> None:
        try:
            (self.plan.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            self._begun(1)
            time.sleep(2)  # a second item, were it in the other's hand, would be there by now

    def _begun(self, items: int) -> None:
        """Return when that many items have begun. Raises UserError after a minute."""
        deadline = time.monotonic() + 60
        while len(list(self.plan.folder.glob("begun-*"))) < items:
            if time.monotonic() > deadline:
                raise UserError("An item waits behind another while a process has none")
            time.sleep(0.1)

    def _failures(self) -> int:
        failures = self.plan.folder / "failures"
        return len(failures.read_text().split()) if failures.exists() else 0

    def do(self, index: int) -> spread.Done:
        if self.plan.mode in ("slow", "unset"):
            time.sleep(8)
        if self.plan.mode == "late":
            (self.plan.folder / f"begun-{index}").touch()
            self._begun(2)
        if self.plan.mode == "broken" and index >= ITEMS // 2:
            while (
                self._failures() < 3
            ):  # else the good node may finish before the other is left out
                time.sleep(0.1)
            time.sleep(2)
        if self.plan.mode == "poison" and index == 3:
            time.sleep(1)
            os._exit(1)
        if self.plan.mode == "error" and index == 3:
            raise UserError("Shard 3 could not be made") from RuntimeError("CUDA error")
        return spread.Done("", 1, 10, 0.1)


def main(mode: str, folder: str) -> int:
    cluster.connect()
    if mode == "unset":
        spread.set_up_data = lambda: None
    items = {"slow": 1, "unset": 1, "late": 2}.get(mode, ITEMS)
    plan, progress = SmallPlan(mode, Path(folder)), Progress("small", items, "items")
    pool = cluster.Pool(2, 0, 2)  # an actor fills a node
    try:
        done = [
            row["index"]
            for row in spread.spread(SmallActor, plan, range(items), pool, progress, 1.0)
        ]
    except UserError as error:
        print(f"jointsampler: {error}")
        return 2
    print(sorted(done))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

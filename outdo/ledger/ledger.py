"""The ledger: an append-only file of what every step of a stage spent, and its sums."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outdo.system import files
from outdo.types import Usage


@dataclass
class Clock:
    """Wall and CPU seconds since it was started or last read."""

    wall: float = 0.0
    cpu: float = 0.0

    @staticmethod
    def start() -> Clock:
        return Clock(time.perf_counter(), time.process_time())

    def read(self) -> dict[str, float]:
        """Seconds since the last read; starts again."""
        wall, cpu = time.perf_counter(), time.process_time()
        out = {"wall_s": wall - self.wall, "cpu_s": cpu - self.cpu}
        self.wall, self.cpu = wall, cpu
        return out


def peak_rss_bytes() -> int:
    """Most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Ledger:
    """Events of one stage in `ledger.jsonl`: step, what, usage fields, wall_s, cpu_s, peak_rss_bytes; training ones also
    update_s, the seconds in optimiser steps, the threads they ran on, and update_core_s: the CPU seconds that they had, for
    stages side by side share cores; on a GPU seconds times threads.

    what: "train" (the stage's own work, what its budget counts), "evaluate", "checkpoint" or "preflight" (overhead, kept apart).
    Steps that an interruption made the stage repeat stay in the file, marked redone: they were paid for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train = Usage()  # what the stage has spent so far, redone work left out

    def book(self, step: int, what: str, usage: Usage, measured: dict[str, float]) -> None:
        """Append one event. measured: seconds and threads."""
        if what == "train":
            self.train += usage
        event = {"step": step, "what": what, **asdict(usage), **measured, "peak_rss_bytes": peak_rss_bytes()}
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(event) + "\n")

    def rewind(self, step: int) -> None:
        """Go back to the checkpoint at `step` (-1: there is none): mark what came after it as redone, count from there.

        Step number `step` itself trained after the checkpoint, but what was evaluated at that number came before it.
        """
        events = read(self.path)
        for e in events:
            first_redone = step if e["what"] == "train" else step + 1
            e["redone"] = bool(e.get("redone")) or e["step"] >= first_redone
        files.write_lines(self.path, events)
        self.train = total(e for e in events if e["what"] == "train" and not e["redone"])


def read(path: Path) -> list[dict[str, Any]]:
    """All events; a last line that a crash cut short is dropped. Raises UserError for damage."""
    return list(files.read_lines(path))


def total(events: Iterable[dict[str, Any]]) -> Usage:
    """The usage of all events together."""
    fields = Usage.__dataclass_fields__
    out = Usage()
    for e in events:
        out += Usage(**{k: v for k, v in e.items() if k in fields})
    return out


def summarise(events: list[dict[str, Any]]) -> dict[str, Any]:
    """One stage's entry of summary.json's ledger: training events, redone ones included in a field of their own."""
    trained = [e for e in events if e["what"] == "train"]
    kept, redone = [e for e in trained if not e.get("redone")], [e for e in trained if e.get("redone")]
    u = total(kept)
    flops = {k: getattr(u, f"{k}_flops") for k in ("prefill", "decode", "judge", "reference", "update")}
    return {
        "prefill_tokens": u.prefill_tokens,
        "decode_tokens": u.decode_tokens,
        "train_tokens": u.train_tokens,
        "discarded_tokens": u.discarded_tokens,
        "flops": flops,
        "judge_calls": u.judge_calls,
        "judge_tokens": u.judge_tokens,
        "judge_cost": u.judge_cost,
        "episodes": u.episodes,
        "wall_s": sum(e["wall_s"] for e in kept),
        "cpu_s": sum(e["cpu_s"] for e in kept),
        "update_s": sum(e.get("update_s", 0.0) for e in kept),
        "update_core_s": sum(e.get("update_core_s", e.get("update_s", 0.0) * e.get("threads", 0)) for e in kept),
        "threads": max((e.get("threads", 0) for e in kept), default=0),
        "peak_rss_bytes": max((e["peak_rss_bytes"] for e in events), default=0),
        "overhead_wall_s": sum(e["wall_s"] for e in events if e["what"] != "train"),
        "redone_flops": total(redone).flops,
        "redone_wall_s": sum(e["wall_s"] for e in redone),
    }

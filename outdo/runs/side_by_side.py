"""Stages that do not need each other, side by side: each in a process of its own with its share of the threads.

Small models gain little from a second core, so two stages at once are nearly twice as fast as one after the other. How many
threads a stage gets follows from the recipe alone, never from what happens to run beside it: its numbers stay the same.

Here is the parent, which decides who runs when; `worker.py` is the child.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from outdo.errors import UserError
from outdo.recipe import Recipe
from outdo.stages.common.context import Run

_LOOK_EVERY_S = 0.2  # how long a Ctrl-C may wait for the workers to hear of it


def work_side_by_side(state: Run, names: list[str], threads: int) -> None:
    """Run these stages, each as soon as its source is done, at most `recipe.jobs` at a time.

    Raises UserError, OSError and KeyboardInterrupt as a stage in this process would; the other stages are saved before.
    """
    waiting, running = list(names), dict[str, _Worker]()
    news: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    failed: BaseException | None = None
    try:
        while running or (waiting and not failed and not state.interrupted):
            stopping = state.interrupted or failed is not None
            for name in [] if stopping else _ready(state.recipe, waiting, running):
                waiting.remove(name)
                running[name] = _Worker(state.folder, name, threads, news)
            if stopping:
                for worker in running.values():
                    worker.stop()
            try:
                name, event = news.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
            if "share" in event:
                state.show(name, event["share"], event["message"])
            else:
                running.pop(name).process.wait()
                failed = failed or _failure(name, event)
        if failed:
            raise failed
        if state.interrupted:
            raise KeyboardInterrupt
    finally:
        for worker in running.values():  # a second Ctrl-C
            worker.process.kill()
            worker.process.wait()


def _ready(recipe: Recipe, waiting: list[str], running: dict[str, _Worker]) -> list[str]:
    """What may start now: what it needs is neither waiting nor running, and there is a free place."""
    busy = {*waiting, *running}
    free = [n for n in waiting if busy.isdisjoint(recipe.needs(n))]
    return free[: recipe.jobs - len(running)]


class _Worker:
    """A process at work on one stage, and the thread that listens to it."""

    def __init__(self, folder: Path, stage: str, threads: int, news: queue.Queue[tuple[str, dict[str, Any]]]) -> None:
        self.stopped = False
        # A session of its own: Ctrl-C in the terminal reaches the parent alone, which passes it on. The lock on the run folder
        # is inherited: a worker that outlives a killed parent by a moment still holds it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "outdo.runs.worker", str(folder.resolve()), stage, str(threads)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, close_fds=False,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        threading.Thread(target=self._listen, args=(stage, news), daemon=True).start()

    def _listen(self, stage: str, news: queue.Queue[tuple[str, dict[str, Any]]]) -> None:
        assert self.process.stdout is not None
        last: dict[str, Any] = {}
        for line in self.process.stdout:
            last = json.loads(line)
            if "share" in last:
                news.put((stage, last))
        news.put((stage, last if "end" in last else {"end": "died", "code": self.process.wait()}))

    def stop(self) -> None:
        """Ask it, once, to finish and save its step."""
        if not self.stopped:
            self.stopped = True
            self.process.send_signal(signal.SIGINT)


def _failure(name: str, event: dict[str, Any]) -> BaseException | None:
    match event["end"]:
        case "done" | "interrupted":
            return None
        case "user":
            return UserError(event["text"])
        case "os":
            return OSError(event["errno"], event["text"])
    code = event["code"]
    if code < 0:  # most often the kernel, short of memory
        return UserError(f"the process of stage {name} was ended by signal {-code}; if memory was short, lower jobs, slots or "
                         "optimizer.micro_tokens; then resume with --resume")
    return RuntimeError(f"the process of stage {name} ended with code {code}; what it said is above")

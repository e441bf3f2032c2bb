"""Metrics forwarded, while they are measured, to where people like to look: TensorBoard, Weights & Biases, Trackio.

The run folder stays the truth: a tracker that fails says so once and is left alone, and nothing is ever read back from one.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from outdo.errors import check

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "wandb-offline": "wandb", "trackio": "trackio"}
PROJECT = "outdo"


class Tracker(Protocol):
    """One stage's numbers in one place."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError for a tracker whose package is missing."""
    for name in names:
        there = importlib.util.find_spec(PACKAGES[name]) is not None
        check(there, f"trackers: {name} takes the package {PACKAGES[name]}: pip install {PACKAGES[name]}")


class Trackers:
    """The trackers of one stage. config: the whole run's, for their pages; step: where the stage begins or resumes."""

    def __init__(self, names: Sequence[str], config: Mapping[str, Any], folder: Path, stage: str, step: int) -> None:
        self._left: dict[str, Tracker] = {}
        for name in names:
            try:
                self._left[name] = (TensorBoard(folder, stage, step) if name == "tensorboard" else
                                    Runs(PACKAGES[name], name.endswith("offline"), config, folder, stage))  # fmt: skip
            except Exception as e:
                _give_up(name, e)

    def log(self, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Forward the numbers among the values."""
        numbers = {prefix + k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        for name, tracker in list(self._left.items()):
            try:
                tracker.log(step, numbers)
            except Exception as e:
                del self._left[name]
                _give_up(name, e)

    def close(self) -> None:
        """The stage is finished."""
        for name, tracker in self._left.items():
            try:
                tracker.close()
            except Exception as e:
                _give_up(name, e)


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN/tensorboard`. Steps that are repeated replace the old ones."""

    def __init__(self, folder: Path, stage: str, step: int) -> None:
        writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard" / stage), purge_step=step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class Runs:
    """wandb, and trackio, which has its interface: one run per stage, the run folder's name as their group."""

    def __init__(self, package: str, offline: bool, config: Mapping[str, Any], folder: Path, stage: str) -> None:
        self._module = importlib.import_module(package)
        options: dict[str, Any] = {"config": dict(config), "group": folder.name, "resume": "allow"}
        if package == "wandb":
            options |= {"dir": str(folder), "id": f"{folder.name}-{stage}"} | ({"mode": "offline"} if offline else {})
        self._module.init(project=PROJECT, name=f"{folder.name}-{stage}", **options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._module.finish()


def _give_up(name: str, e: Exception) -> None:
    said = " ".join(str(e).split())
    print(f"outdo: warning: {name} is left alone from here on ({type(e).__name__}: {said}); the run folder has everything",
          file=sys.stderr)

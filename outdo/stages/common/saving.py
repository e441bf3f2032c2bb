"""A stage's checkpoints: written so that a crash at any moment loses no more than the steps since the last one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outdo.errors import check
from outdo.models import hf
from outdo.system import files
from outdo.training import checkpoint
from outdo.types import Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop


WRITTEN = "written.json"  # checksums of the checkpoint, and how long the stage's journals were
_JOURNALS = ("metrics.jsonl", "ledger.jsonl", "evaluations.jsonl")


class Checkpoints:
    """The checkpoints of one stage: only the newest is kept."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._last_s = loop.clock.wall  # when the last one was written

    @property
    def due(self) -> bool:
        """Whether the last one is older than the recipe's `checkpoint_s`."""
        return self.loop.clock.wall - self._last_s >= self.loop.run.recipe.checkpoint_s

    def write(self, final: bool = False) -> None:
        """Write checkpoints/<step>, then drop the ones before it. final: the stage is done."""
        loop = self.loop
        target = loop.folder / "checkpoints" / str(loop.step)
        progress = checkpoint.Progress(loop.step, loop.evaluations.done)

        def fill(folder: Path) -> None:
            hf.save(loop.model, loop.run.tokenizer, folder)
            if final and loop.save_more is not None:
                loop.save_more(folder)
            checkpoint.save(loop.trainer, progress, folder, final, loop.further())
            sums = {f.name: files.sha256(f) for f in sorted(folder.glob("*")) if f.suffix in (".safetensors", ".pt")}
            files.write_json(folder / WRITTEN, {"sha256": sums, "lines": _lines(loop.folder)})

        if not target.exists():  # interrupted right after the last step: saved already, the weights have not moved since
            files.write_folder(target, fill)
        for old in _complete(loop.folder):
            if old != target:
                files.remove_folder(old)
        if final:
            ended = {"ended": loop.ended} if loop.ended else {}
            done = {"step": loop.step, **ended, "checkpoint": f"checkpoints/{loop.step}", "options": options_of(loop.config)}
            files.write_json(loop.folder / "done.json", done)
        loop.ledger.book(loop.step, "checkpoint", Usage(), loop.clock.read())
        self._last_s = loop.clock.wall


def resume(loop: Loop) -> checkpoint.Progress:
    """Go back to the newest checkpoint, or to the start if there is none."""
    files.sweep(loop.folder / "checkpoints")
    found = _complete(loop.folder)
    progress = checkpoint.Progress(0, 0)
    if found:
        _check_whole(loop.folder, found[-1])
        hf.load_weights(loop.model, found[-1])
        progress = checkpoint.load(loop.trainer, found[-1])
        loop.put_back(progress.further)
    # Whatever was written after the checkpoint will be written again, to the bit.
    files.keep_lines(loop.folder / "audit.jsonl", lambda e: bool(found) and e["step"] <= progress.step)
    files.keep_lines(loop.folder / "metrics.jsonl", lambda e: e["step"] < progress.step)
    measured: Callable[[dict[str, int]], bool] = lambda e: bool(found) and e["point"] <= progress.evaluated  # noqa: E731
    for name in ("evaluations.jsonl", "forgetting.jsonl", "heldout.jsonl", "forecasts.jsonl"):
        files.keep_lines(loop.folder / name, measured)
    at_end = progress.evaluated >= loop.run.recipe.evaluation.points  # only the last evaluation keeps rollouts
    files.keep_lines(loop.folder / "rollouts.jsonl", lambda e: e["step"] < progress.step or at_end)
    loop.ledger.rewind(progress.step if found else -1)
    return progress


def options_of(config: Any) -> dict[str, Any]:
    """A stage's options as plain data."""
    return dict(config.model_dump(mode="json", by_alias=True))


def _lines(folder: Path) -> dict[str, int]:
    return {name: files.count_lines(folder / name) for name in _JOURNALS}


def _check_whole(folder: Path, found: Path) -> None:
    """The checkpoint is as it was written, and the stage's journals still hold what it stands on. Raises UserError."""
    if not (found / WRITTEN).exists():
        return
    written = files.read_json(found / WRITTEN)
    for name, want in written["sha256"].items():
        file = found / name
        check(file.is_file() and files.sha256(file) == want, f"checkpoint file {str(file)!r} is not as it was written; it is "
              f"damaged: restore it from a copy, or delete {found} to go back to the stage's start")
    for name, want in written["lines"].items():
        have = files.count_lines(folder / name)
        check(have >= want, f"{folder / name} has {have} of the {want} lines that the checkpoint {found.name} stands on; restore "
              f"it from a copy, or delete {folder} to run the stage again")


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints of a stage, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    return sorted(found, key=lambda p: int(p.name))

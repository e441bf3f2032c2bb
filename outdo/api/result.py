"""What a run from Python gives back: its folder, opened. Everything but `generate` is read from the folder's files."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType

from outdo import report
from outdo.errors import check
from outdo.models import fetch, hf
from outdo.recipe import load
from outdo.report import terminal
from outdo.rollout.engine import Engine, Sampling
from outdo.system import files
from outdo.tasks.base import Task
from outdo.text import chat
from outdo.training import checkpoint
from outdo.types import Prompt

Said = str | Sequence[Mapping[str, Any]]  # text, given as it is, or messages, given through the chat template


@dataclass(frozen=True)
class Result:
    """A finished run folder. Example: `run.summary["players"][0]["value"]`, `run.save("my-doer")`, `run.generate("2 + 2 =")`."""

    folder: Path
    task: Task | None = field(default=None, repr=False)  # knows the system message that its prompts begin with

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))  # strings are taken as well

    @property
    def stage(self) -> str:
        """The last stage."""
        return load(self.folder / "recipe.toml").order()[-1]

    @property
    def checkpoint(self) -> Path:
        """The last stage's weights and tokenizer, in Hugging Face layout."""
        return fetch.last_checkpoint(self.folder, self.stage)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: scores with 95 % intervals, cost and verdicts."""
        return files.read_json(self.folder / "summary.json")  # type: ignore[no-any-return]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The last stage's metrics.jsonl: one dict per step."""
        return list(files.read_lines(self.folder / "stages" / self.stage / "metrics.jsonl"))

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The last stage's evaluations.jsonl: before, along and after it, sampled and greedy, on all splits, with every single
        result."""
        return list(files.read_lines(self.folder / "stages" / self.stage / "evaluations.jsonl"))

    @property
    def report(self) -> Path:
        """report.html, one self-contained page; made if it is not there."""
        file = self.folder / "report.html"
        return file if file.exists() else report.build(self.folder)

    def save(self, path: str | Path) -> Path:
        """Copy the checkpoint to a new folder that `transformers` opens. Raises UserError if it exists."""
        target = Path(path)
        check(not target.exists(), f"{str(target)!r} exists; give a folder that does not")
        source = self.checkpoint

        def fill(new: Path) -> None:
            shutil.copytree(source, new, ignore=shutil.ignore_patterns(checkpoint.FILE), dirs_exist_ok=True)

        files.write_folder(target, fill)
        return target

    def generate(self, prompts: Said | Sequence[Said], *, max_new_tokens: int = 256, temperature: float = 0.0,
                 seed: int = 0) -> list[str]:
        """What the model writes after each prompt (one, or a list of them). temperature 0 is greedy. Raises UserError."""
        one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
        several: list[Any] = [prompts] if one else list(prompts)
        tokenizer, engine = self._tokenizer, self._engine
        system = getattr(self.task, "with_system", lambda prompt: prompt)
        asked = []
        for i, prompt in enumerate(map(system, several)):
            plain = isinstance(prompt, str)
            ids = chat.encode(tokenizer, prompt if plain else chat.render(tokenizer, prompt), plain)
            asked.append(Prompt(f"generate/{i}", ids))
        longest = max((len(p.token_ids) for p in asked), default=0)
        sampling = Sampling(temperature, max_new_tokens, longest + max_new_tokens, chat.stop_ids(tokenizer))
        trajectories, _ = engine.generate(asked, 1, sampling, seed)
        return [chat.decode(tokenizer, np.where(t.mask, t.token_ids, -1), sampling.stop_ids) for t in trajectories]

    @cached_property
    def _tokenizer(self) -> Any:
        return hf.load_tokenizer(self.checkpoint)

    @cached_property
    def _engine(self) -> Engine:
        from outdo.runs.resolve import compute_device, compute_dtype

        recipe = load(self.folder / "recipe.toml")
        engine = Engine(hf.load(self.checkpoint).to(compute_device(recipe)), compute_dtype(recipe), recipe.slots)
        engine.load(0)
        return engine

    def __str__(self) -> str:
        return plain(terminal.results(self.summary))

    def _repr_html_(self) -> str:
        return page(terminal.results(self.summary), f"run folder: {self.folder}")


class Measured(list[dict[str, Any]]):
    """Records of `outdo.evaluate`, one per opponent and decoding: value, ci95, n, items, extra."""

    def __str__(self) -> str:
        return plain(terminal.measured(self)) if self else "nothing was measured"

    def _repr_html_(self) -> str:
        return page(terminal.measured(self)) if self else "nothing was measured"


def plain(table: RenderableType) -> str:
    """As text, without colours."""
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def page(table: RenderableType, more: str = "") -> str:
    """As HTML; names and paths in it are escaped."""
    return f"<pre>{html.escape(plain(table) + more)}</pre>"

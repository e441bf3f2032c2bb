"""Every dataset of reasoning-gym by name: puzzles made by a program, with a program that grades the answers.

Judge: `reasoning_gym` (strict). An item's `metadata` can hold the solution, so neither policy nor reward functions ever see it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check, nearest
from outdo.system import randomness
from outdo.tasks.text.task import TextOptions, TextTask, split_of

_VALIDATION, _HELDOUT = 0.15, 0.25  # shares of the questions
_ATTEMPTS = 500  # draws until a question of the split turns up
# Datasets whose items depend on the order of Python's sets, so on PYTHONHASHSEED (0.1.25).
_UNSTABLE = {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
# Datasets without one right answer, where the metadata holds an example of one.
_EXAMPLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "graph_color": lambda metadata: json.dumps(metadata["possible_answer"]),
    "propositional_logic": lambda metadata: str(metadata["example_answer"]),
    "rubiks_cube": lambda metadata: str(metadata["example_correct_answer"]),
}
_WITHOUT = {"boxnet", "rush_hour"}  # no right answer is known at all; the scorer plays the answer out


class ReasoningGym(TextTask):
    """One question, one answer. Without a `system` of your own the model is told of the tags.

    The split `harder` has the options `harder` on top of the others, for a look beyond what was trained on.
    Which split a question belongs to is decided by its text, so no split shares a question with another, whatever the seeds.
    """

    name = "reasoning_gym"
    judge = "reasoning_gym"

    class Config(TextOptions):
        """Options of reasoning_gym."""

        dataset: str = "chain_sum"
        options: dict[str, Any] = Field(default_factory=dict)  # of the dataset, as for reasoning_gym.create_dataset
        harder: dict[str, Any] = Field(default_factory=dict)  # options that the split `harder` changes; empty: no such split
        size: int = Field(default=20000, ge=1)  # how many items there are to draw from, all splits together
        seed: int = Field(default=0, ge=0)  # of the items; the run's own seed draws among them
        answer_tag: str = "answer"  # the answer is what stands between <answer> and </answer>; empty: the whole reply
        chat: bool = True  # questions as the user's messages; false: as plain text
        max_new_tokens: int = Field(default=128, ge=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        c = config or self.Config()
        if c.system is None and c.answer_tag:
            tag = c.answer_tag
            c = c.model_copy(update={"system": f"Provide your final answer between <{tag}> and </{tag}> tags."})
        super().__init__(c)
        self._sources = {"train": self._source(c.options)}
        if c.harder:
            self.splits = (*self.splits, "harder")
            self._sources["harder"] = self._source({**c.options, **c.harder})
        self._datasets = {split: _create(source) for split, source in self._sources.items()}
        self.players = () if c.dataset in _WITHOUT else ("gold",)
        self._measured: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}  # (split, seed): question: row
        self._dropped = self._drawn = 0

    def _source(self, options: Mapping[str, Any]) -> dict[str, Any]:
        c = self.config
        return {"dataset": c.dataset, "size": c.size, "seed": c.seed, "options": dict(options)}

    def row(self, split: str, seed: int, number: int) -> dict[str, Any]:
        """See `TextTask.row`: random draws among the split's items. Measuring takes each question once, training may repeat."""
        if split == "train":
            return self._draw(split, seed, number, ())
        rows = self._measured.setdefault((split, seed), {})
        while len(rows) <= number:
            row = self._draw(split, seed, len(rows), rows)
            rows[row["question"]] = row
        return next(itertools.islice(rows.values(), number, None))

    def _draw(self, split: str, seed: int, number: int, known: Collection[str]) -> dict[str, Any]:
        """A question of the split that is not among the known ones. Raises UserError when none turns up."""
        c, kind = self.config, split if split == "harder" else "train"
        too_long = 0
        for attempt in range(_ATTEMPTS):
            index = randomness.key(seed, split, number, attempt) % c.size
            item = self._datasets[kind][index]
            question = str(item["question"])
            # Harder questions come from the measured share, so what was trained on is not among them either.
            if question in known or split_of(question, _VALIDATION, _HELDOUT) != ("heldout" if split == "harder" else split):
                continue
            prompt = self.with_system([{"role": "user", "content": question}] if c.chat else question)
            self._drawn += 1
            if len(self.encode({"prompt": prompt})) <= c.max_prompt_tokens:
                return {"prompt": prompt, "question": question, "answer": _gold(c.dataset, item), "answer_tag": c.answer_tag,
                        "item": {**self._sources[kind], "index": index}}
            too_long, self._dropped = too_long + 1, self._dropped + 1
        why = "let the options vary more, raise task.size, or set evaluation.prompts to no more than that"
        if too_long:
            why = f"{too_long} have more than max_prompt_tokens = {c.max_prompt_tokens} tokens; raise it"
        raise UserError(f"{c.dataset}, split {split!r}: found {len(known)} different questions and no other in {_ATTEMPTS} "
                        f"draws; {why}")

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.bind`."""
        super().bind(tokenizer)
        self._measured.clear()

    def answer(self, row: Mapping[str, Any]) -> str | None:
        """See `TextTask.answer`."""
        tag = self.config.answer_tag
        return row["answer"] if not tag or row["answer"] is None else f"<{tag}>{row['answer']}</{tag}>"

    def describe(self) -> str:
        """What the numbers depend on."""
        name, notes = self.config.dataset, []
        if self._dropped:
            notes.append(f"{self._dropped} of {self._drawn} questions longer than {self.config.max_prompt_tokens} tokens dropped")
        if name in _UNSTABLE:
            notes.append("its items depend on PYTHONHASHSEED; set it, or the run cannot be repeated")
        return f"reasoning-gym {name}: {'; '.join(notes)}" if notes else ""


def _gold(name: str, item: Mapping[str, Any]) -> str | None:
    """The right answer, or an example of one; None if there is none."""
    if item["answer"] is None and name in _EXAMPLES:
        return _EXAMPLES[name](item["metadata"])
    return None if item["answer"] is None else str(item["answer"])


def _create(source: Mapping[str, Any]) -> Any:
    """The dataset itself. Raises UserError for unknown names and options, and for options that it refuses."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError("task reasoning_gym takes the package reasoning-gym; install it: pip install 'outdo[llm]'") from None
    name, options = source["dataset"], source["options"]
    check(name in DATASETS, f"reasoning_gym has no dataset {name!r}{nearest(name, list(DATASETS))}")
    valid = [f for f in DATASETS[name][1].__dataclass_fields__ if f not in ("seed", "size")]
    for key in options:
        check(key in valid, f"reasoning_gym dataset {name!r} has no option {key!r}{nearest(key, valid)}")
    if name == "composite":
        from reasoning_gym.composite import DatasetSpec

        options = {**options, "datasets": [DatasetSpec(**spec) for spec in options.get("datasets", [])]}
    try:
        return reasoning_gym.create_dataset(name, seed=source["seed"], size=source["size"], **options)
    except (AssertionError, ValueError, TypeError) as e:
        raise UserError(f"reasoning_gym dataset {name!r} refuses its options ({e}); they are {dict(source['options'])}") from None

"""reward_model: learn from pairs which answer is better (Bradley-Terry), for a judge that scores answers nobody has compared.

The model gets a head of one number, read at the end of prompt and answer. The last checkpoint holds the classifier in its folder
`reward_model`: transformers' AutoModelForSequenceClassification and TRL open it. In the same recipe a later stage is scored by it
with judge = { name = "reward_model", model = "stage:<name>" }.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from outdo.errors import check
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.stages.base import DataChecks, Given, Stage
from outdo.stages.common.data import check_answers
from outdo.stages.common.pairs import OwnPair, OwnPairs, PairConfig, check_source, pairs_of, steps_of
from outdo.tasks.base import Task
from outdo.types import Sample, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.text.rows import Row


class RewardModel(Stage):
    """Train a reward model on rows of preferences, or on pairs of the model's own samples."""

    class Config(PairConfig):
        """Options of a stage with kind = "reward_model"."""

        writes: ClassVar[bool] = False
        usual_lr: ClassVar[tuple[float, float] | None] = (2e-5, 2e-4)

        kind: Literal["reward_model"] = "reward_model"
        algorithm: Plugin = Plugin(name="bradley_terry")
        margin: str | None = None  # column that says how much better the chosen answer is

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """There are pairs, and no policy starts from a reward model."""
        check_source(name, self.config, recipe, task)
        check(self.config.algorithm.name == "bradley_terry", f"stage.{name}.algorithm = {self.config.algorithm.name!r}: a reward "
              "model is trained by bradley_terry; leave algorithm out, or use kind = 'preference'")
        children = [n for n in recipe.stage if recipe.parent(n) == name]
        check(not children, f"stage.{', '.join(children)}.from = {name!r}: a reward model does not write; start from the stage "
              f"before it, and name it in the judge: judge = {{ name = 'reward_model', model = 'stage:{name}' }}")

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """The first rows must render to pairs."""
        if self.config.pairs is not None:
            return steps_of(self.config, data.flops)
        c, limit = self.config, min(self.config.max_tokens or data.context, data.context)
        return check_answers(c, data, limit, lambda row, place, i: _pair(data.tokenizer, limit, row, place, i, c.margin),
                             partial(_look, c.margin))

    def estimate(self, estimates: Estimates) -> StepCost:
        """Training on both answers of a row."""
        return estimates.preferences(self.config, referred=False)

    def run(self, loop: Loop) -> None:
        """Rows -> pairs -> an optimiser step on the scores at their ends, until the budget is spent."""
        config, passes, tokenizer = self.config, pairs_of(loop), loop.run.tokenizer
        context = loop.model.config.max_position_embeddings
        limit = min(config.max_tokens or context, context)
        held = [(row, _pair(tokenizer, limit, row, f"{passes.source}, row {i}", i, None)) for i, row in passes.measured.items()]
        loop.measure_rows = partial(_agreement, loop, [(row, pair) for row, pair in held if pair])
        loop.save_more = partial(_save, loop, isinstance(passes, OwnPairs) and not passes.text)
        for step in loop.steps():
            made = [_pair(tokenizer, limit, row, f"{passes.source}, row {i}", n, config.margin)
                    for n, (i, row) in enumerate(passes.batch(step))]
            samples, usage = [s for pair in made for s in pair], Usage(episodes=len(made)) + passes.paid(step)
            metrics, spent = loop.train(samples) if samples else ({}, Usage())
            loop.book(usage + spent, {**metrics, "episodes": float(sum(bool(m) for m in made)),
                                      "dropped": float(sum(not m for m in made))})


def _pair(tokenizer: PreTrainedTokenizerBase, limit: int, row: Row, place: str, number: int, margin: str | None) -> list[Sample]:
    """Prompt with the chosen and with the rejected answer, each trained at its end; empty where one is longer than limit."""
    from outdo.judges.reward_model import text_of  # seconds of imports
    from outdo.text.pairs import sides

    if isinstance(row, OwnPair) and not row.text:
        return [_scored_at_end(np.array(ids), sign, number) for ids, sign in zip(row.read(), (1.0, -1.0), strict=True)]
    prompt, *answers = sides(row, place)
    two = [tokenizer(text_of(tokenizer, prompt, a), add_special_tokens=False)["input_ids"] for a in answers]
    if not all(0 < len(ids) <= limit for ids in two):
        return []
    lead = _lead(margin, row, place)
    return [_scored_at_end(np.array(ids), sign, number) for ids, sign in zip(two, (1.0 + lead, -1.0), strict=True)]


def _look(margin: str | None, row: Row, place: str) -> None:
    """Raise UserError for a row that has no two answers, or no margin where the stage reads one."""
    from outdo.text.pairs import sides  # seconds of imports

    sides(row, place), _lead(margin, row, place)


def _lead(margin: str | None, row: Row, place: str) -> float:
    """How much better the chosen answer is, by the column that the stage names. Raises UserError."""
    if margin is None:
        return 0.0
    value = row.get(margin)
    check(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"),
          f"{place}: column {margin} holds {value!r}; margins are numbers of at least 0")
    return float(value)  # type: ignore[arg-type]


def _scored_at_end(ids: np.ndarray, sign: float, pair: int) -> Sample:
    """The head reads the state that predicts the next token, so one more stands behind the text's last."""
    tokens = np.append(ids, ids[-1])
    mask = np.arange(len(tokens)) == len(tokens) - 1
    return Sample(tokens, mask, (mask * sign).astype(np.float32), np.zeros(len(tokens), np.float32), pair=pair)


def _agreement(loop: Loop, held: Sequence[tuple[Row, list[Sample]]]) -> tuple[dict[str, Any] | None, Usage]:
    """How the scores agree with preferences that never trained: accuracy, calibration, AUC within prompts."""
    from outdo.evaluation.pairs import agreement  # seconds of imports
    from outdo.evaluation.stats import wilson
    from outdo.models.score import read
    from outdo.text.pairs import sides

    if not held:
        return None, Usage()
    head = loop.trainer.critic
    assert head is not None
    rows = [(s.token_ids, s.mask) for _, pair in held for s in pair]
    found, usage = read(loop.model, loop.run.dtype, rows, loop.config.optimizer.micro_tokens, lambda _, hidden, __: head(hidden))
    scores = [float(x[-1]) for x in found]
    prompts = [str(row.get("prompt_id") or sides(row, "the row")[0]) for row, _ in held]
    record = agreement(scores[::2], scores[1::2], prompts)
    known = [(a > b) == (row["gold"][0] > row["gold"][1]) for (row, _), a, b in zip(held, scores[::2], scores[1::2], strict=True)
             if isinstance(row, OwnPair) and None not in row["gold"] and row["gold"][0] != row["gold"][1]]
    if known:  # the judge that compared them may be wrong; this is how often the reward model picks what is really better
        record |= {"gold_accuracy": sum(known) / len(known), "gold_ci95": wilson(sum(known), len(known)), "gold_n": len(known)}
    return record, usage


def _save(loop: Loop, tokens: bool, folder: Path) -> None:
    """The classifier as transformers has it."""
    from outdo.judges.reward_model import READS_TOKENS, TRAINED  # seconds of imports
    from outdo.models import classifier

    assert loop.trainer.critic is not None
    classifier.save(loop.model, loop.trainer.critic, loop.run.tokenizer, folder / TRAINED, **{READS_TOKENS: tokens})

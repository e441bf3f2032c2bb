"""TRL's rollout_func in place of the engine's own loop: what it is given, and what becomes of what it gives.

Run: .venv/bin/python -m pytest tests/rollout/test_custom.py   (about 10 s on one core)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import real
import toys

from outdo.errors import UserError
from outdo.rollout.custom import Trainer, rollout_by
from outdo.rollout.episodes import rollout
from outdo.tasks.dataset import Dataset
from outdo.types import Finish, Prompt, Trajectory, Usage

ROWS = [{"prompt": [{"role": "user", "content": f"Say {w}."}], "level": i} for i, w in enumerate(("one", "two", "six"))]


@pytest.fixture(scope="module")
def task() -> Dataset:
    made = Dataset.of(ROWS, validation=0.0, heldout=0.0, max_prompt_tokens=48, max_new_tokens=6)
    made.bind(real.tokenizer())
    return made


@pytest.fixture(scope="module")
def engine() -> Any:
    sizes = toys.config(vocab_size=len(real.tokenizer()), max_position_embeddings=80)
    return toys.engine(toys.decoder(sizes), version=5)


@pytest.fixture(scope="module")
def prompts(task: Dataset) -> list[Prompt]:
    return task.prompts("train", 3, 0)


def by(function: Callable[..., Any], engine: Any, task: Dataset, prompts: list[Prompt], **options: Any,
       ) -> tuple[list[Trajectory], Usage]:  # fmt: skip
    return rollout_by(function, engine, task, prompts, **{"group_size": 4, "seed": 7, **options})


def test_the_plainest_one_changes_nothing(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    """Token for token and bit for bit what the engine does without it, sampled or greedy, at the same cost."""
    for temperature in (1.0, 0.0):
        got, usage = by(lambda prompts, trainer: trainer.generate(prompts), engine, task, prompts, temperature=temperature)
        want, cost = rollout(engine, task, prompts, group_size=4, temperature=temperature, seed=7)
        for a, b in zip(got, want, strict=True):
            for name in ("token_ids", "mask", "logprobs"):
                assert (getattr(a, name) == getattr(b, name)).all()
            assert (a.prompt_id, a.sample, a.policy_version, a.finish, a.info) == (
                b.prompt_id, b.sample, b.policy_version, b.finish, b.info)  # fmt: skip
        assert usage == cost


def test_what_it_is_given(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    seen: dict[str, Any] = {}

    def look(prompts: list[Any], trainer: Trainer) -> dict[str, Any]:
        seen.update(prompts=prompts, trainer=trainer)
        prompts[0][0]["content"] = "mine"  # a copy
        return trainer.generate(prompts)

    by(look, engine, task, prompts, temperature=0.7)
    assert prompts[0].row["prompt"][0]["content"] != "mine"
    assert seen["prompts"][1:] == [p.row["prompt"] for p in prompts for _ in range(4)][1:]
    trainer = seen["trainer"]
    assert trainer.processing_class is task.tokenizer() and trainer.state.global_step == 5
    assert (trainer.args.num_generations, trainer.args.max_completion_length, trainer.args.temperature) == (4, 6, 0.7)
    with pytest.raises(AttributeError, match="stand-in for the trainer has no 'vllm_generation'; it has processing_class"):
        trainer.vllm_generation  # noqa: B018


def test_several_turns_of_its_own(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    """Two turns with words between them: only what was sampled trains; extra fields reach the rewards."""
    between = task.encode({"prompt": "well"})

    def turns(prompts: list[Any], trainer: Trainer) -> dict[str, Any]:
        one = trainer.generate(prompts, max_new_tokens=3)
        longer = [p + c + between.tolist() for p, c in zip(one["prompt_ids"], one["completion_ids"], strict=True)]
        two = trainer.generate(longer, max_new_tokens=2)
        parts = [(a, between.tolist(), b) for a, b in zip(one["completion_ids"], two["completion_ids"], strict=True)]
        logs = [(*a, *[0.0] * len(between), *b) for a, b in zip(one["logprobs"], two["logprobs"], strict=True)]
        return {"prompt_ids": one["prompt_ids"], "completion_ids": [[*a, *m, *b] for a, m, b in parts], "logprobs": logs,
                "env_mask": [[1] * len(a) + [0] * len(m) + [1] * len(b) for a, m, b in parts],
                "env_reward": [np.float32(i) for i in range(len(prompts))], "note": "same for all"}

    got, usage = by(turns, engine, task, prompts)
    assert [t.info["env_reward"] for t in got] == list(range(12)) and {t.info["note"] for t in got} == {"same for all"}
    assert {t.info["level"] for t in got} == {0, 1, 2} and len({tuple(t.token_ids) for t in got}) > 6
    for t in got:
        begins = len(t.token_ids) - int(t.mask[::-1].argmax()) - int(t.mask.sum()) - len(between)
        assert t.token_ids[begins:].tolist() and (t.logprobs[t.mask] < 0).all() and not t.logprobs[~t.mask].any()
        assert "well" in t.info["completion"][0]["content"]
    assert usage.episodes == 12 and usage.decode_tokens == sum(int(t.mask.sum()) for t in got)
    # What it gave as log-probs is what the model says of these very tokens.
    again, spent = by(lambda prompts, trainer: {**turns(prompts, trainer), "logprobs": None}, engine, task, prompts)
    assert spent.prefill_flops > usage.prefill_flops
    for a, b in zip(got, again, strict=True):
        assert (a.token_ids == b.token_ids).all() and np.abs(a.logprobs - b.logprobs).max() < 1e-4


@pytest.mark.parametrize("logprobs", ["zero", "none", "some None"])
def test_placeholders_are_replaced(engine: Any, task: Dataset, prompts: list[Prompt], logprobs: str) -> None:
    def lazy(prompts: list[Any], trainer: Trainer) -> dict[str, Any]:
        out = trainer.generate(prompts)
        zeros: list[Any] = [[0.0] * len(c) for c in out["completion_ids"]]
        if logprobs == "some None":
            zeros = [[None, *row[1:]] for row in out["logprobs"]]
        return {**out, "logprobs": None if logprobs == "none" else zeros}

    want, _ = rollout(engine, task, prompts, group_size=4, temperature=0.8, seed=7)
    got, _ = by(lazy, engine, task, prompts, temperature=0.8)
    assert all(np.abs(a.logprobs - b.logprobs).max() < 1e-4 for a, b in zip(got, want, strict=True))


def test_finish(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    stop = task.stop_ids[0]
    ends = [[5, stop], [5, 6], []]
    got, _ = by(lambda prompts, trainer: {"prompt_ids": [[1]] * 3, "completion_ids": ends, "logprobs": None},
                engine, task, prompts, group_size=1)  # fmt: skip
    assert [t.finish for t in got] == [Finish.STOP, Finish.LENGTH, Finish.LENGTH] and not got[2].mask.any()
    assert (got[0].logprobs[1:] < 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "gave no prompt_ids, completion_ids, logprobs; return a dict"),
        ({"logprobs": ...}, "gave no logprobs"),
        ({"completion_ids": [[5]]}, "gave 1 completion_ids for 3 prompts"),
        ({"logprobs": [[-1.0]] * 3}, "gave 1 logprobs for the 2 tokens of a completion of train/0/0"),
        ({"env_mask": [[1]] * 3}, "gave 1 env_mask for the 2 tokens"),
        ({"prompt_ids": [[]] * 3}, "no prompt_ids for train/0/0"),
        ({"prompt_ids": [[1] * 90] * 3}, "gave 92 tokens, prompt included, and the model reads 80"),
    ],
)
def test_what_it_owes(engine: Any, task: Dataset, prompts: list[Prompt], changes: dict[str, Any] | None, message: str) -> None:
    whole: dict[str, Any] = {"prompt_ids": [[1]] * 3, "completion_ids": [[5, 6]] * 3, "logprobs": [[-1.0, -1.0]] * 3}
    given = None if changes is None else {k: v for k, v in {**whole, **changes}.items() if v is not ...}
    with pytest.raises(UserError, match=message):
        by(lambda prompts, trainer: given, engine, task, prompts, group_size=1)


def test_what_it_raises_is_one_line(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    def wants_vllm(prompts: list[Any], trainer: Any) -> Any:
        return trainer.vllm_generation.generate(prompts)

    with pytest.raises(UserError, match="rollout function wants_vllm raised AttributeError: outdo's stand-in for the trainer"):
        by(wants_vllm, engine, task, prompts)


def test_one_that_ends_the_process_is_one_line(engine: Any, task: Dataset, prompts: list[Prompt]) -> None:
    with pytest.raises(UserError, match=r"rollout function <lambda> raised SystemExit: it called exit\(0\)"):
        by(lambda prompts, trainer: sys.exit(0), engine, task, prompts)

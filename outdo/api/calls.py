"""outdo from Python: `reinforce`, `imitate`, `pretrain` and `evaluate` (docs/python.md).

They build the very recipe that a file would hold, run it as the command line does, and give back the run folder. What no file can
hold (rows, functions, environments, objects) is handed over beside it; the recipe in the folder names it in `python`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from outdo.api import building
from outdo.api.building import Data, Model
from outdo.api.inputs import Environments, Reward, Tool, called, unpacked, with_own
from outdo.api.result import Measured, Result
from outdo.errors import check
from outdo.runs import reopen
from outdo.stages.base import Given
from outdo.system import progress


def reinforce(
    model: Model, dataset: Data | None = None, reward: Reward | None = None, *, reward_weights: Sequence[float] = (),
    gold: Reward | None = None, tools: Sequence[Tool] = (), environment_factory: Environments | None = None,
    rollout_func: Tool | None = None, system: str | None = None, max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None, max_turns: int | None = None, max_tool_tokens: int | None = None,
    steps: int | None = None, flops: float | None = None, prompts: int | None = None, group_size: int | None = None,
    temperature: float = 1.0, algorithm: str | Mapping[str, Any] = "grpo", learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), eval_prompts: int | None = None, seed: int = 0,
    name: str = "reinforce", out: str | Path | None = None, resume: str | Path | None = None, force: bool = False,
    quiet: bool = False, eval_dataset: Data | None = None, columns: Mapping[str, str] | None = None,
    dry_run: bool = False, **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Train a model with reinforcement learning: `run = outdo.reinforce("smollm2", rows, my_reward); run.save("my-doer")`.

    Args:
        model: A checkpoint (folder, .gguf file, fetched name, hub id, RUN or RUN:stage), a `Result`, or sizes for random weights.
        dataset: Rows with prompts, of which a share is held out for evaluation, or a task.
        reward: A reward function as TRL, verl, verifiers or OpenRLHF call it, a judge, or a list of these. None is the task's
            own judge.
        gold: What is evaluated and never trained on. None is the task's judge; for rows it is the reward.
        eval_dataset: Rows to evaluate on, in place of a share of `dataset`.
        columns: Our column = the data's, for example `{"question": "text"}` (docs/data.md).
        tools, environment_factory, rollout_func: As in TRL. `max_turns` and `max_tool_tokens` limit a conversation.
        steps, flops: The budget. None is one pass over the training prompts, at least 20 and at most 200 steps.
        prompts, group_size: A step samples `group_size` completions for each of `prompts` prompts.
        learning_rate: None is the default for the stage's kind and its start (docs/recipes.md).
        lora: True, a rank, or the recipe's table.
        eval_prompts: Number of held-out prompts to evaluate on (default: at most 100; 0 disables evaluation).
        resume: Folder of an interrupted run; all other arguments as in the first call.
        force: Start training even if the pre-flight check finds no learning signal.
        dry_run: Print the plan and train nothing; the result is None.
        recipe_overrides: Any other key of the stage or of the recipe (docs/recipe_keys.md).

    Raises UserError.
    """
    building.check_names(recipe_overrides)
    check(dataset is not None, "reinforce takes a dataset: rows with prompts, or a task")
    dataset, reward, reward_weights, tools, environment, more = unpacked(dataset, reward, reward_weights, tools,
                                                                         environment_factory, max_turns, max_tool_tokens)
    reward, reward_weights = with_own(reward, reward_weights, environment)
    table, task, python = building.task_table(dataset, tools, environment, eval_dataset=eval_dataset, columns=columns,
                                              system=system, max_prompt_tokens=max_prompt_tokens,
                                              max_new_tokens=max_new_tokens, **more)
    check(reward is not None or table["name"] != "dataset", "rows alone say nothing about what is good; give reward = a function")
    chosen = {"name": algorithm} if isinstance(algorithm, str) else dict(algorithm)
    stage = building.stage_table("rl", model, steps, flops, learning_rate, lora, freeze)
    stage |= {"prompts": prompts, "group_size": group_size, "temperature": temperature, "algorithm": chosen,
              "allow_no_signal": force, "rollout": rollout_func and called(rollout_func)}
    by_python = rollout_func if callable(rollout_func) else None
    data = building.recipe_data(name, seed, stage, model, table, python + ["rollout_func"] * (by_python is not None))
    given = building.judged(data, Given(task, rollout=by_python), reward, reward_weights, gold)
    result: Result = building.run_recipe(data, given, recipe_overrides, eval_prompts, out, resume, quiet, dry_run)
    return result


def imitate(
    model: Model, dataset: Data, *, eval_dataset: Data | None = None, reward: Reward | None = None,
    reward_weights: Sequence[float] = (), system: str | None = None, max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None, steps: int | None = None, flops: float | None = None, batch_size: int = 16,
    max_tokens: int | None = None, learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), tokenizer: str | None = None,
    eval_prompts: int | None = None, seed: int = 0, name: str = "imitate", out: str | Path | None = None,
    resume: str | Path | None = None, quiet: bool = False, dry_run: bool = False, **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Supervised fine-tuning on the answers in rows of any TRL shape (docs/data.md), or on a task's reference player.

    Without `steps` and `flops` the rows are passed over `epochs` times (default: once). The loss is measured on a twentieth of
    the rows, which never trains (`heldout`), or on `eval_dataset`. With a `reward`, or with a task as `eval_dataset`, the
    model's completions are evaluated as well. tokenizer: for models from random weights, the checkpoint whose tokenizer they
    use. All other arguments are those of `reinforce`. Raises UserError.
    """
    return building.imitate("sft", **building.without(locals(), "recipe_overrides"), overrides=recipe_overrides)


def pretrain(
    dataset: Data, model: Model | None = None, *, tokenizer: str | None = None, eval_dataset: Data | None = None,
    reward: Reward | None = None, reward_weights: Sequence[float] = (), system: str | None = None,
    max_prompt_tokens: int | None = None, max_new_tokens: int | None = None, steps: int | None = None,
    flops: float | None = None, batch_size: int = 16, max_tokens: int | None = None, learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), eval_prompts: int | None = None, seed: int = 0,
    name: str = "pretrain", out: str | Path | None = None, resume: str | Path | None = None, quiet: bool = False,
    dry_run: bool = False, **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Train on every token of rows, or of a task's random play, from random weights or from a checkpoint.

    Example: `outdo.pretrain(rows, {"width": 256, "depth": 6, "context": 512}, tokenizer="smollm2")`. All other arguments are
    those of `imitate`. Raises UserError.
    """
    arguments = building.without({**locals(), "model": model or {}}, "recipe_overrides")
    return building.imitate("pretrain", **arguments, overrides=recipe_overrides)


def evaluate(
    model: Model, dataset: Data, reward: Reward | None = None, *, reward_weights: Sequence[float] = (),
    tools: Sequence[Tool] = (), environment_factory: Environments | None = None, system: str | None = None,
    max_prompt_tokens: int | None = None, max_new_tokens: int | None = None, max_turns: int | None = None,
    max_tool_tokens: int | None = None, prompts: int | None = None,
    decode: Sequence[str] = ("sampled", "greedy"), opponents: Sequence[str] = (), seed: int = 0, quiet: bool = False,
    **recipe_overrides: Any,
) -> Measured:  # fmt: skip
    """Evaluate a model on all rows, or on a task's held-out prompts, with 95 % confidence intervals. Writes no file.

    prompts: Number of prompts (default: at most 100). Returns one record for each opponent and way of decoding. Raises
    UserError.
    """
    dataset, reward, reward_weights, tools, environment, more = unpacked(dataset, reward, reward_weights, tools,
                                                                         environment_factory, max_turns, max_tool_tokens)
    reward, reward_weights = with_own(reward, reward_weights, environment)
    check(not isinstance(model, Mapping), "evaluate takes a checkpoint or a run; sizes alone have learned nothing")
    check(all(d in reopen.DECODES for d in decode), f"decode = {decode!r}: there is {', '.join(reopen.DECODES)}")
    table, task, python = building.task_table(dataset, tools, environment, all_heldout=True, system=system,
                                max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, **more)
    check(reward is not None or table["name"] != "dataset", "rows alone say nothing about what is good; give reward = a function")
    folder, _ = reopen.locate(building.source_of(model) or "")
    data = building.recipe_data("evaluate", 0, {"kind": "sft", "steps": 1, "from": str(folder)}, model, table, python)
    given = building.judged(data, Given(task), reward, reward_weights, None)
    recipe, given = building.resolved(data, given, recipe_overrides, prompts)
    ready = reopen.opened(folder, recipe, given)
    with progress.counting(Console(quiet=quiet)) as count:
        return Measured(reopen.measurements(ready, opponents, list(decode), None, seed, count))



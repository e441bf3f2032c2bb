"""outdo from Python: `reinforce`, `imitate`, `pretrain` and `evaluate` (docs/python.md).

They build the very recipe that a file would hold, run it as the command line does, and give back the run folder. What no file can
hold (rows, functions, environments, objects) is handed over beside it; the recipe in the folder names it in `python`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from outdo import plugins, report
from outdo import recipe as recipes
from outdo.api.inputs import Environments, Reward, Tool, called, environments, judge, unpacked, with_own
from outdo.api.result import Measured, Result
from outdo.errors import check
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.report import terminal
from outdo.runs import lock, plan, reopen
from outdo.runs.check import check_recipe
from outdo.runs.folder import new_folder, resume_recipe
from outdo.runs.resolve import resolve
from outdo.runs.run import run
from outdo.runs.start import roots, tokenizer_of
from outdo.stages.base import Given
from outdo.system import progress
from outdo.tasks.base import Task, make_task
from outdo.tasks.dataset import Dataset
from outdo.text import rows as text_rows

# A checkpoint (folder, .gguf file, fetched name, hub id), a finished run, or the sizes of a model from random weights ([model]).
Model = str | Path | Result | Mapping[str, Any]
# A task (its name, its table with a "name", or the object), or rows: a file, a folder, a hub id, a `datasets` object, dicts; for
# reinforce and evaluate also an environment or a taskset of verifiers.
Data = str | Path | Mapping[str, Any] | Task | Iterable[Mapping[str, Any]]

STEPS = 100  # of reinforcement, unless said
EVALUATED = 100  # prompts, where the data has so many
_LR, _LORA_LR = 2e-5, 2e-4  # of checkpoints


def reinforce(
    model: Model, dataset: Data, reward: Reward | None = None, *, reward_weights: Sequence[float] = (),
    gold: Reward | None = None, tools: Sequence[Tool] = (), environment_factory: Environments | None = None,
    rollout_func: Tool | None = None, system: str | None = None, max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None, max_turns: int | None = None, max_tool_tokens: int | None = None,
    steps: int | None = None, flops: float | None = None, prompts: int = 8, group_size: int = 8, temperature: float = 1.0,
    algorithm: str | Mapping[str, Any] = "grpo", learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), eval_prompts: int | None = None, seed: int = 0,
    name: str = "reinforce", out: str | Path | None = None, resume: str | Path | None = None, force: bool = False,
    quiet: bool = False, **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Reinforce what `reward` pays for: `run = outdo.reinforce("smollm2", rows, my_reward); run.save("my-doer")`.

    dataset: rows with prompts, of which some are held out to measure with; or a task. reward: as TRL, verl, verifiers or
    OpenRLHF users wrote it; None: the task's own judge. gold: measures, never trains; None: the task's judge, for rows the
    reward. tools, environment_factory, rollout_func: as in TRL; max_turns and max_tool_tokens bound a conversation. A step
    takes `prompts` x `group_size` samples. learning_rate: None is 2e-5, 2e-4 with LoRA. lora: True, a rank, or the recipe's
    table. eval_prompts: None is at most 100. resume: the folder of an interrupted run, with otherwise the same arguments.
    force: train also where the pre-flight finds nothing to learn from. recipe_overrides: keys of the stage or of the recipe.
    Raises UserError.
    """
    dataset, reward, reward_weights, tools, environment, more = unpacked(dataset, reward, reward_weights, tools,
                                                                         environment_factory, max_turns, max_tool_tokens)
    reward, reward_weights = with_own(reward, reward_weights, environment)
    table, task, python = _task(dataset, tools, environment, system=system, max_prompt_tokens=max_prompt_tokens,
                                max_new_tokens=max_new_tokens, **more)
    check(reward is not None or table["name"] != "dataset", "rows alone say nothing about what is good; give reward = a function")
    chosen = {"name": algorithm} if isinstance(algorithm, str) else dict(algorithm)
    stage = _stage("rl", model, steps if steps or flops else STEPS, flops, learning_rate, lora, freeze)
    stage |= {"prompts": prompts, "group_size": group_size, "temperature": temperature, "algorithm": chosen,
              "allow_no_signal": force, "rollout": rollout_func and called(rollout_func)}
    by_python = rollout_func if callable(rollout_func) else None
    data = _recipe(name, seed, stage, model, table, python + ["rollout_func"] * (by_python is not None))
    given = _judged(data, Given(task, rollout=by_python), reward, reward_weights, gold)
    return _run(data, given, recipe_overrides, eval_prompts, out, resume, quiet)


def imitate(
    model: Model, dataset: Data, *, eval_dataset: Data | None = None, reward: Reward | None = None,
    reward_weights: Sequence[float] = (), system: str | None = None, max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None, steps: int | None = None, flops: float | None = None, batch_size: int = 16,
    max_tokens: int | None = None, learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), tokenizer: str | None = None,
    eval_prompts: int | None = None, seed: int = 0, name: str = "imitate", out: str | Path | None = None,
    resume: str | Path | None = None, quiet: bool = False, **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Imitate the answers in rows of any TRL shape (docs/data.md), or a task's reference player: supervised fine-tuning.

    Unless told, one pass over rows. The loss is measured on a twentieth of them that never trains (`heldout`), or on the rows of
    eval_dataset. With a reward eval_dataset is rows with prompts, or without one a task: then what the model writes is measured,
    too. tokenizer: whose, for models from random weights. All else as in `reinforce`. Raises UserError.
    """
    return _imitate("sft", **_without(locals(), "recipe_overrides"), overrides=recipe_overrides)


def pretrain(
    dataset: Data, model: Model | None = None, *, tokenizer: str | None = None, eval_dataset: Data | None = None,
    reward: Reward | None = None, reward_weights: Sequence[float] = (), system: str | None = None,
    max_prompt_tokens: int | None = None, max_new_tokens: int | None = None, steps: int | None = None,
    flops: float | None = None, batch_size: int = 16, max_tokens: int | None = None, learning_rate: float | None = None,
    lora: bool | int | Mapping[str, Any] = False, freeze: Sequence[str] = (), eval_prompts: int | None = None, seed: int = 0,
    name: str = "pretrain", out: str | Path | None = None, resume: str | Path | None = None, quiet: bool = False,
    **recipe_overrides: Any,
) -> Result:  # fmt: skip
    """Learn every token of rows, or of a task's random play; from random weights of `model`'s sizes, or from a checkpoint.

    `outdo.pretrain(rows, {"width": 256, "depth": 6, "context": 512}, tokenizer="smollm2")`. All else as in `imitate`.
    """
    return _imitate("pretrain", **_without({**locals(), "model": model or {}}, "recipe_overrides"), overrides=recipe_overrides)


def evaluate(
    model: Model, dataset: Data, reward: Reward | None = None, *, reward_weights: Sequence[float] = (),
    tools: Sequence[Tool] = (), environment_factory: Environments | None = None, system: str | None = None,
    max_prompt_tokens: int | None = None, max_new_tokens: int | None = None, max_turns: int | None = None,
    max_tool_tokens: int | None = None, prompts: int | None = None,
    decode: Sequence[str] = ("sampled", "greedy"), opponents: Sequence[str] = (), seed: int = 0, quiet: bool = False,
    **recipe_overrides: Any,
) -> Measured:  # fmt: skip
    """Measure a model on all rows, or on a task's held-out prompts, with 95 % intervals. Trains nothing, writes nothing.

    prompts: how many; None is at most 100. One record for each opponent and way of decoding. Raises UserError.
    """
    dataset, reward, reward_weights, tools, environment, more = unpacked(dataset, reward, reward_weights, tools,
                                                                         environment_factory, max_turns, max_tool_tokens)
    reward, reward_weights = with_own(reward, reward_weights, environment)
    check(not isinstance(model, Mapping), "evaluate takes a checkpoint or a run; sizes alone have learned nothing")
    check(all(d in reopen.DECODES for d in decode), f"decode = {decode!r}: there is {', '.join(reopen.DECODES)}")
    table, task, python = _task(dataset, tools, environment, all_heldout=True, system=system,
                                max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, **more)
    check(reward is not None or table["name"] != "dataset", "rows alone say nothing about what is good; give reward = a function")
    folder, _ = reopen.locate(_source(model) or "")
    data = _recipe("evaluate", 0, {"kind": "sft", "steps": 1, "from": str(folder)}, model, table, python)
    given = _judged(data, Given(task), reward, reward_weights, None)
    recipe, given = _resolved(data, given, recipe_overrides, prompts)
    ready = reopen.opened(folder, recipe, given)
    with progress.counting(Console(quiet=quiet)) as count:
        return Measured(reopen.measurements(ready, opponents, list(decode), None, seed, count))


# --- from arguments to a recipe --------------------------------------------------------------------------------------


def _imitate(kind: str, *, model: Model, dataset: Data, eval_dataset: Data | None, reward: Reward | None,
             reward_weights: Sequence[float], system: str | None, max_prompt_tokens: int | None, max_new_tokens: int | None,
             steps: int | None, flops: float | None, batch_size: int, max_tokens: int | None, learning_rate: float | None,
             lora: bool | int | Mapping[str, Any], freeze: Sequence[str], tokenizer: str | None, eval_prompts: int | None,
             seed: int, name: str, out: str | Path | None, resume: str | Path | None, quiet: bool,
             overrides: Mapping[str, Any]) -> Result:  # fmt: skip
    rows, heldout_rows, python, stage = None, None, list[str](), dict[str, Any]()
    if _is_task(dataset):
        check(eval_dataset is None, "a task holds prompts out by itself; leave out eval_dataset")
        eval_dataset = dataset
    elif isinstance(dataset, str | Path):
        stage["data"] = _absolute(dataset)
    else:
        rows, python, stage["data"] = text_rows.load(dataset), ["dataset"], "rows from Python"
    if eval_dataset is not None and reward is None and not _is_task(eval_dataset):
        if isinstance(eval_dataset, str | Path):
            stage["heldout_data"] = _absolute(eval_dataset)
        else:
            heldout_rows, stage["heldout_data"] = text_rows.load(eval_dataset), "eval_dataset from Python"
            python.append("eval_dataset")
        eval_dataset = None
    if steps is None and flops is None:
        check(not _is_task(dataset), "a player never runs out of episodes; say how many steps (or flops) to imitate")
        known = rows if rows is not None else text_rows.load(stage["data"], overrides.get("data_split", "train"),
                                                             overrides.get("stream", False))
        check(not isinstance(known, text_rows.Stream), "a stream has no end; say how many steps (or flops) to take")
        steps = -(-len(known) // batch_size)  # type: ignore[arg-type]
    stage = {**_stage(kind, model, steps, flops, learning_rate, lora, freeze), **stage, "episodes": batch_size}
    if max_tokens is not None:
        stage["max_tokens"] = max_tokens
    if kind == "sft" and _is_task(dataset) and not overrides.get("player"):
        stage["player"] = "gold" if _name(dataset) == "reasoning_gym" else "teacher"
    table, task, more = _task({"name": "dataset"} if eval_dataset is None else eval_dataset, (), None, all_heldout=True,
                              system=system, max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens)
    data = _recipe(name, seed, stage, model, table, [*python, *(f"evaluation's {p}" for p in more)])
    if tokenizer is not None:
        data["model"]["tokenizer"] = tokenizer
    given = _judged(data, Given(task, rows=rows, heldout_rows=heldout_rows), reward, reward_weights, None)
    return _run(data, given, overrides, 0 if eval_dataset is None else eval_prompts, out, resume, quiet)


def _recipe(name: str, seed: int, stage: dict[str, Any], model: Model, task: dict[str, Any], python: list[str]) -> dict[str, Any]:
    sizes = dict(model) if isinstance(model, Mapping) else {}
    return {"name": name, "seed": seed, "task": task, "model": sizes, "evaluation": {"points": 1}, "python": python,
            "stage": {stage["kind"]: stage}}


def _stage(kind: str, model: Model, steps: int | None, flops: float | None, learning_rate: float | None,
           lora: bool | int | Mapping[str, Any], freeze: Sequence[str]) -> dict[str, Any]:
    source = _source(model)
    stage: dict[str, Any] = {"kind": kind, "steps": steps, "flops": flops, "freeze": list(freeze)}
    if source is not None:
        stage["from"] = source
        learning_rate = learning_rate or (_LORA_LR if lora else _LR)
    if learning_rate is not None:
        stage["optimizer"] = {"lr": learning_rate}
    if lora:
        stage["lora"] = dict(lora) if isinstance(lora, Mapping) else {} if lora is True else {"rank": lora, "alpha": 2.0 * lora}
    return stage


def _source(model: Model) -> str | None:
    return None if isinstance(model, Mapping) else str(model.checkpoint if isinstance(model, Result) else model)


def _is_task(dataset: Data) -> bool:
    """Whether it is a task, not rows. (A DatasetDict is a Mapping of another type.)"""
    if isinstance(dataset, str):
        return dataset in plugins.names("tasks") or ".py:" in dataset
    return isinstance(dataset, Task) or (type(dataset) is dict and "name" in dataset)


def _name(dataset: Data) -> str:
    return str(dataset["name"] if isinstance(dataset, Mapping) else getattr(dataset, "name", dataset))


def _absolute(path: str | Path) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def _task(dataset: Data, tools: Sequence[Tool], environment: Environments | None, all_heldout: bool = False,
          **options: Any) -> tuple[dict[str, Any], Task | None, list[str]]:  # fmt: skip
    """The recipe's table for the task, the object if the table is not enough to make it, and why it is not."""
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(dataset, Task):
        check(not options and not tools and environment is None,
              f"a task object has its options already; give {', '.join(options) or 'tools'} to it")
        table = {} if (config := getattr(dataset, "config", None)) is None else config.model_dump(mode="json", exclude_none=True)
        return {**table, "name": dataset.name}, dataset, ["task"]
    if _is_task(dataset):
        table = {"name": dataset} if isinstance(dataset, str) else dict(dataset)  # type: ignore[arg-type]
        check(not tools and environment is None, "tools and environment_factory go with rows; a task has its own")
        return {**table, **options}, None, []
    table = {"name": "dataset", **options} | ({"validation": 0.0, "heldout": 1.0} if all_heldout else {})
    objects = {"dataset": not isinstance(dataset, str | Path), "tools": any(callable(t) for t in tools),
               "environment": any(callable(e) for e in environments(environment))}
    table["data"] = "rows from Python" if objects["dataset"] else _absolute(dataset)  # type: ignore[arg-type]
    given_tools = [t for t in tools if callable(t)]
    made = {**table, "tools": [t for t in tools if isinstance(t, str)]}
    if environment and not objects["environment"]:
        made["environment"] = environment
    named = {**made, "tools": [called(t) for t in tools]}
    if environment:
        named["environment"] = ({n: called(e) for n, e in environment.items()} if isinstance(environment, Mapping)
                                else called(environment))
    if not any(objects.values()):
        return made, None, []
    task = Dataset(plugins.configured("tasks", Plugin(**made), Dataset), dataset if objects["dataset"] else None,  # type: ignore[arg-type]
                   given_tools, environment if objects["environment"] else None)  # type: ignore[arg-type]
    return named, task, [k for k, v in objects.items() if v]


def _judged(data: dict[str, Any], given: Given, reward: Reward | None, weights: Sequence[float], gold: Reward | None) -> Given:
    """Put the judges into the recipe's data, and what only Python can hold into `given`."""
    for key, chosen in (("judge", reward), ("gold", gold)):
        if chosen is None:
            continue
        data[key], made = judge(chosen, weights if key == "judge" else ())
        if made is not None:
            given = replace(given, judge=made) if key == "judge" else replace(given, gold=made)
            data["python"] = [*data["python"], "reward" if key == "judge" else "gold"]
    own = (given.task or plugins.find("tasks", data["task"]["name"], Task)).judge  # type: ignore[type-abstract]
    if reward is not None and gold is None and own in (data["judge"]["name"], "function"):  # as `runs.resolve`
        given = replace(given, gold=given.judge)
    return given


def _without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if k != name}


# --- from a recipe to a run folder -----------------------------------------------------------------------------------


def _resolved(data: dict[str, Any], given: Given, overrides: Mapping[str, Any], prompts: int | None) -> tuple[Recipe, Given]:
    """The recipe with its evaluation's prompts counted, and the task that counted them."""
    (name, stage), = data["stage"].items()
    fields = recipes.stage_config(stage["kind"]).model_fields
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        _flatten(flat, f"stage.{name}.{key}" if key in fields else key, value)
    for key in flat:
        made = getattr(given, key.partition(".")[0], None) if "." in key else None
        check(made is None, f"{key}: the {key.partition('.')[0]} is made in Python from other arguments; set it there")
    recipe = _parsed(data, flat)
    given = replace(given, task=given.task or make_task(recipe.task))
    if prompts != 0 and "evaluation.prompts" not in flat and given.task is not None:
        tokenizer_of(given.task, roots(recipe).values())
        size = given.task.size(recipe.evaluation.split)
        prompts = prompts or min(EVALUATED, EVALUATED if size is None else size)
    if prompts is not None:
        flat["evaluation.prompts"] = prompts
    return resolve(_parsed(data, flat), given), given


def _parsed(data: dict[str, Any], flat: Mapping[str, Any]) -> Recipe:
    """As a file that holds it would be read, so that the two can be compared."""
    clean = tomllib.loads(recipes.dumps(data))
    return recipes.parse(tomllib.loads(recipes.parse(clean, flat).to_toml()))


def _flatten(flat: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for k, v in value.items():
            _flatten(flat, f"{key}.{k}", v)
    else:
        flat[key] = list(value) if isinstance(value, tuple) else value


def _run(data: dict[str, Any], given: Given, overrides: Mapping[str, Any], prompts: int | None, out: str | Path | None,
         resume: str | Path | None, quiet: bool) -> Result:  # fmt: skip
    """Do the recipe, or go on with it in folder `resume`, as `outdo run` does."""
    recipe, given = _resolved(data, given, overrides, prompts)
    console = Console(quiet=quiet)
    with ExitStack() as stack:
        if resume is None:
            folder = stack.enter_context(lock.new_folder(lambda: new_folder(recipe, None if out is None else Path(out))))
        else:
            folder = Path(resume)
            _check_same(recipe, resume_recipe(folder), folder)
        stack.enter_context(lock.endings(folder, "the same call and resume ="))
        stack.enter_context(lock.only_one(folder))
        checked = check_recipe(recipe, given)
        planned = plan.make(checked, [n for n in recipe.order() if (folder / "stages" / n / "done.json").exists()])
        console.print(plan.render(planned))
        console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)
        with progress.display(console, planned) as show:
            run(checked, folder, show)
        report.build(folder)
    result = Result(folder, given.task)
    console.print(terminal.results(result.summary))
    return result


def _check_same(recipe: Recipe, stored: Recipe, folder: Path) -> None:
    mine, theirs = ({k: v for k, v in _dump(r).items() if v is not None} for r in (recipe, stored))
    other = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)
             and not k.endswith(".allow_no_signal")]  # force may come later
    check(not other, f"{str(folder)!r} was made by another call: {', '.join(f'{k} was {theirs.get(k)!r}' for k in other[:3])}; "
          "resume with the same arguments, or start a new run")


def _dump(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten(flat, "", recipe.model_dump(mode="json", by_alias=True))
    return {k[1:]: v for k, v in flat.items()}

"""From the arguments of a call to a recipe, and from the recipe to a run folder."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from outdo import plugins, report
from outdo import recipe as recipes
from outdo.api.inputs import Environments, Reward, Tool, called, environments, judge
from outdo.api.result import Result
from outdo.errors import check, nearest
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.report import terminal
from outdo.runs import lock, plan
from outdo.runs.check import check_recipe
from outdo.runs.folder import check_resumable, new_folder, resume_recipe
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

EVALUATED = 100  # prompts, where the data has so many


# --- from arguments to a recipe --------------------------------------------------------------------------------------


def imitate(kind: str, *, model: Model, dataset: Data, eval_dataset: Data | None, reward: Reward | None,
             reward_weights: Sequence[float], system: str | None, max_prompt_tokens: int | None, max_new_tokens: int | None,
             steps: int | None, flops: float | None, batch_size: int, max_tokens: int | None, learning_rate: float | None,
             lora: bool | int | Mapping[str, Any], freeze: Sequence[str], tokenizer: str | None, eval_prompts: int | None,
             seed: int, name: str, out: str | Path | None, resume: str | Path | None, quiet: bool,
            dry_run: bool, overrides: Mapping[str, Any]) -> Result:  # fmt: skip
    rows, heldout_rows, python, stage, columns = None, None, list[str](), dict[str, Any](), overrides.get("columns")
    if _is_task(dataset):
        check(eval_dataset is None, "a task holds prompts out by itself; leave out eval_dataset")
        eval_dataset = dataset
    elif isinstance(dataset, str | Path):
        stage["data"] = _absolute(dataset)
    else:
        rows, python, stage["data"] = text_rows.load(dataset, columns=columns), ["dataset"], "rows from Python"
    if eval_dataset is not None and reward is None and not _is_task(eval_dataset):
        if isinstance(eval_dataset, str | Path):
            stage["heldout_data"] = _absolute(eval_dataset)
        else:
            heldout_rows, stage["heldout_data"] = text_rows.load(eval_dataset, columns=columns), "eval_dataset from Python"
            python.append("eval_dataset")
        eval_dataset = None
    if steps is None and flops is None:
        check(not _is_task(dataset), "a player never runs out of episodes; say how many steps (or flops) to imitate")
        endless = overrides.get("stream", False) or isinstance(rows, text_rows.Stream)
        check(not endless, "a stream has no end; say how many steps (or flops) to take")
    stage = {**stage_table(kind, model, steps, flops, learning_rate, lora, freeze), **stage, "episodes": batch_size}
    if max_tokens is not None:
        stage["max_tokens"] = max_tokens
    if kind == "sft" and _is_task(dataset) and not overrides.get("player"):
        stage["player"] = "gold" if _name(dataset) == "reasoning_gym" else "teacher"
    table, task, more = task_table({"name": "dataset"} if eval_dataset is None else eval_dataset, (), None, all_heldout=True,
                              system=system, max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens)
    data = recipe_data(name, seed, stage, model, table, [*python, *(f"evaluation's {p}" for p in more)])
    if tokenizer is not None:
        data["model"]["tokenizer"] = tokenizer
    given = judged(data, Given(task, rows=rows, heldout_rows=heldout_rows), reward, reward_weights, None)
    result: Result = run_recipe(data, given, overrides, 0 if eval_dataset is None else eval_prompts, out, resume, quiet,
                                dry_run)
    return result


def recipe_data(name: str, seed: int, stage: dict[str, Any], model: Model, task: dict[str, Any],
                python: list[str]) -> dict[str, Any]:  # fmt: skip
    sizes = dict(model) if isinstance(model, Mapping) else {}
    return {"name": name, "seed": seed, "task": task, "model": sizes, "evaluation": {"points": 1}, "python": python,
            "stage": {stage["kind"]: stage}}


def stage_table(kind: str, model: Model, steps: int | None, flops: float | None, learning_rate: float | None,
           lora: bool | int | Mapping[str, Any], freeze: Sequence[str]) -> dict[str, Any]:
    source = source_of(model)
    stage: dict[str, Any] = {"kind": kind, "steps": steps, "flops": flops, "freeze": list(freeze)}
    if source is not None:
        stage["from"] = source
    if learning_rate is not None:
        stage["optimizer"] = {"lr": learning_rate}
    if lora:
        stage["lora"] = dict(lora) if isinstance(lora, Mapping) else {} if lora is True else {"rank": lora, "alpha": 2.0 * lora}
    return stage


def source_of(model: Model) -> str | None:
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


def task_table(dataset: Data, tools: Sequence[Tool], environment: Environments | None, all_heldout: bool = False,
               eval_dataset: Data | None = None, **options: Any) -> tuple[dict[str, Any], Task | None, list[str]]:  # fmt: skip
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
    eval_rows: Any = None
    if isinstance(eval_dataset, str | Path):
        table["eval_data"] = _absolute(eval_dataset)
    elif eval_dataset is not None:
        check(not _is_task(eval_dataset), "eval_dataset is rows; a task holds prompts out by itself")
        objects["eval_dataset"], eval_rows = True, eval_dataset
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
                   given_tools, environment if objects["environment"] else None, eval_rows)  # type: ignore[arg-type]
    return named, task, [k for k, v in objects.items() if v]


def judged(data: dict[str, Any], given: Given, reward: Reward | None, weights: Sequence[float], gold: Reward | None) -> Given:
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


def without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if k != name}


# --- from a recipe to a run folder -----------------------------------------------------------------------------------


def resolved(data: dict[str, Any], given: Given, overrides: Mapping[str, Any], prompts: int | None) -> tuple[Recipe, Given]:
    """The recipe with its evaluation's prompts counted, and the task that counted them."""
    (name, stage), = data["stage"].items()
    fields = recipes.stage_config(stage["kind"]).model_fields
    flat: dict[str, Any] = {}
    _check_keys(overrides, [*fields, *Recipe.model_fields])
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


# Arguments of TRL's trainers and configs -> what does it here. docs/from_trl.md is this table; a test holds the two together.
FROM_TRL = {
    "num_generations": "group_size", "max_completion_length": "max_new_tokens", "max_prompt_length": "max_prompt_tokens",
    "max_length": "max_tokens", "max_steps": "steps", "num_train_epochs": "epochs", "num_iterations": "epochs",
    "per_device_train_batch_size": "batch_size (imitate) or prompts x group_size (reinforce)",
    "gradient_accumulation_steps": "micro_tokens in optimizer = {...}", "reward_funcs": "reward",
    "train_dataset": "dataset", "peft_config": "lora", "output_dir": "out", "report_to": "trackers",
    "epsilon": 'algorithm = {"name": "grpo", "clip_low": ...}',
    "epsilon_high": 'algorithm = {"name": "grpo", "clip_high": ...}',
    "loss_type": "algorithm", "lr_scheduler_type": "decay in optimizer = {...}",
    "warmup_steps": "warmup_steps in optimizer = {...}",
    "max_grad_norm": "max_grad_norm in optimizer = {...}", "weight_decay": "weight_decay in optimizer = {...}",
    "assistant_only_loss": "the default: answers train, prompts do not", "completion_only_loss": "the default, too",
    "use_vllm": "nothing: outdo's engine samples", "top_k": "nothing: see top_p",
    "top_p": "nothing: outdo samples from the whole distribution, so that log-probabilities are those of the policy",
    "beta": 'algorithm = {"name": "grpo", "kl": ...}',
}  # fmt: skip


def _check_keys(overrides: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise UserError for an argument that neither the stage nor the recipe has, naming TRL's counterpart where there is one."""
    from outdo.api import calls  # it imports this module

    arguments = {name for call in (calls.reinforce, calls.imitate) for name in inspect.signature(call).parameters}
    check_names(overrides, known)
    for key in overrides:
        top = key.partition(".")[0]
        check(top in known, f"unknown argument {key}{nearest(top, [*known, *sorted(arguments)])}")


def check_names(overrides: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Raise UserError for an argument that TRL calls otherwise."""
    for key in overrides:
        top = key.partition(".")[0]
        check(top not in FROM_TRL or top in known, f"{key} is TRL's name; here it is {FROM_TRL.get(top)}")


def _parsed(data: dict[str, Any], flat: Mapping[str, Any]) -> Recipe:
    """As a file that holds it would be read."""
    return recipes.parse(tomllib.loads(recipes.dumps(data)), flat)


def _flatten(flat: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for k, v in value.items():
            _flatten(flat, f"{key}.{k}", v)
    else:
        flat[key] = list(value) if isinstance(value, tuple) else value


def run_recipe(data: dict[str, Any], given: Given, overrides: Mapping[str, Any], prompts: int | None, out: str | Path | None,
               resume: str | Path | None, quiet: bool, dry_run: bool = False) -> Any:  # fmt: skip
    """Run the recipe, or resume it in folder `resume`, as `outdo run` does."""
    found, given = resolved(data, given, overrides, prompts)
    checked = check_recipe(found, given)
    recipe, console = checked.recipe, Console(quiet=quiet)
    if dry_run:
        return console.print(plan.render(plan.make(checked)))
    with ExitStack() as stack:
        if resume is None:
            folder = stack.enter_context(lock.new_folder(lambda: new_folder(recipe, None if out is None else Path(out))))
        else:
            folder = Path(resume)
            _check_same(recipe, resume_recipe(folder), folder)
            check_resumable(recipe, folder)
        stack.enter_context(lock.endings(folder, "the same call and resume ="))
        stack.enter_context(lock.only_one(folder))
        planned = plan.make(checked, folder)
        console.print(plan.render(planned))
        console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)
        with progress.display(console, planned) as show:
            run(checked, folder, show, planned)
        report.build(folder)
    result = Result(folder, given.task)
    console.print(terminal.results(result.summary))
    return result


def _check_same(recipe: Recipe, stored: Recipe, folder: Path) -> None:
    written = recipes.parse(tomllib.loads(recipe.to_toml()))  # as the folder holds it
    mine, theirs = ({k: v for k, v in _dump(r).items() if v is not None} for r in (written, stored))
    other = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)
             and not k.endswith(".allow_no_signal")]  # force may come later
    check(not other, f"{str(folder)!r} was made by another call: {', '.join(f'{k} was {theirs.get(k)!r}' for k in other[:3])}; "
          "resume with the same arguments, or start a new run")


def _dump(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten(flat, "", recipe.model_dump(mode="json", by_alias=True))
    return {k[1:]: v for k, v in flat.items()}

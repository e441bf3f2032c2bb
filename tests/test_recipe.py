"""Recipes: TOML to typed objects and back, --set, the tree of stages, and what a reader gets wrong.

    pytest tests/test_recipe.py
"""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from processes import TINY

from outdo import recipe as recipes
from outdo.cli.keys import reference
from outdo.errors import UserError
from outdo.plugins import Plugin, make
from outdo.recipe import Recipe, load, parse, parse_override
from outdo.stages.rl import Rl
from outdo.stages.sft import Sft

ROOT = Path(__file__).parent.parent
BASE: dict[str, Any] = {
    "name": "r",
    "task": {"name": "chess_endgame"},
    "stage": {
        "sft": {"kind": "sft", "from": "pretrain", "steps": 3},
        "pretrain": {"kind": "pretrain", "flops": 1e9},
        "more": {"kind": "sft", "from": "sft"},
        "rl": {"kind": "rl", "from": "sft"},
    },
    "arm_flops": 5e9,
}  # fmt: skip


def recipe(**overrides: Any) -> Recipe:
    """BASE with dotted keys changed; `__` stands for a dot."""
    return parse(copy.deepcopy(BASE), {k.replace("__", "."): v for k, v in overrides.items()})


def complaint(data: dict[str, Any] | None = None, **overrides: Any) -> str:
    with pytest.raises(UserError) as e:
        parse(copy.deepcopy(BASE) if data is None else data, {k.replace("__", "."): v for k, v in overrides.items()})
    assert "\n" not in str(e.value)
    return str(e.value)


# --- TOML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*sorted((ROOT / "recipes").glob("*.toml")), TINY], ids=lambda p: p.name)
def test_a_resolved_recipe_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    first = load(path)
    copied = tmp_path / "resolved.toml"
    copied.write_text(first.to_toml(), encoding="utf-8")
    assert load(copied) == first
    assert load(copied).to_toml() == first.to_toml()


def test_a_resolved_recipe_shows_every_default() -> None:
    data = tomllib.loads(recipe().to_toml())
    assert data["evaluation"]["prompts"] == 1000
    assert data["stage"]["rl"]["optimizer"]["betas"] == [0.9, 0.95]
    assert data["stage"]["rl"]["algorithm"] == {"name": "grpo"}
    assert data["stage"]["sft"]["from"] == "pretrain" and "source" not in data["stage"]["sft"]
    assert data["gold"] == {"name": ""}  # the task knows


def test_options_of_plugins_are_kept() -> None:
    r = recipe(task__material="KQK", judge={"name": "random_reward", "probability": 0.25})
    assert r.task.options == {"material": "KQK"}
    assert r.judge.options == {"probability": 0.25}
    assert parse(tomllib.loads(r.to_toml())) == r


# --- --set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "key", "value"), [
    ("stage.rl.steps=50", "stage.rl.steps", 50),
    ("checkpoint_s = 0.5", "checkpoint_s", 0.5),
    ("task.material=KQK", "task.material", "KQK"),
    ("task.material='KQK'", "task.material", "KQK"),
    ("stage.rl.opponents=['random']", "stage.rl.opponents", ["random"]),
    ("judge={name='random_reward'}", "judge", {"name": "random_reward"}),
    ("model.tie_embeddings=false", "model.tie_embeddings", False),
    ("name=a=b", "name", "a=b"),
])  # fmt: skip
def test_overrides_are_toml_or_text(text: str, key: str, value: Any) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["steps", "=5", ""])
def test_an_override_needs_key_and_value(text: str) -> None:
    with pytest.raises(UserError, match="key=value"):
        parse_override(text)


def test_overrides_reach_every_level() -> None:
    r = recipe(stage__rl__steps=7, stage__rl__optimizer__lr=1e-4, model__width=32, task__max_moves=9, seed=3)
    assert (r.stage["rl"].steps, r.stage["rl"].optimizer.lr, r.model.width, r.seed) == (7, 1e-4, 32, 3)
    assert r.task.options == {"max_moves": 9}


# --- the tree --------------------------------------------------------------------------------------------------------


def test_order_arms_paths_and_budgets() -> None:
    r = recipe()
    assert r.order() == ["pretrain", "sft", "more", "rl"]
    assert r.arms() == ["more", "rl"]
    assert r.path("rl") == ["pretrain", "sft", "rl"]
    assert [r.budget_flops(n) for n in r.order()] == [1e9, None, 5e9, 5e9]
    assert recipe(stage__rl__steps=3).budget_flops("rl") is None, "its own steps take an arm out of the common budget"
    assert recipe(stage__rl__flops=2e9).budget_flops("rl") == 2e9


def test_cycles_missing_sources_and_endless_stages() -> None:
    cycle = complaint(stage__pretrain={"kind": "pretrain", "steps": 1, "from": "sft"})
    assert cycle.startswith("stage.sft starts from itself (sft <- pretrain <- sft)")
    assert "starts from itself" in complaint(stage__pretrain={"kind": "pretrain", "steps": 1, "from": "pretrain"})
    said = complaint(stage__rl={"kind": "rl", "from": "sfd", "steps": 1})
    assert "stage.rl.from = 'sfd'" in said and "did you mean 'sft'?" in said
    assert "stage.pretrain never ends" in complaint(stage__pretrain={"kind": "pretrain"})
    assert "stage.more never ends" in complaint({**BASE, "arm_flops": None})
    assert "no stages" in complaint({**BASE, "stage": {}})
    assert "stage name 'a/b'" in complaint({**BASE, "stage": {"a/b": {"kind": "sft", "steps": 1}}})


# --- what readers get wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overrides", "place", "meant"), [
    ({"sede": 1}, "sede", "seed"),
    ({"evaluation__promts": 3}, "evaluation.promts", "prompts"),
    ({"model__widht": 3}, "model.widht", "width"),
    ({"stage__rl__stpes": 3}, "stage.rl.stpes", "steps"),
    ({"stage__rl__group_sise": 3}, "stage.rl.group_sise", "group_size"),
    ({"stage__sft__group_size": 3}, "stage.sft.group_size", None),  # a key of another kind of stage
    ({"stage__sft__optimizer__learning_rate": 3}, "stage.sft.optimizer.learning_rate", None),
    ({"stage__rl__optimizer__muon_lrr": 3}, "stage.rl.optimizer.muon_lrr", "muon_lr"),
    ({"stage__rl__source": "sft"}, "stage.rl.source", None),  # the name inside the code is no key of the recipe
])  # fmt: skip
def test_unknown_keys_name_the_nearest(overrides: dict[str, Any], place: str, meant: str | None) -> None:
    said = complaint(**overrides)
    assert said.startswith(f"unknown key {place};")
    assert (f"did you mean {meant!r}?" if meant else ";") in said


@pytest.mark.parametrize(("overrides", "place"), [
    ({"stage__rl__steps": -1}, "stage.rl.steps = -1"),
    ({"stage__rl__steps": 0}, "stage.rl.steps = 0"),
    ({"stage__rl__flops": 0}, "stage.rl.flops = 0"),
    ({"stage__rl__group_size": 0}, "stage.rl.group_size = 0"),
    ({"stage__rl__temperature": 0}, "stage.rl.temperature = 0"),
    ({"stage__sft__episodes": 2.5}, "stage.sft.episodes = 2.5"),
    ({"stage__sft__keep": "best"}, "stage.sft.keep = 'best'"),
    ({"model__width": "wide"}, "model.width = 'wide'"),
    ({"seed": -1}, "seed = -1"),
    ({"name": "a b"}, "name = 'a b'"),
    ({"dtype": "fp64"}, "dtype = 'fp64'"),
    ({"checkpoint_s": 0}, "checkpoint_s = 0"),
])  # fmt: skip
def test_impossible_values_say_the_value_and_why(overrides: dict[str, Any], place: str) -> None:
    assert complaint(**overrides).startswith(place + ": ")


def test_missing_and_unknown_kinds() -> None:
    assert complaint({k: v for k, v in BASE.items() if k != "task"}).startswith("task is missing")
    assert complaint(stage__rl={"steps": 1}).startswith("stage.rl has no kind; there is distill, preference, pretrain, "
                                                       "rejection, reward_model, rl, sft")
    assert complaint(stage__rl={"kind": "ppo", "steps": 1}).startswith("stage.rl.kind = ppo: no such kind")


def test_overrides_of_stages_that_are_not_there() -> None:
    assert complaint(stage__stf__steps=3) == "--set stage.stf.steps: no stage 'stf'; did you mean 'sft'?"
    assert complaint(name__x=3) == "--set name.x: 'name' is a value, not a table; set it as a whole"


def test_all_mistakes_at_once_in_one_line() -> None:
    said = complaint(sede=1, stage__rl__steps=-3)
    assert "unknown key sede" in said and "stage.rl.steps = -3" in said


@pytest.mark.parametrize("known", ["seed", "stage", "evaluation"])
def test_nearest_finds_typing_errors(known: str) -> None:
    swapped = known[:1] + known[2] + known[1] + known[3:]
    assert recipes.nearest(swapped, list(Recipe.model_fields)) == f"; did you mean {known!r}?"
    assert recipes.nearest("xyzzy", ["b", "a"]) == "; there is a, b"


def test_what_lies_here_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "rows.jsonl", "dataset", "grpo"):
        (tmp_path / name).touch()
    judge = {"name": "function", "functions": ["mine.py:f", "rows.jsonl", "outdo.rewards:per_group", "org/model"]}
    made = recipes.parse({
        "name": "x", "judge": judge, "gold": {"name": "mine.py:Judge"},
        "task": {"name": "dataset", "data": "rows.jsonl", "tools": ["mine.py:g", "gone.py:g"], "environment": {"a": "mine.py:A"}},
        "stage": {"rl": {"kind": "rl", "steps": 1, "algorithm": {"name": "grpo"}, "judge": judge},
                  "sft": {"kind": "sft", "steps": 1, "data": "rows.jsonl"}},
    })  # fmt: skip
    here = str(tmp_path.resolve())
    functions = (f"{here}/mine.py:f", f"{here}/rows.jsonl", "outdo.rewards:per_group", "org/model")
    assert tuple(made.judge.options["functions"]) == functions and made.gold.name == f"{here}/mine.py:Judge"
    assert made.task == Plugin(name="dataset", data=f"{here}/rows.jsonl", tools=[f"{here}/mine.py:g", "gone.py:g"],
                               environment={"a": f"{here}/mine.py:A"})  # fmt: skip
    rl, sft = made.stage["rl"], made.stage["sft"]
    assert isinstance(rl, Rl.Config) and isinstance(sft, Sft.Config) and sft.data == f"{here}/rows.jsonl"
    assert rl.algorithm.name == "grpo" and rl.judge == made.judge
    assert recipes.parse(tomllib.loads(made.to_toml())) == made


def test_options_of_plugins_are_checked_by_the_plugin() -> None:
    from outdo.tasks.base import Task

    for options, said in (
        ({"materiel": "KQK"}, "task 'chess_endgame' has no option 'materiel'; did you mean 'material'?"),
        ({"material": "KBK"}, "task 'chess_endgame': material = 'KBK'"),
        ({"max_moves": 0}, "task 'chess_endgame': max_moves = 0"),
    ):
        with pytest.raises(UserError) as e:
            make("tasks", Plugin(name="chess_endgame", **options), Task)  # type: ignore[type-abstract]
        assert str(e.value).startswith(said)


def test_the_reference_page_is_the_code() -> None:
    page = (ROOT / "docs" / "recipe_keys.md").read_text(encoding="utf-8")
    assert page == reference(), "write it anew: outdo recipes --keys > docs/recipe_keys.md"


def test_stages_that_wait_for_each_other() -> None:
    """A ring of three by judges, which no look at two stages finds; and a judge of the whole recipe that is not there yet."""
    def judged(by: str) -> dict[str, object]:
        return {"kind": "rl", "steps": 1, "judge": {"name": "reward_model", "model": f"stage:{by}"}}

    ring = {f"stage__{a}": judged(b) for a, b in (("a", "b"), ("b", "c"), ("c", "a"))}
    assert complaint(**ring).startswith("the stages a, b, c wait for each other")
    said = complaint(judge={"name": "reward_model", "model": "stage:rl"})
    assert said.startswith("judge: 'stage:rl' is not there from the start")

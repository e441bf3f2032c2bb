"""The one configuration: a recipe is a task, a judge, a model and a tree of stages. TOML <-> typed, frozen objects.

Options of tasks, judges, algorithms and stage kinds are written in those plug-ins' own `Config`. Whatever a reader gets wrong (a
misspelt key, an impossible value) is one line with the nearest valid name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from outdo import plugins
from outdo.errors import UserError, check, nearest
from outdo.models import fetch
from outdo.plugins import Configured, Options, Plugin
from outdo.system import paths
from outdo.system.paths import STAGE as STAGE


class Table(Options):
    """A TOML table of the recipe."""

    model_config = ConfigDict(populate_by_name=True)


class ModelConfig(Table):
    """A Llama-shaped decoder from random weights. `vocab_size` and the context come from the task unless given."""

    width: int = Field(default=128, ge=8)
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = None  # None: as many as heads
    ffn: int | None = None  # None: 8/3 of width, rounded up to a multiple of 8
    context: int | None = None  # None: what the task's longest trajectory needs
    tokenizer: str | None = None  # for tasks of text: a checkpoint (folder, fetched name, hub id) whose tokenizer the model gets
    tie_embeddings: bool = True
    rope_theta: float = Field(default=10000.0, gt=0)


class OptimizerConfig(Table):
    """AdamW, or Muon for the matrices inside the layers and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(default=5e-4, gt=0)  # AdamW's learning rate
    muon_lr: float = Field(default=0.02, gt=0)  # Muon's
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-10, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "constant"
    final_lr: float = Field(default=0.0, ge=0, le=1)  # share of the learning rate left when the budget is spent
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_tokens: int = Field(default=4096, ge=1)  # padded tokens per forward pass; less memory, the same gradient


class LoraConfig(Table):
    """Low-rank updates train instead of the matrices that they are added to (`outdo.models.adapt`)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)  # updates count alpha / rank
    targets: tuple[str, ...] = ()  # last parts of module names, such as "q_proj"; empty: every matrix inside the layers


class StageConfig(Table):
    """What every stage has: where it starts and when it ends. A stage needs `steps`, `flops` or the recipe's arm budget.

    The stage's kind adds its own keys: `outdo/stages/<kind>.py`.
    """

    learns_from_scores: ClassVar[bool] = False  # samples from the model and is judged
    writes: ClassVar[bool] = True  # whether its model is a policy, whose answers are measured (a reward model's is not)
    usual_lr: ClassVar[tuple[float, float] | None] = None  # from a checkpoint: of all weights, of an adapter; None: see resolve

    kind: str
    # The weights it starts from: another stage's, or a checkpoint's (folder, .gguf, fetched name, hub id); None: random ones.
    source: str | None = Field(default=None, alias="from")
    steps: int | None = Field(default=None, ge=1)  # at most this many steps of the stage's loop
    flops: float | None = Field(default=None, gt=0)  # at most this many FLOPs, everything charged
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = None  # None: the weights themselves train
    freeze: tuple[str, ...] = ()  # parameters whose name contains one of these stay as they are

    @property
    def ends_by_itself(self) -> bool:
        """Whether the stage has an end without steps and FLOPs; checking the recipe says after how many steps."""
        return False

    @property
    def tries_task(self) -> bool:
        """Whether the stage needs the task's prompts or players. Imitating rows of data does not."""
        return True


class Evaluation(Table):
    """How stages are measured. The same held-out prompts for every stage and seed, so that comparisons are paired."""

    prompts: int = Field(default=1000, ge=0)  # 0: nothing is measured
    split: str = "heldout"
    also: tuple[str, ...] = ()  # further splits, tried by what the tree starts from and at the end of each stage: ["harder"]
    samples: int = Field(default=1, ge=1)  # answers per prompt when sampling; from 4 on with pass@4, from 16 on with pass@16
    points: int = Field(default=6, ge=1)  # along each stage, at equal shares of its budget; the last is its end
    opponents: tuple[str, ...] = ()  # at the end of each stage; empty: all that the task has
    players: tuple[str, ...] = ()  # reference players; empty: all that the task has
    rollouts_kept: int = Field(default=32, ge=0)  # trajectories written to rollouts.jsonl per evaluation and per kept step
    corpus: str = ""  # text on which forgetting is measured, when those are: "builtin" or a UTF-8 file; empty: it is not
    corpus_tokens: int = Field(default=4096, ge=2)  # how much of it is read


class AuditConfig(Table):
    """The live audit of stages that learn from scores: fresh samples scored by the judge and by gold, every few steps."""

    every: int = Field(default=10, ge=1)  # steps between probes; a jump of the reward brings one forward
    n: int = Field(default=128, ge=8)  # fresh samples of a probe; twice as many before the first step
    action: Literal["stop", "pause", "log"] = "stop"  # at an alarm; "pause" ends the process, and --resume goes on
    alpha: float = Field(default=0.05, gt=0, lt=1)  # chance of any false alarm in a stage
    margin: float = Field(default=0.02, ge=0, lt=1)  # of the range: so much may the gap between reward and gold grow
    horizon: int = Field(default=40, ge=1)  # most probes of a stage
    range: tuple[float, float] | None = None  # of the reward; outside of it is an alarm; None: as seen before the first step
    second: Plugin | None = None  # a held-out judge; where it and the judge that trains part is an alarm
    card: str = ""  # a card of `outdo audit reward`: completions that use its holes are counted


class Recipe(Table):
    """Everything that a run needs. `outdo run recipe.toml --dry-run` prints it resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = Field(default=0, ge=0)
    task: Plugin
    judge: Plugin = Plugin(name="")  # what trains; no name: the task's own
    gold: Plugin = Plugin(name="")  # what the user really wants, never trained on; no name: the task's own
    model: ModelConfig = ModelConfig()
    threads: int | None = Field(default=None, ge=1)  # None: all cores
    jobs: int = Field(default=1, ge=1)  # stages side by side where the tree branches, each with threads / jobs threads
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU where there is one
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    slots: int = Field(default=1024, ge=1)  # sequences that generate together
    arm_flops: float | None = Field(default=None, gt=0)  # default budget of stages from which nobody starts
    checkpoint_s: float = Field(default=30.0, gt=0)  # seconds between checkpoints for resuming
    trackers: tuple[Literal["tensorboard", "wandb", "wandb-offline", "trackio"], ...] = ()  # see metrics there as well
    evaluation: Evaluation = Evaluation()
    audit: AuditConfig | None = None  # the live audit; None: it is off
    python: tuple[str, ...] = ()  # what a call from Python handed over: named here for readers, held by no file
    stage: dict[str, SerializeAsAny[StageConfig]]

    def with_stage(self, name: str, options: Mapping[str, Any]) -> Recipe:
        """The recipe with these options of a stage changed."""
        return self.model_copy(update={"stage": {**self.stage, name: self.stage[name].model_copy(update=dict(options))}})

    def with_evaluation(self, options: Mapping[str, Any]) -> Recipe:
        """The recipe with these options of the evaluation changed."""
        return self.model_copy(update={"evaluation": self.evaluation.model_copy(update=dict(options))})

    def order(self) -> list[str]:
        """Stage names so that every stage comes after those that it needs; file order otherwise. Raises UserError for cycles."""
        out: list[str] = []
        while left := [n for n in self.stage if n not in out]:
            ready = [n for n in left if set(self.needs(n)) <= set(out)]
            check(bool(ready), f"the stages {', '.join(left)} wait for each other, by `from`, judge or teacher; remove one of "
                  "these")
            out.append(ready[0])
        return out

    def parent(self, name: str) -> str | None:
        """The stage that `name` starts from; None where it starts from a checkpoint or from random weights."""
        source = self.stage[name].source
        return source if source in self.stage else None

    def needs(self, name: str) -> list[str]:
        """The stages that must be done before `name`: the one it starts from, and those that its judge or teacher is."""
        stage = self.stage[name]
        judge, teacher = getattr(stage, "judge", None), getattr(stage, "teacher", "")
        named = [s for s in [*_strings(judge.options if judge else {}), teacher] if s.startswith(STAGE)]
        parent = self.parent(name)
        return [*([parent] if parent else []), *(s.removeprefix(STAGE) for s in named)]

    def checkpoint(self, name: str) -> str | None:
        """The checkpoint that the path to `name` begins with, as the reader wrote it; None for random weights."""
        return self.stage[self.path(name)[0]].source

    def arms(self) -> list[str]:
        """Stages from which no other stage starts."""
        sources = {s.source for s in self.stage.values()}
        return [n for n in self.stage if n not in sources]

    def alike(self, name: str, other: str) -> bool:
        """Whether two stages are measured alike: the same judge, answers from the same hand."""
        stages = (self.stage[n] for n in (name, other))
        a, b = ((getattr(s, "judge", None) or self.judge, getattr(s, "rollout", None)) for s in stages)
        return a == b

    def alone(self, name: str) -> bool:
        """Whether every other stage comes before or after it: nothing can run beside it."""
        return all(name in self.path(other) or other in self.path(name) for other in self.stage)

    @property
    def plays(self) -> bool:
        """Whether the task is ever tried: imitating rows of data without measuring anything leaves it alone."""
        return self.evaluation.prompts > 0 or any(s.tries_task for s in self.stage.values())

    def budget_flops(self, name: str) -> float | None:
        """A stage's own FLOP budget, or the arms' common one."""
        stage = self.stage[name]
        if stage.flops is None and stage.steps is None and name in self.arms():
            return self.arm_flops
        return stage.flops

    def path(self, name: str) -> list[str]:
        """The stages from the root to `name`."""
        out = [name]
        while (parent := self.parent(out[0])) is not None:
            out.insert(0, parent)
        return out

    def validate_tree(self) -> None:
        """Raise UserError for missing start stages, cycles and stages without an end."""
        check(bool(self.stage), "the recipe has no stages; add a [stage.<name>] table with kind = 'pretrain', 'sft', ...")
        if self.model.tokenizer is not None:
            check(fetch.is_checkpoint(self.model.tokenizer), f"model.tokenizer = {self.model.tokenizer!r}: {fetch.FORMS}")
        for name, stage in self.stage.items():
            check(name.replace("_", "").replace("-", "").isalnum(),
                  f"stage name {name!r} is used as a folder; use letters, digits, - and _")
            if stage.source is not None and stage.source not in self.stage:
                check(fetch.is_checkpoint(stage.source), f"stage.{name}.from = {stage.source!r}: no such stage"
                      f"{nearest(stage.source, self.stage)}; {fetch.FORMS}")
            check(stage.lora is None or stage.source is not None, f"stage.{name}.lora: random weights have nothing to adapt; "
                  "give the stage a `from`, or leave lora out")
            seen, at = [name], self.parent(name)
            while at is not None:
                check(at not in seen, f"stage.{name} starts from itself ({' <- '.join([*seen, at])}); "
                                      "remove one `from` of the cycle")
                seen.append(at)
                at = self.parent(at)
            for other in self.needs(name):
                check(other in self.stage, f"stage.{name}: its judge or teacher is 'stage:{other}', and no stage is called so"
                      f"{nearest(other, self.stage)}")
            no_end = stage.steps is None and self.budget_flops(name) is None and not stage.ends_by_itself
            check(not no_end, f"stage.{name} never ends; give it steps, flops, or the recipe an arm_flops")
        for key, judge in (("judge", self.judge), ("gold", self.gold)):
            named = next((s for s in _strings(judge.options) if s.startswith(STAGE)), None)
            check(named is None, f"{key}: {named!r} is not there from the start; a stage can be the judge of single stages: "
                  "[stage.<name>] judge = { ... }")
        self.order()

    def to_toml(self) -> str:
        """The resolved recipe, every default written out."""
        return dumps(self.model_dump(mode="json", by_alias=True))


def _strings(value: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(value, str):
        yield value
    for v in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _strings(v)


def dumps(data: Mapping[str, Any]) -> str:
    """Plain data as TOML, keys without a value left out."""
    return tomli_w.dumps(_without_none(data))


def shipped() -> dict[str, Path]:
    """The recipes that come with outdo, by name."""
    return {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def find(name: str) -> Path:
    """A recipe file, or the file of a recipe that comes with outdo. Raises UserError."""
    path, known = Path(name), shipped()
    if path.is_file() or name not in known:
        check(path.is_file(), f"recipe {name!r} does not exist; give a file, or one of outdo's own{nearest(path.stem, known)}")
        return path
    return known[name]


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file. Raises UserError."""
    check(path.is_file(), f"recipe {str(path)!r} does not exist; outdo recipes lists those that come with outdo")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"recipe {str(path)!r} is not valid TOML: {e}") from None
    return parse(data, overrides, path.resolve().parent)


def parse(data: dict[str, Any], overrides: Mapping[str, Any] | None = None, base: Path = Path()) -> Recipe:
    """Typed recipe from plain data. overrides: dotted keys, e.g. {"stage.rl.steps": 50}. base: the recipe's folder, where its
    relative paths are looked for after the current one."""
    for key, value in (overrides or {}).items():
        _put(data, key, value)
    paths.make_absolute(data, base)
    errors: list[str] = []
    try:
        recipe = Recipe.model_validate({**data, "stage": _stages(data.get("stage"), errors)} if "stage" in data else data)
    except ValidationError as e:
        errors = [*_explain(e, Recipe, ()), *errors]
    if errors:
        raise UserError("; ".join(dict.fromkeys(errors)))
    recipe.validate_tree()
    return recipe


def _stages(tables: Any, errors: list[str]) -> Any:
    """Each table as its kind's Config; what is wrong with a table goes to `errors`, and the table is left out."""
    if not isinstance(tables, dict):
        return tables
    found = {}
    for name, table in tables.items():
        where = ("stage", str(name))
        if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
            errors.append(f"{'.'.join(where)} has no kind; there is {', '.join(plugins.names('stages'))}")
            continue
        config = stage_config(table["kind"], ".".join(where))
        try:
            found[name] = config.model_validate(table)
        except ValidationError as e:
            errors += _explain(e, config, where)
    return found


def stage_config(kind: str, where: str = "stage") -> type[StageConfig]:
    """The options of a stage kind: `outdo/stages/<kind>.py`, or `my_stage.py:MyStage`. Raises UserError."""
    known = plugins.names("stages")
    check(":" in kind or kind in known, f"{where}.kind = {kind}: no such kind{nearest(kind, known)}")
    config: type[StageConfig] = plugins.find("stages", kind, Configured).Config
    return config


def forced(recipe: Recipe) -> Recipe:
    """The recipe with all of its stages allowed to start without a learning signal."""
    allowed = {n: s.model_copy(update={"allow_no_signal": True}) for n, s in recipe.stage.items()
               if "allow_no_signal" in type(s).model_fields}
    return recipe.model_copy(update={"stage": {**recipe.stage, **allowed}})


def parse_override(text: str) -> tuple[str, Any]:
    """`stage.rl.steps=50` -> ("stage.rl.steps", 50). The value is TOML; what is not TOML is a string."""
    key, sign, value = text.partition("=")
    check(bool(sign and key.strip()), f"--set {text!r} is not key=value; for example --set stage.rl.steps=50")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    table = data
    for i, part in enumerate(path):
        stages = data.get("stage", {})
        if i == 1 and path[0] == "stage" and part not in stages:
            raise UserError(f"--set {key}: no stage {part!r}{nearest(part, stages)}")
        table = table.setdefault(part, {})
        check(isinstance(table, dict), f"--set {key}: {part!r} is a value, not a table; set it as a whole")
    table[last] = value


def _explain(error: ValidationError, model: type[BaseModel], where: tuple[str, ...]) -> Iterator[str]:
    """One line for each thing that is wrong. where: the place of the model's table in the recipe."""
    for e in error.errors():
        place = ".".join([*where, *(str(p) for p in e["loc"])])
        if e["type"] == "extra_forbidden":
            yield f"unknown key {place}{nearest(str(e['loc'][-1]), _fields(model, e['loc']))}"
        elif e["type"] == "missing":
            yield f"{place} is missing; add it to the recipe"
        else:
            yield f"{place} = {e['input']!r}: {e['msg'][0].lower()}{e['msg'][1:]}"


def _fields(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Valid names beside an unknown key at loc."""
    for part in loc[:-1]:
        by_alias = {f.alias or n: f for n, f in model.model_fields.items()}
        found: Any = by_alias[str(part)].annotation
        model = found if isinstance(found, type) else next(a for a in get_args(found) if isinstance(a, type))
    return [f.alias or n for n, f in model.model_fields.items()]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value

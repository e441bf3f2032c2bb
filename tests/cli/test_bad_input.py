"""Whatever a user gets wrong is one line that says what, why and what to do; exit code 2; nothing written.

    pytest tests/test_bad_input.py
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import TINY, Ended, files_below, forked, outdo, reference, start, wait_until

pytestmark = pytest.mark.slow  # whole commands


def complaint(ended: Ended) -> str:
    """The one line, without its beginning."""
    assert ended.code == 2, (ended.code, ended.err)
    assert ended.err.count("\n") == 1 and ended.err.startswith("outdo: error: "), ended.err
    assert "Traceback" not in ended.out + ended.err
    return ended.err.removeprefix("outdo: error: ").rstrip("\n")


def refused(*argv: object, cwd: Path) -> str:
    before = files_below(cwd)
    said = complaint(forked(*argv, cwd=cwd))
    assert files_below(cwd) == before, "something was written"
    return said


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("override", "said"), [
    ("sede=1", "unknown key sede; did you mean 'seed'?"),
    ("stage.rl.stpes=1", "unknown key stage.rl.stpes; did you mean 'steps'?"),
    ("stage.rl.optimizer.muon_lrr=1", "unknown key stage.rl.optimizer.muon_lrr; did you mean 'muon_lr'?"),
    ("task.materiel=KQK", "task 'chess_endgame' has no option 'materiel'; did you mean 'material'?"),
    ("judge={name='outcome', wins='mate'}", "judge 'outcome' has no option 'wins'; did you mean 'win'?"),
    ("stage.rl.judge.probabilty=0.5", "judge 'random_reward' has no option 'probabilty'; did you mean 'probability'?"),
    ("stage.rl.algorithm={name='grpo', scal=1}", "algorithm 'grpo' has no option 'scal'; did you mean 'scale'?"),
    ("task.name=chess_endgames", "no task called 'chess_endgames'; did you mean 'chess_endgame'?"),
    ("judge.name=outcomes", "no judge called 'outcomes'; did you mean 'outcome'?"),
    ("gold={name='stockfish'}", "no judge called 'stockfish'; there is"),
    ("judge.name='mine.py:Mine'", "plug-in file 'mine.py' does not exist"),
    ("stage.rl.algorithm.name=gripo", "no algorithm called 'gripo'; did you mean 'grpo'?"),
    ("stage.sft.player=teecher", "stage.sft.player = 'teecher'"),
    ("stage.rl.opponents=['randon']", "stage.rl.opponents = 'randon'"),
    ("evaluation.opponents=['randon']", "evaluation.opponents = 'randon'"),
    ("evaluation.players=['perfekt']", "evaluation.players = 'perfekt'"),
    ("evaluation.split=heldoud", "split 'heldoud' is unknown"),
    ("stage.rl.split=trian", "split 'trian' is unknown"),
    ("model.context=20", "model.context = 20 is shorter than the longest chess_endgame episode, 26 tokens"),
    ("model.heads=3", "model.width = 16 is not divisible by model.heads = 3"),
    ("stage.rl.group_size=1", "stage.rl.group_size = 1"),
    ("stage.rl.group_size=64", "stage.rl.group_size = 64 does not fit into slots = 32"),
    ("stage.sft.steps=-5", "stage.sft.steps = -5"),
    ("stage.rl.from=sfd", "stage.rl.from = 'sfd': no such stage; did you mean 'sft'?"),
    ("stage.sft.from=rl", "stage.sft starts from itself"),
    ("task.min_plies=999", "min_plies=999 leaves no starts"),
    ("stage.xl.steps=1", "--set stage.xl.steps: no stage 'xl'"),
    ("steps", "--set 'steps' is not key=value"),
])  # fmt: skip
def test_recipes(override: str, said: str, tmp_path: Path) -> None:
    argv = ["run", TINY, "--set", "judge.name=outcome", "--set", override, "--out", tmp_path / "run"]
    assert refused(*argv, cwd=tmp_path).startswith(said)


def test_stages_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY.read_text(encoding="utf-8").replace("steps = 24\n", ""), encoding="utf-8")
    assert refused("run", "r.toml", cwd=tmp_path).startswith("stage.sft never ends; give it steps, flops")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("name = tiny\n", encoding="utf-8")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.toml").write_text("", encoding="utf-8")
    for name, said in (
        ("broken.toml", "recipe 'broken.toml' is not valid TOML: Invalid value (at line 1"),
        ("binary.toml", "recipe 'binary.toml' is not valid TOML"),
        ("missing.toml", "recipe 'missing.toml' does not exist"),
        ("empty.toml", "name is missing; add it to the recipe; task is missing"),
        (".", "recipe '.' does not exist"),
    ):
        assert refused("run", name, cwd=tmp_path).startswith(said)


def test_plugin_files_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine: ...\n", encoding="utf-8")
    said = refused("run", TINY, "--set", "judge={name='mine.py:Mine'}", cwd=tmp_path)
    file = tmp_path / "mine.py"
    assert said == f"'{file}:Mine': {file} has no class Mine derived from Judge"


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "said"), [
    (["run"], "no recipe; for example"),
    (["runn"], "No such command 'runn'"),
    (["run", TINY, "--frobnicate"], "No such option: --frobnicate"),
    (["run", TINY, "--seed", "x"], "Invalid value for '--seed'"),
    (["run", TINY, "--seed", "-1"], "seed = -1"),
    (["run", TINY, "--resume", "."], "--resume uses the run's own recipe; leave out RECIPE"),
    (["run", "--resume", ".", "--seed", "0"], "--resume uses the run's own recipe; leave out --seed"),
    (["run", "--resume", "."], "'.' is not a run folder"),
    (["run", "--resume", "nowhere"], "'nowhere' is not a run folder"),
    (["report", "."], "'.' is not a run folder"),
    (["eval", "nowhere"], "'nowhere' does not exist"),
    (["eval", "nowhere:sft"], "'nowhere' does not exist"),
    (["eval", "."], "'.' is neither a run folder"),
    (["eval", ".:sft"], "'.' is not a run folder"),
    (["eval", "REFERENCE:stf"], "run 'REFERENCE' has no stage 'stf'; did you mean 'sft'?"),
    (["eval", "REFERENCE", "--decode", "beam"], "--decode 'beam' is unknown"),
    (["eval", "REFERENCE", "--opponent", "perfekt"], "--opponent 'perfekt': task chess_endgame has no such name"),
    (["eval", "REFERENCE", "--prompts", "0"], "Invalid value for '--prompts'"),
    (["eval", "REFERENCE", "--json", "no/folder.json"], "--json 'no/folder.json': its folder does not exist"),
    (["eval", "REFERENCE", "--task", "chess", "--recipe", TINY], "--recipe and --task say the same thing twice"),
    (["eval", "REFERENCE", "--set", "task.max_moves=40"], "checkpoint 'REFERENCE/stages/rl/checkpoints/"),
    (["play", "REFERENCE", "--temperature", "-1"], "--temperature -1.0 is negative"),
    (["play", "REFERENCE", "--fen", "rubbish"], "--fen 'rubbish' is no position"),
    (["play", "REFERENCE", "--fen", "8/8/8/4k3/8/8/8/K6R w - -"], "--fen '8/8/8/4k3/8/8/8/K6R w - -' has the pieces"),
    (["play", "REFERENCE", "--fen", "8/8/8/4k3/8/8/8/K6Q b - -"], "--fen '8/8/8/4k3/8/8/8/K6Q b - -' has Black to"),
    (["play", "REFERENCE", "--fen", "8/8/8/8/8/8/1k6/K6Q w - -"], "--fen '8/8/8/8/8/8/1k6/K6Q w - -' cannot stand"),
])  # fmt: skip
def test_arguments(argv: list[object], said: str, tmp_path: Path) -> None:
    here = [str(a).replace("REFERENCE", str(reference())) for a in argv]
    assert refused(*here, cwd=tmp_path).startswith(said.replace("REFERENCE", str(reference())))


def test_from_the_first_import_on(tmp_path: Path) -> None:
    """The same through `python -m outdo`, no zygote; OUTDO_DEBUG shows where it comes from."""
    assert complaint(outdo("run", "missing.toml", cwd=tmp_path)).startswith("recipe 'missing.toml' does not exist")
    told = outdo("run", "missing.toml", cwd=tmp_path, OUTDO_DEBUG="1")
    assert told.code == 1 and "Traceback" in told.err and "UserError: recipe 'missing.toml'" in told.err


def test_a_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said = refused("run", TINY, "--out", "run", cwd=tmp_path)
    assert said == "run folder 'run' exists; choose another --out, or resume it with --resume run"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "Not a directory" in refused("run", TINY, "--out", "file/run", cwd=tmp_path)


# --- damaged checkpoints ---------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def half_the_config(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del data["hidden_size"]
    (folder / "config.json").write_text(json.dumps(data), encoding="utf-8")


def other_sizes(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**data, "intermediate_size": 8}), encoding="utf-8")


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: truncate(f / "model.safetensors"), "model.safetensors' cannot be read"),
    (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors' cannot be read"),
    (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    (lambda f: (f / "config.json").unlink(), "no config.json"),
    (lambda f: truncate(f / "config.json"), "config.json"),
    (half_the_config, "hidden_size"),
    (other_sizes, "does not fit its config.json"),
    (lambda f: truncate(f / "training_state.pt"), "training_state.pt' cannot be read"),
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (found,) = (reference() / "stages" / "sft" / "checkpoints").iterdir()
    return Path(shutil.copytree(found, tmp_path / "checkpoint"))


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=[said for _, said in DAMAGE])
def test_damaged_checkpoints(damage: Callable[[Path], object], said: str, checkpoint: Path, tmp_path: Path) -> None:
    argv = ["eval", checkpoint, "--recipe", TINY, "--prompts", 2, "--opponent", "random"]
    damage(checkpoint)
    assert said in refused(*argv, cwd=tmp_path)


def test_a_whole_checkpoint_needs_only_its_task(checkpoint: Path, tmp_path: Path) -> None:
    assert "so its task is unknown; add --task or --recipe" in refused("eval", checkpoint, cwd=tmp_path)
    task = ["--task", "chess_endgame", "--set", "task.material=KQK", "--set", "task.max_moves=6"]
    assert forked("eval", checkpoint, *task, "--prompts", 2, cwd=tmp_path).code == 0
    assert "reads at most 26 tokens" in refused("eval", checkpoint, *task[:4], cwd=tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "training_state.pt", "config.json"])
def test_resuming_from_a_damaged_checkpoint(file: str, tmp_path: Path) -> None:
    """A stage cannot start from a damaged checkpoint of the stage before; its own is refused just so."""
    run = Path(shutil.copytree(reference(), tmp_path / "run"))
    stage = "rl" if file == "training_state.pt" else "sft"
    (checkpoint,) = (run / "stages" / stage / "checkpoints").iterdir()
    truncate(checkpoint / file)
    shutil.rmtree(run / "stages" / "rl") if stage == "sft" else (run / "stages" / "rl" / "done.json").unlink()
    assert file in complaint(forked("run", "--resume", run, cwd=tmp_path))


def test_a_damaged_recipe_of_a_run(tmp_path: Path) -> None:
    run = Path(shutil.copytree(reference(), tmp_path / "run"))
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    (run / "recipe.toml").write_text(text[: text.index("[stage.rl]") + 6],
        encoding="utf-8")  # not between two tables: that is a recipe
    assert "is not valid TOML" in refused("run", "--resume", run, cwd=tmp_path)


def test_an_unfinished_stage_cannot_be_measured(tmp_path: Path) -> None:
    run = Path(shutil.copytree(reference(), tmp_path / "run"))
    (run / "stages" / "rl" / "done.json").unlink()
    said = refused("eval", f"{run}:rl", cwd=tmp_path)
    assert said == f"stage 'rl' of {run} is not finished; resume it: outdo run --resume {run}"
    (run / "stages" / "sft" / "done.json").unlink()
    assert "has no finished stage yet" in refused("eval", run, cwd=tmp_path)


# --- two processes on one folder -------------------------------------------------------------------------------------


def test_the_second_process_is_refused_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start("run", TINY, "--set", "stage.sft.steps=100000", "--out", run, cwd=tmp_path)
    wait_until((run / "stages" / "sft" / "metrics.jsonl").exists)
    said = complaint(forked("run", "--resume", run, cwd=tmp_path))
    assert said.startswith(f"run folder '{run}' is in use by process {first.pid};")
    os.kill(first.pid, 9)
    assert first.wait().code == -9
    assert (run / ".lock").exists(), "the dead leave their lock behind"
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text(encoding="utf-8").replace("steps = 100000", "steps = 1"),
        encoding="utf-8")
    assert forked("run", "--resume", run, cwd=tmp_path).code == 0
    assert not (run / ".lock").exists()


def test_a_lock_of_a_living_stranger_with_the_same_number_is_no_obstacle(tmp_path: Path) -> None:
    """Process numbers are used again: what counts is who holds the file."""
    run = Path(shutil.copytree(reference(), tmp_path / "run"))
    (run / ".lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    assert forked("run", "--resume", run, cwd=tmp_path).code == 0



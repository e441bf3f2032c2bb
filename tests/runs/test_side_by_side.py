"""Stages side by side end like stages one after the other, to the bit, also when killed or interrupted.

    pytest tests/test_side_by_side.py
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import time
from pathlib import Path

import pytest
from processes import SCRATCH, TINY, Ended, files_below, forked, start, wait_until

from outdo import recipe
from outdo.runs import lock

pytestmark = pytest.mark.slow  # every worker imports torch anew

ARMS = ("rl", "sft_more")
MORE = """
[stage.sft_more]
kind = "sft"
from = "sft"
steps = 80
episodes = 8
optimizer = { kind = "muon", lr = 2e-3, warmup_steps = 2 }
"""


@functools.cache
def branching(name: str = "branching", *changes: tuple[str, str]) -> Path:
    """The tiny recipe with two arms."""
    text = TINY.read_text(encoding="utf-8") + MORE
    for old, new in (("flops = 1e8", "flops = 3e8"), *changes):  # arms long enough to be caught at work
        assert old in text
        text = text.replace(old, new)
    file = SCRATCH / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    return file


@functools.cache
def one_after_the_other() -> Path:
    folder = SCRATCH / "one-after-the-other"
    assert forked("run", branching(), "--out", folder, cwd=SCRATCH).code == 0
    return folder


def check_same(folder: Path) -> None:
    undisturbed = one_after_the_other()
    for stage in ("sft", *ARMS):
        (mine,), (theirs,) = ((f / "stages" / stage / "checkpoints").iterdir() for f in (folder, undisturbed))
        assert (mine / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes(), stage
        for name in ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl"):
            a, b = (f / "stages" / stage / name for f in (folder, undisturbed))
            assert a.read_text(encoding="utf-8") == b.read_text(encoding="utf-8"), f"{stage}/{name}"
    assert files_below(folder) == files_below(undisturbed)


def resume(folder: Path) -> Ended:
    done = forked("run", "--resume", folder, cwd=folder.parent)
    assert done.code == 0, done.err
    return done


def begun(folder: Path, least: int) -> bool:
    """Both arms have come some way."""
    return all(len(lines_so_far(folder / "stages" / arm / "metrics.jsonl")) >= least for arm in ARMS)


def lines_so_far(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def workers(folder: Path) -> list[int]:
    """Processes at work on a stage of this run."""
    out = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"outdo.runs.worker" in command and str(folder).encode() in command:
            out.append(int(process.name))
    return out


def let_go(folder: Path) -> bool:
    """Whether nobody holds the lock: a worker that is dying, already without a name, still does for a moment."""
    with (folder / lock.FILE).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_which_stages_may_have_company() -> None:
    tree = recipe.load(branching())
    assert [n for n in tree.stage if tree.alone(n)] == ["sft"]
    alone = recipe.parse({"name": "x", "task": {"name": "chess_endgame"}, "stage": {
        "a": {"kind": "sft", "steps": 1}, "b": {"kind": "sft", "steps": 1, "from": "a"}}})  # fmt: skip
    assert all(alone.alone(n) for n in alone.stage)


def test_two_at_once_are_the_same_as_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = forked("run", branching(), "--set", "jobs=2", "--out", folder, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "rl 100.0%" in done.out and "sft_more 100.0%" in done.out
    check_same(folder)


def test_killed_with_its_workers_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = start("run", branching(), "--set", "jobs=2", "--out", folder, cwd=tmp_path)
    wait_until(lambda: len(workers(folder)) == 2)  # both importing torch; how far each has come when the kill falls is left open
    wait_until(lambda: begun(folder, 1), seconds=120)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    wait_until(lambda: not workers(folder) and let_go(folder))
    resume(folder)
    check_same(folder)


def test_one_killed_worker_ends_the_run_and_the_other_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = start("run", branching(), "--set", "jobs=2", "--set", "checkpoint_s=1e9", "--out", folder, cwd=tmp_path)
    wait_until(lambda: begun(folder, 2))
    victim = next(p for p in workers(folder) if b"\0rl\0" in Path(f"/proc/{p}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("outdo: error: the process of stage rl was ended by signal 9")
    assert list((folder / "stages" / "sft_more" / "checkpoints").iterdir()), "the other arm finished its step and saved it"
    resume(folder)
    check_same(folder)


def test_ctrl_c_saves_all_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = start("run", branching(), "--set", "jobs=2", "--set", "checkpoint_s=1e9", "--out", folder, cwd=tmp_path)
    wait_until(lambda: begun(folder, 2))
    os.kill(running.pid, signal.SIGINT)
    ended = running.wait()
    assert ended.code == 130 and "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == f"outdo: interrupted; resume with: outdo run --resume {folder}"
    assert not workers(folder)
    for arm in ARMS:
        assert list((folder / "stages" / arm / "checkpoints").iterdir()), arm
    resume(folder)
    check_same(folder)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe_file = branching("long", ("steps = 80", "steps = 100000"), ("episodes = 8", "episodes = 512"))
    running = start("run", recipe_file, "--set", "stage.sft.episodes=8", "--set", "jobs=2", "--out", folder, cwd=tmp_path)
    wait_until(lambda: len(workers(folder)) == 2)
    os.kill(running.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait().code == 130
    wait_until(lambda: not workers(folder), seconds=10)


def test_an_error_in_a_worker_is_one_line(tmp_path: Path) -> None:
    judge = tmp_path / "nan.py"
    judge.write_text("from outdo.judges.base import Judge\nfrom outdo.types import Score\n\n\n"
                     "class Nan(Judge):\n    name = 'nan'\n\n"
                     "    def score(self, trajectories):\n        return [Score(float('nan')) for _ in trajectories]\n",
        encoding="utf-8")
    folder = tmp_path / "run"
    file = branching("nan", ('judge = { name = "random_reward" }', f'judge = {{ name = "{judge}:Nan" }}'))
    ended = forked("run", file, "--set", "jobs=2", "--out", folder, cwd=tmp_path)
    assert ended.code == 2 and "Traceback" not in ended.err
    (line,) = ended.err.splitlines()
    assert line.startswith("outdo: error: judge nan scored sample 0"), line


@pytest.mark.parametrize("jobs", ["0", "two"])
def test_impossible_numbers_of_jobs(jobs: str, tmp_path: Path) -> None:
    ended = forked("run", branching(), "--set", f"jobs={jobs}", "--out", tmp_path / "run", cwd=tmp_path)
    assert ended.code == 2 and "jobs" in ended.err and len(ended.err.splitlines()) == 1

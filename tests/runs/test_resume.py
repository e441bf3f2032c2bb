"""Interrupted and resumed runs end like undisturbed ones, to the bit: kill -9, Ctrl-C and full disks at many points.

    pytest tests/test_resume.py
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import kept, redone, weights
from processes import TINY, Ended, files_below, forked, lines, outdo, reference, start, wait_until

pytestmark = pytest.mark.slow  # whole runs

STAGES = ("sft", "rl")


def check_same(folder: Path, undisturbed: Path) -> None:
    """Every number of the run, and nothing left over."""
    for stage in STAGES:
        assert weights(folder, stage) == weights(undisturbed, stage), stage
        for name in ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl"):
            mine, theirs = (f / "stages" / stage / name for f in (folder, undisturbed))
            assert mine.read_text(encoding="utf-8") == theirs.read_text(encoding="utf-8"), f"{stage}/{name}"
        for what in ("train", "evaluate"):
            assert kept(folder, stage, what) == kept(undisturbed, stage, what), f"{stage}: {what}"
    assert (folder / "players.jsonl").read_text(encoding="utf-8") == (undisturbed / "players.jsonl").read_text(encoding="utf-8")
    assert files_below(folder) == files_below(undisturbed)


def resume(folder: Path) -> Ended:
    done = forked("run", "--resume", folder, cwd=folder.parent)
    assert done.code == 0, done.err
    return done


# --- the same seed gives the same run --------------------------------------------------------------------------------


def test_same_seed_same_run_other_seed_other_run(tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert outdo("run", TINY, "--out", again, cwd=tmp_path).code == 0
    check_same(again, reference())
    for stage in STAGES:
        assert weights(reference(1), stage) != weights(reference(), stage)
        theirs, mine = (f / "stages" / stage / "metrics.jsonl" for f in (reference(1), reference()))
        assert theirs.read_text(encoding="utf-8") != mine.read_text(encoding="utf-8")
        assert redone(again, stage) == 0


# --- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_file_operations(stage: str, tmp_path: Path) -> None:
    """Four processes in a row die inside the stage, each somewhere else; the fifth comes through."""
    folder, rng = tmp_path / "run", random.Random(f"file operations of {stage}")
    points = [rng.randint(1, 60) for _ in range(4)]
    command = ["run", TINY, "--out", folder]
    for n in points:
        assert forked(*command, cwd=tmp_path, kill=(f"stages/{stage}", n)).code == -signal.SIGKILL, points
        assert not (folder / "stages" / stage / "done.json").exists()
        command = ["run", "--resume", folder]
    resume(folder)
    check_same(folder, reference())
    assert redone(folder, stage) > 0


def test_killed_in_bf16(tmp_path: Path) -> None:
    """Where there are compiled kernels this is what they compute with: rows of many games, attention, products of few rows."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    command = ["run", TINY, "--set", "dtype=bf16", "--set", "model.width=64", "--out"]
    assert forked(*command, whole, cwd=tmp_path).code == 0
    command += [folder]
    for part, n in (("stages/sft/metrics.jsonl", 9), ("stages/rl/metrics.jsonl", 2)):
        assert forked(*command, cwd=tmp_path, kill=(part, n)).code == -signal.SIGKILL
        command = ["run", "--resume", folder]
    resume(folder)
    check_same(folder, whole)


@pytest.mark.parametrize(("stage", "part", "n"), [
    ("sft", "stages/sft/.done.json.tmp", 1),  # all is saved, but nobody said that the stage is done
    ("rl", "stages/rl/.done.json.tmp", 1),
    ("rl", "stages/rl/checkpoints/.{last}.tmp", 4),  # in the middle of the last checkpoint, after the last evaluation
])  # fmt: skip
def test_killed_just_before_the_end_of_a_stage(stage: str, part: str, n: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    part = part.format(last=len(lines(reference() / "stages" / stage / "metrics.jsonl")))
    assert forked("run", TINY, "--out", folder, cwd=tmp_path, kill=(part, n)).code == -signal.SIGKILL
    written = [e for e in lines(folder / "stages" / stage / "evaluations.jsonl") if e["last"]]
    assert written and not (folder / "stages" / stage / "done.json").exists()
    resume(folder)
    check_same(folder, reference())


def test_killed_from_outside_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """Real processes, real time; and what a file system may leave of a line that was being written."""
    folder, rng = tmp_path / "run", random.Random(4)
    command: list[object] = ["run", TINY, "--out", folder]
    for stage, least in (("sft", 3), ("sft", 12), ("rl", 3), ("rl", 9)):
        metrics = folder / "stages" / stage / "metrics.jsonl"
        running = start(*command, cwd=tmp_path)
        wait_until(lambda m=metrics, n=least: len(lines_so_far(m)) >= n)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.02))
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait().code == -signal.SIGKILL
        for name in ("metrics.jsonl", "rollouts.jsonl", "ledger.jsonl"):
            file = metrics.with_name(name)
            if file.exists():
                with file.open("a", encoding="utf-8") as f:
                    f.write('{"step": 3, "los')
        command = ["run", "--resume", folder]
    resume(folder)
    check_same(folder, reference())


def lines_so_far(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command: list[object] = ["run", TINY, "--set", "checkpoint_s=1e9", "--out", folder]
    for stage, least in (("sft", 2), ("sft", 9), ("rl", 2), ("rl", 12)):
        metrics = folder / "stages" / stage / "metrics.jsonl"
        running = start(*command, cwd=tmp_path)
        wait_until(lambda m=metrics, n=least: len(lines_so_far(m)) >= n)  # type: ignore[misc]
        os.kill(running.pid, signal.SIGINT)
        ended = running.wait()
        assert ended.code == 130
        assert ended.err.splitlines()[-1] == f"outdo: interrupted; resume with: outdo run --resume {folder}"
        assert "Traceback" not in ended.err
        (checkpoint,) = (folder / "stages" / stage / "checkpoints").iterdir()
        assert int(checkpoint.name) == len(lines(metrics)) >= least, "the running step is finished and saved"
        command = ["run", "--resume", folder]
    resume(folder)
    check_same(folder, reference())
    assert [redone(folder, stage) for stage in STAGES] == [0, 0], "nothing that was done had to be done again"


def test_ctrl_c_in_the_last_step_of_a_stage(tmp_path: Path) -> None:
    """The step is saved; the evaluation that ends the stage is left to the resumed run."""
    folder = tmp_path / "run"
    # metrics.jsonl is opened once in every step.
    ended = forked("run", TINY, "--set", "checkpoint_s=1e9", "--out", folder, cwd=tmp_path,
                   kill=("sft/metrics.jsonl", 24, signal.SIGINT))  # fmt: skip
    assert ended.code == 130
    assert (folder / "stages" / "sft" / "checkpoints" / "24").is_dir()
    assert not (folder / "stages" / "sft" / "done.json").exists()
    resume(folder)
    check_same(folder, reference())
    assert redone(folder, "sft") == 0


def test_ctrl_c_before_the_first_stage_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    running = start("run", TINY, "--out", folder, cwd=tmp_path)
    wait_until(folder.exists)
    os.kill(running.pid, signal.SIGINT)
    ended = running.wait()
    assert ended.code == 130
    assert ended.err == "outdo: interrupted before the first stage; nothing was kept\n"
    assert list(tmp_path.iterdir()) == []


# --- disk full -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root; the limit on file sizes is tested anyway")
    yield disk
    subprocess.run(["umount", disk], check=True)


def check_full(ended: Ended, folder: Path) -> None:
    assert ended.code == 2
    again = f"outdo run --resume {folder}"
    assert ended.err == f"outdo: error: disk full while writing to {folder}; free space, then {again}\n"
    assert not [name for name in files_below(folder) if ".tmp" in name], "something half-written was left"


def test_disk_full_then_space_again(small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "run"
    assert forked("run", TINY, "--out", folder, cwd=tmp_path, kill=("stages/rl", 90)).code == -signal.SIGKILL
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 100_000))  # less than one more checkpoint
    check_full(forked("run", "--resume", folder, cwd=tmp_path), folder)
    ballast.unlink()
    resume(folder)
    check_same(folder, reference())


@pytest.mark.parametrize("file", ["model.safetensors"])
def test_no_file_may_grow(file: str, tmp_path: Path) -> None:
    """The same through a limit on file sizes, which needs no root: nearly all of `file` fits."""
    folder, undisturbed = tmp_path / "run", reference()
    (checkpoint,) = (undisturbed / "stages" / "sft" / "checkpoints").iterdir()
    limit = (checkpoint / file).stat().st_size - 1000
    small_environment(folder, undisturbed)
    check_full(forked("run", "--resume", folder, cwd=tmp_path, file_bytes=limit), folder)
    assert not (folder / "stages" / "sft" / "done.json").exists()
    resume(folder)
    check_same(folder, undisturbed)


def small_environment(folder: Path, of: Path) -> None:
    """A run folder about to begin. environment.json holds the working tree's diff, of whatever size: left behind."""
    folder.mkdir()
    for name in ("recipe.toml", "origin.json"):
        shutil.copy(of / name, folder)
    (folder / "environment.json").write_text("{}", encoding="utf-8")


def test_disk_full_before_the_first_stage(tmp_path: Path) -> None:
    assert (reference() / "recipe.toml").stat().st_size > 1000
    folder = tmp_path / "run"
    ended = forked("run", TINY, "--out", folder, cwd=tmp_path, file_bytes=1000)
    assert ended.code == 2
    assert ended.err == f"outdo: error: disk full while writing to {folder}; free space, then start it again\n"
    assert list(tmp_path.iterdir()) == []

"""Whole runs with reward functions, tools and files that meddle with the process, start others, or try to end it.

Run: .venv/bin/python -m pytest tests/runs/test_runs_of_user_code.py   (about 40 s on one core)
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import real
from processes import Ended, forked, lines, outdo
from toys import config, decoder

from outdo.models import hf

pytestmark = pytest.mark.slow  # whole commands

RECIPE = """
name = "t"
threads = 1
dtype = "fp32"
slots = 32

[task]
name = "dataset"
data = "rows.jsonl"
max_prompt_tokens = 32
max_new_tokens = 6
heldout = 0.3

[judge]
name = "function"
functions = ["rewards.py:grade", "rewards.py:length"]
weights = [1.0, 0.0]

[evaluation]
prompts = 3
points = 1
rollouts_kept = 0

[stage.rl]
kind = "rl"
from = "model"
steps = 2
prompts = 4
group_size = 4
optimizer = { lr = 1e-2 }
"""
WORDS = ["red", "green", "blue", "one", "two", "three", "four", "five", "six", "seven"]
GRADE = """
import os, random, sys

def value(text):
    return float(sum(map(ord, text)) % 7)

def grade(completions, **kwargs):
    {}
    return [value(c) for c in completions]

def length(completions, **kwargs):
    return [float(len(c)) for c in completions]
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user code")
    words = real.tokenizer().train_new_from_iterator(WORDS, 300)
    hf.save(decoder(config(vocab_size=len(words), max_position_embeddings=64)), words, folder / "model")
    rows = "".join(f'{{"prompt": "{a} {b}"}}\n' for a in WORDS for b in WORDS[:3])
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    (folder / "t.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def write(folder: Path, inside: str, before: str = "") -> None:
    body = textwrap.indent(textwrap.dedent(inside), "    ").strip() or "pass"
    (folder / "rewards.py").write_text(before + GRADE.format(body), encoding="utf-8")


def again(quiet: Path, name: str, run: Callable[..., Ended] = forked) -> Ended:
    """The same run in a folder of its own, without measuring the machine again."""
    folder = quiet.with_name(name)
    folder.mkdir()
    for file in ("recipe.toml", "environment.json"):
        shutil.copy(quiet / file, folder)
    return run("run", "--resume", name, cwd=quiet.parent)


def weights(folder: Path) -> bytes:
    (file,) = (folder / "stages" / "rl" / "checkpoints").glob("*/model.safetensors")
    return file.read_bytes()


@pytest.fixture(scope="module")
def quiet(here: Path) -> Path:
    write(here, "")
    done = forked("run", "t.toml", "--out", "quiet", cwd=here)
    assert done.code == 0, done.err
    return here / "quiet"


def test_every_functions_mean_is_kept(quiet: Path) -> None:
    for m in lines(quiet / "stages" / "rl" / "metrics.jsonl"):
        assert m["reward/grade"] == m["reward"] and m["reward/length"] > 0
    for e in lines(quiet / "stages" / "rl" / "evaluations.jsonl"):
        assert e["extra"]["parts"]["grade"] == pytest.approx(e["extra"]["reward"]) and e["extra"]["parts"]["length"] > 0


def test_a_function_that_changes_everything_changes_nothing(here: Path, quiet: Path) -> None:
    write(here, """
        import locale, signal, tempfile, numpy, torch
        os.chdir(tempfile.gettempdir())
        os.environ["OUTDO_KERNELS"] = "off"
        os.environ.pop("HOME", None)
        random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
        torch.set_grad_enabled(False), torch.set_default_dtype(torch.float64), torch.set_num_threads(2)
        numpy.seterr(all="raise")
        signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.SIG_IGN)
        locale.setlocale(locale.LC_ALL, "C")
        sys.stdout = sys.stderr = open(os.devnull, "w")
        completions, kwargs["prompts"][:] = list(completions), []
    """, before="import os; os.chdir('/')\n")
    done = again(quiet, "loud")
    assert done.code == 0, done.err
    assert weights(here / "loud") == weights(quiet) and "run folder: loud" in done.out
    assert (here / "loud" / "report.html").is_file()


CHILDREN = {
    "pool": """
        import multiprocessing
        with multiprocessing.Pool(2) as pool:
            assert pool.map(value, completions) == [value(c) for c in completions]
    """,
    "terminate": """
        import multiprocessing, time
        for c in completions[:2]:
            process = multiprocessing.Process(target=time.sleep, args=(60,))
            process.start()
            time.sleep(0.2)
            process.terminate()
            process.join()
            assert process.exitcode == -15, process.exitcode
    """,
    "subprocess": """
        import subprocess
        try:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
            raise AssertionError
        except subprocess.TimeoutExpired:
            pass
    """,
    "fork": """
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        if os.fork() == 0:
            return []
        os.wait()
    """,
}


@pytest.mark.parametrize("how", CHILDREN)
def test_functions_that_start_processes(here: Path, quiet: Path, how: str) -> None:
    write(here, CHILDREN[how])
    done = again(quiet, how)
    assert done.code == 0, done.err
    assert weights(here / how) == weights(quiet)


def complaint(done: Ended) -> str:
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("outdo: error: "), (done.code, done.err)
    return done.err


@pytest.mark.parametrize("line", ["sys.exit()", "exit(0)", "os._exit(0)", "quit()"])
def test_a_function_that_ends_the_process(here: Path, quiet: Path, line: str) -> None:
    write(here, line)
    said = complaint(again(quiet, f"ends {line}"))
    assert "judge function could not score" in said and "grade raised SystemExit: it called exit(" in said


@pytest.mark.parametrize("line", ["import sys; sys.exit()", "exit(0)", "import os; os._exit(0)"])
def test_a_file_that_ends_the_process(here: Path, line: str) -> None:
    write(here, "", before=f"{line}\n")
    assert "rewards.py cannot be imported (SystemExit: it called exit(" in complaint(forked("run", "t.toml", cwd=here))


@pytest.mark.parametrize(("left", "name"), [
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), name='poller').start()", "thread 'poller'"),
    ("import multiprocessing, time\nmultiprocessing.Process(target=time.sleep, args=(600,), name='server').start()",
     "process 'server'"),
])  # fmt: skip
def test_what_is_left_running_does_not_keep_the_process(here: Path, quiet: Path, left: str, name: str) -> None:
    write(here, "", before=f"{left}\n")
    done = again(quiet, name, outdo)
    assert done.code == 0 and weights(here / name) == weights(quiet)
    assert f"outdo: warning: user code has left {name}" in done.err and done.err.count("\n") == 1, done.err

"""Trackers: what reaches them, and that none of them can hurt a run.

    pytest tests/test_trackers.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SCRATCH, TINY, forked, lines, outdo

pytestmark = pytest.mark.slow  # whole runs

READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""
NEEDED = ("tensorboard", "absl-py", "grpcio", "markdown", "protobuf", "werkzeug", "markupsafe")


def with_packages(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])}


def test_a_missing_package_and_an_unknown_tracker(tmp_path: Path) -> None:
    done = forked("run", TINY, "--set", 'trackers=["trackio"]', cwd=tmp_path)
    assert done.code == 2 and done.err == "outdo: error: trackers: trackio takes the package trackio: pip install trackio\n"
    done = forked("run", TINY, "--set", 'trackers=["neptune"]', cwd=tmp_path)
    assert done.code == 2 and "trackers.0 = 'neptune': input should be 'tensorboard', 'wandb'" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_left_alone(tmp_path: Path) -> None:
    """A package that breaks in the middle of the first stage: one warning for it, and the run goes on."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "trackio.py").write_text(
        "def init(**options):\n    pass\n"
        "def log(values, step):\n    if step == 3: raise ConnectionError('no\\nnetwork')\n"
        "def finish():\n    pass\n", encoding="utf-8")  # fmt: skip
    done = outdo("run", TINY, "--out", "run", "--set", 'trackers=["trackio"]', cwd=tmp_path,
                 **with_packages(tmp_path / "packages"))
    warning = "outdo: warning: trackio is left alone from here on (ConnectionError: no network); the run folder has everything\n"
    assert done.code == 0 and done.err == warning * 2, "once in each stage"
    assert (tmp_path / "run" / "stages" / "rl" / "done.json").exists()


def test_tensorboard_reads_every_number_back(tmp_path: Path) -> None:
    packages = SCRATCH / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *NEEDED]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("tensorboard cannot be installed here")
    done = outdo("run", TINY, "--out", "run", "--set", 'trackers=["tensorboard"]', cwd=tmp_path, **with_packages(packages))
    assert done.code == 0, done.err
    for stage in ("sft", "rl"):
        folder = tmp_path / "run" / "stages" / stage
        read = subprocess.run([sys.executable, "-c", READ, str(tmp_path / "run" / "tensorboard" / stage)], capture_output=True,
                              text=True, check=True, env={**os.environ, **with_packages(packages)})  # fmt: skip
        found = json.loads(read.stdout)
        for line in lines(folder / "metrics.jsonl"):
            for name, value in line.items():
                assert dict(found[name])[line["step"]] == pytest.approx(value, rel=1e-6), name
        for e in lines(folder / "evaluations.jsonl"):
            if e["opponent"] == "perfect":
                assert dict(found[f"evaluation/{e['decode']}/perfect/value"])[e["step"]] == pytest.approx(e["value"])

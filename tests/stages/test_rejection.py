"""Rejection as a whole run: what it writes down of its steps.

pytest tests/stages/test_rejection.py   (about 3 s)
"""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import TINY, forked, lines

STAGE = """
[stage.rejection]
kind = "rejection"
from = "sft"
steps = 3
prompts = 4
group_size = 4
minibatch_tokens = 4
judge = { name = "random_reward" }
optimizer = { lr = 1e-2 }
"""


@pytest.mark.slow
def test_the_gap_is_that_of_the_first_minibatch(tmp_path: Path) -> None:
    """Before it, sampler and trainer have the same weights; after it they have not, and at this rate one sees it."""
    (tmp_path / "r.toml").write_text(TINY.read_text(encoding="utf-8").partition("[stage.rl]")[0] + STAGE, encoding="utf-8")
    done = forked("run", "r.toml", "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    metrics = lines(tmp_path / "run" / "stages" / "rejection" / "metrics.jsonl")
    assert len(metrics) == 3 and all(m["kept"] > 2 for m in metrics)
    assert all(m["logprob_gap"] < 1e-5 for m in metrics)
    booked = [e for e in lines(tmp_path / "run" / "stages" / "rejection" / "ledger.jsonl") if e["what"] == "train"]
    assert all(e["train_tokens"] > 0 and e["judge_calls"] == 16 for e in booked)

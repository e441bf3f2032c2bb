"""The bill: what is booked is what is summed, and work done twice is marked, kept and left out of the budget.

Run: .venv/bin/python -m pytest tests/test_ledger.py   (about 2 s on one core)
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from outdo.ledger.ledger import Clock, Ledger, read, summarise, total
from outdo.types import Usage

SECONDS = {"wall_s": 2.0, "cpu_s": 1.5, "update_s": 0.5, "update_core_s": 0.75}
NAMES = [f.name for f in fields(Usage)]


def usage(n: int) -> Usage:
    """Every field different, and different for every n."""
    return Usage(**{name: n * 10 + i + (0.1 if name.endswith("flops") else 0) for i, name in enumerate(NAMES)})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Five training steps; evaluation and checkpoint after two and after four (both booked as the step to come)."""
    out = Ledger(tmp_path / "ledger.jsonl")
    out.book(0, "evaluate", usage(100), SECONDS)
    for step in range(5):
        out.book(step, "train", usage(step), SECONDS)
        if step in (1, 3):
            out.book(step + 1, "evaluate", usage(100 + step), SECONDS)
            out.book(step + 1, "checkpoint", Usage(), SECONDS)
    return out


def added(*numbers: int) -> Usage:
    out = Usage()
    for n in numbers:
        out += usage(n)
    return out


def redone(ledger: Ledger) -> list[tuple[int, str]]:
    return [(e["step"], e["what"]) for e in read(ledger.path) if e["redone"]]


# --- sums -----------------------------------------------------------------------------------------------------------


def test_usage_adds_up_field_by_field() -> None:
    both = usage(1) + usage(2)
    assert all(getattr(both, n) == getattr(usage(1), n) + getattr(usage(2), n) for n in NAMES)
    assert usage(1) + Usage() == usage(1)
    kinds = [n for n in NAMES if n.endswith("_flops")]
    assert usage(3).flops == pytest.approx(sum(getattr(usage(3), n) for n in kinds)) and len(kinds) == 5


def test_only_training_counts_for_the_budget(ledger: Ledger) -> None:
    assert ledger.train == added(0, 1, 2, 3, 4)


def test_the_file_holds_every_event_exactly(ledger: Ledger) -> None:
    events = read(ledger.path)
    assert [e["what"] for e in events].count("train") == 5 and len(events) == 10
    assert total(events) == added(100, 0, 1, 101, 2, 3, 103, 4)
    assert all(e["peak_rss_bytes"] > 10_000_000 and e["wall_s"] == 2.0 for e in events)


def test_summary(ledger: Ledger) -> None:
    summary, spent = summarise(read(ledger.path)), added(0, 1, 2, 3, 4)
    for name in ("prefill_tokens", "decode_tokens", "train_tokens", "discarded_tokens", "judge_calls", "episodes"):
        assert summary[name] == getattr(spent, name)
    assert summary["flops"] == {k: getattr(spent, f"{k}_flops") for k in ("prefill", "decode", "judge", "reference", "update")}
    assert summary["wall_s"] == 10.0 and summary["cpu_s"] == 7.5
    assert summary["update_s"] == 2.5 and summary["update_core_s"] == 3.75
    assert summary["overhead_wall_s"] == 10.0 and summary["redone_flops"] == summary["redone_wall_s"] == 0
    assert json.loads(json.dumps(summary)) == summary


def test_summary_of_nothing() -> None:
    summary = summarise([])
    assert summary["wall_s"] == summary["peak_rss_bytes"] == 0 and sum(summary["flops"].values()) == 0


# --- resuming -------------------------------------------------------------------------------------------------------


def test_rewind_marks_what_is_done_again(ledger: Ledger) -> None:
    """Back to the checkpoint at step 2: training steps 2, 3, 4 and what was booked behind them come again."""
    ledger.rewind(2)
    assert redone(ledger) == [(2, "train"), (3, "train"), (4, "evaluate"), (4, "checkpoint"), (4, "train")]
    assert ledger.train == added(0, 1)
    assert len(read(ledger.path)) == 10, "nothing is deleted: it was paid for"


def test_redone_work_is_paid_but_not_counted(ledger: Ledger) -> None:
    ledger.rewind(2)
    for step in (2, 3, 4):
        ledger.book(step, "train", usage(step), SECONDS)
    assert ledger.train == added(0, 1, 2, 3, 4)
    summary = summarise(read(ledger.path))
    assert summary["train_tokens"] == ledger.train.train_tokens and summary["wall_s"] == 10.0
    assert summary["redone_wall_s"] == 6.0 and summary["redone_flops"] == pytest.approx(added(2, 3, 4).flops)


def test_rewinding_twice_keeps_the_first_marks(ledger: Ledger) -> None:
    ledger.rewind(2)
    ledger.book(2, "train", usage(2), SECONDS)
    ledger.book(3, "train", usage(3), SECONDS)
    ledger.rewind(3)
    assert ledger.train == added(0, 1, 2)
    assert summarise(read(ledger.path))["redone_wall_s"] == 8.0


def test_rewind_to_the_start(ledger: Ledger) -> None:
    ledger.rewind(-1)
    assert ledger.train == Usage() and len(redone(ledger)) == 10


def test_rewind_to_the_last_checkpoint_changes_nothing_before_it(ledger: Ledger) -> None:
    ledger.rewind(4)
    assert redone(ledger) == [(4, "train")] and ledger.train == added(0, 1, 2, 3)


def test_rewind_of_a_new_stage(tmp_path: Path) -> None:
    fresh = Ledger(tmp_path / "ledger.jsonl")
    fresh.rewind(-1)
    fresh.book(0, "train", usage(1), SECONDS)
    assert fresh.train == usage(1) and total(read(fresh.path)) == usage(1)


def test_a_line_cut_short_is_dropped(ledger: Ledger) -> None:
    """A crash in the middle of a write costs that event, not the file; the next one starts on a fresh line."""
    text = ledger.path.read_text(encoding="utf-8")
    ledger.path.write_text(text[:-20], encoding="utf-8")
    assert len(read(ledger.path)) == 9
    ledger.rewind(4)
    ledger.book(4, "train", usage(4), SECONDS)
    assert len(read(ledger.path)) == 10 and ledger.train == added(0, 1, 2, 3, 4)


def test_clock_starts_again_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 13.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Clock.start()
    assert clock.read()["wall_s"] == 3.0 and clock.read()["wall_s"] == 7.0


def test_a_run_from_before_core_seconds_were_written_down() -> None:
    began = {"what": "train", "wall_s": 2.0, "cpu_s": 2.0, "peak_rss_bytes": 1, "update_s": 1.0, "threads": 2}
    assert summarise([began, {**began, "update_core_s": 1.5}])["update_core_s"] == 3.5, "begun before, resumed after"

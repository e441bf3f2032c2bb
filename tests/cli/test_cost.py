"""`outdo cost`: estimates kept with a run and scored against its ledger, prices of machines and of judges behind servers.

Run: .venv/bin/python -m pytest tests/cli/test_cost.py   (about 10 s on one core)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import TINY, forked, lines, reference
from toys import decoder, tokenizer

from outdo import recipe
from outdo.ledger import prices
from outdo.models import hf
from outdo.runs import cost, plan
from outdo.runs.check import check_recipe
from outdo.runs.resolve import resolve

PRICE = prices.load().machines["cpu-core"].price / 3600


def asked(*argv: object, cwd: Path) -> tuple[dict[str, Any], str]:
    done = forked("cost", *argv, "--json", "c.json", cwd=cwd)
    assert done.code == 0, done.err
    return json.loads((cwd / "c.json").read_text(encoding="utf-8")), done.out


def test_what_a_recipe_will_cost(tmp_path: Path) -> None:
    found, said = asked(TINY, "--set", "stage.sft.steps=48", cwd=tmp_path)
    half, _ = asked(TINY, cwd=tmp_path)
    sft = found["estimate"]["stages"]["sft"]
    assert sft["train"]["flops"] == pytest.approx(2 * half["estimate"]["stages"]["sft"]["train"]["flops"])
    assert sft["train"]["money"] == pytest.approx(sft["train"]["seconds"] * PRICE), "one thread"
    assert found["spent"] is None and "what it will cost" in said and "example" in said
    rl = found["estimate"]["stages"]["rl"]
    assert rl["train"]["judge_calls"] > 0 and rl["overhead"]["judge_calls"] == 2 * 2 * 16 * (1 + 1 + 4)


def test_an_estimate_is_kept_and_scored() -> None:
    """The ledger's numbers, by hand, over those of cost.json."""
    run = reference()
    kept = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    found, said = asked(run, cwd=run.parent)
    events = {name: lines(run / "stages" / name / "ledger.jsonl") for name in ("sft", "rl")}
    seconds = sum(e["wall_s"] for es in events.values() for e in es)
    calls = sum(e["judge_calls"] for es in events.values() for e in es)
    planned = {k: sum(s[p][k] for s in kept["stages"].values() for p in cost.PARTS) for k in ("flops", "seconds", "judge_calls")}
    assert found["ratios"]["seconds"] == pytest.approx(seconds / planned["seconds"])
    assert found["ratios"]["judge_calls"] == pytest.approx(calls / planned["judge_calls"])
    assert found["ratios"]["money"] == pytest.approx(seconds / planned["seconds"]), "one machine, one thread, no judge to pay"
    assert found["spent"]["stages"]["sft"]["train"]["money"] == pytest.approx(
        sum(e["wall_s"] for e in events["sft"] if e["what"] == "train") * PRICE)  # fmt: skip
    assert kept["priced"]["money"] == pytest.approx(planned["seconds"] * PRICE) and kept["priced"]["currency"] == "USD"
    train = found["spent"]["stages"]["sft"]["train"]["flops"] / kept["stages"]["sft"]["train"]["flops"]
    assert train == pytest.approx(1.0, rel=0.15), "what the plan promises"
    assert "truth / estimate over the finished stages (2 of 2): FLOPs" in said


def test_runs_without_an_estimate_and_runs_that_are_not_done(tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(reference(), run)
    (run / "stages" / "rl" / "done.json").unlink()
    found, said = asked(run, cwd=tmp_path)
    assert found["finished"] == ["sft"] and "rl (not finished)" in said and "(1 of 2)" in said
    (run / "cost.json").unlink()
    found, said = asked(run, cwd=tmp_path)
    assert found["estimate"] is None and "no cost.json" in said and found["spent"]["stages"]["rl"]["train"]["money"] > 0


def test_another_machine_and_own_prices(tmp_path: Path) -> None:
    here, _ = asked(TINY, cwd=tmp_path)
    found, said = asked(TINY, "--machine", "h100", cwd=tmp_path)
    e, h100 = found["estimate"], prices.load().machines["h100"]
    part = e["stages"]["sft"]["train"]
    assert part["seconds"] < here["estimate"]["stages"]["sft"]["train"]["seconds"] / 100
    assert part["money"] == pytest.approx(part["seconds"] / 3600 * h100.price) and "h100: 3 USD a device-hour" in said
    own = prices.SHIPPED.read_text(encoding="utf-8").replace("price = 0.04", "price = 3600.0").replace('"USD"', '"EUR"')
    (tmp_path / "own.toml").write_text(own, encoding="utf-8")
    found, said = asked(reference(), "--prices", "own.toml", cwd=tmp_path)
    train = found["spent"]["stages"]["sft"]["train"]
    assert train["money"] == pytest.approx(train["seconds"]) and "money, EUR" in said and "own.toml" in said


@pytest.mark.parametrize(("argv", "said"), [
    (["nowhere"], "recipe 'nowhere' does not exist; give a file, or one of outdo's own"),
    ([TINY, "--machine", "abacus"], "--machine 'abacus' has no price in outdo's own examples"),
    ([TINY, "--prices", "none.toml"], "--prices 'none.toml' does not exist; copy outdo's own as a start: "),
    ([TINY, "--prices", "gpu.toml"], "a CPU has no price in gpu.toml, which has h100; add a [machine.NAME] to a file"),
])  # fmt: skip
def test_a_missing_price_is_one_line(argv: list[object], said: str, tmp_path: Path) -> None:
    table = prices.SHIPPED.read_text(encoding="utf-8")
    start, end = table.index("[machine.h100]"), table.index("[machine.h200]")
    (tmp_path / "gpu.toml").write_text('currency = "USD"\n' + table[start:end], encoding="utf-8")
    done = forked("cost", *argv, cwd=tmp_path)
    assert done.code == 2 and done.err.startswith(f"outdo: error: {said}") and done.err.count("\n") == 1, done.err


# --- judges behind servers -------------------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe whose judge is a model behind a server, which is never asked here."""
    pytest.importorskip("openai")
    from outdo.judges.llm import Llm

    monkeypatch.setattr(Llm, "score", lambda self, some: [])
    hf.save(decoder(), tokenizer(29), tmp_path / "m")
    rows = "".join(json.dumps({"prompt": f"w{3 + i} w{4 + i}"}) + "\n" for i in range(24))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    llm = {"name": "llm", "model": "big", "max_tokens": 100}
    return {"name": "judged", "threads": 1, "judge": llm, "gold": llm, "evaluation": {"prompts": 2, "points": 1},
            "task": {"name": "dataset", "data": str(tmp_path / "rows.jsonl"), "heldout": 0.3, "max_prompt_tokens": 8,
                     "max_new_tokens": 6},
            "stage": {"rl": {"kind": "rl", "from": str(tmp_path / "m"), "steps": 3, "prompts": 4, "group_size": 5}}}  # fmt: skip


def estimated(data: dict[str, Any]) -> dict[str, Any]:
    checked = check_recipe(resolve(recipe.parse(data)))
    return cost.estimate(checked, plan.make(checked))


@pytest.mark.parametrize(("mode", "written"), [("points", 60 * 50), ("pairs", 60 * 2 * 2 * 50), ("ranking", 12 * 50)])
def test_tokens_of_a_judge(mode: str, written: float, judged: dict[str, Any]) -> None:
    """60 samples: one answer each, two rivals in both orders each, or one answer for each of 12 groups; half of 100 tokens."""
    judged["judge"] = {**judged["judge"], "mode": mode, "price_in": 1.0, "price_out": 4.0}
    (one,) = (found := estimated(judged)["stages"]["rl"]["train"])["asked"]
    assert found["judge_calls"] == 60 and one["written_tokens"] == pytest.approx(written)
    assert one["read_tokens"] > (12 if mode == "ranking" else 60) * 100, "rules and rubric"
    assert found["judge_tokens"] == one["read_tokens"] + one["written_tokens"]
    assert prices.load().judging(cost.Asked(**one)) == pytest.approx((one["read_tokens"] + 4 * written) / 1e6)


def test_a_judge_without_a_price(judged: dict[str, Any], tmp_path: Path) -> None:
    found, table = estimated(judged), prices.load()
    with pytest.raises(cost.UserError, match="the judge's model 'big' has no price"):
        cost.priced(found, table, "cpu-core")
    both = estimated({**judged, "judge": {"name": "sum", "parts": [{"judge": "llm", "model": "big", "max_tokens": 100},
                                                                   {"judge": "length"}]}})  # fmt: skip
    assert both["stages"]["rl"]["train"]["asked"] == found["stages"]["rl"]["train"]["asked"], "also as part of a sum"
    judged["judge"] = judged["gold"] = {**judged["judge"], "base_url": "http://localhost:9/v1"}
    here = cost.priced(estimated(judged), table, "cpu-core")["stages"]["rl"]
    assert here["train"]["judge_money"] == 0.0 and here["train"]["judge_tokens"] > 0, "a server on this machine sends no bill"
    assert here["overhead"]["judge_tokens"] == pytest.approx(here["train"]["judge_tokens"] * 8 / 60), "paid once"


def test_tokens_booked_without_a_price() -> None:
    """They are paid at the estimate's price of a token, from the table."""
    table = prices.Prices(Path("p"), "USD", prices.load().machines, {"big": prices.JudgePrice(price_in=1e6, price_out=3e6)})
    part = {"flops": 0, "seconds": 0.0, "threads": 1, "judge_calls": 0, "judge_tokens": 40}
    asked = [{"model": "big", "read_tokens": 10.0, "written_tokens": 10.0}]
    estimate = {"stages": {"rl": {p: {**part, "asked": asked} for p in cost.PARTS}}}
    truth = {"stages": {"rl": {"train": {**part, "judge_cost": 0.0}, "overhead": {**part, "judge_cost": 7.0}}}}
    found = cost.priced(truth, table, "cpu-core", estimate)["stages"]["rl"]
    assert (found["train"]["judge_money"], found["overhead"]["judge_money"]) == (80.0, 7.0)

"""Cards and what is done with their findings: exit codes, files, replays, reach, scripts, fixes, the commands, the pytest plugin.

Run: .venv/bin/python -m pytest tests/audit/test_card.py   (about 30 s on one core)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from processes import forked

from outdo.audit import again, fixtures
from outdo.audit import card as cards
from outdo.audit.audit import audit_reward
from outdo.audit.base import Verdict
from outdo.errors import UserError

REWARDS = """
import re

def substring(completions, answer, **kwargs):
    return [float(a in c) for c, a in zip(completions, answer)]

def still_substring(completions, answer, **kwargs):
    return [float(a in c and len(c) < 200) for c, a in zip(completions, answer)]

def strict(completions, answer, **kwargs):
    found = [re.findall(r"<answer>(.*?)</answer>", c) for c in completions]
    return [float(len(f) == 1 and f[0].strip() == a) for f, a in zip(found, answer)]

def two(answer, reference):
    return float(reference in answer)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rewards, data and a card of a bad one."""
    here = tmp_path_factory.mktemp("audit")
    (here / "rewards.py").write_text(REWARDS, encoding="utf-8")
    (here / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in fixtures.data("sums")), encoding="utf-8")
    for name in ("substring", "two"):
        card = audit_reward(f"{here}/rewards.py:{name}", str(here / "gold.jsonl"), budget=300)
        cards.replace_data(card, str(here / "gold.jsonl")).write(here / name)
    return here


def test_a_card_survives_its_file(folder: Path) -> None:
    card = cards.read(folder / "substring")
    assert card.verdict == "fail" and card.find("A04").verdict == Verdict.FAIL
    assert cards.read(folder / "substring" / "card.json").record() == card.record()
    with pytest.raises(UserError, match="does not exist; outdo audit reward writes one"):
        cards.read(folder / "nothing")
    with pytest.raises(UserError, match="the card has no finding 'Z9'"):
        card.find("Z9")


def test_exit_codes(folder: Path) -> None:
    card = cards.read(folder / "substring")
    known = [cards.fingerprint(f) for f in card.findings]
    assert (card.exit_code(), card.exit_code("never"), card.exit_code("fail", known)) == (1, 0, 0)
    warns = replace(card, findings=[f for f in card.findings if f.verdict != Verdict.FAIL])
    assert (warns.exit_code(), warns.exit_code("warn")) == (0, 1)
    unseen = replace(card, findings=[replace(card.find("R01"), verdict=Verdict.NOT_EXERCISED)])
    assert unseen.verdict == "inconclusive" and unseen.exit_code() == 3


def test_what_is_hostile_is_escaped() -> None:
    """The audited data may hold markup and control characters."""
    evil = "<script>alert(1)</script>\x1b[31m"
    rows = [{"prompt": f"{evil} {i}", "answer": f"{i}7{i}", "completion": f"{evil} {i}7{i}"} for i in range(10)]
    card = audit_reward(lambda answer, reference: float(reference in answer), rows, checks=["A07", "A04", "R01"])
    assert card.find("A07").verdict == Verdict.WARN and "<script>alert" in str(card.find("A07").example)
    assert "<script>alert" not in card.html() and "&lt;script&gt;" in card.html()
    assert "\x1b" not in card.text(True)


def test_sarif(folder: Path) -> None:
    data = json.loads((folder / "substring" / "card.sarif").read_text(encoding="utf-8"))
    (run,) = data["runs"]
    assert data["version"] == "2.1.0" and {r["ruleId"] for r in run["results"]} <= {
        r["id"] for r in run["tool"]["driver"]["rules"]
    }
    assert {r["level"] for r in run["results"]} == {"error", "warning"}
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("rewards.py")


def test_replay_and_reach(folder: Path) -> None:
    card = cards.read(folder / "substring")
    found, result, taken = again.replay(card, "a04")
    assert found.id == "A04" and result.value == 1.0 and taken
    _, result, taken = again.replay(card, "A04", f"{folder}/rewards.py:strict")
    assert result.value == 0.0 and not taken
    r = again.reach(card, "A04")
    assert (r.hits, r.rows) == (24, 24) and r.interval[0] > 0.8
    with pytest.raises(UserError, match="has no counterexample"):
        again.replay(card, "R01")


@pytest.mark.parametrize("name", ["substring", "two"])
def test_a_script_without_outdo(folder: Path, name: str) -> None:
    script = folder / f"repro_{name}.py"
    assert again.repro(cards.read(folder / name), "A05", script) == [1.0, 1.0]
    assert "outdo" not in script.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[2]


def test_a_fix_is_more_than_the_old_counterexample(folder: Path) -> None:
    card = cards.read(folder / "substring")
    half = again.verify_fix(card, "A05", f"{folder}/rewards.py:still_substring")
    assert not half.closed and any("FAIL" in line for line in half.lines)
    whole = again.verify_fix(card, "A05", f"{folder}/rewards.py:strict")
    assert whole.closed and all("refused" in line for line in whole.lines if "counterexample" in line)


# --- commands -----------------------------------------------------------------------------------------------------------


def test_commands(folder: Path) -> None:
    bad = forked("audit", "reward", "rewards.py:substring", "--data", "gold.jsonl", "--check", "A04", "--out", "a", cwd=folder)
    assert bad.code == 1 and "FAIL          A04" in bad.out and (folder / "a" / "card.html").exists()
    good = forked("audit", "reward", "rewards.py:strict", "--data", "gold.jsonl", "--check", "A04", "--out", "b", cwd=folder)
    assert good.code == 0, good.out + good.err
    old = forked(
        "audit", "reward", "rewards.py:substring", "--data", "gold.jsonl", "--check", "A04", "--baseline", "a", cwd=folder
    )
    assert old.code == 0
    assert forked("audit", "replay", "a", "A04", cwd=folder).code == 1
    sarif = forked(
        "audit", "reward", "rewards.py:strict", "--data", "gold.jsonl", "--check", "A04", "--format", "sarif", cwd=folder
    )
    assert json.loads(sarif.out)["version"] == "2.1.0"
    said = forked("audit", "power", "--rate", "0.05", "--margin", "0.02", cwd=folder).out
    assert "226" in said and "457" in said


@pytest.mark.parametrize(("argv", "said"), [
    (["reward", "nowhere.py:fn", "--data", "gold.jsonl"], "plug-in file 'nowhere.py' does not exist"),
    (["reward", "rewards.py:nope", "--data", "gold.jsonl"], "rewards.py has no nope"),
    (["reward", "rewards.py:strict", "--data", "nowhere.jsonl"], "data 'nowhere.jsonl' does not exist"),
    (["reward", "rewards.py:strict", "--data", "gold.jsonl", "--check", "A99"], "no check 'A99'"),
    (["reward", "rewards.py:strict", "--data", "gold.jsonl", "--range", "1,0"], "--range '1,0': 1 is not below 0"),
    (["reward", "rewards.py:strict", "--data", "gold.jsonl", "--declare", "odd"], "declared 'odd'"),
    (["reward", "rewards.py:strict", "--data", "gold.jsonl", "--format", "xml"], "--format 'xml'"),
    (["judge", "rewards.py:two", "--labels", "gold.jsonl"], "the labels have no right or no wrong answers"),
    (["replay", "nowhere", "A04"], "card 'nowhere' does not exist"),
    (["report", "nowhere"], "'nowhere' is not a run folder"),
    (["env", "rewards.py:two"], "is no environment"),
    (["ceiling", "--samples", "gold.jsonl"], "wanted: prompt, reward, gold"),
])  # fmt: skip
def test_bad_input(folder: Path, argv: list[str], said: str) -> None:
    done = forked("audit", *argv, cwd=folder)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_the_ceiling(folder: Path) -> None:
    rows = [{"prompt": f"p{i}", "reward": float(k), "gold": float(k % 2)} for i in range(12) for k in range(4)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    done = forked("audit", "ceiling", "--samples", "samples.jsonl", "--n", "1,2,4", cwd=folder)
    assert done.code == 0 and "at n = 4: +0.500 of +0.500 possible (100%)" in done.out


def test_the_pytest_plugin(folder: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "outdo.audit.pytest_plugin",
        "--outdo-audit",
        "rewards.py:substring",
        "--outdo-audit-data",
        "gold.jsonl",
        "-p",
        "no:cacheprovider",
    ]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # where outdo is installed, it is there without -p
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=alone)
    assert done.returncode == 1 and "A04 list of guesses" in done.stdout and "9 skipped" in done.stdout


ENVIRONMENT = '''
class Leaky:
    kept = []

    def reset(self, answer="4711"):
        self.answer, self.n = answer, 0
        return "guess"

    def look(self) -> str:
        """Look."""
        return f"it is {self.answer}"

    def press(self, times: int) -> str:
        """Press.

        Args:
            times: how often
        """
        self.n += 1
        self.kept.append(1)
        return str(len(self.kept))

    def get_reward(self):
        return min(1.0, self.n / 100)

class Honest(Leaky):
    def reset(self, answer="4711"):
        self.answer, self.done = answer, False
        return "guess"

    def look(self) -> str:
        """Look."""
        return "nothing"

    def press(self, times: int) -> str:
        """Press.

        Args:
            times: how often
        """
        return "pressed"

    def get_reward(self):
        return 0.0
'''


def test_environments(folder: Path) -> None:
    (folder / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    from outdo.audit.environment import audit_env

    bad = audit_env(f"{folder}/env.py:Leaky", [{"answer": "4711"}])
    assert [f.verdict for f in bad.findings] == ["FAIL", "WARN", "FAIL", "FAIL"]
    good = audit_env(f"{folder}/env.py:Honest", [{"answer": "4711"}])
    assert [f.verdict for f in good.findings] == ["PASS"] * 4

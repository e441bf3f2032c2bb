"""outdo's reward audit against other tools, with their defaults: `python benchmarks/audit_peers.py --peers /tmp/peers`.

Static tools get every reward as a file of its own (standard library only) and its rows; detectors get simulated runs. Each look
happens in a process of its own with the tool's own Python (PEERS/NAME/bin/python, made with `--install`), within a time limit.

Three counts a tool:
flagged: the tool's own default verdict on a bad reward (see each wrapper: its exit code, or what its verdict says).
named: flagged, and a finding that counts in that verdict stands for the documented hole: NAMES maps a finding to holes by the
beginning of its name, or the finding's text matches the reward's `words`.
false alarms: the same verdict on an honest reward.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "docs" / "results" / "audit_peers.md"
LIMIT_S = 300.0
MARK = "<!-- tables -->"

# Tool -> beginning of a finding's name -> the holes that it stands for. Written down before the tools were run.
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "outdo": {
        "A01": ("empty",), "A02": ("echo",), "A03": ("form",), "A04": ("list",), "A05": ("conflict",), "A06": ("denied",),
        "A07": ("end",), "A08": ("part",), "A09": ("types", "near"), "A10": ("joined",), "A11": ("unicode",),
        "A12": ("length",), "A13": ("repetition",), "A14": ("free", "form"), "A15": ("constant",), "A16": ("retract",),
        "A17": ("magic",), "C01": ("hollow",), "C02": ("hollow", "empty"), "C03": ("tests",), "C04": ("hollow",),
        "C05": ("exit",), "C06": ("equality",), "C07": ("truncated",), "C08": ("mutant",), "C09": ("grader", "forged"),
        "R01": ("strict",), "R02": ("wrong",), "R03": ("range",), "R04": ("abstain", "crash"), "R05": ("random",),
        "R06": ("state",), "R07": ("effects",), "R08": ("time",), "R09": ("exec",), "R10": ("gold",), "R11": ("direction",),
        "R12": ("reference",), "R13": ("swallowed",), "R14": ("dead",),
    },
    "falsepass": {
        "P1 ": ("strict", "swallowed"), "P2": ("strict",), "P3": ("empty", "free", "dead"), "P4": ("echo",),
        "P5": ("list", "conflict"), "P6": ("form", "free", "wrong", "reference", "dead"), "P7": ("wrong", "magic"),
        "P9": ("retract", "denied", "length", "end"),
        "P10": ("crash", "abstain"), "P11": ("random", "state"), "P13": ("range", "types"), "P14": ("strict",),
        "P15": ("denied", "conflict", "joined"), "P16": ("echo",), "P17": ("denied",),
        "A1 answer_free_spray/prompt": ("echo", "list"), "A1": ("list",), "errors": ("crash", "abstain"),
        "static term_ignores": ("reference",), "static length": ("length",),
        "static reference_substring": ("list", "denied", "part"), "static except": ("abstain", "crash"),
        "static rejection": ("range",), "static truncated": ("types",), "static first_tag": ("retract",),
    },
    "rl-envdoctor": {
        "empty_ties": ("empty", "free", "dead"), "completion_independent": ("dead", "wrong", "form", "reference", "free"),
        "exploit_pays_out empty_adaptive": ("form", "free"), "exploit_pays_out empty_": ("form", "free"),
        "exploit_pays_out empty": ("empty", "free"), "exploit_pays_out whitespace": ("empty", "free"),
        "exploit_pays_out constant": ("constant", "wrong"), "exploit_pays_out mc_shotgun": ("list",),
        "exploit_pays_out refusal": ("free", "wrong"), "exploit_pays_out copy_prompt": ("echo",),
        "exploit_pays_out long_garbage": ("length", "repetition"), "exploit_pays_out markdown": ("magic", "form"),
        "exploit_pays_out numbered": ("magic", "list"), "exploit_pays_out json": ("form",),
        "exploit_pays_out confident": ("magic", "length"), "exploit_pays_out hedged": ("magic", "length"),
        "grader_accepts_wrong": ("wrong", "near", "types", "part", "reference", "mutant", "truncated"),
        "prompt_leaks": ("echo",), "judge_pays": ("magic",), "reward_saturation": ("dead",),
        "nondeterministic": ("random", "state"),
        "grader_crash": ("crash", "abstain"), "invalid_reward": ("range",), "slow_grader": ("time",), "baseline": ("strict",),
    },
    "bohrin": {
        "drop_side": ("hollow",), "raise_not": ("hollow",), "constant_impl": ("hollow",), "success_exit": ("exit",),
        "equality": ("equality",),
    },
    "gameability": {
        "1_empty": ("empty", "free"), "2_refusal": ("free", "wrong", "dead"), "3_echo": ("echo",),
        "4_format": ("form", "free", "wrong", "constant", "reference"), "6_filler": ("length", "free", "repetition"),
    },
    "soup": {
        "empty": ("empty", "free"), "length": ("length", "repetition"), "repetition": ("repetition", "length"),
        "sentinel": ("magic",),
        "wrapped_junk": ("form", "free", "wrong", "reference"), "answer_spray": ("list", "conflict"),
    },
    "rubric-reward-lens": {
        "keyword_stuff": ("magic", "list"), "verbosity_pad": ("length",), "confident_wrong": ("magic", "denied"),
        "format_mimic": ("form", "magic"), "monotonicity": ("direction", "dead", "wrong", "hollow"),
        "stability": ("random", "state"), "structure": ("dead",),
    },
    "reward-doctor": {
        "shotgun": ("list",), "negation": ("denied",), "contradiction": ("end", "retract", "conflict"),
        "empty": ("empty", "form"),
        "echo": ("echo",), "padding": ("length",), "judge_injection": ("magic",), "judge_bias": ("magic", "length"),
        "format_farming": ("form", "free", "empty"), "distinction": ("types", "near", "part", "wrong"),
        "error": ("crash", "swallowed"),
        "equivalence": ("strict",), "format": ("strict",),
    },
    "gradecheck": {
        "empty": ("empty", "free"), "prompt-echo": ("echo",), "garbage": ("wrong", "free", "dead"), "flattery": ("magic", "free"),
        "format-only": ("form", "free"),
    },
    "provenir": {
        "consistency": ("random", "state"), "invariance": ("strict",),
        "sensitivity": ("wrong", "near", "types", "part", "reference"),
        "gameability": ("length", "magic", "repetition"), "monotonicity": ("length", "direction"), "boundary": ("crash",),
    },
}  # fmt: skip

# What else would name the hole of outdo's own fixtures, beside the finding of the check that they belong to.
ALSO = {
    "A02": ("list",), "A03": ("free", "reference"), "A04": ("denied", "retract", "part"), "A05": ("list", "retract"),
    "A06": ("retract",), "A07": ("retract", "list", "denied"), "A08": ("list",), "A10": ("conflict", "list"),
    "A13": ("length", "list"), "A15": ("wrong",), "A16": ("conflict", "end"), "C09": ("exit", "equality"),
    "R02": ("form", "reference"),
    "R05": ("state",), "R06": ("random",), "R07": ("state",), "R12": ("wrong", "form"), "R13": ("strict",),
    "R14": ("free", "wrong", "reference", "form", "empty"),
}  # fmt: skip

PACKAGES = {
    "falsepass": "falsepass", "rl-envdoctor": "rl-envdoctor", "bohrin": "bohrin", "gameability": "gameability",
    "soup": "soup-cli",
    "rubric-reward-lens": "rubric-reward-lens", "reward-doctor": "reward-doctor", "gradecheck": "gradecheck",
    "provenir": "provenir", "rl-doctor": "rldoctor", "rlprobe": "rlprobe", "rlwatch": "rlwatch", "rewardspy": "rewardspy",
}  # fmt: skip


# --- inside: a tool's own Python, one reward ------------------------------------------------------------------------------


class Subject:
    """The reward of a case file: score(row, text) -> number or None."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.rows, self.name, self.style = case, case["rows"], case["name"], case["style"]
        if case["tool"] != "outdo":  # only outdo takes rows that are marked as wrong
            self.rows = [row for row in self.rows if row.get("right") is not False]
        self.path = Path(case["file"])
        spec = importlib.util.spec_from_file_location("subject", self.path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["subject"] = module
        spec.loader.exec_module(module)
        self.function = getattr(module, self.name)
        self.prompts = [r["prompt"] if isinstance(r["prompt"], str) else r["prompt"][-1]["content"] for r in self.rows]
        self.right = [r["completion"] if isinstance(r["completion"], str) else r["completion"][-1]["content"] for r in self.rows]
        self.answers = [r["answer"] if isinstance(r["answer"], str) else json.dumps(r["answer"]) for r in self.rows]
        self.told = list(self.answers)
        self.plain = all(isinstance(r["answer"], str) and r["answer"] in t for r, t in zip(self.rows, self.right, strict=True))
        if not self.plain:  # the reference is no answer (tests, a number to reach): the answer to render is the right completion
            self.answers = list(self.right)
        self.form = self._form()
        if self.form and case["tool"] != "outdo":  # outdo reads the form off right completions; the others off the prompt
            self.prompts = [f"{p}\nFill your answer in: {self.form.replace('{}', '')}" for p in self.prompts]

    def score(self, row: int, text: str, answer: Any = None) -> Any:
        """The score of a completion of this row, against this answer if one is given."""
        wanted = self.rows[row]["answer"] if answer is None else answer
        if self.style == "two":
            return self.function(text, wanted)
        said = [{"role": "assistant", "content": text}] if self.style == "chat" else text
        columns = {k: [v] for k, v in self.rows[row].items() if k not in ("prompt", "completion", "answer")}
        return self.function(completions=[said], prompts=[self.rows[row]["prompt"]], answer=[wanted], **columns)[0]

    def _form(self) -> str:
        """What is around the answer in all right completions, with {} in its place; empty if there is nothing."""
        if not self.plain:
            return ""
        parts = [t.rpartition(a) for t, a in zip(self.right, self.answers, strict=True)]
        before = common([p[0][::-1] for p in parts])[::-1].lstrip()
        after = common([p[2] for p in parts])
        return before + "{}" + after if before + after else ""


def common(texts: list[str]) -> str:
    """The longest beginning of all texts."""
    size = next((i for i, c in enumerate(zip(*texts, strict=False)) if len(set(c)) > 1), min(map(len, texts)))
    return texts[0][:size]


Found = list[tuple[str, str]]  # a finding's name and text, only those that the verdict rests on


def outdo(s: Subject) -> tuple[bool, Found]:
    """Card: FAIL or WARN of any check (the row `outdo, FAIL only` counts FAIL alone)."""
    from outdo.audit.audit import audit_reward

    options = dict(s.case["options"])
    if "```python" in str(s.rows[0]["completion"]):
        options["budget"] = 600  # as in outdo's self-test: programs are run in a process each
    card = audit_reward(f"{s.path}:{s.name}", s.rows, **options)
    found = [(f"{f.id} {f.verdict}", f"{f.said} {(f.example or {}).get('completion', '')}"[:600])
             for f in card.findings if f.verdict in ("FAIL", "WARN")]  # fmt: skip
    return bool(found), found


def falsepass(s: Subject) -> tuple[bool, Found]:
    """The gate of its README (`ceiling>0.1 errors>0`), or a score that is not stable (P11)."""
    from falsepass import cli, report, runner

    folder = Path.cwd()
    text = s.path.read_text(encoding="utf-8")
    if s.style == "two":
        text += "\n\ndef reward(completions, answer, **kwargs):\n"
        text += f"    return [{s.name}(c, a) for c, a in zip(completions, answer)]\n"
    (folder / "rewards.py").write_text(text, encoding="utf-8")
    rows = [{**r, "prompt": p if s.style != "chat" else [{"role": "user", "content": p}]}
            for r, p in zip(s.rows, s.prompts, strict=True)]  # fmt: skip
    (folder / "data.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    name = "reward" if s.style == "two" else s.name
    cli.main(["init", "rewards.py", "--dataset", "data.jsonl", "--func", name])
    audit = next((folder / "audits").iterdir())
    try:
        payload = runner.run(audit, packages=[])
    except RuntimeError as e:
        if "no candidate format" in str(e):
            raise NotImplementedError("needs an adapter written by hand: " + str(e)[:60]) from None
        raise
    met = report.gate(payload["results"], ["ceiling>0.1", "errors>0"])
    bad = [r for r in payload["results"] if not r["passed"]]
    unstable = [r for r in bad if r["probe"] == "P11"]
    found = [(f"{r['probe']} {r['name']}/{r['variant']}", str(r["completion"])[:200]) for r in bad if r["expected"] != "full"]
    found += [("errors", str(r["errors"])[:200]) for r in payload["results"] if r["errors"]]
    found += [(f"static {h['rule']}", h["evidence"]) for h in payload["static"]]
    return bool(met or unstable), sorted(set(found)) if met or unstable else []


def rl_envdoctor(s: Subject) -> tuple[bool, Found]:
    """Exit code 1: a finding of severity high or above."""
    from envdoctor import Case, FunctionTarget, Severity, run_checks, scan

    def reward(completion: str, case: Any) -> float:
        return s.score(int(case.id), completion)

    cases = [Case(id=str(i), prompt=p, answer=s.answers[i], row=s.rows[i]) for i, p in enumerate(s.prompts)]
    report = run_checks(scan(FunctionTarget(reward, cases)))
    found = []
    for f in report.findings:
        if Severity.rank(f.severity) <= Severity.rank("high"):
            policy = re.search(r"`(\w+)`", f.title)
            found.append((f"{f.check} {policy[1] if policy and f.check == 'exploit_pays_out' else ''}".strip(), f.title))
    return bool(found), found


def bohrin(s: Subject) -> tuple[bool, Found]:
    """Programs only: a submission that is wrong by construction is accepted (half of the right one's score or more)."""
    from bohrin.ir.task import Task
    from bohrin.mutate.battery import battery

    found: Found = []
    tried = 0
    for i, right in enumerate(s.right):
        block = re.search(r"```(?:python)?\n(.*?)```", right, re.DOTALL)
        if block is None:
            continue
        tried += 1
        full = float(s.score(i, right))
        for candidate in battery(Task(f"t{i}", s.prompts[i], block[1])).grounded:
            try:
                value = s.score(i, right.replace(block[1], candidate.payload.text))
            except BaseException:
                continue
            if value is not None and value >= full / 2 > 0:
                found.append((candidate.provenance.operator, candidate.payload.text[:100]))
    if not tried:
        raise NotImplementedError("no completion holds a program")
    return bool(found), found


class Stand:
    """The parts of a verifiers environment that gameability and gradecheck read."""

    message_type, pass_threshold = "completion", 0.5

    def __init__(self, s: Subject) -> None:
        class Rows(list):
            column_names = ("prompt", "answer", "number")

            def __getitem__(self, key: Any) -> Any:
                return [r[key] for r in self] if isinstance(key, str) else super().__getitem__(key)

        self.rows = Rows({"prompt": p, "answer": a, "number": i, "info": {"number": i}}
                         for i, (p, a) in enumerate(zip(s.prompts, s.answers, strict=True)))  # fmt: skip
        form, self.rubric, stand = s.form, self, s

        def reward(completion: Any, info: Any, **_: Any) -> float:
            value = stand.score(info["number"], completion)
            return 0.0 if value is None else float(value)

        class Parser:
            answer_field = "answer"

            def format(self, answer: str) -> str:
                return (form or "{}").replace("{}", answer)

        self.funcs, self.weights, self.parser = [reward], [1.0], Parser() if form else None

    def get_dataset(self, n: int = -1) -> Any:
        """All rows."""
        return self.rows

    get_eval_dataset = get_dataset

    def get_reward_weights(self) -> list[float]:
        """Of its one function."""
        return self.weights

    async def score_rollout(self, prompt: Any, completion: Any, answer: Any, state: Any, task: Any, info: Any) -> Any:
        """As verifiers 0.1 had it."""
        return {"reward": self.funcs[0](completion, info)}


def gameability(s: Subject) -> tuple[bool, Found]:
    """`gameability probe`: VERDICT GAMEABLE."""
    from gameability.probe import PROBE_NAMES, probe_env

    result = probe_env(Stand(s))
    if result["status"] != "MEASURED":
        raise NotImplementedError(f"{result['status']}: {str(result.get('error', ''))[-100:]}")
    return bool(result["gameable"]), [(k, PROBE_NAMES[k]) for k in result["gameable_probes"]]


def soup(s: Subject) -> tuple[bool, Found]:
    """`soup reward stress --references`: exit code 2, gameable."""
    from soup_cli.utils.reward_stress import run_stress

    def reward(completions: list[Any], **_: Any) -> list[Any]:
        return [s.score(i, c[-1]["content"]) for i, c in enumerate(completions)]

    report = run_stress(reward, s.told)
    return report.gameable, [(a.kind, f"{a.accepted} of {a.n}") for a in report.attacks if a.accepted]


def rubric_reward_lens(s: Subject) -> tuple[bool, Found]:
    """The verdict is not "Robust"; the reward stands in for a rubric of one criterion, the right answer, and its grader."""
    from rubric_reward_lens import Rubric, audit
    from rubric_reward_lens.models import Criterion, CriterionScore, GraderResult, Response

    class Grader:
        def grade(self, rubric: Any, response: Any) -> Any:
            value = s.score(int(response.prompt_id), response.text)
            return GraderResult(response.id, [CriterionScore("right", float(value or 0))], float(value or 0))

    rubric = Rubric([Criterion("right", "The final answer is correct")], "reward")
    card = audit(rubric, Grader(), [Response(str(i), t, str(i), s.prompts[i]) for i, t in enumerate(s.right)])
    found = [(name, card.verdict) for name, (gain, low, _) in card.hacking.per_probe.items() if gain > 0.05 and low > 0]
    found += [(name, f"{score:.2f}") for name, score in card.sub_scores().items() if name != "hacking" and score < 0.7]
    flagged = "Robust" not in card.verdict
    return flagged, found if flagged else []


def reward_doctor(s: Subject) -> tuple[bool, Found]:
    """Exit code 1 of `reward-doctor audit` (an exploit accepted, or an error); it brings its own answers and completions."""
    from reward_doctor import audit

    if not s.plain:
        raise NotImplementedError("its own references are short answers")
    result = audit(lambda completion, reference: s.score(0, completion, reference))
    found = [(o.case.attack or o.case.category, o.case.completion[:100]) for o in result.exploits_accepted]
    found += [("distinction", o.case.completion[:100]) for o in result.false_positives if o.case.category == "distinction"]
    found += [("error", str(o.error)) for o in result.errors]
    flagged = bool(result.exploits_accepted or result.errors)
    return flagged, found if flagged else []


def gradecheck(s: Subject) -> tuple[bool, Found]:
    """Exit code 1 of `gradecheck verifiers`: FOOLED by an attack."""
    from gradecheck.attacks.base import FOOLED
    from gradecheck.completion_attacks import run_all
    from gradecheck.verifiers_env import VerifiersEnv

    found = [(f.attack, f.summary) for f in run_all(VerifiersEnv(Stand(s))) if f.verdict == FOOLED]
    return bool(found), found


def provenir(s: Subject) -> tuple[bool, Found]:
    """ReliabilityHarness: hard_fail, on which its gate blocks promotion."""
    from provenir.environments.base import VerificationResult
    from provenir.environments.reliability import Probe, ReliabilityHarness

    full = [s.score(i, t) for i, t in enumerate(s.right)]
    top = max((v for v in full if v is not None), default=1.0) or 1.0

    class Verifier:
        name = "reward"

        def verify(self, response: str, reference: Any) -> Any:
            row, answer = reference if reference is not None else (0, "")
            value = s.score(row, response, answer)
            value = 0.0 if value is None else min(1.0, max(0.0, value / top))
            return VerificationResult(value >= 0.5, value, "")

    probes = [Probe(t, (i, r["answer"]), True) for i, (t, r) in enumerate(zip(s.right, s.rows, strict=True))]
    report = ReliabilityHarness().evaluate(Verifier(), probes)
    found = sorted({(o.mode.value, o.detail) for o in report.failures()})
    return report.hard_fail, found if report.hard_fail else []


STATIC: dict[str, Callable[[Subject], tuple[bool, Found]]] = {
    "outdo": outdo, "falsepass": falsepass, "rl-envdoctor": rl_envdoctor, "bohrin": bohrin, "gameability": gameability,
    "soup": soup,
    "rubric-reward-lens": rubric_reward_lens, "reward-doctor": reward_doctor, "gradecheck": gradecheck, "provenir": provenir,
}  # fmt: skip


# --- inside: a detector, simulated runs -----------------------------------------------------------------------------------

Alerts = list[tuple[int, str, str]]  # step, detector, severity


def rl_doctor_live(log: list[dict[str, Any]]) -> Alerts:
    """LiveMonitor: what it announces, from WARNING on."""
    import logging

    from rl_doctor.live import LiveMonitor

    logging.disable(logging.CRITICAL)
    out: Alerts = []
    monitor = LiveMonitor()
    for row in log:
        named = {"reward": _mean(row["rewards"]), "reward_std": _std(row["rewards"]), "entropy": row["entropy"], "kl": row["kl"],
                 "completions/mean_length": _mean(row["lengths"]), "frac_reward_zero_std": row["zero_groups"],
                 "grad_norm": row["grad_norm"], "loss": row["loss"]}  # fmt: skip
        if "eval" in row:
            named["eval_score"] = row["eval"]
        out += [(row["step"], f.detector, f.severity.name.lower()) for f in monitor.log(named, row["step"])]
    return out


def rlprobe_live(log: list[dict[str, Any]]) -> Alerts:
    """RunWatcher's detectors (`rlprobe watch`), looked at every 20 steps."""
    from rlprobe.doctor.engine import diagnose_view
    from rlprobe.doctor.runview import RunView
    from rlprobe.schemas import RunManifest, StepRecord

    manifest = RunManifest(run_id="r", created_at="2026-01-01T00:00:00", algorithm="grpo")
    records = [
        StepRecord(step=r["step"], reward_mean=_mean(r["rewards"]), reward_std=_std(r["rewards"]), kl_mean=r["kl"],
                   entropy_mean=r["entropy"], adv_std=r["advantage_std"], zero_variance_group_frac=r["zero_groups"],
                   group_reward_std_mean=r["group_std"], loss=r["loss"], grad_norm=r["grad_norm"],
                   completion_len_mean=_mean(r["lengths"]))
        for r in log
    ]  # fmt: skip
    out: Alerts = []
    seen: set[tuple[str, str]] = set()
    for n in range(40, len(records) + 1, 20):
        for f in diagnose_view(RunView(manifest, records[:n], samples_provider=list)):
            if (f.signature_id, f.severity) not in seen and f.severity != "info":
                seen.add((f.signature_id, f.severity))
                out.append((n, f.signature_id, f.severity))
    return out


def rlwatch_live(log: list[dict[str, Any]]) -> Alerts:
    """attach(framework="manual") and log_step: the alerts that it sends."""
    import logging

    import numpy as np
    import rlwatch

    logging.disable(logging.CRITICAL)
    monitor = rlwatch.attach(framework="manual")
    out: Alerts = []
    for r in log:
        sent = monitor.log_step(r["step"], entropy=r["entropy"], kl_divergence=r["kl"], rewards=np.array(r["rewards"]),
                                advantage_std=r["advantage_std"], loss=r["loss"], grad_norm=r["grad_norm"])  # fmt: skip
        out += [(r["step"], a.detector, a.severity) for a in sent]
    monitor.stop()
    return out


def rewardspy_live(log: list[dict[str, Any]]) -> Alerts:
    """watch(reward): one call for every fourth sample, the alerts of its detectors."""
    import rewardspy

    step, out = 0, []

    def alert(a: Any) -> None:
        out.append((step, a.detector, a.status.lower()))

    def reward(text: str, value: float) -> float:
        return value

    watched = rewardspy.watch(reward, on_alert=alert)
    for r in log:
        step = r["step"]
        for value, length in zip(r["rewards"][::4], r["lengths"][::4], strict=True):
            watched("x" * length, value)
    return out


def outdo_live(kind: str, seed: int) -> Alerts:
    """The gauge of `[audit]`, probed every ten steps; `broken` and `signatures` are visible to it by its own counters."""
    from audit_runs import PROBES, probes

    from outdo.evaluation.gauge import Gauge, Probe, Settings

    gauge = Gauge(Settings(horizon=PROBES))
    for i, p in enumerate(probes(kind, seed)):
        probe = Probe(p.step, p.reward, p.gold, p.second, p.flagged, p.broken)
        record = gauge.start(probe) if i == 0 else gauge.look(probe)
        if record["alarm"]:
            return [(p.step, str(record["alarm"]), "critical")]
    return []


LIVE: dict[str, Callable[[list[dict[str, Any]]], Alerts]] = {
    "rl-doctor": rl_doctor_live, "rlprobe": rlprobe_live, "rlwatch": rlwatch_live, "rewardspy": rewardspy_live,
}  # fmt: skip
HACKING = {  # alarms that speak of hacking, or of what was done; all others are about the run's health
    "outdo": ("L0",), "rl-doctor": ("reward_hacking", "length_hacking", "reward_composition"),
    "rlprobe": ("REWARD_HACK_LENGTH", "FORMAT_GAMING"), "rlwatch": ("reward_hacking", "reward_mean_drift"),
    "rewardspy": ("",),
}  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _std(values: list[float]) -> float:
    mean = _mean(values)
    return (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5


def inside(tool: str, case: Path, out: Path) -> None:
    """One look; the result as JSON."""
    given = json.loads(case.read_text(encoding="utf-8"))
    try:
        if "log" in given:
            out.write_text(json.dumps({"alerts": LIVE[tool](given["log"])}), encoding="utf-8")
            return
        flagged, found = STATIC[tool](Subject(given))
        out.write_text(json.dumps({"flagged": flagged, "found": found}), encoding="utf-8")
    except NotImplementedError as e:
        out.write_text(json.dumps({"not_applicable": str(e)}), encoding="utf-8")
    except BaseException as e:
        out.write_text(json.dumps({"error": f"{type(e).__name__}: {e}"[:300]}), encoding="utf-8")


# --- outside: the rewards -------------------------------------------------------------------------------------------------


def standalone(function: Callable[..., Any]) -> str:
    """The function's source with all that it uses from its own module and from outdo's, as one file."""
    imports: dict[str, None] = {}
    parts: dict[str, None] = {}

    def add(module: Any, name: str) -> None:
        source = inspect.getsource(module)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                if (node.module or "").partition(".")[0] == "outdo":
                    add(sys.modules[str(node.module)], name)
                else:
                    imports[ast.unparse(node)] = None
            elif isinstance(node, ast.Import) and any((a.asname or a.name) == name for a in node.names):
                imports[ast.unparse(node)] = None
            elif name in _defines(node):
                text = ast.get_source_segment(source, node) or ""
                if text in parts:
                    return
                used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {name}
                for other in sorted(used):
                    if other in vars(module):
                        add(module, other)
                parts[text] = None

    add(sys.modules[function.__module__], function.__name__)
    return "\n".join(["from __future__ import annotations", *imports, "", *(p + "\n" for p in parts)])


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {t.id for t in targets if isinstance(t, ast.Name)}


def entries() -> list[dict[str, Any]]:
    """All rewards: set, name, whether it is bad, hole, holes, words, rows, options."""
    import audit_rewards

    from outdo.audit import fixtures, graders
    from outdo.audit.audit import make_checks

    out: list[dict[str, Any]] = []
    for check in make_checks():
        for f in check.bad:
            holes = (*NAMES["outdo"][check.id], *ALSO.get(check.id, ()))
            key = f"{check.id} {f.reward.__name__} {f.data}"
            out.append(_entry("own", f.reward, fixtures.data(f.data), dict(f.options), check.title, holes, "", key))
    honest = {**fixtures.GOOD, "hidden_tests_subprocess": (graders.hidden_tests_subprocess, "code", {})}
    for name, (reward, data, options) in honest.items():
        out.append(_entry("own", reward, fixtures.data(data), options, "", (), "", name))
    for e in (*audit_rewards.BAD, *audit_rewards.HONEST):
        out.append(_entry("held-out", e.reward, e.rows(), {}, e.hole, e.holes, e.words, e.name))
    return out


def _entry(group: str, reward: Any, rows: Any, options: Any, hole: str, holes: Any, words: str, key: str) -> dict[str, Any]:
    first = next(iter(inspect.signature(reward).parameters))
    chat = first == "completions" and not isinstance(rows[0]["completion"], str)
    style = "two" if first != "completions" else "chat" if chat else "trl"
    return {"group": group, "key": key, "name": reward.__name__, "style": style, "rows": rows, "options": options, "hole": hole,
            "holes": list(holes), "words": words, "bad": bool(hole), "source": standalone(reward)}  # fmt: skip


def look(tool: str, python: str, case: dict[str, Any], limit: float = LIMIT_S) -> dict[str, Any]:
    """One tool on one case, in a process and folder of its own."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        if "source" in case:
            (Path(folder) / "subject_file.py").write_text(case["source"], encoding="utf-8")
        given = {k: v for k, v in case.items() if k != "source"} | {"tool": tool, "file": f"{folder}/subject_file.py"}
        (Path(folder) / "case.json").write_text(json.dumps(given), encoding="utf-8")
        out, start = Path(folder) / "out.json", time.time()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": folder}
        if tool == "outdo":
            env["PYTHONPATH"] = str(ROOT)
        command = [python, str(HERE / "audit_peers.py"), "--inside", tool, f"{folder}/case.json", str(out)]
        try:
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=limit, check=False)
            ended = f"ended with {done.returncode} and no result"
        except subprocess.TimeoutExpired:
            ended = f"no result in {limit:g} s"
        said = out.read_text(encoding="utf-8") if out.exists() else ""
        result = json.loads(said) if said else {"error": ended}
    return {"tool": tool, "key": case["key"], "seconds": round(time.time() - start, 1), **result}


def named(tool: str, case: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether a finding that counts stands for the documented hole."""
    if not result.get("flagged"):
        return False
    table = sorted(NAMES[tool].items(), key=lambda kv: -len(kv[0]))
    for name, text in result["found"]:
        holes = next((h for start, h in table if name.startswith(start)), ())
        if set(holes) & set(case["holes"]) or (case["words"] and re.search(case["words"], text)):
            return True
    return False


# --- outside: the tables --------------------------------------------------------------------------------------------------


def share(k: int, n: int) -> str:
    """k of n with its 95 % Wilson interval."""
    from outdo.evaluation.stats import wilson

    low, high = wilson(k, n)
    return f"{k} of {n} [{100 * low:.0f}, {100 * high:.0f}]"


def failing(result: dict[str, Any]) -> dict[str, Any]:
    """outdo's result with its FAILs alone."""
    found = [f for f in result.get("found", []) if f[0].endswith("FAIL")]
    return {**result, "found": found, "flagged": bool(found)}


def static_table(cases: list[dict[str, Any]], results: dict[tuple[str, str], dict[str, Any]], group: str) -> str:
    """One row a tool, on the rewards of one set."""
    bad, good = ([c for c in cases if c["group"] == group and c["bad"] == side] for side in (True, False))
    out = [f"| tool | {len(bad)} bad: flagged | hole named | {len(good)} honest: flagged | not applicable | no result |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    for row in ("outdo", "outdo, FAIL only", *list(STATIC)[1:]):
        tool = row.partition(",")[0]
        if not any((tool, c["key"]) in results for c in (*bad, *good)):
            continue
        got = {c["key"]: results.get((tool, c["key"]), {"error": "not run"}) for c in (*bad, *good)}
        got = {k: failing(r) if "only" in row else r for k, r in got.items()}
        flagged = sum(bool(got[c["key"]].get("flagged")) for c in bad)
        names = sum(named(tool, c, got[c["key"]]) for c in bad)
        alarms = sum(bool(got[c["key"]].get("flagged")) for c in good)
        away, broken = (sum(k in r for r in got.values()) for k in ("not_applicable", "error"))
        counts = (share(flagged, len(bad)), share(names, len(bad)), share(alarms, len(good)), away, broken)
        out.append(f"| {row} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(out)


def reward_table(cases: list[dict[str, Any]], results: dict[tuple[str, str], dict[str, Any]], group: str) -> str:
    """One row a reward: what each tool said of it (N named, f flagged, - not, · not applicable, x no result)."""
    tools = [t for t in STATIC if any(t == tool for tool, _ in results)]
    out = ["| reward | documented hole | " + " | ".join(tools) + " |", "|---|---|" + "---|" * len(tools)]
    for c in (c for c in cases if c["group"] == group):
        cells = []
        for t in tools:
            r = results.get((t, c["key"]), {"error": ""})
            sign = "x" if "error" in r else "·" if "not_applicable" in r else "-" if not r["flagged"] else "f"
            cells.append("**N**" if named(t, c, r) else sign)
        out.append(f"| `{c['name']}` | {c['hole'] or 'honest'} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def live_table(seeds: int, found: dict[tuple[str, str, int], Alerts]) -> str:
    """One row a detector and level: runs with an alarm, hacks named in time."""
    from audit_runs import ONSET

    from outdo.audit.selftest import HACKED, HEALTHY

    tools = [t for t in ("outdo", *LIVE) if any(t == f[0] for f in found)]
    rows = ["| detector | hacked runs: any alarm | named: an alarm about hacking, none before the hack | "
            "healthy runs: any alarm | healthy runs: an alarm about hacking |", "|---|---|---|---|---|"]  # fmt: skip
    for tool in tools:
        for level in ("any", "critical") if tool != "outdo" else ("any",):
            def alarms(kind: str, seed: int, tool: str = tool, level: str = level) -> Alerts:
                return [a for a in found[tool, kind, seed] if level == "any" or a[2] in ("critical", "alert")]

            def about(some: Alerts, tool: str = tool) -> Alerts:
                return [a for a in some if a[1].startswith(HACKING[tool])]

            hacked = [(k, alarms(k, s)) for k in HACKED for s in range(seeds)]
            healthy = [alarms(k, s) for k in HEALTHY for s in range(seeds)]
            hits = sum(bool(about(a)) and min(x[0] for x in about(a)) >= ONSET[k] for k, a in hacked)
            name = tool if tool == "outdo" else f"{tool}, {'any level' if level == 'any' else 'critical (alert) only'}"
            rows.append(f"| {name} | {share(sum(bool(a) for _, a in hacked), len(hacked))} | {share(hits, len(hacked))} | "
                        f"{share(sum(bool(a) for a in healthy), len(healthy))} | "
                        f"{share(sum(bool(about(a)) for a in healthy), len(healthy))} |")  # fmt: skip
    return "\n".join(rows)


def live(seeds: int, pythons: dict[str, str], workers: int, keep: Keep) -> dict[tuple[str, str, int], Alerts]:
    """All detectors on all runs."""
    from audit_runs import log

    from outdo.audit.selftest import HACKED, HEALTHY

    runs = [(k, s) for k in (*HEALTHY, *HACKED) for s in range(seeds)]
    found: dict[tuple[str, str, int], Alerts] = {("outdo", k, s): outdo_live(k, s) for k, s in runs}

    def one(job: tuple[str, str, int]) -> None:
        tool, kind, seed = job
        key = f"run {kind} {seed}"
        result = keep.results.get((tool, key)) or keep.add(look(tool, pythons[tool], {"key": key, "log": log(kind, seed)}))
        found[job] = [(a[0], a[1], a[2]) for a in result.get("alerts", [])]

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [(t, k, s) for s in range(seeds) for t in LIVE if t in pythons for k, _ in runs[::seeds]]))
    return found


class Keep:
    """Results so far, in a file."""

    def __init__(self, paths: str) -> None:
        """paths: a comma list; new results go to the first."""
        files = [Path(p) for p in paths.split(",")]
        self.file = files[0]
        self.own: list[dict[str, Any]] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else []
        others = [r for f in files[1:] for r in json.loads(f.read_text(encoding="utf-8"))]
        self.results = {(r["tool"], r["key"]): r for r in (*others, *self.own)}

    def add(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keeps one more."""
        self.results[result["tool"], result["key"]] = result
        self.own.append(result)
        self.file.write_text(json.dumps(self.own), encoding="utf-8")
        said = next((result[k] for k in ("flagged", "alerts", "not_applicable", "error") if k in result), None)
        print(result["tool"], result["key"], str(said)[:100], result["seconds"], file=sys.stderr, flush=True)
        return result


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="outdo's reward audit against other tools")
    parser.add_argument("--inside", nargs=3, metavar=("TOOL", "CASE", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--peers", default="/tmp/peers-venv-{}", help="a tool's virtual environment; {} is its package")
    parser.add_argument("--tools", default="", help="comma list; all if none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each kind for the detectors; 0: none")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {OUT.name}")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for one tool on one reward")
    parser.add_argument("--only", default="", help="rewards whose key matches this")
    parser.add_argument("--keep", default="/tmp/audit_peers.json", help="files of results so far, a comma list")
    args = parser.parse_args()
    if args.inside:
        inside(args.inside[0], Path(args.inside[1]), Path(args.inside[2]))
        return
    sys.path[:0] = [str(ROOT), str(HERE)]
    pythons = {t: f"{args.peers.format(p)}/bin/python" for t, p in PACKAGES.items()}
    pythons = {"outdo": sys.executable} | {t: p for t, p in pythons.items() if Path(p).exists()}
    cases = entries()
    keep = Keep(args.keep)
    chosen = args.tools.split(",") if args.tools else [*STATIC, *LIVE]
    cases.sort(key=lambda c: "```python" in str(c["rows"][0]["completion"]))  # programs take longest
    jobs = [(t, c) for t in chosen if t in STATIC and t in pythons for c in cases
            if re.search(args.only, c["key"]) and (t, c["key"]) not in keep.results]  # fmt: skip
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda job: keep.add(look(job[0], pythons[job[0]], job[1], args.limit)), jobs))
    pythons = {t: p for t, p in pythons.items() if t in chosen or t in STATIC}
    cases.sort(key=lambda c: (c["group"], not c["bad"]))
    parts = [f"### {title}\n\n{static_table(cases, keep.results, g)}\n" for g, title in
             (("held-out", "Held-out rewards"), ("own", "outdo's own fixtures"))]  # fmt: skip
    if args.seeds:
        parts.append(f"### Detectors\n\n{live_table(args.seeds, live(args.seeds, pythons, args.workers, keep))}\n")
    parts.append(f"### Held-out rewards one by one\n\n{reward_table(cases, keep.results, 'held-out')}\n")
    parts.append(f"### outdo's fixtures one by one\n\n{reward_table(cases, keep.results, 'own')}\n")
    tables = "\n".join(parts)
    print(tables)
    if args.write:
        head = OUT.read_text(encoding="utf-8").partition(MARK)[0] if OUT.exists() else ""
        OUT.write_text(f"{head}{MARK}\n\n{tables}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""After a run: what became of reward and gold, whose error the gain is, which checkpoint to take, and what to look at by eye."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from outdo.errors import UserError, check
from outdo.evaluation.agreement import best_of_n, errors
from outdo.evaluation.gauge import NAMES, best, headline
from outdo.evaluation.overoptimisation import fit
from outdo.evaluation.stats import paired_difference
from outdo.system import files

Row = dict[str, Any]


def stage_folder(run: str) -> Path:
    """The stage's folder of RUN[:stage]; of a run alone the one stage with a live audit. Raises UserError."""
    place, _, name = run.partition(":")
    folder = Path(place)
    check((folder / "recipe.toml").is_file(), f"{place!r} is not a run folder: it has no recipe.toml")
    if name:
        check((folder / "stages" / name).is_dir(), f"{place!r} has no stage {name!r}")
        return folder / "stages" / name
    audited = sorted((folder / "stages").glob("*/audit.jsonl")) or sorted((folder / "stages").glob("*/rollouts.jsonl"))
    check(bool(audited), f"{place!r} has no stage with a live audit or rollouts; put [audit] into the recipe")
    return audited[-1].parent


def read(folder: Path) -> list[Row]:
    """The probes of a stage's live audit."""
    file = folder / "audit.jsonl"
    check(file.is_file(), f"{folder} has no audit.jsonl: the recipe had no [audit]")
    return list(files.read_lines(file))


def after(run: str, verdicts: Path | None = None) -> list[str]:
    """P01 to P07 as lines. Raises UserError."""
    folder = stage_folder(run)
    records = read(folder)
    first, last = records[0], records[-1]
    out = [headline(records)]
    alarm = next((r for r in records if r["alarm"]), None)
    if alarm:
        out.append(f"alarm {alarm['alarm']} at step {alarm['step']}: {NAMES[alarm['alarm']]}")
    if (kept := best(records)) is not None:
        out.append(
            f"best checkpoint by gold: step {kept['step']}, gold {kept['gold']:.3g} [{kept['gold_ci95'][0]:.3g}, "
            f"{kept['gold_ci95'][1]:.3g}] in {folder / 'best' / str(kept['step'])}"
        )
    out.append(_decline(records))
    out += _attribution(last)
    out += _reaudit(first, last)
    if verdicts is not None:
        out.append(_by_eye(folder, verdicts))
    return out


def _decline(records: Sequence[Mapping[str, Any]]) -> str:
    """P02."""
    known = [(r["context"].get("kl_sequence"), r["gold"], r["gold_ci95"]) for r in records[1:]]
    known = [(k, g, c) for k, g, c in known if k is not None and g is not None and c is not None]
    found = (
        fit(
            [math.sqrt(max(0.0, k)) for k, _, _ in known],
            [g - (records[0]["gold"] or 0.0) for _, g, _ in known],
            [(c[1] - c[0]) / 3.92 for _, _, c in known],
        )
        if known
        else None
    )
    if found is None:
        return "decline: not measurable here (it takes four probes with the KL from the start: an algorithm with a reference)"
    return f"decline: {found.said}" + ("; a curve that only levels off fits better" if found.saturating_better else "")


def _attribution(last: Mapping[str, Any]) -> list[str]:
    """P05: what reward without gold goes with."""
    reward, gold, tokens = (np.array(last["samples"][k], float) for k in ("reward", "gold", "tokens"))
    gap = reward - gold
    known = np.isfinite(gap)
    columns = {
        "length": tokens,
        **{k: np.array(v, float) for k, v in last["samples"].items() if k not in ("reward", "gold", "tokens")},
    }
    out = []
    for name, x in columns.items():
        if known.sum() > 10 and x[known].std() > 0 and gap[known].std() > 0:
            r = float(np.corrcoef(x[known], gap[known])[0, 1])
            half = 1.96 / math.sqrt(known.sum() - 3)
            low, high = (math.tanh(math.atanh(max(-0.999, min(0.999, r))) + s * half) for s in (-1, 1))
            out.append(f"reward beyond gold goes with {name}: r = {r:+.2f} [{low:+.2f}, {high:+.2f}]")
    return out


def _reaudit(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """P07: the judge on the start's samples and on the last policy's."""
    out, cut = [], _middle(first)
    for name, r in (("start", first), ("last policy", last)):
        reward, gold = (np.array(r["samples"][k], float) for k in ("reward", "gold"))
        known = np.isfinite(reward) & np.isfinite(gold)
        right = gold[known] >= 0.5
        if right.any() and not right.all():
            e = errors(reward[known] >= cut, right, np.arange(known.sum()))
            out.append(
                f"judge on the {name}: J {e.youden.value:.2f} [{e.youden.low:.2f}, {e.youden.high:.2f}], accepts "
                f"{e.sensitivity.value:.0%} of right, refuses {e.specificity.value:.0%} of wrong (from {cut:.3g} on is "
                "a yes)"
            )
        else:
            out.append(
                f"judge on the {name}: not measurable, gold calls {'all' if right.all() else 'none'} of {known.sum()} right"
            )
    return out


def _middle(first: Mapping[str, Any]) -> float:
    low, high = first["start"]["ranges"]["reward"]
    return float((low + high) / 2)


# --- by eye ---------------------------------------------------------------------------------------------------------


def _looked_at(folder: Path) -> list[Row]:
    """Up to sixty samples: the best paid, those with most reward beyond gold, and some at random; shuffled, each once."""
    rows = [r for r in files.read_lines(folder / "rollouts.jsonl") if "gold" in r and r["score"]["value"] is not None]
    if not rows:
        raise UserError(f"{folder} has no rollouts with a reward and a gold score")
    late = [r for r in rows if r["step"] >= max(x["step"] for x in rows) / 2]
    by_reward = sorted(late, key=lambda r: -r["score"]["value"])[:20]
    gap = sorted((r for r in late if r["gold"]["value"] is not None), key=lambda r: r["gold"]["value"] - r["score"]["value"])[:20]
    rng = np.random.default_rng(0)
    some = [late[i] for i in rng.permutation(len(late))[:20]]
    chosen = list({_key(r): r for r in [*by_reward, *gap, *some]}.values())
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _key(r: Mapping[str, Any]) -> str:
    return f"{r['prompt_id']}/{r['sample']}/{r['step']}/{r['source']}"


def review(run: str) -> Path:
    """Write the page of samples to be judged by eye: their scores are not on it. Raises UserError."""
    folder = stage_folder(run)
    shown = [
        {
            "key": _key(r),
            "prompt": r["info"].get("prompt"),
            "completion": r["info"].get("completion"),
            "text": r["text"],
            "moves": " ".join(r["info"].get("uci") or ()),
        }
        for r in _looked_at(folder)
    ]
    page = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("review.jinja")
    target = folder / "audit_review.html"
    files.write_text(target, page.render(rows=shown, run=run, json=json))
    return target


def _by_eye(folder: Path, verdicts: Path) -> str:
    said = files.read_json(verdicts)
    check(
        isinstance(said, dict), f"{verdicts} is not what the review packet writes: an object of sample to right, wrong or unsure"
    )
    rows = {_key(r): r for r in _looked_at(folder)}
    both = [(rows[k], v == "right") for k, v in said.items() if k in rows and v in ("right", "wrong")]
    check(bool(both), f"{verdicts} holds no verdict on this stage's samples")
    agree = np.mean([(r["gold"]["value"] is not None and r["gold"]["value"] >= 0.5) == v for r, v in both])
    paid = np.mean([r["score"]["value"] for r, v in both if not v] or [math.nan])
    return (
        f"by eye: {sum(v for _, v in both)} of {len(both)} right; gold agrees with {agree:.0%} of the verdicts; the "
        "reward pays "
        f"{paid:.2f} for what the eye calls wrong"
    )


# --- other judges, other choices --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescored:
    """Stored rollouts under two judges."""

    run: str
    judge: str
    pairs: list[Row]
    unscored: int

    def lines(self) -> list[str]:
        """The paired difference and the table of flips."""
        a, b = (np.array([p[k] for p in self.pairs], float) for k in ("was", "now"))
        if not len(a):
            return [f"none of {self.unscored} rollouts has both scores"]
        d = paired_difference(b, a)
        cuts = [(v.min() + v.max()) / 2 for v in (a, b)]
        was, now = a >= cuts[0], b >= cuts[1]
        out = [
            f"{len(a)} rollouts of {self.run} under {self.judge}: {a.mean():.3g} -> {b.mean():.3g}, {d.value:+.3g} "
            f"[{d.ci95[0]:+.3g}, "
            f"{d.ci95[1]:+.3g}] paired; {self.unscored} without both scores",
            f"{'':<12}new yes  new no   (yes: from the middle of what was seen on, {cuts[0]:.3g} and {cuts[1]:.3g})",
        ]
        for name, side in (("old yes", was), ("old no", ~was)):
            out.append(f"{name:<12}{int((side & now).sum()):>7}  {int((side & ~now).sum()):>6}")
        flips = [p for p, x, y in zip(self.pairs, was, now, strict=True) if x != y][:3]
        return out + [f"  {p['was']:.3g} -> {p['now']:.3g}: {p['text'][:100]!r}" for p in flips]


def rescored(run: str, judge: str) -> Rescored:
    """A stage's stored rollouts under another judge. Raises UserError, also for environments with state of their own."""
    from outdo.audit import scorer as scorers
    from outdo.audit.base import Case
    from outdo.audit.host import Host

    folder = stage_folder(run)
    rows = list(files.read_lines(folder / "rollouts.jsonl"))
    check(bool(rows), f"{folder} has no rollouts.jsonl")
    check(
        not any("environment_state" in r["info"] for r in rows),
        f"{run}: its environment has state that the rollouts do not "
        "hold whole, so another judge cannot see what the first one saw; run it again with the other judge as gold",
    )
    cases = []
    for r in rows:
        info = {k: v for k, v in r["info"].items() if k not in ("prompt", "completion")}
        said = r["info"].get("completion", "")
        text = said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said)
        cases.append(Case(r["info"].get("prompt", ""), text, info, chat=not isinstance(said, str)))
    with Host(lambda: scorers.load(judge), 60.0, 64 << 30, offline=False) as host:
        results = host.score(cases)
    both = [
        {"was": r["score"]["value"], "now": n.value, "text": r["text"], "prompt_id": r["prompt_id"]}
        for r, n in zip(rows, results, strict=True)
        if r["score"]["value"] is not None and n.value is not None
    ]
    return Rescored(run, judge, both, len(rows) - len(both))


def ceiling_of(samples: str, sizes: Sequence[int]) -> list[str]:
    """Best of n by reward and by gold, from rows with prompt, reward and gold. Raises UserError."""
    from outdo.text import rows as text_rows

    by_prompt: dict[str, list[tuple[float, float]]] = {}
    for i, r in enumerate(text_rows.load(samples)):
        check(
            "prompt" in r and "reward" in r and "gold" in r,
            f"row {i} has the columns {', '.join(r)}; wanted: prompt, reward, gold",
        )
        by_prompt.setdefault(json.dumps(r["prompt"]), []).append((float(r["reward"]), float(r["gold"])))
    n = min(map(len, by_prompt.values()))
    check(n >= 2, "a prompt has one sample; best-of-n takes several of each")
    reward, gold = (np.array([[pair[k] for pair in v[:n]] for v in by_prompt.values()]) for k in (0, 1))
    curve = best_of_n(reward, gold, [k for k in sizes if k <= n])
    base, (last, g, o) = curve[0], curve[-1]
    out = [f"{'n':>4}  {'gold of the best by reward':<30}{'of the best by gold'}"]
    out += [
        f"{k:>4}  {f'{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]':<30}{b.value:.3f} [{b.low:.3f}, {b.high:.3f}]"
        for k, a, b in curve
    ]
    gain, most = g.value - base[1].value, o.value - base[2].value
    peak = max(curve, key=lambda c: c[1].value)
    out.append(
        f"at n = {last}: {gain:+.3f} of {most:+.3f} possible ({gain / most:.0%})"
        if most > 1e-9
        else "nothing to choose: gold is the same for all samples of a prompt"
    )
    if peak[0] != last and peak[1].low > g.high:
        out.append(f"gold turns down after n = {peak[0]}: the reward's favourites are not the best answers")
    return [*out, f"{len(by_prompt)} prompts, {n} samples each; 95 % intervals over prompts"]

"""examples: a judge from labelled answers. Anyone who can label fifty answers has a judge, and sees how far it can be trusted.

by = "classifier" fits a logistic regression on what a frozen language model makes of prompt and answer (the means of its last
hidden states over the answer, and the state at its end). by = "llm" shows some of the examples to a language model behind a
server. Either way the agreement with labels that it has not seen is measured before it judges, and told with the plan.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from transformers import AutoModel, AutoTokenizer

from outdo.errors import UserError, check
from outdo.evaluation.stats import auc_interval, wilson
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.judges.llm import Llm, fenced
from outdo.judges.reward_model import flops, quiet, text_of
from outdo.models import fetch
from outdo.system import randomness
from outdo.system.progress import say
from outdo.text import rows as text_rows
from outdo.types import Finish, Score, Trajectory

Floats = NDArray[np.float64]
_FOLDS = 5
_FEWEST = 10
_PENALTIES = (0.03, 0.3, 3.0, 30.0)  # of the squared weights, on standardised features; chosen inside of each fold


@dataclass(frozen=True)
class Agreement:
    """With labels that the judge has not seen. majority: what always giving the commoner label would reach."""

    n: int
    accuracy: float
    ci95: tuple[float, float]
    majority: float
    auc: float
    auc_ci95: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.ci95
        return (f"agrees with {self.accuracy:.0%} [{low:.0%}, {high:.0%}] of {self.n} labels that it has not seen (always the "
                f"commoner one: {self.majority:.0%}), AUC {self.auc:.2f} [{self.auc_ci95[0]:.2f}, {self.auc_ci95[1]:.2f}]")


class Examples(Judge):
    """The probability that an answer would be labelled good, in [0, 1]."""

    name = "examples"

    class Config(Options):
        """Options of examples."""

        data: str = ""  # rows with prompt, completion (or answer) and a label: a file, a folder, a hub id
        columns: dict[str, str] = Field(default_factory=dict)  # our column = the data's: { completion = "reply" }
        label: str = "label"  # its column: true and false, 1 and 0, or "good" and "bad"
        by: Literal["classifier", "llm"] = "classifier"
        model: str = "smollm2"  # classifier: a checkpoint, used frozen. llm: the name that the server knows
        max_tokens: int = Field(default=512, ge=8)  # classifier: of prompt and answer; the prompt's beginning is left out
        shots: int = Field(default=8, ge=2)  # llm: examples that it is shown; the others measure it
        checked: int = Field(default=50, ge=1)  # llm: at most so many of the others
        server: dict[str, Any] = Field(default_factory=dict)  # llm: options of the judge llm, such as base_url

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._flops = 0.0
        check(bool(self.config.data), "judge examples has no data; name labelled rows: data = 'labelled.jsonl'")

    def describe(self) -> str:
        """How far it can be trusted."""
        return f"judge from {len(self._labelled):,} examples ({self.config.by}, {self.config.model}): {self.agreement}"

    def spent_flops(self) -> float:
        """See `Judge.spent_flops`."""
        spent, self._flops = self._flops, 0.0
        return spent

    def spent_tokens(self) -> tuple[int, float]:
        """See `Judge.spent_tokens`."""
        return self._llm.spent_tokens() if self.config.by == "llm" else (0, 0.0)

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. Raises UserError for examples that cannot be used."""
        if self.config.by == "llm":
            return self._llm.score(trajectories)
        weights = self._fitted
        found = [unjudgeable(t, "prompt", "completion") for t in trajectories]
        able = [i for i, s in enumerate(found) if s is None]
        features = self._features([(trajectories[i].info["prompt"], trajectories[i].info["completion"]) for i in able])
        for i, p in zip(able, weights.chances(features), strict=True):
            found[i] = Score(float(p), f"looks {'good' if p >= 0.5 else 'bad'}, {p:.0%}")
        return [s for s in found if s is not None]

    @functools.cached_property
    def agreement(self) -> Agreement:
        """With labels that were kept from it: five-fold cross-validation, or the rows that the server's model was not shown."""
        labels = np.array([y for *_, y in self._labelled])
        if self.config.by == "llm":
            kept = self._labelled[self.config.shots :][: self.config.checked]
            check(len(kept) > 0, f"judge examples shows {self.config.shots} of {len(self._labelled)} rows and has none left to "
                  "be measured on; lower shots, or label more")
            scores = self._llm.score([_trajectory(prompt, answer) for prompt, answer, _ in kept])
            known = [(s.value, y) for s, (*_, y) in zip(scores, kept, strict=True) if s.value is not None]
            check(len(known) > 0, "judge examples: the server's model gave no valid verdict on any labelled row; choose "
                  "another model")
            return _agreement(np.array([v for v, _ in known]), np.array([y for _, y in known]))
        chances = np.empty(len(labels))
        fold = _folds([str(prompt) for prompt, *_ in self._labelled])
        for k in range(_FOLDS):
            test = fold == k
            if test.any() and len(set(labels[~test])) == 2:
                chances[test] = _fit(self._known[~test], labels[~test], fold[~test]).chances(self._known[test])
            else:
                chances[test] = labels[~test].mean() if (~test).any() else 0.5
        return _agreement(chances, labels)

    # --- examples -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _labelled(self) -> list[tuple[Any, Any, float]]:
        """(prompt, answer, 1 or 0), in an order that tells nothing. Raises UserError."""
        c = self.config
        out = []
        for i, row in enumerate(text_rows.load(c.data, columns=c.columns)):
            prompt, answer = row.get("prompt"), row.get("completion")
            check(prompt is not None and answer is not None, f"{c.data}, row {i}: no prompt or no completion; name them: columns "
                  "= { prompt = ..., completion = ... }")
            out.append((prompt, answer, _label(row.get(c.label), f"{c.data}, row {i}: column {c.label}")))
        check(len(out) >= _FEWEST, f"{c.data} has {len(out)} labelled rows; label at least {_FEWEST}, better fifty")
        good = sum(y for *_, y in out)
        check(0 < good < len(out), f"{c.data}: all labels say {'good' if good else 'bad'}; label some of the other kind")
        return [out[i] for i in randomness.permutation(len(out), randomness.key(0, "examples"))]

    @functools.cached_property
    def _llm(self) -> Llm:
        """The server's model, told the examples."""
        c = self.config
        lines = "\n\n".join(f"{fenced('task', _plain(prompt))}\n{fenced('answer', _plain(answer))}\nVERDICT: {int(y)}"
                            for prompt, answer, y in self._labelled[: c.shots])
        told = f"Learn from these examples what a good answer (1) and a bad one (0) is:\n\n{lines}\n\nNow judge a new one."
        rubric = {"name": "verdict", "text": "1 for an answer that is good like the good examples, 0 for one that is bad."}
        options = {"model": c.model, "instructions": told, "criteria": [rubric], "low": 0, "high": 1, **c.server}
        return Llm(Llm.Config.model_validate(options))

    # --- the classifier -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _known(self) -> Floats:
        return self._features([(prompt, answer) for prompt, answer, _ in self._labelled])

    @functools.cached_property
    def _fitted(self) -> _Weights:
        return _fit(self._known, np.array([y for *_, y in self._labelled]), _folds([str(p) for p, *_ in self._labelled]))

    @functools.cached_property
    def _base(self) -> tuple[Any, Any]:
        """Frozen model and tokenizer. Raises UserError."""
        folder = fetch.resolve(self.config.model, say)
        try:
            with quiet():
                model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
            return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoTokenizer.from_pretrained(folder)
        except Exception as e:  # transformers raises what it likes
            raise UserError(f"judge examples: {self.config.model!r} cannot be read ({type(e).__name__}: "
                            f"{' '.join(str(e).split())[:120]}); name a checkpoint of a language model") from None

    @torch.inference_mode()
    def _features(self, pairs: Sequence[tuple[Any, Any]]) -> Floats:
        """[n, 2 * width]: one text at a time, so that neighbours change nothing."""
        model, tokenizer = self._base
        out = []
        for prompt, answer in pairs:
            whole = tokenizer(text_of(tokenizer, prompt, answer), add_special_tokens=False)["input_ids"]
            own = max(1, len(tokenizer(_plain(answer), add_special_tokens=False)["input_ids"]))
            ids = whole[-self.config.max_tokens :] or [0]
            hidden = model(input_ids=torch.tensor([ids], device=model.device)).last_hidden_state[0].float()
            self._flops += flops(model, len(ids))
            out.append(torch.cat([hidden[-own:].mean(0), hidden[-1]]).cpu().numpy())
        return np.array(out, np.float64)


@dataclass(frozen=True)
class _Weights:
    """A logistic regression on standardised features."""

    centre: Floats
    scale: Floats
    weights: Floats
    bias: float

    def chances(self, features: Floats) -> Floats:
        """[n] probabilities of a good label."""
        if not len(features):
            return np.zeros(0)
        z = ((features - self.centre) / self.scale) @ self.weights + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0))))


def _fit(x: Floats, y: Floats, fold: NDArray[np.int64]) -> _Weights:
    """With the penalty whose held-out likelihood over the folds is best."""
    losses = []
    for penalty in _PENALTIES:
        total = 0.0
        for k in np.unique(fold):
            test = fold == k
            if len(set(y[~test])) == 2:
                p = np.clip(_regression(x[~test], y[~test], penalty).chances(x[test]), 1e-6, 1 - 1e-6)
                total -= float((y[test] * np.log(p) + (1 - y[test]) * np.log(1 - p)).sum())
        losses.append(total)
    return _regression(x, y, _PENALTIES[int(np.argmin(losses))])


def _regression(x: Floats, y: Floats, penalty: float) -> _Weights:
    centre, scale = x.mean(0), x.std(0) + 1e-6
    # With more features than rows the weights lie in the rows' span, so the fit is made there.
    z = (x - centre) / scale / np.sqrt(x.shape[1])
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    zs = u * s

    def loss(w: Floats) -> tuple[float, Floats]:
        t = zs @ w[:-1] + w[-1]
        p = 1.0 / (1.0 + np.exp(-np.clip(t, -30.0, 30.0)))
        g = p - y
        value = float(np.logaddexp(0.0, t).sum() - y @ t + 0.5 * penalty * w[:-1] @ w[:-1])
        return value, np.append(zs.T @ g + penalty * w[:-1], g.sum())

    w = minimize(loss, np.zeros(zs.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return _Weights(centre, scale, vt.T @ w[:-1] / np.sqrt(x.shape[1]), float(w[-1]))


def _folds(prompts: Sequence[str]) -> NDArray[np.int64]:
    """[n] rows with the same prompt fall into the same fold; the folds are as equal as that allows."""
    number = {prompt: i % _FOLDS for i, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([number[p] for p in prompts], np.int64)


def _agreement(chances: Floats, labels: Floats) -> Agreement:
    right, n = int(((chances >= 0.5) == (labels == 1.0)).sum()), len(labels)
    auc, low, high = auc_interval(chances[labels == 1.0], chances[labels == 0.0])
    return Agreement(n, right / n, wilson(right, n), float(max(labels.mean(), 1.0 - labels.mean())), auc, (low, high))


def _label(value: Any, place: str) -> float:
    """1.0 or 0.0. Raises UserError."""
    said = str(value).strip().lower()
    found = 1.0 if said in ("good", "true", "yes", "1", "1.0") else 0.0 if said in ("bad", "false", "no", "0", "0.0") else None
    check(found is not None, f"{place} holds {value!r}; labels are true and false, 1 and 0, or good and bad")
    assert found is not None
    return found


def _plain(said: Any) -> str:
    return said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said)


def _trajectory(prompt: Any, answer: Any) -> Trajectory:
    """A labelled row as judges take it."""
    ids = np.array([0, 0])
    info: Mapping[str, Any] = {"prompt": prompt, "completion": answer}
    return Trajectory("example", 0, ids, np.array([False, True]), np.zeros(2, np.float32), 0, Finish.STOP, info)

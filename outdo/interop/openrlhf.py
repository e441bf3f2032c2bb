"""Agents of OpenRLHF, told by what they are made of, `reset(states)` and `step(states)`: the package is not needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from outdo.errors import check
from outdo.interop.partners import Messages, Partner, awaited

_LABELS = ("label", "labels", "answer", "ground_truth", "solution")
_STATES = {"states", "state_dict"}  # what its users call the first argument


class Agent(Partner):
    """An agent as a partner: its feedback follows the policy's tokens as it is, its rewards add up.

    `states` of step: observation_text, action_text (with special tokens), label, sampling_params (None: they are the stage's).
    Messages of a prompt are given as their words, one a line. Raises UserError for an agent that changes the prompt.
    """

    verbatim = True

    def __init__(self, agent: Any) -> None:
        self._agent = agent.__new__(agent)
        awaited(self._agent.__init__())  # published ones have an async __init__
        self.reward, self.scores, self.extra_logs = 0.0, 0.0, dict[str, float]()
        self._label, self._seen = None, ""

    def reset(self, **row: Any) -> None:
        """See `Partner.reset`."""
        asked = row["prompt"]
        self._seen = asked if isinstance(asked, str) else "\n".join(str(m["content"]) for m in asked)
        self._label = next((row[name] for name in _LABELS if name in row), None)
        given = awaited(self._agent.reset({"observation": self._seen, "prompt": self._seen, "label": self._label}))
        check(given["observation"] == self._seen, f"agent {type(self._agent).__name__}: reset() changes the prompt; put the "
              "words into the data")

    def respond(self, messages: Messages) -> str:
        """See `Partner.respond`."""
        action = str(messages[-1]["content"])
        given = awaited(self._agent.step({"observation_text": self._seen, "action_text": action, "label": self._label,
                                          "sampling_params": None}))
        self.reward += float(given["rewards"])
        self.scores = float(given.get("scores", self.reward))
        self.extra_logs = {k: float(v) for k, v in (given.get("extra_logs") or {}).items()}
        self.done = bool(given["done"])
        feedback = str(given["environment_feedback"])
        self._seen += action + feedback
        return feedback

    def get_reward(self) -> float:
        """The sum of all steps' rewards, as OpenRLHF pays it."""
        return self.reward


def adapted(factory: Callable[[], Any]) -> Callable[[], Any]:
    """A factory of partners for an agent's class; anything else as it is."""
    step = getattr(factory, "step", None)
    if not (inspect.isclass(factory) and step and hasattr(factory, "reset") and _STATES & {*inspect.signature(step).parameters}):
        return factory
    made = partial(Agent, factory)
    made.__name__ = f"{factory.__name__} (OpenRLHF agent)"  # type: ignore[attr-defined]
    return made

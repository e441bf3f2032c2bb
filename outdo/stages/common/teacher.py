"""A teacher behind a vLLM server: the log-probabilities of its likeliest tokens at every position of given sequences.

The server is asked at /v1/completions with token ids as the prompt and `prompt_logprobs` = k, vLLM's addition to the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from outdo.errors import UserError, check
from outdo.judges.common.server import Server, Settings
from outdo.recipe import Table
from outdo.types import BoolArray, Sample, Taught, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = 48  # tokens that say whether the server's are the policy's
_HIGHEST = 1e-3  # of a log-probability: rounding
_SAME = "serve a teacher with the policy's tokenizer, or imitate its answers (kind = 'sft')"
_Positions = list[tuple[list[int], list[float], str | None] | None]


class TeacherServer(Table):
    """A teacher behind a vLLM server."""

    base_url: str  # such as "http://localhost:8000/v1"
    model: str  # the name that the server knows
    key_env: str = "OPENAI_API_KEY"  # name of the variable that holds the key; not needed on this machine
    concurrency: int = Field(default=8, ge=1)  # requests at a time
    timeout_s: float = Field(default=120.0, gt=0)  # of one request
    give_up_s: float = Field(default=300.0, gt=0)  # so long a server that fails is asked again
    price_in: float = Field(default=0.0, ge=0)  # of a million tokens
    price_out: float = Field(default=0.0, ge=0)  # one token is written for every sequence that is read
    max_cost: float | None = Field(default=None, gt=0)  # the run stops there, and can be resumed
    cache: bool = False  # keep answers on disk, for rows that are read again


class ServedTeacher:
    """taught(samples): the samples with what the teacher says of them."""

    def __init__(self, settings: TeacherServer, who: str, k: int, vocabulary: int) -> None:
        """who: in messages. k: how many tokens are told apart. vocabulary: how many the policy knows."""
        s = settings
        self._server = _Scorer(who, Settings(s.model, s.base_url, s.key_env, s.concurrency, s.timeout_s, s.give_up_s, s.price_in,
                                             s.price_out, s.max_cost, s.cache))
        self.who, self.k, self.vocabulary = f"{who} {s.base_url}", k, vocabulary

    def look(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Ask once, before anything begins. Raises UserError if nobody answers, or not with log-probs of the policy's tokens."""
        self._server.reach()
        ids = np.unique(np.linspace(0, self.vocabulary - 1, _PROBE).astype(np.int64))
        (positions,) = self._ask([ids.tolist()])
        self._likeliest(positions, np.arange(len(ids)) > 0)
        theirs = [None if p is None else p[2] for p in positions]
        pairs = [(str(tokenizer.decode([i])), other) for i, other in zip(ids.tolist(), theirs, strict=True) if other is not None]
        pairs = [(own, other) for own, other in pairs if "\ufffd" not in own + other]  # a part of a character
        differ = [(own, other) for own, other in pairs if own != other]
        if 2 * len(differ) > len(pairs):
            own, other = differ[0]
            raise UserError(f"{self.who} has another tokenizer: {len(differ)} of {len(pairs)} tokens differ, such as {other!r} "
                            f"for {own!r}; {_SAME}")

    def taught(self, samples: Sequence[Sample]) -> tuple[list[Sample], Usage]:
        """The samples with the teacher's likeliest tokens in front of each that trains, and what that cost. Raises UserError."""
        asked = [s.token_ids[: int(np.flatnonzero(s.mask)[-1]) + 1].tolist() for s in samples]  # nothing behind the last
        out = [replace(s, taught=self._likeliest(positions, s.mask[: len(positions)]))
               for s, positions in zip(samples, self._ask(asked), strict=True)]
        named = max((int(s.taught.ids.max()) for s in out if s.taught), default=0)
        check(named < self.vocabulary, f"{self.who} names token {named}, and the policy has {self.vocabulary}; {_SAME}")
        tokens, cost = self._server.spent()
        return out, Usage(judge_calls=len(asked), judge_tokens=tokens, judge_cost=cost)

    def _ask(self, sequences: Sequence[list[int]]) -> list[_Positions]:
        """What the server says at every position of each sequence. Raises UserError."""
        options = {"max_tokens": 1, "temperature": 0.0, "extra_body": {"prompt_logprobs": self.k}}
        out = []
        for ids, text in zip(sequences, self._server.ask([{"prompt": ids, **options} for ids in sequences]), strict=True):
            positions: _Positions | None = json.loads(text or "null")
            if positions is None:
                raise UserError(f"{self.who} answers without prompt_logprobs; serve the teacher with vLLM, or distil from a "
                                "local one (teacher = a folder or a hub id)")
            check(len(positions) == len(ids), f"{self.who} answers with {len(positions)} positions for {len(ids)} tokens; "
                  "it must read token ids as they are: serve the teacher with vLLM")
            out.append(positions)
        return out

    def _likeliest(self, positions: _Positions, mask: BoolArray) -> Taught:
        """The k likeliest tokens at the masked positions. Raises UserError for what cannot be such."""
        ids, logprobs = [], []
        for t in np.flatnonzero(mask):
            position = positions[t]
            found = 0 if position is None else len(position[0])
            if position is None or found < self.k:
                raise UserError(f"{self.who} gives {found} log-probabilities at position {t}, of top_k = {self.k}; lower "
                                "algorithm.top_k, or start the server with a higher --max-logprobs")
            order = np.argsort(-np.array(position[1]), kind="stable")[: self.k]  # the given token may come as one more
            ids.append(np.array(position[0])[order])
            logprobs.append(np.array(position[1], np.float32)[order])
        taught = Taught(np.stack(ids).astype(np.int64), np.stack(logprobs))
        highest = float(taught.logprobs.max())
        check(bool(np.isfinite(taught.logprobs).all()) and highest <= _HIGHEST, f"{self.who} gives {highest:g} as a "
              "log-probability; expected finite numbers of at most 0: start it without options that change logits")
        return taught


class _Scorer(Server):
    """Answers are JSON: for each position null or [ids, log-probabilities, the given token as text]; null if there are none."""

    def __init__(self, who: str, settings: Settings) -> None:
        super().__init__(settings)
        self.who = who

    def _answer(self, body: dict[str, Any]) -> str:
        answer = self.client.completions.create(**body)
        self._book(answer.usage)
        return json.dumps(_compact(answer, body["prompt"]))

    def _refused(self, request: dict[str, Any], why: str) -> str | None:
        k = request["extra_body"]["prompt_logprobs"]
        raise UserError(f"{self.who}: {self.settings.base_url} refuses a sequence of {len(request['prompt'])} tokens with "
                        f"prompt_logprobs = {k} ({why}); model must be a name that it serves, algorithm.top_k at most its "
                        "--max-logprobs, and a sequence shorter than its --max-model-len")


def _compact(answer: Any, prompt: Sequence[int]) -> _Positions | None:
    """The part of an answer that is needed; None if it is not there."""
    try:
        out: _Positions = []
        for token, given in zip(prompt, answer.choices[0].prompt_logprobs, strict=False):
            if given is None:
                out.append(None)
                continue
            logprobs = [float(entry["logprob"]) for entry in given.values()]
            out.append(([int(key) for key in given], logprobs, given.get(str(token), {}).get("decoded_token")))
        return out + [None] * (len(answer.choices[0].prompt_logprobs) - len(out))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None

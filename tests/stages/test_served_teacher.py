"""A teacher behind a server: a real one on this machine, with a transformers model, that answers in vLLM's shape or fails.

Run: .venv/bin/python -m pytest tests/stages/test_served_teacher.py   (about 30 s on one core)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import weights
from processes import forked, lines
from torch import Tensor
from toys import SMALL, config, decoder, samples, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from outdo.algorithms.distillation import Distillation
from outdo.errors import UserError
from outdo.models import hf
from outdo.recipe import OptimizerConfig
from outdo.stages.common.teacher import ServedTeacher, TeacherServer
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import Sample

pytest.importorskip("openai")
WIDE = config(max_position_embeddings=64)
Fault = Callable[[dict[str, Any], int], "str | int | None"]  # (request, its number) -> a status, a way to fail, or None


class Served(BaseHTTPRequestHandler):
    """What vLLM answers at /v1/completions: prompt_logprobs in each choice, by token id, the given token as one more."""

    model: Any
    tokenizer: Any
    asked: list[dict[str, Any]]
    fault: Fault = staticmethod(lambda request, number: None)
    lock: threading.Lock

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "big", "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/completions"
        with self.lock:
            self.asked.append(request)
            number = len(self.asked)
        fault = type(self).fault(request, number)
        if isinstance(fault, int):
            return self._send(fault, {"error": {"message": f"said {fault}", "type": "x", "code": fault}})
        if fault == "slow":
            time.sleep(1.0)
        with self.lock:
            logprobs = None if fault == "none" else self._positions(request, fault)
        choice = {"index": 0, "text": "w3", "finish_reason": "length", "logprobs": None, "prompt_logprobs": logprobs}
        n = len(request["prompt"])
        return self._send(200, {"id": "x", "object": "text_completion", "created": 0, "model": request["model"],
                                "choices": [choice], "usage": {"prompt_tokens": n, "completion_tokens": request["max_tokens"],
                                                               "total_tokens": n + request["max_tokens"]}})  # fmt: skip

    @torch.no_grad()
    def _positions(self, request: dict[str, Any], fault: str | None) -> list[Any]:
        ids, k = request["prompt"], request["prompt_logprobs"] - 2 * (fault == "few")
        found = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        out: list[Any] = [None]
        for token, row in zip(ids[1:], found[:-1], strict=True):
            ranks = {int(i): r + 1 for r, i in enumerate(row.argsort(descending=True))}
            shown = {int(i) for i in row.topk(k).indices} | {token}
            out.append({str(i): {"logprob": float(row[i]), "rank": ranks[i], "decoded_token": self._word(i, fault)}
                        for i in sorted(shown, key=lambda i: ranks[i])})  # fmt: skip
        if fault == "huge":
            out[-1] = {str(int(i) + 1000): {"logprob": -float(i) - 1.0, "rank": 1} for i in range(k)}
        if fault == "positive":
            out[-1] = {str(i): {"logprob": 3.0, "rank": 1} for i in range(k)}
        return out[1:] if fault == "short" else out

    def _word(self, i: int, fault: str | None) -> str:
        return "another" if fault == "tokenizer" else str(self.tokenizer.decode([i]))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """policy/ and teacher/, two models with one tokenizer."""
    base = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("policy", "teacher")):
        hf.save(decoder(WIDE, seed), tokenizer(SMALL.vocab_size), base / name)
    return base


Serve = Callable[..., "tuple[str, list[dict[str, Any]]]"]


@pytest.fixture
def serve(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """serve(fault) -> (base_url, what was asked)."""
    monkeypatch.setenv("OUTDO_CACHE", str(tmp_path / "cache"))
    running: list[ThreadingHTTPServer] = []

    def start(fault: Fault = lambda request, number: None) -> tuple[str, list[dict[str, Any]]]:
        asked: list[dict[str, Any]] = []
        model = AutoModelForCausalLM.from_pretrained(folders / "teacher", dtype=torch.float32)
        kind = type("Kind", (Served,), {"fault": staticmethod(fault), "asked": asked, "lock": threading.Lock(), "model": model,
                                        "tokenizer": AutoTokenizer.from_pretrained(folders / "teacher")})  # fmt: skip
        running.append(ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}/v1", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def teacher(url: str, k: int = 5, **options: Any) -> ServedTeacher:
    return ServedTeacher(TeacherServer(base_url=url, model="big", **options), "the teacher", k, SMALL.vocab_size)


def batch() -> list[Sample]:
    """Some begin with the same 18 tokens, which is worth sharing; some train nothing behind a certain token."""
    plain = samples([9, 4, 17], seed=1)
    (first,) = samples([30], seed=2)
    mask = np.arange(30) >= 18
    shared = [Sample(np.append(first.token_ids[:18], s.token_ids[18:]), mask, np.float32(1.0 * mask), np.float32(0 * mask))
              for s in samples([30, 30, 30], seed=3)]  # fmt: skip
    few = np.isin(np.arange(30), [2, 5])
    early = Sample(first.token_ids, few, np.float32(1.0 * few), 0 * first.logprobs)
    return [*plain, *shared, early]


def step(some: list[Sample], micro_tokens: int, taught_by: Path | None, **options: Any) -> tuple[dict[str, float], list[Tensor]]:
    model = decoder(WIDE)
    frozen = hf.load(taught_by).requires_grad_(False) if taught_by else None
    t = Trainer(model, Optimizer(model, OptimizerConfig()), torch.float32, micro_tokens=micro_tokens, max_grad_norm=1e9,
                vocabulary=True, teacher=frozen)  # fmt: skip
    metrics, _ = t.step(some, Distillation(Distillation.Config(**options)).loss)
    return metrics, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_tokens", [40, 10**6])
@pytest.mark.parametrize("divergence", ["reverse", "forward", "jsd"])
@pytest.mark.parametrize("k", [1, 5, 29])
def test_losses_and_gradients_are_those_of_the_local_teacher(k: int, divergence: str, micro_tokens: int, serve: Serve,
                                                             folders: Path) -> None:  # fmt: skip
    url, asked = serve()
    served, usage = teacher(url, k, price_in=1.0, price_out=100.0).taught(batch())
    options = {"divergence": divergence, "top_k": k}
    theirs, wanted = step(batch(), micro_tokens, folders / "teacher", **options)
    mine, got = step(served, micro_tokens, None, **options)
    for name in ("loss", "divergence", "agreement", "grad_norm"):
        assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    assert len(got) == len(wanted) > 0
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-4 * float(w.abs().max()) + 1e-7)
    read = sum(int(np.flatnonzero(s.mask)[-1]) + 1 for s in batch())
    assert sum(len(r["prompt"]) for r in asked) == read < sum(len(s.token_ids) for s in batch())
    assert (usage.judge_calls, usage.judge_tokens, usage.flops) == (7, read + 7, 0.0)
    assert usage.judge_cost == pytest.approx((read + 700) / 1e6)


def test_the_given_token_is_one_more_and_left_out(serve: Serve) -> None:
    """By hand: the two likeliest, best first, whatever else the server adds."""
    url, _ = serve()
    (sample,), _ = teacher(url, 2).taught(batch()[:1])
    assert sample.taught is not None and sample.taught.ids.shape == sample.taught.logprobs.shape == (int(sample.mask.sum()), 2)
    assert (np.diff(sample.taught.logprobs) <= 0).all() and (np.exp(sample.taught.logprobs).sum(1) < 1).all()


def test_failures_that_pass_are_waited_for(serve: Serve) -> None:
    faults: dict[int, str | int] = {1: 500, 2: 503, 3: 429, 4: "slow"}
    url, asked = serve(lambda request, number: faults.get(number))
    again, _ = teacher(url, timeout_s=0.5).taught(batch()[:2])
    plain, _ = teacher(serve()[0]).taught(batch()[:2])
    assert len(asked) == 6
    for a, b in zip(again, plain, strict=True):
        assert a.taught is not None and b.taught is not None and (a.taught.logprobs == b.taught.logprobs).all()


@pytest.mark.parametrize(("fault", "why"), [
    (500, "gives no answer since .*InternalServerError.*start the server and resume it"),
    ("slow", "gives no answer since .*APITimeoutError.*start the server and resume it"),
    (404, r"refuses a sequence of \d+ tokens with prompt_logprobs = 5 .*said 404.*model must be a name that it serves"),
    (401, "refuses the key in OPENAI_API_KEY"), ("none", "without prompt_logprobs; serve the teacher with vLLM"),
    ("few", "of top_k = 5; lower algorithm.top_k, or start the server with a higher --max-logprobs"),
    ("short", "answers with 8 positions for 9 tokens"), ("huge", "names token 1004, and the policy has 29"),
    ("positive", "gives 3 as a log-probability"),
])  # fmt: skip
def test_failures_that_stay_are_one_line(fault: str | int, why: str, serve: Serve) -> None:
    url, _ = serve(lambda request, number: fault)
    with pytest.raises(UserError, match=why) as error:
        teacher(url, timeout_s=0.3, give_up_s=0.6).taught(batch()[:1])
    assert "\n" not in str(error.value)


def test_money_and_cache(serve: Serve) -> None:
    url, asked = serve()
    dear = teacher(url, price_in=1e6, max_cost=5.0, concurrency=1)
    with pytest.raises(UserError, match=r"the teacher has spent \d+.00 of max_cost = 5.0; raise it and resume"):
        dear.taught(batch())
    before = len(asked)
    first, paid = teacher(url, cache=True, price_in=1.0).taught(batch())
    second, free = teacher(url, cache=True, price_in=1.0).taught(batch())
    assert len(asked) == before + 7 and paid.judge_cost > 0 == free.judge_cost == free.judge_tokens
    for a, b in zip(first, second, strict=True):
        assert a.taught is not None and b.taught is not None and (a.taught.ids == b.taught.ids).all()


def test_another_tokenizer_is_noticed(serve: Serve) -> None:
    words = tokenizer(SMALL.vocab_size)
    teacher(serve()[0]).look(words)
    with pytest.raises(UserError, match=r"another tokenizer: .*'another' for '<s>'; serve a teacher with the policy's"):
        teacher(serve(lambda request, number: "tokenizer")[0]).look(words)
    with pytest.raises(UserError, match=r"no answer from http://127\.0\.0\.1:9/v1"):
        teacher("http://127.0.0.1:9/v1").look(words)


# --- whole runs -----------------------------------------------------------------------------------------------------


def recipe(folder: Path, folders: Path, stage: str) -> Path:
    rows = [{"prompt": f"w{3 + i % 26} w{4 + i // 26} w7"} for i in range(100)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (folder / "r.toml").write_text(f'''name = "served"
threads = 1
device = "cpu"
dtype = "fp32"
checkpoint_s = 0.001
task = {{ name = "dataset", data = "prompts.jsonl", max_new_tokens = 6, max_prompt_tokens = 8 }}
judge = {{ name = "random_reward" }}
evaluation = {{ prompts = 2, points = 1 }}
[stage.opd]
kind = "distill"
from = "{folders / 'policy'}"
steps = 4
prompts = 4
optimizer = {{ lr = 1e-2 }}
{stage}
''', encoding="utf-8")  # fmt: skip
    return folder / "r.toml"


SERVER = "teacher_server = {{ base_url = \"{url}\", model = \"big\", price_in = 2.0, give_up_s = 1.0 }}\n"
TOP = "algorithm = { name = \"distillation\", top_k = 5 }\n"


@pytest.mark.slow
def test_a_run_is_that_of_the_local_teacher(serve: Serve, folders: Path, tmp_path: Path) -> None:
    url, asked = serve()
    for name, by in (("served", SERVER.format(url=url)), ("local", f'teacher = "{folders / "teacher"}"\n')):
        done = forked("run", recipe(tmp_path, folders, by + TOP), "--out", tmp_path / name, cwd=tmp_path)
        assert done.code == 0, done.err
    of = {name: lines(tmp_path / name / "stages" / "opd" / "metrics.jsonl") for name in ("served", "local")}
    for mine, theirs in zip(of["served"], of["local"], strict=True):
        assert mine["divergence"] == pytest.approx(theirs["divergence"], rel=1e-3)
        assert mine["tokens_per_episode"] == theirs["tokens_per_episode"]
    bill = [e for e in lines(tmp_path / "served" / "stages" / "opd" / "ledger.jsonl") if e["what"] == "train"]
    assert sum(e["judge_calls"] for e in bill) == 16 and len(asked) == 17, "one request looks whether all is well"
    assert sum(e["judge_tokens"] for e in bill) == sum(len(r["prompt"]) + 1 for r in asked[1:])
    assert sum(e["judge_cost"] for e in bill) == pytest.approx(2e-6 * sum(len(r["prompt"]) for r in asked[1:]))
    assert sum(e["reference_flops"] for e in bill) == 0.0, "what the server computes is not known"


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(serve: Serve, folders: Path, tmp_path: Path) -> None:
    back = threading.Event()
    url, _ = serve(lambda request, number: 500 if number > 9 and not back.is_set() else None)
    text = recipe(tmp_path, folders, SERVER.format(url=url) + TOP)
    left = forked("run", text, "--out", tmp_path / "run", cwd=tmp_path)
    assert left.code == 2 and "the run is saved: start the server and resume it" in left.err and "Traceback" not in left.err
    back.set()
    done = forked("run", "--resume", tmp_path / "run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert forked("run", text, "--out", tmp_path / "whole", cwd=tmp_path).code == 0
    assert weights(tmp_path / "run", "opd") == weights(tmp_path / "whole", "opd"), "this server always says the same"


@pytest.mark.parametrize(("stage", "why"), [
    (SERVER, "has no top_k"), (SERVER + TOP + "samples_of = \"teacher\"\n", "imitate its answers"),
    (SERVER + TOP + "temperature = 0.7\n", "are those of temperature 1"), (SERVER + TOP + "teacher = \"x\"\n", "leave out one"),
    (SERVER.replace("model", "modle") + TOP, "modle"),
    (SERVER.replace("{url}", "http://127.0.0.1:9/v1") + TOP, "no answer from"),
])  # fmt: skip
def test_bad_recipes_are_one_line(stage: str, why: str, serve: Serve, folders: Path, tmp_path: Path) -> None:
    text = stage.replace("{{", "{").replace("}}", "}").replace("{url}", serve()[0])
    done = forked("run", recipe(tmp_path, folders, text), "--out", tmp_path / "run", cwd=tmp_path)
    assert done.code == 2 and why in done.err and done.err.startswith("outdo: ") and done.err.strip().count("\n") == 0, done.err

"""One GPU: the same numbers as on the CPU, up to rounding, from the same code.

Run: .venv/bin/python -m pytest tests/test_cuda.py   (about 10 s on one core; most of it is skipped without a GPU)

Without a GPU: devices by fake tensors (tests/fake_gpu.py), and what graphs do to shapes, by running their steps directly. What
the fused attention computes is in tests/parity/test_attention.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from torch import Tensor
from toys import Ragged, as_sample, config, decoder, prompts, samples, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from outdo import recipe
from outdo.algorithms.grpo import Grpo
from outdo.errors import UserError
from outdo.evaluation.judging import recognises_wins
from outdo.models import hf
from outdo.models.critic import Critic
from outdo.models.decoder import Decoder
from outdo.models.fallback import Fallback
from outdo.recipe import OptimizerConfig
from outdo.rollout import graphs
from outdo.rollout.cache import KVCache, allocate
from outdo.rollout.engine import Engine, Sampling
from outdo.runs.check import check_recipe
from outdo.runs.resolve import compute_device
from outdo.system import machine
from outdo.training import checkpoint
from outdo.training.batch import micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import Trajectory

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
WIDE = config(hidden_size=64, intermediate_size=96, max_position_embeddings=300)  # heads of 16: the fused kernels take them
CONFIGS = {
    "plain": WIDE,
    "windows": replace(WIDE, windows=(5, None), rotary=(True, False), tie_word_embeddings=False),
    "norms and biases": replace(WIDE, qk_norm=True, qkv_bias=True, o_bias=True, mlp_bias=True),
}
LENGTHS = [3, 7, 7, 1, 12, 3, 7, 20]
SAMPLING = Sampling(turn_tokens=40, max_tokens=150, stop_ids=(4, 11))


def sampled(engine: Engine, temperature: float = 1.0, groups: int = 3, ragged: bool = False) -> list[Trajectory]:
    asked = prompts(LENGTHS)
    environment = Ragged(asked, groups) if ragged else None
    return engine.generate(asked, groups, replace(SAMPLING, temperature=temperature), 7, environment)[0]


def alike(got: list[Trajectory], want: list[Trajectory], tolerance: float) -> None:
    """The same tokens with the same log-probabilities, up to rounding."""
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=tolerance)


def trainer(device: str, kind: str = "adamw", seed: int = 0) -> Trainer:
    model, critic = decoder(WIDE, seed).to(device), Critic(WIDE.hidden_size).to(device)
    optimizer = Optimizer(model, OptimizerConfig(kind=kind, lr=1e-3), critic)  # type: ignore[arg-type]
    return Trainer(model, optimizer, torch.float32, micro_tokens=64, critic=critic)


def step(t: Trainer, seed: int = 0) -> dict[str, float]:
    return t.step(samples([30, 9, 41, 20, 5], seed=seed), Grpo().loss)[0]


# --- without a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_tensor_stays_behind_on_the_cpu() -> None:
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, here / "fake_gpu.py"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_gpu_that_is_not_there() -> None:
    asked = recipe.load(processes.TINY, {"device": "cuda"})
    if torch.cuda.is_available():
        assert compute_device(asked).type == "cuda"
        return
    assert compute_device(recipe.load(processes.TINY, {"device": "auto"})).type == "cpu"
    with pytest.raises(UserError, match=r"device = 'cuda': torch sees no GPU here \(.*\).* set device = 'auto'"):
        check_recipe(asked)


class Relaunched(graphs.Graphs):
    """Graphs whose steps run kernel by kernel, on any device, over the same rounded shapes."""

    def __init__(self) -> None:
        self._recorded, self.shapes, self.cleared = {}, set[tuple[int, int]](), 0

    def clear(self) -> None:
        self.cleared += 1

    def run(self, step: graphs.Step, inputs_2R: Tensor, seen: int, device: torch.device) -> Tensor:
        self.shapes.add((inputs_2R.shape[1], seen))
        return step(inputs_2R[0, :, None].to(device), inputs_2R[1].to(device))


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("slots", [5, 9, 24])
def test_rounded_shapes_change_nothing(slots: int, ragged: bool) -> None:
    """More rows and more keys than there are, a cache that holds an older call's tokens and grows: the same trajectories."""
    model = decoder(WIDE)
    plain, rounded = Engine(model, torch.float32, slots), Engine(model, torch.float32, slots)
    plain.load(3), rounded.load(3)
    kept = allocate(model, slots, 20, torch.float32)
    assert isinstance(kept, KVCache)
    kept.graphs = known = Relaunched()
    rounded.cache = lambda *_: kept  # type: ignore[method-assign]
    for groups, temperature in ((3, 1.0), (5, 1.0), (1, 0.0)):
        alike(sampled(rounded, temperature, groups, ragged), sampled(plain, temperature, groups, ragged), 1e-4)
    assert known.cleared, "the cache never grew: it was to move, and what was recorded with it"
    assert known.shapes and all(rows <= kept.spare and seen <= kept.capacity for rows, seen in known.shapes)


def test_few_shapes() -> None:
    rows = [graphs.round_rows(n) for n in range(1, 300)]
    assert all(r >= n for n, r in enumerate(rows, 1)) and sorted(set(rows)) == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 320]
    assert [graphs.round_seen(n) for n in (1, 128, 129)] == [128, 128, 256]


def test_limits_are_measured() -> None:
    assert machine.gemm_peak_flops(torch.float32, 2) > 1e9 and machine.copy_bandwidth() > 1e8 and machine.memory_bytes() > 1e9


# --- with one --------------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_are_the_cpus(name: str) -> None:
    got: list[list[Tensor]] = []
    for device in ("cpu", "cuda"):
        model = decoder(CONFIGS[name]).to(device)
        t = Trainer(model, Optimizer(model, OptimizerConfig()), torch.float32)
        rows = samples([40, 40, 9, 100])
        rows[1].token_ids[:20] = rows[0].token_ids[:20]
        for s in rows[:2]:
            s.mask[:20], s.mask[20] = False, True
        found: list[Tensor] = []
        for share in (False, True):
            (batch,) = micro_batches(rows, 10**6, share)
            logprobs, _ = t.forward(batch.to(model.device))
            found += [logprobs, *torch.autograd.grad(logprobs.sum(), t.parameters)]
        got.append([x.detach().cpu() for x in found])
    for ours, theirs in zip(*got, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * max(1.0, float(theirs.abs().max())))


@needs_gpu
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", CONFIGS)
def test_trajectories_are_the_cpus(name: str, temperature: float, ragged: bool) -> None:
    """Greedy and sampled: the dice do not know the device."""
    found = []
    for device in ("cpu", "cuda"):
        engine = Engine(decoder(CONFIGS[name]).to(device), torch.float32, 9)
        engine.load(3, Critic(WIDE.hidden_size).to(device))
        found.append(sampled(engine, temperature, ragged=ragged))
    alike(found[1], found[0], 1e-3)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_replay_what_would_be_launched(dtype: torch.dtype) -> None:
    """Twice over, with other weights the second time: graphs read those that lie there now."""
    model = decoder(WIDE).to("cuda")
    eager, graphed = Engine(model, dtype, 9, graphs=False), Engine(model, dtype, 9)
    for version in (1, 2):
        eager.load(version), graphed.load(version)
        for ragged in (False, True):
            got, want = sampled(graphed, ragged=ragged), sampled(eager, ragged=ragged)
            if dtype == torch.float32:
                alike(got, want, 1e-3)
            near = [abs(a.logprobs[a.mask][0] - b.logprobs[b.mask][0]) for a, b in zip(got, want, strict=True)
                    if a.token_ids[a.mask][0] == b.token_ids[b.mask][0]]  # fmt: skip
            assert len(near) > 20 and max(near) < 0.1
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)
    assert graphed._kept is not None and graphed._kept.graphs is not None and graphed._kept.graphs._recorded
    assert eager._kept is None


@needs_gpu
def test_sampler_and_trainer_agree_in_bf16() -> None:
    model = decoder(WIDE).to("cuda")
    engine = Engine(model, torch.bfloat16, 24)
    engine.load(0)
    (batch,) = micro_batches([as_sample(t) for t in sampled(engine)], 10**6)
    logprobs, _ = Trainer(model, Optimizer(model, OptimizerConfig()), torch.bfloat16).forward(batch.to(model.device))
    assert float((logprobs.detach().cpu() - batch.old_logprobs_N).abs().mean()) < 0.05


@needs_gpu
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_steps_are_the_cpus(kind: str) -> None:
    there, here = trainer("cuda", kind), trainer("cpu", kind)
    for seed in range(3):
        got, want = step(there, seed), step(here, seed)
        assert got == pytest.approx(want, rel=0.02, abs=1e-3)
    for a, b in zip(there.parameters, here.parameters, strict=True):
        torch.testing.assert_close(a.detach().cpu(), b.detach(), rtol=0.02, atol=0.01)


@needs_gpu
@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(("first", "then"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_checkpoints_know_no_device(first: str, then: str, kind: str, tmp_path: Path) -> None:
    through = trainer(first, kind)
    step(through)
    hf.save(through.model, tokenizer(WIDE.vocab_size), tmp_path)
    checkpoint.save(through, checkpoint.Progress(1, 0), tmp_path)
    want = step(through, 1)
    resumed = trainer(then, kind, seed=5)
    hf.load_weights(resumed.model, tmp_path)
    checkpoint.load(resumed, tmp_path)
    assert step(resumed, 1) == pytest.approx(want, rel=0.02, abs=1e-3)


@needs_gpu
def test_other_families_and_the_judging_test() -> None:
    torch.manual_seed(0)
    pairs = [(p.token_ids, q.token_ids) for p, q in zip(prompts([6] * 20), prompts([6] * 20, seed=1), strict=True)]
    c = GPT2Config(vocab_size=29, n_embd=32, n_layer=2, n_head=2, n_positions=160, bos_token_id=1, eos_token_id=2)
    module = GPT2LMHeadModel(c)
    found = []
    for device in ("cpu", "cuda"):
        models: list[Decoder | Fallback] = [Fallback(module).to(device), decoder(WIDE).to(device)]
        engine = Engine(models[0], torch.float32, 9)
        engine.load(0)
        found.append((sampled(engine, 0.0), [recognises_wins(m, torch.float32, pairs, 5)["value"] for m in models]))
    alike(found[1][0], found[0][0], 1e-3)
    assert found[0][1] == found[1][1]


@needs_gpu
def test_a_whole_run_and_its_resumption(tmp_path: Path) -> None:
    """From a step in the middle of the second stage, on the same device and on the other."""
    for then in ("cuda", "cpu"):
        folder = tmp_path / then
        short = ("--set", "device=cuda", "--set", "stage.rl.steps=1")
        first = processes.outdo("run", processes.TINY, *short, "--out", folder, cwd=tmp_path)
        assert first.code == 0, first.err
        (folder / "stages" / "rl" / "done.json").unlink()
        text = (folder / "recipe.toml").read_text(encoding="utf-8")
        text = text.replace('device = "cuda"', f'device = "{then}"').replace("steps = 1\n", "steps = 3\n")
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        again = processes.outdo("run", "--resume", folder, cwd=tmp_path)
        assert again.code == 0, again.err
        assert [line["step"] for line in processes.lines(folder / "stages" / "rl" / "metrics.jsonl")][-1] >= 1



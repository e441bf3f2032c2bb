"""Run as a script by test_cuda.py: the model, one training step and one decoding step on a GPU that is not there.

Fake tensors have a shape and a device but no numbers: where tensors of two devices meet they raise, as a GPU would. torch's
CPU build cannot make fake CUDA tensors that have gradients, so the device is an invented one; all that the code asks is
whether it is a CPU. The registration is for the whole process, hence a script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from toys import config, samples

from outdo.algorithms.grpo import Grpo
from outdo.models import adapt
from outdo.models.critic import Critic
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.recipe import OptimizerConfig
from outdo.rollout import cache as caches
from outdo.rollout.sampler import sample
from outdo.training.batch import micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import TokenBatch, Total

GPU = "pretended"
CONFIGS = {
    "plain": config(),
    "everything": config(qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True, windows=(5, None), rotary=(True, False),
                         tie_word_embeddings=False),
}  # fmt: skip


def made(c: DecoderConfig, lora: bool) -> Any:
    model = Decoder(c)
    if lora:
        adapt.attach(model, 4, 8.0, (), torch.Generator(), "lora")
    return moved(model)


def moved(model: Any) -> Any:
    """model.to(GPU), which cannot do it with fake tensors."""
    for module in model.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = None if p is None else nn.Parameter(p.detach().to(GPU), p.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer.to(GPU)
    return model


def train(c: DecoderConfig, kind: str, dtype: torch.dtype, share: bool, lora: bool) -> None:
    model, critic = made(c, lora), moved(Critic(c.hidden_size))
    optimizer = Optimizer(model, OptimizerConfig(kind=kind), critic)  # type: ignore[arg-type]
    trainer = Trainer(model, optimizer, dtype, critic=critic)
    rows = [replace(s, returns=s.advantages) for s in samples([30, 30, 9, 20])]
    for s in rows[:2]:  # of one prompt
        s.token_ids[:20], s.mask[:20], s.mask[20] = 1, False, True
    (batch,) = micro_batches(rows, 10**6, share)
    assert (batch.prompts is not None) == share
    batch = batch.to(torch.device(GPU))
    logprobs, values = trainer.forward(batch)
    assert values is not None and batch.returns_N is not None
    loss, metrics = Grpo().loss(TokenBatch(logprobs, batch.old_logprobs_N, batch.advantages_N, batch.sequence_N), Total(9, 3))
    (loss + (values - batch.returns_N).square().sum()).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
    optimizer.step(1.0)
    there = [loss, *metrics.values(), *(p.grad for p in trainer.parameters), *trainer.parameters]
    assert all(x is not None and x.device.type == GPU for x in there)


@torch.no_grad()
def decode(c: DecoderConfig, dtype: torch.dtype) -> None:
    model = made(c, False)
    packed = model.pack_to_sample(dtype)
    assert model.pack_to_sample(dtype, packed) is packed, "new weights lie where the old ones did"
    cache = caches.allocate(model, 8, 40, dtype)
    assert isinstance(cache, caches.KVCache)
    cache.reserve(60, 8)
    tokens, slots = torch.zeros((3, 12), dtype=torch.int64, device=GPU), torch.arange(0, 6, 2, device=GPU)
    starts, lasts = torch.zeros(3, dtype=torch.int64, device=GPU), torch.full((3,), 11, device=GPU)
    caches.layers(model, packed, cache, tokens, starts, lasts, slots, 0, 16)
    cache.copy(slots, slots + 1, 12)
    hidden = caches.layers(model, packed, cache, tokens[:, :1], starts + 12, lasts * 0, None, None, 32)
    drawn, logprobs = sample(model.logits(packed, hidden), torch.zeros(3, dtype=torch.float64, device=GPU), 1.0)
    whole = model.hidden(packed, torch.zeros((3, 12), dtype=torch.int64), wanted_N=torch.arange(3))  # from the CPU
    assert all(x.device.type == GPU for x in (drawn, logprobs, whole))


def raises(work: Callable[[], object]) -> bool:
    try:
        work()
    except RuntimeError as e:
        return "same device" in str(e)
    return False


def main() -> None:
    _setup_privateuseone_for_python_backend(GPU)
    with FakeTensorMode():
        for c in CONFIGS.values():
            for dtype in (torch.float32, torch.bfloat16):
                decode(c, dtype)
            train(c, "adamw", torch.bfloat16, share=True, lora=False)
            train(c, "muon", torch.float32, share=False, lora=False)
            train(c, "adamw", torch.bfloat16, share=False, lora=True)
        model = made(config(), False)
        packed, stranger = model.pack(torch.float32), torch.zeros((2, 24))
        assert raises(lambda: model.logits(packed, stranger)), "a tensor on the CPU goes unnoticed: this script checks nothing"


if __name__ == "__main__":
    main()

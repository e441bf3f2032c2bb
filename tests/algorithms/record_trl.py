"""Record losses and gradients of TRL 1.16 on random tensors, for test_trl.py.

    pip install --no-deps --target /tmp/trl trl==1.16.0
    PYTHONPATH=/tmp/trl:. python tests/algorithms/record_trl.py > tests/algorithms/trl.json

TRL's own loss methods compute; what surrounds them (model, accelerator, metrics) is replaced by the tensors themselves.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer

LENGTHS = (5, 3, 7, 2)  # completion tokens of four sequences
T = max(LENGTHS)
G = torch.Generator().manual_seed(0)


def random(*shape: int, scale: float = 0.4) -> Tensor:
    return torch.randn(*shape, generator=G) * scale


MASK = torch.tensor([[float(t < n) for t in range(T)] for n in LENGTHS])
OLD = (random(4, T) - 1.5) * MASK
NEW = (OLD + random(4, T)) * MASK
REF = (OLD + random(4, T)) * MASK
ADVANTAGES = torch.tensor([1.2, -0.7, 0.4, -0.9])


class Fake(MagicMock):
    """Whatever a trainer asks for; numbers and switches as given."""


def stub(**given: Any) -> Any:
    fake = Fake()
    fake.model.training = False
    fake.aux_loss_enabled = fake.use_vllm = fake._entropy_bonus_enabled = False
    fake._metrics = defaultdict(lambda: defaultdict(list))
    fake._logs = defaultdict(lambda: defaultdict(list))
    fake.accelerator.num_processes = 1
    fake.accelerator.device = "cpu"
    for name in ("gather", "gather_for_metrics"):
        setattr(fake.accelerator, name, lambda x: x)
    fake.accelerator.reduce = lambda x, reduction: x
    for key, value in given.items():
        setattr(fake, key, value)
    return fake


def record(loss: Tensor, x: Tensor) -> dict[str, Any]:
    (g,) = torch.autograd.grad(loss, x)
    return {"loss": float(loss.detach()), "gradient": [row[: LENGTHS[i % 4]].tolist() for i, row in enumerate(g)]}


def grpo(loss_type: str, low: float, high: float, beta: float = 0.0, level: str = "token") -> dict[str, Any]:
    x = NEW.clone().requires_grad_()
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    fake = stub(loss_type=loss_type, epsilon_low=low, epsilon_high=high, beta=beta, importance_sampling_level=level, args=args,
                top_entropy_quantile=1.0, off_policy_mask_threshold=None, max_completion_length=10,
                current_gradient_accumulation_steps=1)
    fake._get_per_token_logps_and_entropies = lambda *a, **k: (x, torch.zeros_like(x), None)
    ids = torch.zeros(4, T, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": MASK, "advantages": ADVANTAGES,
              "old_per_token_logps": OLD, "ref_per_token_logps": REF, "num_items_in_batch": MASK.sum()}
    return record(GRPOTrainer._compute_loss(fake, None, inputs), x)


def rloo() -> dict[str, Any]:
    """At the sampling policy itself, where its clipped ratio is 1: the gradient of plain REINFORCE."""
    x = OLD.clone().requires_grad_()
    fake = stub(epsilon_low=0.2, epsilon_high=0.2)
    fake._get_per_token_logps_and_entropies = lambda *a, **k: (x, torch.zeros_like(x), None)
    ids = torch.zeros(4, T, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": MASK, "advantages": ADVANTAGES,
              "old_logps": (OLD * MASK).sum(1)}
    return record(RLOOTrainer._compute_loss(fake, None, inputs), x)


def dpo(loss_type: str, beta: float) -> dict[str, Any]:
    """Sequences 0 and 1 are chosen, 2 and 3 rejected."""
    x = NEW.clone().requires_grad_()
    fake = stub(loss_types=[loss_type], loss_weights=[1.0], beta=beta, f_divergence_type="reverse_kl", ld_alpha=None,
                precompute_ref_logps=True, label_smoothing=0.0, use_weighting=False)
    mask = torch.cat([torch.zeros(4, 1), MASK], 1)
    ref = (REF * MASK).sum(1)
    inputs = {"input_ids": torch.zeros(4, T + 1, dtype=torch.long), "completion_mask": mask, "attention_mask": mask,
              "ref_chosen_logps": ref[:2], "ref_rejected_logps": ref[2:]}
    outputs = Fake(log_probs=x * MASK, entropy=torch.zeros(4, T), mean_logits=torch.zeros(4, T), is_top1=MASK.bool())
    return record(DPOTrainer._compute_loss(fake, lambda **k: outputs, inputs, False), x)


def kto() -> dict[str, Any]:
    """Sequences 0 and 2 are good, 1 and 3 bad; z = 0.05."""
    x = NEW.clone().requires_grad_()
    fake = stub(loss_type="kto", beta=0.3, calculate_KL=True, precompute_ref_logps=True, desirable_weight=1.0,
                undesirable_weight=0.7)
    fake._compute_kl_logps = lambda model, batch: torch.full((4,), 0.05)
    mask = torch.cat([torch.zeros(4, 1), MASK], 1)
    inputs = {"input_ids": torch.zeros(4, T + 1, dtype=torch.long), "completion_mask": mask, "attention_mask": mask,
              "label": torch.tensor([1, 0, 1, 0]), "ref_logps": (REF * MASK).sum(1), "ref_KL_logps": torch.zeros(4)}
    outputs = Fake(log_probs=x * MASK, entropy=torch.zeros(4, T), mean_logits=torch.zeros(4, T), is_top1=MASK.bool())
    return record(KTOTrainer._compute_loss(fake, lambda **k: outputs, inputs, False), x)


def reward() -> dict[str, Any]:
    """Scores of two chosen and two rejected answers, margins 0.5 and 0, centring 0.1."""
    x = torch.tensor([[0.3], [-0.8], [0.9], [-0.1]]).requires_grad_()
    fake = stub(args=SimpleNamespace(center_rewards_coefficient=0.1), _total_train_tokens=0, _tp_size=1)
    inputs = {"margin": torch.tensor([0.5, 0.0]), "attention_mask": torch.ones(4, 2)}
    loss = RewardTrainer.compute_loss(fake, lambda **k: SimpleNamespace(logits=x), inputs)
    (g,) = torch.autograd.grad(loss, x)
    return {"loss": float(loss.detach()), "scores": x[:, 0].tolist(), "gradient": g[:, 0].tolist()}


def rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return round(x, 8) if isinstance(x, float) else [rounded(v) for v in x] if isinstance(x, list | tuple) else x


def main() -> None:
    rows = {"old": OLD, "new": NEW, "ref": REF}
    out: dict[str, Any] = {"lengths": LENGTHS, "advantages": ADVANTAGES.tolist()}
    out |= {k: [row[: LENGTHS[i]].tolist() for i, row in enumerate(v)] for k, v in rows.items()}
    out |= {"grpo_paper": grpo("grpo", 0.2, 0.2, beta=0.04), "dapo": grpo("dapo", 0.2, 0.28),
            "dr_grpo": grpo("dr_grpo", 0.2, 0.2), "gspo": grpo("grpo", 3e-4, 4e-4, level="sequence"),
            "cispo": grpo("cispo", 0.0, 5.0), "rloo": rloo(),
            "dpo": dpo("sigmoid", 0.1), "ipo": dpo("ipo", 0.1), "kto": kto(), "bradley_terry": reward()}
    lines = (f" {json.dumps(k)}: {json.dumps(rounded(v))}" for k, v in out.items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

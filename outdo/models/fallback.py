"""Any other causal language model (GPT-2, GPT-NeoX, Gemma, ...) behind the fast decoder's interface, run by transformers.

Slower: no kernels of our own, sequences that share a row are computed apart, logits' positions save nothing in the layers. FLOPs
are billed as 2 per parameter outside of the embeddings and token (all experts of a mixture), plus attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from outdo.errors import check
from outdo.models.adapt import matrix
from outdo.models.base import LanguageModel, Prompts

_UNLIMITED = 1 << 20  # tokens; of a model that does not know positions


@dataclass(frozen=True)
class FallbackConfig:
    """Sizes, by the names of `models.base.Sizes`."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    layer_weights: int
    tail_weights: int = 0  # every position passes all layers


class Packed(NamedTuple):
    """Compute weights in one dtype: of the layers by name, of the head."""

    layers: dict[str, Tensor]
    head: Tensor
    bias: Tensor | None


class Fallback(LanguageModel):
    """A transformers model. Its dropout is switched off: the sampler and the trainer must agree."""

    def __init__(self, module: PreTrainedModel) -> None:
        super().__init__()
        self.module: PreTrainedModel = module.eval()  # type: ignore[no-untyped-call]
        self.origin = module.config
        self.config = sizes(module)
        self.keeps_cache: bool | None = None  # whether it computes with `rollout.fallback_cache`; None: not tried yet
        c = module.config.get_text_config()
        self._scale = float(getattr(c, "logit_scale", None) or 1.0 / (getattr(c, "logits_scaling", None) or 1.0))
        self._cap: float | None = getattr(c, "final_logit_softcapping", None)

    def pack(self, dtype: torch.dtype) -> Packed:
        weights: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, module in self.module.base_model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                if not key.startswith("lora_") and id(parameter) not in seen:  # tied ones once
                    seen.add(id(parameter))
                    weights[f"{name}.{key}".lstrip(".")] = (matrix(module) if key == "weight" else parameter).to(dtype)
        head: nn.Module = self.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        bias = getattr(head, "bias", None)
        return Packed(weights, matrix(head).to(dtype), None if bias is None else bias.to(dtype))

    def hidden(self, packed: Packed, tokens_BT: Tensor, segments_BT: Tensor | None = None,
               wanted_N: Tensor | None = None, prompts: Prompts | None = None) -> Tensor:
        """As in `LanguageModel`; every segment is computed as a row of its own, at positions from 0."""
        assert prompts is None, "every segment is computed apart"
        tokens_BT, wanted_N = tokens_BT.to(self.device), None if wanted_N is None else wanted_N.to(self.device)
        B, T = tokens_BT.shape
        first = torch.zeros((B, T), dtype=torch.bool, device=tokens_BT.device)
        first[:, 0] = True
        if segments_BT is not None:
            first[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
        row = first.flatten().cumsum(0) - 1  # of each flat position
        column = torch.arange(B * T, device=row.device) - first.flatten().nonzero().squeeze(1)[row]
        length = min(int(column.max()) + 1, self.config.max_position_embeddings)  # only padding lies beyond
        inside = column < length
        rows = tokens_BT.new_zeros(int(row[-1]) + 1, length)
        rows[row[inside], column[inside]] = tokens_BT.flatten()[inside]
        hidden = self.layers(packed, input_ids=rows, use_cache=False)[row, column.clamp(max=length - 1)]
        return hidden.view(B, T, -1) if wanted_N is None else hidden.index_select(0, wanted_N)

    def layers(self, packed: Packed, **inputs: Any) -> Tensor:
        """transformers' own forward pass up to the head -> hidden states [R, C, D]."""
        out: Tensor = functional_call(self.module.base_model, packed.layers, (), inputs).last_hidden_state
        return out

    def logits(self, packed: Packed, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, packed.head, packed.bias).float() * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    @torch.no_grad()
    def verify(self, name: str) -> None:
        """Compare with the model's own logits, and look for tokens that see the future. Raises UserError."""
        tokens = torch.arange(8)[None] % self.config.vocab_size
        packed = self.pack(torch.float32)
        ours = self.logits(packed, self.hidden(packed, tokens))
        before = self.logits(packed, self.hidden(packed, tokens[:, :5]))
        check(close(before, ours[:, :5]), f"checkpoint {name!r} ({self.module.config.model_type}) looks at tokens that are "
              "yet to come; only causal language models can write")
        theirs = self.module(input_ids=tokens, use_cache=False).logits.float()
        check(close(ours, theirs), f"checkpoint {name!r} ({self.module.config.model_type}) makes its logits in a way that outdo "
                                   "does not know; use a model of another family")


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding in float32."""
    return torch.allclose(a, b, rtol=0.0, atol=3e-4 * float(b.abs().max()))


def sizes(module: PreTrainedModel) -> FallbackConfig:
    """Sizes of a transformers model, which may be on the meta device."""
    c = module.config.get_text_config()
    lookups = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    lookups |= {id(p) for p in module.get_output_embeddings().parameters()}  # type: ignore[no-untyped-call]
    heads = int(getattr(c, "num_attention_heads", 0) or 0)
    return FallbackConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        max_position_embeddings=int(getattr(c, "max_position_embeddings", None) or _UNLIMITED),
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=heads,
        head_dim=int(getattr(c, "head_dim", None) or (c.hidden_size // heads if heads else 0)),
        layer_weights=sum(p.numel() for p in module.parameters() if id(p) not in lookups),
    )

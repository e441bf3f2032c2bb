"""Which parameters train: frozen parts, and LoRA (Hu et al., 2106.09685) in the format of the peft package.

A low-rank update lives beside the matrix that it changes, as two more parameters of the same module, and is added to it where
the model packs its compute weights. Sampler, trainer and merged checkpoint therefore compute one and the same matrix, and what
comes behind packing knows nothing of adapters. The price: gradients pass through the whole matrix, so that LoRA saves the
optimiser's memory, not arithmetic; and there is no dropout on the adapter's input. The files are peft's, tested with peft.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from outdo.errors import UserError, check

FOLDER = "adapter"  # in a checkpoint whose own weights are the merged ones
_WEIGHTS, _CONFIG, _PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
_PARTS = ("lora_A", "lora_B")


def in_layers(name: str) -> bool:
    """Whether a parameter or module belongs to one of the model's repeated layers."""
    return any(part.isdigit() for part in name.split("."))


def attach(model: nn.Module, rank: int, alpha: float, targets: Sequence[str], generator: torch.Generator, name: str) -> None:
    """Give matrices inside the layers a trainable update alpha / rank * B A, zero at first, and freeze everything else.

    targets: last parts of module names ("q_proj", "c_attn"); none: all matrices. name: what to call it in messages.
    Raises UserError for targets that the model does not have.
    """
    found = {n: m for n, m in model.named_modules() if in_layers(n) and _is_matrix(m)}
    there = sorted({_last(n) for n in found})
    unknown = [t for t in targets if t not in there]
    check(not unknown, f"{name} names {', '.join(unknown)}; the matrices of this model are {', '.join(there)}")
    model.requires_grad_(False)
    for n, module in found.items():
        if targets and _last(n) not in targets:
            continue
        rows, columns = _shape(module)
        a = nn.init.kaiming_uniform_(torch.empty(rank, columns), a=5**0.5, generator=generator)
        module.register_parameter("lora_A", nn.Parameter(a))
        module.register_parameter("lora_B", nn.Parameter(torch.zeros(rows, rank)))
        module.lora_alpha = alpha


def freeze(model: nn.Module, patterns: Sequence[str], name: str) -> None:
    """Parameters whose name contains one of the patterns do not train. Raises UserError for patterns that match nothing."""
    for pattern in patterns:
        matched = [p for n, p in model.named_parameters() if pattern in n]
        check(bool(matched), f"{name}: {pattern!r} is in no parameter's name; they are like "
                             f"{', '.join([n for n, _ in model.named_parameters()][:3])}, ...")
        for p in matched:
            p.requires_grad_(False)
    check(any(p.requires_grad for p in model.parameters()), f"{name} leaves nothing that trains; freeze less")


def matrix(module: nn.Module) -> Tensor:
    """The weight that a module computes with: its own, plus the adapter's update where it has one."""
    weight = module.get_parameter("weight")
    if "lora_A" not in module._parameters:
        return weight
    a, b = (module.get_parameter(part) for part in _PARTS)
    update = b @ a * (float(module.lora_alpha) / len(a))  # type: ignore[arg-type]
    out: Tensor = weight + (update.T if isinstance(module, Conv1D) else update)
    return out


def adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with an update, by name."""
    return {n: m for n, m in model.named_modules() if "lora_A" in m._parameters}


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, Tensor]:
    """The plain model's state: every update added to its matrix."""
    out = {k: v for k, v in model.state_dict().items() if _last(k) not in _PARTS}
    return out | {f"{n}.weight": matrix(m) for n, m in adapted(model).items()}


def save(model: nn.Module, folder: Path, base: str) -> None:
    """Write the updates as peft does. base: the folder or hub id that the model was loaded from."""
    modules = adapted(model)
    first = next(iter(modules.values()))
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
              "r": len(first.get_parameter("lora_A")), "lora_alpha": first.lora_alpha, "lora_dropout": 0.0, "bias": "none",
              "fan_in_fan_out": isinstance(first, Conv1D), "target_modules": sorted({_last(n) for n in modules})}
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file({_key(n, part): m.get_parameter(part).detach().cpu().contiguous()
               for n, m in modules.items() for part in _PARTS}, folder / _WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def load(model: nn.Module, folder: Path) -> None:
    """Read back what `save` wrote into a model with the same adapter. Raises UserError; the model is then unchanged."""
    file = folder / _WEIGHTS
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as e:
        raise UserError(f"adapter file {str(file)!r} cannot be read ({e}); it is damaged, use an earlier checkpoint") from None
    want = {_key(n, part): m.get_parameter(part) for n, m in adapted(model).items() for part in _PARTS}
    fits = want.keys() == tensors.keys() and all(tensors[k].shape == p.shape for k, p in want.items())
    check(fits, f"adapter file {str(file)!r} does not fit the stage's lora; resume with the recipe that wrote it")
    for k, p in want.items():
        p.copy_(tensors[k])


def merge(adapter: Path, out: Path) -> None:
    """Write an adapter of peft's, added to its base model, as a plain checkpoint. Raises UserError."""
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError:
        raise UserError("merging adapters takes peft; install it: pip install 'outdo[llm]'") from None
    from transformers import AutoTokenizer

    folder = adapter if (adapter / _CONFIG).is_file() else adapter / FOLDER
    check((folder / _CONFIG).is_file(), f"{str(adapter)!r} has no {_CONFIG}; give an adapter's folder, or a checkpoint with one")
    check(not out.exists(), f"{str(out)!r} exists; give a folder that does not")
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft asks transformers for an old name
            model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        base = str(model.peft_config["default"].base_model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(folder if (folder / "tokenizer_config.json").is_file() else base)
    except Exception as e:
        raise UserError(f"adapter {str(folder)!r} cannot be merged ({type(e).__name__}: {e}); is its base model where "
                        f"{_CONFIG} says?") from None
    model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)


def _key(name: str, part: str) -> str:
    """What peft calls a parameter; a `Fallback` keeps the model that it is about one level down."""
    return f"{_PREFIX}{name.removeprefix('module.')}.{part}.weight"


def _is_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and not isinstance(module, nn.Embedding)


def _shape(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a matrix, which GPT-2's layers keep the other way round."""
    rows, columns = module.get_parameter("weight").shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _last(name: str) -> str:
    return name.rpartition(".")[2]

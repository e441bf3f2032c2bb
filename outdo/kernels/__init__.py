"""Compiled CPU kernels: what lies between a decoder's large products, a layer's second half, small weights' gradients, Muon.

Eager PyTorch walks memory once per operation and calls from Python once per walk; for models of up to some hundred million
parameters that takes as long as the products. `kernels.c` and what it includes are compiled once per machine by the C compiler
that is there, in about five seconds, and kept in the user's cache. Where there is none, or OUTDO_KERNELS=off, the callers compute
the same by PyTorch: those are the slow twins that tests/parity compares with. Tensors are contiguous, bf16, and lie on a CPU
with AVX-512's products of bf16.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from outdo.models.fetch import cache

_HERE = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_PANEL, _BLOCK = 48, 64  # as in kernels.c
_P, _L, _F, _I = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
_ARGUMENTS = {  # as in kernels.c, without the number of threads that all end with
    "normalize": (_P, _P, _P, _P, _P, _L, _L, _F),
    "normalize_backward": (_P, _P, _P, _P, _P, _L, _L),
    "swiglu": (_P, _P, _L, _L),
    "swiglu_backward": (_P, _P, _P, _P, _L, _L),
    "pack_rows": (_P, _P, _P, _L, _L, _L, _F),
    "pack_rows_backward": (_P, _P, _P, _P, _P, _L, _L, _L, _F),
    "rotate": (_P, _P, _L, _L, _L, _L, _L),
    "attend_cached": (_P, _P, _P, _P, _P, _P, _P, _L, _L, _L, _L, _L, _L, _L, _L),
    "pack_panels": (_P, _P, _L, _L),
    "pack_panels_across": (_P, _P, _L, _L),
    "multiply_panels": (_P, _P, _P, _P, _L, _L, _L),
    "outer": (_P, _P, _P, _L, _L, _L),
    "after_attention": (*[_P] * 11, _L, _L, _L, _L, _F),
    "after_attention_backward": (*[_P] * 15, _L, _L, _L, _L),
    "muon": (_P, _P, _P, _P, _P, _L, _F, _F, _F, _F, _F, _F, _L),
    "visible": (_P, _P, _P, _P, _L, _L, _L),
    "attend_causal": (_P, _P, _P, _P, _L, _L, _L, _L, _L, _L),
    "attend_causal_backward": (_P, _P, _P, _P, _P, _P, _P, _L, _L, _L, _L, _L, _L, _L),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, compiled now if they are not in the cache; None where that cannot be."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if os.environ.get("OUTDO_KERNELS") == "off" or compiler is None:
        return None
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
        for name, types in _ARGUMENTS.items():
            getattr(found, name).argtypes, getattr(found, name).restype = (*types, _I), None
    except AttributeError:  # a processor for which nothing is compiled
        return None
    except (OSError, subprocess.SubprocessError) as e:
        print(f"outdo: warning: the kernels for this processor could not be compiled ({type(e).__name__}: {e}); PyTorch computes",
              file=sys.stderr)
        return None
    return found


def decided() -> str:
    """Which kernels compute in this process, found out now: "compiled" or "torch". It never changes afterwards."""
    return "torch" if library() is None else "compiled"


def _compiled(compiler: str) -> Path:
    """The library's file: one for all sources, each compiler and processor, for a cache may be shared by machines."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    sources = [file.read_bytes() for file in sorted(_HERE.glob("*.c"))]
    mark = hashlib.sha256(b"\0".join([*sources, version, " ".join(_FLAGS).encode(), _processor()])).hexdigest()[:16]
    target = cache() / "kernels" / f"{mark}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f".{mark}.{os.getpid()}.so")  # two processes may compile at once: each its own, the last stays
        try:
            subprocess.run([compiler, *_FLAGS, str(_HERE / "kernels.c"), "-o", str(made), "-lm"], capture_output=True, check=True,
                           timeout=300)
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
    return target


def _processor() -> bytes:
    """What -march=native goes by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})).encode()


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for such tensors."""
    return dtype == torch.bfloat16 and device.type == "cpu" and library() is not None


def attends(keys: Tensor) -> bool:
    """Whether `attend_cached` is there for a cache of such keys."""
    return usable(keys.device, keys.dtype) and keys.shape[-1] in (32, 64, 128)


def _call(name: str, *arguments: Tensor | float | None) -> None:
    plain = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    getattr(library(), name)(*plain, torch.get_num_threads())


def normalize(x: Tensor, more: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """[..., D] -> total = x + more (without more x itself), total / root of mean(total^2) + eps, 1 / root [...] in float32."""
    total, y = x if more is None else torch.empty_like(x), torch.empty_like(x)
    inverse = x.new_empty(x.shape[:-1], dtype=torch.float32)
    _call("normalize", x, more, total, y, inverse, inverse.numel(), x.shape[-1], eps)
    return total, y, inverse


def normalize_backward(grad_y: Tensor, grad_total: Tensor | None, y: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of the total."""
    out = torch.empty_like(y)
    _call("normalize_backward", grad_y, grad_total, y, inverse, out, inverse.numel(), y.shape[-1])
    return out


def swiglu(x: Tensor) -> Tensor:
    """[..., 2 F] -> silu of the first half times the second."""
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    _call("swiglu", x, out, x.numel() // max(2 * width, 1), width)
    return out


def swiglu_backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`swiglu` of x once more, and the gradient of x."""
    y, out = torch.empty_like(grad), torch.empty_like(x)
    _call("swiglu_backward", x, grad, y, out, grad.numel() // max(grad.shape[-1], 1), grad.shape[-1])
    return y, out


def pack_rows(weight: Tensor, norm: Tensor | None, out: Tensor, pairs: int, scale: float) -> None:
    """weight [F, D] and norm [D] in float32 -> out: weight * norm * scale.

    pairs: the size of heads whose halves' rows become neighbours; 0: none do.
    """
    _call("pack_rows", weight, norm, out, *weight.shape, pairs, scale)


def pack_rows_backward(grad: Tensor, weight: Tensor, norm: Tensor | None, pairs: int,
                       scale: float) -> tuple[Tensor, Tensor | None]:
    """Gradients of the weight and, where there is one, of norm: the latter in parts [some, D] to be summed."""
    F, D = weight.shape
    of_weight, of_norm = torch.empty_like(weight), None if norm is None else weight.new_empty(-(-F // _BLOCK), D)
    _call("pack_rows_backward", grad, weight, norm, of_weight, of_norm, F, D, pairs, scale)
    return of_weight, of_norm


def rotate_(qkv: Tensor, turn: Tensor, heads: int, kv_heads: int) -> None:
    """Rotary positions of q and k in qkv [B, T, (H + 2 K) * d], in place; turn complex64 [T, 1, d/2] or [B, T, 1, d/2]."""
    d = 2 * turn.shape[-1]
    _call("rotate", qkv, turn, qkv.shape[0] * qkv.shape[1], turn.numel() // turn.shape[-1], qkv.shape[2],
          heads + kv_heads, d)


class Panels(NamedTuple):
    """A matrix [F, D] in the order in which `multiply` reads it. Few rows times a large matrix is bound by reading the matrix."""

    panels: Tensor  # int32 [ceil(F / 48), D / 2, 48]
    rows: int  # F


def pack(weight: Tensor) -> Panels:
    """[F, D], D even."""
    F, D = weight.shape
    panels = torch.empty((-(-F // _PANEL), D // 2, _PANEL), dtype=torch.int32)
    _call("pack_panels", weight, panels, F, D)
    return Panels(panels, F)


def multiply(x: Tensor, weight: Panels, bias: Tensor | None) -> Tensor:
    """x [..., D] W' + bias -> [..., F]."""
    out = x.new_empty(*x.shape[:-1], weight.rows)
    _call("multiply_panels", x, weight.panels, bias, out, x.numel() // x.shape[-1], weight.rows, x.shape[-1])
    return out


def pack_across(weight: Tensor) -> Panels:
    """[D, F], D even: `multiply` with it is x @ weight."""
    D, F = weight.shape
    panels = torch.empty((-(-F // _PANEL), D // 2, _PANEL), dtype=torch.int32)
    _call("pack_panels_across", weight, panels, F, D)
    return Panels(panels, F)


def muon_(weights: Sequence[Tensor], grads: Sequence[Tensor], means: Sequence[Tensor], lr: float, momentum: float,
          weight_decay: float, coefficients: tuple[float, float, float], iterations: int) -> None:
    """One step of Muon for matrices with even sides, all in float32: weights and the running means of their gradients change."""
    n = len(weights)
    pointers = [(_P * n)(*(x.data_ptr() for x in xs)) for xs in (weights, grads, means)]
    sides = [(_L * n)(*(w.shape[i] for w in weights)) for i in (0, 1)]
    addresses = [*map(ctypes.addressof, pointers), *map(ctypes.addressof, sides)]
    _call("muon", *addresses, n, lr, momentum, weight_decay, *coefficients, iterations)


def outer(grad: Tensor, x: Tensor) -> Tensor:
    """grad [..., F], x [..., D] -> the sum of all rows' outer products [F, D]; for small ones, whose sums stay in the cache."""
    out = x.new_empty(grad.shape[-1], x.shape[-1])
    _call("outer", grad, x, out, x.numel() // x.shape[-1], *out.shape)
    return out


class Between(NamedTuple):
    """What `after_attention` leaves for its way back, [..., D], [...], [..., 2 F], [..., D] and [...]."""

    y1: Tensor
    inverse1: Tensor
    inner: Tensor
    y: Tensor
    inverse: Tensor


def after_attention(x: Tensor, mixed: Tensor, o: Panels, gate_up: Panels, down: Panels, eps: float,
                    keep: bool) -> tuple[Tensor, Tensor, Between | None]:
    """x [..., D], mixed [..., A] -> first = x + mixed o', total = first + swiglu(normalised first gate_up') down'.

    And the latter normalised; keep: also what the way back needs.
    """
    rows, D, F = x.numel() // x.shape[-1], x.shape[-1], gate_up.rows // 2
    total, y = torch.empty_like(x), torch.empty_like(x)
    between = None
    if keep:
        inverses = x.new_empty(2, *x.shape[:-1], dtype=torch.float32)
        between = Between(torch.empty_like(x), inverses[0], x.new_empty(*x.shape[:-1], 2 * F), y, inverses[1])
    y1, inverse1, inner, _, inverse = between or [None] * 5
    _call("after_attention", x, mixed, o.panels, gate_up.panels, down.panels, y1, inverse1, inner, total, y, inverse, rows, D,
          mixed.shape[-1], F, eps)
    return total, y, between


def after_attention_backward(grad_y: Tensor, grad_total: Tensor | None, o: Panels, gate_up: Panels, down: Panels,
                             between: Between) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """o, gate_up, down: the weights by `pack_across`.

    Gradient of total, swiglu's result once more, gradients of swiglu's input, of first and of mixed.
    """
    y, inner = between.y, between.inner
    rows, D, F, A = y.numel() // y.shape[-1], y.shape[-1], inner.shape[-1] // 2, o.rows
    of_total, of_first, of_inner = torch.empty_like(y), torch.empty_like(y), torch.empty_like(inner)
    hidden, of_mixed = y.new_empty(*y.shape[:-1], F), y.new_empty(*y.shape[:-1], A)
    _call("after_attention_backward", grad_y, grad_total, o.panels, gate_up.panels, down.panels, *between, of_total, hidden,
          of_inner, of_first, of_mixed, rows, D, A, F)
    return of_total, hidden, of_inner, of_first, of_mixed


def visible(segments_BT: Tensor, parents_BT: Tensor | None = None, positions_BT: Tensor | None = None,
            window: int | None = None) -> Tensor:
    """Which keys of its row each query sees, as `attention.causal_bias` says it, in bits [B, T, words of 16]."""
    B, T = segments_BT.shape
    small = [x if x is None else x.to(torch.int32).contiguous() for x in (segments_BT, parents_BT, positions_BT)]
    bits = torch.empty((B, T, -(-T // 16)), dtype=torch.int16)
    _call("visible", *small, bits, B, T, window or 0)
    return bits


def attend_causal(qkv: Tensor, bits: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor]:
    """Rotated qkv [B, T, (H + 2 K) * d], bits of `visible` of each row or of one for all -> mixed [B, T, H * d].

    And the logarithms of what the weights were divided by, [B, H, T] in float32.
    """
    B, T, width = qkv.shape
    d = width // (heads + 2 * kv_heads)
    mixed, normaliser = qkv.new_empty(B, T, heads * d), qkv.new_empty(B, heads, T, dtype=torch.float32)
    _call("attend_causal", qkv, bits, mixed, normaliser, B, T, heads, kv_heads, d, len(bits))
    return mixed, normaliser


def attend_causal_backward(qkv: Tensor, bits: Tensor, turn: Tensor | None, mixed: Tensor, normaliser: Tensor, grad: Tensor,
                           heads: int, kv_heads: int) -> Tensor:
    """Gradient of qkv before its rotation by `turn` (None: there was none)."""
    B, T, width = qkv.shape
    out, d = torch.empty_like(qkv), width // (heads + 2 * kv_heads)
    _call("attend_causal_backward", qkv, bits, turn, mixed, normaliser, grad, out, B, T, heads, kv_heads, d,
          len(bits), 0 if turn is None else turn.numel() // turn.shape[-1])
    return out


def attend_cached(qkv: Tensor, turn: Tensor | None, starts: Tensor, slots: Tensor | None, keys: Tensor, values: Tensor,
                  heads: int, window: int | None) -> Tensor:
    """C new tokens of each row: their keys and values into the cache, and their attention to what it then holds of their row.

    qkv [R, C, (H + 2 K) * d] before its rotation; turn: the whole table [positions, 1, d/2]; starts [R] int64: how many tokens
    each slot holds; slots [R] int64, None: row r has slot r; keys and values [slots, K, U, d]. -> mixed [R, C, H * d].
    """
    R, C, _ = qkv.shape
    _, kv_heads, capacity, d = keys.shape
    mixed = qkv.new_empty(R, C, heads * d)
    starts, slots = starts.contiguous(), None if slots is None else slots.contiguous()
    _call("attend_cached", qkv, turn, starts, slots, keys, values, mixed, R, C, heads, kv_heads, d, capacity,
          0 if turn is None else len(turn), window or 0)
    return mixed

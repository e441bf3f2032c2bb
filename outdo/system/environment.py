"""What a run was made with: versions, commit and diff, hardware, threads, and the device's limits measured then."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import outdo
from outdo import kernels
from outdo.system import machine

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "chess", "pydantic")


def describe(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """JSON-serialisable. Measures for about a second."""
    names = {torch.bfloat16: "bf16", torch.float32: "fp32"}
    return {
        "outdo": outdo.__version__,
        "python": platform.python_version(),
        "packages": {p: importlib.metadata.version(p) for p in _PACKAGES},
        "command": [{"__main__.py": "outdo"}.get(name := Path(sys.argv[0]).name, name), *sys.argv[1:]],
        "git": _git(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "memory_bytes": machine.memory_bytes(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "compute_dtype": names[dtype],
        "kernels": kernels.decided() if device.type == "cpu" else "torch",
        "gemm_peak_flops_per_s": {n: machine.gemm_peak_flops(d, device=device) for d, n in names.items()},
        "copy_bytes_per_s": machine.copy_bandwidth(device),
    }


def thread_peak_flops(described: dict[str, Any]) -> float:
    """FLOP/s of a matrix product per thread, of what `describe` gave; 0 where it says nothing."""
    peak: float = described.get("gemm_peak_flops_per_s", {}).get(described.get("compute_dtype"), 0.0)
    return peak / (described.get("threads") or 1)


def _git() -> dict[str, str] | None:
    """Commit and uncommitted diff of outdo's own checkout, if it is one."""

    def git(*words: str) -> str:
        folder = Path(outdo.__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "diff": git("diff", "HEAD")}
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

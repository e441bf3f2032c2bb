"""Lines beside the table of scores: each reward function's own mean, and what stages measured on rows that never trained."""

from __future__ import annotations

from typing import Any


def lines(summary: dict[str, Any]) -> list[str]:
    """Of a summary.json."""
    return [*(_parts(p) for p in summary.get("players", []) if p["decode"] == "sampled" and len(_of(p)) > 1),
            *(_heldout(r) for r in summary.get("heldout", []))]


def _of(player: dict[str, Any]) -> dict[str, float]:
    parts = player["extra"].get("parts")
    return {k: v for k, v in parts.items() if isinstance(v, int | float)} if isinstance(parts, dict) else {}


def _parts(player: dict[str, Any]) -> str:
    split = f", {player['split']}" if player.get("split") not in (None, "heldout") else ""
    return f"{player['name']} (sampled{split}): " + ", ".join(f"{name} {mean:.3g}" for name, mean in _of(player).items())


def _heldout(r: dict[str, Any]) -> str:
    low, high = r["ci95"]
    said = f"{r['stage']}: {str(r['metric']).replace('_', ' ')} {r['value']:.1%} ({100 * low:.1f} to {100 * high:.1f})"
    if "auc" in r:
        low, high = r["auc_ci95"]
        said += (f", AUC within prompts {r['auc']:.3f} ({low:.3f} to {high:.3f}; {r['prompts']} prompts), "
                 f"calibration error {r['calibration_error']:.3f}")
    return said + f", n = {r['n']} held-out pairs"

"""What tests read from run folders: final weights, and what the ledger keeps of a stage."""

from __future__ import annotations

from pathlib import Path

from outdo.ledger import ledger
from outdo.types import Usage


def weights(folder: Path, stage: str) -> bytes:
    (checkpoint,) = (folder / "stages" / stage / "checkpoints").iterdir()
    return (checkpoint / "model.safetensors").read_bytes()


def kept(folder: Path, stage: str, what: str) -> tuple[int, Usage]:
    """Number and sum of the ledger's events that were not redone."""
    events = ledger.read(folder / "stages" / stage / "ledger.jsonl")
    events = [e for e in events if e["what"] == what and not e.get("redone")]
    return len(events), ledger.total(events)


def redone(folder: Path, stage: str) -> int:
    return sum(bool(e.get("redone")) for e in ledger.read(folder / "stages" / stage / "ledger.jsonl"))

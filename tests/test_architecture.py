"""The rules of docs/dev/architecture.md that a machine can check: who may import whom, and what the core never does."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stage_cli"

# The floors of the house, from the ground up. A module may import those of lower floors, and its own room's. Rooms on
# one floor do not know each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"core.machine", "core.stems"}),
    frozenset({"core.files"}),
    frozenset({"core.audio", "core.pictures"}),
    frozenset({"core.music"}),
    frozenset({"core.codec", "core.lm"}),
    frozenset({"core.model_config", "core.precision", "core.generation", "core.contexts"}),
    frozenset({"core.weights", "core.accompany"}),
    frozenset({"core.text", "core.stem_files"}),
    frozenset({"core.model"}),
    frozenset({"core.players"}),
    frozenset({"core.data"}),
    frozenset({"core.band"}),
    frozenset({"core.training", "core.evaluation", "core.bench"}),
    frozenset({"cli"}),
)
# What many rooms read: defaults and settings, which import no torch. (Importing a package's __init__ counts too.)
OPEN_TO_ALL = frozenset({"stage_cli", "stage_cli.core"})

# Imported only by the path that needs them, inside a function.
NEVER_AT_IMPORT = frozenset({
    "transformers", "lightning", "matplotlib", "essentia", "huggingface_hub",
    "accelerate", "peft", "tensorboard", "wandb", "mido", "torchaudio", "librosa", "pedalboard",
})  # fmt: skip
HEAVY = NEVER_AT_IMPORT | {"torch", "scipy", "soundfile", "soxr"}


def _modules() -> dict[str, Path]:
    """Dotted names of all modules, without the package's own name: `core.lm.config`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = _modules()


def _imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Absolute names that a file imports; with `at_import_only` not those in functions and under TYPE_CHECKING."""

    def walk(node: ast.AST, *, inside: bool) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if inside and at_import_only:
                return
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute"
                yield child.module or ""
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            elif at_import_only and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside=inside or function)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), inside=False)


def _room(module: str) -> str:
    """`core.lm.config` → `core.lm`; `cli.app` → `cli`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "core" else parts[0]


def _floor(room: str) -> int | None:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


def _own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports."""
    names = {name.removeprefix("stage_cli.") for name in _imports(path) if name.startswith("stage_cli.")}
    return {name for name in names if name in MODULES and f"stage_cli.{name}" not in OPEN_TO_ALL}


def test_every_room_has_a_floor() -> None:
    rooms = {_room(module) for module in MODULES} - {"", "core", "__main__"}
    unplaced = sorted(room for room in rooms if _floor(room) is None)
    assert unplaced == [], "say in FLOORS where they stand"
    placed = [room for rooms in FLOORS for room in rooms]
    assert len(placed) == len(set(placed))


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@functools.cache
def _calls(module: str) -> list[tuple[str, ast.Call]]:
    """Each call in a module, with the name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(_tree(module)) if isinstance(node, ast.Call)]


def _core() -> list[str]:
    return [name for name in MODULES if name.startswith("core")]


def test_imports_run_downward() -> None:
    upward = []
    for module in MODULES:
        room = _room(module)
        floor = _floor(room)
        if room in ("", "core", "__main__") or floor is None:  # the first are no rooms; the second has a test above
            continue
        for imported in _own_imports(MODULES[module]):
            target = _room(imported)
            below = _floor(target)
            if target != room and not (below is not None and below < floor):
                upward.append(f"{module} imports {imported}: {target} does not lie below {room}")
    assert upward == []


def test_the_walk_finds_what_it_should() -> None:
    """A checker that sees nothing would pass everything."""
    assert {"core.weights.checkpoint", "core.lm.transformer", "errors"} <= _own_imports(MODULES["core.model"])
    assert "transformers" in set(_imports(MODULES["core.text"]))
    assert "transformers" not in set(_imports(MODULES["core.text"], at_import_only=True))
    assert "torch" in set(_imports(MODULES["core.lm.transformer"], at_import_only=True))


IMPURE_CALLS = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "breakpoint", "eval", "exec"}
IMPURE_IMPORTS = {"typer", "click", "rich", "tqdm", "logging", "argparse"}


def test_the_core_is_pure() -> None:
    impure = []
    for module in _core():
        for called, _ in _calls(module):
            if called in IMPURE_CALLS or called.startswith(("sys.stdout.", "sys.stderr.", "warnings.warn")):
                impure.append(f"{module} calls {called}")
        roots = {name.split(".")[0] for name in _imports(MODULES[module])}
        impure += [f"{module} imports {name}" for name in roots & IMPURE_IMPORTS]
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.Global):
                impure.append(f"{module} changes its globals {node.names}")
            elif isinstance(node, ast.Name) and node.id == "SystemExit":
                impure.append(f"{module} names SystemExit")
    assert impure == []


def test_no_pickle_is_read_with_trust() -> None:
    trusting = []
    for module in _core():
        for called, node in _calls(module):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = called in ("pickle.load", "pickle.loads", "joblib.load") or "trust_remote_code" in options
            if unsafe or (called == "torch.load" and options.get("weights_only") != "True"):
                trusting.append(f"{module}: {ast.unparse(node)}")
    assert trusting == []


def test_heavy_libraries_are_imported_where_they_are_needed() -> None:
    early = []
    for module in MODULES:
        roots = {name.split(".")[0] for name in _imports(MODULES[module], at_import_only=True)}
        early += [f"{module}: {name}" for name in roots & (HEAVY if module.startswith("cli") else NEVER_AT_IMPORT)]
    assert early == []


def test_random_numbers_are_passed_in() -> None:
    """Global generators would make a seed worth nothing."""
    seedless = []
    for module in MODULES:
        for called, node in _calls(module):
            bad = called in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed")
            if called in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.multinomial"):
                bad = all(keyword.arg != "generator" for keyword in node.keywords)
            if match := re.fullmatch(r"(?:np\.random|numpy\.random|random)\.(\w+)", called):
                known = match[1] in ("Generator", "PCG64", "SeedSequence", "default_rng", "Random")
                bad = not known or not (node.args or node.keywords)  # without a seed it takes the system's
            if bad:
                seedless.append(f"{module}: {ast.unparse(node)}")
    assert seedless == []


NUMBERS = {"numpy", "scipy"}
LIBRARIES = {"torch", "transformers", "huggingface_hub", "soundfile", "soxr", "essentia", "mir_eval", "librosa", "peft"}
# What a program may do without these: choose, read and check settings, and find what there is.
WITHOUT: list[tuple[str, set[str]]] = [
    (
        """
from stage_cli.core.bench import settings
from stage_cli.core.codec import config
from stage_cli.core.generation import config
from stage_cli.core.lm import config
from stage_cli.core import model_config, stems
from stage_cli.core.training import events
from stage_cli.core.training.toml import load_config, to_toml
from stage_cli.core.weights import hub
import stage_cli.cli.app
to_toml(load_config("tiny", []))
""",
        LIBRARIES | NUMBERS | {"rich", "accelerate", "yaml"},
    ),
    (
        """
from stage_cli.core.data import shards, splits
from stage_cli.core.evaluation import intervals, music
""",
        LIBRARIES - {"soundfile"} | {"scipy", "beat_this"},
    ),
    ("from stage_cli.core.weights import inspection", LIBRARIES | {"scipy"}),
]


def test_programs_import_nothing_heavy_that_they_do_not_need() -> None:
    for script, heavy in WITHOUT:
        code = f"{script}\nimport sys\nprint(*({heavy!r} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.split() == [], script


def test_the_core_knows_no_options() -> None:
    """Its messages name fields; `cli/console.py` spells them as options. Only whole command lines name options."""
    found = []
    for module in _core():
        nodes = list(ast.walk(_tree(module)))
        in_pieces = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in in_pieces:
                text = node.value
            else:
                continue
            whole_command = re.search(r"stage [a-z]|style=|pip install|launch", text)
            if re.search(r"(?<![\w-])--[a-z]{2}", text) and not whole_command:
                found.append(f"{module}: {text.strip().splitlines()[0]}")
    assert found == []


def test_a_class_name_occurs_once() -> None:
    found: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}

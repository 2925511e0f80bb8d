"""The rules of docs/architecture.md that a machine can check: who may import whom, and what the core never does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stage_cli"

# The floors of the house, from the ground up. A module may import those of lower floors, and its own room's. Rooms on
# one floor do not know each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"core.files", "core.machine", "core.stems"}),
    frozenset({"core.audio", "core.pictures"}),
    frozenset({"core.music"}),
    frozenset({"core.codec", "core.lm"}),
    frozenset({"core.model_config", "core.precision", "core.generation"}),
    frozenset({"core.weights"}),
    frozenset({"core.text"}),
    frozenset({"core.model"}),
    frozenset({"core.accompaniment", "core.data"}),
    frozenset({"core.band"}),
    frozenset({"core.training", "core.evaluation", "core.bench"}),
    frozenset({"cli"}),
)
# What many rooms read: defaults and settings, which import no torch. (Importing a package's __init__ counts too.)
OPEN_TO_ALL = frozenset({"stage_cli", "stage_cli.core"})

# Imported only by the path that needs them, inside a function.
NEVER_AT_IMPORT = frozenset({
    "transformers", "lightning", "matplotlib", "essentia", "huggingface_hub",
    "accelerate", "peft", "tensorboard", "wandb",
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


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("", "core", "__main__")])
def test_imports_run_downward(module: str) -> None:
    room = _room(module)
    floor = _floor(room)
    assert floor is not None
    for imported in _own_imports(MODULES[module]):
        target = _room(imported)
        if target != room:
            below = _floor(target)
            assert below is not None
            assert below < floor, f"{module} imports {imported}: {target} does not lie below {room}"


def test_the_walk_finds_what_it_should() -> None:
    """A checker that sees nothing would pass everything."""
    assert {"core.weights.checkpoint", "core.lm.transformer", "errors"} <= _own_imports(MODULES["core.model"])
    assert "transformers" in set(_imports(MODULES["core.text"]))
    assert "transformers" not in set(_imports(MODULES["core.text"], at_import_only=True))
    assert "torch" in set(_imports(MODULES["core.lm.transformer"], at_import_only=True))


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("core")])
def test_the_core_is_pure(module: str) -> None:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "input", "exit", "quit", "sys.exit", "os._exit", "breakpoint", "eval", "exec"}
    assert not any(call.startswith(("sys.stdout.", "sys.stderr.", "warnings.warn")) for call in calls)
    roots = {name.split(".")[0] for name in _imports(path)}
    assert not roots & {"typer", "click", "rich", "tqdm", "logging", "argparse"}
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))
    assert "SystemExit" not in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("core")])
def test_no_pickle_is_read_with_trust(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("pickle.load", "pickle.loads", "joblib.load"), ast.unparse(node)
        if called == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True", ast.unparse(node)
        assert all(keyword.arg != "trust_remote_code" for keyword in node.keywords), ast.unparse(node)


@pytest.mark.parametrize("module", list(MODULES))
def test_heavy_libraries_are_imported_where_they_are_needed(module: str) -> None:
    roots = {name.split(".")[0] for name in _imports(MODULES[module], at_import_only=True)}
    assert not roots & NEVER_AT_IMPORT
    if module.startswith("cli"):
        assert not roots & HEAVY


@pytest.mark.parametrize("module", list(MODULES))
def test_random_numbers_are_passed_in(module: str) -> None:
    """Global generators would make a seed worth nothing."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed"), called
        if called in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.multinomial"):
            assert any(keyword.arg == "generator" for keyword in node.keywords), ast.unparse(node)
        if match := re.fullmatch(r"(?:np\.random|numpy\.random|random)\.(\w+)", called):
            assert match[1] in ("Generator", "PCG64", "SeedSequence", "default_rng", "Random"), called
            assert node.args or node.keywords, f"{called}() takes its seed from the system"


def _loaded(script: str, *names: str) -> set[str]:
    """Which of these modules are loaded after a script, in a process of its own."""
    code = f"{script}\nimport sys\nprint(*({set(names)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_command_line_imports_nothing_heavy() -> None:
    if "cli.app" not in MODULES:
        pytest.skip("there is no stage_cli/cli/app.py yet")
    script = "import stage_cli.cli.app"
    assert _loaded(script, "torch", "transformers", "scipy", "soundfile", "soxr", "huggingface_hub") == set()


def test_settings_import_nothing_heavy() -> None:
    settings = [
        "core.bench.settings",
        "core.codec.config",
        "core.generation.config",
        "core.lm.config",
        "core.model_config",
        "core.stems",
        "core.training.settings",
        "core.training.events",
        "core.weights.hub",
        "errors",
    ]
    script = "\n".join(f"import stage_cli.{module}" for module in settings)
    assert _loaded(script, "torch", "transformers", "numpy", "scipy", "huggingface_hub") == set()


def test_the_core_knows_no_options() -> None:
    """Its messages name fields; `cli/console.py` spells them as options. Only whole command lines name options."""
    found = []
    for name, path in MODULES.items():
        if not name.startswith("core"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if re.search(r"(?<![\w-])--[a-z]", text) and not re.search(
                    r"stage [a-z]|style=|pip install|launch", text
                ):
                    found.append(f"{name}: {text.strip().splitlines()[0]}")
    assert found == []

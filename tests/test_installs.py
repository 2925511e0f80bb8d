"""What is installed where: each system gets a library for beats and keys and one for stretching, and all resolves."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [Requirement(line) for line in PROJECT["project"]["dependencies"]]

# uv's name of a platform, and what Python says of itself there.
PLATFORMS = {
    "x86_64-pc-windows-msvc": {"sys_platform": "win32", "platform_machine": "AMD64"},
    "aarch64-apple-darwin": {"sys_platform": "darwin", "platform_machine": "arm64"},
    "aarch64-unknown-linux-gnu": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "x86_64-unknown-linux-gnu": {"sys_platform": "linux", "platform_machine": "x86_64"},
}
# Which libraries find beats and keys there, and which one stretches: those that have wheels.
EXPECTED = {
    "x86_64-pc-windows-msvc": {"librosa", "python-stretch"},
    "aarch64-apple-darwin": {"librosa", "python-stretch"},
    "aarch64-unknown-linux-gnu": {"librosa", "pedalboard"},
    "x86_64-unknown-linux-gnu": {"essentia", "python-stretch"},
}
CHANGING = {"essentia", "librosa", "python-stretch", "pedalboard"}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_markers_give_each_system_one_library_for_beats_and_one_for_stretching(platform):
    wanted = {
        requirement.name
        for requirement in REQUIREMENTS
        if requirement.marker is None or requirement.marker.evaluate(PLATFORMS[platform])
    }
    assert wanted & CHANGING == EXPECTED[platform]


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    runtime = text.split("dependencies = [", 1)[1].split("\n]\n", 1)[0].splitlines()[1:]
    for before, line in zip(["", *runtime], runtime, strict=False):
        if line.strip().startswith('"'):
            assert before.strip().startswith("#"), line
    optional = text.split("[project.optional-dependencies]", 1)[1].split("\n[", 1)[0].strip().splitlines()
    assert all("#" in line for line in optional)


def test_every_dependency_is_imported_by_the_package():
    modules = {"python-stretch": "python_stretch", "huggingface-hub": "huggingface_hub", "mir-eval": "mir_eval"}
    modules["pyyaml"] = "yaml"
    # torch.utils.tensorboard needs the package, which nothing else names.
    modules["tensorboard"] = "torch.utils.tensorboard"
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stage_cli").rglob("*.py"))
    for requirement in REQUIREMENTS:
        name = requirement.name.replace("_", "-")
        module = re.escape(modules.get(name, name))
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), requirement.name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_it_resolves(platform, python, tmp_path):
    """`uv` finds wheels of everything, as on a machine without a compiler."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, "pip", "compile", "pyproject.toml", "--quiet", "--only-binary", ":all:", "--no-header"]
    command += ["--python-platform", platform, "--python-version", python, "--output-file", str(tmp_path / "found.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode and re.search(r"(?i)failed to fetch|error sending request|dns|timed out|connect", done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"^([\w.-]+)==", (tmp_path / "found.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert found & CHANGING == EXPECTED[platform]
    assert {"torch", "torchaudio", "soxr", "soundfile"} <= found

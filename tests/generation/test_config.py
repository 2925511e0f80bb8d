"""Generation's options: defaults as published, and errors that name the option."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.errors import UsageError


def test_the_defaults_are_stages() -> None:
    config = GenerationConfig()
    assert (config.guidance, config.temperature, config.top_k, config.top_p) == (3.0, 1.0, 250, 1.0)
    assert (config.seed, config.variations) == (0, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("guidance", -0.1, r"--guidance -0\.1 is not possible · allowed: 0 to 100"),
        ("guidance", 101, "--guidance 101 is not possible"),
        ("guidance", math.nan, "--guidance nan is not possible"),
        ("guidance", math.inf, "--guidance inf is not possible"),
        ("temperature", -1, r"--temperature -1 is not possible · allowed: 0 to 10"),
        ("temperature", math.nan, "--temperature nan"),
        ("top_k", -1, "--top-k -1 is not possible"),
        ("top_p", 0, r"--top-p 0 is not possible · allowed: more than 0 and at most 1"),
        ("top_p", 1.01, r"--top-p 1\.01 is not possible"),
        ("seed", -1, "--seed -1 is not possible"),
        ("seed", 2**63, "--seed 9223372036854775808 is not possible"),
        ("variations", 0, r"--variations 0 is not possible · allowed: 1 to 64"),
        ("variations", 65, "--variations 65 is not possible"),
        ("advance", 0, "advance 0 is not possible"),
        ("advance", 1.5, r"advance 1\.5 is not possible"),
        ("lookahead", -0.1, r"lookahead -0\.1 is not possible · allowed: 0 to 1"),
        ("lookahead", math.nan, "lookahead nan is not possible"),
        ("lookahead", 0.6, r"--advance 0\.5 and --lookahead 0\.6 are more .* · --advance 0\.5 --lookahead 0\.5, or"),
    ],
)
def test_values_that_cannot_be(field: str, value: float, message: str) -> None:
    values: dict[str, Any] = {field: value}
    with pytest.raises(UsageError, match=message):
        GenerationConfig(**values)


def test_the_largest_values_that_can_be() -> None:
    config = GenerationConfig(
        guidance=100, temperature=10, top_k=1_000_000, top_p=1, seed=2**62, variations=64, advance=1
    )
    assert config.seed + config.variations < 2**63  # what a generator's seed may be
    for advance in (0.1, 0.7, 0.9):
        assert GenerationConfig(advance=advance, lookahead=1 - advance).lookahead == 1 - advance


def test_configs_import_no_torch() -> None:
    modules = "generation.config, stage_cli.core.lm.config, stage_cli.core.codec.config, stage_cli.core.model_config"
    script = f"import sys, stage_cli.core.{modules}; print(sorted({{'torch', 'numpy', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""Generation's options: defaults as published, and errors that name the option."""

from __future__ import annotations

import math
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
        ("guidance", -0.1, r"`guidance` -0\.1 is not possible · allowed: 0 to 100"),
        ("guidance", 101, "`guidance` 101 is not possible"),
        ("guidance", math.nan, "`guidance` nan is not possible"),
        ("guidance", math.inf, "`guidance` inf is not possible"),
        ("temperature", -1, r"`temperature` -1 is not possible · allowed: 0 to 10"),
        ("temperature", math.nan, "`temperature` nan"),
        ("top_k", -1, "`top_k` -1 is not possible"),
        ("top_p", 0, r"`top_p` 0 is not possible · allowed: more than 0 and at most 1"),
        ("top_p", 1.01, r"`top_p` 1\.01 is not possible"),
        ("seed", -1, "`seed` -1 is not possible"),
        ("seed", 2**63, "`seed` 9223372036854775808 is not possible"),
        ("variations", 0, r"`variations` 0 is not possible · allowed: 1 to 64"),
        ("variations", 65, "`variations` 65 is not possible"),
        ("advance", 0, "`advance` 0 is not possible"),
        ("advance", 1.5, r"`advance` 1\.5 is not possible"),
        ("lookahead", -0.1, r"`lookahead` -0\.1 is not possible · allowed: 0 to 1, but less than 1"),
        ("lookahead", 1, r"`lookahead` 1 is not possible · allowed: 0 to 1, but less than 1"),
        ("lookahead", math.nan, "`lookahead` nan is not possible"),
        ("lookahead", 0.6, r"`advance` 0\.5 and `lookahead` 0\.6 are more .* · `advance` 0\.5 `lookahead` 0\.5, or"),
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


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        # What was typed holds, and the model's own other one makes room.
        ({"advance": 0.8}, {"advance": 0.65, "lookahead": 0.25}, (0.8, 0.2)),
        ({"advance": 1.0}, {"advance": 0.65, "lookahead": 0.25}, (1.0, 0.0)),
        ({"lookahead": 0.4}, {"advance": 0.65, "lookahead": 0.25}, (0.6, 0.4)),
        ({"lookahead": 0.6}, {}, (0.4, 0.6)),
        # There is room already: also beside an advance that no model was asked for yet.
        ({"advance": 0.7}, {"advance": 0.65, "lookahead": 0.25}, (0.7, 0.25)),
        ({"lookahead": 0.6}, {"advance": 0.3}, (0.3, 0.6)),
        ({"lookahead": 0.3}, {"advance": 0.65, "lookahead": 0.25}, (0.65, 0.3)),
        ({"advance": 0.7, "lookahead": 0.3}, {"advance": 0.65, "lookahead": 0.25}, (0.7, 0.3)),
    ],
)
def test_one_of_advance_and_lookahead_makes_room_for_the_other(
    given: dict[str, float], own: dict[str, float], expected: tuple[float, float]
) -> None:
    config = GenerationConfig.from_options(given, seed=3, variations=2).for_model(own, given)
    assert (config.advance, config.lookahead) == pytest.approx(expected)
    assert (config.seed, config.variations) == (3, 2)


def test_both_are_refused_where_neither_may_make_room() -> None:
    with pytest.raises(UsageError, match=r"`advance` 0\.8 and `lookahead` 0\.3 are more than the window"):
        GenerationConfig.from_options({"advance": 0.8, "lookahead": 0.3})
    with pytest.raises(UsageError, match=r"`advance` 0\.8 and `lookahead` 0\.3 are more than the window"):
        GenerationConfig().for_model({"advance": 0.8, "lookahead": 0.3}, ())
    for name, value in (("advance", 1.2), ("advance", 0), ("lookahead", 1), ("lookahead", -0.2)):
        with pytest.raises(UsageError, match=rf"`{name}` {value} is not possible"):
            GenerationConfig.from_options({name: value})

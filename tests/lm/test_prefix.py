"""STAGE's prefix layout: tables written by hand from docs/dev/model.md.

Two codebooks of three codes: pad 3, separator 4. `·` in the comments is a pad.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import Layout, attended_steps, attention_mask, delayed_sequence, join, positions
from stage_cli.errors import WeightsError

STAGE = LanguageModelConfig(
    codebooks=2, codebook_size=3, dimension=4, layers=1, heads=1, feed_forward=4, text_dimension=None
)
PLAIN = LanguageModelConfig(
    codebooks=2, codebook_size=3, dimension=4, layers=1, heads=1, feed_forward=4, text_dimension=None, separator=False
)
P, S = 3, 4

CONTEXTS = torch.tensor([
    [[0, 1, 2], [2, 1, 0]],  # three frames
    [[P, P, 1], [P, P, 2]],  # one frame, left-padded
    [[P, P, P], [P, P, P]],  # dropped
])  # fmt: skip
TARGETS = torch.tensor([
    [[1, 1], [2, 2]],
    [[0, P], [1, P]],  # only its first frame is known
    [[P, P], [P, P]],  # nothing is known
])  # fmt: skip


def _bits(rows: list[str]) -> Tensor:
    return torch.tensor([[bit == "1" for bit in row] for row in rows])


def test_tokens() -> None:
    tokens, _, _ = delayed_sequence(CONTEXTS, TARGETS, STAGE)
    expected = torch.tensor([
        [[P, 0, 1, 2, S, 1, 1, P], [P, P, 2, 1, 0, S, 2, 2]],
        [[P, P, P, 1, S, 0, P, P], [P, P, P, P, 2, S, 1, P]],
        [[P, P, P, P, S, P, P, P], [P, P, P, P, P, S, P, P]],
    ])  # fmt: skip
    assert torch.equal(tokens, expected)


def test_attended_steps() -> None:
    # Row 0: step 0 only is all pads. Row 1: steps 0 to 2 are. Row 2: codebook 0's separator (step 4) is the first that
    # is valid; pads behind a codebook's own separator are valid.
    _, attended, _ = delayed_sequence(CONTEXTS, TARGETS, STAGE)
    assert torch.equal(attended, _bits(["01111111", "00011111", "00001111"]))


def test_positions_count_from_the_first_attended_step() -> None:
    _, _, places = delayed_sequence(CONTEXTS, TARGETS, STAGE)
    expected = torch.tensor([
        [0, 0, 1, 2, 3, 4, 5, 6],
        [0, 0, 0, 0, 1, 2, 3, 4],
        [0, 0, 0, 0, 0, 1, 2, 3],
    ])  # fmt: skip
    assert torch.equal(places, expected)


def test_positions_that_restart_at_the_separator() -> None:
    # The step that predicts the target's first frame (the separator's, 4) stands where the context's first frame does.
    _, _, places = delayed_sequence(CONTEXTS, TARGETS, replace(STAGE, positions="restart"))
    expected = torch.tensor([
        [0, 0, 1, 2, 0, 1, 2, 3],
        [0, 0, 0, 0, 0, 1, 2, 3],
        [0, 0, 0, 0, 0, 1, 2, 3],
    ])  # fmt: skip
    assert torch.equal(places, expected)
    with pytest.raises(WeightsError, match=r"lm\.positions = 'restart'"):
        replace(PLAIN, positions="restart")
    with pytest.raises(WeightsError, match=r"lm\.positions = 'rotary'"):
        replace(STAGE, positions="rotary")


def test_a_mask_is_causal_but_in_the_context() -> None:
    attended = _bits(["01111", "00111"])
    causal = attention_mask(attended)[:, 0]
    assert torch.equal(causal[0], _bits(["10000", "01000", "01100", "01110", "01111"]))
    assert torch.equal(causal[1], _bits(["10000", "01000", "00100", "00110", "00111"]))
    both_ways = attention_mask(attended, 3)[:, 0]
    assert torch.equal(both_ways[0], _bits(["11100", "01100", "01100", "01110", "01111"]))
    assert torch.equal(both_ways[1], _bits(["10100", "01100", "00100", "00110", "00111"]))


def test_one_valid_token_is_enough() -> None:
    # Codebook 0 is a pad at step 2, before its separator; codebook 1 is not.
    delayed = torch.tensor([[[P, P, P, 1, S, P], [P, P, 2, P, P, S]]])
    assert torch.equal(attended_steps(delayed, 3, STAGE), _bits(["001111"]))


def test_each_codebook_has_a_separator_step_of_its_own() -> None:
    # With Tc = 1 the separators stand at steps 2 and 3. Pads only: codebook 0's are valid from step 3 on, codebook 1's
    # from step 4 on, and one valid token is enough.
    delayed = torch.full((1, 2, 5), P)
    assert torch.equal(attended_steps(delayed, 1, STAGE), _bits(["00011"]))


def test_no_context_frames() -> None:
    tokens, attended, places = delayed_sequence(CONTEXTS[:1, :, :0], TARGETS[:1], STAGE)
    assert torch.equal(tokens[0], torch.tensor([[P, S, 1, 1, P], [P, P, S, 2, 2]]))
    assert torch.equal(attended, _bits(["01111"]))
    assert places.tolist() == [[0, 0, 1, 2, 3]]


def test_plain_musicgen_has_no_separator_and_masks_nothing() -> None:
    tokens, attended, places = delayed_sequence(CONTEXTS[:1], TARGETS[:1], PLAIN)
    assert torch.equal(tokens[0], torch.tensor([[P, 0, 1, 2, 1, 1, P], [P, P, 2, 1, 0, 2, 2]]))
    assert attended.all()
    assert places.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_join() -> None:
    assert join(CONTEXTS, TARGETS, STAGE).shape == (3, 2, 6)
    assert (join(CONTEXTS, TARGETS, STAGE)[:, :, 3] == S).all()
    assert torch.equal(join(CONTEXTS, TARGETS, PLAIN), torch.cat([CONTEXTS, TARGETS], dim=2))


@pytest.mark.parametrize("separator", [True, False])
@pytest.mark.parametrize(("Tc", "Tt", "K"), [(0, 1, 1), (3, 2, 2), (5, 0, 4), (0, 7, 4), (9, 9, 4)])
def test_the_layout_says_where_things_are(Tc: int, Tt: int, K: int, separator: bool) -> None:
    config = LanguageModelConfig(
        codebooks=K, codebook_size=50, dimension=4, layers=1, heads=1, feed_forward=4, separator=separator
    )
    # Each token says its codebook and frame: context 0 to 9, target 20 on.
    context = torch.arange(Tc).expand(1, K, Tc)
    target = 20 + torch.arange(Tt).expand(1, K, Tt)
    tokens, attended, _ = delayed_sequence(context, target, config)
    layout = Layout(Tc, Tt, separator, K)
    assert tokens.shape[2] == layout.steps == layout.frames + K
    assert int(attended[0].int().argmax()) == layout.first_step
    for frame in range(Tt):
        for k in range(K):
            assert tokens[0, k, layout.first_step_of(frame) + k] == 20 + frame
    # What is shared between variations: no step of it holds a target token, and one more step comes before the target.
    assert (tokens[0, :, : layout.shared_steps] < 20).sum() + (tokens[0, :, : layout.shared_steps] >= 50).sum() == (
        K * layout.shared_steps
    )
    assert layout.first_step_of(0) == layout.shared_steps + 1


def test_positions_of_a_row_that_is_all_attended() -> None:
    assert positions(_bits(["111", "011"])).tolist() == [[0, 1, 2], [0, 0, 1]]

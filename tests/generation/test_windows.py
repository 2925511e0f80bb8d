"""The plan of windows: its promises, over many sizes."""

from __future__ import annotations

import random

import pytest

from stage_cli.core.generation.song import Window, plan_windows


def _sizes() -> list[tuple[int, int, int, int, int]]:
    """(total, window, advance, lookahead, done), small ones all and large ones drawn."""
    small = [
        (total, window, advance, lookahead, done)
        for total in range(13)
        for window in range(1, 7)
        for advance in range(1, window + 1)
        for lookahead in range(window - advance + 1)
        for done in range(total + 2)
    ]
    numbers = random.Random(0)
    large = []
    for _ in range(300):
        window = numbers.randint(1, 1500)
        advance = numbers.randint(1, window)
        lookahead = numbers.randint(0, window - advance)
        large.append((numbers.randint(0, 20_000), window, advance, lookahead, numbers.randint(0, 5000)))
    return small + large


def test_promises() -> None:
    for total, window, advance, lookahead, done in _sizes():
        case = (total, window, advance, lookahead, done)
        plan = list(plan_windows(total, window, advance, done, lookahead=lookahead))
        written = done
        for number, part in enumerate(plan):
            assert part.start + part.kept == written, case  # nothing left out, nothing written twice
            assert part.length == min(window, total), case  # the model's full length, but in a short song
            assert 0 <= part.start < part.end <= total, case
            assert 0 <= part.kept < part.target, case  # each window makes progress
            assert part.end - part.written == (lookahead if part.end < total else 0), case
            if part.end < total and number > 0:
                assert part.kept == window - lookahead - advance, case
            if part.end < total and part.start > 0:
                assert part.target - part.kept == advance, case
            written = part.written
        assert written == max(total, done), case
        assert bool(plan) == (done < total), case


def test_a_table_by_hand() -> None:
    assert list(plan_windows(total=25, window=10, advance=5)) == [
        Window(0, 10, 0, 10),
        Window(5, 10, 5, 10),
        Window(10, 10, 5, 10),
        Window(15, 10, 5, 10),
    ]
    assert list(plan_windows(total=12, window=10, advance=5)) == [Window(0, 10, 0, 10), Window(2, 10, 8, 10)]
    assert list(plan_windows(total=7, window=10, advance=5)) == [Window(0, 7, 0, 7)]


def test_a_table_by_hand_that_looks_ahead() -> None:
    # Frames 0 to 6 first; then 5 at a time, with 2 before them and 3 after them; to the end when it comes into view.
    assert list(plan_windows(total=25, window=10, advance=5, lookahead=3)) == [
        Window(0, 10, 0, 7),
        Window(5, 10, 2, 7),
        Window(10, 10, 2, 7),
        Window(15, 10, 2, 10),
    ]
    assert list(plan_windows(total=12, window=10, advance=5, lookahead=3)) == [
        Window(0, 10, 0, 7),
        Window(2, 10, 5, 10),
    ]
    assert list(plan_windows(total=10, window=10, advance=5, lookahead=3)) == [Window(0, 10, 0, 10)]


def test_a_continuation() -> None:
    # Frames 0 to 11 exist. As much of the past as a moved window keeps: 5 frames.
    assert list(plan_windows(total=25, window=10, advance=5, done=12)) == [
        Window(7, 10, 5, 10),
        Window(12, 10, 5, 10),
        Window(15, 10, 7, 10),
    ]
    assert list(plan_windows(total=25, window=10, advance=5, done=2)) == [
        Window(0, 10, 2, 10),
        Window(5, 10, 5, 10),
        Window(10, 10, 5, 10),
        Window(15, 10, 5, 10),
    ]
    assert list(plan_windows(total=25, window=10, advance=5, done=25)) == []


@pytest.mark.parametrize(("window", "advance"), [(0, 1), (5, 0), (5, 6), (-1, -1)])
def test_sizes_that_make_no_progress(window: int, advance: int) -> None:
    with pytest.raises(ValueError, match=f"a window of {window} frames cannot advance by {advance}"):
        list(plan_windows(10, window, advance))


@pytest.mark.parametrize(("advance", "lookahead"), [(5, 6), (8, 3), (1, -1), (0, 5)])
def test_a_lookahead_that_makes_no_progress(advance: int, lookahead: int) -> None:
    with pytest.raises(ValueError, match=f"a window of 10 frames cannot advance by {advance} and look .* {lookahead}"):
        list(plan_windows(20, 10, advance, lookahead=lookahead))

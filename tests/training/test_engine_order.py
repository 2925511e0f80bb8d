"""The order of the data: epochs that are permutations, and steps that do not depend on who computes them."""

from __future__ import annotations

import pytest

from stage_cli.core.training.loader import DataOrder


def test_an_epoch_is_a_permutation_without_its_incomplete_rest() -> None:
    order = DataOrder(items=23, batch_size=5, micro_batch_size=5, seed=3)
    assert order.batches_per_epoch == 4
    seen = [draw for step in range(1, 5) for draw in order.batch(step)]
    assert {epoch for epoch, _ in seen} == {0}
    indices = [index for _, index in seen]
    assert len(indices) == len(set(indices)) == 20
    assert set(indices) <= set(range(23))
    assert indices != sorted(indices)


def test_epochs_differ_and_so_do_seeds() -> None:
    order = DataOrder(40, 8, 8, seed=0)
    first, second = ([order.batch(step) for step in range(start, start + 5)] for start in (1, 6))
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    indices = [[index for batch in epoch for _, index in batch] for epoch in (first, second)]
    assert indices[0] != indices[1]
    assert sorted(indices[0]) == sorted(indices[1]) == list(range(40))
    assert DataOrder(40, 8, 8, seed=1).batch(1) != order.batch(1)


def test_a_step_is_known_without_those_before_it() -> None:
    there, here = DataOrder(40, 8, 2, seed=7), DataOrder(40, 8, 2, seed=7)
    for step in range(1, 13):
        there.batch(step)
    assert here.batch(12) == there.batch(12)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_is_the_same_for_any_number_of_processes_and_any_micro_batch(
    processes: int, micro_batch_size: int
) -> None:
    order = DataOrder(40, 8, micro_batch_size, seed=7)
    for step in (1, 5, 6):
        parts = [part for process in range(processes) for part in order.micro_batches(step, process, processes)]
        together = [draw for part in sorted(parts, key=lambda part: part.number) for draw in part.draws]
        assert tuple(together) == DataOrder(40, 8, 8, seed=7).batch(step)
        assert {part.epoch for part in parts} == {order.epoch(step)}


def test_processes_take_micro_batches_in_turn() -> None:
    order = DataOrder(40, 8, 2, seed=7)
    assert [part.number for part in order.micro_batches(1, 1, 2)] == [1, 3]


def test_fewer_items_than_a_batch_are_drawn_in_several_epochs() -> None:
    order = DataOrder(items=3, batch_size=8, micro_batch_size=4, seed=0)
    assert (order.batches_per_epoch, order.epochs_per_batch) == (1, 3)
    first, second = order.batch(1), order.batch(2)
    assert [epoch for epoch, _ in first] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [epoch for epoch, _ in second] == [3, 3, 3, 4, 4, 4, 5, 5]
    assert sorted(index for _, index in first[:3]) == [0, 1, 2]
    # The chance of `inputs` must not depend on the micro-batch: one epoch stands for the whole step.
    assert [part.epoch for part in order.micro_batches(2)] == [3, 3]
    assert len(set(first) | set(second)) == 16


def test_a_batch_is_made_of_whole_micro_batches() -> None:
    with pytest.raises(ValueError, match="3 at a time"):
        DataOrder(40, 8, 3, seed=0)

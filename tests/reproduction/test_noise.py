"""How much runs vary: the residual of rows and seeds, as worked out by hand."""

import math

import pytest

from mixstill.reproduction.noise import residual


def test_it_is_what_the_means_of_rows_and_seeds_leave() -> None:
    """x[i, j] - mean[i] - mean[j] + mean, squared, over (R - 1) (S - 1)."""
    top1 = {"plain": [40.0, 42.0, 41.0], "std": [45.0, 46.0, 50.0], "soft": [44.0, 44.5, 43.0]}
    of_row = {name: math.fsum(values) / 3 for name, values in top1.items()}
    of_seed = [math.fsum(values[seed] for values in top1.values()) / 3 for seed in range(3)]
    mean = math.fsum(of_row.values()) / 3
    squares = [
        (values[seed] - of_row[name] - of_seed[seed] + mean) ** 2 for name, values in top1.items() for seed in range(3)
    ]
    found = residual({name: dict(enumerate(values)) for name, values in top1.items()})
    assert found == {"std": pytest.approx(math.sqrt(math.fsum(squares) / 4)), "df": 4, "rows": ["plain", "soft", "std"]}


def test_for_two_rows_it_is_that_of_their_differences() -> None:
    """Differences 5, 4 and 9 have a variance of 7, twice that of a run."""
    found = residual({"plain": {0: 40.0, 1: 42.0, 2: 41.0}, "std": {0: 45.0, 1: 46.0, 2: 50.0}})
    assert found == {"std": pytest.approx(math.sqrt(3.5)), "df": 2, "rows": ["plain", "std"]}


def test_a_seed_or_a_row_that_stands_alone_adds_nothing() -> None:
    known = {"plain": {0: 40.0, 1: 42.0}, "std": {0: 45.0, 1: 46.0}}
    found = residual(known)
    assert found == {"std": pytest.approx(0.5), "df": 1, "rows": ["plain", "std"]}
    more = residual(known | {"soft": {1: 50.0}, "deit": {7: 1.0}})
    assert more == {"std": pytest.approx(0.5), "df": 1, "rows": ["deit", "plain", "soft", "std"]}


def test_a_row_that_lacks_a_seed_adds_what_its_others_tell() -> None:
    """Two complete rows of three seeds leave 2 degrees of freedom; one more with two of the seeds adds 1."""
    complete = {"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 2.0, 1: 3.0, 2: 4.0}}
    found = residual(complete | {"c": {0: 5.0, 2: 9.0}})
    assert found is not None
    assert found["df"] == 3
    # c has 4 between seeds 0 and 2, the others 2. Seeds' effects that minimise the squares: by symmetry -g, 0, g with
    # rows a, b leaving (1 - g)^2 * 4 and c leaving (2 - g)^2 * 2; least at g = 4/3, where that is 4/9 + 8/9 = 4/3
    assert found["std"] == pytest.approx(math.sqrt(4 / 3 / 3))


@pytest.mark.parametrize(
    "top1", [{}, {"plain": {0: 40.0}}, {"plain": {0: 1.0, 1: 2.0}}, {"a": {0: 1.0}, "b": {0: 2.0}}]
)
def test_one_row_or_one_seed_leaves_nothing(top1) -> None:
    assert residual(top1) is None

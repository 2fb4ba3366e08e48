"""Counter-based randomness: the published vectors, an oracle in Python integers, distributions, and what it ignores."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import stats

from mixstill import rng
from mixstill.rng import Domain

MASK = 0xFFFFFFFF


def philox_oracle(counter, key):
    """Philox4x32-10 as Salmon et al. (SC 2011) write it, on Python's unbounded integers."""
    words, key = list(counter), list(key)
    for round_number in range(10):
        if round_number:
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        (high0, low0), (high1, low1) = divmod(0xD2511F53 * words[0], 2**32), divmod(0xCD9E8D57 * words[2], 2**32)
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
    return words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words, keys, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    assert rng.philox(torch.tensor(words), (keys[0], keys[1])).tolist() == answer
    assert philox_oracle(words, keys) == answer


def test_philox_equals_the_oracle_on_random_counters():
    numbers = random.Random(0)
    for _ in range(20):
        key = (numbers.getrandbits(32), numbers.getrandbits(32))
        counters = [[numbers.getrandbits(32) for _ in range(4)] for _ in range(10)]
        assert rng.philox(torch.tensor(counters), key).tolist() == [philox_oracle(words, key) for words in counters]


def test_a_draw_is_the_word_of_its_counter_and_key():
    seed, epoch, sample = 0x0123456789ABCDEF, 17, 40_001
    words = rng.bits(seed, Domain.VIEW, epoch, torch.tensor([sample]), 7)[0].tolist()
    blocks = [philox_oracle([sample, epoch, block, Domain.VIEW], (0x89ABCDEF, 0x01234567)) for block in (0, 1)]
    assert words == (blocks[0] + blocks[1])[:7]


def test_draws_of_an_id_depend_neither_on_its_batch_nor_on_the_number_of_draws():
    together = rng.bits(5, Domain.VIEW, 2, torch.arange(100), 9)
    ids = torch.tensor([93, 7, 7, 0])
    assert torch.equal(rng.bits(5, Domain.VIEW, 2, ids, 9), together[ids])
    for draws in range(1, 9):
        assert torch.equal(rng.bits(5, Domain.VIEW, 2, ids, draws), together[ids, :draws])


def test_seed_domain_epoch_and_id_each_change_every_draw():
    ids = torch.arange(64)
    base = rng.bits(1, Domain.VIEW, 3, ids, 4)
    high_half = rng.bits(1 + 2**32, Domain.VIEW, 3, ids, 4)
    others = [
        rng.bits(2, Domain.VIEW, 3, ids, 4),
        high_half,
        rng.bits(1, Domain.MIX, 3, ids, 4),
        rng.bits(1, Domain.VIEW, 4, ids, 4),
        rng.bits(1, Domain.VIEW, 3, ids + 64, 4),
    ]
    assert all((base != other).all() for other in others)


def test_uniform_draws_are_uniform_and_uncorrelated():
    draws = rng.uniform(0, Domain.VIEW, 0, torch.arange(20_000), 4)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.double().T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    assert torch.corrcoef(draws.T).triu(1).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].abs() < 0.03


def test_uniform_never_reaches_one(monkeypatch):
    monkeypatch.setattr(rng, "bits", lambda *_: torch.tensor([[0, MASK]]))
    assert rng.uniform(0, Domain.VIEW, 0, torch.tensor([0]), 2).tolist() == [[0.0, 1 - 2.0**-24]]


@pytest.mark.parametrize("high", [2, 9, 1000])
def test_integers_are_uniform_below_high(high):
    drawn = rng.integers(rng.bits(0, Domain.VIEW, 1, torch.arange(20_000), 1)[:, 0], high)
    assert drawn.min() >= 0
    assert drawn.max() < high
    assert stats.chisquare(torch.bincount(drawn, minlength=high).numpy()).pvalue > 1e-3


def test_integers_keep_within_range_at_the_ends():
    ends = torch.tensor([0, MASK])
    for high in (1, 3, 2**31):
        assert rng.integers(ends, high).tolist() == [0, high - 1]


def test_scalars_are_uniform_in_the_open_interval(monkeypatch):
    drawn = [value for step in range(500) for value in rng.scalars(3, Domain.MIX, 0, step, 4)]
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert rng.scalars(3, Domain.MIX, 0, 7, 2) == rng.scalars(3, Domain.MIX, 0, 7, 4)[:2]
    monkeypatch.setattr(rng, "bits", lambda *_: torch.tensor([[0, MASK]]))
    low, high = rng.scalars(0, Domain.MIX, 0, 0, 2)
    assert 0 < low < high < 1


@pytest.mark.parametrize("n", [0, 1, 2, 1797])
def test_a_permutation_holds_each_index_once(n):
    assert rng.permutation(0, Domain.ORDER, 0, n).sort().values.tolist() == list(range(n))


def test_a_permutation_is_the_order_of_the_62_bit_keys_of_its_indices():
    words = rng.bits(9, Domain.ORDER, 2, torch.arange(500), 2).tolist()
    keys = [(first << 30) + second // 4 for first, second in words]
    assert rng.permutation(9, Domain.ORDER, 2, 500).tolist() == sorted(range(500), key=lambda index: keys[index])


def test_permutations_differ_by_seed_epoch_and_domain_and_repeat():
    base = rng.permutation(0, Domain.ORDER, 0, 1000)
    assert torch.equal(base, rng.permutation(0, Domain.ORDER, 0, 1000))
    others = [(1, Domain.ORDER, 0), (0, Domain.ORDER, 1), (0, Domain.SPLIT, 0)]
    for seed, domain, epoch in others:
        # Two random permutations agree in one place on average.
        assert (base == rng.permutation(seed, domain, epoch, 1000)).sum() < 10


def test_permutations_of_four_are_equally_likely():
    seen = torch.stack([rng.permutation(seed, Domain.ORDER, 0, 4) for seed in range(960)])
    counts = (seen * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def drawn(seed=None):
    with rng.borrowed(seed):
        return [*torch.rand(2).tolist(), *np.random.rand(2), random.random()]


def test_borrowed_generators_hold_no_history_and_are_put_back_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    first = drawn(rng.model_seed(1, 2, 3))
    assert len(set(first)) == 5
    assert all(one != other for one, other in zip(first, drawn(rng.model_seed(1, 2, 4)), strict=True))
    assert drawn(rng.model_seed(1, 2, 3)) == first
    assert drawn() == drawn()
    with pytest.raises(KeyError), rng.borrowed(5):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_borrowed_within_borrowed_goes_on_where_it_was():
    with rng.borrowed(7):
        straight = torch.rand(2).tolist()
    with rng.borrowed(7):
        found = [torch.rand(1).item()]
        drawn(8)
        assert [*found, torch.rand(1).item()] == straight


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_seed_is_torchs_own(seed):
    with rng.borrowed(seed):
        found = torch.rand(3)
    with rng.borrowed():
        torch.manual_seed(seed)
        assert torch.equal(found, torch.rand(3))


def test_one_thread_at_a_time_has_them():
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: drawn(turn % 3), range(60)))
    assert found == [drawn(turn % 3) for turn in range(60)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_bits_of_the_cpu():
    ids = torch.arange(10_000)
    seed = 2**64 - 3
    expected = rng.bits(seed, Domain.VIEW, 9, ids, 6)
    assert torch.equal(rng.bits(seed, Domain.VIEW, 9, ids.cuda(), 6).cpu(), expected)
    assert torch.equal(
        rng.uniform(seed, Domain.VIEW, 9, ids.cuda(), 6).cpu(), rng.uniform(seed, Domain.VIEW, 9, ids, 6)
    )
    order = rng.permutation(seed, Domain.ORDER, 9, 50_000)
    assert torch.equal(rng.permutation(seed, Domain.ORDER, 9, 50_000, "cuda").cpu(), order)


def test_the_times_that_an_id_comes_have_draws_of_their_own() -> None:
    ids, repeats = torch.tensor([5, 5, 5, 7]), torch.tensor([0, 1, 2, 1])
    words = rng.bits(3, Domain.VIEW, 1, ids, 6, repeats)
    assert torch.equal(words[0], rng.bits(3, Domain.VIEW, 1, torch.tensor([5]), 6)[0])
    assert torch.equal(words[3], rng.bits(3, Domain.VIEW, 1, torch.tensor([7]), 6, 1)[0])
    assert len(set(words[:, 0].tolist())) == 4
    others = torch.stack([rng.bits(3, domain, 1, torch.tensor([5]), 4)[0] for domain in Domain])
    assert not torch.isin(words[1:3, :4], others).any()
    assert torch.equal(rng.uniform(3, Domain.VIEW, 1, ids, 6, repeats), (words >> 8).float() * 2.0**-24)

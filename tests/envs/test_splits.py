import subprocess
import sys
from collections import Counter

from envs.splits import SHARES, canonical, split_of, task_rng


def test_shares_add_up_to_a_hundred():
    assert sum(SHARES.values()) == 100


def test_a_key_lies_in_the_same_split_in_every_process():
    keys = [f"{n}+1=" for n in range(20)]
    code = f"from envs.splits import split_of; print([split_of(k) for k in {keys!r}])"
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": "."}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == repr([split_of(key) for key in keys])


def test_worked_keys():
    assert [split_of(key) for key in ("12+7-5=", "1+1=", "1+2=", "1+3=", "7-3=")] == [
        "heldout",
        "train",
        "heldout",
        "tuning",
        "train",
    ]


def test_splits_hold_their_shares():
    counts = Counter(split_of(str(n)) for n in range(20_000))
    for split, share in SHARES.items():
        assert abs(counts[split] / 200 - share) < 1


def test_equal_tasks_have_equal_text():
    assert canonical({"b": 1, "a": [2]}) == canonical({"a": [2], "b": 1}) == '{"a": [2], "b": 1}'


def test_task_generators_differ_by_seed_split_and_index():
    draws = {
        (seed, split, index): task_rng(seed, split, index).integers(2**62)
        for seed in (0, 1)
        for split in SHARES
        for index in (0, 1)
    }
    assert len(set(draws.values())) == len(draws) == 16
    assert task_rng(1, "train", 0).integers(2**62) == draws[1, "train", 0]

import pickle

import pytest

from orchestrator.members import InlineMember, MemberFailed, call_all, gather


class Adder:
    def __init__(self, start):
        self.total = start

    def add(self, value, *, twice=False):
        self.total += value * (2 if twice else 1)
        return self.total

    def fail(self):
        raise ValueError("unchanged")


class Late:
    """A call that takes `seconds` of the fake clock and fails when that is more than it is given."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def result(self, timeout_s):
        self.clock.given.append(timeout_s)
        if self.seconds > timeout_s:
            raise MemberFailed(f"late after {timeout_s:g} s")
        self.clock.now += self.seconds
        return self.seconds


class Clock:
    def __init__(self):
        self.now, self.given = 100.0, []

    def __call__(self):
        return self.now


def test_inline_members_are_called_in_order_and_keep_their_state():
    members = [InlineMember("a", Adder(0)), InlineMember("b", Adder(10))]
    assert call_all(members, "add", 3, twice=True, timeout_s=1) == [6, 16]
    assert call_all(members, "add", 1, timeout_s=1) == [7, 17]


def test_what_an_inline_member_raises_reaches_the_caller_unchanged():
    with pytest.raises(ValueError, match="unchanged"):
        InlineMember("a", Adder(0)).start("fail")


def test_calls_share_one_deadline():
    clock = Clock()
    assert gather([Late(clock, 4), Late(clock, 5)], 10, clock) == [4, 5]
    assert clock.given == [10, 6]


def test_a_call_past_the_common_deadline_fails_though_it_alone_is_quick_enough():
    clock = Clock()
    with pytest.raises(MemberFailed, match="late after 1 s"):
        gather([Late(clock, 4), Late(clock, 5), Late(clock, 3)], 10, clock)


def test_member_failure_pickles():
    assert str(pickle.loads(pickle.dumps(MemberFailed("rollout-1 died")))) == "rollout-1 died"


def test_the_first_failure_is_raised_though_another_call_is_still_waiting(monkeypatch):
    """A rank that fails leaves the others waiting in a collective operation: its error is the one to see, at once."""
    import ray

    from orchestrator.members import RayPending

    def get(reference, timeout):
        if reference == "rank 1":
            raise ray.exceptions.RayTaskError("update", "remote traceback", MemoryError("no room"))
        raise AssertionError("nobody waits for rank 0")

    monkeypatch.setattr(ray, "wait", lambda references, num_returns, timeout: (["rank 1"], ["rank 0"]))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(MemberFailed, match="learner-1 failed in update: no room"):
        gather([RayPending(f"learner-{i}", "update", f"rank {i}") for i in range(2)], 600)


def test_remote_calls_return_in_the_order_of_the_members(monkeypatch):
    import ray

    from orchestrator.members import RayPending

    monkeypatch.setattr(ray, "wait", lambda references, num_returns, timeout: (references[-1:], references[:-1]))
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference.upper())
    assert gather([RayPending(f"m{i}", "f", name) for i, name in enumerate("abc")], 9) == ["A", "B", "C"]


def test_what_the_user_has_to_fix_comes_out_of_an_actor_as_it_is(monkeypatch):
    import ray

    from configs.errors import ConfigError
    from orchestrator.members import RayPending

    error = ConfigError("model.sft", "must be whole", "x", "Copy it again.")

    def get(reference, timeout):
        raise ray.exceptions.RayTaskError("prepare", "remote traceback", error)

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ConfigError, match="must be whole"):
        RayPending("rejuvenation", "prepare", "ref").result(1)

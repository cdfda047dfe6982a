"""Every check of an environment that needs no model, one result each: gymnasium's checker, ours, and its upkeep.

Upkeep is what processes do with environments: step them often, send them away, close them.
"""

from __future__ import annotations

import io
import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from envs.checker import CHECKS, play, run_check, what_is_played
from envs.raised import Raised

Maker = Callable[[], gymnasium.Env[Any, Any]]
"""Makes the environment anew."""

LONGEST_STEP_S = 10.0
"""Mean seconds per step above which an environment is too slow to train on."""
_TIMED_S = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    """Name of the check."""
    problems: tuple[str, ...] = ()
    """What is wrong, in words; empty where the check passed."""
    note: str = ""
    """A figure or a remark that is no problem."""
    raised: Raised | None = None
    """What the environment's code raised and so ended the check; the last problem says it, too."""
    skipped: bool = False
    """Whether the check could not be run, for a reason that stands in an earlier finding."""

    @property
    def fix(self) -> str:
        """What to do about the problems."""
        return FIXES.get(self.name, "") if self.raised is None else MEND


def checkup(make: Maker) -> Iterator[Finding]:
    """Run every check; each on an environment of its own, so that one failure does not cause another.

    Args:
        make: makes the environment; called at least once a check.

    Yields:
        One `Finding` a check, in the order in which a problem is best repaired.
    """
    yield _gymnasiums_checker(make)
    for name, check in CHECKS.items():
        problems, raised = run_check(check, what_is_played(make()))
        yield Finding(name, tuple(problems), raised=raised)
    for name, upkeep in UPKEEP.items():
        notes: list[str] = []
        problems, raised = run_check(lambda made, run=upkeep, into=notes: run(made, into), make)  # type: ignore[misc]
        yield Finding(name, tuple(problems), " ".join(notes), raised)


def told_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Tell one and the same exception of the environment once; further checks that it ended count as skipped."""
    told: set[tuple[str, str, int]] = set()
    for finding in findings:
        if finding.raised is None:
            yield finding
        elif finding.raised.cause in told and len(finding.problems) == 1:
            yield replace(finding, problems=(), note="", raised=None, skipped=True)
        else:
            told.add(finding.raised.cause)
            yield finding


def _gymnasiums_checker(make: Maker) -> Finding:
    """Run gymnasium's `check_env`; what it only warns of is a note."""

    def check(env: Any) -> Iterator[str]:
        check_env(env)
        yield from ()

    with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        problems, raised = run_check(check, make().unwrapped)
    said = [str(warning.message).replace("\x1b[33m", "").replace("\x1b[0m", "") for warning in caught]
    return Finding("gymnasium's checker", tuple(problems), " ".join(dict.fromkeys(said)), raised)


def _speed(make: Maker, notes: list[str]) -> Iterator[str]:
    """Steps with sampled text, resets included, must not take absurdly long."""
    env = what_is_played(make())
    steps, started, seed = 0, time.perf_counter(), 0
    while time.perf_counter() - started < _TIMED_S:
        steps += sum(1 for _ in play(env, seed)) - 1
        seed += 1
    seconds = (time.perf_counter() - started) / max(steps, 1)
    rate = f"{1 / seconds:,.0f}" if seconds < 0.1 else f"{1 / seconds:.2g}"
    notes.append(f"{rate} steps a second, resets included, with sampled text.")
    if seconds > LONGEST_STEP_S:
        yield f"a step takes {seconds:.1f} s on average, at most {LONGEST_STEP_S:g} s are allowed."


def _pickling(make: Maker, notes: list[str]) -> Iterator[str]:
    """Another process must get the same environment: by pickling it, or the spec that makes it."""
    env = make()
    expected = _episode(env)
    env.reset(seed=16)
    try:
        data = pickle.dumps(env)
    except Exception as error:  # what an author's class holds
        notes.append(f"as its spec: the object itself does not pickle ({error}).")
        if env.spec is None:
            yield f"it has no spec, and pickling it raised {type(error).__name__}: {error}."
            return
        copy = pickle.loads(pickle.dumps(env.spec)).make()
    else:
        copy = pickle.loads(data)
    if _episode(copy) != expected:
        yield "a pickled copy plays another episode with the same seed and actions."


def _episode(env: Any) -> list[Any]:
    """Play sampled actions with fixed seeds."""
    own = what_is_played(env)
    own.action_space.seed(16)
    return list(play(own, seed=16))


def _closing(make: Maker, notes: list[str]) -> Iterator[str]:
    """It must close before and after an episode, twice, and leave others of its kind alone."""
    unused, first, second = make(), make(), make()
    unused.close()
    second.reset(seed=17)
    first.reset(seed=17)
    first.step(first.action_space.sample())
    first.close()
    try:
        first.close()
    except Exception as error:
        yield f"the second close raised {type(error).__name__}: {error}."
    try:
        second.step(second.action_space.sample())
        make().reset(seed=17)
    except Exception as error:
        yield f"after one environment was closed, another one raised {type(error).__name__}: {error}."
    second.close()


UPKEEP: dict[str, Callable[[Maker, list[str]], Iterator[str]]] = {
    "speed": _speed,
    "pickling": _pickling,
    "closing": _closing,
}
"""Name -> check: from what makes the environment to problems in words; remarks go into the list."""

MEND = "Mend what it raises; this check can say nothing before."
"""What to do about an exception of the environment's code, whichever check meets it."""
FIXES: dict[str, str] = {
    "gymnasium's checker": "Derive from envs.ConversationEnv or envs.ToolEnv, which satisfy it, or do what it says.",
    "five values": "Return (observation, info) from reset and (observation, reward, terminated, truncated, info) "
    "from step.",
    "text in, messages out": 'Let action_space be envs.spaces.ChatText(), and return messages {"role": ..., '
    '"content": text}.',
    "same seed, same episode": "Draw all chance from self.np_random, or from the generator that sample_task gets.",
    "episodes end": "Return terminated=True on a final answer, and limit the turns (max_turns, or a TimeLimit).",
    "info": "Put only plain JSON into info: convert numpy values with int(), float() or str().",
    "task round trip": 'Begin the episode from options["task"] alone, and keep all state of an episode in begin().',
    "pure tasks": "Let task(index) depend on its index alone, and sample_task(rng) on rng alone.",
    "tool schemas": "Mark typed methods that have a docstring with @tool, which writes the schema.",
    "demonstrations": "Correct expert_turns, the grading, or max_reward.",
    "speed": "Load data once per process (functools.lru_cache), not at every reset or step.",
    "pickling": "Keep open files, connections and lambdas out of the environment, or take plain keyword arguments.",
    "closing": "Let close() end only what this environment opened itself, and do nothing the second time.",
    "rendering": "Write plain messages, or train a model whose template and tokenizer can write these (--model DIR).",
    "mask": "Use a chat template that writes an assistant's content as it is, without trimming it.",
}
"""Name of a check -> what to do where it fails; `rendering` and `mask` need a model and are run elsewhere."""

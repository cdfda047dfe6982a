"""The checks that authors call on their environment, beyond gymnasium's `check_env`.

```python
env = envs.make("my_package.my_module:MyEnv")
gymnasium.utils.env_checker.check_env(env.unwrapped)
envs.check_environment(env)
```
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.conversation import STATUSES, ConversationEnv
from envs.raised import Raised
from envs.spaces import is_message

LONGEST_EPISODE = 1000


def check_environment(env: gymnasium.Env[Any, Any]) -> None:
    """Check that an environment can be trained on.

    Args:
        env: any `gymnasium.Env` whose action is text. A method `task(index)`, tools, metrics and demonstrations are
            checked where it has them; a `ConversationEnv` must also refuse steps after the end. It is left reset.

    Raises:
        ValueError: listing every problem found, one per line.
    """
    played = what_is_played(env)
    problems: list[str] = []
    told: set[tuple[str, str, int]] = set()
    for name, check in CHECKS.items():
        found, raised = run_check(check, played)
        if raised is not None and raised.cause in told:
            found.pop()  # the same exception once more
        elif raised is not None:
            told.add(raised.cause)
        problems += [f"{name}: {problem}" for problem in found]
    if problems:
        raise ValueError(f"{type(env.unwrapped).__name__} cannot be trained on:\n- " + "\n- ".join(problems))
    env.reset(seed=0)


def what_is_played(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return a `ConversationEnv` without its wrappers, others with them: they may need a time limit, say."""
    return env.unwrapped if isinstance(env.unwrapped, ConversationEnv) else env


def run_check(check: Callable[[Any], Iterator[str]], env: Any) -> tuple[list[str], Raised | None]:
    """Run one check.

    Args:
        check: a generator of problems in words.
        env: what it is given: the environment, say.

    Returns:
        The problems; the last one is what was raised, where something was. That once more, where the environment's
        own code raised it.
    """
    found: list[str] = []
    try:
        found.extend(check(env))
    except Exception as error:  # the author's code
        own = getattr(env, "unwrapped", None)
        raised = Raised.of(error, None if own is None else type(own))
        found.append(f"raised {raised if raised.by_environment else raised.error}")
        return found, raised if raised.by_environment else None
    return found, None


def _same_seed_same_episode(env: Any) -> Iterator[str]:
    """Two episodes with one seed and the same actions must be equal."""
    episodes = []
    for _ in range(2):
        env.action_space.seed(7)
        episodes.append(list(play(env, seed=7)))
    for number, (first, second) in enumerate(zip(*episodes, strict=False)):
        if first != second:
            yield f"{_call(number)} differs between two episodes with the same seed and actions: {first!r}, {second!r}."
            return


def play(env: Any, seed: int) -> Iterator[Any]:
    """Play sampled actions to the end; yield what reset and every step return."""
    yield env.reset(seed=seed)
    for _ in range(LONGEST_EPISODE):
        result = env.step(env.action_space.sample())
        yield result
        if result[2] or result[3]:
            return


def _call(number: int) -> str:
    """Name the call that gave result `number` of `play`."""
    return f"step {number}" if number else "reset"


def _episodes_end(env: Any) -> Iterator[str]:
    """Random text must end the episode some time; a `ConversationEnv` must refuse to step on."""
    last = list(play(env, seed=8))[-1]
    if not (last[2] or last[3]):
        yield f"{LONGEST_EPISODE} steps with sampled text neither terminated nor truncated the episode."
        return
    if last[2] and last[3]:
        yield "an episode ended as both terminated and truncated."
    if not isinstance(env, ConversationEnv):
        return
    try:
        env.step("")
    except Exception:
        return
    yield "step after the end of the episode was accepted; it must raise gymnasium.error.ResetNeeded."


def _five_values(env: Any) -> Iterator[str]:
    """Reset must return two values and step five, of gymnasium's types; the reward a finite number."""
    for number, result in enumerate(play(env, seed=6)):
        where, size = _call(number), 5 if number else 2
        if not isinstance(result, tuple) or len(result) != size:
            yield f"{where} must return a tuple of {size} values, got {result!r}."
        elif not isinstance(result[-1], dict):
            yield f"{where} must return info, a dict, as its last value, got {result[-1]!r}."
        elif not number:
            continue
        elif not _is_number(result[1]):
            yield f"the reward of {where} must be a finite number, got {result[1]!r}."
        elif bad := [flag for flag in result[2:4] if not isinstance(flag, bool | np.bool_)]:
            yield f"terminated and truncated of {where} must be True or False, got {bad[0]!r}."
        else:
            continue
        return


def _is_number(value: Any) -> bool:
    """Whether a reward is a finite number; numpy's and true and false count as such."""
    return isinstance(value, int | float | np.number | np.bool_) and math.isfinite(value)


def _action_is_text(env: Any) -> Iterator[str]:
    """Any text is an action, and an observation is a tuple or list of messages, at reset of at least one."""
    for text in ("", "any text: 数学 🙂\n\x00", "<tool_call>"):
        if text not in env.action_space:
            yield f"the action space does not contain the text {text!r}; use envs.spaces.ChatText."
    for number, (observation, *_) in enumerate(play(env, seed=9)):
        if not isinstance(observation, tuple | list) or not all(is_message(message) for message in observation):
            yield (
                f"the observation of {_call(number)} must be a tuple or list of messages with role and content, "
                f"got {observation!r}."
            )
            return
        if number == 0 and not observation:
            yield "reset gave no message: the policy needs something to answer."


def _info_is_json(env: Any) -> Iterator[str]:
    """What training reads of `info` must be plain JSON, at reset and at every step."""
    for number, result in enumerate(play(env, seed=10)):
        where, info = f"info of {_call(number)}", result[-1]
        for key, kind in (("task", dict), ("tools", list), ("metrics", dict)):
            needed = key in info or (key == "task" and number == 0 and _has_tasks(env))
            if needed and not isinstance(info.get(key), kind):
                yield f"{where} needs {key!r} as a {kind.__name__}, got {info.get(key)!r}."
                return
        read = {key: value for key, value in info.items() if key in ("task", "tools", "metrics", "status")}
        if json.loads(json.dumps([result[0], read], allow_nan=False)) != [list(result[0]), read]:
            yield f"{where} changes when it is written as JSON and read back: {read!r}."
            return
        if bad := [name for name, value in read.get("metrics", {}).items() if not isinstance(value, int | float)]:
            yield f"{where} has metrics that are no numbers: {bad}."
            return
        if read.get("status", "finished") not in STATUSES:
            yield f"the status of {where} must be one of {', '.join(STATUSES)}, got {read['status']!r}."
            return


def _task_reproduces(env: Any) -> Iterator[str]:
    """`reset(options={"task": info["task"]})` must bring the same episode back."""
    if not _has_tasks(env):
        return
    observation, info = env.reset(seed=11)
    env.reset(seed=12)
    again, info_again = env.reset(seed=13, options={"task": json.loads(json.dumps(info["task"]))})
    if again != observation or any(info_again.get(key) != info.get(key) for key in ("task", "tools")):
        yield f"reset on task {info['task']!r} gave {again!r}, before it was {observation!r}."


def _tasks_are_pure(env: Any) -> Iterator[str]:
    """`task(index)` must not depend on what was drawn before, and must respect `num_tasks`."""
    if not _has_tasks(env):
        return
    own = env.unwrapped
    number = getattr(own, "num_tasks", None)
    last = 3 if number is None else min(3, number - 1)
    first = own.task(last)
    own.task(0)
    env.reset(seed=14)
    if own.task(last) != first:
        yield f"task({last}) gave two different tasks; draw only from the generator it is given."


def _has_tasks(env: Any) -> bool:
    """Whether training names the task of an episode; it seeds the reset of an environment without `task(index)`."""
    return callable(getattr(env.unwrapped, "task", None))


def _tool_schemas(env: Any) -> Iterator[str]:
    """Tools must be JSON schemas in OpenAI's form, with distinct names."""
    tools = env.reset(seed=15)[1].get("tools", [])
    names = []
    for schema in tools:
        function = schema.get("function", {}) if isinstance(schema, dict) else {}
        parameters = function.get("parameters", {})
        names.append(function.get("name"))
        if not (isinstance(names[-1], str) and names[-1]) or schema.get("type") != "function":
            yield f'a tool must be {{"type": "function", "function": {{"name": ...}}}}, got {schema!r}.'
        elif parameters.get("type") != "object" or not isinstance(parameters.get("properties"), dict):
            yield f"the parameters of tool {names[-1]} must be a JSON schema of type object, got {parameters!r}."
        elif not set(parameters.get("required", [])) <= set(parameters["properties"]):
            yield f"tool {names[-1]} requires parameters that it does not have: {parameters['required']}."
        elif not function.get("description"):
            yield f"tool {names[-1]} has no description: the model reads it."
    if len(set(names)) != len(names):
        yield f"tools share a name: {names}."


def _demonstrations_succeed(env: Any) -> Iterator[str]:
    """An expert's episode, where there is one, must earn the full reward and end by itself."""
    if not isinstance(env, ConversationEnv):
        return
    for seed in range(5):
        env.reset(seed=seed)
        messages = env.demonstration()
        if messages is None:
            return
        env.reset(options={"task": env.current_task})
        total, terminated = 0.0, False
        for text in [m["content"] for m in messages if m["role"] == "assistant"]:
            _, reward, terminated, _, _ = env.step(text)
            total += reward
        if not terminated or abs(total - env.max_reward) > 1e-9:
            yield (
                f"the expert's episode on task {env.current_task!r} earned {total} of {env.max_reward} (max_reward) "
                f"and {'ended' if terminated else 'did not terminate'}: {messages!r}."
            )
            return


CHECKS: dict[str, Callable[[Any], Iterator[str]]] = {
    "five values": _five_values,
    "text in, messages out": _action_is_text,
    "same seed, same episode": _same_seed_same_episode,
    "episodes end": _episodes_end,
    "info": _info_is_json,
    "task round trip": _task_reproduces,
    "pure tasks": _tasks_are_pure,
    "tool schemas": _tool_schemas,
    "demonstrations": _demonstrations_succeed,
}
"""Name -> check, a generator of problems in words."""

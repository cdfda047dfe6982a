import subprocess
import sys
from dataclasses import replace

import gymnasium
import pytest

import envs
from configs.environment import WrapperConfig
from configs.errors import ConfigError
from envs.arithmetic import ArithmeticEnv
from envs.registry import REGISTRATIONS, accepted_kwargs, register_all

EXAMPLE = "examples.environments.next_letter:NextLetter"


@pytest.mark.parametrize("environment_id", [*REGISTRATIONS, EXAMPLE])
def test_made_environments_have_a_spec_and_no_wrapper(environment_id):
    env = envs.make(environment_id, {"seed": 3})
    assert env.unwrapped is env
    assert env.spec is not None
    assert env.spec.id == environment_id
    assert env.spec.make(render_mode="ansi").unwrapped.task_seed == 3


def test_gymnasium_makes_them_as_it_makes_every_environment():
    env = gymnasium.make("rejuvenate/Arithmetic-v0", operations_max=3)
    assert isinstance(env.unwrapped, ArithmeticEnv)
    assert env.unwrapped.operations == (2, 3)
    register_all()


def test_vectors_of_environments_can_be_made():
    vector = gymnasium.make_vec("rejuvenate/Lookup-v0", num_envs=2)
    observations, _ = vector.reset(seed=[1, 2])
    assert len(observations) == 2
    vector.close()


@pytest.mark.parametrize(
    ("environment_id", "parts"),
    [
        ("rejuvenate/Arithmetics-v0", ["is not a registered id", "Did you mean 'rejuvenate/Arithmetic-v0'?"]),
        ("Zzz", ["is not a registered id", "rejuvenate/Lookup-v0", "package.module:Class"]),
        ("", ["is not a registered id"]),
        ("no_such_package.module:Env", ["cannot be imported (No module named 'no_such_package')", "install it"]),
        ("examples.environments.next_letter:NextLeter", ["names nothing in", "Did you mean 'NextLetter'?"]),
        ("examples.environments.next_letter:LETTERS", ["must name a subclass of gymnasium.Env"]),
        ("json:JSONDecoder", ["must name a subclass of gymnasium.Env"]),
        (":Env", ["cannot be imported"]),
        ("examples.environments.next_letter:", ["names nothing in"]),
    ],
)
def test_unknown_environments_are_explained(environment_id, parts):
    with pytest.raises(ConfigError) as error:
        envs.make(environment_id)
    assert error.value.field == "environment.id"
    for part in parts:
        assert part in str(error.value)


def test_a_module_that_raises_at_import_is_explained(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be imported \(division by zero\).* runs its code"):
        envs.make("breaks_at_import:Env")


def test_an_id_that_importing_a_module_registers(tmp_path, monkeypatch):
    (tmp_path / "registers_itself.py").write_text(
        "import gymnasium\ngymnasium.register('own/Sums-v0', entry_point='envs.arithmetic:ArithmeticEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert isinstance(envs.make("registers_itself:own/Sums-v0").unwrapped, ArithmeticEnv)
    finally:
        gymnasium.registry.pop("own/Sums-v0", None)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"operation_max": 3},
            r"environment\.kwargs\.operation_max is no argument of ArithmeticEnv, got 3\. Did you mean",
        ),
        ({"zzz": 3}, r"environment\.kwargs\.zzz is no argument of ArithmeticEnv, got 3\. It takes: .*split"),
        ({"operations_max": 0}, r"environment\.kwargs\.operations_max must lie in \[1, 64\], got 0"),
    ],
)
def test_wrong_keyword_arguments_are_explained(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        envs.make("rejuvenate/Arithmetic-v0", kwargs)


class Positional(gymnasium.Env):
    def __init__(self, size, steps=3, *args, render_mode=None, **kwargs):
        self.size = size


@pytest.mark.parametrize("kwargs", [{}, {"steps": 4}])
def test_a_missing_positional_argument_is_named(kwargs):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.size is needed by Positional, got None"):
        envs.make(f"{__name__}:Positional", kwargs)
    assert envs.make(f"{__name__}:Positional", kwargs | {"size": 2}).unwrapped.size == 2


def test_an_argument_that_the_registration_gives_is_not_missing():
    gymnasium.register("own/Positional-v0", entry_point=Positional, kwargs={"size": 5})
    try:
        assert envs.make("own/Positional-v0").unwrapped.size == 5
    finally:
        gymnasium.registry.pop("own/Positional-v0")


def test_accepted_keywords_follow_the_bases():
    assert {"operations_min", "split", "seed", "max_turns", "render_mode"} <= (accepted_kwargs(ArithmeticEnv) or set())
    assert accepted_kwargs(type("Open", (), {"__init__": lambda self, **kwargs: None})) is None


def test_importing_envs_is_light():
    code = "import envs, sys; print(sorted({'torch', 'transformers', 'ray', 'vllm', 'deepspeed'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("environment_id", REGISTRATIONS)
def test_gymnasiums_own_calls_work_on_every_registered_environment(environment_id):
    env = gymnasium.make(environment_id, render_mode="ansi")
    observation, info = env.reset(seed=5)
    assert env.reset(seed=5)[0] == observation
    env.reset(seed=6)
    again, info_again = env.reset(options={"task": info["task"]})
    assert (again, info_again["task"]) == (observation, info["task"])
    assert observation[-1]["content"] in env.render()
    env.close()
    vector = gymnasium.make_vec(environment_id, num_envs=2, vectorization_mode="sync")
    observations, _ = vector.reset(seed=5)
    assert observations[0] == observation
    assert vector.step(["", ""])[1].tolist() == [0.0, 0.0]
    vector.close()


LIMIT = WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 2})


def test_wrappers_are_put_around_the_innermost_first():
    env = envs.make("rejuvenate/Lookup-v0", {}, [LIMIT, WrapperConfig("gymnasium.wrappers:RecordEpisodeStatistics")])
    assert isinstance(env, gymnasium.wrappers.RecordEpisodeStatistics)
    assert isinstance(env.env, gymnasium.wrappers.TimeLimit)
    env.reset(seed=0)
    call = '<tool_call>{"name": "lookup", "arguments": {"key": "a"}}</tool_call>'
    assert env.step(call)[2:4] == (False, False)
    *_, truncated, info = env.step(call)
    assert truncated
    assert info["episode"]["l"] == 2
    assert envs.make("rejuvenate/Lookup-v0").unwrapped is not None
    assert gymnasium.registry["rejuvenate/Lookup-v0"].additional_wrappers == ()


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (WrapperConfig("gymnasium.wrappers:TimeLimits"), r"environment\.wrappers\.id names nothing .*'TimeLimit'"),
        (WrapperConfig("no_such_package:Limit"), r"environment\.wrappers\.id names a module that cannot be imported"),
        (WrapperConfig("envs.lookup:LookupEnv"), r"must name a subclass of gymnasium\.Wrapper"),
        (WrapperConfig("gymnasium.wrappers:TimeLimit"), r"TimeLimit\.kwargs\.max_episode_steps is needed by TimeLimit"),
        (replace(LIMIT, kwargs={**LIMIT.kwargs, "most": 1}), r"kwargs\.most is no argument of TimeLimit, got 1"),
    ],
)
def test_wrong_wrappers_are_explained(wrapper, message):
    with pytest.raises(ConfigError, match=message):
        envs.make("rejuvenate/Lookup-v0", {}, [wrapper])

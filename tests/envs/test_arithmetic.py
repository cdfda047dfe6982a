import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from envs.arithmetic import ArithmeticEnv, solve


@pytest.mark.parametrize(
    ("problem", "reference", "answer"),
    [
        ("12+7-5=", "12+7=19;19-5=14#14", 14),
        ("3-5=", "3-5=98#98", 98),
        ("99+99=", "99+99=98#98", 98),
        ("0-0=", "0-0=0#0", 0),
        ("50+50-1+2=", "50+50=0;0-1=99;99+2=1#1", 1),
    ],
)
def test_worked_problems(problem, reference, answer):
    assert solve(problem) == (reference, answer)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 99)), min_size=1, max_size=8), st.integers(0, 99))
def test_solution_is_the_sum_modulo_a_hundred(terms, first):
    problem = f"{first}{''.join(f'{sign}{operand}' for sign, operand in terms)}="
    reference, answer = solve(problem)
    assert answer == (first + sum(int(f"{sign}{operand}") for sign, operand in terms)) % 100
    assert reference.count("=") == len(terms)
    assert reference.endswith(f"#{answer}")


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("12+7=19;19-5=14#14", 1.0),
        ("#14", 1.0),
        ("wrong steps #14", 1.0),
        ("12+7=19;19-5=14#13", 0.0),
        ("14", 0.0),
        ("", 0.0),
        ("#14#15", 0.0),
    ],
)
def test_reward_is_for_the_integer_after_the_last_marker(text, reward):
    env = ArithmeticEnv()
    observation, _ = env.reset(options={"task": {"problem": "12+7-5="}})
    assert observation == ({"role": "user", "content": "12+7-5="},)
    observation, given_reward, terminated, truncated, info = env.step(text)
    assert (observation, given_reward, terminated, truncated, info["status"]) == ((), reward, True, False, "finished")


def test_rewards_are_arguments():
    env = ArithmeticEnv(correct_reward=2.0, wrong_reward=0.5)
    for text, reward, success in (("#14", 2.0, 1.0), ("#1", 0.5, 0.0)):
        env.reset(options={"task": {"problem": "12+7-5="}})
        _, given, _, _, info = env.step(text)
        assert given == reward
        assert info["metrics"]["success"] == success, "a reward for wrong answers makes none of them right"


def test_problems_keep_to_their_ranges():
    env = ArithmeticEnv(operations_min=1, operations_max=3, operand_max=9)
    problems = [env.task(index)["problem"] for index in range(500)]
    operations = [problem.count("+") + problem.count("-") for problem in problems]
    assert set(operations) == {1, 2, 3}
    operands = [int(n) for problem in problems for n in problem[:-1].replace("-", "+").split("+")]
    assert (min(operands), max(operands)) == (0, 9)


def test_splits_share_no_problem_whatever_the_seed():
    drawn = {
        split: {ArithmeticEnv(split=split, seed=seed).task(i)["problem"] for seed in range(2) for i in range(200)}
        for split in ("train", "heldout", "ood", "tuning")
    }
    assert all(len(problems) > 200 for problems in drawn.values())
    assert len(set().union(*drawn.values())) == sum(len(problems) for problems in drawn.values())


def test_ood_split_can_have_more_operations():
    kwargs = {"operations_max": 2, "ood_operations_min": 3, "ood_operations_max": 4}
    for split, expected in (("train", {2}), ("heldout", {2}), ("ood", {3, 4})):
        env = ArithmeticEnv(split=split, **kwargs)
        problems = [env.task(index)["problem"] for index in range(100)]
        assert {problem.count("+") + problem.count("-") for problem in problems} == expected


def test_first_training_problems_stay_the_same():
    assert [ArithmeticEnv().task(index)["problem"] for index in range(3)] == ["8+2-10=", "20-19+11=", "8-16-13="]
    assert [ArithmeticEnv(split="heldout").task(index)["problem"] for index in range(3)] == [
        "11+3-0=",
        "4+16+11=",
        "6-12-0=",
    ]


def test_demonstration_is_problem_and_reference():
    env = ArithmeticEnv()
    env.reset(options={"task": {"problem": "12+7-5="}})
    assert env.demonstration() == [
        {"role": "user", "content": "12+7-5="},
        {"role": "assistant", "content": "12+7=19;19-5=14#14"},
    ]


@pytest.mark.parametrize("problem", ["", "12", "12=", "12+=", "100+1=", "1*2=", "1+2", "1+2=\n", "-1+2=", 3, "١+٢="])
def test_a_task_that_is_no_problem_is_refused(problem):
    with pytest.raises(ValueError, match=r'must look like "12\+7-5="'):
        ArithmeticEnv().reset(options={"task": {"problem": problem}})


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"operations_min": 0}, "operations_min"),
        ({"operations_min": 3, "operations_max": 2}, "operations_min"),
        ({"operand_max": 100}, "operand_max"),
        ({"operations_max": "three"}, "operations_max"),
        ({"operations_max": 2.5}, "operations_max"),
        ({"operand_max": True}, "operand_max"),
        ({"split": "ood", "ood_operations_min": 5, "ood_operations_max": 3}, "ood_operations_min"),
    ],
)
def test_ranges_are_checked(kwargs, field):
    with pytest.raises(ConfigError) as error:
        ArithmeticEnv(**kwargs)
    assert str(error.value).startswith(f"environment.kwargs.{field} must ")


def test_a_range_of_another_type_is_named():
    with pytest.raises(ConfigError, match=r"operations_max must be an integer in \[1, 64\], got 'three'\."):
        ArithmeticEnv(operations_max="three")

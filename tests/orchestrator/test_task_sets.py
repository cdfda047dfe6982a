import gymnasium
import pytest

from configs.environment import WrapperConfig
from configs.errors import ConfigError
from configs.loader import load
from orchestrator.task_sets import check, task_sets, try_environment
from tests.orchestrator.fakes import run_config
from tests.pico import make_checkpoint

LIMIT = "{id: gymnasium.wrappers:TimeLimit, kwargs: {max_episode_steps: 2}}"


class Fragile(gymnasium.Env):
    """An environment of a user's own that cannot be made."""

    def __init__(self, cause: str = "database") -> None:
        raise KeyError(f"no {cause}\nat all")


def check_config(config):
    check(task_sets(config), config.model)


def test_set_without_an_environment_of_its_own_lays_its_arguments_over_those_of_training():
    config = run_config(
        "environment.kwargs={operand_max: 9, split: train}",
        f"environment.wrappers=[{LIMIT}]",
        "evaluation.sets=[{name: a, kwargs: {split: heldout}, wrappers: [{id: gymnasium.wrappers:Autoreset}]}]",
    )
    (found,) = task_sets(config)
    assert found.environment.id == "rejuvenate/Arithmetic-v0"
    assert found.environment.kwargs == {"operand_max": 9, "split": "heldout"}
    assert found.environment.wrappers == [
        WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 2}),
        WrapperConfig("gymnasium.wrappers:Autoreset"),
    ]


def test_environment_of_a_set_s_own_takes_nothing_from_training():
    config = run_config(
        "environment.kwargs={operand_max: 9}",
        f"environment.wrappers=[{LIMIT}]",
        "evaluation.sets=[{name: a, environment: rejuvenate/Arithmetic-v0}, "
        "{name: b, environment: rejuvenate/Lookup-v0}]",
    )
    for found in task_sets(config):
        assert (found.environment.kwargs, found.environment.wrappers) == ({}, [])
    assert [s.environment.id for s in task_sets(config)] == ["rejuvenate/Arithmetic-v0", "rejuvenate/Lookup-v0"]


def test_what_a_set_leaves_open_comes_from_the_run():
    config = run_config(
        "rollout.max_tokens=33",
        "evaluation.samples=6",
        "evaluation.k=3",
        "evaluation.temperature=0.7",
        "evaluation.sets=[{name: a, tasks: 5}, {name: b, tasks: 5, sampled_tasks: 2, samples: 4, k: 1, "
        "temperature: 0.1, max_tokens: 7}]",
    )
    a, b = task_sets(config)
    assert (a.sampled_tasks, a.samples, a.k, a.temperature, a.max_tokens, a.episodes) == (5, 6, 3, 0.7, 33, 35)
    assert (b.sampled_tasks, b.samples, b.k, b.temperature, b.max_tokens, b.episodes) == (2, 4, 1, 0.1, 7, 13)


def test_without_a_training_environment_every_set_needs_its_own():
    given = ["model.base=b", "model.sft=s", "evaluation.sets=[{name: a, tasks: 5}]"]
    with pytest.raises(ConfigError, match=r"^evaluation\.sets\.a\.environment must be given without a training"):
        task_sets(load([], given, {"environment": {"id": ""}}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("environment: rejuvenate/Lookups-v0", r"^evaluation\.sets\.x\.environment is not a registered id"),
        (
            "environment: no_such_module:Env",
            r"^evaluation\.sets\.x\.environment names a module that cannot be imported",
        ),
        ("kwargs: {operand_mx: 3}", r"^evaluation\.sets\.x\.kwargs\.operand_mx .* Did you mean 'operand_max'\?$"),
        ("kwargs: {split: tset}", r"^evaluation\.sets\.x\.kwargs\.split must be one of"),
        ("wrappers: [{id: gymnasium.wrappers:TimeLimt}]", r"^evaluation\.sets\.x\.wrappers\.id names nothing"),
        (
            "wrappers: [{id: gymnasium.wrappers:TimeLimit}]",
            r"^evaluation\.sets\.x\.wrappers\.gymnasium\.wrappers:TimeLimit\.kwargs\.max_episode_steps is needed by "
            r"TimeLimit, got None\. Set evaluation\.sets\.x\.wrappers\.",
        ),
        (
            "environment: envs.question_answer:QuestionAnswerEnv",
            r"^evaluation\.sets\.x\.kwargs\.path is needed by .* Set evaluation\.sets\.x\.kwargs\.path\.$",
        ),
        (
            "environment: envs.question_answer:QuestionAnswerEnv, kwargs: {path: /no/such.jsonl}",
            r"^evaluation\.sets\.x\.kwargs\.path must be a file, got '/no/such\.jsonl'",
        ),
        (
            "environment: tests.orchestrator.test_task_sets:Fragile",
            r"^evaluation\.sets\.x\.environment must name an environment that can be made \(KeyError: 'no database"
            r"\\nat all'\), got .* `rejuvenate env check tests",
        ),
    ],
)
def test_environment_of_a_set_that_cannot_be_made_is_named_in_the_set_s_own_fields(fields, message):
    config = run_config(f"evaluation.sets=[{{name: ok, tasks: 2}}, {{name: x, tasks: 2, {fields}}}]")
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(config)
    assert "\n" not in str(caught.value)


def test_more_tasks_than_the_environment_has_are_refused(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "1+1", "answer": "#### 2"}\n' * 3)
    own = f"environment: envs.question_answer:QuestionAnswerEnv, kwargs: {{path: {tmp_path}/q.jsonl}}"
    check_config(run_config(f"evaluation.sets=[{{name: x, tasks: 3, {own}}}]"))
    with pytest.raises(ConfigError, match=r"^evaluation\.sets\.x\.tasks must be <= 3, .* got 4"):
        check_config(run_config(f"evaluation.sets=[{{name: x, tasks: 4, {own}}}]"))


def test_training_environment_that_cannot_be_made_is_the_user_s_to_mend():
    config = run_config("environment.id=tests.orchestrator.test_task_sets:Fragile", "environment.kwargs.cause=host")
    with pytest.raises(ConfigError, match=r"^environment\.id must name an environment that can be made .*no host"):
        try_environment(config.environment, config.model)


def test_template_that_refuses_the_tools_of_a_set_is_found_before_anything_starts(tmp_path):
    template = make_checkpoint(tmp_path / "sft") / "chat_template.jinja"
    tools = "messages | selectattr('role', 'equalto', 'tool') | list"
    template.write_text(f"{{% if {tools} %}}{{{{ raise_exception('No!') }}}}{{% endif %}}" + template.read_text())
    given = [f"model.sft={tmp_path}/sft", "evaluation.sets=[{name: a, tasks: 2}]"]
    check_config(run_config(*given))
    with pytest.raises(ConfigError, match="it says 'No!'"):
        check_config(run_config(given[0], "evaluation.sets=[{name: a, tasks: 2, environment: rejuvenate/Lookup-v0}]"))

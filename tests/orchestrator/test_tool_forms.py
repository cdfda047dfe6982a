import logging

import pytest

from configs.environment import EnvironmentConfig
from configs.rollout import RolloutConfig
from orchestrator.demonstrations import demonstrations
from orchestrator.environment_pool import EnvironmentPool
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.rollout import RolloutWorker
from orchestrator.sft import render
from orchestrator.tool_forms import with_tool_form
from tests.orchestrator.fakes import ChainEnv, FakeEngine, FakeWorker, run_config
from tests.pico import CHAT_TEMPLATE, make_tokenizer

AUTO = EnvironmentConfig("rejuvenate/Lookup-v0", {"tool_parser": "auto", "max_turns": 9})
QWEN3_CODER = "{# <function=f> <parameter=x> #}" + CHAT_TEMPLATE


def test_auto_becomes_the_form_of_the_template():
    found = with_tool_form(AUTO, QWEN3_CODER)
    assert found == EnvironmentConfig(AUTO.id, {"tool_parser": "qwen3_coder", "max_turns": 9})
    assert AUTO.kwargs["tool_parser"] == "auto"


@pytest.mark.parametrize("kwargs", [{}, {"tool_parser": "react"}])
def test_a_chosen_form_stays(kwargs):
    environment = EnvironmentConfig(AUTO.id, kwargs)
    assert with_tool_form(environment, QWEN3_CODER) is environment


def test_a_template_without_a_form_is_noted_once_and_hermes_is_taken(caplog):
    with caplog.at_level(logging.WARNING, logger="rejuvenate"):
        found = [with_tool_form(AUTO, "{{ 'no tools here' }}").kwargs["tool_parser"] for _ in range(2)]
    assert found == ["hermes", "hermes"]
    assert caplog.text.count("hermes is taken") == 1


def test_rollouts_take_environments_of_the_templates_form():
    taken = []

    class Worker(FakeWorker):
        def take_env(self, environment):
            taken.append(environment.kwargs["tool_parser"])
            return ChainEnv()

    worker = Worker(RolloutConfig(max_model_len=64, max_tokens=8), FakeEngine(), None)
    worker.renderer.tool_template = QWEN3_CODER
    worker.pool = EnvironmentPool()
    job = EpisodeJob(group=0, sample=0, task_index=0, seed=0)
    (trajectory,) = RolloutWorker.run(worker, [job], AUTO, Sampling(1.0, 8))
    assert (trajectory.status, taken) == ("finished", ["qwen3_coder"])


def test_fine_tuning_renders_demonstrations_in_the_templates_form(tmp_path):
    tokenizer = make_tokenizer(QWEN3_CODER)
    tokenizer.save_pretrained(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    config = run_config("environment.id=rejuvenate/Lookup-v0", "environment.kwargs.tool_parser=auto", "sft.examples=1")
    (sample,) = render(config, files)
    sampled = [t for t, mask in zip(sample.token_ids, sample.loss_mask, strict=True) if mask]
    assert tokenizer.decode(sampled).startswith("<tool_call>\n<function=lookup>\n<parameter=key>\n")


@pytest.mark.parametrize("form", ["qwen3_coder", "llama3", "mistral", "pythonic", "react"])
@pytest.mark.parametrize("environment_id", ["rejuvenate/Lookup-v0", "rejuvenate/Retail-v0"])
def test_demonstrations_solve_their_tasks_in_every_form(environment_id, form):
    environment = EnvironmentConfig(environment_id, {"tool_parser": form})
    for demonstration in demonstrations(environment, 3):
        assert any(message["role"] == "tool" for message in demonstration.messages)
        tools = [message["content"] for message in demonstration.messages if message["role"] == "tool"]
        assert not any(content.startswith("Error") for content in tools)

"""Episodes in the chat templates of real model families: a scripted model writes calls as its template does."""

import json

import pytest

from configs.environment import EnvironmentConfig
from configs.errors import ConfigError
from configs.model import ModelConfig
from envs import tool
from envs.arithmetic import ArithmeticEnv
from envs.lookup import LookupEnv
from envs.processes import open_environment
from envs.registry import make
from envs.thinking import without_thinking
from orchestrator.environment_rendering import rendering_findings
from orchestrator.episode import Episode, EpisodeJob, Sampling, SharedByGroup
from orchestrator.tool_forms import check_tool_messages, with_tool_form
from policies.engine import Generation
from policies.rendering import Renderer
from tests.chat_templates import FAMILIES, family_tokenizer
from tests.orchestrator.test_cli import call
from tests.pico import make_checkpoint

RENDERERS = {name: Renderer(family_tokenizer(name)) for name in FAMILIES}
TASK = {"start": "a", "hops": 3, "map": "bcdefghijklmnopqrstuvwxyza"}


class Asked(LookupEnv):
    """Look-ups of a fixed task, with a policy as the system prompt and a tool that takes more than text."""

    def task(self, index):
        return TASK

    def first_messages(self, task):
        return [{"role": "system", "content": "Follow the map."}, {"role": "user", "content": "three times from a"}]

    @tool
    def note(self, lines: list[str], bold: bool = False) -> dict:
        """Write lines down.

        Args:
            lines: what to write.
            bold: whether in bold.
        """
        return {"lines": lines, "bold": bold}


def environment(name):
    """The environment with `tool_parser: auto`, as a run makes it."""
    config = EnvironmentConfig(f"{__name__}:Asked", {"tool_parser": "auto", "max_turns": 9})
    config = with_tool_form(config, RENDERERS[name].tool_template)
    assert config.kwargs["tool_parser"] == FAMILIES[name].tool_parser
    return Asked(**config.kwargs)


def written(name, *calls):
    """The text in which the family's template writes calls of (tool, arguments, id)."""
    renderer = RENDERERS[name]
    texts = []
    for some in [calls] if not name.startswith("llama") else [[one] for one in calls]:  # Llama: one per message
        made = [
            {"type": "function", "id": call_id, "function": {"name": tool_name, "arguments": arguments}}
            for tool_name, arguments, call_id in some
        ]
        turn = {"role": "assistant", "content": "", "tool_calls": made}
        conversation = renderer.conversation([{"role": "user", "content": "q"}])
        texts.append(conversation.turn_text(turn).removeprefix(renderer.opening))
    return "; ".join(texts)


def play(name, env, turns, *, end=None, last_reason="stop", room=32_768):
    """Play an episode with given turns as an engine would return them; the trajectory and the turns' ids."""
    renderer = RENDERERS[name]
    job = EpisodeJob(group=0, sample=0, task_index=0, seed=0)
    episode = Episode(job, lambda: env, renderer, Sampling(1.0, 4096), room, SharedByGroup())
    request, sampled = episode.begin(), []
    for number, text in enumerate(turns):
        assert request is not None, f"the episode ended before turn {number}: {episode.trajectory.messages}"
        cut = last_reason == "length" and number == len(turns) - 1
        ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [] if cut else [end or renderer.end_of_turn_id]
        sampled.append(ids)
        reason = "length" if cut else "stop"
        episode.accept(Generation(request.request_id, request.prompt_token_ids, ids, [-1.0] * len(ids), reason, 0))
        request = episode.advance()
    assert request is None
    return episode.trajectory, sampled


def thought(name, text):
    """A turn as the family's models write it."""
    return f"<think>\nI see: <tool_call>\n</think>\n\n{text}" if FAMILIES[name].thinks else text


def tool_answers(trajectory):
    return [message["content"] for message in trajectory.messages if message["role"] == "tool"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_models_calls_are_executed_in_the_form_of_its_template(name):
    turns = [
        thought(name, written(name, ("lookup", {"key": "a"}, "aaaaaaaa1"))),
        thought(name, written(name, ("lookup", {"key": "b"}, "bbbbbbbb1"), ("lookup", {"key": "c"}, "bbbbbbbb2"))),
        thought(name, written(name, ("note", {"lines": ['"é"\n', "<x>"], "bold": True}, "cccccccc1"))),
        thought(name, "#d"),
    ]
    trajectory, sampled = play(name, environment(name), turns)
    note = json.dumps({"lines": ['"é"\n', "<x>"], "bold": True}, ensure_ascii=False)
    assert tool_answers(trajectory) == ["b", "c", "d", note]
    assert (trajectory.reward, trajectory.status) == (1.0, "finished")
    assert trajectory.metrics == {"tool_calls": 4.0, "tool_errors": 0.0, "success": 1.0}
    assert [message["content"] for message in trajectory.messages if message["role"] == "assistant"] == turns
    assert_mask(trajectory, sampled)
    if name == "mistral-nemo":
        text = RENDERERS[name].tokenizer.decode(trajectory.token_ids)
        answered = [piece.partition('"')[0] for piece in text.split('"call_id": "')[1:]]
        assert answered == ["aaaaaaaa1", "bbbbbbbb1", "bbbbbbbb2", "cccccccc1"], "an answer names its call"


def assert_mask(trajectory, sampled):
    """Mask 1 on each turn's ids, turn by turn, and on nothing else."""
    expected = [0] * len(trajectory.token_ids)
    for turn, ids in zip(trajectory.turns, sampled, strict=True):
        place = len(turn.prompt_token_ids)
        assert turn.prompt_token_ids == trajectory.token_ids[:place]
        assert trajectory.token_ids[place : place + len(ids)] == ids == turn.token_ids
        expected[place : place + len(ids)] = [1] * len(ids)
    assert trajectory.loss_mask == expected


MALFORMED = {
    "hermes": '<tool_call>\n{"name": "lookup", "arguments": {"key": "a"}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=lookup>\n<parameter=key>\na\n</function>\n</tool_call>",
    "llama3": '{"name": "lookup", "parameters": {"key": "a"}',
    "mistral": '[TOOL_CALLS][{"name": "lookup", "arguments": {"key": "a"}',
}


@pytest.mark.parametrize("name", FAMILIES)
def test_malformed_calls_come_back_as_errors_and_the_episode_goes_on(name):
    wrong = [
        ("delete", {}, "aaaaaaaa1"),
        ("lookup", {}, "aaaaaaaa2"),
        ("lookup", {"key": "a", "fast": "yes"}, "aaaaaaaa3"),
        ("note", {"lines": {"a": 1}}, "aaaaaaaa4"),
        ("lookup", {"key": "a" * 70_000}, "aaaaaaaa5"),
    ]
    turns = [MALFORMED[FAMILIES[name].tool_parser], *(written(name, call) for call in wrong), "#d"]
    trajectory, sampled = play(name, environment(name), turns, room=200_000)
    assert_mask(trajectory, sampled)
    found = tool_answers(trajectory)
    for answer, words in zip(
        found,
        (
            "",
            "unknown tool 'delete'",
            "missing argument 'key'",
            "unexpected argument 'fast'",
            "'lines' must be",
            "at most",
        ),
        strict=True,
    ):
        assert answer.startswith("Error: ")
        assert words in answer
    assert trajectory.metrics == {"tool_calls": 6.0, "tool_errors": 6.0, "success": 1.0}
    assert trajectory.reward == 1.0
    shown = RENDERERS[name].tokenizer.decode(trajectory.token_ids)
    assert all(answer in shown or json.dumps(answer, ensure_ascii=False) in shown for answer in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_turn_ends_the_episode_and_has_no_end_of_turn(name):
    turns = [written(name, ("lookup", {"key": "a"}, "aaaaaaaa1")), "I think #"]
    trajectory, sampled = play(name, environment(name), turns, last_reason="length")
    assert trajectory.status == "truncated"
    assert_mask(trajectory, sampled)
    assert trajectory.token_ids[-1] != RENDERERS[name].end_of_turn_id


def test_a_call_that_llama_ends_with_end_of_message_is_not_ended_twice():
    renderer = RENDERERS["llama3.1"]
    eom = renderer.tokenizer.convert_tokens_to_ids("<|eom_id|>")
    call = '<|python_tag|>{"name": "lookup", "parameters": {"key": "a"}}'
    trajectory, sampled = play("llama3.1", environment("llama3.1"), [call, "#d"], end=eom)
    assert "<|eom_id|><|start_header_id|>ipython" in renderer.tokenizer.decode(trajectory.token_ids)
    assert_mask(trajectory, sampled)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("environment_id", ["rejuvenate/Lookup-v0", "rejuvenate/Retail-v0"])
def test_the_shipped_environments_pass_the_check_of_rendering_and_mask(environment_id, name):
    config = with_tool_form(EnvironmentConfig(environment_id, {"tool_parser": "auto"}), RENDERERS[name].tool_template)
    env = make(config.id, config.kwargs)
    findings = list(rendering_findings(env, RENDERERS[name]))
    env.close()
    assert [(finding.name, finding.problems) for finding in findings] == [("rendering", ()), ("mask", ())]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\na <tool_call>\n</think>\n\n#x", "#x"),
        ("\n<think></think>#x</think>", "#x</think>"),
        ("a\n</think>\n\n#x", "#x"),
        ("</think>\n#x\n", "#x\n"),
        ("#x\n</think>", ""),
        ("<think>\nnever closed #x", ""),
        ("print('</think>') #x", "print('</think>') #x"),
        ("I <think> so", "I <think> so"),
        ("", ""),
    ],
)
def test_thinking_is_what_precedes_the_turn(text, said):
    assert without_thinking(text) == said


@pytest.mark.parametrize("start", ["base", "sft"])
def test_a_template_that_refuses_tools_is_found_before_anything_starts(tmp_path, start):
    refusing = (
        "{%- for m in messages %}{%- if m.role == 'tool' %}{{- raise_exception('No tools here!') }}{%- endif %}"
        "{{- '[INST]' + m.content + eos_token }}{%- endfor %}{%- if add_generation_prompt %}{{- '[INST]' }}{%- endif %}"
    )
    for directory, template in (("refuses", refusing), ("takes", None)):
        family_tokenizer("mistral-nemo", template).save_pretrained(tmp_path / directory)
    one, other = str(tmp_path / "refuses"), str(tmp_path / "takes")
    bad = (
        ModelConfig(base=one, sft=other, start=start)
        if start == "base"
        else ModelConfig(base=other, sft=one, start=start)
    )
    good = ModelConfig(base=bad.sft, sft=bad.base, start=start)
    check_tool_messages(good, LookupEnv())
    check_tool_messages(bad, ArithmeticEnv())
    with pytest.raises(ConfigError, match="No tools here!"):
        check_tool_messages(bad, LookupEnv())
    isolated = open_environment(EnvironmentConfig("rejuvenate/Lookup-v0", isolation="process"))
    with pytest.raises(ConfigError, match="No tools here!"):
        check_tool_messages(bad, isolated)
    isolated.close()


def test_env_check_takes_the_form_of_the_models_template_and_notes_what_it_rewrites(capsys, monkeypatch, tmp_path):
    for name, stable in (("mistral-nemo", False), ("llama3.1", True)):
        family_tokenizer(name).save_pretrained(tmp_path / name)
        arguments = ("env", "check", f"{__name__}:Asked", "tool_parser=auto", "max_turns=9", "--model", tmp_path / name)
        code, out, _ = call(capsys, monkeypatch, *arguments)
        assert code == 0, out
        assert ("would now write earlier turns otherwise" in " ".join(out.split())) != stable


def test_plan_says_that_a_template_refuses_tools_before_anything_starts(capsys, monkeypatch, tmp_path):
    for name in ("base", "sft"):
        make_checkpoint(tmp_path / name)
    template = tmp_path / "sft" / "chat_template.jinja"
    refusal = (
        "{%- if messages | selectattr('role', 'equalto', 'tool') | list %}{{ raise_exception('No!') }}{% endif -%}"
    )
    template.write_text(refusal + template.read_text())
    given = [f"model.base={tmp_path}/base", f"model.sft={tmp_path}/sft", f"run_dir={tmp_path}/run"]
    code, _, err = call(capsys, monkeypatch, "plan", "configs/tool_toy.yaml", *given)
    assert code == 2
    assert "the tokenizer's chat template must render messages of the roles user, assistant, tool, assistant" in err
    assert "it says 'No!'" in err

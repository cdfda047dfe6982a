"""Episodes in the chat templates of real model families, token by token."""

import datetime
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from policies.rendering import Renderer
from tests.chat_templates import FAMILIES, family_tokenizer, template_text

STABLE = ("qwen2.5", "qwen3-instruct-2507", "qwen3-coder", "llama3.1", "llama3.2")
"""Families whose template leaves earlier messages as they were."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]
RENDERERS = {name: Renderer(family_tokenizer(name)) for name in FAMILIES}


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def says(content):
    return {"role": "assistant", "content": content}


def result(content, **more):
    return {"role": "tool", "name": "add", "content": content, **more}


def calls(*arguments):
    """An assistant's message with calls of `add`, as the templates take them; its text is the template's business."""
    made = [
        {"type": "function", "id": f"call{number:05d}", "function": {"name": "add", "arguments": each}}
        for number, each in enumerate(arguments)
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def answers(*contents):
    """What the tools answer to `calls`."""
    return [result(content, tool_call_id=f"call{number:05d}") for number, content in enumerate(contents)]


def rolled_out(renderer, messages, tools=None):
    """Roll a conversation out as an episode does: ids, mask, and (sampled text, ids added after it) turn by turn."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    conversation = renderer.conversation(messages[: turns[0]], tools)
    token_ids, pieces = list(conversation.prompt_token_ids), []
    loss_mask = [0] * len(token_ids)
    for number, after in zip(turns, [*turns[1:], None], strict=True):
        text = written(renderer, conversation, messages[number])
        sampled = [*renderer.tokenizer(text, add_special_tokens=False)["input_ids"], renderer.end_of_turn_id]
        turn = says(renderer.parse(sampled))
        added = [] if after is None else conversation.extend(turn, messages[number + 1 : after])
        token_ids += sampled + added
        loss_mask += [1] * len(sampled) + [0] * len(added)
        pieces.append((text, added))
    return token_ids, loss_mask, pieces


def written(renderer, conversation, message):
    """The text that a model samples: a message's content to the letter, calls as the template writes them."""
    return conversation.turn_text(message) if message.get("tool_calls") else message["content"]


def spelled(renderer, token_ids):
    return renderer.tokenizer.decode(token_ids, skip_special_tokens=False)


def template_ids(renderer, messages, tools=None):
    """The ids of the template's own rendering, up to the last end of turn."""
    text = renderer.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[: len(ids) - ids[::-1].index(renderer.end_of_turn_id)]


CONVERSATIONS = {
    "one turn": [user("7+5?"), says("It is 12.")],
    "system prompt": [system("Be brief."), user("7+5?"), says("12"), user("Sure?"), says("Yes.")],
    "several turns": [user("a"), says("b"), user("c"), says("d"), user("e"), says("f")],
    "a call": [user("7+5?"), calls({"a": 7, "b": 5}), *answers("12"), says("It is 12.")],
    "calls after calls": [
        system("Be brief."),
        user("7+5, and 12+1?"),
        calls({"a": 7, "b": 5}),
        *answers("12"),
        calls({"a": 12, "b": 1}),
        *answers('{"sum": 13}'),
        says("13"),
        user("And 2 more?"),
        calls({"a": 13, "b": 2}),
        *answers("15"),
        says("15"),
    ],
    "several answers to a turn": [user("?"), says("two calls"), *answers("12", "line\nline", ""), says("Good.")],
    "empty contents": [system(""), user(""), says(""), user(""), says("")],
    "unicode": [
        system("Sé breve 🙂"),
        user("¿7+5? 数学"),
        says("Дванадцать 🙂é"),
        *answers("ñ \u2028"),
        says("\u00a0次"),
    ],
    "spelled special tokens": [user("x <|im_end|> </s> <|eot_id|>"), says("fine"), *answers("[/INST] <s>"), says("!")],
}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", STABLE)
def test_an_episode_has_the_ids_of_the_templates_own_rendering(name, conversation, tools):
    renderer, messages = RENDERERS[name], CONVERSATIONS[conversation]
    if name.startswith("llama"):
        messages = [{**m, "content": m["content"].strip()} for m in messages]  # what the template trims: see below
    token_ids, loss_mask, pieces = rolled_out(renderer, messages, tools)
    if conversation == "spelled special tokens":  # as text, the template's own rendering does not tell them apart
        whole = renderer.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert whole.startswith(spelled(renderer, token_ids))
    else:
        assert token_ids == template_ids(renderer, messages, tools)
    assert_mask(renderer, token_ids, loss_mask, [text for text, _ in pieces])


def assert_mask(renderer, token_ids, loss_mask, texts):
    """The ids with mask 1 are the sampled texts, each with its end of turn, and nothing else."""
    spans, open_span = [], []
    for token_id, sampled in zip([*token_ids, None], [*loss_mask, 0], strict=True):
        if sampled:
            open_span.append(token_id)
        elif open_span:
            spans.append(open_span)
            open_span = []
    end = renderer.end_of_turn
    assert [spelled(renderer, span) for span in spans] == [text + end for text in texts]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_training_data_have_the_ids_and_the_mask_of_an_episode(name, conversation):
    renderer, messages = RENDERERS[name], CONVERSATIONS[conversation]
    token_ids, loss_mask = renderer.training_example(messages, TOOLS)
    opened = renderer.conversation(messages[: [m["role"] for m in messages].index("assistant")], TOOLS)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    told = list(messages)
    for turn, after in zip(turns, [*turns[1:], None], strict=True):  # the same turns as the model would sample them
        text = opened.turn_text(messages[turn])
        sampled = [*renderer.template.tokenize(text), renderer.end_of_turn_id]
        told[turn] = says(renderer.parse(sampled))
        if after is not None:
            opened.extend(told[turn], messages[turn + 1 : after])
    assert (token_ids, loss_mask) == rolled_out(renderer, told, TOOLS)[:2]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_cut_by_length_gets_its_end_from_the_template_with_mask_0(name):
    renderer = RENDERERS[name]
    added = {
        sampled: renderer.conversation([user("q")]).extend(says("cu"), [user("go on")], end_of_turn_sampled=sampled)
        for sampled in (True, False)
    }
    assert added[False] == [renderer.end_of_turn_id, *added[True]]
    assert spelled(renderer, added[False]).startswith(FAMILIES[name].end_of_turn)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_beginning_of_text_stands_once(name):
    renderer, bos = RENDERERS[name], RENDERERS[name].tokenizer.bos_token_id
    token_ids, *_ = rolled_out(renderer, CONVERSATIONS["calls after calls"], TOOLS)
    assert token_ids.count(bos) == (bos is not None)
    assert bos is None or token_ids[0] == bos


# Qwen3: the thinking of earlier turns


THOUGHT, CALL = (
    "<think>\nadd them\n</think>\n\n",
    '<tool_call>\n{"name": "add", "arguments": {"a": 7, "b": 5}}\n</tool_call>',
)
LOOP = [user("7+5?"), says(THOUGHT + CALL), result("12"), says(THOUGHT + "It is 12.")]


def test_qwen3_is_stable_between_two_user_messages():
    renderer = RENDERERS["qwen3"]
    token_ids, loss_mask, _ = rolled_out(renderer, LOOP, TOOLS)
    assert token_ids == template_ids(renderer, LOOP, TOOLS)
    assert_mask(renderer, token_ids, loss_mask, [THOUGHT + CALL, THOUGHT + "It is 12."])


def test_qwen3_drops_earlier_thinking_and_the_episode_keeps_it():
    renderer = RENDERERS["qwen3"]
    messages = [*LOOP, user("And 1 more?"), says(THOUGHT + "13")]
    token_ids, loss_mask, _ = rolled_out(renderer, messages, TOOLS)
    kept = spelled(renderer, token_ids)
    dropped = spelled(renderer, template_ids(renderer, messages, TOOLS))
    assert kept.count("<think>") == 3
    assert kept.replace(THOUGHT, "", 2) == dropped
    assert_mask(renderer, token_ids, loss_mask, [m["content"] for m in messages if m["role"] == "assistant"])


def test_qwen3_gives_a_last_turn_without_thinking_an_empty_block():
    renderer = RENDERERS["qwen3"]
    messages = [user("7+5?"), says(CALL), result("12"), says("It is 12.")]
    empty = "<think>\n\n</think>\n\n"
    sampled = spelled(renderer, rolled_out(renderer, messages)[0])
    trained = spelled(renderer, renderer.training_example(messages)[0])
    assert sampled.count("<think>") == 0
    assert spelled(renderer, template_ids(renderer, messages)) == sampled.replace("It is", f"{empty}It is")
    assert trained == sampled.replace("It is", f"{empty}It is").replace(CALL, empty + CALL)


def test_qwen3_without_thinking_by_a_line_in_the_template():
    template = "{%- set enable_thinking = false %}" + template_text("qwen3")
    renderer = Renderer(family_tokenizer("qwen3", template))
    empty = "<think>\n\n</think>\n\n"
    messages = [user("7+5?"), says("12"), user("Sure?"), says("Yes.")]
    token_ids, loss_mask, _ = rolled_out(renderer, messages)
    assert spelled(renderer, token_ids) == (
        f"<|im_start|>user\n7+5?<|im_end|>\n<|im_start|>assistant\n{empty}12<|im_end|>\n"
        f"<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n{empty}Yes.<|im_end|>"
    )
    assert (token_ids, loss_mask) == renderer.training_example(messages)
    assert_mask(renderer, token_ids, loss_mask, ["12", "Yes."])


def test_qwen3_takes_reasoning_content_of_training_data():
    renderer = RENDERERS["qwen3"]
    apart = [user("7+5?"), {**says("12"), "reasoning_content": "add them"}]
    assert renderer.training_example(apart) == renderer.training_example([user("7+5?"), says(THOUGHT + "12")])


# Llama 3


def test_llama_trims_a_turn_and_the_episode_keeps_what_was_sampled():
    renderer = RENDERERS["llama3.1"]
    messages = [user(" q "), says(" 12\n"), user("Sure?"), says("Yes.")]
    kept = spelled(renderer, rolled_out(renderer, messages)[0])
    assert kept.replace(" 12\n", "12") == spelled(renderer, template_ids(renderer, messages)) != kept
    assert "\n\nq<|eot_id|>" in kept, "what the environment says is trimmed"
    trained = spelled(renderer, renderer.training_example(messages)[0])
    assert trained == kept.replace(" 12\n", "12")


def test_llama_shows_a_tools_answer_as_a_json_string():
    renderer = RENDERERS["llama3.2"]
    added = renderer.conversation([user("q")], TOOLS).extend(says("{}"), [result('a "b"\nc')])
    assert spelled(renderer, added).startswith(
        '<|start_header_id|>ipython<|end_header_id|>\n\n"a \\"b\\"\\nc"<|eot_id|>'
    )


def test_llama_3_2_writes_the_date_once_and_a_line_in_the_template_fixes_it():
    moving = spelled(RENDERERS["llama3.2"], RENDERERS["llama3.2"].prompt([user("q")]))
    days = [datetime.date.today() + datetime.timedelta(days=days) for days in (-1, 0)]
    assert any(f"Today Date: {day:%d %b %Y}\n" in moving for day in days), "the day of the rendering"
    template = '{%- set date_string = "26 Jul 2024" %}' + template_text("llama3.2")
    fixed = Renderer(family_tokenizer("llama3.2", template))
    token_ids, *_ = rolled_out(fixed, CONVERSATIONS["calls after calls"], TOOLS)
    assert spelled(fixed, token_ids).count("Today Date: 26 Jul 2024\n") == 1
    assert spelled(RENDERERS["llama3.1"], RENDERERS["llama3.1"].prompt([user("q")])) == spelled(
        fixed, fixed.prompt([user("q")])
    )


def test_llama_ends_a_turn_with_either_of_its_two_tokens():
    renderer = RENDERERS["llama3.1"]
    eot, eom = renderer.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|eom_id|>"])
    assert {eot, eom} <= set(renderer.stop_token_ids)
    assert renderer.ends_turn(eot)
    assert renderer.ends_turn(eom)
    assert not RENDERERS["qwen2.5"].ends_turn(RENDERERS["qwen2.5"].tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    text = '<|python_tag|>{"name": "add"}'
    assert renderer.parse([*renderer.template.tokenize(text), eom]) == text


def test_llama_refuses_two_calls_in_one_message_of_training_data():
    messages = [user("q"), calls({"a": 1}, {"a": 2}), *answers("1", "2"), says("3")]
    with pytest.raises(ConfigError, match="This model only supports single tool-calls at once!"):
        RENDERERS["llama3.1"].training_example(messages, TOOLS)


# Mistral


MISTRALS_CALL = '[TOOL_CALLS][{"name": "add", "arguments": {"a": 7, "b": 5}, "id": "abcDEF123"}]'


def test_mistral_is_stable_after_one_user_message_without_a_system_prompt():
    renderer = RENDERERS["mistral-nemo"]
    messages = [user("7+5?"), says(MISTRALS_CALL), result("12", tool_call_id="abcDEF123"), says("It is 12.")]
    structured = [m | calls({"a": 7, "b": 5}) if m is messages[1] else m for m in messages]
    structured[1]["tool_calls"][0]["id"] = "abcDEF123"
    token_ids, loss_mask, _ = rolled_out(renderer, messages, TOOLS)
    assert token_ids == template_ids(renderer, structured, TOOLS)
    assert_mask(renderer, token_ids, loss_mask, [MISTRALS_CALL, "It is 12."])
    assert renderer.training_example(structured, TOOLS) == (token_ids, loss_mask)
    assert '[TOOL_RESULTS]{"content": 12, "call_id": "abcDEF123"}[/TOOL_RESULTS]It is' in spelled(renderer, token_ids)


def test_mistral_takes_any_number_of_turns_with_calls_in_a_row():
    renderer = RENDERERS["mistral-nemo"]
    messages = [user("q"), *[says(MISTRALS_CALL), result("1"), result("2")] * 4, says("done")]
    text = spelled(renderer, rolled_out(renderer, messages, TOOLS)[0])
    both = '[TOOL_RESULTS]{"content": 1, "call_id": "000000000"}[/TOOL_RESULTS][TOOL_RESULTS]{"content": 2, "call_id": '
    assert text.count(f'{MISTRALS_CALL}</s>{both}"000000001"}}[/TOOL_RESULTS]') == 4
    assert text.endswith("[/TOOL_RESULTS]done</s>")


def test_mistral_moves_tools_and_system_prompt_to_the_last_user_message_and_the_episode_has_them_at_each():
    renderer = RENDERERS["mistral-nemo"]
    messages = [system("Be brief."), user("7+5?"), says("12"), user("Sure?"), says("Yes.")]
    kept = spelled(renderer, rolled_out(renderer, messages, TOOLS)[0])
    shown = kept[kept.index("[AVAILABLE_TOOLS]") : kept.index("[/AVAILABLE_TOOLS]") + len("[/AVAILABLE_TOOLS]")]
    assert json.loads(shown[len("[AVAILABLE_TOOLS]") : -len("[/AVAILABLE_TOOLS]")]) == TOOLS
    assert kept == (f"<s>{shown}[INST]Be brief.\n\n7+5?[/INST]12</s>{shown}[INST]Be brief.\n\nSure?[/INST]Yes.</s>")
    own = spelled(renderer, template_ids(renderer, messages, TOOLS))
    assert own == f"<s>[INST]7+5?[/INST]12</s>{shown}[INST]Sure?[/INST]Yes.</s>", "no system prompt before an answer"


def test_ids_of_other_forms_become_ones_that_mistral_takes_and_still_agree():
    renderer = RENDERERS["mistral-nemo"]
    turn = calls({"a": 7}, {"a": 8})
    turn["tool_calls"][0]["id"], turn["tool_calls"][1]["id"] = "call_0123456789", None
    messages = [user("q"), turn, result("12", tool_call_id="call_0123456789"), result("13"), says("25")]
    text = spelled(renderer, renderer.training_example(messages)[0])
    called, answered = (re.findall(rf'"{key}": "([A-Za-z0-9]{{9}})"', text) for key in ("id", "call_id"))
    assert called == answered
    assert called[1] == "000000001"


def test_mistrals_own_library_makes_the_same_prompts():
    """Between two user messages; there, unlike the chat template, it keeps the system prompt, as an episode does."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    called = calls({"a": 7, "b": 5}, {"a": 1, "b": 2})
    for number, call in enumerate(called["tool_calls"]):
        call |= {"id": f"abcDEF12{number}", "function": {**call["function"]}}
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        called["tool_calls"][number] = call
    messages = [system("Be brief."), user("7+5, 1+2?"), called]
    messages += [result(content, tool_call_id=f"abcDEF12{number}") for number, content in enumerate(("12", "3"))]
    library = MistralTokenizer.v3(is_tekken=True)
    own = [
        library.encode_chat_completion(ChatCompletionRequest(model="m", tools=TOOLS, messages=some)).text
        for some in (messages[:2], messages)
    ]
    renderer = RENDERERS["mistral-nemo"]
    conversation = renderer.conversation(messages[:2], TOOLS)
    first = spelled(renderer, conversation.prompt_token_ids)
    text = own[1].removeprefix(own[0]).partition("</s>")[0]
    assert text.startswith('[TOOL_CALLS][{"name": "add"')
    second = spelled(renderer, conversation.extend(says(text), messages[3:]))
    assert [first, f"{first}{text}</s>{second}"] == own


def test_segments_are_tokenized_by_themselves_where_tokens_would_span_them():
    merges = (("Ċ", "Ċ"),)
    renderer = Renderer(family_tokenizer("qwen2.5", merges=merges))
    for text, same in (("12\n\n3", True), ("\n12", False)):
        messages = [user("q"), says(text), user("c"), says("d")]
        token_ids, loss_mask, _ = rolled_out(renderer, messages)
        own = template_ids(renderer, messages)
        assert spelled(renderer, token_ids) == spelled(renderer, own)
        assert (token_ids == own) == same
        assert_mask(renderer, token_ids, loss_mask, [text, "d"])
        assert renderer.training_example(messages) == (token_ids, loss_mask)


def test_what_a_template_refuses_is_said_in_its_own_words():
    with pytest.raises(ConfigError, match="conversation roles must alternate") as raised:
        RENDERERS["mistral-nemo"].conversation([user("a"), user("b")])
    assert "roles user, user" in str(raised.value)
    with pytest.raises(ConfigError, match="when there's no first user message"):
        RENDERERS["llama3.1"].conversation([system("s")], TOOLS)


def test_a_template_without_tool_messages_is_refused_when_they_are_needed():
    template = (
        "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}"
        "{%- elif m.role == 'assistant' %}{{- m.content + eos_token }}"
        "{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}{%- endfor %}"
    )
    renderer = Renderer(family_tokenizer("mistral-nemo", template))
    assert spelled(renderer, renderer.prompt([user("q")])) == "<s>[INST]q[/INST]"
    with pytest.raises(ConfigError, match="Only user and assistant roles are supported!"):
        renderer.check_tool_messages()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_tool_messages(name):
    RENDERERS[name].check_tool_messages()
    assert RENDERERS[name].calls_needed == (name == "mistral-nemo")


# Any conversation


PIECES = [
    *(
        "<think>",
        "</think>",
        "\n",
        " ",
        "x",
        "0",
        "é",
        "<tool_call>",
        "</tool_call>",
        '{"name": "add"}',
        "[TOOL_CALLS]",
    ),
    *("<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<tool_response>", "</tool_response>", "\ufdd0turn\ufdd1"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.lists(
    st.sampled_from(PIECES), max_size=6
).map("".join)


@st.composite
def conversations(draw):
    """A conversation with or without system prompt; users and tools answer turns, up to three tools at once."""
    messages = [system(draw(TEXT))] if draw(st.booleans()) else []
    messages.append(user(draw(TEXT)))
    for kind in draw(st.lists(st.sampled_from(["user", "tools"]), max_size=4)):
        messages.append(says(draw(TEXT)))
        if kind == "user" and messages[-2]["role"] != "tool":
            messages.append(user(draw(TEXT)))
        else:
            messages += [result(draw(TEXT)) for _ in range(draw(st.integers(1, 3)))]
    return [*messages, says(draw(TEXT))]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(messages=conversations(), tools=st.sampled_from([None, TOOLS]))
def test_any_episode_grows_by_what_the_template_puts_after_each_turn(name, messages, tools):
    renderer = RENDERERS[name]
    messages = [m if m["role"] != "assistant" else says(sampled_text(renderer, m["content"])) for m in messages]
    token_ids, loss_mask, pieces = rolled_out(renderer, messages, tools)
    assert_mask(renderer, token_ids, loss_mask, [text for text, _ in pieces])
    special = {i for i, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}
    plain = [says("x") if m["role"] == "assistant" else {**m, "content": "x"} for m in messages]
    plain_ids = rolled_out(renderer, plain, tools)[0]
    spelled_by_policy = {renderer.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")}
    assert [i for i in token_ids if i in special - spelled_by_policy] == [
        i for i in plain_ids if i in special - spelled_by_policy
    ], "nobody but the template ends, opens or moves a message"
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    for turn, after, (_, added) in zip(turns, [*turns[1:], None], pieces, strict=True):
        if after is not None:  # the template's own rendering at that time ends so
            shown = as_the_template_takes(renderer, messages[:after])
            own = renderer.tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, add_generation_prompt=True)
            assert own.endswith(renderer.end_of_turn + spelled(renderer, added)), turn
    if name in STABLE and not (
        name.startswith("llama") and any(m["content"] != m["content"].strip() for m in messages)
    ):
        own = renderer.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert own == spelled(renderer, token_ids) + renderer.closing.removeprefix(renderer.end_of_turn)


def sampled_text(renderer, text):
    """What an engine could have sampled of a text: special tokens other than those of calls end up in no message."""
    for token in renderer.tokenizer.added_tokens_decoder.values():
        if token.special and token.content != "[TOOL_CALLS]":
            text = text.replace(token.content, "")
    return text


def as_the_template_takes(renderer, messages):
    """Mistral's template takes an answered turn with `tool_calls` only."""
    if not renderer.calls_needed:
        return messages
    shown = []
    for message, following in zip(messages, [*messages[1:], user("")], strict=True):
        if message["role"] == "assistant" and following["role"] == "tool":
            message = calls({"a": 1})
        if message["role"] == "tool":
            number = shown[-1]["number"] + 1 if shown[-1]["role"] == "tool" else 0
            message = {**message, "tool_call_id": f"{number:09d}", "number": number}
        shown.append(message)
    return shown

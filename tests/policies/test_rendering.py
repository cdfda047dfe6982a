import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from configs.errors import ConfigError
from policies.rendering import Renderer, load_renderer
from tests.pico import CHARACTERS, EOS, PAD, ROLES, make_checkpoint, make_tokenizer

# As Qwen2.5 has it: a default system prompt, tool results inside a user turn, text after the end-of-turn token.
CHATML = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- if tools %}{{- 'Tools: ' + (tools | tojson) + '\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QUESTION = {"role": "user", "content": "7+5?"}
CALL = {"role": "assistant", "content": "\nadd(7, 5)"}
RESULT = {"role": "tool", "content": "12"}
ANSWER = {"role": "assistant", "content": "It is 12."}
TOOLS = [{"name": "add"}]


@pytest.fixture(params=["pico", "chatml"])
def renderer(request):
    if request.param == "pico":
        return Renderer(make_tokenizer())
    return Renderer(make_tokenizer(CHATML, specials=("<|im_start|>", "<|im_end|>")))


def text_of(renderer, token_ids):
    return renderer.tokenizer.decode(token_ids)


def test_prompt_holds_messages_tools_and_the_generation_prompt():
    renderer = Renderer(make_tokenizer())
    expected = '<sys>[{"name": "add"}]<eos><user>7+5?<eos><asst>'
    assert text_of(renderer, renderer.prompt([QUESTION], TOOLS)) == expected
    assert text_of(renderer, renderer.prompt([QUESTION])) == "<user>7+5?<eos><asst>"


def test_extension_adds_only_what_was_not_sampled(renderer):
    sampled_end = renderer.conversation([QUESTION]).extend(CALL, [RESULT])
    cut = renderer.conversation([QUESTION]).extend(CALL, [RESULT], end_of_turn_sampled=False)
    assert cut == [renderer.end_of_turn_id, *sampled_end]
    assert renderer.end_of_turn_id not in sampled_end[:1]


def test_chatml_closing_newline_comes_from_the_environment():
    renderer = Renderer(make_tokenizer(CHATML, specials=("<|im_start|>", "<|im_end|>")))
    added = text_of(renderer, renderer.conversation([QUESTION]).extend(CALL, [RESULT]))
    expected = "\n<|im_start|>user\n<tool_response>\n12\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert added == expected
    assert renderer.end_of_turn_id == renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.end_of_turn_id in renderer.stop_token_ids
    assert renderer.tokenizer.eos_token_id in renderer.stop_token_ids


def test_segments_of_an_episode_join_to_the_text_of_the_whole_conversation(renderer):
    conversation = [QUESTION, CALL, RESULT, ANSWER]
    first = [*renderer.tokenizer.encode(CALL["content"], add_special_tokens=False), renderer.end_of_turn_id]
    last = [*renderer.tokenizer.encode(ANSWER["content"], add_special_tokens=False), renderer.end_of_turn_id]
    episode = (
        renderer.prompt([QUESTION], TOOLS)
        + first
        + renderer.conversation([QUESTION], TOOLS).extend(CALL, [RESULT])
        + last
    )
    whole = renderer.tokenizer.apply_chat_template(conversation, tools=TOOLS, tokenize=False)
    assert whole.removesuffix("\n") == text_of(renderer, episode)


def test_training_example_equals_the_episode_with_the_same_turns(renderer):
    token_ids, loss_mask = renderer.training_example([QUESTION, CALL, RESULT, ANSWER], TOOLS)
    first = [*renderer.tokenizer.encode(CALL["content"], add_special_tokens=False), renderer.end_of_turn_id]
    last = [*renderer.tokenizer.encode(ANSWER["content"], add_special_tokens=False), renderer.end_of_turn_id]
    prompt = renderer.prompt([QUESTION], TOOLS)
    added = renderer.conversation([QUESTION], TOOLS).extend(CALL, [RESULT])
    assert token_ids == prompt + first + added + last
    assert loss_mask == [0] * len(prompt) + [1] * len(first) + [0] * len(added) + [1] * len(last)


def test_training_example_must_end_with_an_assistant_turn(renderer):
    with pytest.raises(ValueError, match="end with an assistant message"):
        renderer.training_example([QUESTION, CALL, RESULT])


def test_parse_drops_the_end_of_turn(renderer):
    ids = renderer.tokenizer.encode(" 12\nis it", add_special_tokens=False)
    assert renderer.parse([*ids, renderer.end_of_turn_id]) == " 12\nis it"
    assert renderer.parse(ids) == " 12\nis it"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(CHARACTERS.replace("ĠĊ", " \n"), min_size=1, max_size=12), min_size=1, max_size=4))
def test_parsed_turns_render_to_the_ids_they_were_parsed_from(texts):
    renderer = Renderer(make_tokenizer())
    messages = [QUESTION]
    for text in texts:
        messages += [{"role": "assistant", "content": text}, RESULT]
    token_ids, loss_mask = renderer.training_example(messages[:-1])
    turns, current = [], []
    for token_id, sampled in zip(token_ids, loss_mask, strict=True):
        if sampled:
            current.append(token_id)
        if sampled and token_id == renderer.end_of_turn_id:
            turns.append(renderer.parse(current))
            current = []
    assert turns == texts


def test_template_that_replaces_earlier_turns_is_refused():
    template = (
        "{%- for message in messages %}<user>"
        "{%- if message.role == 'assistant' and not loop.last %}{{- 'gone' }}"
        "{%- else %}{{- message.content }}{%- endif %}{{- '<eos>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}<user>{%- endif %}"
    )
    renderer = Renderer(make_tokenizer(template))
    with pytest.raises(ConfigError, match="must end a turn with '<eos>' whatever follows it"):
        renderer.conversation([QUESTION]).extend(CALL, [RESULT])


def test_what_a_template_rewrites_before_a_turn_stays_as_it_was_given():
    """Only what follows the turn is taken; the engine has seen the rest."""
    answers = "messages | selectattr('role', 'equalto', 'tool') | list | length | string"
    counting = CHATML.replace("'<|im_start|>system", f"({answers}) + '<|im_start|>system")
    renderer = Renderer(make_tokenizer(counting, specials=("<|im_start|>", "<|im_end|>")))
    plain = Renderer(make_tokenizer(CHATML, specials=("<|im_start|>", "<|im_end|>")))
    messages = [QUESTION, CALL, RESULT, ANSWER]
    token_ids, loss_mask = renderer.training_example(messages)
    plain_ids, plain_mask = plain.training_example(messages)
    assert text_of(renderer, token_ids) == "0" + text_of(plain, plain_ids)
    assert loss_mask == [0, *plain_mask]


def test_template_that_trims_a_turn_adds_what_follows_it_all_the_same():
    """The engine has seen the turn as it was sampled; only the template's own text after it counts."""
    template = CHATML.replace("message.role + '\n' + message.content", "message.role + '\n' + message.content | trim")
    trimming = Renderer(make_tokenizer(template, specials=("<|im_start|>", "<|im_end|>")))
    exact = Renderer(make_tokenizer(CHATML, specials=("<|im_start|>", "<|im_end|>")))
    spaced = {"role": "assistant", "content": " add(7, 5)\n"}
    for sampled_end in (True, False):
        added = [
            renderer.conversation([QUESTION]).extend(spaced, [RESULT], end_of_turn_sampled=sampled_end)
            for renderer in (trimming, exact)
        ]
        assert added[0] == added[1]


def test_extending_a_copy_leaves_the_conversation_as_it_was(renderer):
    opening = renderer.conversation([QUESTION], TOOLS)
    siblings = [opening.copy(), opening.copy()]
    other = {"role": "assistant", "content": "add(1, 1)"}
    first = [sibling.extend(turn, [RESULT]) for sibling, turn in zip(siblings, (CALL, other), strict=True)]
    assert first[0] == first[1] == opening.extend(CALL, [RESULT])
    assert siblings[0].extend(CALL, [RESULT]) == siblings[1].extend(other, [RESULT]) == opening.extend(CALL, [RESULT])


def test_siblings_with_the_same_answers_are_rendered_once(renderer, monkeypatch):
    opening = renderer.conversation([QUESTION], TOOLS)
    renders, render = [], renderer.render
    monkeypatch.setattr(renderer, "render", lambda *args, **kwargs: renders.append(args) or render(*args, **kwargs))
    for turns in ((CALL, CALL), (CALL, {"role": "assistant", "content": "something else"})):
        sibling = opening.copy()
        for turn in turns:
            sibling.extend(turn, [RESULT])
    assert len(renders) == 2, "one for each turn of the first"
    opening.copy().extend(CALL, [{**RESULT, "content": "another answer"}])
    assert len(renders) == 3


def test_a_copy_renders_after_its_own_messages_alone():
    numbered = CHATML.replace("<tool_response>\n' +", "<tool_response>\n' + (loop.index | string) + ':' +")
    renderer = Renderer(make_tokenizer(numbered, specials=("<|im_start|>", "<|im_end|>")))
    opening = renderer.conversation([QUESTION])
    one, other = opening.copy(), opening.copy()
    added = [text_of(renderer, sibling.extend(CALL, [RESULT])) for sibling in (one, one, other)]
    assert [text.partition(":12")[0][-1] for text in added] == ["3", "5", "3"]


def test_template_without_end_of_turn_or_without_any_template_is_refused():
    endless = "{%- for message in messages %}{{- message.content }}{%- endfor %}"
    with pytest.raises(ConfigError, match="special token"):
        Renderer(make_tokenizer(endless))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="must be set"):
        Renderer(tokenizer)


def test_generation_prompt_that_assistant_messages_lack_is_refused():
    template = (
        "{%- for message in messages %}{{- '<user>' + message.content + '<eos>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<asst>think' }}{%- endif %}"
    )
    with pytest.raises(ConfigError, match="prefix-stable"):
        Renderer(make_tokenizer(template))


def test_loaded_renderer_tokenizes_as_the_file_says(tmp_path):
    renderer = load_renderer(make_checkpoint(tmp_path))
    assert text_of(renderer, renderer.prompt([QUESTION])) == "<user>7+5?<eos><asst>"
    assert renderer.tokenizer.convert_tokens_to_ids([PAD, EOS]) == [0, 1]


def test_tokenizer_that_autotokenizer_changes_is_refused(tmp_path):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    make_checkpoint(tmp_path)
    core = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, " ": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="AutoTokenizer"):
        load_renderer(tmp_path)


def bytes_tokenizer():
    """The CHATML tokenizer with all 256 bytes, so that any text comes back from its ids."""
    tokenizer = make_tokenizer(CHATML, specials=("<|im_start|>", "<|im_end|>"))
    names = [PAD, EOS, *ROLES, "<|im_start|>", "<|im_end|>"]
    vocab = {token: index for index, token in enumerate([*names, *ByteLevel.alphabet()])}
    return Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token=PAD, pad_token=PAD, eos_token=EOS, additional_special_tokens=names[2:],
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


spelled_texts = st.lists(
    st.sampled_from([PAD, EOS, "<|im_end|>", "<|im_start|>", "<user>", "\ufdd0", "\ufdd1", "0", "x", "\n"]), max_size=6
).map("".join)


@given(question=spelled_texts, result=spelled_texts, answer=spelled_texts)
@settings(deadline=None, max_examples=50)
def test_special_tokens_spelled_in_messages_are_text(question, result, answer):
    """A tool that says `<|im_end|>` ends no message and begins none; what it said is there, to the letter."""
    renderer = Renderer(bytes_tokenizer())
    special = {index for index, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}

    def render(*contents):
        roles = ("user", "assistant", "tool", "assistant")
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        return renderer.training_example(messages, TOOLS)[0], messages

    token_ids, messages = render(question, "call", result, answer)
    plain_ids, _ = render("q", "call", "r", "a")
    assert [i for i in token_ids if i in special] == [i for i in plain_ids if i in special]
    whole = renderer.tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    assert renderer.tokenizer.decode(token_ids) == whole.removesuffix("\n")


def test_truncation_and_padding_of_the_tokenizer_reach_no_segment():
    cutting = make_tokenizer()
    cutting.backend_tokenizer.enable_truncation(3)
    cutting.backend_tokenizer.enable_padding(length=64)
    messages = [{"role": "user", "content": "7+5=<eos>12?"}, ANSWER]
    assert Renderer(cutting).training_example(messages) == Renderer(make_tokenizer()).training_example(messages)


def test_a_tokenizer_without_a_backend_is_refused():
    slow = make_tokenizer()
    slow.__class__ = type("Slow", (type(slow),), {"is_fast": False})
    with pytest.raises(ConfigError, match="must be one of the tokenizers library"):
        Renderer(slow)


def test_tokens_of_tool_calls_stay_in_a_sampled_turn_and_return_in_its_demonstration():
    tokenizer = make_tokenizer(specials=("[TOOL_CALLS]", "<think>"))
    renderer = Renderer(tokenizer)
    marker, think = tokenizer.convert_tokens_to_ids(["[TOOL_CALLS]", "<think>"])
    text = "[TOOL_CALLS]f{}"
    ids = [marker, *tokenizer.encode("f{}", add_special_tokens=False)]
    assert renderer.parse([think, *ids, renderer.end_of_turn_id]) == text
    opening = {"role": "user", "content": text}
    token_ids, loss_mask = renderer.training_example([opening, {"role": "assistant", "content": text}])
    assert [t for t, mask in zip(token_ids, loss_mask, strict=True) if mask] == [*ids, renderer.end_of_turn_id]
    assert token_ids.count(marker) == 1, "a user cannot write it"


DROPS = CHATML.replace(
    "{{- '<|im_start|>user\n<tool_response>\n' + message.content", "{{- '<|im_start|>user\n<tool_response>\n'"
)


def test_a_template_that_leaves_out_what_a_tool_answers_is_refused_where_there_are_tools():
    assert DROPS != CHATML
    renderer = Renderer(make_tokenizer(DROPS, specials=("<|im_start|>", "<|im_end|>")))
    with pytest.raises(ConfigError, match="must show the model what a tool answers"):
        renderer.check_tool_messages()


def test_tool_messages_are_checked_with_the_template_for_conversations_with_tools():
    templates = {"default": DROPS, "tool_use": CHATML}
    renderer = Renderer(make_tokenizer(templates, specials=("<|im_start|>", "<|im_end|>")))
    renderer.check_tool_messages()
    assert renderer.tool_template == CHATML


def test_no_space_is_put_before_a_segment():
    """SentencePiece's tokenizers put one before a text, in the middle of a conversation, too, if they are not told."""
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("▁qabcr")}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first", split=False)])
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    core.add_special_tokens(["</s>", "[INST]"])
    template = (
        "{%- for m in messages %}{{- '[INST]' + m.content if m.role == 'user' else m.content + '</s>' }}{%- endfor %}"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", additional_special_tokens=["[INST]"])
    tokenizer.chat_template = template
    messages = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "ab"), ("user", "c"))]
    messages.append({"role": "assistant", "content": " r"})
    token_ids, _ = Renderer(tokenizer).training_example(messages)
    assert tokenizer.convert_ids_to_tokens(token_ids) == ["[INST]", *"qab", "</s>", "[INST]", *"c▁r", "</s>"]
    assert token_ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("ab")) == [*"▁ab"], "by itself it puts one"

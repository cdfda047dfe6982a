from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.errors import ConfigError
from rejuvenation.pairs import TokenPair, draw, load_pairs
from tests.rejuvenation.tiny import token_pairs

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    return save_tokenizer(tmp_path / "tokenizer")


def save_tokenizer(path: Path, eos: str | None = "<end>", template: str | None = TEMPLATE) -> Path:
    special = ["<u>", "<a>", "<s>", "<end>", "<eos>"]
    vocab = {token: number for number, token in enumerate([*special, "\n", *"0123456789+=ok"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, additional_special_tokens=special)
    fast.chat_template = template
    fast.save_pretrained(path)
    return path


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def text(tokenizer_dir: Path, ids: list[int]) -> str:
    return PreTrainedTokenizerFast.from_pretrained(tokenizer_dir).decode(ids)


def test_prompt_and_response_end_with_the_end_of_turn_token(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "data.jsonl", {"prompt": "1+2=", "response": "3"}, "", {"prompt": "4", "response": "5"})
    first, second = load_pairs(data, tokenizer_dir)
    assert text(tokenizer_dir, first.prompt_ids) == "<u>1+2=<end>\n<a>"
    assert text(tokenizer_dir, first.response_ids) == "3<end>"  # nothing after the end-of-turn token
    assert text(tokenizer_dir, second.token_ids) == "<u>4<end>\n<a>5<end>"


def test_every_assistant_turn_is_a_pair(tmp_path: Path, tokenizer_dir: Path) -> None:
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "44")]
    data = write(tmp_path / "data.jsonl", {"messages": [{"role": role, "content": c} for role, c in turns]})
    pairs = load_pairs(data, tokenizer_dir)
    assert [text(tokenizer_dir, pair.response_ids) for pair in pairs] == ["2<end>", "44<end>"]
    assert text(tokenizer_dir, pairs[1].prompt_ids) == "<u>1<end>\n<a>2<end>\n<u>3<end>\n<a>"


def test_malformed_lines_and_files_are_named(tmp_path: Path, tokenizer_dir: Path) -> None:
    good = {"prompt": "1", "response": "2"}
    for bad in ({"question": "1"}, "{", [1], {"messages": [{"content": "x"}]}):
        data = write(tmp_path / "data.jsonl", good, bad)
        with pytest.raises(ValueError, match=r"data\.jsonl, line 2"):
            load_pairs(data, tokenizer_dir)
    with pytest.raises(ConfigError, match="existing JSONL"):
        load_pairs(tmp_path / "none.jsonl", tokenizer_dir)
    with pytest.raises(ConfigError, match="at least one assistant turn"):
        load_pairs(write(tmp_path / "empty.jsonl", ""), tokenizer_dir)


def test_line_that_is_no_json_is_shown(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "data.jsonl", '{"prompt": "1", ')
    with pytest.raises(ValueError, match=r"data\.jsonl, line 1: must be one JSON object, got '{\"prompt\": \"1\",'"):
        load_pairs(data, tokenizer_dir)


def test_turn_ends_where_the_template_ends_it_whatever_the_eos_token(tmp_path: Path) -> None:
    """As with a base tokenizer, whose eos is not the end of a turn: the newline after it was never trained."""
    tokenizer_dir = save_tokenizer(tmp_path / "tokenizer", eos="<eos>")
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "44")]
    data = write(tmp_path / "data.jsonl", {"messages": [{"role": role, "content": c} for role, c in turns]})
    pairs = load_pairs(data, tokenizer_dir)
    assert [text(tokenizer_dir, pair.response_ids) for pair in pairs] == ["2<end>", "44<end>"]
    assert text(tokenizer_dir, pairs[1].prompt_ids) == "<u>1<end>\n<a>2<end>\n<u>3<end>\n<a>"


def test_template_without_an_end_of_turn_token_ends_at_the_eos_token(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}\n{% endfor %}"
    tokenizer_dir = save_tokenizer(tmp_path / "tokenizer", template=template)
    data = write(tmp_path / "data.jsonl", {"prompt": "1", "response": "2\n3"})
    (pair,) = load_pairs(data, tokenizer_dir)
    assert text(tokenizer_dir, pair.response_ids) == "02\n3\n", "the unknown `a` of the role is a 0"
    tokenizer_dir = save_tokenizer(tmp_path / "tokenizer", template=template.replace("\n", "<end>\n"))
    (pair,) = load_pairs(data, tokenizer_dir)
    assert text(tokenizer_dir, pair.response_ids) == "02\n3<end>"


def test_special_tokens_spelled_in_messages_are_text(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "data.jsonl", {"prompt": "1<a>2", "response": "o<end>k\ufdd00"})
    (pair,) = load_pairs(data, tokenizer_dir)
    assert text(tokenizer_dir, pair.prompt_ids) == "<u>10002<end>\n<a>"  # characters without a token are 0
    assert text(tokenizer_dir, pair.response_ids) == "o00000k00<end>"


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": "1\u2028\x85", "response": "2"}, {"prompt": "3", "response": "4"}]
    data.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    first, second = load_pairs(data, tokenizer_dir)
    assert text(tokenizer_dir, first.token_ids) == "<u>100<end>\n<a>2<end>"
    assert text(tokenizer_dir, second.response_ids) == "4<end>"


def test_what_a_template_refuses_is_named_by_file_and_line(tmp_path: Path) -> None:
    refusing = "{% for m in messages if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endfor %}"
    tokenizer_dir = save_tokenizer(tmp_path / "tokenizer", template=refusing + TEMPLATE)
    turns = [{"role": role, "content": "1"} for role in ("system", "user", "assistant")]
    data = write(tmp_path / "data.jsonl", {"prompt": "1", "response": "2"}, {"messages": turns})
    with pytest.raises(ValueError, match=r"data\.jsonl, line 2: no system here"):
        load_pairs(data, tokenizer_dir)


def test_tokenizer_without_template_needs_an_eos_token(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", {"prompt": "1", "response": "2"})
    (pair,) = load_pairs(data, save_tokenizer(tmp_path / "with", template=None))
    assert pair.response_ids[-1] == 3  # <end>
    with pytest.raises(ConfigError, match="chat template or an end-of-sequence token") as caught:
        load_pairs(data, save_tokenizer(tmp_path / "without", eos=None, template=None))
    assert str(tmp_path / "without") in str(caught.value)


def test_positions_are_those_that_predict_the_response() -> None:
    pair = TokenPair([7, 8, 9], [1, 2])
    assert list(pair.positions) == [2, 3]
    assert pair.token_ids == [7, 8, 9, 1, 2]
    with pytest.raises(ValueError, match="at least one"):
        TokenPair([], [1])


def test_draw_follows_the_seed_and_not_the_order() -> None:
    pairs = token_pairs(30)
    drawn = draw(pairs, 10, seed=3)
    assert len(drawn) == 10
    assert draw(pairs[::-1], 10, seed=3) == drawn
    assert draw(pairs, 15, seed=3)[:10] == drawn
    assert draw(pairs, 10, seed=4) != drawn
    assert len(draw(pairs, 99, seed=3)) == 30

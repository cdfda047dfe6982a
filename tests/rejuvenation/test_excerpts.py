from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rejuvenation.excerpts import MOST_EXCERPTS, WINDOW, excerpts, window
from rejuvenation.histograms import EDGES, EntropyHistograms, counts
from rejuvenation.pairs import TokenPair
from rejuvenation.token_texts import LONGEST_TEXT, decoded, ids_as_texts, token_texts


@pytest.fixture(scope="module")
def bytewise() -> PreTrainedTokenizerFast:
    """One token per byte: every character beyond ASCII is several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tensors(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row) for row in rows]


def test_a_value_on_an_edge_belongs_to_the_bin_that_begins_there() -> None:
    found = counts([-1e-7, 0.0, 0.0009, 0.001, 0.5, 0.99, 4.9, 5.0, 11.0])
    expected = dict.fromkeys(EDGES, 0) | {0.0: 3, 0.001: 1, 0.5: 2, 2.0: 1, 5.0: 2}
    assert dict(zip(EDGES, found, strict=True)) == expected


def test_histograms_count_targets_apart_from_all_response_tokens() -> None:
    entropies = {"base": tensors([0.3, 0.3, 3.0], [0.3]), "sft": tensors([0.0, 0.3, 0.0], [0.0])}
    found = EntropyHistograms.of(entropies, [[2], [0]])
    assert found is not None
    low, middle, high = (EDGES.index(edge) for edge in (0.0, 0.2, 2.0))
    assert (found.on_responses["base"][middle], found.on_responses["base"][high]) == (3, 1)
    assert (found.at_targets["base"][middle], found.at_targets["base"][high]) == (1, 1)
    assert (found.at_targets["sft"][low], found.on_responses["sft"][low]) == (2, 3)
    assert EntropyHistograms.of({}, []) is None


def test_last_token_of_a_character_gets_it(bytewise: PreTrainedTokenizerFast) -> None:
    text = "aé😀 七b"
    ids = bytewise(text)["input_ids"]
    assert len(ids) == len(text.encode()) == 12
    assert decoded(bytewise, ids) == ["a", "", "é", "", "", "", "😀", " ", "", "", "七", "b"]


@pytest.mark.parametrize("first", range(0, 40, 3))
def test_texts_from_the_middle_are_those_of_the_whole(bytewise: PreTrainedTokenizerFast, first: int) -> None:
    ids = bytewise("七é😀x" * 12)["input_ids"]
    assert decoded(bytewise, ids, first) == decoded(bytewise, ids)[first:]


def test_bytes_that_are_no_character_hold_nothing_up(bytewise: PreTrainedTokenizerFast) -> None:
    stray = bytewise("é")["input_ids"][1]
    texts = decoded(bytewise, [stray] * 9 + bytewise("ok")["input_ids"])
    assert texts[:4] == ["", "", "", "�" * 4], "no character needs more than four"
    assert texts[-1] == "k"
    assert set("".join(texts)) == {"�", "o", "k"}


def test_long_tokens_are_cut() -> None:
    class Long:
        def decode(self, ids: list[int], **_: object) -> str:
            return "x" * 100 * len(ids)

    assert decoded(Long(), [0, 1]) == ["x" * (LONGEST_TEXT - 1) + "…"] * 2


@pytest.mark.parametrize("files", [{}, {"tokenizer.json": "broken"}])
def test_without_a_tokenizer_that_loads_ids_are_shown(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert token_texts(tmp_path)([7, 8, 9], 1) == [" 8", " 9"]


def test_window_holds_most_and_lies_around_it() -> None:
    assert window([1.0] * 5) == 0
    weights = [0.0] * 400
    weights[200] = weights[210] = 1.0
    start = window(weights)
    assert start <= 200 < 210 < start + WINDOW
    assert abs((200 - start) - (start + WINDOW - 1 - 210)) <= 1, "as much before as after"
    weights[390] = 3.0
    assert window(weights) in range(390 - WINDOW + 1, 391 - WINDOW + 10)


def test_excerpts_are_the_pairs_whose_targets_changed_most() -> None:
    pairs = [TokenPair([1, 2], [10 + n, 20, 30]) for n in range(12)]
    sft = tensors(*[[0.0, 0.1, 0.0]] * 12)
    after = tensors(*[[0.01 * n, 0.1, 5.0] for n in range(12)])  # the last token changes most, but is no target
    base = tensors(*[[0.5, 0.25, 0.125]] * 12)
    found = excerpts(pairs, {"base": base, "sft": sft, "fused": sft, "rejuvenated": after}, [[0, 1]] * 12, ids_as_texts)
    assert [excerpt.pair for excerpt in found] == [11, 10, 9, 8, 7, 6, 5, 4]
    assert len(found) == MOST_EXCERPTS
    first = found[0]
    assert first.change == pytest.approx(0.11 / 2)
    assert first.texts == [" 1", " 2", " 21", " 20", " 30"]
    assert first.targets == [2, 3]
    assert first.entropies["rejuvenated"] == [None, None, 0.11, 0.1, 5.0]
    assert first.entropies["base"] == [None, None, 0.5, 0.25, 0.125]


def test_long_pairs_are_cut_to_a_window_with_their_targets() -> None:
    pair = TokenPair(list(range(30)), list(range(100, 400)))
    before, after = torch.zeros(300), torch.zeros(300)
    after[150], after[160], after[290] = 1.0, 1.0, 0.5
    entropies = {"base": [before], "sft": [before], "rejuvenated": [after]}
    (found,) = excerpts([pair], entropies, [[150, 160, 290]], ids_as_texts)
    assert len(found.texts) == WINDOW == len(found.entropies["sft"])
    assert [found.texts[index] for index in found.targets] == [" 250", " 260"], "the third lies outside"
    assert [found.entropies["rejuvenated"][index] for index in found.targets] == [1.0, 1.0]

import pytest

from policies.rendering import Renderer
from rejuvenation.turns import Turns
from tests.chat_templates import FAMILIES, family_tokenizer, template_text

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "7+5?"},
    {"role": "assistant", "content": "It is 12."},
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pair_has_the_ids_of_training_in_every_family(name):
    tokenizer = family_tokenizer(name)
    pair = Turns(tokenizer, "here").pair(MESSAGES[:-1], MESSAGES[-1], None)
    token_ids, loss_mask = Renderer(tokenizer).training_example(MESSAGES)
    assert pair.prompt_ids + pair.response_ids == token_ids
    assert pair.response_ids == [t for t, mask in zip(token_ids, loss_mask, strict=True) if mask]
    assert "Be brief." in tokenizer.decode(pair.prompt_ids)


def test_a_prompt_that_an_answer_does_not_begin_with_is_refused():
    template = template_text("mistral-nemo") + "{%- if add_generation_prompt %}{{- '<think>' }}{%- endif %}"
    with pytest.raises(ValueError, match="renders the prompt differently once the answer follows"):
        Turns(family_tokenizer("mistral-nemo", template), "here").pair(MESSAGES[:-1], MESSAGES[-1], None)

import hashlib
import re

import pytest

from tests.chat_templates import DATA, FAMILIES, template_text

SUMS = dict(re.findall(r"^\| `([\w.-]+\.jinja)` .*`([0-9a-f]{64})` \|$", (DATA / "README.md").read_text(), re.M))


def test_every_template_file_is_listed_with_its_sum():
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in DATA.glob("*.jinja")} == SUMS
    assert set(SUMS) == {f"{name}.jinja" for name, family in FAMILIES.items() if family.trl is None}


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [("llama3.1", 4614, 'set date_string = "26 Jul 2024"'), ("llama3.2", 3827, 'strftime_now("%d %b %Y")')],
)
def test_the_installed_templates_are_those_that_the_documentation_speaks_of(name, size, text):
    assert len(template_text(name)) == size
    assert text in template_text(name)

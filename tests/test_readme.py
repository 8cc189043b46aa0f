"""Each Python example of the README runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_readme_has_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0])
def test_example(example):
    if "import torch" in example:
        pytest.importorskip("torch")
    line = TEXT[: TEXT.index(example)].count("\n")  # so that a traceback shows the README's line
    exec(compile("\n" * line + example, str(README), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_each_link_to_a_file_leads_somewhere(target):
    assert (README.parent / target).exists()

"""The committed notebooks are as a reader wants them: executed, small, no machine's traces."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_executed_in_order_without_errors_and_warnings(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell["outputs"]):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]


def test_small_and_without_timestamps(path):
    assert path.stat().st_size < 600 * 1024
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])


def test_links_between_notebooks_lead_somewhere(path):
    text = "".join("".join(cell["source"]) for cell in cells(path))
    for other in {part.split(")")[0] for part in text.split("](")[1:]}:
        assert other.startswith("https://") or (FOLDER / other.split("#")[0]).exists(), other

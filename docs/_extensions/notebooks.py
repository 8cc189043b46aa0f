"""The notebooks as pages: copied below docs/, each with links that run it."""

import json
import shutil
from pathlib import Path

from project import ROOT, run_me

COPIES = Path(__file__).parent.parent / "notebooks"


def copy() -> None:
    """Sphinx reads only files below docs/."""
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = notebook["cells"][0]
        heading, _, text = "".join(title["source"]).partition("\n")
        title["source"] = f"{heading}\n\n{run_me(path.name)}\n{text}"
        (COPIES / path.name).write_text(json.dumps(notebook), encoding="utf-8")


def setup(app):
    copy()
    return {"parallel_read_safe": True}

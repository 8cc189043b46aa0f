"""Configuration of the documentation: `sphinx-build -W docs build/docs`."""

import base64
import json
import re
import shutil
import sys
from pathlib import Path

import semiconv_cupy

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # `benchmarks` is not installed
from benchmarks import documents  # noqa: E402

# The tables of the page on benchmarks are made of the kept reports.
documents.write(HERE / "generated")

# Sphinx reads only files below docs/, so the notebooks are copied there.
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", dirs_exist_ok=True)

# The gallery shows some figures of the notebooks, which are stored in the notebooks' outputs.
for notebook in (HERE / "notebooks").glob("*.ipynb"):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    figures = [o["data"]["image/jpeg"] for o in outputs if "image/jpeg" in o.get("data", ())]
    for number, figure in enumerate(figures):
        target = notebook.with_name(f"{notebook.stem}_{number}.jpg")
        target.write_bytes(base64.b64decode(figure))

project = "semiconv-cupy"
author = "the semiconv-cupy authors"
project_copyright = author
version = release = semiconv_cupy.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_nb",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "generated"]

# A name in single backticks is a link if it is a name of this library, as in numpydoc.
default_role = "py:obj"
autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings describe the types
autodoc_default_options = {
    "members": True,
    # Members of our private base classes are documented in each subclass; those of others' are not.
    "inherited-members": "Module, ndarray, BaseException",
}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are shown with their stored results

html_theme = "pydata_sphinx_theme"
html_title = "semiconv-cupy"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
# The header links to every page; only the reference needs a sidebar as well.
html_sidebars = {"[!a]*": [], "api/**": ["sidebar-nav-bs"]}
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "header_links_before_dropdown": 9,
}


def _escape_stars(app, what, name, obj, options, lines):
    """Escape the star of shapes such as (B, C, *S), which docstrings write without a backslash."""
    lines[:] = [re.sub(r"(?<=[\s(])\*(?=\w)", r"\*", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _escape_stars, priority=400)  # before napoleon

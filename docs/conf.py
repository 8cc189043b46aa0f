"""Configuration of the documentation: `sphinx-build -W docs build/docs`."""

import re
import sys
from pathlib import Path

import semiconv_cupy

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]  # neither is installed
from project import URLS, versions  # noqa: E402

from benchmarks import documents  # noqa: E402

# The tables of the page on benchmarks are made of the kept reports.
documents.write(HERE / "generated")

project = "semiconv-cupy"
author = "the semiconv-cupy authors"
project_copyright = author
version = release = semiconv_cupy.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    # Those of docs/_extensions:
    "drawn",
    "figures",
    "mathml",
    "notebooks",
    "written",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "_extensions", "generated"]

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
napoleon_use_param = False  # several names share a description
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are shown with their stored results
nb_render_image_options = {"alt": "A figure drawn by the code above it"}

html_math_renderer_name = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "semiconv-cupy"
html_static_path = ["_static"]
html_logo = html_favicon = "_static/logo.svg"
html_context = {"versions": versions()}
html_css_files = ["custom.css"]
html_show_sourcelink = False
# The header links to the parts, the sidebar to the pages of a part; the first page is in no part.
html_sidebars = {"index": []}
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "navbar_persistent": ["search-button"],
    "navbar_end": ["versions", "theme-switcher", "navbar-icon-links"],
    "logo": {"text": "semiconv-cupy"},
    "icon_links": [{"name": "Source", "url": URLS["Source"], "icon": "fa-brands fa-github"}],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "header_links_before_dropdown": 7,
}


def _escape_stars(app, what, name, obj, options, lines):
    """Escape the star of shapes such as (B, C, *S), which docstrings write without a backslash."""
    lines[:] = [re.sub(r"(?<=[\s(])\*(?=\w)", r"\*", line) for line in lines]


def _share_descriptions(app, what, name, obj, options, lines):
    """Give each name of "a, b : text" in See Also the text, which napoleon would drop."""
    several = re.compile(r"(\S+(?:, \S+)+) : (.+)")
    if "See Also" in lines:
        start = lines.index("See Also") + 2
        end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
        found = [several.fullmatch(line) for line in lines[start:end]]
        lines[start:end] = [
            entry
            for line, match in zip(lines[start:end], found, strict=True)
            for entry in ([f"{n} : {match[2]}" for n in match[1].split(", ")] if match else [line])
        ]


def setup(app):
    for rewrite in (_escape_stars, _share_descriptions):
        app.connect("autodoc-process-docstring", rewrite, priority=400)  # before napoleon

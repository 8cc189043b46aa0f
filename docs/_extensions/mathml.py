"""Formulas as MathML, which browsers draw without a script: they need no network."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, display: str) -> str:
    """The formula of a node; what cannot be converted is a warning, which ends a build with -W."""
    formula = node.astext().strip()
    try:
        return convert(formula, display=display)
    except Exception as error:  # of many classes, and all of them mean this
        logger.warning("no MathML for %r: %r", formula, error, location=node)
        return f"<code>{formula}</code>"


def inline(translator, node: nodes.math) -> None:
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

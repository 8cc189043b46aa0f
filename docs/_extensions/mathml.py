"""Formulas as MathML, which browsers draw without a script: they need no network."""

import html
import re
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert_to_element
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Names such as img or grad\_out are one word each, not a product of letters.
WORD = re.compile(
    r"\\(?:text|begin|end|math\w+)\{[^}]*\}|\\[A-Za-z]+|(?P<word>[A-Za-z]{3,}(?:\\_[A-Za-z]+)*)"
)
# latex2mathml takes some signs for letters: additions over a range, and brackets.
BIG = set("∑∏⨁⨂⋀⋁")
BRACKETS = set("⌊⌋|")
# In a line of its own, what belongs to these stands below and above them, not beside.
WITH_LIMITS = {"max", "min", "lim", *BIG}
BELOW = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}


def mathml(formula: str, display: str) -> str:
    """The formula, given as LaTeX; `display` is "inline" or "block"."""
    element = convert_to_element(WORD.sub(in_one_word, formula), display=display)
    for part in element.iter():
        part.text = part.text and html.unescape(part.text)
        if part.text in BIG:
            part.tag = "mo"
            part.set("largeop", "true" if display == "block" else "false")
        elif part.text in BRACKETS:
            part.tag = "mo"
            part.attrib |= {"stretchy": "false", "lspace": "0", "rspace": "0"}
    if display == "block":
        for part in element.iter():
            if part.tag in BELOW and (part[0].text or "").strip() in WITH_LIMITS:
                part.tag = BELOW[part.tag]
                part[0].set("movablelimits", "false")
    return ElementTree.tostring(element, encoding="unicode")


def in_one_word(found: re.Match) -> str:
    word = found["word"]
    return rf"\text{{{word.replace(chr(92), '')}}}" if word else found[0]


def of_node(node: nodes.Element, display: str) -> str:
    """What cannot be converted is a warning, which ends a build with -W."""
    try:
        return mathml(node.astext().strip(), display)
    except Exception as error:  # of many classes, and all of them mean this
        logger.warning("no MathML for %r: %r", node.astext(), error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def inline(translator, node: nodes.math) -> None:
    translator.body.append(of_node(node, "inline"))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{of_node(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

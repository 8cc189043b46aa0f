"""Addresses and versions that pages show, each read from the place that states it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
REPOSITORY = URLS["Source"].removeprefix("https://github.com/")
RELEASE = re.compile(r"^## (\d+\.\d+\.\d+)(.*)$", re.MULTILINE)


def versions() -> list[tuple[str, str]]:
    """(title, address) of the documentation of each release, the one in development first."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = [v for v, rest in RELEASE.findall(changes) if "not released" not in rest]
    pages = [("in development", "latest"), *((version, f"v{version}") for version in released)]
    return [(title, f"{URLS['Documentation']}/en/{folder}/") for title, folder in pages]


def run_me(notebook: str) -> str:
    """The links at the head of a notebook's page, in Markdown."""
    colab = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{REPOSITORY}/main?labpath=notebooks/{notebook}"
    install = f'%pip install "semiconv-cupy[notebooks] @ git+{URLS["Source"]}"'
    return (
        f'<p class="run-me">Run me: <a href="{binder}">Binder</a> <a href="{colab}">Colab</a> '
        f"<span>(in Colab first <code>{install}</code>)</span></p>"
    )

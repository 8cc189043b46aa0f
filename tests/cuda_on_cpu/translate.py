"""CUDA source -> C++ source: the few things that macros cannot say.

Shared memory gets poisoned and bounded storage, kernels are registered for the launcher, launch
bounds are checked. Line numbers stay. The names of CUDA itself are in cuda_on_cpu.hpp.
"""

import re

_COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\b\d[\w.']*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_PARENTHESES = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_BOUNDS = rf"__launch_bounds__\s*{_PARENTHESES}\s*"
_KERNEL = re.compile(
    rf'extern\s*"C"\s+(?P<head>(?:{_BOUNDS}|[A-Za-z_]\w*\s+)*)(?P<name>[A-Za-z_]\w*)\s*'
    rf"(?P<parameters>{_PARENTHESES})\s*(?P<open>[{{;])"
)
_DYNAMIC_SHARED = re.compile(
    r"(?:(?P<align>(?:__align__|alignas)\s*\([^()]*\))\s*)?\bextern\s+(?P<volatile>volatile\s+)?"
    r"__shared__\s+(?:__align__\s*\([^()]*\)\s*|alignas\s*\([^()]*\)\s*)?"
    r"(?P<type>[\w:<>, ]*?[\w>])\s+(?P<name>[A-Za-z_]\w*)\s*\[\s*\]\s*;"
)
_STATIC_SHARED = re.compile(r"\b__shared__\b(?P<declaration>[^;{}]*);")


def translate(source: str) -> str:
    """Return the C++ text of a CUDA source; raise ValueError for an unreadable ``__shared__``."""
    text = _COMMENT_OR_LITERAL.sub(_blank_comment, source)
    text = _KERNEL.sub(_register_kernel, text)
    text = _DYNAMIC_SHARED.sub(
        lambda m: (
            f"{m['volatile'] or ''}{m['type']}* const {m['name']} = reinterpret_cast<"
            f"{m['volatile'] or ''}{m['type']}*>(::cuda_on_cpu::dynamic_shared(__LINE__));"
        ),
        text,
    )
    text = _STATIC_SHARED.sub(_static_shared, text)
    left = re.search(r"\b__shared__\b", text)
    if left:
        line = text.count("\n", 0, left.start()) + 1
        shown = text.splitlines()[line - 1].strip()
        raise ValueError(f"line {line}: cannot read this __shared__ declaration: {shown}")
    return text


def _blank_comment(match: re.Match[str]) -> str:
    text = match[0]
    return re.sub(r"[^\n]", " ", text) if text.startswith(("//", "/*")) else text


def _register_kernel(match: re.Match[str]) -> str:
    head, name, parameters = match["head"], match["name"], match["parameters"]
    if "__global__" not in head.split() or match["open"] == ";":
        return match[0]
    bounds = re.search(_BOUNDS, head)
    check = ""
    if bounds:
        threads = bounds[0].strip()[len("__launch_bounds__") :].strip()
        check = f" ::cuda_on_cpu::check_launch_bounds(::cuda_on_cpu::first{threads});"
    return (
        f'extern "C" void {name}{" ".join(parameters.split())}; CUDA_ON_CPU_REGISTER({name}) '
        f"{match[0]}{check}"
    )


def _static_shared(match: re.Match[str]) -> str:
    declaration = match["declaration"]
    registrations = "".join(
        f" ::cuda_on_cpu::shared_variable((void*)&{name}, sizeof({name}), __LINE__);"
        for name in _declared_names(declaration)
    )
    return f"static{declaration};{registrations}"


def _declared_names(declaration: str) -> list[str]:
    """Return the variables of ``T a[4], b, c[sizeof(Pair<int, 2>)]``."""
    inner = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>")
    while inner.search(declaration):
        declaration = inner.sub(" ", declaration)
    names = [re.search(r"([A-Za-z_]\w*)\s*$", part) for part in declaration.split(",")]
    return [name[1] for name in names if name]

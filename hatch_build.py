"""The build hook: with SEMICONV_PREBUILD set, a wheel brings its libraries ready-made.

    SEMICONV_PREBUILD=1 pip wheel .
    SEMICONV_PREBUILD="--levels v3 --dtypes float32" python -m build --wheel

Anything but 1 is given to ``python -m kernels_cu build``. Without the variable (or with 0) the
wheel holds sources alone and is for any platform.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def build_arguments() -> list[str] | None:
    """The arguments of ``python -m kernels_cu build``; None for a wheel of sources."""
    named = os.environ.get("SEMICONV_PREBUILD", "").strip()
    if named in ("", "0"):
        return None
    if named != "1" and not named.startswith("-"):
        raise ValueError(
            f"SEMICONV_PREBUILD={named!r} must be 0, 1, or options of `python -m kernels_cu build` "
            "such as '--levels v3'"
        )
    return [] if named == "1" else shlex.split(named)


class ReadyMadeLibraries(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles libraries into a folder that the wheel takes in, and names its platform."""

    def dependencies(self) -> list[str]:
        """What building needs besides hatchling: the core, which knows what ships, and zig."""
        if build_arguments() is None or self.target_name != "wheel":
            return []
        return [*self.metadata.core.dependencies, "ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the libraries of a wheel that is not editable."""
        wanted = build_arguments()
        self._folder: str | None = None
        if wanted is None or self.target_name != "wheel" or version == "editable":
            return
        sys.path.insert(0, self.root)
        from kernels_cu import build

        self._folder = tempfile.mkdtemp()
        arguments = [*wanted, "--output", self._folder]
        try:
            options, _ = build.parse(arguments)
            build.main(arguments)
        except SystemExit as stopped:  # its message is printed already
            self.finalize(version, build_data, "")
            raise RuntimeError(f"kernels_cu build failed: SEMICONV_PREBUILD={wanted}") from stopped
        for file in Path(self._folder).iterdir():
            build_data["force_include"][str(file)] = f"kernels_cu/prebuilt/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{build.platform_tag(options)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact: str) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder)

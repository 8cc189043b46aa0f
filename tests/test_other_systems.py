"""The parts that differ on Windows and macOS, asked for by their names: nothing here runs there."""

import ctypes
import re
from pathlib import Path

import pytest

from kernels_cu import build
from semiconv_cupy.backends.host import cache, compiler, prebuilt

SYSTEMS = [  # what `sys.platform` and `platform.machine()` say, and what serves there
    ("linux", "x86_64", "linux-x86_64", "v4.so", "manylinux_2_28_x86_64"),
    ("linux", "aarch64", "linux-aarch64", "v4.so", "manylinux_2_28_aarch64"),
    ("darwin", "x86_64", "macos-x86_64", "v4.dylib", "macosx_11_0_x86_64"),
    ("darwin", "arm64", "macos-aarch64", "v4.dylib", "macosx_11_0_arm64"),
    ("win32", "AMD64", "windows-x86_64", "v4.dll", "win_amd64"),
]


@pytest.mark.parametrize(("system", "machine", "key", "file", "tag"), SYSTEMS)
def test_each_system_has_its_target(system, machine, key, file, tag):
    assert build.this_platform(system, machine) == key
    target = build.TARGETS[key]
    assert prebuilt.file_name("v4", system) == file
    levels = prebuilt.LEVELS[prebuilt.machine(machine)]
    # All but v1, which every x86-64 is; in the order in which the probe counts them.
    assert [level for level in levels if level in target.levels] == list(target.levels)
    options, _ = build.parse(["--target", key, "--cxx", "zig c++", "--output", "somewhere"])
    assert build.platform_tag(options) == tag


@pytest.mark.parametrize(
    ("system", "machine"), [("win32", "ARM64"), ("linux", "riscv64"), ("freebsd14", "amd64")]
)
def test_systems_without_ready_made_libraries(system, machine):
    assert build.this_platform(system, machine) is None


def test_words_of_a_compiler_on_windows():
    command = r'"C:\Program Files\zig\zig.exe" c++ -O1'
    assert compiler.words_of(command, "nt") == [r"C:\Program Files\zig\zig.exe", "c++", "-O1"]
    assert compiler.words_of("'/opt/my zig/zig' c++", "posix") == ["/opt/my zig/zig", "c++"]
    assert compiler.is_zig([r"/tools/zig.exe", "c++"])


def test_a_cache_on_windows_lies_in_the_users_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache.distrust(tmp_path / "me/AppData/Local/semiconv_cupy", "nt") is None
    other = tmp_path / "shared"
    assert cache.distrust(other, "nt") == f"{other} is not in {tmp_path / 'me'}"


@pytest.mark.parametrize(("system", "head"), [("Windows", b"MZ"), ("Darwin", b"\xcf\xfa\xed\xfe")])
def test_libraries_of_other_formats_are_left_to_the_loader(system, head, tmp_path):
    made = tmp_path / "library.so"
    made.write_bytes(head + bytes(100))
    assert compiler.is_whole(made, system)
    assert not compiler.is_whole(made, "Linux")
    made.write_bytes(b"")
    assert not compiler.is_whole(made, system)
    assert not compiler.is_whole(tmp_path / "none.so", system)


def test_integers_of_the_structs_have_64_bits_everywhere():
    """`long` has 32 bits on Windows, where C++ calls the same type `long long`."""
    assert ctypes.sizeof(ctypes.c_int64) == ctypes.sizeof(ctypes.c_longlong) == 8
    for file in (Path(build.__file__).parent / "host").glob("*.?pp"):
        code = re.sub("//.*", "", file.read_text()).replace("long long", "")
        assert not re.search(r"\blong\b", code), file.name

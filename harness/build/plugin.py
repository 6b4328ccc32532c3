# SPDX-License-Identifier: BSD-2-Clause
"""Builds the QEMU plugin with the host's compiler, once for each version of its sources and interface."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from harness import protocol
from harness.build.cache import publish
from harness.errors import BuildFailure
from harness.packages import tool

SOURCES = Path(__file__).resolve().parent.parent / "machine" / "plugin"
_NAME = "bothworlds.so"
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-O3", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")


def plugin_api(qemu_version: tuple[int, ...]) -> int:
    """Version of the plugin interface to ask a QEMU for: 1 before 9.0, 2 (scoreboards) from then on."""
    return 1 if qemu_version < (9,) else 2


def build_plugin(qemu_version: tuple[int, ...]) -> Path:
    """Path of the plugin for a QEMU, built if it is not in the cache.

    Raises BuildFailure with the compiler's output, or OutputError if the cache cannot be written.
    """
    api = plugin_api(qemu_version)
    header = protocol.header()
    digest = hashlib.sha256(repr((api, _FLAGS, header)).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())

    def fill(work: Path) -> None:
        compiler = tool("gcc", "it builds the QEMU plugin")
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "protocol.h").write_text(header)
            command = [compiler, *_FLAGS, f"-DPLUGIN_API={api}", f"-I{scratch}", f"-ffile-prefix-map={SOURCES}=."]
            command += [f"-ffile-prefix-map={scratch}=.", "-o", str(work / _NAME)]
            command += map(str, sorted(SOURCES.glob("*.c")))
            # In there, so that the debug information does not depend on where this runs.
            result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildFailure(f"the QEMU plugin does not compile:\n{result.stderr}")

    return publish(f"plugin-{digest.hexdigest()[:32]}", fill) / _NAME

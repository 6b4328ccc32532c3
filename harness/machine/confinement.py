# SPDX-License-Identifier: BSD-2-Clause
"""QEMU runs as if alone: no host files but /usr, no network, no other process, no privilege.

What QEMU works on (the guest's RAM, the flash image, the plugin, consoles) reaches it as
inherited descriptors, so its file system holds nothing of the host's users.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.errors import EnvironmentFailure
from harness.packages import tool

UNPRIVILEGED = 65534
"""User and group that QEMU gets where we are root: nobody and nogroup."""

FLASH_PATH = "/machine/flash"
PLUGIN_PATH = "/machine/plugin.so"

SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
"""QEMU's own system call filter."""


def _file_system(directories: Sequence[Path]) -> list[str]:
    command = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).exists():
            command += ["--symlink", f"usr/{name}", f"/{name}"]
    # Libraries that Debian selects by alternatives are links through this directory, which holds links only.
    command += ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    for directory in directories:
        command += ["--ro-bind", str(directory), str(directory)]
    return command


def _prefix(directories: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Command and options of bubblewrap, and what it starts QEMU with."""
    bubblewrap = tool("bwrap", "it confines QEMU")
    if os.geteuid() == 0:
        # Root needs no user namespace, which containers and some kernels forbid; setpriv then drops all of root.
        spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        ids = [f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
        drop = [tool("setpriv"), *ids, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    else:
        spaces, drop = ["--unshare-all"], []
    options = [bubblewrap, "--die-with-parent", "--new-session", *spaces, *_file_system(directories), "--chdir", "/"]
    return options, drop


@functools.cache
def check() -> None:
    """See that a program can be confined here; raises EnvironmentFailure that tells what to change."""
    options, drop = _prefix(())
    result = subprocess.run([*options, "--", *drop, "/usr/bin/true"], capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    if os.geteuid() == 0:
        advice = "this container may not create namespaces: start it with that permission (CAP_SYS_ADMIN)"
    else:
        advice = (
            "user namespaces may be off: run 'sudo sysctl kernel.unprivileged_userns_clone=1 "
            "user.max_user_namespaces=10000', or run as root"
        )
    raise EnvironmentFailure(f"QEMU cannot be confined with bubblewrap: {result.stderr.strip()}\n  {advice}")


def confine(command: Sequence[str], flash: int, plugin: int, directories: Sequence[Path] = ()) -> list[str]:
    """The command line that runs `command` confined.

    `flash` and `plugin` are descriptors whose content appears, for reading only, as FLASH_PATH
    and PLUGIN_PATH; `directories` are host directories that a QEMU outside /usr needs. The process ends
    with the thread that starts it.
    """
    options, drop = _prefix(directories)
    for descriptor, path in ((flash, FLASH_PATH), (plugin, PLUGIN_PATH)):
        options += ["--perms", "0444", "--ro-bind-data", str(descriptor), path]
    return [*options, "--", *drop, *command]

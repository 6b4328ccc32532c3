# SPDX-License-Identifier: BSD-2-Clause
"""One QEMU process: its command line, its channels, its end.

All channels are descriptors: sockets without names, files without names. QEMU dies with
this process, however that ends, and nothing is left in any directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import protocol
from harness.build.artefacts import Artefacts
from harness.build.plugin import build_plugin
from harness.errors import LaunchFailure, MachineLost, MissingPackage
from harness.kernel_state.elf import Elf
from harness.machine import confinement, process
from harness.machine.console import Console, PrintedConsole, SocketConsole
from harness.machine.gdb import Gdb
from harness.machine.memory import MachineMemory, SharedMemory
from harness.machine.qmp import Qmp
from harness.machine.version import PROGRAM, check_version
from harness.packages import install_command, tool

Words = np.ndarray[Any, np.dtype[np.uint64]]

MACHINE = "virt,secure=on,virtualization=on,gic-version=2,dtb-randomness=off"
"""QEMU's machine type with the properties that every layout needs."""
_END_SECONDS = 5.0


@dataclass(frozen=True)
class QemuSettings:
    """Which QEMU runs, where it is not the one that is installed."""

    binary: str | None = None
    """Program; None: the first `qemu-system-aarch64` of the path."""
    data: Path | None = None
    """Directory of its firmware and keymaps (-L), for a QEMU that is unpacked somewhere."""
    modules: Path | None = None
    """Directory of its modules (QEMU_MODULE_DIR)."""
    directories: tuple[Path, ...] = ()
    """Directories outside /usr that it must see; it may read all that is in them."""
    extra: tuple[str, ...] = ()
    """More options for its command line."""

    descriptors: tuple[int, ...] = ()
    """Descriptors that it inherits beside the machine's own, for `extra` to name."""

    @classmethod
    def from_environment(cls) -> QemuSettings:
        """The QEMU below the directory $BOTHWORLDS_QEMU, where packages of it were unpacked; else the installed one."""
        if not (unpacked := os.environ.get("BOTHWORLDS_QEMU")):
            return cls()
        root = Path(unpacked).resolve()
        modules = next(iter(sorted(root.glob("usr/lib/*/qemu"))), None)
        return cls(str(root / "usr/bin" / PROGRAM), root / "usr/share/qemu", modules, (root,))

    def program(self) -> str:
        """Absolute path of the QEMU program; raises MissingPackage."""
        if self.binary is None:
            return tool(PROGRAM)
        if path := shutil.which(self.binary):
            return path
        raise MissingPackage(self.binary, install_command("qemu-system-arm"), "it is the QEMU that was asked for")


@dataclass
class Shared:
    """Memory that outlives a QEMU, so that a new one can take the place of a lost one.

    `code` pairs leader addresses with block indices, u64[counted, 2], sorted by address, and behind them holds the
    addresses that are watched, u64[watched]; `coverage` has one counter for each of `block_count` blocks.
    """

    memory: MachineMemory
    control: SharedMemory
    coverage: SharedMemory | None = None
    code: SharedMemory | None = None
    block_count: int = 0
    counted: int = 0
    watched: int = 0

    def close(self) -> None:
        """Release all of it."""
        self.memory.close()
        for part in (self.control, self.coverage, self.code):
            if part is not None:
                part.close()

    @classmethod
    def create(
        cls,
        artefacts: Artefacts,
        leaders: Words | None = None,
        counted: Words | None = None,
        watched: Words | None = None,
    ) -> Shared:
        """Shared memory for a build.

        `leaders`: u64[n], addresses of the static blocks; `counted`: indices of those to count, None for no coverage;
        `watched`: u64[m], addresses of the instructions that write to the interrupt controller.
        """
        shared = cls(MachineMemory(artefacts.config), SharedMemory("control", protocol.CONTROL_BYTES))
        table = np.zeros((0, 2), np.uint64)
        if leaders is not None and counted is not None and len(counted):
            indices = np.asarray(counted, np.uint64)
            table = np.stack([np.asarray(leaders, np.uint64)[indices], indices], axis=1)
            table = table[np.argsort(table[:, 0], kind="stable")]
            shared.counted, shared.block_count = len(table), len(leaders)
            shared.coverage = SharedMemory("coverage", (len(leaders) + 7) & -8)
        words = np.concatenate([table.reshape(-1), np.zeros(0, np.uint64) if watched is None else watched])
        if len(words):
            shared.watched = 0 if watched is None else len(watched)
            shared.code = SharedMemory("code", words.nbytes)
            shared.code.bytes[:] = words.astype(np.uint64).view(np.uint8)
        return shared


def code_range(elf: Elf) -> tuple[int, int]:
    """Virtual addresses of the first instruction of an ELF file and behind the last one."""
    return min(start for start, _ in elf.code_ranges), max(end for _, end in elf.code_ranges)


@dataclass
class Qemu:
    """A QEMU process as a context manager: launch() starts it stopped, leaving the context ends it.

    `core` pins it to one host core. It must be started by a thread that lives as long as QEMU is needed.
    """

    artefacts: Artefacts
    shared: Shared
    settings: QemuSettings = field(default_factory=QemuSettings)
    core: int | None = None

    def __post_init__(self) -> None:
        self.command: list[str] = []
        self.version: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None
        self._gdbs: list[Gdb] = []
        self._consoles: dict[str, Console] = {}
        self._stderr = -1
        self._lifeline = -1
        self._pidfd = -1
        self._gdb_socket = -1
        self.pid = 0
        """Process id of QEMU itself, as this process sees it; 0 while it does not run."""

    # -- start

    def launch(self) -> None:
        """Start QEMU with the guest stopped before its first instruction.

        Raises LaunchFailure with the exit code, command line and output, MissingPackage, or
        EnvironmentFailure if QEMU is too old or cannot be confined.
        """
        program = self.settings.program()
        self.version = check_version(self.artefacts.config, program)
        qmp, given, inherited = self._open(program)
        try:
            environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
            if self.settings.modules:
                environment["QEMU_MODULE_DIR"] = str(self.settings.modules)
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[*given, *inherited],
                env=environment,
            )
        except OSError as error:  # no memory, no more processes: it may be better in a moment
            raise LaunchFailure(f"QEMU could not be started: {error.strerror}", self.command, None, "") from error
        finally:
            for descriptor in given:
                os.close(descriptor)
        try:
            self._qmp = Qmp(qmp, self.artefacts.config.deadlines.launched)
        except MachineLost as error:
            self._launch_failed(str(error))
        self.pid = self._find_pid()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError as error:
            raise self.lost("QEMU ended while it started") from error

    def _launch_failed(self, reason: str) -> None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code, output = self._process.poll(), self.stderr
        self.kill()
        if "bwrap: " in output:
            confinement.check()
        raise LaunchFailure(f"QEMU did not start ({reason})", self.command, code, output)

    def _open(self, program: str) -> tuple[socket.socket, list[int], list[int]]:
        """Make all channels and the command line.

        Returns our end of QMP, descriptors to give away to QEMU, and others that it inherits.
        """
        shared, config = self.shared, self.artefacts.config
        self._stderr = os.memfd_create("qemu-output", os.MFD_CLOEXEC)
        qmp, qmp_end = socket.socketpair()
        uart, uart_end = socket.socketpair()
        lifeline_end, self._lifeline = os.pipe()
        printed = PrintedConsole()
        self._consoles = {"secure": printed, "normal": SocketConsole(uart)}
        flash = os.open(self.artefacts.flash, os.O_RDONLY | os.O_CLOEXEC)
        # A plugin fits one version of QEMU's interface: a build's is for the installed one.
        installed = self.settings.binary is None
        path = self.artefacts.plugin if installed else build_plugin(self.version)
        plugin = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        given = [qmp_end.detach(), uart_end.detach(), self._listen().detach(), lifeline_end, flash, plugin]
        inherited = [printed.fd, shared.memory.secure.fd, shared.memory.normal.fd, shared.control.fd]
        inherited += [part.fd for part in (shared.coverage, shared.code) if part is not None]
        inherited += self.settings.descriptors
        arguments = self._plugin_arguments(lifeline_end)
        machine = f"{MACHINE},memory-backend=ram"
        size = config.qemu.memory_mib
        command = [program, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-smp", "1", "-m", f"{size}M"]
        if self.settings.data:
            command += ["-L", str(self.settings.data)]
        command += ["-M", machine, "-cpu", config.qemu.cpu, "-bios", confinement.FLASH_PATH]
        ram = f"mem-path=/proc/self/fd/{shared.memory.normal.fd}"
        command += ["-object", f"memory-backend-file,id=ram,size={size}M,share=on,{ram}"]
        command += ["-chardev", f"socket,id=uart0,fd={given[1]}", "-serial", "chardev:uart0"]
        command += ["-chardev", f"file,id=uart1,path=/proc/self/fd/{printed.fd},append=on", "-serial", "chardev:uart1"]
        command += ["-chardev", f"socket,id=qmp,fd={given[0]}", "-mon", "chardev=qmp,mode=control"]
        command += ["-chardev", f"socket,id=gdb,fd={given[2]},server=on,wait=off", "-gdb", "chardev:gdb"]
        command += ["-plugin", f"{confinement.PLUGIN_PATH},{arguments}", *confinement.SANDBOX, *self.settings.extra]
        command = confinement.confine(command, flash, plugin, self.settings.directories)
        if self.core is not None:
            command = [tool("taskset"), "-c", str(self.core), *command]
        self.command = command
        return qmp, given, inherited

    def _listen(self) -> socket.socket:
        """A listening socket for gdb whose name is gone at once: gdb reaches it through a descriptor of it."""
        listener = socket.socket(socket.AF_UNIX)
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "gdb")
            listener.bind(path)
            self._gdb_socket = os.open(path, os.O_PATH | os.O_CLOEXEC)
        listener.listen(1)
        return listener

    def _plugin_arguments(self, lifeline: int) -> str:
        shared, firmware = self.shared, self.artefacts.config.firmware_ram
        image, memory = Elf(self.artefacts.firmware_elf), shared.memory
        kernel = Elf(self.artefacts.kernel_elf)
        values = {
            "control": shared.control.fd,
            "secure": memory.secure.fd,
            "normal": memory.normal.fd,
            "lifeline": lifeline,
            "secure_base": memory.secure_bank.base,
            "secure_size": memory.secure_bank.size,
            "normal_base": memory.normal_bank.base,
            "normal_size": memory.normal_bank.size,
            "window": memory.secure_bank.base + kernel_window(kernel),
            "firmware_ram": firmware.base,
            "message_offset": protocol.MESSAGE_OFFSET,
            "firmware_bytes": max(end for _, end in image.code_ranges),
            "park": image.symbols["park_pc"].address,
        }
        if self.artefacts.normal_world_elf is not None:
            start, end = code_range(Elf(self.artefacts.normal_world_elf))
            values |= {"normal_code": start, "normal_code_bytes": end - start}
        if self.artefacts.trusted_os_elf is not None:
            start, end = code_range(Elf(self.artefacts.trusted_os_elf))
            start &= -protocol.PAGE  # the root task reports whole pages
            values |= {"trusted": start, "trusted_bytes": end - start, "exchange": self.artefacts.config.exchange.base}
        if shared.code is not None:
            values |= {"code": shared.code.fd, "leaders": shared.counted, "watched": shared.watched}
        if shared.coverage is not None:
            values |= {"coverage": shared.coverage.fd, "blocks": shared.block_count}
        return ",".join(f"{name}={value:#x}" for name, value in values.items())

    def _find_pid(self) -> int:
        """QEMU's own process id: bubblewrap and its init stand between us and it."""
        assert self._process is not None
        pid = process.find(self._process.pid, Path(self.settings.program()).resolve().name)
        if pid is None:
            raise MachineLost("QEMU ended while it started", self._process.poll(), "", self.stderr)
        return pid

    # -- use

    def qmp(self, command: str, **arguments: object) -> Any:
        """Run a QMP command; underscores in argument names stand for hyphens. Raises MachineLost."""
        if self._qmp is None:
            raise MachineLost("QEMU does not run")
        return self._qmp.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def hmp(self, line: str) -> str:
        """Run a command of the human monitor and return what it prints."""
        return str(self.qmp("human-monitor-command", command_line=line))

    @property
    def gdb_target(self) -> str:
        """What to give gdb's `target remote`, in any process of the same user, while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._gdb_socket}"

    def gdb(self) -> Gdb:
        """A gdb with the symbols of kernel, firmware and victims, not yet attached; it ends with the machine.

        The root task's are left out: its addresses are the victims' as well, and it sleeps once the machine is parked.
        """
        built = self.artefacts
        gdb = Gdb([built.kernel_elf, built.firmware_elf, built.victim_elf])
        self._gdbs.append(gdb)
        return gdb

    def console(self, name: str) -> Console:
        """The console of a world: 'secure' (kernel and firmware print there) or 'normal'."""
        return self._consoles[name]

    @property
    def secure_console(self) -> PrintedConsole:
        """The secure console, which is only printed to."""
        console = self._consoles["secure"]
        assert isinstance(console, PrintedConsole)
        return console

    @property
    def stderr(self) -> str:
        """What QEMU and its confinement have printed."""
        if self._stderr < 0:
            return ""
        return os.pread(self._stderr, 1 << 16, 0).decode("utf-8", "backslashreplace")

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, once it has ended."""
        return None if self._process is None else self._process.poll()

    def lost(self, reason: str) -> MachineLost:
        """The error that tells how this machine was lost."""
        console = self.secure_console.text() if self._consoles else ""
        return MachineLost(reason, self.exit_code, console, self.stderr)

    # -- end

    def kill(self) -> None:
        """End QEMU at once and wait until it is gone; the consoles' text is gone too."""
        for gdb in self._gdbs:
            gdb.close()
        self._gdbs.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._wait_until_gone()
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        for console in self._consoles.values():
            console.close()
        self._consoles = {}
        for descriptor in {self._lifeline, self._stderr, self._pidfd, self._gdb_socket} - {-1}:
            os.close(descriptor)
        self._lifeline = self._stderr = self._pidfd = self._gdb_socket = -1
        self._process, self.pid = None, 0

    def _wait_until_gone(self) -> None:
        """Bubblewrap has ended; the kernel then kills QEMU, which may take a moment."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            try:
                signal.pidfd_send_signal(self._pidfd, 0)
            except ProcessLookupError:
                return
            except PermissionError:
                break
            time.sleep(0.001)

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.kill()


def kernel_window(kernel: Elf) -> int:
    """Difference between the kernel's virtual and physical addresses of the same memory."""
    highest = max(kernel.code_ranges)[0]
    return highest - kernel.physical(highest)

"""Runs a program with what Python lacks on another system taken away from our own code: modules, functions, constants.

    python -m tests.support.other_systems win32|darwin PROGRAM [ARGUMENT ...]
    python -m tests.support.other_systems win32|darwin --import PACKAGE ...

Python's own modules and other projects' look at the system when they are imported, so they are imported first, by
`FOREIGN`. It shows what our code asks for, and not that theirs runs there, nor that the system does as this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import pkgutil
import platform
import runpy
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MACHINES = {"win32": ("Windows", "AMD64"), "darwin": ("Darwin", "arm64")}
MODULES = {
    "win32": ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "uvloop"),
    "darwin": (),
}
NAMES: dict[str, dict[ModuleType, str]] = {
    "win32": {
        os: "fork forkpty wait wait3 wait4 getuid geteuid getgid getegid getgroups setsid killpg getpgid getpgrp "
        "setpgid nice uname getloadavg mkfifo memfd_create posix_spawn pread preadv pidfd_open sched_getaffinity "
        "sched_setaffinity sched_setscheduler SCHED_BATCH sysconf fchmod statvfs",
        signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm setitimer "
        "sigwait pthread_sigmask",
        select: "poll epoll",
        socket: "SO_REUSEPORT",
    },
    "darwin": {
        os: "memfd_create pidfd_open eventfd copy_file_range posix_fadvise splice sched_getaffinity sched_setaffinity "
        "sched_setscheduler sched_param SCHED_BATCH",
        select: "epoll",
        socket: "SOCK_CLOEXEC SOCK_NONBLOCK SO_DOMAIN SO_INCOMING_CPU SO_PEERCRED SO_PROTOCOL TCP_CORK TCP_QUICKACK "
        "TCP_USER_TIMEOUT",
    },
}
FOREIGN = (
    "asyncio subprocess tempfile multiprocessing concurrent.futures http.client urllib.request logging.handlers "
    "grpc.aio grpc_status.rpc_status grpc_health.v1.health_pb2_grpc google.rpc.error_details_pb2 "
    "google.protobuf.json_format grpc_reflection.v1alpha.reflection numpy rich.console rich.live rich.table "
    "rich.progress soundfile soxr websockets.asyncio.client websockets.asyncio.server websockets.sync.client h11 "
    "multipart prometheus_client.parser pydantic_settings uvloop opentelemetry.sdk.trace"
)


class _Absent(MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def _not_implemented(*_: Any) -> None:
    """Answers as event loops of Windows do, which have neither signal handlers nor Unix sockets."""
    raise NotImplementedError


def take_away(system: str) -> None:
    """Takes away what a system does not have, from this process, for good."""
    for name in FOREIGN.split():
        # Those of extras may be missing.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for name in MODULES[system]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Absent(MODULES[system]))
    for module, names in NAMES[system].items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    if system == "win32":
        # As event loops say there.
        loop: Any = asyncio.unix_events._UnixSelectorEventLoop
        loop.add_signal_handler = loop.remove_signal_handler = _not_implemented
        loop.create_unix_connection = loop.create_unix_server = _not_implemented
    found = MACHINES[system]
    platform.system, platform.machine = lambda: found[0], lambda: found[1]
    if system != "win32":
        # There, Python's own modules would call what this one was not built with.
        sys.platform = system


def modules(package: str) -> Iterator[str]:
    """Names of all modules of a package."""
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        yield found.name


if __name__ == "__main__":
    _, wanted, first, *rest = sys.argv
    take_away(wanted)
    if first == "--import":
        print(len([importlib.import_module(name) for package in rest for name in modules(package)]))
    else:
        sys.argv = [first, *rest]
        if first.endswith(".py"):
            runpy.run_path(first, run_name="__main__")
        else:
            runpy.run_module(first, run_name="__main__", alter_sys=True)

"""Python processes that begin with modules imported: each is forked from one that did nothing but import them.

For tests that start a program dozens of times, where its imports take longer than what it does. A fork has an
environment, a folder and standard streams of its own, as any process has; only what a module reads when it is imported
is that of the first process, so that a module whose environment matters is not one to have imported.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from testbed.processes import ROOT, clean_environment


class Fork:
    """A process with its standard output and error in pipes, as `subprocess.Popen` has them; it has no input.

    Attributes:
        pid: of the process.
        stdout: what it prints, as text; less than a pipe holds, if `communicate` is to read it.
        stderr: the same of its standard error, of any length.
        returncode: what it ended with, -SIGKILL if it was killed; None before `communicate`.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, ended: int) -> None:
        self.pid = pid
        self.stdout, self.stderr = os.fdopen(stdout), os.fdopen(stderr)
        self.returncode: int | None = None
        self._ended = os.fdopen(ended)

    def kill(self) -> None:
        """Kills it."""
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Waits until it has ended; what is left of its output and of its standard error."""
        with self.stdout, self.stderr, self._ended:
            error, output, ended = self.stderr.read(), self.stdout.read(), self._ended.read()
        self.returncode = int(ended) if ended else -signal.SIGKILL
        return output, error


class Forks:
    """A process that has imported some modules, and starts others that have them; itself started when first used.

    It ends with the process that has made this object.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._requests: socket.socket | None = None

    def module(self, name: str, *arguments: str, **options: Any) -> Fork:
        """Starts `python -m NAME ARGUMENTS`; `options` as in `_start`."""
        return self._start({"module": name, "arguments": arguments}, **options)

    def program(self, text: str, *arguments: str, **options: Any) -> Fork:
        """Starts `python -c TEXT ARGUMENTS`; `options` as in `_start`."""
        return self._start({"program": text, "arguments": arguments}, **options)

    def _start(self, what: Mapping[str, Any], *, env: Mapping[str, str], cwd: Path = ROOT) -> Fork:
        """Starts a process with this environment in this folder, from which it imports first."""
        if self._requests is None:
            self._requests = self._begin()
        pipes = [os.pipe() for _ in range(3)]
        request = json.dumps({**what, "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(self._requests, [request], [written for _, written in pipes])
        for _, written in pipes:
            os.close(written)
        return Fork(int(self._requests.recv(100)), *(read for read, _ in pipes))

    def _begin(self) -> socket.socket:
        """Starts the process that has the modules; what it is asked over."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.forks", str(theirs.fileno()), *self._modules]
            process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), pass_fds=[theirs.fileno()])

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        return ours


def main(argv: Sequence[str]) -> None:
    """Imports modules, then forks a process for each request that an inherited socket brings, until it is closed."""
    for module in argv[1:]:
        importlib.import_module(module)
    # Nobody waits for the forks: whoever has started them sees their pipes close.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(argv[0])) as requests:
        while True:
            request, fds, _, _ = socket.recv_fds(requests, 1 << 20, 3)
            if not request:
                return
            child = os.fork()
            if not child:
                requests.detach()
                os.close(int(argv[0]))
                _run(json.loads(request), *fds)
            for fd in fds:
                os.close(fd)
            requests.send(str(child).encode())


def _run(what: Mapping[str, Any], stdout: int, stderr: int, ended: int) -> NoReturn:
    """Is the new process, as if Python had just begun with these modules imported."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for fd in (stdout, stderr):
        os.close(fd)
    os.environ.clear()
    os.environ.update(what["env"])
    os.chdir(what["cwd"])
    sys.path[:] = [what["cwd"], *(path for path in sys.path if path not in ("", str(ROOT)))]
    code = 0
    try:
        if "module" in what:
            sys.argv = [what["module"], *what["arguments"]]
            runpy.run_module(what["module"], run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *what["arguments"]]
            exec(compile(what["program"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(ended, str(code).encode())
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

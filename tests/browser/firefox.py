"""Debian's Firefox, headless, whose microphone hears what a test plays; driven by Marionette.

Playwright drives a Firefox of its own making, and Selenium a program beside it; Marionette is what every Firefox speaks
itself (https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html). The microphone is a PulseAudio
device that nothing is joined to: what is played on it is heard on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from asr_common.server_process import PATIENCE_S

NEEDED = ("firefox-esr", "pulseaudio", "paplay")
MISSING = [program for program in NEEDED if shutil.which(program) is None]
"""Programs that are not here; the tests are then skipped, and say so."""

_DEVICE = "spoken"
_PREFERENCES = """\
user_pref("marionette.port", 0);
user_pref("media.navigator.permission.disabled", true);
user_pref("media.cubeb.backend", "pulse-rust");
user_pref("media.cubeb.sandbox", false);
user_pref("security.sandbox.content.level", 0);
"""
"""Any free port, which Firefox writes into its profile; the microphone without a question, from a sound server that is
this test's alone, which Firefox's sandbox would not let it reach."""
_SOUND = f"""\
load-module module-native-protocol-unix
load-module module-null-sink sink_name={_DEVICE}
set-default-source {_DEVICE}.monitor
"""
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Under which WebDriver's protocol has the number of an element (https://www.w3.org/TR/webdriver2/#elements)."""


class Firefox:
    """A window of Firefox."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        environment: dict[str, str],
    ) -> None:
        self._reader, self._writer, self._environment = reader, writer, environment
        self._asked = 0

    async def ask(self, command: str, **parameters: Any) -> Any:
        """What Marionette answers to a command.

        Raises:
            RuntimeError: it says that it cannot.
        """
        self._asked += 1
        message = json.dumps([0, self._asked, command, parameters])
        self._writer.write(f"{len(message.encode())}:{message}".encode())
        _, number, error, result = await self.told()
        assert number == self._asked
        if error is not None:
            raise RuntimeError(f"{command}: {error['message']}")
        return result["value"] if isinstance(result, dict) and "value" in result else result

    async def told(self) -> Any:
        """The next message of Marionette."""
        length = await self._reader.readuntil(b":")
        return json.loads(await self._reader.readexactly(int(length[:-1])))

    async def text(self, name: str) -> str:
        """What the element with this id shows."""
        return str(await self.ask("WebDriver:GetElementText", id=await self._element(name)))

    async def shows(self, name: str, words: str) -> None:
        """Returns once the element with this id shows these words."""
        script = """
            const [name, words, done] = arguments;
            const watcher = new MutationObserver(look);
            function look() {
              if (document.getElementById(name).innerText.includes(words)) { watcher.disconnect(); done(); }
            }
            watcher.observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
            look();
        """
        await self.ask("WebDriver:ExecuteAsyncScript", script=script, args=[name, words])

    async def click(self, name: str) -> None:
        """Clicks on the element with this id."""
        await self.ask("WebDriver:ElementClick", id=await self._element(name))

    async def choose(self, name: str, file: Path) -> None:
        """Gives a file to the element with this id."""
        await self.ask("WebDriver:ElementSendKeys", id=await self._element(name), text=str(file))

    async def speak(self, recording: Path) -> None:
        """Plays a recording to the microphone; returns when it is over."""
        playing = await asyncio.create_subprocess_exec(
            "paplay", "--device", _DEVICE, recording, env=self._environment
        )
        assert await playing.wait() == 0

    def close(self) -> None:
        """Leaves Marionette alone."""
        self._writer.close()

    async def _element(self, name: str) -> str:
        found = await self.ask("WebDriver:FindElement", using="css selector", value=f"#{name}")
        return str(found[_ELEMENT])


@asynccontextmanager
async def firefox(folder: Path) -> AsyncIterator[Firefox]:
    """A Firefox with a microphone, and the sound server behind that; both keep what they write in `folder`."""
    runtime, profile = folder / "run", folder / "profile"
    runtime.mkdir(mode=0o700)
    profile.mkdir()
    (profile / "user.js").write_text(_PREFERENCES)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(runtime),
        "MOZ_HEADLESS": "1",
        "PULSE_SERVER": f"unix:{runtime}/pulse/native",
    }
    with ExitStack() as programs:
        log = programs.enter_context((folder / "log").open("wb"))
        (folder / "sound").write_text(_SOUND)
        sound = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        sound += ["--file", str(folder / "sound")]
        programs.enter_context(_running(sound, environment, log))
        await asyncio.to_thread(_there, runtime / "pulse/native")
        browser = ["firefox-esr", "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        programs.enter_context(_running(browser, environment, log))
        active = profile / "MarionetteActivePort"
        await asyncio.to_thread(_there, active)
        window = Firefox(*await asyncio.open_connection("127.0.0.1", int(active.read_text())), environment)
        # It says first what it is.
        await window.told()
        patience = 1000 * PATIENCE_S
        await window.ask(
            "WebDriver:NewSession", timeouts={"script": patience, "pageLoad": patience, "implicit": patience}
        )
        yield window
        window.close()


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: IO[bytes]) -> Iterator[None]:
    """A program, until the end of the block."""
    program = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        program.terminate()
        program.wait()


def _there(path: Path) -> None:
    """Returns once a program has made this file and written to it.

    Raises:
        TimeoutError: it has not.
    """
    last = time.monotonic() + PATIENCE_S
    while not (path.exists() and (path.is_socket() or path.stat().st_size)):
        if time.monotonic() > last:
            raise TimeoutError(f"{path} is not there")
        # Nothing tells when another program has written a file.
        time.sleep(0.05)

"""How a streaming call ends: for the first reason there is, after the last finals of its channels, and before long.

A reason is the client's (its half-close, or that it is gone), an error of a party of the call, or the server's: then
the streams are ended first, so that what was sent is recognized. Neither an engine that makes no last final nor a
client that does not read it is waited for without limit. All of it lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asr_service.core.errors import AsrError, InternalError, LimitReached, StreamTimeout
from asr_service.sessions.idle_watch import Idle, IdleWatch
from asr_service.sessions.session import Ended, Session

LAST_FINAL_S = 5.0
"""How long the engine may take for the last final of a stream that the server ends; then the newest interim is it."""
LAST_READ_S = 5.0
"""How long a client that does not read may take to fetch what is left of a stream that has ended with an error."""


class CallEnding:
    """Says when one call is to end, and why.

    Args:
        silence_hint: what the client may send while it has no audio.

    Attributes:
        client_is_gone: whether there is nobody to tell.
    """

    def __init__(self, silence_hint: str) -> None:
        self.client_is_gone = False
        self._silence_hint = silence_hint
        self._loop = asyncio.get_running_loop()
        # Resolved once, when the call is to end: with the error to tell, or None.
        self._done: asyncio.Future[AsrError | None] = self._loop.create_future()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Known once the call is admitted: what is ended, and whether the client is heard and reads.
        self._sessions: Sequence[Session] = ()
        self._idle: IdleWatch
        # Channels that still have results to send, and what the first of them that failed has failed with.
        self._unsent_channels = 0
        self._failure: AsrError | None = None

    async def reason(self) -> AsrError | None:
        """Waits until the call is to end; returns the error to tell, None if there is none."""
        return await self._done

    def end(self, error: AsrError | None) -> None:
        """Ends the call at once, unless there was a reason before."""
        if not self._done.done():
            self._done.set_result(error)

    def end_without_client(self) -> None:
        """Ends the call of a client that is not there any more."""
        self.client_is_gone = True
        self.end(None)

    def watch(self, sessions: Sequence[Session], idle: IdleWatch, longest_s: float) -> None:
        """Ends the call from now on when its streams end, it is idle, or it has lasted long enough.

        Args:
            sessions: of its channels.
            idle: what is known of its quiet.
            longest_s: how long it may last from now on, 0 for any time.
        """
        self._sessions = sessions
        self._unsent_channels = len(sessions)
        self._idle = idle
        self._timers["idle"] = self._loop.call_later(idle.limit_s, self._check_idle)
        if longest_s:
            reached = LimitReached(f"the stream reached its limit of {longest_s:g} s; open another to go on")
            self._timers["limit"] = self._loop.call_later(longest_s, self.end_streams, reached)
        for session in sessions:
            session.on_end = self._session_ended
            session.on_ending = self._session_ending
            if session.ended is not None:
                self._session_ended(session.ended)

    def end_streams(self, error: AsrError) -> None:
        """Ends the call for a reason of the server's: the last finals of its channels come before the error."""
        for session in self._sessions:
            session.end(error)

    def all_sent(self, ended: Ended) -> None:
        """Ends the call if this was the last of its channels: all its results were sent."""
        if ended.error is not None:
            self._failure = self._failure or _as_told(ended.error)
        self._unsent_channels -= 1
        if not self._unsent_channels:
            self.end(self._failure)

    def stop(self) -> None:
        """Ends nothing later: the call is over."""
        for timer in self._timers.values():
            timer.cancel()

    def _session_ending(self, error: AsrError) -> None:
        """Ends the other channels too, and all of them before long: the engine may be slow, or hang."""
        if "unmade" not in self._timers:
            self._timers["unmade"] = self._loop.call_later(LAST_FINAL_S, self._fail_streams, error)
            self.end_streams(error)

    def _fail_streams(self, error: AsrError) -> None:
        for session in self._sessions:
            session.fail(error)

    def _session_ended(self, ended: Ended) -> None:
        """Ends the call soon after a stream failed: its writer ends it at once, unless the client does not read."""
        if ended.error is not None and "unread" not in self._timers:
            error = _as_told(ended.error)
            self._timers["unread"] = self._loop.call_later(LAST_READ_S, self.end, error)
            self.end_streams(error)

    def _check_idle(self) -> None:
        """Ends the call if it is idle; otherwise looks again when it could be."""
        verdict, limit_s = self._idle.check(self._loop.time()), self._idle.limit_s
        match verdict:
            case Idle.NOTHING_RECEIVED:
                self.end_streams(nothing_received(limit_s, self._silence_hint))
            case Idle.NOTHING_READ:
                unread = f"results were not read for {limit_s:g} s after the end of the audio"
                self.end(StreamTimeout(unread))
            case left_s:
                self._timers["idle"] = self._loop.call_later(left_s, self._check_idle)


def nothing_received(limit_s: float, silence_hint: str) -> StreamTimeout:
    """The error of a client that has said nothing for so long; the hint says what it may send without audio."""
    return StreamTimeout(
        f"nothing was received for {limit_s:g} s; send audio, or {silence_hint} while there is none",
        facts={"silent_s": f"{limit_s:g}"},
    )


def _as_told(error: Exception) -> AsrError:
    """The error that clients are told: our own errors as they are, anything else without its inside."""
    return error if isinstance(error, AsrError) else InternalError()

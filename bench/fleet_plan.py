"""Simulates a fleet of instances over a day of calls: who is admitted, when machines come and go. Pure, seeded.

Calls come as a Poisson process whose rate follows a day's curve; their lengths are drawn. An `Autoscaler` does what
Kubernetes' HorizontalPodAutoscaler does with the number of open streams, and `simulate` runs it. `perfect_plan` knows
the future.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

DAY_S = 86_400.0

# Hours, and the share of the peak's calls that come then; straight lines between them. A weekday of a call centre:
# quiet nights, a steep morning, a lunch break, a lower afternoon, an evening that ends slowly.
CURVE = (
    (0.0, 0.06),
    (5.0, 0.04),
    (7.0, 0.15),
    (9.0, 0.85),
    (10.5, 1.0),
    (12.5, 0.75),
    (14.5, 0.95),
    (17.0, 0.7),
    (19.0, 0.35),
    (22.0, 0.12),
    (24.0, 0.06),
)


@dataclass(frozen=True, slots=True)
class Day:
    """What a day asks of the fleet.

    Attributes:
        peak_streams: open on average while calls come at the rate of the curve's peak.
        mean_s: of a call's length; the lengths are log-normal, with a median of three fifths of that.
        longest_s: no call lasts longer.
        surge: how many times as many calls come in the ten minutes of a surge.
        surge_at_h: when it begins, within a minute.
    """

    peak_streams: float = 1000.0
    mean_s: float = 240.0
    longest_s: float = 3600.0
    surge: float = 1.5
    surge_at_h: float = 15.5

    def rate(self, at_s: np.ndarray) -> np.ndarray:
        """Calls a second that come at these times."""
        hours = at_s / 3600
        times, shares = zip(*CURVE, strict=True)
        since = at_s - self.surge_at_h * 3600
        rises = np.clip(since / 60, 0, 1) * (since < 600)
        usual = self.peak_streams / self.mean_s * np.interp(hours, times, shares)
        return np.asarray(usual * (1 + (self.surge - 1) * rises))

    def calls(self, seed: int) -> Calls:
        """Draws the calls of one such day."""
        rng = np.random.default_rng(seed)
        # Thinned: drawn at the highest rate there is, and kept with the share that the rate is of it.
        most = self.peak_streams / self.mean_s * max(1.0, self.surge)
        times = np.sort(rng.uniform(0, DAY_S, rng.poisson(most * DAY_S)))
        times = times[rng.uniform(0, most, len(times)) < self.rate(times)]
        # The mean of a log-normal is its median times exp(sigma^2 / 2).
        sigma = math.sqrt(2 * math.log(5 / 3))
        lengths = rng.lognormal(math.log(self.mean_s * 3 / 5), sigma, len(times))
        return Calls(times, np.clip(lengths, 1.0, self.longest_s))


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls in the order in which they begin.

    Attributes:
        begins, lengths: seconds.
    """

    begins: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.begins)


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """What a HorizontalPodAutoscaler is told, and how late it knows.

    Attributes:
        target: share of the slots that are to be taken.
        slots: streams that an instance admits.
        down_window_s, up_window_s: of the sizes recommended in this time the highest one counts before instances are
            taken away, the lowest one before some are added.
        fewest, most: instances.
        start_s: from asking for an instance until it is sent streams.
        drain_s: an instance that is taken away ends streams that last longer (ASR_DRAIN_S).
        period_s: between decisions; Kubernetes has 15 s.
        lag_s: age of the number of streams that a decision knows: scraped, then asked for.
        tolerance: no decision while the share is this close to the target; Kubernetes has a tenth.
    """

    target: float
    slots: int = 100
    down_window_s: float = 300.0
    up_window_s: float = 0.0
    fewest: int = 2
    most: int = 1000
    start_s: float = 60.0
    drain_s: float = 3600.0
    period_s: float = 15.0
    lag_s: float = 30.0
    tolerance: float = 0.1

    def recommended(self, streams: int, size: int) -> int:
        """How many instances so many streams ask for, where there are `size`."""
        wanted = streams / (self.target * self.slots)
        if abs(wanted / size - 1) <= self.tolerance:
            return size
        return min(max(math.ceil(wanted), self.fewest), self.most)

    def decide(self, size: int, recent: deque[tuple[float, int]], now: float) -> int:
        """The next size.

        Args:
            size: now.
            recent: time and size of what was recommended, the latest last.
            now: the time.
        """
        lowest = min(wanted for at, wanted in recent if at >= now - self.up_window_s)
        highest = max(wanted for at, wanted in recent if at >= now - self.down_window_s)
        if lowest > size:
            # Kubernetes: four more or twice as many within a period, whichever is more.
            return min(lowest, max(2 * size, size + 4))
        return min(size, highest)


@dataclass(slots=True)
class Instance:
    """An instance, with its streams."""

    asked_s: float
    ready_s: float
    streams: int = 0
    drains_since: float | None = None
    ended_s: float | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a day.

    Attributes:
        calls: that came.
        refused: that found all instances full.
        cut: that were admitted and ended by a drain's time.
        served: that ended by themselves.
        machine_s: of all instances, from being asked for to their end.
        starts: of instances, those at the beginning included.
        most: instances at a time.
        taken: share of the machines' slots, over their time, that streams had.
        refused_runs: lengths of the runs of refusals, in seconds, of those with less than a minute between them.
    """

    calls: int = 0
    refused: int = 0
    cut: int = 0
    served: int = 0
    machine_s: float = 0.0
    starts: int = 0
    most: int = 0
    taken: float = 0.0
    refused_runs: list[float] = field(default_factory=list)


class _Fleet:
    """The instances of a simulated day.

    Attributes:
        all: that there have been.
        staying: those that are not being taken away, the oldest first; they may still be starting.
        leaving: those that are taken away and have streams.
    """

    def __init__(self, scaler: Autoscaler, size: int) -> None:
        self.scaler = scaler
        self.all: list[Instance] = []
        self.staying: list[Instance] = []
        self.leaving: list[Instance] = []
        self.resize(size, -scaler.start_s)

    def open_to(self, now: float) -> Instance | None:
        """The instance with the fewest streams that takes one more: a refusal is tried on the others."""
        best, fewest = None, self.scaler.slots
        for one in self.staying:
            if one.streams < fewest and one.ready_s <= now:
                best, fewest = one, one.streams
        return best

    def resize(self, size: int, now: float) -> None:
        """Starts instances, or takes the youngest away."""
        for _ in range(size - len(self.staying)):
            self.staying.append(Instance(now, now + self.scaler.start_s))
            self.all.append(self.staying[-1])
        while len(self.staying) > size:
            one = self.staying.pop()
            one.drains_since = now
            if one.streams:
                self.leaving.append(one)
            else:
                one.ended_s = now

    def release(self, one: Instance, now: float) -> None:
        """Takes a stream from an instance, which ends with its last one if it is being taken away."""
        one.streams -= 1
        if one.drains_since is not None and not one.streams:
            one.ended_s = now
            self.leaving.remove(one)


def simulate(calls: Calls, scaler: Autoscaler) -> Outcome:
    """Runs a day of calls against an autoscaled fleet."""
    outcome = Outcome(calls=len(calls))
    fleet = _Fleet(scaler, scaler.fewest)
    ends: list[tuple[float, int]] = []
    # Of the streams that are open: where, and since when.
    open_calls: dict[int, tuple[Instance, float]] = {}
    seen: deque[tuple[float, int]] = deque([(-math.inf, 0)])
    recent: deque[tuple[float, int]] = deque()
    stream_s = 0.0
    refused_at: list[float] = []

    def end(call: int, now: float) -> None:
        nonlocal stream_s
        one, since = open_calls.pop(call)
        stream_s += now - since
        fleet.release(one, now)

    def turn_to(now: float) -> None:
        """Ends what has ended by now."""
        while ends and ends[0][0] <= now:
            at, call = heapq.heappop(ends)
            if call in open_calls:
                end(call, at)
                outcome.served += 1

    def scale(now: float) -> None:
        turn_to(now)
        for one in list(fleet.leaving):
            if one.drains_since is not None and one.drains_since + scaler.drain_s <= now:
                for call in [call for call, (where, _) in open_calls.items() if where is one]:
                    end(call, now)
                    outcome.cut += 1
        seen.append((now, len(open_calls)))
        while len(seen) > 1 and seen[1][0] <= now - scaler.lag_s:
            seen.popleft()
        size = len(fleet.staying)
        recent.append((now, scaler.recommended(seen[0][1], size)))
        while recent[0][0] < now - max(scaler.down_window_s, scaler.up_window_s):
            recent.popleft()
        fleet.resize(scaler.decide(size, recent, now), now)
        outcome.most = max(outcome.most, len(fleet.staying) + len(fleet.leaving))

    ticks = np.arange(0, DAY_S + 2 * scaler.period_s, scaler.period_s)
    due = 0
    for call, (begins, length) in enumerate(zip(calls.begins.tolist(), calls.lengths.tolist(), strict=True)):
        while ticks[due] <= begins:
            scale(float(ticks[due]))
            due += 1
        turn_to(begins)
        one = fleet.open_to(begins)
        if one is None:
            outcome.refused += 1
            refused_at.append(begins)
            continue
        one.streams += 1
        open_calls[call] = (one, begins)
        heapq.heappush(ends, (begins + length, call))
    # Calls that outlast the day do so on instances that nobody else comes to.
    turn_to(DAY_S)
    fleet.resize(0, DAY_S)
    turn_to(math.inf)
    outcome.starts = len(fleet.all)
    outcome.machine_s = sum(
        one.ended_s - max(one.asked_s, 0.0) for one in fleet.all if one.ended_s is not None
    )
    outcome.taken = stream_s / (outcome.machine_s * scaler.slots)
    outcome.refused_runs = _runs(refused_at)
    return outcome


def _runs(times: list[float]) -> list[float]:
    """Lengths of runs of times with less than a minute between them."""
    runs: list[list[float]] = []
    for at in times:
        if runs and at - runs[-1][-1] < 60:
            runs[-1].append(at)
        else:
            runs.append([at])
    return [run[-1] - run[0] for run in runs]


@dataclass(frozen=True, slots=True)
class Perfect:
    """The plan of who knows all calls beforehand and could move them: nobody who refuses none needs less.

    Attributes:
        machine_s: of the instances that the open streams fill, at each moment.
        most: of them at a time.
    """

    machine_s: float
    most: int


def perfect_plan(calls: Calls, slots: int) -> Perfect:
    """The least time of machines that serves all calls: at each moment as many as their streams fill."""
    times = np.concatenate([calls.begins, calls.begins + calls.lengths])
    changes = np.concatenate([np.ones(len(calls), int), -np.ones(len(calls), int)])
    order = np.argsort(times, kind="stable")
    needed = np.ceil(np.cumsum(changes[order]) / slots)
    return Perfect(float(np.sum(needed[:-1] * np.diff(times[order]))), int(needed.max(initial=0)))

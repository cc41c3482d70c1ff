"""Keys' limits over several front ends, against a plain list of the streams that are open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.access.permits import Permits

FRONT_ENDS, KEYS = st.integers(0, 2), st.sampled_from("ab")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), FRONT_ENDS, KEYS, st.integers(1, 2)),
        st.tuples(st.just("back"), st.integers(0, 20), st.just(""), st.just(0)),
        st.tuples(st.just("gone"), FRONT_ENDS, st.just(""), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS, st.integers(0, 4))
def test_a_key_never_has_more_streams_than_it_may(
    actions: list[tuple[str, int, str, int]], limit: int
) -> None:
    permits = Permits()
    calls: list[tuple[int, str, int]] = []
    for action, subject, key, count in actions:
        if action == "ask":
            has = sum(streams for _, of_key, streams in calls if of_key == key)
            granted = permits.ask(subject, key, count, limit)
            assert granted == (not limit or has + count <= limit)
            if granted:
                calls.append((subject, key, count))
        elif action == "back" and calls:
            permits.give_back(*calls.pop(subject % len(calls)))
        elif action == "gone":
            permits.forget(subject)
            calls = [call for call in calls if call[0] != subject]
        for one in "ab":
            assert permits.open(one) == sum(streams for _, of_key, streams in calls if of_key == one)

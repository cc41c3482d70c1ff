"""Both decoders with boosted phrases: what they say equals the rules, frame by frame, whatever shares the batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.decoders.ctc import CtcDecoder
from asr_service.model.decoders.emissions import Emissions, answers_of
from asr_service.model.decoders.heads import read_ctc, read_rnnt
from asr_service.model.decoders.rnnt import RnntDecoder
from asr_service.model.decoders.rounds import decoded, goes_on
from asr_service.model.nemo_file.weights import WeightReader
from testbed.by_request import StepResult, as_results
from tests.model.test_boosting_tree import bonus

VOCABULARY = 12
WIDTH = 16
CHUNK = 3
SLOTS = 6
MAX_SYMBOLS = 10
Phrases = list[tuple[list[int], float]]


def weights(seed: int) -> Any:
    """The parts of a hybrid model that decoders take, small and random."""
    torch.manual_seed(seed)
    return SimpleNamespace(
        decoder=SimpleNamespace(
            blank_idx=VOCABULARY,
            prediction={
                "embed": nn.Embedding(VOCABULARY + 1, WIDTH, padding_idx=VOCABULARY),
                "dec_rnn": SimpleNamespace(lstm=nn.LSTM(WIDTH, WIDTH)),
            },
        ),
        joint=SimpleNamespace(
            enc=nn.Linear(WIDTH, WIDTH),
            pred=nn.Linear(WIDTH, WIDTH),
            joint_net=nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, VOCABULARY + 1)),
        ),
        ctc_decoder=SimpleNamespace(decoder_layers=[nn.Conv1d(WIDTH, VOCABULARY + 1, 1)]),
        cfg={},
    )


@dataclass(eq=False)
class Row:
    """A stream: its frames, its phrases, and what became of it."""

    frames: Tensor
    phrases: Phrases
    tokens: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)

    def take(self, result: StepResult, offset: int) -> None:
        self.tokens += result.tokens
        self.times += [offset + frame for frame in result.token_frames]
        self.probs += result.token_probs


def rows(seed: int, count: int) -> list[Row]:
    """Streams of all lengths; every other one is boosted with phrases that share beginnings."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    found = []
    for number in range(count):
        phrases: Phrases = []
        if number % 2:
            start = [rng.randrange(VOCABULARY) for _ in range(2)]
            for _ in range(rng.randint(1, 8)):
                tail = [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 4))]
                phrases.append((rng.choice([start, start[:1], []]) + tail, rng.choice([0.1, 0.4, 1.0])))
        frames = torch.randn(rng.randint(0, 20), WIDTH) * 3
        found.append(Row(frames, phrases))
    return found


def decode(decoder: Any, streams: Sequence[Row], seed: int, *, together: int) -> None:
    """All streams, in random batches and in slots that are used again, chunk by chunk."""
    rng = random.Random(seed)
    waiting, free = list(streams), list(range(SLOTS))
    live: dict[int, tuple[Row, int]] = {}
    with torch.inference_mode():
        while waiting or live:
            while waiting and len(live) < together and free:
                slot, stream = free.pop(rng.randrange(len(free))), waiting.pop(0)
                live[slot] = (stream, 0)
                decoder.reset(torch.tensor([slot]))
                tree = BoostingTree(stream.phrases, VOCABULARY) if stream.phrases else None
                decoder.boost(slot, tree)
            batch = rng.sample(sorted(live), rng.randint(1, len(live)))
            encoded = torch.zeros(len(batch), CHUNK, WIDTH)
            real = []
            for place, slot in enumerate(batch):
                stream, at = live[slot]
                part = stream.frames[at : at + CHUNK]
                encoded[place, : len(part)] = part
                real.append(len(part))
            emissions = decoder.step(torch.tensor(batch), encoded, torch.tensor(real))
            finite = torch.ones(len(batch), dtype=torch.bool)
            answers = answers_of(emissions, finite, np.array(real, np.int32))
            for slot, size, result in zip(batch, real, as_results(answers), strict=True):
                stream, at = live.pop(slot)
                stream.take(result, at)
                if size == CHUNK:
                    live[slot] = (stream, at + CHUNK)
                else:
                    free.append(slot)


def _one(token: int, time: int, scores: Tensor) -> StepResult:
    """A single token of one frame's scores."""
    return StepResult((token,), (time,), (float(scores.softmax(0)[token]),), 1)


class ByRounds:
    """Decodes with operations of fixed shapes alone, in batches that are padded to one size, as a GPU does."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        tables = BoostTables(SLOTS + 1, VOCABULARY, torch.device("cpu"), rows=1000)
        decoder.use(tables)
        self._rounds = decoder.rounds(tables, SLOTS, CHUNK)
        self.runs = 0

    def reset(self, slots: Tensor) -> None:
        self._decoder.reset(slots)

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        self._decoder.boost(slot, tree)
        assert not self._decoder.host_boosted

    def step(self, slots: Tensor, encoded: Tensor, frames: Tensor) -> Emissions:
        count, more = len(slots), SLOTS - len(slots)
        padded = torch.cat([slots, torch.full((more,), SLOTS)])
        encoded = torch.cat([encoded, torch.randn(more, CHUNK, WIDTH)])
        frames = torch.cat([frames, torch.zeros(more, dtype=torch.int64)])
        self._rounds.begin(padded, encoded, frames, torch.ones(SLOTS, dtype=torch.bool))
        outs: list[Any] = []
        while not outs or goes_on(outs[-1], count):
            self._rounds.run()
            outs.append(self._rounds.out.numpy().copy())
        self.runs = max(self.runs, len(outs))
        found = decoded(outs, count)
        assert found.finite.all()
        return Emissions(*map(torch.from_numpy, (found.rows, found.frames, found.tokens, found.probs)))


def with_bonus(scores: Tensor, phrases: Phrases, history: list[int]) -> int:
    """The best token of one frame's scores [vocabulary + 1] if any but the blank may be meant."""
    worth = torch.tensor([bonus(phrases, history, token) for token in range(VOCABULARY)])
    return int((scores[:VOCABULARY] + worth).argmax())


@torch.inference_mode()
def rnnt_rule(model: Any, frames: Tensor, phrases: Phrases) -> Row:
    """Greedy RNN-T, one frame after the other, with the model's own modules."""
    said = Row(frames, phrases)
    lstm, joint = model.decoder.prediction["dec_rnn"].lstm, model.joint
    out, state = lstm(torch.zeros(1, 1, WIDTH))
    for time, frame in enumerate(frames):
        for _ in range(MAX_SYMBOLS):
            scores = joint.joint_net(joint.enc(frame) + joint.pred(out[0, 0]))
            token = int(scores.argmax())
            if token == VOCABULARY:
                break
            token = with_bonus(scores, phrases, said.tokens)
            said.take(_one(token, time, scores), 0)
            out, state = lstm(model.decoder.prediction["embed"](torch.tensor([[token]])), state)
    return said


@torch.inference_mode()
def ctc_rule(model: Any, frames: Tensor, phrases: Phrases) -> Row:
    """Greedy CTC: a run of one best label is one token, chosen in its first frame."""
    said = Row(frames, phrases)
    head = model.ctc_decoder.decoder_layers[0]
    before = chosen = VOCABULARY
    for time, frame in enumerate(frames):
        scores = head(frame[None, :, None])[0, :, 0]
        label = int(scores.argmax())
        if label == VOCABULARY:
            chosen = label
        elif label not in (before, chosen):
            last, chosen = chosen, with_bonus(scores, phrases, said.tokens)
            if chosen != last:
                said.take(_one(chosen, time, scores), 0)
        before = label
    return said


def make_rnnt(model: Any) -> RnntDecoder:
    """The decoder of a model's prediction network and joint."""
    parts = {
        "decoder.prediction.embed": model.decoder.prediction["embed"],
        "decoder.prediction.dec_rnn.lstm": model.decoder.prediction["dec_rnn"].lstm,
        "joint.enc": model.joint.enc,
        "joint.pred": model.joint.pred,
        "joint.joint_net": model.joint.joint_net,
    }
    found = read_rnnt(_reader(parts), WIDTH, VOCABULARY, "tanh")
    return RnntDecoder(found, MAX_SYMBOLS, SLOTS + 1, torch.device("cpu"))


def make_ctc(model: Any) -> CtcDecoder:
    """The decoder of a model's CTC head."""
    name = "ctc_decoder.decoder_layers.0"
    reader = _reader({name: model.ctc_decoder.decoder_layers[0]})
    return CtcDecoder(read_ctc(reader, name, WIDTH, VOCABULARY), SLOTS + 1, torch.device("cpu"))


def _reader(parts: dict[str, nn.Module]) -> WeightReader:
    tensors = {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }
    return WeightReader(tensors, "made up")


DECODERS = {
    "rnnt": (make_rnnt, rnnt_rule),
    "ctc": (make_ctc, ctc_rule),
    "rnnt by rounds": (lambda model: ByRounds(make_rnnt(model)), rnnt_rule),
    "ctc by rounds": (lambda model: ByRounds(make_ctc(model)), ctc_rule),
}


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("seed", range(6))
def test_streams_say_what_the_rule_says_in_any_batch_and_slot(kind: str, seed: int) -> None:
    model = weights(seed)
    make, rule = DECODERS[kind]
    streams = rows(seed, 24)
    with torch.inference_mode():
        decoder = make(model)
    decode(decoder, streams, seed, together=SLOTS)
    changed = 0
    for stream in streams:
        expected = rule(model, stream.frames, stream.phrases)
        assert (stream.tokens, stream.times) == (expected.tokens, expected.times)
        assert stream.probs == pytest.approx(expected.probs, abs=1e-5)
        changed += expected.tokens != rule(model, stream.frames, []).tokens
    assert changed > 3
    assert sum(len(stream.tokens) for stream in streams) > 30


@pytest.mark.parametrize("kind", DECODERS)
def test_streams_without_phrases_are_the_same_beside_boosted_ones_and_after_them(kind: str) -> None:
    """To the bit: tokens, frames and probabilities, in slots that were boosted before."""
    model = weights(3)
    make, _ = DECODERS[kind]
    mixed, alone = rows(5, 24), rows(5, 24)
    with torch.inference_mode():
        decoder, fresh = (make(model) for _ in range(2))
    for stream in alone:
        stream.phrases = []
    decode(decoder, mixed, 8, together=SLOTS)
    decode(fresh, alone, 8, together=SLOTS)
    for one, other in zip(mixed, alone, strict=True):
        if not one.phrases:
            assert (one.tokens, one.times) == (other.tokens, other.times)
    again = rows(5, 24)
    for stream in again:
        stream.phrases = []
    decode(decoder, again, 8, together=SLOTS)
    assert [(s.tokens, s.times, s.probs) for s in again] == [(s.tokens, s.times, s.probs) for s in alone]


@pytest.mark.parametrize("kind", DECODERS)
def test_no_boost_makes_a_token_of_silence(kind: str) -> None:
    """However large it is: where the model hears nothing, nothing is said."""
    model = weights(1)
    for head in (model.joint.joint_net[1], model.ctc_decoder.decoder_layers[0]):
        head.bias.data[VOCABULARY] = 100.0
    make, _ = DECODERS[kind]
    stream = Row(torch.randn(20, WIDTH), [([token], 10.0) for token in range(VOCABULARY)])
    with torch.inference_mode():
        decoder = make(model)
    decode(decoder, [stream], 0, together=1)
    assert stream.tokens == []


@pytest.mark.parametrize("eager", [0.0, 3.0])
def test_a_row_that_says_much_takes_more_runs_than_one(eager: float) -> None:
    """Up to the most that each frame may emit, beside rows that say little."""
    model = weights(2)
    model.joint.joint_net[1].bias.data[VOCABULARY] = -eager
    with torch.inference_mode():
        decoder = ByRounds(make_rnnt(model))
    streams = rows(9, 12)
    decode(decoder, streams, 4, together=SLOTS)
    for stream in streams:
        expected = rnnt_rule(model, stream.frames, stream.phrases)
        assert (stream.tokens, stream.times) == (expected.tokens, expected.times)
    most = max(stream.times.count(time) for stream in streams for time in stream.times)
    assert (most == MAX_SYMBOLS and decoder.runs > 2) if eager else decoder.runs >= 1


def test_trees_have_the_same_place_for_all_and_make_room_when_nobody_needs_them() -> None:
    tables = BoostTables(4, VOCABULARY, torch.device("cpu"), rows=12)
    one, other = (BoostingTree([(tokens, 1.0)], VOCABULARY) for tokens in ([1, 2, 3, 4], [5, 6, 7, 8]))
    large = BoostingTree([(list(range(9)), 1.0)], VOCABULARY)
    assert tables.set(0, one) and tables.set(1, one) and tables.set(2, other)
    assert tables.at.tolist() == [1, 1, 6, 0]
    assert not tables.set(3, large), "ten nodes, of twelve rows of which eleven are used"
    assert tables.set(0, None) and tables.set(2, None)
    assert tables.at.tolist() == [0, 1, 0, 0]
    assert not tables.set(3, large), "one of the streams is still there"
    assert tables.set(1, large)
    assert tables.at.tolist() == [0, 1, 0, 0]
    assert tables.following[0].eq(0).all() and tables.bonus[0].eq(0).all()


@pytest.mark.parametrize("seed", range(8))
def test_tables_say_what_the_tree_says(seed: int) -> None:
    rng = random.Random(seed)
    phrases = [
        ([rng.randrange(4) for _ in range(rng.randint(1, 5))], rng.choice([0.5, 1.0, 2.0])) for _ in range(9)
    ]
    before, tree = BoostingTree([([1, 2], 1.0)], VOCABULARY), BoostingTree(phrases, VOCABULARY)
    # Of a tree that had the rows before, nothing may be left.
    other = BoostingTree([([rng.randrange(4) for _ in range(40)], 9.0)], VOCABULARY)
    rows = 1 + len(before) + max(len(other), len(tree))
    tables = BoostTables(2, VOCABULARY, torch.device("cpu"), rows=rows)
    assert tables.set(0, before) and tables.set(1, other) and tables.set(1, None) and tables.set(1, tree)
    first = int(tables.at[1])
    assert first == 1 + len(before)
    for node in range(len(tree)):
        leads_to = [first + tree.advance(node, token) for token in range(VOCABULARY)]
        assert tables.following[first + node].tolist() == leads_to
        expected = tree.root.copy()
        if node:
            tokens, values = tree.bonuses(node)
            expected[tokens] = values
        assert tables.bonus[first + node].tolist() == expected.tolist()

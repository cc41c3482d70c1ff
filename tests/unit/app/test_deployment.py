"""Which engines and how many front ends come of the settings, on machines of every kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.app.deployment import Deployment, Machine, plan_deployment, this_machine
from asr_service.config import Settings
from asr_service.core.cpus import Cpus

MANY = "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi"


def machine(
    cpus: int = 8, *, threads: int = 1, quota: float | None = None, gpu: bool = False, linux: bool = True
) -> Machine:
    """A machine with so many CPUs, so many of them a core: all first threads are numbered before all second ones."""
    count = cpus // threads
    cores = tuple(tuple(range(core, cpus, count)) for core in range(count))
    return Machine(cores if linux else (), Cpus(cpus, quota), gpu, linux)


def plan(where: Machine, **settings: object) -> Deployment:
    return plan_deployment(Settings(**({"model": "demo"} | settings)), where)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [None, "cpu", "cuda:0", "cuda"])
@pytest.mark.parametrize("threads", [None, 3])
@pytest.mark.parametrize("gpu", [False, True])
def test_one_of_everything_is_made_as_the_settings_say(
    device: str | None, threads: int | None, gpu: bool
) -> None:
    settings = Settings(model="demo", device=device, threads=threads, att_ctx="70,6", max_streams=9)
    (engine,) = plan_deployment(settings, machine(gpu=gpu)).engines
    assert (engine.name, engine.model, engine.cpus) == ("engine 0", settings.model_settings, None)


def test_there_is_an_engine_for_each_model_look_ahead_and_device_in_this_order() -> None:
    made = plan(
        machine(gpu=True),
        model=f"{MANY}; /models/de.nemo",
        att_ctx="70,13;70,1",
        device="cuda:1,cuda:0",
        decoder="ctc",
        max_streams=7,
    ).engines
    assert [(one.model.name, one.model.att_context, one.model.device) for one in made] == [
        (model, context, device)
        for model in (MANY, "/models/de.nemo")
        for context in ((70, 13), (70, 1))
        for device in ("cuda:1", "cuda:0")
    ]
    assert {(one.model.decoder, one.model.slots, one.model.threads, one.cpus) for one in made} == {
        ("ctc", 7, None, None)
    }
    short = MANY.partition("/")[2]
    assert made[0].name == f"engine 0 (cuda:1, {short}, 70,13)"
    assert made[7].name == "engine 7 (cuda:0, de, 70,1)"


def test_engines_are_told_apart_by_what_is_set() -> None:
    assert [one.name for one in plan(machine(gpu=True), model="demo;a/b@v2").engines] == [
        "engine 0 (demo)",
        "engine 1 (b@v2)",
    ]
    assert [one.name for one in plan(machine(), device="cpu,cpu").engines] == [
        "engine 0 (cpu, demo)",
        "engine 1 (cpu, demo)",
    ]


@pytest.mark.parametrize(
    ("where", "settings", "cpus", "threads"),
    [
        (machine(8), {"engines": 2}, [(0, 1, 2, 3), (4, 5, 6, 7)], [None, None]),
        (machine(8), {"device": "cpu,cpu", "threads": 2}, [(0, 1, 2, 3), (4, 5, 6, 7)], [2, 2]),
        (machine(5), {"engines": 2}, [(0, 1), (2, 3, 4)], [None, None]),
        # A core's two threads belong together, as long as there are enough cores.
        (machine(8, threads=2), {"engines": 2}, [(0, 1, 4, 5), (2, 3, 6, 7)], [None, None]),
        (machine(4, threads=2), {"engines": 4}, [(0,), (2,), (1,), (3,)], [None] * 4),
        # Another container's cores lie elsewhere.
        (
            Machine(((3,), (9,), (4,)), Cpus(3, None), False, True),
            {"engines": 3},
            [(3,), (9,), (4,)],
            [None] * 3,
        ),
        # More engines than CPUs, or than the quota allows.
        (machine(2), {"engines": 3}, [(0,), (0,), (1,)], [None] * 3),
        (machine(8, quota=4.5), {"engines": 2}, [(0, 1, 2, 3), (4, 5, 6, 7)], [2, 2]),
        (machine(8, quota=5.0), {"engines": 2}, [(0, 1, 2, 3), (4, 5, 6, 7)], [2, 3]),
        (machine(8, quota=1.0), {"engines": 2}, [(0, 1, 2, 3), (4, 5, 6, 7)], [1, 1]),
        (machine(8, threads=2, quota=4.0), {"engines": 2}, [(0, 1, 4, 5), (2, 3, 6, 7)], [None, None]),
        # Where nothing can be bound, the threads are divided.
        (machine(8, linux=False), {"engines": 2}, [None, None], [4, 4]),
        (machine(8, linux=False), {"engines": 2, "threads": 3}, [None, None], [3, 3]),
        # Beside GPUs.
        (machine(4, gpu=True), {"device": "cpu,cuda:0,cpu"}, [(0, 1), None, (2, 3)], [None] * 3),
        (machine(4, gpu=True), {"device": "cpu,cuda:0"}, [None, None], [None, None]),
        # Look-aheads and models share the cores as well.
        (machine(4), {"att_ctx": "70,1;70,13"}, [(0, 1), (2, 3)], [None, None]),
        (machine(4), {"model": "demo;null"}, [(0, 1), (2, 3)], [None, None]),
    ],
)
def test_engines_on_cpus_share_the_cores(
    where: Machine,
    settings: dict[str, object],
    cpus: list[tuple[int, ...] | None],
    threads: list[int | None],
) -> None:
    made = plan(where, **settings).engines
    assert [one.cpus for one in made] == cpus
    assert [one.model.threads for one in made] == threads


@pytest.mark.parametrize(
    ("where", "settings", "sharers"),
    [
        (machine(gpu=True), {}, [1]),
        (machine(8), {"engines": 3}, [3, 3, 3]),
        (machine(8), {"model": "demo;null", "att_ctx": "70,1;70,13"}, [4] * 4),
        (machine(gpu=True), {"device": "cuda:0,cuda:1"}, [1, 1]),
        (machine(gpu=True), {"device": "cuda,cuda:1,cuda:0"}, [2, 1, 2]),
        (machine(gpu=True), {"att_ctx": "70,1;70,13"}, [2, 2]),
        (machine(gpu=True), {"device": "cuda:1,cpu", "engines": 2}, [1, 2, 2]),
        # The null model has its slots on the host whatever the device.
        (machine(gpu=True), {"model": "null;demo", "device": "cuda:0"}, [1, 1]),
    ],
)
def test_engines_know_how_many_share_their_memory(
    where: Machine, settings: dict[str, object], sharers: list[int]
) -> None:
    assert [one.model.sharers for one in plan(where, **settings).engines] == sharers


@pytest.mark.parametrize(
    ("where", "settings", "front_ends"),
    [
        (machine(16), {}, 1),
        (machine(16), {"engines": 4}, 1),
        (machine(16), {"threads": 14}, 2),
        (machine(16), {"engines": 2, "threads": 6}, 4),
        (machine(16), {"threads": 20}, 1),
        (machine(16, quota=4.0), {"threads": 3}, 1),
        (machine(1), {"threads": 1}, 1),
        (machine(16), {"model": "null"}, 1),
        (machine(16, gpu=True), {}, 8),
        (machine(16, gpu=True), {"device": "cpu"}, 1),
        (machine(16, gpu=True), {"device": "cuda:0,cpu"}, 1),
        (machine(16, gpu=True, quota=4.0), {}, 3),
        (machine(4, gpu=True), {"device": "cuda:0,cuda:1"}, 2),
        (machine(4, gpu=True), {"device": "cuda:0,cuda:1", "att_ctx": "70,1;70,13"}, 1),
        (machine(2, gpu=True), {}, 1),
        (machine(64, gpu=True), {}, 8),
        (machine(64, gpu=True), {"front_ends": 20}, 20),
        (machine(2), {"front_ends": 3}, 3),
        (machine(16, gpu=True, linux=False), {}, 1),
        (machine(16, gpu=True, linux=False), {"front_ends": 1}, 1),
    ],
)
def test_front_ends_get_the_cores_that_engines_leave(
    where: Machine, settings: dict[str, object], front_ends: int
) -> None:
    made = plan(where, **settings)
    assert (made.front_ends, made.notes) == (front_ends, ())


def test_what_cannot_be_as_it_is_set_is_told() -> None:
    elsewhere = plan(machine(linux=False), front_ends=4)
    assert elsewhere.front_ends == 1
    assert elsewhere.notes == ("ASR_FRONT_ENDS=4: processes can share a port on Linux only; there is one",)
    on_gpus = plan(machine(gpu=True), engines=2)
    assert len(on_gpus.engines) == 1
    assert len(on_gpus.notes) == 1 and on_gpus.notes[0].startswith("ASR_ENGINES=2 is of CPUs")
    assert not plan(machine(gpu=True), engines=2, device="cuda:0,cpu").notes


DEVICES = st.lists(st.sampled_from(["cpu", "cuda:0", "cuda:1"]), max_size=4)


@given(
    st.integers(1, 40),
    st.sampled_from([1, 2]),
    st.none() | st.floats(0.1, 50),
    st.booleans(),
    st.booleans(),
    DEVICES,
    st.integers(1, 5),
    st.sampled_from([None, "70,1", "70,1;70,13"]),
    st.sampled_from(["demo", "null;demo"]),
    st.none() | st.integers(1, 9),
    st.none() | st.integers(1, 9),
)
def test_on_any_machine(
    cores: int,
    threads: int,
    quota: float | None,
    gpu: bool,
    linux: bool,
    devices: list[str],
    engines: int,
    att_ctx: str | None,
    model: str,
    front_ends: int | None,
    set_threads: int | None,
) -> None:
    where = machine(cores * threads, threads=threads, quota=quota, gpu=gpu, linux=linux)
    made = plan(
        where,
        model=model,
        device=",".join(devices) or None,
        att_ctx=att_ctx,
        engines=engines,
        front_ends=front_ends,
        threads=set_threads,
    )
    assert made.front_ends == (1 if not linux else front_ends or made.front_ends) >= 1
    assert len({one.name for one in made.engines}) == len(made.engines)
    bound = [one.cpus for one in made.engines if one.cpus is not None]
    assert all(bound) and len(bound) != 1
    assert not bound or linux
    if bound:
        all_cpus = [cpu for cpus in bound for cpu in cpus]
        assert set(all_cpus) == set(range(where.cpus.cores)) or len(bound) > where.cpus.cores
        assert len(all_cpus) == max(where.cpus.cores, len(bound)), (
            "no CPU is two engines' while there are enough"
        )
        sizes = [len(cpus) for cpus in bound]
        assert max(sizes) - min(sizes) <= threads
    for one in made.engines:
        assert one.model.threads is None or one.model.threads == set_threads or one.model.threads >= 1
        assert set_threads is None or one.model.threads == set_threads
    if quota is not None and bound and set_threads is None and len(bound) <= where.cpus.threads:
        taken = sum(one.model.threads or len(one.cpus or ()) // threads for one in made.engines if one.cpus)
        assert taken <= max(where.cpus.threads, len(bound))


def test_this_machine_can_be_asked() -> None:
    made = plan_deployment(Settings(model="null", device="cpu,cpu"), this_machine())
    assert len(made.engines) == 2

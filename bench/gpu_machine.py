"""What a GPU can do: versions, how fast it copies, how fast it multiplies in each precision, what a launch costs."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy
import torch

from bench.gpu import Section
from bench.gpu_timing import device_ms

# Rows (streams x frames of a chunk) and the products of a layer of the 114M shape, (inputs, outputs).
_ROWS = (16, 256, 1024, 4096)
_PRODUCTS = ((512, 2048), (2048, 512), (512, 1536), (512, 512), (512, 1024))


def measure(section: Section) -> None:
    """Measures the machine."""
    device = torch.device(section.device)
    cuda = device.type == "cuda"
    section.row(
        "versions",
        python=sys.version.split()[0],
        torch=torch.__version__,
        numpy=numpy.__version__,
        triton=_version("triton"),
        cuda=torch.version.cuda,
        machine=platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
    )
    if cuda:
        torch.cuda.set_device(device)
        found = torch.cuda.get_device_properties(device)
        section.row(
            "gpu",
            name=found.name,
            memory_gib=round(found.total_memory / 2**30, 1),
            multiprocessors=found.multi_processor_count,
            capability=f"{found.major}.{found.minor}",
            l2_mb=round(getattr(found, "L2_cache_size", 0) / 2**20, 1),
        )
    section.attempt("copies", lambda: _copies(section, device))
    for name in ("bf16", "tf32", "fp32") if cuda else ("fp32",):
        section.attempt(f"products in {name}", partial(_products, section, device, name))
    if cuda:
        section.attempt("launches", lambda: _launches(section, device))
        section.attempt("graphs with conditions", lambda: _conditions(section))
        section.attempt("triton", lambda: _triton(section, device))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _copies(section: Section, device: torch.device) -> None:
    size = 2**31 if device.type == "cuda" else 2**25
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    ms = device_ms(device, lambda: target.copy_(source), 0.5)
    section.row("copy", bytes=size, ms=round(ms, 3), tb_per_s=round(2 * size / ms / 1e9, 3))
    if device.type == "cuda":
        # What a step of 512 streams uploads, in 16 bits: 2.6 MB.
        host = torch.empty(512 * 2560, dtype=torch.int16, pin_memory=True)
        there = torch.empty_like(host, device=device)
        up = device_ms(device, lambda: there.copy_(host, non_blocking=True), 0.2)
        down = device_ms(device, lambda: host.copy_(there, non_blocking=True), 0.2)
        section.row("transfer of 2.6 MB", up_ms=round(up, 4), down_ms=round(down, 4))


def _products(section: Section, device: torch.device, name: str) -> None:
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        side = {"cuda": 8192 if name != "fp32" else 4096}.get(device.type, 512)
        square = torch.randn(side, side, device=device, dtype=dtype)
        other = torch.randn_like(square)
        ms = device_ms(device, partial(torch.matmul, square, other), 0.5)
        section.row(
            "peak", precision=name, side=side, ms=round(ms, 3), tflops=round(2 * side**3 / ms / 1e9, 1)
        )
        for rows in _ROWS if device.type == "cuda" else _ROWS[:1]:
            weights = [
                torch.randn(outputs, inputs, device=device, dtype=dtype) * 0.02
                for inputs, outputs in _PRODUCTS
            ]
            biases = [torch.randn(outputs, device=device, dtype=dtype) for _, outputs in _PRODUCTS]
            given = {n: torch.randn(rows, n, device=device, dtype=dtype) for n in (512, 2048)}

            def layer(weights=weights, biases=biases, given=given) -> None:  # type: ignore[no-untyped-def]
                for weight, bias in zip(weights, biases, strict=True):
                    torch.nn.functional.linear(given[weight.shape[1]], weight, bias)

            work: Callable[[], object] = layer
            if device.type == "cuda":
                work = _recorded(layer)
            ms = device_ms(device, work, 0.2)
            operations = 2 * rows * sum(inputs * outputs for inputs, outputs in _PRODUCTS)
            section.row(
                "five products of a layer", precision=name, rows=rows, ms=round(ms, 4),
                tflops=round(operations / ms / 1e9, 1),
            )  # fmt: skip
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _recorded(work: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        work()
    return graph.replay


def _launches(section: Section, device: torch.device) -> None:
    """What a launch costs the host, and the device where launches are recorded."""
    x = torch.zeros(1024, device=device)

    def launch() -> None:
        for _ in range(1000):
            x.add_(1.0)

    torch.cuda.synchronize()
    began = time.perf_counter()
    launch()
    host_us = (time.perf_counter() - began) * 1000
    torch.cuda.synchronize()
    replayed = device_ms(device, _recorded(launch), 0.1)
    began = time.perf_counter()
    for _ in range(200):
        x.add_(1.0)
        x[0].item()
    waited_us = (time.perf_counter() - began) / 200 * 1e6
    section.row(
        "launch",
        host_us=round(host_us, 2),
        recorded_us=round(replayed, 3),
        launch_and_wait_us=round(waited_us, 1),
    )


def _conditions(section: Section) -> None:
    """Whether the runtime has conditional nodes, and how Python gets at them."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        section.row("graphs with conditions", bindings=f"none: {error}", torch=_conditional_names())
        return
    section.row(
        "graphs with conditions",
        bindings=hasattr(runtime, "cudaGraphConditionalHandleCreate"),
        runtime=runtime.cudaRuntimeGetVersion()[1],
        driver=runtime.cudaDriverGetVersion()[1],
        torch=_conditional_names(),
    )


def _conditional_names() -> str:
    names = [name for name in dir(torch.cuda.CUDAGraph) if "cond" in name.lower() or "while" in name.lower()]
    return ",".join(names) or "none"


def _triton(section: Section, device: torch.device) -> None:
    """Whether Triton compiles a kernel, and how long the first one takes."""
    from bench.gpu_triton import add_one

    x = torch.zeros(1000, device=device)
    began = time.perf_counter()
    add_one(x)
    torch.cuda.synchronize()
    section.row("triton", first_s=round(time.perf_counter() - began, 2), right=bool((x == 1.0).all()))

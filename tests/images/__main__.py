"""Builds the images and runs them: each step with its time, and the images with their sizes, as tables.

    make images                                   what it needs is Docker or Podman, and some 10 GB of disk
    make images ARGS="cpu --make-base --daemon /var/tmp/asr-docker -- --secret id=pip_conf,src=pip.conf"

What follows `--` goes to every build: a base of your own (--build-arg BASE=...), an index of packages (--secret
id=pip_conf,src=FILE). Exit codes: 0 all steps did, 1 one did not, 2 there is no container engine.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.images.base import make_base
from tests.images.checks import FOREIGN, MODEL, VOLUME, Checks
from tests.images.engine import Engine, EngineError, Ports, find_engine, own_daemon

# A number of streams: what a busy machine measures for itself is not what is looked at.
DEMO = ("-e", "ASR_MODEL=demo", "-e", "ASR_MAX_STREAMS=8")
DOCUMENTED = ("-e", "ASR_ATT_CTX=70,0", "-e", "ASR_MAX_BATCH=96")
V3 = ("-e", "NUMBA_CPU_NAME=x86-64-v3", "-e", "NUMBA_CPU_FEATURES=")
FLAVOURS = ("cpu", "cuda")


def check_image(checks: Checks, flavour: str, *, nemo: bool) -> None:
    """All steps of one image."""
    image, engine = f"asr-service:{flavour}-checked", checks.engine
    device = () if flavour == "cpu" else ("-e", "ASR_DEVICE=cpu")
    run = (*DEMO, *device)
    if not checks.step(f"{flavour}: build", lambda: checks.build(flavour, image)):
        return
    for size, made in checks.history(image):
        print(f"    {size:>8}  {made[:100]}", flush=True)
    name, ports = f"asr-checked-{flavour}", Ports(engine)
    if checks.step(
        f"{flavour}: `run` as the image's user", lambda: checks.start(name, image, *run, ports=ports)
    ):
        checks.step(f"{flavour}: health check", lambda: checks.wait_healthy(name))
        checks.step(f"{flavour}: a clip over both ports", lambda: checks.hear(ports))
        checks.step(
            f"{flavour}: SIGTERM in the middle of a stream", lambda: checks.stop_while_speaking(name, ports)
        )
        checks.step(f"{flavour}: second start", lambda: checks.start_again(name, ports))
        checks.step(f"{flavour}: a clip over both ports, again", lambda: checks.hear(ports))
    checks.remove(name)
    name, ports = f"asr-foreign-{flavour}", Ports(engine)
    if checks.step(
        f"{flavour}: `run {' '.join(FOREIGN)}`",
        lambda: checks.start(name, image, *FOREIGN, *run, ports=ports),
    ):
        checks.step(f"{flavour}: its health check", lambda: checks.wait_healthy(name))
        checks.step(f"{flavour}: its clip over both ports", lambda: checks.hear(ports))
    checks.remove(name)
    if flavour == "cpu":
        check_cpu_variants(checks, image)
    if nemo:
        check_nemo(checks, flavour, image, run)


def check_nemo(checks: Checks, flavour: str, image: str, run: Sequence[str]) -> None:
    """The variant with NeMo, for a user that it does not know: NeMo keeps files where it can."""
    variant = f"{image}-nemo"
    built = partial(checks.build, flavour, variant, "--build-arg", "WITH_NEMO=1")
    if not checks.step(f"{flavour}: build with WITH_NEMO=1", built):
        return
    checks.step(
        f"{flavour}: NeMo is imported", lambda: checks.imports(variant, "nemo.collections.asr", *FOREIGN)
    )
    name, ports = f"asr-nemo-{flavour}", Ports(checks.engine)
    # NeMo unpacks models as Python does from 3.11.4 on, which Debian 12's own is not.
    step = "nemo" if checks.has_python(variant, 3, 11, 4) else "fast"
    start = partial(checks.start, name, variant, *FOREIGN, *run, "-e", f"ASR_ENCODER={step}", ports=ports)
    if checks.step(f"{flavour}: `run` with NeMo in the image, ASR_ENCODER={step}", start):
        checks.step(f"{flavour}: its clip over both ports", lambda: checks.hear(ports))
    checks.remove(name)


def check_cpu_variants(checks: Checks, image: str) -> None:
    """Settings as options, loops for a lesser processor, and a model inside."""
    name, ports = "asr-settings", Ports(checks.engine)
    if checks.step(
        f"cpu: `run {' '.join(DOCUMENTED)}`",
        lambda: checks.start(name, image, *DEMO, *DOCUMENTED, ports=ports),
    ):
        checks.step("cpu: what it serves", lambda: checks.look_ahead(ports))
    checks.remove(name)
    name, ports = "asr-v3", Ports(checks.engine)
    if checks.step(
        "cpu: with the loops for x86-64-v3",
        lambda: checks.start(name, image, *FOREIGN, *DEMO, *V3, ports=ports),
    ):
        checks.step("cpu: its clip over both ports", lambda: checks.hear(ports))
    checks.remove(name)
    with_model = f"{image}-model"
    if checks.step("cpu: build with PREFETCH_MODEL", lambda: checks.build_with_model("cpu", with_model)):
        name = "asr-model"
        alone = ("--network", "none", "--volume", f"{VOLUME}:/var/lib/asr/models", "-e", f"ASR_MODEL={MODEL}")
        if checks.step(
            "cpu: `run --network none` with an empty volume",
            lambda: checks.start(name, with_model, *alone),
        ):
            checks.step("cpu: its health check", lambda: checks.wait_healthy(name))
            checks.step("cpu: its clip, from inside", lambda: checks.hear_inside(name))
        checks.remove(name)


def report(checks: Checks) -> None:
    """Prints the table."""
    print("\n| step | time | |\n| --- | --- | --- |")
    for name, seconds, said in checks.rows:
        print(f"| {name} | {seconds:.1f} s | {said} |")
    if checks.failed:
        print(f"\nFAILED: {'; '.join(checks.failed)}")


def main(arguments: list[str]) -> int:
    """Command line."""
    own, builds = _split(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m tests.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("flavours", nargs="*", metavar="FLAVOUR", help="cpu, cuda; both without it")
    parser.add_argument("--engine", metavar="PROGRAM", help="docker, podman, or the path of one")
    parser.add_argument(
        "--daemon", type=Path, metavar="FOLDER", help="starts a dockerd that keeps all it has in there"
    )
    parser.add_argument(
        "--make-base", action="store_true", help="makes the base by mmdebstrap, where no registry is reached"
    )
    parser.add_argument("--nemo", action="store_true", help="builds and starts the variant with NeMo too")
    options = parser.parse_args(own)
    flavours = options.flavours or list(FLAVOURS)
    if unknown := set(flavours) - set(FLAVOURS):
        parser.error(f"{min(unknown)!r} is neither cpu nor cuda")
    with contextlib.ExitStack() as stack:
        try:
            engine: Engine = (
                stack.enter_context(own_daemon(options.daemon.absolute(), options.engine or "docker"))
                if options.daemon
                else find_engine(options.engine)
            )
            if options.make_base:
                builds = ["--build-arg", f"BASE={make_base(engine)}", *builds]
        except EngineError as error:
            print(f"make images: {error}", file=sys.stderr)
            return 2
        if engine.host_network:
            builds = ["--network", "host", *builds]
        checks = Checks(engine, builds)
        stack.callback(checks.clean_up)
        for flavour in flavours:
            check_image(checks, flavour, nemo=options.nemo)
        report(checks)
    return 1 if checks.failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours, and what is the builds' behind `--`."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

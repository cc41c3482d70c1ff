"""The command line of the recipe."""

from __future__ import annotations

from demo_model.__main__ import parser, plan_of
from demo_model.plan import Plan


def test_the_command_line_and_the_loop_have_one_set_of_defaults() -> None:
    assert plan_of(parser().parse_args([])) == Plan()


def test_what_is_asked_for_is_planned() -> None:
    asked = [
        "--minutes",
        "3",
        "--seed",
        "1",
        "--frames",
        "500",
        "--lr",
        "0.1",
        "--max-steps",
        "9",
        "--device",
        "cuda:0",
    ]
    plan = plan_of(parser().parse_args(asked))
    assert plan == Plan(minutes=3, seed=1, frames=500, peak_lr=0.1, max_steps=9, device="cuda:0")
    assert plan_of(parser().parse_args(["--within", "5"])).deadline > 0

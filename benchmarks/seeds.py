"""Mean and spread of few-shot accuracy over runs that differ in their seed.

    for seed in 0 1 2; do
      python -m flamingo_jax.train --config=configs/base.py --workdir=runs/seed$seed --config.seed=$seed
    done
    python benchmarks/seeds.py runs/seed0 runs/seed1 runs/seed2

Prints a Markdown table: per task and measure, at each number of shots, the mean over the runs and (lowest-highest).
"""

import collections
import json
import pathlib
import sys


def main(workdirs: list[str]) -> None:
    if not workdirs:
        sys.exit(__doc__)
    cells = collections.defaultdict(lambda: collections.defaultdict(list))
    for workdir in workdirs:
        path = pathlib.Path(workdir) / "evaluation" / "results.json"
        if not path.exists():
            sys.exit(f"{path} is missing; has this run finished?")
        for row in json.loads(path.read_text())["results"]:
            cells[row["title"], row["measure"]][row["shots"]].append(100 * row["accuracy"])
    shots = sorted({count for row in cells.values() for count in row})
    print("| task | measure | " + " | ".join(f"{count} shots" for count in shots) + " |")
    print("|" + "---|" * (2 + len(shots)))
    for (task, measure), row in cells.items():
        values = [f"{sum(row[n]) / len(row[n]):.1f} ({min(row[n]):.1f}-{max(row[n]):.1f})" for n in shots]
        print(f"| {task} | {measure} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])

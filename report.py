"""Make one page of results to share: a single HTML file that opens without a network connection and prints well.

Input: results of evaluate.py, calibrate.py, baselines.py and deep_baselines.py, which are folders with a metrics.json,
training runs of train.py, which are folders with config.json and metrics.jsonl, and folders of the one or the other (of
one that holds both, the results). Output: --out. The page shows every method with every person; differences from a
reference, person by person; models before and after adaptation; confusion matrices; how well the confidence is
calibrated; the most confident errors with their signals; learning curves, data, settings, versions and commits.

  python report.py checkpoints/demo results/demo results/demo-adapted --out results/report.html
  python report.py checkpoints/gpt2 results/gpt2 results/baselines --reference gpt2 --title "Gestures of new people"

As in compare.py, runs whose folder names differ only in fold or seed (such as fold0 and seed1) are one method, and the
unit is a person. Signals are drawn from the shards that a result names, or from --shards; if those do not exist, the
page says so. An input that cannot be read is named on the page and in the terminal, and the exit code is 1.

Takes seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from pathlib import Path

from semg.common import cli
from semg.common.errors import UsageError
from semg.common.files import expect_place, write_text
from semg.common.provenance import how_made
from semg.evaluation import metrics
from semg.flags import places


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    p = cli.parser(__doc__)
    p.add_argument(
        "results", type=Path, nargs="+", metavar="RUN_OR_RESULTS", help="folders of results or training runs"
    )
    p.add_argument("--out", type=Path, default=Path("results/report.html"), help="the page to write, .html")
    p.add_argument("--title", default="Hand gestures from surface EMG: results", help="title of the page")
    p.add_argument("--reference", metavar="NAME", help="compare every other method with this one (default: the first)")
    p.add_argument(
        "--metric",
        choices=[one.name for one in metrics.METRICS],
        default=metrics.leading().name,
        help="the metric to compare",
    )
    p.add_argument(
        "--shards", type=Path, help="folder of the shards that were scored (default: the one that each result names)"
    )
    p.add_argument(
        "--errors",
        type=cli.whole(0, 100),
        default=6,
        metavar="N",
        help="number of misclassified windows to show for each method",
    )
    return p


def main() -> int:
    """Read, draw, write; the number returned is the exit code."""
    args = arguments().parse_args()
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {args.out}: expected a name that ends in .html")
    if args.shards is not None and not args.errors:
        raise UsageError("--shards: expected --errors of at least 1 with it; shards are read for these windows alone")
    args.results = cli.expanded(args.results)
    expect_place(args.out, "the page")
    places.expect_apart([(f"--out {args.out}", args.out)], args.results)
    console = cli.console(args)
    from semg.evaluation.page import read_page, render  # SciPy and Jinja take a second, which --help need not wait for

    page = read_page(
        args.results,
        metrics.metric(args.metric),
        title=args.title,
        reference=args.reference,
        shards=args.shards,
        errors_shown=args.errors,
        provenance=how_made("report.py", args),
    )
    for failure in page.failures:
        console.error(failure)
    if page.simulated:
        console.warn("recordings were SIMULATED: the page says so")
    write_text(args.out, render(page))
    methods, runs = cli.counted(len(page.entries), "method"), cli.counted(len(page.runs), "training run")
    left = f", {cli.counted(len(page.failures), 'input')} not readable" if page.failures else ""
    console.finish(
        f"{args.out}: {methods} and {runs}{left}; open it in a browser",
        out=args.out.as_posix(),
        methods=[entry.name for entry in page.entries],
        runs=list(page.runs),
        failed=list(page.failures),
    )
    return 1 if page.failures else 0


if __name__ == "__main__":
    cli.run(main)

"""Compare evaluated methods over people: one table, paired tests, and a plot with a dot for every person.

Input: results as evaluate.py and baselines.py write them: folders with a metrics.json, folders of such folders, or
single files (metrics.json or predictions.npz). Runs whose folder names differ only in fold, seed, run or subject
(fold0, seed1, gpt2-seed2, run3) are one method; --group overrides this. Output, in --out: compare.md, compare.csv,
subjects.csv (every person's value), compare.png, compare.json (how it was made).

  python compare.py results/gpt2 results/baselines --reference gpt2
  python compare.py --group gpt2='results/gpt2/default/fold*' --group lda='results/baselines/lda-hudgins/fold*' \\
      --reference gpt2 --out results/compare-lda

How it is computed. The unit is a person, because windows of one person resemble each other. A person's runs with
several seeds are averaged; folds contribute different people. The mean, standard deviation and 95 % interval (bootstrap
over people) are then taken over people. The interval therefore says how well the mean is known for people like these;
it does not say how much another training run would change it. With --reference, each method is paired with the
reference person by person: the table has the difference with its bootstrap interval, and a two-sided Wilcoxon
signed-rank test whose p is corrected for the number of methods (Holm). With fewer than 6 people this test cannot reach
p < 0.05; the table then says so.

Takes seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, is_system_file, write_json, write_text
from semg.common.provenance import how_made
from semg.evaluation import metrics
from semg.evaluation.comparison import (
    Method,
    Paired,
    against,
    check_same_subset,
    differences_between,
    each_once,
    find_results,
    method_names,
    p_text,
    pool,
    read_evaluation,
    simulated,
    too_few,
)
from semg.evaluation.metrics import Metric, bootstrap_interval
from semg.evaluation.table_text import csv_text, markdown_rows, markdown_text
from semg.flags import places

FILES = ("compare.md", "compare.csv", "subjects.csv", "compare.png", "compare.json")


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    p = cli.parser(__doc__)
    p.add_argument("results", type=Path, nargs="*", help="folders with a metrics.json in them or below, or files")
    p.add_argument(
        "--group",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME=GLOB", "GLOB"),
        help="treat all results that match these patterns (** allowed) as one method of this name; may be repeated",
    )
    p.add_argument("--reference", metavar="NAME", help="test every other method against this one")
    p.add_argument(
        "--metric",
        choices=[one.name for one in metrics.METRICS],
        default=metrics.leading().name,
        help="the metric to compare",
    )
    p.add_argument("--out", type=Path, default=Path("results/compare"), help="folder to write")
    return p


def main() -> None:
    """Read, pool, test, write."""
    args = arguments().parse_args()
    args.results = cli.expanded(args.results)
    for name in FILES:
        expect_place(args.out / name, "the tables")
    places.expect_apart([(f"--out {args.out}", args.out / name) for name in FILES], args.results)
    console = cli.console(args)
    methods = collect(args.results, args.group, args.metric)
    metric = metrics.metric(args.metric)
    methods.sort(key=lambda method: (-metric.rank(method.values.mean()), method.name))
    pairs = against(methods, args.reference)
    notes = [*simulated(methods), *differences_between(methods), *too_few(methods, pairs)]
    for note in notes:
        console.warn(note)
    markdown = markdown_table(methods, pairs, metric, args.reference, notes)
    console.say(markdown)
    write(args, methods, pairs, markdown)
    console.finish(
        f"wrote {args.out}: {', '.join(FILES)}{next_step(args, methods)}",
        out=args.out.as_posix(),
        methods={method.name: float(method.values.mean()) for method in methods},
        warnings=notes,
    )


def next_step(args: argparse.Namespace, methods: Sequence[Method]) -> str:
    """`; next: ` and the command that turns the same results into a page; empty if one of them is predictions alone."""
    inputs = [str(path.parent if path.is_file() else path) for path in args.results]
    if args.group:
        inputs = list(dict.fromkeys(str(one.path.parent) for method in methods for one in method.evaluations))
    if any(one.path.suffix == ".npz" for method in methods for one in method.evaluations):
        return ""
    flags = ["--reference", args.reference] if args.reference and not args.group else []
    if args.metric != metrics.leading().name:
        flags += ["--metric", args.metric]
    return f"; {cli.next_command('report.py', *inputs, *flags, '--out', args.out / 'report.html')}"


def collect(results: Sequence[Path], groups: Sequence[Sequence[str]], metric: str) -> list[Method]:
    """The methods that the command line names, pooled. DataError if they were scored on different subsets of their
    splits."""
    files: dict[str, list[Path]] = {}
    loose = each_once(run for path in results for run in find_results(path))
    for run, name in zip(loose, method_names(loose), strict=True):
        files.setdefault(name, []).append(run)
    for first, *more in groups:
        name, equals, pattern = first.partition("=")
        if not (name and equals and pattern):
            raise UsageError(f"--group: expected NAME=GLOB, found {first!r}")
        if name != cli.printable(name):
            raise UsageError(f"--group: expected a NAME of printable characters, found {name!r}")
        if name in files:
            raise UsageError(f"--group: expected each name once, found {name!r} again")
        files[name] = matching(name, [pattern, *more])
    if not files:
        raise UsageError("expected results to compare, found none; give folders or --group")
    methods = [pool(name, (read_evaluation(path, metric) for path in paths)) for name, paths in files.items()]
    check_same_subset(methods)
    return methods


def matching(name: str, patterns: Sequence[str]) -> list[Path]:
    """All metrics.json files that the patterns match."""
    paths = [path for pattern in patterns for path in _matches(pattern)]
    if not paths:
        raise DataError(f"--group {name}: expected results at {' '.join(patterns)}, found none")
    return list(dict.fromkeys(run.resolve() for path in paths for run in find_results(path)))


def _matches(pattern: str) -> list[Path]:
    """What the pattern matches, without system files and folders unless the pattern names them itself. Of a pattern
    that ends in **, which matches all files and folders below, only the metrics.json files."""
    named = Path(pattern).parts
    paths = [Path(path) for path in sorted(glob(pattern, recursive=True))]  # noqa: PTH207
    if named[-1] == "**":
        paths = [path for path in paths if path.name == "metrics.json"]
    return [path for path in paths if not any(is_system_file(part) for part in path.parts if part not in named)]


# --- tables ----------------------------------------------------------------------------------------------------


def markdown_table(
    methods: Sequence[Method],
    pairs: dict[str, tuple[Paired, float]],
    metric: Metric,
    reference: str | None,
    notes: Sequence[str],
) -> str:
    """The table for a reader: in percent, best method first, with an explanation below."""
    head = ["method", "subjects", "runs each", metric.head, "sd", "95 % interval"]
    if reference is not None:
        head += [f"minus {reference}", "95 % interval", "n", "p", "p (Holm)"]
    rows = []
    for method in methods:
        fewest, most = method.runs_per_subject
        row = [
            method.name,
            str(len(method.subjects)),
            str(most) if fewest == most else f"{fewest}-{most}",
            metric.text(method.values.mean()),
            metric.text(method.values.std(ddof=1)) if len(method.subjects) > 1 else "",
            metric.ends(bootstrap_interval(method.values)),
        ]
        if method.name in pairs:
            pair, p = pairs[method.name]
            row += [metric.text(pair.difference, "+"), metric.ends(pair.interval, "+"), str(pair.n)]
            row += [p_text(pair.p), p_text(p)]
        elif reference is not None:
            row += ["reference", "", "", "", ""]
        rows.append(row)
    lines = markdown_rows([head, *rows])
    below = "\nMean and standard deviation over people, each the mean of that person's runs; intervals by bootstrap "
    below += "over people."
    if reference is not None:
        below += " p: two-sided Wilcoxon signed-rank test over n people, Holm-corrected in the last column."
    return "\n".join([*lines, below, *(f"\nNote: {markdown_text(note)}." for note in notes)]) + "\n"


def csv_table(methods: Sequence[Method], pairs: dict[str, tuple[Paired, float]], reference: str | None) -> str:
    """The same table for a program: as fractions with all digits; cells without a value are empty."""
    head: list[object] = ["method", "subjects", "runs_fewest", "runs_most", "mean", "sd", "ci95_low", "ci95_high"]
    head += ["reference", "n", "difference", "difference_ci95_low", "difference_ci95_high", "p", "p_holm"]
    rows: list[list[object]] = [head]
    for method in methods:
        sd = float(method.values.std(ddof=1)) if len(method.subjects) > 1 else ""
        row: list[object] = [
            method.name,
            len(method.subjects),
            *method.runs_per_subject,
            float(method.values.mean()),
            sd,
        ]
        row += bootstrap_interval(method.values) or ("", "")
        if method.name in pairs:
            pair, p = pairs[method.name]
            row += [reference, pair.n, pair.difference, *(pair.interval or ("", "")), pair.p, p]
        else:
            row += [""] * 7
        rows.append(row)
    return csv_text(rows)


def subjects_table(methods: Sequence[Method]) -> str:
    """One row per person, one column per method; empty where a method did not score the person.

    Beside a method called like the column of people, all methods' columns begin with `method`.
    """
    subjects = sorted({subject for method in methods for subject in method.subjects})
    before = "method " if any(method.name == "subject" for method in methods) else ""
    rows: list[list[object]] = [["subject", *(before + method.name for method in methods)]]
    rows += [[subject, *(method.subjects.get(subject, "") for method in methods)] for subject in subjects]
    return csv_text(rows)


def write(
    args: argparse.Namespace, methods: Sequence[Method], pairs: dict[str, tuple[Paired, float]], markdown: str
) -> None:
    """All output files."""
    from semg.evaluation.score_figures import (  # matplotlib takes a second, which --help need not wait for
        SIMULATED,
        compare,
    )

    write_text(args.out / "compare.md", markdown)
    write_text(args.out / "compare.csv", csv_table(methods, pairs, args.reference))
    write_text(args.out / "subjects.csv", subjects_table(methods))
    compare(
        args.out / "compare.png",
        {method.name: method.subjects for method in methods},
        metrics.metric(args.metric),
        args.reference,
        "Methods over people" + (SIMULATED if simulated(methods) else ""),
    )
    runs = {method.name: [one.path.as_posix() for one in method.evaluations] for method in methods}
    write_json(args.out / "compare.json", {"runs": runs, "made": how_made("compare.py", args)})


if __name__ == "__main__":
    cli.run(main)

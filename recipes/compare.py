"""Compare settings over the same seeds: files laid over a configuration, or a grid of values.

A setting is a small YAML file; those of confs/settings are compared by default. Without --data on
generated clips and a second test set of others; with it the data's public set is tested, too. What
is finished is a row of --results and is not trained again: run the command again to go on. With
--storage many machines share the trials, each seed with all of its settings on one of them.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from lab.errors import InputError, command
from lab.packages import NETWORK, require
from lab.runs.options import add_options, check_libraries, results_name, running

CONFS = Path(__file__).resolve().parent / "confs"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("settings", nargs="*", help="YAML files (default: those in confs/settings)")
    add_options(
        parser,
        conf_file="YAML (default: confs/table1_mini.yaml; with --data confs/table1.yaml)",
        log_dir="checkpoints and report (default: exp/compare_<configuration>)",
        trials="seeds of each setting",
    )
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="seeds to leave out (default: %(default)s)",
    )
    parser.add_argument("--reference", help="setting to hold the others against (default: first)")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="SECTION.KEY=A,B,C",
        help="in the place of each setting but the reference, one a value laid over it; again for "
        "the product of several (default: none)",
    )
    parser.add_argument("--results", type=Path, help="table (default: results.csv in --log_dir)")
    parser.add_argument("--set_name", help="of these trials in it (default: the name of --log_dir)")
    args = parser.parse_args(argv)
    if args.first < 0:
        raise InputError(f"--first is {args.first}; give 0 or more")
    args.conf_file = args.conf_file or CONFS / ("table1.yaml" if args.data else "table1_mini.yaml")
    args.name = results_name(args, "compare_")
    args.log_dir = Path(args.log_dir or Path("exp", args.name))
    args.results = args.results or args.log_dir / "results.csv"
    args.set_name = args.set_name or args.log_dir.name
    return args


def settings_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each setting lays over the configuration, the reference first."""
    from lab.baseline.config import nest_overrides, parse_overrides, read_yaml

    chosen = "baseline.yaml" if args.grid else "*.yaml"
    files = [Path(file) for file in args.settings] or sorted((CONFS / "settings").glob(chosen))
    settings = {file.stem: nest_overrides(read_yaml(file)) for file in files}
    reference = args.reference or next(iter(settings))
    if reference not in settings:
        raise InputError(f"--reference is {reference!r}; give one of {', '.join(settings)}")
    laid = {reference: settings.pop(reference)}
    axes = []
    for axis in args.grid:
        key, _, values = axis.partition("=")
        (cells,) = parse_overrides([f"{key}=[{values}]"]).values()
        axes.append([(key, value) for value in cells])
    if axes and not settings:
        settings = {"": {}}
    for name, overlay in settings.items():
        for cell in itertools.product(*axes):
            parts = [name, *(f"{key.partition('.')[2]}={value}" for key, value in cell)]
            over = nest_overrides(dict(cell))
            laid["_".join(filter(None, parts)).replace(" ", "")] = {
                section: {**overlay.get(section, {}), **over.get(section, {})}
                for section in {**overlay, **over}
            }
    return laid


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    check_libraries(args.verify)
    from lab.baseline.config import load_config, parse_overrides
    from lab.baseline.place import place_data
    from lab.data.digests import set_digests
    from lab.devices import own_rank
    from lab.runs.pool import run_trials
    from lab.runs.report import write_report
    from lab.runs.results import add_rows, join_set, read_results, rows_of
    from lab.runs.trials import Trial, TrialFailed, without_paths

    options = running(args, args.name)
    settings = settings_of(args)
    overrides = parse_overrides(args.set)
    configs = {}
    for name, overlay in {"": {}, **settings}.items():
        layers = (overrides, overlay)
        configs[name] = load_config(args.conf_file, *layers)
        generated = Path("data", Path(args.conf_file).stem)
        made = {"public": True, "few": args.fast_dev_run, "progress": not args.quiet}
        place_data(configs[name], args.data, generated, *layers, **made)
    public = all(Path(config["data"]["public_tsv"]).exists() for config in configs.values())
    base = configs.pop("")
    digests = set_digests(base, public=public)
    entry = {
        "configuration": without_paths(base),
        "data": {name: value for name, value in digests.items() if value},
        "settings": settings,
    }
    if args.fast_dev_run:
        entry["configuration"]["fast_dev_run"] = True  # its rows are no results
    # Seed by seed: what there is when a run is interrupted can be compared.
    trials = [
        Trial(name, config, True, n, args.log_dir / name / f"trial_{n}", public)
        for n in range(args.first, args.first + args.trials)
        for name, config in configs.items()
    ]

    def keep(trial: Trial, record: dict[str, Any]) -> None:
        add_rows(args.results, rows_of(args.set_name, trial.setting, trial.seed, record))

    known = read_results(args.results).index
    if own_rank() == 0:
        join_set(args.results, args.set_name, entry)
    tests = ["test", "public"][: 1 + public]
    left = [
        trial
        for trial in trials
        if any((args.set_name, test, trial.setting, trial.seed) not in known for test in tests)
    ]
    failure = None
    try:
        if left:
            run_trials(left, **options, keep=keep)
    except TrialFailed as error:
        failure = error  # told after what there is
    if own_rank() == 0:
        results = read_results(args.results)
        rows = results[results.index.get_level_values("set") == args.set_name].droplevel("set")
        seeds = rows.index.get_level_values("seed").isin([trial.seed for trial in trials])
        ours = rows.index.get_level_values("setting").isin(list(settings))
        write_report(args.log_dir, rows[seeds & ours], trials, next(iter(settings)))
        print(f"comparison.md in {args.log_dir}, rows in {args.results}")
    if failure is not None:
        raise failure


if __name__ == "__main__":
    main()

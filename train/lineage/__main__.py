"""Tests what the papers claim, and writes the page `lineage.html`.

python -m train.lineage --jobs=2           # everything: an hour on two cores; it resumes
python -m train.lineage --claim=relu       # one claim, and no page
python -m train.lineage --page --lang=es   # the page of what has been run, in Spanish
python -m train.lineage --data=folder:photos --workdir=runs/photo_claims

Claims by counting take seconds, the page a minute. Claims by training train small networks with
several seeds; a run that has finished is not run again.
"""

import json
import sys
from typing import Any

from cnnjax.spelling import choice
from train import cli, errors, files
from train.lineage.texts import LANGUAGES
from train.run import make_folder


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.lineage", __doc__)
    add = parser.add_argument
    add("--claim", action="append", default=[], metavar="NAME", help="test this claim; repeatable")
    add("--workdir", default="runs/claims", help="the folder of the runs, and of the page")
    add("--data", default="", help="train on this source, as data.source, instead of the digits")
    add("--lang", default="en", help="of the page: en or es")
    add("--jobs", type=cli.whole("--jobs", 1, 1000), default=1, metavar="N", help=cli.JOBS)
    add("--page", action="store_true", help="train nothing")
    parser.no_effect("with --claim", lambda args: args.claim, "--lang", "--page")
    parser.no_effect("with --page", lambda args: args.page, "--jobs")
    args = parser.parse_args(argv)
    choice("--lang", args.lang, LANGUAGES, errors.UserError)

    from train import data
    from train.lineage import counted, counting, page, trained, training
    from train.lineage.claims import Counting, Training
    from train.sweep.training import Failed

    rows: list[Counting | Training] = [*counted.CLAIMS, *trained.CLAIMS]
    claims = {claim.name: claim for claim in rows}
    chosen = [
        claims[choice("--claim", name, claims, errors.UserError)] for name in args.claim or claims
    ]
    if args.data:
        data.load(args.data, "train")  # a mistake in it is told once, not by every run
    folder = make_folder(args.workdir)
    by_training = [claim for claim in chosen if isinstance(claim, Training)]
    failed = {} if args.page else training.train(by_training, args.workdir, args.data, args.jobs)
    results: dict[str, dict[str, Any]] = {}
    found: dict[str, training.Found] = {}
    for claim in chosen:
        if isinstance(claim, Training):
            found[claim.name] = training.look(claim, args.workdir, args.data)
            difference = found[claim.name].difference
            paired = difference.to_dict() if difference else None
            results[claim.name] = {"verdict": found[claim.name].verdict, "difference": paired}
        else:
            results[claim.name] = {"verdict": counting.decide(claim).verdict}
        errors.tell(f"{claim.name}: {results[claim.name]['verdict'] or 'not run yet'}")
    summary: dict[str, Any] = {"claims": results, "failed": list(failed)}
    if not args.claim:
        path = folder / "lineage.html"
        files.write(path, page.write(found, args.lang))
        files.write(folder / "lineage.json", json.dumps(results, indent=1))
        files.write(folder / "lineage.md", page.markdown(found) + "\n")
        errors.tell(f"open {path}")
        summary["page"] = str(path)
    if failed:
        print(errors.json_line(summary), flush=True)
        name, (why, code) = next(iter(failed.items()))
        raise Failed(f"{len(failed)} runs failed, the first of them {name}: {why}", code)
    return summary


if __name__ == "__main__":
    sys.exit(errors.run(main, "interrupted. Run the same command to resume."))

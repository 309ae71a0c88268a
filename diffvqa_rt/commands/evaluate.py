"""`diffvqa evaluate`: score data sets or read predictions, then write tables and pictures."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from diffvqa_rt.arguments import BUNDLED_NOTE, UsageError, add_engine_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.commands.evaluated_models import Predictions, open_engines
from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, ProtocolName, read_table
from diffvqa_rt.evaluation.mos_table import Kind, MosTable
from diffvqa_rt.evaluation.protocols import SPLITS, default_protocols
from diffvqa_rt.evaluation.published import PUBLISHED, published_results
from diffvqa_rt.extras import needs_package
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.crops import MAX_CROPS

FORMATS = ("markdown", "csv", "json")


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", nargs="+", type=_parse_data, metavar="NAME=PATH", help="a data set, and where it is")
    command.add_argument(
        "--scores",
        action="append",
        default=[],
        type=_parse_predictions,
        metavar="MODEL[@TRAINED_ON]=FILE",
        help="predictions to evaluate as a row of the table, CSV (.csv) with columns video,score or JSON Lines; repeat "
        "for more models. {data} in FILE stands for each data set's name; {split} for 1 … "
        f"{SPLITS}, where a model was trained for each random split; {{by}} for the kind of these splits, content, "
        "image or video. TRAINED_ON: the NAME of the training data set",
    )
    add_engine_arguments(command, None, f"{BUNDLED_NOTE}, or no engines where --scores is given")
    command.add_argument("--model", metavar="NAME", help="what to call the engines' row (default: as the folder says)")
    command.add_argument(
        "--trained-on",
        type=_data_set_name,
        metavar="NAME",
        help="the data set that the engines' weights were trained on",
    )
    command.add_argument(
        "--protocol",
        choices=("auto", *get_args(ProtocolName)),
        default="auto",
        help=f"splits: the mean over {SPLITS} random 8:2 splits, with all versions of one content on one side; "
        "splits-by-image and splits-by-video: with versions of one content on both, as much published code does, and "
        "with equal shares of generators where they are known; published: the published test splits; whole: all "
        "videos. auto: published where there are any, whole for a model that was trained on another data set, else as "
        "is usual for the data set, both kinds of random splits where contents have versions (default: %(default)s)",
    )
    command.add_argument(
        "--published",
        choices=PUBLISHED,
        help="published numbers to put beside these (default: those of the engines' metric, where there are any)",
    )
    command.add_argument(
        "--split-seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of the random splits (default: %(default)s)",
    )
    command.add_argument(
        "--resamples",
        type=whole_number(0),
        default=1000,
        metavar="N",
        help="bootstrap resamples for the intervals, 0 for none (default: %(default)s)",
    )
    command.add_argument(
        "--skip-missing",
        action="store_true",
        help="exclude videos whose file is missing, where otherwise the data set is refused",
    )
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where crops are cut, unless the network places them by texture; one seed, one score (default: "
        "%(default)s)",
    )
    command.add_argument(
        "--crops",
        type=whole_number(1, MAX_CROPS),
        default=1,
        metavar="M",
        help="crop positions to average (default: %(default)s, as the papers, whatever the network's own number is)",
    )
    command.add_argument(
        "--batch",
        type=whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("build/evaluation"),
        metavar="OUT",
        help="the folder for tables, pictures and kept scores (default: %(default)s)",
    )
    command.add_argument(
        "--format",
        choices=FORMATS,
        default="markdown",
        help="what to print: evaluation.md, table.csv, or every number as JSON (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> int:
    """Evaluates every model on every data set. The exit status: 0 done, 1 where videos have no score."""
    try:
        from diffvqa_rt.evaluation import evaluate, report, scatter
    except ModuleNotFoundError as error:
        raise EvaluationError(needs_package("evaluation", error.name, "train")) from error
    uses_engines = arguments.engines is not None or not arguments.scores
    tables = _read_tables(arguments, require_videos=uses_engines and not arguments.skip_missing)
    out: Path = arguments.out
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)

    engines = [open_engines(arguments)] if uses_engines else []
    config = evaluate.EvaluationConfig(split_seed=arguments.split_seed, resamples=arguments.resamples)
    for model in engines:
        for table in tables:
            model.has_prompts(table)  # or an error, before the first video is scored
    scored = []
    for model in [*engines, *arguments.scores]:
        for table in tables:
            chosen = arguments.protocol
            protocols = default_protocols(table, model.trained_on) if chosen == "auto" else (chosen,)
            kept = out / f"scores-{_slug(table.name)}.jsonl"
            with _writing(kept):
                by_protocol = model.scores(table, protocols, kept)
            for protocol, by_split in by_protocol.items():
                scores = evaluate.ModelScores(
                    model=model.name,
                    trained_on=model.trained_on,
                    by_split=by_split,
                    crops=model.crops,
                    has_prompts=model.has_prompts(table),
                )
                scored.append((table, scores, protocol))
    failures = {sentence: None for _, scores, _ in scored for part in scores.by_split for sentence in part.failures}
    for sentence in failures:
        print(f"diffvqa: {sentence}", file=sys.stderr)
    evaluations = [
        one for table, scores, protocol in scored for one in evaluate.evaluate(table, scores, protocol, config)
    ]
    distinct = evaluate.distinct_scores(evaluations)
    incomplete = [one for one in distinct if one.excluded]
    for one in incomplete:
        print(
            f"diffvqa: {one.model} on {one.test_set}: {len(one.excluded)} {one.kind}s have no score and are EXCLUDED "
            "(excluded.csv lists them)",
            file=sys.stderr,
        )
    paper = arguments.published or next((model.metric for model in engines if model.metric in PUBLISHED), None)
    published = published_results(paper) if paper else ()
    files = {
        "evaluation.md": report.report_markdown(evaluations, arguments.resamples, published),
        "table.csv": report.paper_csv(evaluations, published),
        "metrics.csv": report.metrics_csv(evaluations),
        "distortions.csv": report.distortions_csv(evaluations),
        "excluded.csv": report.excluded_csv(evaluations),
    }
    for name, text in files.items():
        with _writing(out / name):
            (out / name).write_text(text, encoding="utf-8")
    for number, one in enumerate(distinct, 1):
        picture = out / f"scatter-{number:02}-{_slug(f'{one.model}-{one.test_set}')}.png"
        with _writing(picture):
            scatter.draw_scatter(one, picture)
    print(f"diffvqa: wrote {', '.join(files)} and {len(distinct)} scatter plots to {out}", file=sys.stderr)
    printed: dict[str, Callable[[], str]] = {
        "markdown": lambda: files["evaluation.md"],
        "csv": lambda: files["table.csv"],
        "json": lambda: "".join(f"{json.dumps(row)}\n" for row in report.metric_rows(evaluations)),
    }
    print_results(printed[arguments.format](), end="")
    return 1 if failures or incomplete else 0


def _read_tables(arguments: argparse.Namespace, *, require_videos: bool) -> list[MosTable]:
    """The opinions of every data set. Raises UsageError where two models or two data sets have the same name."""
    models = [(predictions.name, predictions.trained_on) for predictions in arguments.scores]
    if len(set(models)) < len(models):
        raise UsageError(f"--scores names the same model twice: {', '.join(name for name, _ in models)}")
    tables = [read_table(name, path, require_videos=require_videos) for name, path in arguments.data]
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        raise UsageError(f"two data sets have the same name: {', '.join(names)}")
    return tables


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises EvaluationError where the system refuses to write."""
    try:
        yield
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written ({error.strerror})") from error


def _parse_data(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (separator and path) or name not in DATA_SETS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a NAME of {', '.join(DATA_SETS)}")
    return name, Path(path)


def _parse_predictions(text: str) -> Predictions:
    model, separator, pattern = text.partition("=")
    name, _, trained_on = model.partition("@")
    if not (separator and name and pattern):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=FILE or MODEL@TRAINED_ON=FILE")
    return Predictions(name, _data_set_name(trained_on) or None, pattern)


def _data_set_name(text: str) -> str:
    """A training data set as `DATA_SETS` spells it, in whatever case it was given; other names as they are."""
    return text.lower() if text.lower() in DATA_SETS else text


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _layouts(kind: Kind) -> str:
    return "\n".join(f"  {name:12} {each.layout}" for name, each in DATA_SETS.items() if each.kind == kind)


COMMAND = Command(
    name="evaluate",
    help="compare scores with human opinions on a data set",
    description="Score the videos or images of data sets with an engine folder, or read predictions, and compare them\n"
    "with the opinions: SRCC, PLCC (raw and after a 4-parameter logistic), KRCC and RMSE with bootstrap 95 %\n"
    "intervals, by the protocols of the paper. Scores are kept as they are made: the same command goes on\n"
    "where an interrupted one stopped. A video without a score is reported and excluded, the others still\n"
    "count, and the exit status is 1.\n\n"
    f"NAME and what PATH, the data set's folder, holds.\nVideos (for csv, PATH is the file):\n{_layouts('video')}\n"
    f"Images:\n{_layouts('image')}",
    epilog="OUT gets evaluation.md, table.csv (laid out like the paper's tables), metrics.csv (every number),\n"
    "distortions.csv (SRCC within each type of distortion), scatter-*.png, scores-*.jsonl (what was scored here) and\n"
    "excluded.csv (videos without a score).",
    formatter=argparse.RawDescriptionHelpFormatter,
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or fewer --crops",
)

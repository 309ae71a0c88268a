"""`diffvqa evaluate`: score data sets or read predictions, then write tables and pictures."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tqdm import tqdm

from diffvqa_rt.arguments import DEFAULT_ENGINES, add_engine_arguments, whole_number
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, ProtocolName, read_table
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable
from diffvqa_rt.evaluation.protocols import SPLITS, default_protocol
from diffvqa_rt.evaluation.scores import Scores, ScoreStamp, VideoScorer, read_scores, score_rows
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.crops import MAX_CROPS

if TYPE_CHECKING:
    from diffvqa_rt.evaluation.evaluate import ModelScores

FORMATS = ("markdown", "csv", "json")


def add_evaluate_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    layouts = "\n".join(f"  {name:12} {data_set.layout}" for name, data_set in DATA_SETS.items())
    command = commands.add_parser(
        "evaluate",
        help="compare scores with human opinions on a data set",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Score the videos of data sets with an engine folder, or read predictions, and compare them with\n"
        "the opinions: SRCC, PLCC (raw and after a 4-parameter logistic), KRCC and RMSE with bootstrap 95 %\n"
        "intervals, by the protocols of the paper. Scores are kept as they are made: the same command goes on\n"
        "where an interrupted one stopped. A video without a score is reported and excluded, the others still\n"
        "count, and the exit status is 1.\n\n"
        f"NAME and what PATH, the data set's folder, holds (for csv, PATH is the file):\n{layouts}",
        epilog="OUT gets evaluation.md, table.csv (laid out like the paper's tables), metrics.csv (every number),\n"
        "scatter-*.png, scores-*.jsonl (what was scored here) and excluded.csv (videos without a score).",
    )
    command.add_argument("data", nargs="+", type=_parse_data, metavar="NAME=PATH", help="a data set, and where it is")
    command.add_argument(
        "--scores",
        action="append",
        default=[],
        type=_parse_source,
        metavar="MODEL[@TRAINED_ON]=FILE",
        help="predictions to evaluate as a row of the table, CSV (.csv) with columns video,score or JSON Lines; repeat "
        "for more models. {data} in FILE stands for each data set's name; {split} for 1 … "
        f"{SPLITS}, where a model was trained for each random split. TRAINED_ON: the NAME of the training data set",
    )
    add_engine_arguments(command, None, f"{DEFAULT_ENGINES}, or no engines where --scores is given")
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
        help=f"splits: the mean over {SPLITS} random 8:2 splits; published: the published test splits; whole: all "
        "videos. auto: published where there are any, whole for a model that was trained on another data set, else as "
        "is usual for the data set (default: %(default)s)",
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
        help="where the distortion view is cropped; one seed, one score (default: %(default)s)",
    )
    command.add_argument(
        "--crops",
        type=whole_number(1, MAX_CROPS),
        default=1,
        metavar="M",
        help="crop positions to average (default: %(default)s)",
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


@dataclass(frozen=True, slots=True)
class _Source:
    """Predictions: whose, and the file, with its placeholders."""

    model: str
    trained_on: str | None
    pattern: str

    def read(self, table: MosTable) -> tuple[Scores, ...]:
        path = self.pattern.replace("{data}", table.name)
        numbers = range(1, SPLITS + 1) if "{split}" in path else range(1)
        return tuple(read_scores(Path(path.replace("{split}", str(number))), table) for number in numbers)


@dataclass(frozen=True, slots=True)
class _Engines:
    """A model that is there to score: the scorer, and all that a score depends on."""

    model: str
    trained_on: str | None
    scorer: VideoScorer
    stamp: ScoreStamp


def run_evaluate(arguments: argparse.Namespace) -> int:
    """The exit status: 0 done, 1 where videos have no score, 2 where arguments do not fit together."""
    try:
        from diffvqa_rt.evaluation import evaluate, report, scatter
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise EvaluationError(
            f"evaluation needs {package}, which is not installed: pip install 'diffvqa-rt[train]'"
        ) from error
    uses_engines = arguments.engines is not None or not arguments.scores
    models = [source.model for source in arguments.scores]
    pairs = [(source.model, source.trained_on) for source in arguments.scores]
    if len(set(pairs)) < len(pairs):
        return _misuse(f"--scores names the same model twice: {', '.join(models)}")
    tables = [
        read_table(name, path, require_videos=uses_engines and not arguments.skip_missing)
        for name, path in arguments.data
    ]
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        return _misuse(f"two data sets have the same name: {', '.join(names)}")
    out: Path = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror})") from error

    engines = _open_engines(arguments) if uses_engines else None
    config = evaluate.EvaluationConfig(split_seed=arguments.split_seed, resamples=arguments.resamples)
    scored = [
        (table, *_score_by_protocol(model, table, arguments))
        for model in [*([engines] if engines else []), *arguments.scores]
        for table in tables
    ]
    failures = [sentence for _, scores, _ in scored for part in scores.by_split for sentence in part.failures]
    for sentence in failures:
        print(f"diffvqa: {sentence}", file=sys.stderr)
    evaluations = [
        one for table, scores, protocol in scored for one in evaluate.evaluate(table, scores, protocol, config)
    ]
    incomplete = [one for one in evaluations if one.excluded]
    for one in incomplete:
        print(
            f"diffvqa: {one.model} on {one.test_set}: {len(one.excluded)} videos have no score and are EXCLUDED "
            "(excluded.csv lists them)",
            file=sys.stderr,
        )
    files = {
        "evaluation.md": report.report_markdown(evaluations, arguments.resamples),
        "table.csv": report.paper_csv(evaluations),
        "metrics.csv": report.metrics_csv(evaluations),
        "excluded.csv": report.excluded_csv(evaluations),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    for number, one in enumerate(evaluations, 1):
        scatter.draw_scatter(one, out / f"scatter-{number:02}-{_slug(f'{one.model}-{one.test_set}')}.png")
    print(f"diffvqa: wrote {', '.join(files)} and {len(evaluations)} scatter plots to {out}", file=sys.stderr)
    printed: dict[str, Callable[[], str]] = {
        "markdown": lambda: files["evaluation.md"],
        "csv": lambda: files["table.csv"],
        "json": lambda: "".join(f"{json.dumps(row)}\n" for row in report.metric_rows(evaluations)),
    }
    print(printed[arguments.format](), end="")
    return 1 if failures or incomplete else 0


def _score_by_protocol(
    model: "_Engines | _Source", table: MosTable, arguments: argparse.Namespace
) -> "tuple[ModelScores, ProtocolName]":
    """A model's scores for what its protocol tests on a data set, made or read."""
    from diffvqa_rt.evaluation.evaluate import ModelScores, rows_to_score

    chosen = arguments.protocol
    protocol = default_protocol(table, model.trained_on) if chosen == "auto" else chosen
    if isinstance(model, _Source):
        by_split = model.read(table)
    else:
        path = arguments.out / f"scores-{_slug(table.name)}.jsonl"
        by_split = (_score(model, table, rows_to_score(table, protocol), path, arguments.batch),)
    return ModelScores(model=model.model, trained_on=model.trained_on, by_split=by_split), protocol


def _open_engines(arguments: argparse.Namespace) -> _Engines:
    folder = arguments.engines or DEFAULT_ENGINES
    scorer = Scorer.open(folder, backend=arguments.backend, threads=arguments.threads)
    manifest = scorer.manifest
    if not manifest.weights.is_trained:
        print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
    stamp = ScoreStamp(
        weights_sha256=manifest.weights.sha256,
        engines_sha256=engines_sha256(manifest.backends[arguments.backend].files),
        backend=arguments.backend,
        seed=arguments.seed,
        crops=arguments.crops,
    )
    return _Engines(arguments.model or manifest.model_label, arguments.trained_on, scorer, stamp)


def _score(engines: _Engines, table: MosTable, rows: Sequence[MosRow], path: Path, batch: int) -> Scores:
    is_hidden = not sys.stderr.isatty()
    with tqdm(total=len(rows), unit="video", desc=table.title, file=sys.stderr, disable=is_hidden, leave=False) as bar:
        return score_rows(engines.scorer, rows, path, engines.stamp, batch=batch, on_video=lambda: bar.update())


def _parse_data(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (separator and path) or name not in DATA_SETS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a NAME of {', '.join(DATA_SETS)}")
    return name, Path(path)


def _parse_source(text: str) -> _Source:
    model, separator, pattern = text.partition("=")
    name, _, trained_on = model.partition("@")
    if not (separator and name and pattern):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=FILE or MODEL@TRAINED_ON=FILE")
    return _Source(name, _data_set_name(trained_on) or None, pattern)


def _data_set_name(text: str) -> str:
    """A training data set as `DATA_SETS` spells it, in whatever case it was given; other names as they are."""
    return text.lower() if text.lower() in DATA_SETS else text


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _misuse(sentence: str) -> int:
    print(f"diffvqa: {sentence}", file=sys.stderr)
    return 2

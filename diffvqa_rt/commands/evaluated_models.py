"""Models that `diffvqa evaluate` compares with opinions: predictions in files, or engines that score the videos."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from diffvqa_rt.arguments import UsageError
from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.evaluation.data_sets import ProtocolName
from diffvqa_rt.evaluation.mos_table import MosTable
from diffvqa_rt.evaluation.protocols import SPLITS, is_by_row
from diffvqa_rt.evaluation.scores import Scores, ScoreStamp, VideoScorer, prompts_of, read_scores, score_rows
from diffvqa_rt.scoring import Scorer


@dataclass(frozen=True, slots=True)
class Predictions:
    """A model's scores in a file, whose name has placeholders for data sets and splits."""

    name: str
    trained_on: str | None
    pattern: str

    def scores(
        self, table: MosTable, protocols: Sequence[ProtocolName], path: Path
    ) -> dict[ProtocolName, tuple[Scores, ...]]:
        """The scores read, for each protocol one set for all splits or one for each.

        Raises:
            UsageError: the models of one kind of random splits would be tested on another kind's.
        """
        if len(protocols) > 1 and "{split}" in self.pattern and "{by}" not in self.pattern:
            row = _divided_by(protocols[1])
            raise UsageError(
                f"{table.title} is split by content and by {row}, and {self.pattern} does not say by which its models "
                f"were trained: put {{by}} into it, which stands for content and for {row}, or give --protocol splits "
                f"or --protocol {protocols[1]}"
            )
        return {protocol: self._read(table, protocol) for protocol in protocols}

    def _read(self, table: MosTable, protocol: ProtocolName) -> tuple[Scores, ...]:
        file = self.pattern.replace("{data}", table.name).replace("{by}", _divided_by(protocol))
        numbers = range(1, SPLITS + 1) if "{split}" in file else range(1)
        return tuple(read_scores(Path(file.replace("{split}", str(number))), table) for number in numbers)

    @property
    def crops(self) -> None:
        """Not known: files have scores alone."""
        return None

    def has_prompts(self, table: MosTable) -> None:
        """Not known either."""


def _divided_by(protocol: ProtocolName) -> str:
    """The word that `{by}` stands for: what splits keep whole."""
    return protocol.removeprefix("splits-by-") if is_by_row(protocol) else "content"


@dataclass(frozen=True, slots=True)
class Engines:
    """A model that is there to score: the scorer, and all that a score depends on."""

    name: str
    metric: str
    takes_prompt: bool
    trained_on: str | None
    scorer: VideoScorer
    stamp: ScoreStamp
    batch: int

    @property
    def crops(self) -> int:
        return self.stamp.crops

    def has_prompts(self, table: MosTable) -> bool | None:
        """True where the table's videos are scored against prompts; None of a metric that takes none.

        Raises EvaluationError where only some of the videos have one.
        """
        return bool(prompts_of(table)) if self.takes_prompt else None

    def scores(
        self, table: MosTable, protocols: Sequence[ProtocolName], path: Path
    ) -> dict[ProtocolName, tuple[Scores, ...]]:
        """The scores made, of the videos that the protocols test; those that `path` keeps are not made again."""
        from diffvqa_rt.evaluation.evaluate import rows_to_score

        # Several protocols are kinds of random splits, and all of those test all rows.
        rows = rows_to_score(table, protocols[0])
        with tqdm(
            total=len(rows),
            unit=table.kind,
            desc=table.title,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
        ) as bar:
            scores = score_rows(
                self.scorer,
                rows,
                path,
                self.stamp,
                prompts=prompts_of(table) if self.takes_prompt else None,
                short_side=table.short_side,
                batch=self.batch,
                on_video=lambda: bar.update(),
            )
        return dict.fromkeys(protocols, (scores,))


def open_engines(arguments: argparse.Namespace) -> Engines:
    """The engines that the arguments name, or those of the package."""
    folder = arguments.engines or BUNDLED_ENGINES
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
    name = arguments.model or manifest.model_label
    return Engines(
        name,
        manifest.metric.name,
        manifest.metric.prompts is not None,
        arguments.trained_on,
        scorer,
        stamp,
        arguments.batch,
    )

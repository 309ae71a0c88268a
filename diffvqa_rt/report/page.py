"""The page: what results say, in the order in which a person asks, as one HTML text that needs nothing else."""

import base64
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from diffvqa_rt import __version__
from diffvqa_rt.errors import ReportError, printable
from diffvqa_rt.report.comparison import MIN_PAIRS, Comparison, compare, names_below
from diffvqa_rt.report.pictures import PatchPicture, ScoredFrames, Thumbnail, patch_pictures
from diffvqa_rt.report.plots import Plots
from diffvqa_rt.report.ranking import Place, percentile, places, scored_sets
from diffvqa_rt.report.reading import ResultsFile
from diffvqa_rt.results import VideoScore


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPage:
    """A result as the template shows it.

    Attributes:
        key: of the page within the report, a name for links.
        name: of the video, below the folder that all share.
        side: `A` or `B` in a comparison, else empty.
        lowest_frame: the least frame score; None where there is no curve.
        timeline: an SVG element; None where there is no curve.
        frames_note: the reason why there are no frames.
        part_percentiles: of each part among the set's results that have it.
        partner, difference: the other side's page, and B − A.
    """

    key: str
    name: str
    side: str
    score: VideoScore
    place: Place
    lowest_frame: float | None
    timeline: Markup | None
    frames: tuple[Thumbnail, ...]
    frames_note: str
    part_percentiles: dict[str, float]
    patches: tuple[PatchPicture, ...]
    partner: str | None
    difference: float | None


def build_report(
    results: Sequence[ResultsFile],
    *,
    is_comparison: bool = False,
    pictures: ScoredFrames | None = None,
    progress: Callable[[Iterable[VideoScore]], Iterable[VideoScore]] = iter,
) -> str:
    """The HTML text of a report.

    Args:
        results: at least one file's; exactly two, A and B, for a comparison.
        is_comparison: pairs the two files' results.
        pictures: shows the frames of videos that are at hand; None for a report without.
        progress: passes the results on as they are worked at.

    Raises:
        ReportError: there is no score, or the files do not compare.
    """
    scores = [entry.score for file in results for entry in file.entries]
    if not scores:
        raise ReportError("no video of these results has a score; a report needs one at least")
    comparison = compare(*results) if is_comparison else None
    plots = Plots()
    sets = scored_sets(scores)
    pages = _pages(results, scores, comparison, plots, pictures, progress)
    by_set = {one.label: [pages[number] for number in one.members] for one in sets}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    own = files(__package__)
    script = (own / "script.js").read_text(encoding="utf-8")
    distributions = _distributions(by_set, plots)
    scatter = comparison and plots.pairs(*([scores[n].score for n in side] for side in _sides(comparison)))
    style = (own / "style.css").read_text(encoding="utf-8") + plots.style
    return environment.from_string((own / "template.html").read_text(encoding="utf-8")).render(
        pages=list(itertools.chain.from_iterable(by_set.values())),
        all_pages=pages,
        sets=by_set,
        part_names=list(dict.fromkeys(name for score in scores for name in score.parts)),
        distributions=distributions,
        comparison=comparison,
        scatter=scatter,
        min_pairs=MIN_PAIRS,
        paths=[file.path for file in results],
        failures=[failure for file in results for failure in file.failures],
        problems=[problem for file in results for problem in file.problems],
        has_prompts=any(score.prompt is not None for score in scores),
        has_spread=any(len(score.crop_scores) > 1 for score in scores),
        untrained=sorted({score.model for score in scores if not score.is_trained}),
        script=Markup(script),
        style=Markup(style),
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        version=__version__,
    )


def _pages(
    results: Sequence[ResultsFile],
    scores: Sequence[VideoScore],
    comparison: Comparison | None,
    plots: Plots,
    pictures: ScoredFrames | None,
    progress: Callable[[Iterable[VideoScore]], Iterable[VideoScore]],
) -> list[VideoPage]:
    """A page for each result, in the results' order."""
    names = names_below([score.source for score in scores])
    ranked = places(scores, scored_sets(scores))
    parts = _part_values(scores, ranked)
    folders = [file.path.absolute().parent for file in results for _ in file.entries]
    partners, differences = {}, {}
    for pair in comparison.pairs if comparison else ():
        partners.update({pair.first: pair.second, pair.second: pair.first})
        differences.update({pair.first: pair.difference, pair.second: pair.difference})
    pages = []
    for number, score in enumerate(progress(scores)):
        thumbnails: tuple[Thumbnail, ...] = ()
        note = "The report was made without frames."
        if pictures is not None:
            thumbnails, note = pictures.thumbnails(score, folders[number], len(scores))
        other = partners.get(number)
        side = ("A" if number < len(results[0].entries) else "B") if comparison else ""
        pages.append(
            VideoPage(
                key=f"v{number + 1}",
                name=names[number],
                side=side,
                score=score,
                place=ranked[number],
                lowest_frame=min(score.frame_scores, default=None),
                timeline=plots.timeline(score)
                if other is None
                else plots.timeline(score, scores[other], ("A", "B") if side == "A" else ("B", "A")),
                frames=thumbnails,
                frames_note=note,
                part_percentiles={
                    name: percentile(value, parts[ranked[number].set_label, name])
                    for name, value in score.parts.items()
                    if value is not None
                },
                patches=tuple(patch_pictures(score.patch_maps)) if score.patch_maps else (),
                partner=None if other is None else f"v{other + 1}",
                difference=differences.get(number),
            )
        )
    return pages


def _part_values(scores: Sequence[VideoScore], ranked: Sequence[Place]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """The values of each part of each set, by the set's label and the part's name."""
    values: dict[tuple[str, str], list[float]] = {}
    for score, place in zip(scores, ranked, strict=True):
        for name, value in score.parts.items():
            if value is not None:
                values.setdefault((place.set_label, name), []).append(value)
    return {key: np.array(numbers) for key, numbers in values.items()}


def _distributions(by_set: dict[str, list[VideoPage]], plots: Plots) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Plots of the scores and of each part with their titles, by the label of each set that has several results.

    No text of a result goes into a plot: matplotlib does not draw all that a text may hold.
    """
    rows = []
    for label, members in by_set.items():
        if len(members) > 1:
            scores = [page.score for page in members]
            drawn = [("score", plots.distribution([score.score for score in scores]))]
            for name in dict.fromkeys(name for score in scores for name in score.parts):
                values = [part for score in scores if (part := score.parts.get(name)) is not None]
                if values:
                    drawn.append((name, plots.distribution(values)))
            rows.append((label, drawn))
    return rows


def _sides(comparison: Comparison) -> tuple[list[int], list[int]]:
    return [pair.first for pair in comparison.pairs], [pair.second for pair in comparison.pairs]


def _shown(value: Any) -> Any:
    """A value as the template prints it: of a text or a path, control characters are escaped."""
    return printable(str(value)) if isinstance(value, str | Path) and not hasattr(value, "__html__") else value


def _csp_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows one script or style sheet."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

"""Tables of opinions, and a scorer of which each score is known."""

from pathlib import Path

from diffvqa_rt.evaluation.data_sets import DATA_SETS
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable
from diffvqa_rt.results import ScoringFailure


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_table(
    count: int = 50,
    *,
    name: str = "konvid-1k",
    splits=(None,),
    copies: int = 0,
    distortions=(None,),
    generators=(None,),
) -> MosTable:
    """Videos v000, v001, …; each `copies` in a row share a content; splits and others are dealt out in turns."""
    rows = tuple(
        MosRow(
            name=f"v{i:03}",
            video=Path(f"v{i:03}.mp4"),
            mos=1 + i / 100,
            split=splits[i % len(splits)],
            content=f"c{i // copies}" if copies else None,
            distortion=distortions[i % len(distortions)],
            generator=generators[i % len(generators)],
        )
        for i in range(count)
    )
    return MosTable(name=name, title=DATA_SETS[name].title, mos_range=(1.0, 5.0), rows=rows, kind=DATA_SETS[name].kind)


class Result:
    def __init__(self, score: float) -> None:
        self.raw_score = score
        self.score = min(max(score, 0.0), 100.0)


class StandInScorer:
    """Gives a video the score of its name's last digit; raises at the video `stops_at`, fails `fails_at`."""

    def __init__(self, stops_at: str | None = None, fails_at: str | None = None) -> None:
        self.scored: list[str] = []
        self.options: dict[str, int] = {}
        self._stops_at, self._fails_at = stops_at, fails_at

    def score_many(self, sources, **options):
        self.options = options
        for path in sources:
            if path.stem == self._stops_at:
                raise KeyboardInterrupt
            self.scored.append(path.stem)
            if path.stem == self._fails_at:
                yield ScoringFailure(source=str(path), error=f"{path} cannot be read")
            else:
                yield Result(int(path.stem[-1]) / 4)

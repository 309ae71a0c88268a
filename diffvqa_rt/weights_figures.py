"""The accuracy of the bundled weights beside their price, from `weights/figures.json`.

The build of the weights writes that file: a JSON list of objects with the fields of `Figures`. Where it has nothing of
a network, nothing is shown.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from diffvqa_rt.checks import require

FILE = Path(__file__).parent / "weights" / "figures.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The measurements of a network with its weights.

    Attributes:
        metric, network: the metric's name and `Metric.label`.
        weights_sha256: of the network's weights, as a manifest has it.
        srcc: with the label, on contents that no stage of training has seen; `srcc_of` says which.
        seconds_a_video: median, from file to score; `seconds_of` says of which videos, by what, on which machine.
    """

    metric: str
    network: str
    weights_sha256: str
    srcc: float
    srcc_of: str
    seconds_a_video: float
    seconds_of: str

    def __post_init__(self) -> None:
        require(-1 <= self.srcc <= 1, "srcc", self.srcc, "-1 … 1")
        require(self.seconds_a_video > 0, "seconds_a_video", self.seconds_a_video, "a positive number")

    def describe(self) -> list[str]:
        """A line for what the network reaches, and one for what it costs."""
        return [
            f"reaches   SRCC {self.srcc:.3f} ({self.srcc_of})",
            f"costs     {self.seconds_a_video:.3g} s a video ({self.seconds_of})",
        ]


def figures_of(metric: str, network: str, weights_sha256: str | None = None) -> Figures | None:
    """The figures of a network with its bundled weights, or only if those are the weights of this hash."""
    if not FILE.is_file():
        return None
    measured = (Figures(**values) for values in json.loads(FILE.read_text(encoding="utf-8")))
    return next(
        (
            figures
            for figures in measured
            if (figures.metric, figures.network) == (metric, network)
            and weights_sha256 in (None, figures.weights_sha256)
        ),
        None,
    )

"""DiffVQA, the no-reference video quality metric, as verified engines.

from diffvqa_rt import Scorer
print(Scorer.open().score("clip.mp4").score)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffvqa_rt.results import ScoringFailure, VideoScore
    from diffvqa_rt.scoring import Scorer

__version__ = "0.1.0"
__all__ = ["Scorer", "ScoringFailure", "VideoScore", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a name when it is asked for: a decoder's process and a command's start need none of them."""
    if name == "Scorer":
        from diffvqa_rt.scoring import Scorer

        return Scorer
    if name in ("ScoringFailure", "VideoScore"):
        from diffvqa_rt import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

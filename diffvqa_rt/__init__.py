"""DiffVQA, the no-reference video quality metric, as verified engines.

from diffvqa_rt import Scorer
print(Scorer.open("build/tiny").score("clip.mp4").score)
"""

from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.scoring import Scorer

__version__ = "0.1.0"
__all__ = ["Scorer", "ScoringFailure", "VideoScore", "__version__"]

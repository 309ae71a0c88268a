"""The cache of what DiffVQA's frozen extractor gives: `z0_hat`, `features_0` … `features_3`, and the views."""

from pathlib import Path

import numpy as np

from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.training.entry_cache import EntryCache
from diffvqa_rt.video import DECODING_VERSION

_HALF_BYTES = 2
# Goes up when the same pictures and extractor are to give other entries: the extractor's code, what an entry holds.
_FORMAT = 1
# Of a network's description, what changes nothing of an entry: that is before the head, at a place of its own.
_NOT_THE_EXTRACTORS = ("name", "head", "score_range", "crops", "crop_placement")


class FeatureCache(EntryCache):
    """Entries of one extractor: features as float16, and `frames`, the views, uint8 [2N, 3, S, S].

    Args:
        network: its extractor is what makes the features.
        precision: what the extractor computes in (`Extractor.precision`); features are kept in float16 always.
        runtime: what else decides their bits (`Extractor.runtime`).
        max_bytes: as `EntryCache` has it.
        decoding_version: of the pixels that the features are of.
    """

    def __init__(
        self,
        folder: Path,
        network: DiffVQA,
        *,
        precision: str,
        runtime: str,
        max_bytes: int,
        decoding_version: int = DECODING_VERSION,
    ) -> None:
        self.config = network.config
        described = {key: value for key, value in network.config.as_dict().items() if key not in _NOT_THE_EXTRACTORS}
        extractor = {
            "format": _FORMAT,
            "decoding": decoding_version,
            "weights": weights_sha256(network.extractor),
            "network": described,
            "precision": precision,
            "runtime": runtime,
        }
        super().__init__(
            folder, what="features", maker=extractor, entry_bytes=_entry_bytes(network.config), max_bytes=max_bytes
        )


def _entry_bytes(config: DiffVQAConfig) -> int:
    pictures = config.frames * len(VIEWS)
    numbers = sum(int(np.prod(shape)) for shape in (config.latent_shape, *config.feature_shapes))
    return pictures * (numbers * _HALF_BYTES + 3 * config.view_size**2)

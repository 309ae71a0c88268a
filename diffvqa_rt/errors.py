"""Errors of this package, and the warnings of a score.

A bad argument is a `ValueError` or a `TypeError`; where it is a request's, it is an `InputError` too. All else that can
go wrong is a `DiffVQAError`. A server answers an `InputError` and a `VideoDecodeError` with INVALID_ARGUMENT, and every
other exception with INTERNAL.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreWarning:
    """A fact that the reader of a score should know; the score was made all the same.

    Attributes:
        code: names the kind for programs, words in lower case joined by hyphens: `few-frames`.
        message: a sentence for people; it does not name the source.
    """

    code: str
    message: str


class DiffVQAError(Exception):
    """The base of every error of this package that is not a bad argument of Python code."""


class InputError(DiffVQAError, ValueError):
    """A request is at fault: an option of it, or a tensor or array in it. Raised where a request is checked."""


class VideoDecodeError(DiffVQAError):
    """A video cannot be opened, is not a video, or holds no frame that decodes."""


class DeviceDecodeError(DiffVQAError):
    """A sound video is of a kind that the GPU's decoder does not show as it is meant to be seen."""


class DecoderStartError(DiffVQAError):
    """The process that decodes videos cannot be started."""


class DecoderFaultError(DiffVQAError):
    """The process that decodes videos failed for a reason that is not the video's."""


class WeightsError(DiffVQAError):
    """Weights that are given by name cannot be had, or are not what their name stands for."""


class EngineBuildError(DiffVQAError):
    """An engine could not be exported or built."""


class EngineMismatchError(DiffVQAError):
    """An engine folder disagrees with its manifest, or with what it is asked to run on."""


class DeviceUnavailableError(EngineMismatchError):
    """An engine is sound but for a device that this machine lacks."""


class ParityError(DiffVQAError):
    """An engine's outputs are further from the reference's than its tolerance."""


class MosTableError(DiffVQAError):
    """A table of opinions or predictions is missing, malformed or empty, or names a video that is not there."""


class EvaluationError(DiffVQAError):
    """Scores and opinions are there, but no evaluation can be made of them."""


class DiagnosisError(DiffVQAError):
    """A diagnostic picture cannot be made of what was given."""


class ReportError(DiffVQAError):
    """Results cannot be read, or no report can be made of them."""


class PoolError(DiffVQAError):
    """Pristine photographs and videos for training cannot be fetched or unpacked."""


class SyntheticSetError(DiffVQAError):
    """A synthetic distortion data set cannot be made, continued or read."""


class TrainingError(DiffVQAError):
    """A training run cannot start, go on, or make use of its data."""


class BatchError(DiffVQAError):
    """A catalogue cannot be scored: its list, the output's folder, an object or the cluster is not to be had."""


class CapacityError(DiffVQAError):
    """No fleet can be planned: measurements are missing or malformed, or no number of devices meets the target."""


def printable(text: str) -> str:
    """The text with control characters escaped: a file's name must not move the cursor or split a row."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)

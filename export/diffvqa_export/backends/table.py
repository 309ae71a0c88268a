"""The builders of the backends, found by the rows of the table that the runtime has too."""

from diffvqa_export.context import Builder, BuildRequest
from diffvqa_rt.engines.backends import BACKENDS, BackendName, imported
from diffvqa_rt.errors import EngineBuildError


def builder_of(backend: BackendName, request: BuildRequest) -> Builder:
    """The function that builds a backend's engines.

    Raises:
        EngineBuildError: what it needs is not on this machine.
    """
    row = BACKENDS[backend]
    try:
        builder: Builder = imported(row.builder)(request)
    except ModuleNotFoundError as error:
        raise EngineBuildError(row.lacks(error)) from error
    return builder

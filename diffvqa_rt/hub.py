"""Weights by name, hf://ORG/NAME@REVISION, through huggingface_hub, which keeps them in its cache.

Nothing but safetensors is fetched as weights. Each file is compared with the hash that the Hub has of it, offline too:
the cache keeps a file under that hash, the SHA-256 of a large file and git's SHA-1 of a small one.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from diffvqa_rt.errors import WeightsError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.files import sha256_of

_SCHEME = "hf://"
_FORM = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[^@/\s]+)(?:/(?P<file>[^@\s]+\.safetensors))?")
_OUR_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubWeights:
    """The weights of a repository of the Hugging Face Hub.

    Attributes:
        repository: ORG/NAME.
        revision: a commit, a tag or a branch.
        file: the file of weights; None for `model.safetensors`, or else the whole layout that a metric publishes.
    """

    repository: str
    revision: str
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubWeights":
        """The weights of hf://ORG/NAME@REVISION or hf://ORG/NAME@REVISION/FILE.safetensors.

        Raises:
            ValueError: the text is neither.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                f"weights is {text!r}; expected hf://ORG/NAME@REVISION, where REVISION is a commit, a tag or a branch, "
                "or hf://ORG/NAME@REVISION/FILE.safetensors"
            )
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return f"{_SCHEME}{self.repository}@{self.revision}" + (f"/{self.file}" if self.file else "")

    def fetch(self, layout: Sequence[str] = ()) -> Path:
        """The file, or the folder with the files of `layout`, in the cache, every file as the Hub has it.

        Args:
            layout: the files of the published weights that the reader knows, as paths in the repository.

        Raises:
            WeightsError: huggingface_hub is not installed; there is no such repository, revision or file; the Hub
                cannot be reached and the cache lacks them; or a file is not what the Hub has.
        """
        wanted = [self.file] if self.file else [_OUR_FILE, *layout]
        folder = self._folder(wanted)
        found = [name for name in wanted if (folder / name).is_file()]
        for name in found:
            self._check(folder, name)
        if wanted[0] in found:
            return folder / wanted[0]
        if not found:
            other = f", and none of {', '.join(layout)}" if layout and not self.file else ""
            raise WeightsError(f"{self} has no file {wanted[0]}{other}")
        return folder

    def _folder(self, wanted: list[str]) -> Path:
        try:
            from huggingface_hub import errors, snapshot_download
        except ModuleNotFoundError as error:
            raise WeightsError(needs_package(str(self), error.name, "hub")) from error
        try:
            return Path(snapshot_download(self.repository, revision=self.revision, allow_patterns=wanted))
        except errors.GatedRepoError as error:
            raise WeightsError(f"{self} is for those who asked its owner; log in with `hf auth login`") from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(f"{self}: the Hub has no repository {self.repository}, or it is private") from error
        except errors.RevisionNotFoundError as error:
            raise WeightsError(f"{self}: {self.repository} has no revision {self.revision}") from error
        except errors.HFValidationError as error:
            raise WeightsError(f"{self}: {self.repository} is no repository's name") from error
        except Exception as error:  # a network fails in more ways than huggingface_hub documents
            raise WeightsError(
                f"{self} is not whole in the cache of huggingface_hub, and the Hub cannot be reached "
                f"({type(error.__cause__ or error).__name__}); try again with a network, or without HF_HUB_OFFLINE"
            ) from error

    def _check(self, folder: Path, name: str) -> None:
        path = (folder / name).resolve()
        hashes: dict[int, Callable[[Path], str]] = {64: sha256_of, 40: _git_sha1}
        known = path.name
        if len(known) not in hashes or not re.fullmatch("[0-9a-f]+", known):
            raise WeightsError(f"{folder / name} lies in no cache that keeps files under their hash; fetch it again")
        if (actual := hashes[len(known)](path)) != known:
            raise WeightsError(
                f"{name} of {self} has the hash {actual[:12]}…, and the Hub has {known[:12]}…; delete {path} to fetch "
                "it again"
            )


def local_weights(place: str | Path, layout: Sequence[str] = ()) -> Path:
    """The path of weights: `place` itself, or where hf://… is fetched to. `layout` and errors as of `HubWeights`."""
    return HubWeights.parse(place).fetch(layout) if is_on_hub(place) else Path(place)


def is_on_hub(place: str | Path | None) -> TypeGuard[str]:
    """True of the name of weights on the Hub, which is no path."""
    return isinstance(place, str) and place.startswith(_SCHEME)


def _git_sha1(path: Path) -> str:
    """The hash that git has of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()

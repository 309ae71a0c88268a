"""`manifest.json`: what an engine folder holds, where it came from, and how far it is from the reference.

A runtime loads a file only after its SHA-256 agreed with the manifest. An engine is executable code, so a folder with
an engine file that no manifest lists is refused as a whole.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import MANIFEST_NAME

FORMAT = 1
ENGINE_SUFFIXES = frozenset({".onnx", ".data", ".engine", ".plan", ".pt2", ".so", ".safetensors"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputParity:
    """How far one output of one engine is from the float32 torch reference on the same inputs.

    `relative_error` is max|Δ| / max|reference|; for the step engine the worst of its K steps.
    """

    engine: str
    output: str
    max_error: float
    relative_error: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.relative_error <= self.tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """The engines on a real clip: each output from the reference's own inputs, and the score of the whole chain."""

    clip: str
    outputs: tuple[OutputParity, ...]
    score: float
    reference_score: float
    score_tolerance: float

    @property
    def score_difference(self) -> float:
        return abs(self.score - self.reference_score)

    @property
    def failures(self) -> list[str]:
        """A sentence for each bar that was missed; empty when the engines are good."""
        missed = [
            f"{o.engine}'s {o.output} is off by {o.relative_error:.2e} of its range (tolerance {o.tolerance:.0e})"
            for o in self.outputs
            if not o.is_within
        ]
        if not self.score_difference <= self.score_tolerance:
            missed.append(f"the score is {self.score:.6f} instead of {self.reference_score:.6f}")
        return missed


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendRecord:
    """One runtime's engines. `files`: path in the folder → SHA-256; `engines`: engine name → its file."""

    runtime: str
    precision: str
    device: str
    files: dict[str, str]
    engines: dict[str, str]
    parity: ParityReport | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsRecord:
    sha256: str
    is_trained: bool
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecord:
    """When, where and by what an engine folder was built. `commit` is empty outside a git checkout."""

    date: str
    machine: str
    commit: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    config: DiffVQAConfig
    weights: WeightsRecord
    build: BuildRecord
    backends: dict[str, BackendRecord]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of an engine folder. Raises EngineMismatchError where there is none that this version reads."""
        path = folder / MANIFEST_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise EngineMismatchError(
                f"{folder} is not an engine folder: it has no {MANIFEST_NAME}. Build one with export/build_engines.py"
            ) from None
        except (OSError, ValueError) as error:
            raise EngineMismatchError(f"{path} cannot be read ({error}); build the engines again") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise EngineMismatchError(
                f"{path} has format {found!r}, this version reads {FORMAT}; build the engines again"
            )
        try:
            return cls._from_dict(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineMismatchError(f"{path} is damaged ({error!r}); build the engines again") from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> "Manifest":
        return cls(
            config=DiffVQAConfig.from_dict(values["config"]),
            weights=WeightsRecord(**values["weights"]),
            build=BuildRecord(**values["build"]),
            backends={
                name: BackendRecord(**{**record, "parity": _parity(record["parity"])})
                for name, record in values["backends"].items()
            },
        )

    def backend(self, name: str, folder: Path) -> BackendRecord:
        """The record of a backend. Raises EngineMismatchError, naming those that the folder has, for any other."""
        try:
            return self.backends[name]
        except KeyError:
            raise EngineMismatchError(
                f"{folder} has no {name} engines, only {', '.join(self.backends)}; "
                f"build them with export/build_engines.py --backend {name}"
            ) from None

    def verify(self, folder: Path) -> None:
        """Raises EngineMismatchError unless the folder holds the listed engine files, unchanged, and no other."""
        self.refuse_unlisted(folder)
        for record in self.backends.values():
            for name, sha256 in record.files.items():
                read_verified(folder, name, sha256)

    def refuse_unlisted(self, folder: Path) -> None:
        """Raises EngineMismatchError if the folder holds an engine file that the manifest does not list."""
        listed = {path for record in self.backends.values() for path in record.files}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix in ENGINE_SUFFIXES and name not in listed:
                raise EngineMismatchError(
                    f"{path} is not listed in {MANIFEST_NAME}; remove it, or build the engines again"
                )


def _parity(values: dict[str, Any] | None) -> ParityReport | None:
    if values is None:
        return None
    return ParityReport(**{**values, "outputs": tuple(OutputParity(**output) for output in values["outputs"])})


def read_verified(folder: Path, name: str, sha256: str) -> bytes:
    """The bytes of a listed file, read once and checked before anything else sees them.

    Raises EngineMismatchError if the file is missing, a link, outside the folder, or not what the manifest says.
    """
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise EngineMismatchError(f"{path} is a link or lies outside its engine folder; build the engines again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineMismatchError(
            f"{path}, listed in {MANIFEST_NAME}, cannot be read; build the engines again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EngineMismatchError(
            f"{path} was changed after it was built: its SHA-256 is {found[:12]}…, {MANIFEST_NAME} says "
            f"{sha256[:12]}…; build the engines again"
        )
    return content

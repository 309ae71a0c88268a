"""`manifest.json`: what an engine folder holds, where it came from, and how far it is from the reference.

A runtime loads a file only after its SHA-256 agreed with the manifest. An engine is executable code, so a folder with
an engine file that no manifest lists is refused as a whole.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffvqa_rt.engines.verification import map_verified, unlisted_files
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.metric import Config, Metric
from diffvqa_rt.metrics import registry
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.specs import MANIFEST_NAME, EngineSpec, Precision, TensorSpec

FORMAT = 2
PROVENANCE_KEY = "diffvqa_provenance"
"""Where an ONNX file's metadata holds `Manifest.provenance`."""

MAX_VIDEOS = "max videos"
"""The key in `BackendRecord.settings` for how many videos at a time the engines take; not there if any number."""

ENGINE_SUFFIXES = frozenset({".onnx", ".data", ".engine", ".plan", ".pt2", ".so", ".safetensors"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputParity:
    """The distance of one output of one engine from the float32 torch reference on the same inputs.

    `max_error` is max|Δ|, `relative_error` ‖Δ‖ / ‖reference‖; for the step engine those of the worst of its K steps.
    `not_finite` counts NaN and infinite values.
    """

    engine: str
    output: str
    max_error: float
    relative_error: float
    not_finite: int
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.relative_error <= self.tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """The engines on a real clip: each output from the reference's own inputs, and the score of the whole chain.

    Where a metric is compared on several sources, `clip` names them all, and each number is that of the worst.

    Attributes:
        clip: a name for the sources.
        frames: how many frames, every view counted, the per-frame engines were compared on alone; the chain ran on all.
        outputs: of each engine.
        row_differences: by engine that takes several videos, max|Δ| between the same video in the two slots of a batch,
            and on a CPU alone.
        score, reference_score, score_tolerance: of the chain.
        reference_scores: by source, where there are several.
    """

    clip: str
    frames: int
    outputs: tuple[OutputParity, ...]
    row_differences: dict[str, float]
    score: float
    reference_score: float
    score_tolerance: float
    reference_scores: dict[str, float] = field(default_factory=dict)

    @property
    def score_difference(self) -> float:
        return abs(self.score - self.reference_score)

    @property
    def failures(self) -> list[str]:
        """A sentence for each bar that was missed; empty when the engines are good."""
        missed = [
            f"{o.engine}'s {o.output} is off by {o.relative_error:.2e} of its size (tolerance {o.tolerance:.0e})"
            + (f", and {o.not_finite} of its values are not finite" if o.not_finite else "")
            for o in self.outputs
            if not o.is_within
        ]
        missed += [
            f"{engine} gives a video another result in another slot of a batch (by {difference:.2e})"
            for engine, difference in self.row_differences.items()
            if difference != 0
        ]
        if not self.score_difference <= self.score_tolerance:
            missed.append(f"the score is {self.score:.6f} instead of {self.reference_score:.6f}")
        return missed


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """The file of an engine, and its border as it was built."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def engines_sha256(files: Mapping[str, str]) -> str:
    """The hash of `BackendRecord.files`: a build of the same weights in another precision has another."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendRecord:
    """One runtime's engines by name.

    Attributes:
        runtime: the runtime's name and version.
        precision: what the networks compute in; their borders are float32.
        device: what the engines run on: `cpu`, or GPU architectures.
        scan: what the selective scan is in them; empty where there is none.
        settings: what else an opener has to know, by the runtime's own names.
        files: path in the folder → SHA-256, of every file that the engines need.
        engines: the engines by name.
        parity: the comparison with torch, or None where it could not be made.
        without_parity: why there is none.
    """

    runtime: str
    precision: Precision
    device: str
    scan: str
    settings: dict[str, str]
    files: dict[str, str]
    engines: dict[str, EngineRecord]
    parity: ParityReport | None
    without_parity: str = ""

    @property
    def max_videos(self) -> int | None:
        """The number of videos that the engines take at a time; None where any number goes."""
        return int(self.settings[MAX_VIDEOS]) if MAX_VIDEOS in self.settings else None

    @property
    def is_stripped(self) -> bool:
        """True where TensorRT's plans lack their weights, which are in the ONNX files beside them."""
        return self.settings.get("STRIP_PLAN") == "on"

    @property
    def is_version_compatible(self) -> bool:
        """True where later versions of TensorRT open the plans."""
        return self.settings.get("VERSION_COMPATIBLE") == "on"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsRecord:
    sha256: str
    is_trained: bool
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecord:
    """When, where and by what an engine folder was built, and what that took.

    Attributes:
        date, machine, versions: of the build.
        commit: of the source; empty outside a git checkout.
        step_seconds: of every step, those that an earlier build did included.
        file_bytes: of every file.
        peak_memory_bytes: of the last build's process.
    """

    date: str
    machine: str
    commit: str
    versions: dict[str, str]
    step_seconds: dict[str, float] = field(default_factory=dict)
    file_bytes: dict[str, int] = field(default_factory=dict)
    peak_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """An engine folder's manifest. A folder from before there were several metrics names none: it is of the default.

    `prompt_files` are the files that prompts are read with, by name, and their SHA-256.
    """

    config: Config
    weights: WeightsRecord
    build: BuildRecord
    backends: dict[str, BackendRecord]
    metric_name: str = DEFAULT
    prompt_files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def metric(self) -> Metric:
        return metric_named(self.metric_name)

    def engine_specs(self) -> dict[str, EngineSpec]:
        """The borders of the network's engines by name."""
        return self.metric.engines(self.config)

    def write(self, folder: Path) -> None:
        values = dataclasses.asdict(self)
        text = json.dumps({"metric": values.pop("metric_name"), **values}, indent=2)
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
        name = values.get("metric", DEFAULT)
        if name not in registry.METRICS:
            raise EngineMismatchError(
                f"{path} is of the metric {name!r}, this version knows {', '.join(registry.METRICS)}; "
                "take a newer version"
            )
        try:
            return cls._from_dict(values, metric_named(name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineMismatchError(f"{path} is damaged ({error!r}); build the engines again") from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any], metric: Metric) -> "Manifest":
        return cls(
            metric_name=metric.name,
            config=metric.config_from_dict(values["config"]),
            weights=WeightsRecord(**values["weights"]),
            build=BuildRecord(**values["build"]),
            prompt_files=dict(values.get("prompt_files", {})),
            backends={
                name: BackendRecord(
                    **{
                        **record,
                        "engines": {engine: _engine(fields) for engine, fields in record["engines"].items()},
                        "parity": None if record["parity"] is None else parity_from_dict(record["parity"]),
                    }
                )
                for name, record in values["backends"].items()
            },
        )

    def backend(self, name: str, folder: Path) -> BackendRecord:
        """The record of a backend that has every engine of the network, with the borders that this version knows.

        Raises EngineMismatchError for any other, naming what the folder has.
        """
        record = self.backends.get(name)
        if record is None:
            raise EngineMismatchError(
                f"{folder} has no {name} engines, only {', '.join(self.backends)}; "
                f"build them with export/build_engines.py --backend {','.join([*self.backends, name])}"
            )
        for engine, spec in self.engine_specs().items():
            built = record.engines.get(engine)
            if built is None or built.file not in record.files:
                raise EngineMismatchError(
                    f"{folder}: the manifest lists no {engine} for {name}; build the engines again"
                )
            if (built.inputs, built.outputs) != (spec.inputs, spec.outputs):
                raise EngineMismatchError(
                    f"{folder}: {engine} for {name} was built with other inputs or outputs than this version's; "
                    "build the engines again"
                )
        return record

    @property
    def model_label(self) -> str:
        """The network's name, with what sets it apart from the preset, marked where its scores mean nothing."""
        label = self.metric.label(self.config)
        return label if self.weights.is_trained else f"{label} (untrained)"

    @property
    def provenance(self) -> str:
        """The network and its weights as one line of JSON. A build writes it into every engine that can carry it."""
        values: dict[str, Any] = {"config": self.config.as_dict(), "weights": dataclasses.asdict(self.weights)}
        if self.metric_name != DEFAULT:  # which engines from before there were several do not name
            values["metric"] = self.metric_name
        return json.dumps(values, sort_keys=True)

    def verify(self, folder: Path) -> None:
        """Raises EngineMismatchError unless the folder holds the listed engine files, unchanged, and no other."""
        self.refuse_unlisted(folder)
        for files in (self.prompt_files, *(record.files for record in self.backends.values())):
            for name, sha256 in files.items():
                with map_verified(folder, name, sha256):
                    pass

    def refuse_unlisted(self, folder: Path) -> None:
        """Raises EngineMismatchError if the folder holds an engine file that the manifest does not list."""
        listed = {file for record in self.backends.values() for file in record.files}
        for path in unlisted_files(folder, listed):
            if path.suffix in ENGINE_SUFFIXES:
                raise EngineMismatchError(
                    f"{path} is not listed in {MANIFEST_NAME}; remove it, or build the engines again"
                )


def _engine(values: dict[str, Any]) -> EngineRecord:
    def tensors(listed: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in listed)

    return EngineRecord(file=values["file"], inputs=tensors(values["inputs"]), outputs=tensors(values["outputs"]))


def parity_from_dict(values: dict[str, Any]) -> ParityReport:
    """The inverse of `dataclasses.asdict`, also by way of JSON."""
    return ParityReport(**{**values, "outputs": tuple(OutputParity(**output) for output in values["outputs"])})

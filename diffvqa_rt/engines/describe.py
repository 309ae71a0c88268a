"""An engine folder's manifest for a person to read."""

from collections.abc import Mapping

from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.weights_figures import figures_of

UNTRAINED_NOTE = "These weights are untrained: the scores show that the engines run, and nothing about quality."


def describe(manifest: Manifest) -> str:
    """Some lines of text: the network, its weights and their figures, where it was built, each backend's parity."""
    config, build = manifest.config, manifest.build
    low, high = config.score_range
    figures = figures_of(manifest.metric_name, manifest.metric.label(config), manifest.weights.sha256)
    lines = [
        f"network   {manifest.model_label}: {config.describe()}, scores {low:g} … {high:g}",
        f"weights   {manifest.weights.sha256[:16]}…  ({manifest.weights.source})",
        *(figures.describe() if figures else ()),
        f"built     {build.date} on {build.machine}" + (f", commit {build.commit}" if build.commit else ""),
        f"          {', '.join(f'{name} {version}' for name, version in build.versions.items())}",
    ]
    lines += [f"prompts   by {file}  sha256 {sha256[:16]}…" for file, sha256 in manifest.prompt_files.items()]
    if build.step_seconds:
        seconds, gigabytes = sum(build.step_seconds.values()), build.peak_memory_bytes / 1e9
        lines.append(f"took      {seconds:.0f} s, and at most {gigabytes:.1f} GB of memory")
    for name, record in manifest.backends.items():
        lines += ["", *_describe_backend(name, record, build.file_bytes)]
    if not manifest.weights.is_trained:
        lines += ["", UNTRAINED_NOTE]
    return "\n".join(lines)


def _describe_backend(name: str, record: BackendRecord, file_bytes: Mapping[str, int]) -> list[str]:
    scan = f"; selective scan: {record.scan}" if record.scan else ""
    lines = [f"{name}: {record.runtime}, {record.precision}, {record.device}{scan}"]
    lines += [f"  {setting}: {value}" for setting, value in record.settings.items()]
    lines += [
        f"  {file_bytes.get(file, 0) / 1e6:>8.1f} MB  sha256 {sha256[:16]}…  {file}"
        for file, sha256 in record.files.items()
    ]
    if record.parity is None:
        return [*lines, f"  not compared with torch: {record.without_parity}"]
    parity = record.parity
    lines.append(f"  against float32 torch on {parity.frames} views of {parity.clip}, and the score on all:")
    lines.append(
        f"    {'engine':<16} {'output':<14} {'max error':>10} {'relative':>10} {'tolerance':>10} {'not finite':>10}"
    )
    lines += [
        f"    {o.engine:<16} {o.output:<14} {o.max_error:>10.1e} {o.relative_error:>10.1e} {o.tolerance:>10.0e} "
        f"{o.not_finite:>10}"
        for o in parity.outputs
    ]
    if parity.row_differences:
        lines.append(f"    the same video in another slot of a batch: off by {max(parity.row_differences.values()):g}")
    lines.append(
        f"    score {parity.score:.6f}, torch {parity.reference_score:.6f}: "
        f"difference {parity.score_difference:.1e} (tolerance {parity.score_tolerance:.0e})"
    )
    if parity.reference_scores:
        scores = ", ".join(f"{score:.3f} for {source}" for source, score in parity.reference_scores.items())
        lines.append(f"    torch's scores: {scores}")
    return lines

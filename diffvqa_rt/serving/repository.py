"""The model repository of a server: the models of `serving.models` and the programs of `triton_repo/`."""

import shutil
import sysconfig
from pathlib import Path

from diffvqa_rt.engines.backends import BACKENDS, BackendName
from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.engines.verification import copy_verified, listed_data_files, read_verified
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.serving.model_config import config_of_dali, config_of_engine, config_of_ensemble, config_of_program
from diffvqa_rt.serving.models import Form, served_models
from diffvqa_rt.serving.settings import StageSettings

# In a checkout, and as the wheel installs it.
_PROGRAMS = (
    Path(__file__).parents[2] / "triton_repo",
    Path(sysconfig.get_path("data"), "share", "diffvqa_rt", "triton_repo"),
)


def choose_form(backend: BackendName, record: BackendRecord, backends: Path | None) -> Form:
    """`production` where Triton server has what it takes to play these engines by itself, `embedded` elsewhere.

    Args:
        backend: which of the folder's engines to play.
        record: of that backend.
        backends: the folder of Triton server's own backends, if it has one.
    """
    ours = BACKENDS[backend].triton_backend
    if ours is None or backends is None or record.is_stripped:  # Triton server has no refit
        return "embedded"
    return "production" if all((backends / name).is_dir() for name in (ours, "dali", "python")) else "embedded"


def assemble_repository(settings: StageSettings, target: Path) -> None:
    """Writes the served models of an engine folder into the folder `target`, which other metrics' may share.

    In the production form Triton server opens the engines itself, so they are copied there, and the copies verified.

    Raises:
        EngineMismatchError: the engine folder is none, or not as it was built.
        DiffVQAError: this installation came without the served models, or without DALI.
    """
    programs = next((folder for folder in _PROGRAMS if folder.is_dir()), None)
    if programs is None:
        raise DiffVQAError(f"the served models are missing ({_PROGRAMS[-1]}); install diffvqa-rt again")
    manifest = settings.manifest()
    record = manifest.backends[settings.backend]
    for name, model in served_models(manifest.metric, manifest.config, settings.form).items():
        version = target / name / "1"
        version.mkdir(parents=True)
        if model.program is not None:
            shutil.copy(programs / model.program / "1" / "model.py", version)
            text = config_of_program(model, settings.to_json())
        elif model.engine == "dali":
            _write_dali_model(version / "model.dali", manifest)
            text = config_of_dali(model)
        elif model.engine is not None:
            file = _copy_engine(Path(settings.engines), record, model.engine, version)
            theirs = BACKENDS[settings.backend].triton_backend
            assert theirs is not None  # or the form would be another
            text = config_of_engine(model, theirs, file)
        else:
            text = config_of_ensemble(model)
        (target / name / "config.pbtxt").write_text(text, encoding="utf-8")


def _copy_engine(folder: Path, record: BackendRecord, name: str, target: Path) -> str:
    """Copies an engine's files and verifies the copies. Returns the name of the one that Triton server is to open."""
    file = record.engines[name].file
    files = [file]
    if file.endswith(".onnx"):
        model = read_verified(folder, file, record.files[file])
        files += listed_data_files(model, file, folder, record.files.keys()).values()
    for listed in files:
        copy_verified(folder, listed, record.files[listed], target / Path(listed).name)
    return Path(file).name


def _write_dali_model(path: Path, manifest: Manifest) -> None:
    device = manifest.metric.on_device
    assert device is not None  # which the model `dali` follows from
    try:
        device.write_model(manifest.config, path)
    except ModuleNotFoundError as error:
        raise DiffVQAError(
            f"the production form needs {error.name}, which is not installed; Triton server's image has it in "
            "/opt/tritonserver/backends/dali/wheel/dali, which PYTHONPATH is to name"
        ) from error

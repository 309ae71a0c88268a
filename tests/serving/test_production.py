"""The production form on the real Triton server, which here has the Python backend alone.

Its wiring, requests between models, copied engines and DALI's graph are the real ones. Python models stand in for the
TensorRT, ONNX Runtime and DALI backends: they open the files that those would open, on the CPU.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from served import assert_same, free_ports, parsed
from training_network import SMALLEST

pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")

import diffvqa_rt.serving.server as server_module
from diffvqa_rt.chain import play
from diffvqa_rt.engines import open_engines
from diffvqa_rt.metrics.diffvqa.dali import DaliViews, EncodedViews
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.results import VideoScore, video_score
from diffvqa_rt.scoring import model_facts
from diffvqa_rt.serving import Client, Server, ServerConfig, ServerError
from diffvqa_rt.serving.repository import assemble_repository
from diffvqa_rt.serving.tritonserver import children
from diffvqa_rt.video import crop_places, sample_frames
from diffvqa_rt.video.crops import crop_regions
from diffvqa_rt.video.plan import plan_decoding

STAND_INS = {
    "onnxruntime": """
        import json
        from pathlib import Path

        import onnxruntime
        import triton_python_backend_utils as pb_utils

        from diffvqa_rt.serving.python_backend import arrays_of, tensor_of


        class TritonPythonModel:
            def initialize(self, args):
                file = json.loads(args["model_config"])["parameters"]["file"]["string_value"]
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                # By path, as that backend does: the weights are found beside it.
                self._session = onnxruntime.InferenceSession(Path(__file__).with_name(file), options)

            def execute(self, requests):
                return [self._answer(request) for request in requests]

            def _answer(self, request):
                names = list(request.requested_output_names())
                outputs = self._session.run(names, arrays_of(request.inputs()))
                return pb_utils.InferenceResponse([tensor_of(name, out) for name, out in zip(names, outputs)])
        """,
    "dali": """
        import json

        import numpy as np
        import triton_python_backend_utils as pb_utils

        from diffvqa_rt.serving.python_backend import arrays_of, tensor_of
        from diffvqa_rt.metrics.diffvqa.dali import preprocess_pipeline


        class TritonPythonModel:
            def initialize(self, args):
                self._size = json.loads(args["model_config"])["output"][0]["dims"][-1]

            def execute(self, requests):
                return [self._answer(request) for request in requests]

            def _answer(self, request):
                inputs = arrays_of(request.inputs())
                pipeline = preprocess_pipeline(
                    int(self._size), "libavcodec", threads=1, device_id=None,
                    exec_async=False, exec_pipelined=False, prefetch_queue_depth=1,
                )
                for name, rows in inputs.items():
                    pipeline.feed_input(name, list(rows))
                try:
                    (views,) = pipeline.run()
                except RuntimeError as error:
                    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
                return pb_utils.InferenceResponse([tensor_of("frames", np.stack([np.array(view) for view in views]))])
        """,
}


def assemble_with_stand_ins(settings, target: Path) -> None:
    assemble_repository(settings, target)
    from google.protobuf import text_format

    for name, config in parsed(target).items():
        if config.backend not in STAND_INS:
            continue
        (target / name / "1" / "model.py").write_text(textwrap.dedent(STAND_INS[config.backend]))
        config.parameters["file"].string_value = config.default_model_filename
        for field in ("default_model_filename", "platform", "optimization"):
            config.ClearField(field)
        config.backend = "python"
        (instances,) = config.instance_group
        instances.kind = instances.KIND_CPU
        instances.ClearField("gpus")
        (target / name / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def server(small_cuda_engines) -> Iterator[Server]:
    try:
        server_module.find_tritonserver()
    except ServerError as error:
        pytest.skip(str(error))
    port, http_port, metrics_port = free_ports(3)
    config = ServerConfig(
        engines=small_cuda_engines, backend="onnx-cuda", port=port, http_port=http_port, metrics_port=metrics_port
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "choose_form", lambda *_: "production")
        patch.setattr(server_module, "assemble_repository", assemble_with_stand_ins)
        with Server(config) as server:
            server.start(timeout_seconds=120)
            yield server


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server.url, deadline_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def engines(small_cuda_engines):
    return open_engines(small_cuda_engines, "onnx")


def expected_score(engines, views: np.ndarray, sampled, seed: int) -> VideoScore:
    manifest, opened = engines
    places = crop_places(seed, len(views))
    return video_score(
        play(METRIC.chain(SMALLEST), opened, {"frames": views}),
        source="<bytes>",
        seed=seed,
        timestamps_seconds=sampled.timestamps_seconds,
        info=sampled.info,
        stage_seconds=dict.fromkeys(METRIC.stages, 1.0),
        facts=model_facts(manifest, "onnx-cuda", "dali"),
        crop_regions=crop_regions(sampled.info.width, sampled.info.height, SMALLEST.view_size, places),
        warnings=sampled.warnings + METRIC.warnings(SMALLEST, sampled.info),
    )


def test_what_dali_decodes_is_scored_by_its_frames(client, engines):
    clip = make_clip("libvpx-vp9", "webm", size=(192, 146))
    plan = plan_decoding(clip, SMALLEST.frames)
    for seed, crops in ((0, 1), (3, 2)):
        views = EncodedViews(SMALLEST.view_size, decoder="libavcodec")(plan, seed, crops)
        assert_same(client.score(clip, seed=seed, crops=crops), expected_score(engines, views, plan, seed))


@pytest.mark.parametrize(
    "clip",
    [make_clip("libvpx", "webm"), make_clip(size=(320, 240), b_frames=2)],
    ids=["not-for-a-gpu", "dali-fails"],
)
def test_other_videos_are_decoded_on_the_host_and_cut_by_the_same_operators(client, engines, clip):
    sampled = sample_frames(clip, SMALLEST.frames)
    views = DaliViews(SMALLEST.view_size)(sampled.frames, seed=5, crops=2)
    assert_same(client.score(clip, seed=5, crops=2), expected_score(engines, views, sampled, 5))


def test_bad_requests_get_their_sentences(client):
    with pytest.raises(Exception, match="<bytes> is not a video"):
        client.score(b"no video at all")
    with pytest.raises(ValueError, match="crops is 17; this server takes at most 16"):
        client.score(make_clip(), crops=17)


def test_the_models_run_where_no_file_lies(server):
    # DALI opens what a text in a video's place names, if it lies where the server runs.
    (pid,) = [server._process.pid]
    for process in (pid, *children(pid)):
        assert not list(Path(f"/proc/{process}/cwd").iterdir())

"""The training loop: exact to resume, refuses what would not be, and says what went wrong."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_runs import CONFIG, Curve, Points, Unreadable

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.models.blocks import ResnetBlock
from diffvqa_rt.training.loop import WARM_UP_STEPS, FitConfig, checkpoint_activations, fit


class StoppedError(Exception):
    pass


def stop_at(step):
    def raise_at(done, scalars):
        if done >= step:
            raise StoppedError

    return raise_at


def run(out, config=CONFIG, *, seed=0, describes=None, **rest):
    """Trains a new objective; the weights that it ends with."""
    objective = Curve(seed)
    fit(objective, Points(7), config, out, describes=describes or {}, accelerator=Accelerator(cpu=True), **rest)
    return objective.trained.state_dict()


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("checkpoint_steps", [1, 5, 10])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path, checkpoint_steps):
    whole = run(tmp_path / "whole", replace(CONFIG, steps=31))
    config = replace(CONFIG, steps=31, checkpoint_steps=checkpoint_steps)
    for stop in (10, 20, 30):
        with pytest.raises(StoppedError):
            run(tmp_path / "cut", config, on_step=stop_at(stop))
    assert_same_bits(run(tmp_path / "cut", config), whole)


def test_the_bits_do_not_depend_on_who_makes_the_batches(tmp_path):
    assert_same_bits(run(tmp_path / "a"), run(tmp_path / "b", replace(CONFIG, workers=1)))


def test_another_seed_trains_otherwise(tmp_path):
    one, other = run(tmp_path / "a"), run(tmp_path / "b", replace(CONFIG, seed=1))
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_an_interrupt_keeps_the_step_that_was_under_way(tmp_path):
    config = replace(CONFIG, steps=30, checkpoint_steps=1000)
    whole = run(tmp_path / "whole", config)

    def interrupt(done, scalars):
        if done == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", config, on_step=interrupt)
    assert signal.getsignal(signal.SIGTERM) is handler
    steps = []
    assert_same_bits(run(tmp_path / "cut", config, on_step=lambda done, _: steps.append(done)), whole)
    assert steps == [20, 30]


def test_a_run_that_is_done_is_not_run_again(tmp_path):
    weights = run(tmp_path)
    steps = []
    assert_same_bits(run(tmp_path, seed=5, on_step=lambda done, _: steps.append(done)), weights)
    assert not steps


@pytest.mark.parametrize(
    ("change", "describes", "name"),
    [({"learning_rate": 0.02}, {"data": "a"}, "learning_rate"), ({}, {"data": "b"}, "data"), ({}, {}, "data")],
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, change, describes, name):
    run(tmp_path, describes={"data": "a"})
    with pytest.raises(TrainingError, match=f"is of a run whose {name} is .* choose another folder"):
        run(tmp_path, replace(CONFIG, **change), describes=describes)


def test_no_part_of_a_description_hides_another(tmp_path):
    """Here the sampler has steps and a schedule too, and they stay what they were."""
    describes = {"sampler": {"steps": 10, "schedule": "cosine"}, "data": {"batch": 2}}
    run(tmp_path, describes=describes)
    with pytest.raises(TrainingError) as refusal:
        run(tmp_path, replace(CONFIG, steps=20, schedule="cosine"), describes=describes)
    assert "of a run whose steps is 12, now it is 20, and whose schedule is 'constant', now it is 'cosine'; " in str(
        refusal.value
    )
    changed = describes | {"sampler": {"steps": 5, "schedule": "cosine"}}
    with pytest.raises(TrainingError, match=r"whose sampler.steps is 10, now it is 5; choose another folder"):
        run(tmp_path, describes=changed)
    with pytest.raises(TrainingError, match=r"whose batch is 2, now it is 4; choose another folder"):
        run(tmp_path, describes=describes | {"data": {"batch": 4}})
    run(tmp_path, describes=describes)


def test_a_checkpoint_whose_description_had_one_level_is_refused_in_a_sentence(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del metadata["format"]
    metadata["description"] = json.dumps(json.loads(metadata["description"])["run"] | {"processes": 1})
    save_file(load_file(path), path, metadata)
    with pytest.raises(TrainingError, match=r"is of another version of diffvqa_rt, .* to start again"):
        run(tmp_path)


def test_numbers_of_numpy_are_numbers(tmp_path):
    config = replace(CONFIG, steps=np.int64(12), learning_rate=np.float32(0.5), seed=np.uint8(0))
    assert (config.steps, type(config.steps), type(config.learning_rate)) == (12, int, float)
    run(tmp_path, replace(CONFIG, steps=np.int64(12)))
    run(tmp_path)
    with pytest.raises(ValueError, match=r"steps is 3.5; expected a whole number"):
        replace(CONFIG, steps=3.5)


def test_a_run_of_before_the_warm_up_had_a_length_goes_on_where_it_is_the_same(tmp_path):
    run(tmp_path)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert "warm_up_steps" not in json.loads(file.metadata()["description"])["run"]
    with pytest.raises(TrainingError, match="whose warm_up_steps is None, now it is 7"):
        run(tmp_path, replace(CONFIG, warm_up_steps=7))


def test_how_often_a_checkpoint_is_kept_may_change(tmp_path):
    run(tmp_path)
    run(tmp_path, replace(CONFIG, checkpoint_steps=2, workers=0))


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors is no checkpoint .*; delete it to start again"):
        run(tmp_path)


def test_a_checkpoint_of_another_network_is_one_sentence(tmp_path):
    run(tmp_path)
    objective = Curve()
    objective.trained = nn.Linear(2, 2)
    with pytest.raises(TrainingError, match="does not fit this network"):
        fit(objective, Points(7), CONFIG, tmp_path, describes={}, accelerator=Accelerator(cpu=True))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    class Diverging(Curve):
        def forward(self, x):
            return {"loss": super().forward(x)["loss"] * math.nan}

    with pytest.raises(TrainingError, match="the loss is nan at step 4; lower the learning rate"):
        fit(Diverging(), Points(7), CONFIG, tmp_path, describes={}, accelerator=Accelerator(cpu=True))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_weights_that_are_no_numbers_do_not_take_a_checkpoints_place(tmp_path):
    class Exploding(Curve):
        def forward(self, x):
            loss = super().forward(x)["loss"]
            if self.steps == 7:
                loss.register_hook(lambda gradient: gradient * math.nan)
            self.steps += 1
            return {"loss": loss}

    objective = Exploding()
    objective.steps = 0
    with pytest.raises(TrainingError, match="the weights are not finite at step 8; lower the learning rate"):
        fit(objective, Points(7), CONFIG, tmp_path, describes={}, accelerator=Accelerator(cpu=True))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint.safetensors").values())


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_in_a_worker_is_one_sentence(tmp_path, workers):
    config = replace(CONFIG, workers=workers)
    with pytest.raises(TrainingError, match=r"\Aa file is gone\Z"):
        fit(Curve(), Unreadable(7), config, tmp_path, describes={}, accelerator=Accelerator(cpu=True))


def test_an_interrupt_of_the_whole_group_keeps_the_step(tmp_path):
    """As a terminal's Ctrl-C and a cluster's SIGTERM come: to the workers too."""
    code = "import sys, pathlib; import training_runs; training_runs.train_slowly(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline(), process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said and "DataLoader" not in said
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert int(file.metadata()["step"]) > 0


def test_it_learns_and_logs_each_scalar_once_though_it_was_stopped(tmp_path):
    config = replace(CONFIG, steps=300, learning_rate=0.02, weight_decay=0.0, schedule="cosine")
    with pytest.raises(StoppedError):
        run(tmp_path, config, on_step=stop_at(150), validate=lambda: {"srcc": 0.5}, validate_steps=70)
    run(tmp_path, config, validate=lambda: {"srcc": 0.5}, validate_steps=70)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("loss")
    steps = [event.step for event in losses]
    assert steps == sorted(set(steps)) and steps[-1] == 300 and set(range(10, 301, 10)) <= set(steps)
    assert sum(e.value for e in losses[-5:]) < 0.5 * sum(e.value for e in losses[:5])
    assert events.Scalars("learning_rate")[-1].value < 1e-5
    assert [event.step for event in events.Scalars("validation/srcc")] == [70, 140, 210, 280, 300]


def test_the_cosine_schedule_rises_for_a_moment_and_falls_to_nothing():
    config = FitConfig(steps=1000, learning_rate=1.0, weight_decay=0.0, schedule="cosine")
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert max(rates) == rates[WARM_UP_STEPS - 1] > 0.99 and rates[0] < 0.03 and rates[-1] < 1e-5
    assert rates[500] == pytest.approx(0.5)
    assert FitConfig(steps=10, learning_rate=1.0, weight_decay=0.0).learning_rate_at(9) == 1.0
    longer = replace(config, warm_up_steps=200)
    assert longer.learning_rate_at(99) == pytest.approx(config.learning_rate_at(99) / 2)
    assert longer.learning_rate_at(500) == config.learning_rate_at(500)


def test_a_checkpoint_holds_no_code_and_no_more_than_weights_and_moments(tmp_path):
    run(tmp_path)
    names = set(load_file(tmp_path / "checkpoint.safetensors"))
    parameters = {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight"}
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    moments = {f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq", "step") for name in parameters}
    assert names == {f"weights.{name}" for name in parameters | buffers} | moments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "tensorboard"]


def test_running_blocks_again_changes_no_gradient():
    torch.manual_seed(0)
    block, x = ResnetBlock(4, 8, norm=lambda width: nn.GroupNorm(2, width), time_width=6), torch.randn(2, 4, 5, 5)
    block.time_emb_proj.requires_grad_(False)
    block(x, torch.ones(1, 8)).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in block.named_parameters() if p.grad is not None}
    block.zero_grad()
    runs = []
    block.conv1.register_forward_hook(lambda *_: runs.append(1))
    checkpoint_activations(nn.Sequential(block), (ResnetBlock,))
    block(x, torch.ones(1, 8)).square().mean().backward()
    assert len(runs) == 2
    for name, gradient in plain.items():
        torch.testing.assert_close(dict(block.named_parameters())[name].grad, gradient)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a positive number"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected 0 or more"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of constant, cosine"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'; expected one of no, fp16, bf16"),
        ({"workers": -1}, "workers is -1"),
        ({"warm_up_steps": 0}, "warm_up_steps is 0; expected at least 1"),
    ],
)
def test_a_bad_value_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CONFIG, **change)

"""A backbone's own learning rate, and stages that do not train: by the step's number alone."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.config.errors import UserError
from core.config.loading import config_from_dict, load_config
from core.distributed import ranks
from core.torch_compat import BatchNorm
from core.training.command import describe
from core.training.compilation import compile_
from core.training.freezing import freeze_, frozen_stages_at, thawed, thaws_at
from core.training.optimizer import build_optimizer, load_optimizer_state_, set_learning_rate_
from core.training.run import prepare
from core.training.step import train_step
from tests.support import tiny_models
from tests.support.engine_stand_in import system
from tests.support.same_run import differences
from tests.support.some_ranks import run_processes
from tests.support.tiny_models import LITE
from tests.training.test_resume import killed_in

CPU = torch.device("cpu")
FROZEN = {"frozen_stages": 2, "frozen_steps": 2, "backbone_lr": 0.1, "frozen_norm": True}
RECIPE = {"opt_algo": "adamw", "schedule": "cosine", "ema": 0.9, "val_iter": 1, **FROZEN}


def tiny_run(root, name=LITE, **settings):
    """A run of the small detector on a pyramid, or of another one, that is not yet started."""
    tiny_models.write(root, name, **settings)
    run = prepare(load_config(tiny_models.of(root, name)[0]), CPU)
    run.network.train()
    return run


def by_stage(run, values):
    """Copies of tensors of the network, by the stage that has them; the last: of no stage."""
    found, stages = [], [*run.detector.stages(), run.detector.network]
    seen = set()
    for stage in stages:
        own = [value for value in values(stage) if id(value) not in seen]
        seen |= {id(value) for value in own}
        found.append([value.detach().clone() for value in own])
    return found


def weights(stage):
    return list(stage.parameters())


def statistics(stage):
    norms = [module for module in stage.modules() if isinstance(module, BatchNorm)]
    return [value for norm in norms for value in norm.buffers()]


def changed(before, after):
    """Of each stage: "none", "some" or "all" of its tensors changed."""
    kinds = []
    for one, other in zip(before, after, strict=True):
        count = sum(not torch.equal(x, y) for x, y in zip(one, other, strict=True))
        kinds.append({0: "none", len(one): "all"}.get(count, "some"))
    return kinds


def test_frozen_stages_by_the_number_of_the_step():
    settings = system(frozen_stages=3, frozen_steps=2)
    assert [frozen_stages_at(step, settings) for step in (1, 2, 3, 4)] == [3, 3, 0, 0]
    assert [step for step in range(1, 9) if thaws_at(step, settings)] == [3]
    always = system(frozen_stages=3)
    assert frozen_stages_at(10**9, always) == 3
    assert not any(thaws_at(step, always) for step in range(1, 9))
    assert not any(thaws_at(step, system()) for step in range(1, 9))


def test_the_config_after_the_frozen_steps():
    def after(**settings):
        return thawed(config_from_dict({"system": settings}, "CornerNet-x", "x.json")).system

    ended = after(frozen_stages=3, frozen_steps=2, frozen_norm=True, backbone_lr=0.1)
    assert ended == dataclasses.replace(after(), frozen_norm=True, backbone_lr=0.1)
    assert after(frozen_stages=3).frozen_stages == 3  # they never train


@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_stages_stay_bit_for_bit(tmp_path, frozen, algorithm):
    """Their weights, also under weight decay, and their statistics; all the others change."""
    settings = {"frozen_stages": frozen, "weight_decay": 0.1, "ema": 0.5, "opt_algo": algorithm}
    run = tiny_run(tmp_path, **settings)
    batches = iter(run.batches())
    before = by_stage(run, weights), by_stage(run, statistics)
    start = {key: value.clone() for key, value in run.average.state_dict().items()}
    for iteration in (1, 2):
        train_step(run, next(batches), iteration)
    expected = ["none"] * frozen + ["all"] * (5 - frozen)
    assert changed(before[0], by_stage(run, weights)) == expected
    assert changed(before[1], by_stage(run, statistics)) == expected
    averages = run.average.state_dict()
    inside = {id(value) for stage in run.detector.stages()[:frozen] for value in weights(stage)}
    names = {key for key, value in run.network.named_parameters() if id(value) in inside}
    assert bool(names) == bool(frozen)
    assert all(torch.equal(averages[key], start[key]) for key in names)


def test_frozen_norms_keep_their_statistics_and_train_their_weights(tmp_path):
    run = tiny_run(tmp_path, frozen_norm=True, frozen_stages=1)
    batches = iter(run.batches())
    before = by_stage(run, weights), by_stage(run, statistics)
    train_step(run, next(batches), 1)
    assert changed(before[0], by_stage(run, weights)) == ["none"] + ["all"] * 4
    assert changed(before[1], by_stage(run, statistics)) == ["none"] * 4 + ["all"]


def test_thawed_stages_train_their_weights_and_statistics(tmp_path):
    run = tiny_run(tmp_path, frozen_stages=4, frozen_steps=1)
    batches = iter(run.batches())
    found = []
    for iteration in (1, 2):
        before = by_stage(run, weights), by_stage(run, statistics)
        train_step(run, next(batches), iteration)
        found.append(
            [
                changed(before[0], by_stage(run, weights)),
                changed(before[1], by_stage(run, statistics)),
            ]
        )
    assert found[0] == [["none"] * 4 + ["all"]] * 2
    assert found[1] == [["all"] * 5] * 2


def test_a_compiled_network_thaws_too(tmp_path):
    """Its blocks are compiled once more, and it trains what the other one trains."""
    settings = {"frozen_stages": 4, "frozen_steps": 1, "chunk_sizes": [3]}
    found, compilations = [], []
    for name in ("compiled", "plain"):
        (tmp_path / name).mkdir()
        run = tiny_run(tmp_path / name, "CenterNet-resnet18", **settings)
        if name == "compiled":
            counter = CompileCounterWithBackend("eager")
            compile_(run.network, counter)
        batches = iter(run.batches())
        for iteration in (1, 2):
            train_step(run, next(batches), iteration)
            compilations.append(counter.frame_count)
        found.append(run.network.state_dict())
    blocks = 9  # that differ; the heads' are the same, whether or not the backbone trains
    assert compilations[:2] == [blocks, 2 * blocks - 1]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()


def test_a_validation_does_not_thaw(tmp_path):
    """It sets the mode of the whole network."""
    run = tiny_run(tmp_path, frozen_stages=2, frozen_norm=True)
    batches = iter(run.batches())
    before = by_stage(run, statistics)
    for iteration in (1, 2):
        train_step(run, next(batches), iteration)
        run.network.eval()
        run.network.train()
    assert changed(before, by_stage(run, statistics)) == ["none"] * 4 + ["all"]


def test_no_gradient_is_computed_for_frozen_stages(tmp_path):
    run = tiny_run(tmp_path, frozen_stages=2)
    first, second, third, _ = run.detector.stages()
    outputs = []
    for stage in (first, second, third):
        last = [module for module in stage.modules() if isinstance(module, nn.Conv2d)][-1]
        last.register_forward_hook(lambda module, given, output: outputs.append(output))
    train_step(run, next(iter(run.batches())), 1)
    chunks = len(outputs) // 3
    assert [output.requires_grad for output in outputs] == [False, False, True] * chunks
    assert all(value.grad is None for stage in (first, second) for value in weights(stage))


def test_the_statistics_of_a_frozen_norm_do_not_depend_on_the_chunks(tmp_path):
    """Other chunks than the first one compute with them, too: the step is that of one chunk."""
    found = []
    for name, chunks in (("a", [3]), ("b", [1, 2]), ("c", [1, 1, 1])):
        (tmp_path / name).mkdir()
        run = tiny_run(tmp_path / name, frozen_norm=True, chunk_sizes=chunks)
        outputs = []
        run.detector.network.backbone.register_forward_hook(
            lambda module, given, maps, outputs=outputs: outputs.append(maps[-1].detach())
        )
        train_step(run, next(iter(run.batches())), 1)
        found.append(torch.cat(outputs))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


def parameters(count=4):
    return [nn.Parameter(torch.ones(2, 2) if n % 2 else torch.ones(2)) for n in range(count)]


@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
def test_the_learning_rates_of_both_groups(algorithm):
    given = parameters()
    optimizer = build_optimizer(given, algorithm, 0.5, 0.25, given[:2], 0.1)
    settings = system(learning_rate=0.5, stepsize=2, decay_rate=10)
    for iteration, rate in ((1, 0.5), (3, 0.05)):
        if iteration == 3:
            assert set_learning_rate_(optimizer, iteration, settings) == pytest.approx(rate)
        found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        expected = [0.1 * rate, 0.1 * rate, rate, rate]
        assert [found[id(p)] for p in given] == pytest.approx(expected)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    vector = 0 if algorithm == "adamw" else 0.25
    assert [decays[id(p)] for p in given] == [vector, 0.25, vector, 0.25]


@pytest.mark.parametrize("algorithm", ["adam", "sgd", "adamw"])
def test_a_factor_of_one_leaves_the_groups_and_the_state_as_they_were(algorithm):
    """States of earlier versions load."""
    given = parameters()
    plain = build_optimizer(given, algorithm, 0.5)
    optimizer = build_optimizer(given, algorithm, 0.5, None, given[:2], 1.0)
    assert repr(optimizer.state_dict()) == repr(plain.state_dict())
    load_optimizer_state_(optimizer, plain.state_dict())


def test_a_resumed_optimizer_takes_the_factor_of_the_config():
    given = parameters()
    before, after = (build_optimizer(given, "adam", 0.5, None, given[:2], x) for x in (0.1, 0.2))
    load_optimizer_state_(after, before.state_dict())
    set_learning_rate_(after, 1, system(learning_rate=0.5))
    assert [group["lr"] for group in after.param_groups] == pytest.approx([0.5, 0.1])


def test_training_slows_the_backbone_alone(tmp_path):
    run = tiny_run(tmp_path, backbone_lr=0.01, opt_algo="adamw", frozen_stages=1)
    inside = {id(value) for value in run.detector.network.backbone.parameters()}
    for group in run.optimizer.param_groups:
        slow = {id(value) in inside for value in group["params"]}
        assert slow == {"lr_factor" in group} and group.get("lr_factor", 1) in (1, 0.01)
    count = sum(len(group["params"]) for group in run.optimizer.param_groups)
    assert count == len(list(run.network.parameters()))  # the frozen ones among them
    line = "backbone: the first 1 of 4 stages frozen, learning rate times 0.01"
    assert line in describe(run)


@pytest.mark.rare
def test_a_run_that_thaws_is_resumed_bit_for_bit(tmp_path):
    """Killed in the last frozen step and, in another run, in the first step after it."""
    world_size = 2
    whole, cuts = LITE, {f"{LITE}-early": 3, f"{LITE}-late": 4}
    for name in (whole, *cuts):
        tiny_models.write(tmp_path, name, **{**RECIPE, "frozen_steps": 3, "snapshot": 1})
    assert processes(world_size, tmp_path, whole) == [0] * world_size
    for name, step in cuts.items():
        given = tiny_models.of(tmp_path, name)
        killed = run_processes(world_size, killed_in, step, given)
        assert killed == ["killed"] * world_size
        assert processes(world_size, tmp_path, name, "--resume") == [0] * world_size
        assert differences(tmp_path, whole, name) == []
    path = RunDirectory(tmp_path / "cache", whole).snapshot
    early, thawed, last = (checkpoint.read_weights(path(step)) for step in (1, 3, 4))
    key = "backbone.body.0.stem.conv.weight"
    assert torch.equal(early[key], thawed[key]) and not torch.equal(thawed[key], last[key])


def processes(world_size, root, name, *more):
    """train.py's exit codes in so many processes."""
    return run_processes(world_size, train.main, tiny_models.of(root, name, *more))


def with_older_wrapper(given):
    """train.py, with buffers that DistributedDataParallel leaves alone, as before PyTorch 2.13."""
    ranks.keep_own_buffers = lambda: {"broadcast_buffers": False}
    return train.main(given)


def test_one_and_two_processes_train_the_same(tmp_path):
    """Also where running statistics that rank 0 alone has read are computed with."""
    found = []
    for world_size in (1, 2):
        root = tmp_path / str(world_size)
        root.mkdir()
        tiny_models.write(root, LITE, max_iter=1, snapshot=1)
        assert processes(1, root, LITE) == [0]
        weights = str(tiny_models.snapshot(root, LITE, 1))
        name = f"{LITE}-fine"
        tiny_models.write(root, name, **RECIPE)
        given = tiny_models.of(root, name, "--weights", weights)
        assert run_processes(world_size, with_older_wrapper, given) == [0] * world_size
        found.append((tiny_models.losses(root, name), tiny_models.snapshot(root, name)))
    (mine, own), (theirs, other) = found
    for (step, terms), (_, expected) in zip(mine[0] + mine[1], theirs[0] + theirs[1], strict=True):
        assert terms == pytest.approx(expected, rel=2e-3), step
    own, other = map(checkpoint.read_weights, (own, other))
    for key, value in other.items():
        if key.startswith("backbone") and "running" in key:
            assert torch.equal(own[key], value), key


def test_a_run_cannot_change_to_two_groups(tmp_path):
    tiny_models.write(tmp_path, LITE, max_iter=1, snapshot=1)
    assert train.main(tiny_models.of(tmp_path, LITE)) == 0
    more = ("--iter", "1", "--set", "system.backbone_lr=0.5")
    with pytest.raises(UserError, match=r"trained with system\.backbone_lr 1, and it is 0\.5"):
        train.main(tiny_models.of(tmp_path, LITE, *more))
    more = ("--iter", "1", "--set", "system.frozen_stages=2", "--set", "system.max_iter=2")
    assert train.main(tiny_models.of(tmp_path, LITE, *more)) == 0


def test_a_state_from_before_these_settings_is_resumed(tmp_path):
    tiny_models.write(tmp_path, LITE, max_iter=1, snapshot=1)
    run = prepare(load_config(tiny_models.of(tmp_path, LITE)[0]), CPU)
    train_step(run, next(iter(run.batches())), 1)
    with run.snapshots:
        run.save(1)
        run.finish()
    path = tiny_models.snapshot(tmp_path, LITE, 1)
    state = checkpoint.load_training_state(path)
    meta = checkpoint.read_meta(path)
    del state["backbone_lr"]
    system_section = dict(meta.config["system"])
    for key in FROZEN:
        del system_section[key]
    meta = dataclasses.replace(meta, config={**meta.config, "system": system_section})
    checkpoint.save_snapshot(path, run.detector.network, state, meta)
    more = ("--resume", "--set", "system.max_iter=2")
    assert train.main(tiny_models.of(tmp_path, LITE, *more)) == 0


@pytest.mark.parametrize(
    "given", [{"backbone_lr": 0.1}, {"frozen_stages": 1}, {"frozen_norm": True}]
)
@pytest.mark.parametrize("name", ["CenterNet-tiny", "FasterRCNN-tiny"])
def test_settings_of_a_backbone_that_there_is_not_are_refused(tmp_path, name, given):
    tiny_models.write(tmp_path, name, **given)
    config = load_config(tiny_models.of(tmp_path, name)[0])
    (key,) = given
    with pytest.raises(
        UserError, match=rf"{name}\.json: .* no use for system\.{key}; leave"
    ) as error:
        prepare(config, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone_lr": 0}, "system.backbone_lr 0.0 must be above 0"),
        ({"frozen_stages": 5}, "system.frozen_stages 5 must be from 0 to 4"),
        ({"frozen_stages": -1}, "system.frozen_stages -1 must be from 0 to 4"),
        ({"frozen_stages": 1, "frozen_steps": 0}, "system.frozen_steps 0 must be at least 1"),
        ({"frozen_steps": 5}, "system.frozen_steps 5 says how long stages are frozen, and none"),
    ],
)
def test_values_that_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        config_from_dict({"system": settings}, "CornerNet", "x.json")


def test_nothing_is_touched_without_these_settings():
    stage = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval().requires_grad_(False)
    kept = copy.deepcopy(stage)
    freeze_([stage], 1, system())
    assert not stage.training and not any(value.requires_grad for value in stage.parameters())
    assert repr(stage.state_dict()) == repr(kept.state_dict())

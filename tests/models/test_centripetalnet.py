"""CentripetalNet: CornerNet with other heads, and what its settings do."""

import numpy as np
import pytest
import torch

from core import models
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.config.loading import load_config
from core.decode.central_region import decode_central_region
from core.inference.corners import detect_corners
from core.losses.guided import guided_losses
from core.models.corners import guided_pairing
from core.structures import GuidedMaps
from core.training.weights import load_start_weights_
from tests.decode.test_central_region import guided
from tests.decode.test_centripetal import perfect_maps
from tests.models.test_all import TRAINABLE
from tests.support.inference import detect
from tests.support.model_builders import (
    manifest,
    published_detector,
    small_config,
    small_detector,
)
from tests.support.model_losses import gradients, image_batch, losses
from tests.targets.test_centripetal import make_batch

NAME = "CentripetalNet"


def test_the_published_network_is_cornernet_with_other_heads():
    """Of all keys and shapes, those of the embeddings are replaced."""
    network = published_detector(NAME).network
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    corners = {key.removeprefix("module."): shape for key, shape in manifest("CornerNet")}
    kept = {key: shape for key, shape in corners.items() if "_tags." not in key}
    assert kept.items() <= found.items()
    heads = {key: shape for key, shape in found.items() if key not in kept}
    expected = {"guide.0.conv.weight": [256, 256, 3, 3], "guide.0.conv.bias": [256]}
    expected |= {"guide.1.weight": [2, 256, 1, 1], "guide.1.bias": [2]}
    expected |= {key.replace("guide", "head"): shape for key, shape in expected.items()}
    expected |= {"star.weight": [256, 256, 3, 3], "star.offset.weight": [18, 2, 1, 1]}
    assert heads == {
        f"{corner}_shifts.{stack}.{key}": shape
        for corner in ("tl", "br")
        for stack in (0, 1)
        for key, shape in expected.items()
    }


def test_the_number_of_parameters_by_hand():
    layer = 256 * 256 * 9  # without a bias, as the deformable convolution
    head = layer + 256 + 2 * 256 + 2
    tags = layer + 256 + 256 + 1
    assert TRAINABLE[NAME] == TRAINABLE["CornerNet"] + 4 * (2 * head + layer + 18 * 2 - tags)


def test_initial_weights_of_the_deformable_convolution():
    network = small_detector(NAME, model={"head_channels": 64}).network
    for shifts in (*network.tl_shifts, *network.br_shifts):
        assert shifts.star.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert shifts.star.offset.weight.std().item() == pytest.approx(0.1, rel=0.4)


def test_the_settings_reach_the_functions():
    db = {"top_k": 7, "num_dets": 21, "nms_kernel": 5, "regression_window": 3, "gaussian_iou": 0.6}
    pairing = guided_pairing(small_config(NAME, **db), 3, 4)
    assert pairing.decode.keywords == {"stride": 4, "top_k": 7, "kernel": 5, "num_dets": 21}
    assert pairing.decode.func is decode_central_region and pairing.losses is guided_losses
    detector = small_detector(NAME, **db)
    for targets in (pairing.targets.keywords, detector.targets.keywords):
        assert (targets["window"], targets["gaussian_iou"]) == (3, 0.6)
        assert (targets["num_classes"], targets["output_size"]) == (3, (16, 12))
    assert detector.losses is guided_losses and detector.infer.func is detect_corners


def test_the_stride_is_the_network_s():
    """One box in cells is small at a stride of 2, and large at 4."""
    found = []
    for stem, sizes in (([16], [[32, 24]]), ([8, 16], [[16, 12]])):
        detector = small_detector(NAME, model={"stem_channels": stem}, output_sizes=sizes)
        region = (1 / 2.1 + 1 / 2.4) / 2  # between those of large and of small boxes
        side = 3500**0.5 / 3  # cells; 3500 * 4 / 9 or 3500 * 16 / 9 square pixels
        maps = one_box(side, shift=side / 2 * (1 + region))
        found.append(detector.decode([maps])[0, 0, 4].item() > 0.9)
    assert found == [False, True]


def one_box(side, shift):
    """Maps of a square of ``side`` cells, whose corners point ``shift`` cells to the right."""
    heatmap = torch.full((1, 3, 32, 32), -12.0)
    tl_heatmap, br_heatmap = heatmap.clone(), heatmap.clone()
    tl_heatmap[0, 1, 2, 2], br_heatmap[0, 1, 2 + int(side), 2 + int(side)] = 12, 12
    half = torch.tensor([side / 2, side / 2])[None, :, None, None].expand(1, 2, 32, 32)
    tl_shift = torch.stack((torch.full((1, 32, 32), shift), half[:, 1]), 1).log()
    offset = torch.zeros(1, 2, 32, 32)
    maps = (tl_heatmap, br_heatmap, tl_shift, half.log(), offset, offset + side % 1)
    return GuidedMaps(*maps, offset, offset)


def test_settings_of_other_pairings(caplog):
    caplog.set_level("INFO")
    small_detector(NAME, ae_threshold=0.7)
    assert "CentripetalNet.json: CentripetalNet does not use db.ae_threshold" in caplog.messages
    with pytest.raises(UserError, match="model: unknown key 'pairing'"):
        models.build(small_config(NAME, {"pairing": "embedding"}), 3)
    with pytest.raises(UserError, match=r"db.num_dets 17 .* 16 pairs of db.top_k 4 corners"):
        small_detector(NAME, top_k=4, num_dets=17)


def test_the_guiding_shift_is_trained():
    """By its own loss alone, with the weight of the paper; gradients arrive in the body too."""
    detector = small_detector(NAME)
    terms = losses(detector, image_batch(NAME, 2))
    found = gradients(detector.network, {"guiding": terms["guiding"]})
    for key, gradient in found.items():
        reached = gradient is not None and bool(gradient.any())
        of_guide = "_shifts." in key and ".guide." in key
        body = key.startswith(("hg.", "tl_modules.", "br_modules."))
        assert reached == (of_guide or body), key


@pytest.mark.parametrize("pairing", ["embedding", "centripetal"])
def test_weights_of_cornernet(pairing, tmp_path):
    """The body and the heads that both have are taken; the shifts start anew."""
    corners = small_detector("CornerNet", model={"pairing": pairing}, seed=1)
    path = tmp_path / "weights_5.pkl"
    meta = checkpoint.Meta("CornerNet", 5, ("a", "b", "c"), small_config("CornerNet").as_dict(), {})
    checkpoint.save_snapshot(path, corners.network, None, meta)
    detector = small_detector(NAME)
    before = {key: value.clone() for key, value in detector.network.state_dict().items()}
    load_start_weights_(detector, str(path))
    trained = corners.network.state_dict()
    for key, value in detector.network.state_dict().items():
        fresh = "_shifts." in key or ("_offs." in key and pairing == "centripetal")
        assert torch.equal(value, before[key] if fresh else trained[key]), key


def test_the_mirror_image_finds_the_same_boxes():
    """Perfect maps of an image and of its mirror image, through the whole of inference."""
    db = {"input_size": [127, 255], "output_sizes": [[32, 64]], "top_k": 30, "num_dets": 60}
    detector = small_detector(NAME, **db, test_flipped=True)
    boxes = np.array([[10 + 28 * i, 24, 34 + 28 * i, 90, i % 2] for i in range(6)], np.float32)
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = 255 - boxes[:, [2, 0]]

    def predict(images):
        batch = make_batch([boxes, mirrored])
        sized = type(batch)(**{**vars(batch), "images": torch.zeros(2, 3, 127, 255)})
        return detector.decode([guided(perfect_maps(detector.targets(sized)))])

    found = detect(detector, np.zeros((127, 255, 3), np.uint8), predict)
    best = found.boxes[:12]  # each object twice; suppression lowers the second one's score
    for box in boxes:
        assert (np.abs(best - box[:4]).max(1) < 0.1).sum() == 2


def test_the_published_configs():
    with torch.device("meta"):
        one, several = (models.build(load_config(NAME, s), 80) for s in (None, "multi_scale"))
    settings = [detector.infer.keywords["settings"] for detector in (one, several)]
    assert [s.test_scales for s in settings] == [(1.0,), (0.5, 0.75, 1.0, 1.25, 1.5)]
    assert all(s.test_flipped and s.nms_algorithm == "exp_soft_nms" for s in settings)
    system = load_config(NAME).system
    assert system == load_config(NAME, "multi_scale").system
    epoch = 118_287 // 96
    assert (system.max_iter, system.stepsize) == (210 * epoch, 190 * epoch)
    assert (system.batch_size, set(system.chunk_sizes)) == (96, {6})
    assert (system.learning_rate, system.warmup, system.clip_norm) == (5e-4, 500, 35)

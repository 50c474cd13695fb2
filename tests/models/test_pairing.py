"""``model.pairing``: what it changes in a detector, and weights of the other pairing."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from core import models
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.config.files import CONFIG_DIR
from core.config.loading import load_config
from core.inference.corners import detect_corners
from core.structures import CentripetalMaps, CornerMaps, SaccadeMaps
from core.training.weights import load_start_weights_
from tests.decode.test_centripetal import perfect_maps
from tests.models.test_all import image_batch
from tests.support.inference import run
from tests.support.model_builders import small_config, small_detector
from tests.targets.test_centripetal import make_batch

NAMES = ["CornerNet", "CornerNet_Squeeze", "CornerNet_Saccade"]
CENTRIPETAL = {"model": {"pairing": "centripetal"}}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def corner_maps(detector, name):
    maps = detector.network(image_batch(name, 1))[-1]
    return maps.corners if isinstance(maps, SaccadeMaps) else maps


def test_embedding_is_the_default(name):
    assert isinstance(corner_maps(small_detector(name), name), CornerMaps)
    maps = corner_maps(small_detector(name, **CENTRIPETAL), name)
    assert isinstance(maps, CentripetalMaps)
    assert maps.tl_shift.shape == maps.br_shift.shape


@pytest.mark.parametrize("config", ["CornerNet", "CornerNet_Squeeze", "CornerNet_Saccade"])
def test_published_configs_pair_by_embeddings(config):
    assert "pairing" not in load_config(config).model


def test_configs_for_own_data_pair_by_centripetal_shifts():
    others = [
        path.stem
        for path in Path(CONFIG_DIR).glob("CornerNet*-*.json")
        if path.stem != "CornerNet-multi_scale"  # the published weights
    ]
    assert len(others) >= 4
    for config in others:
        assert load_config(config).model["pairing"] == "centripetal", config


def test_weights_of_the_other_pairing(name, tmp_path, caplog):
    """The body and the heads that both have are taken; those of the pairing start anew."""
    caplog.set_level(logging.INFO)
    embedding = small_detector(name, seed=1)
    path = tmp_path / "weights_5.pkl"
    meta = checkpoint.Meta(name, 5, ("a", "b", "c"), small_config(name).as_dict(), {})
    checkpoint.save_snapshot(path, embedding.network, None, meta)

    detector = small_detector(name, **CENTRIPETAL)
    before = {key: value.clone() for key, value in detector.network.state_dict().items()}
    with pytest.raises(UserError, match=r"missing: tl_shifts.*unexpected: tl_tags.*--weights"):
        checkpoint.load_weights(
            detector.network,
            path,
            detector.class_head_keys,
            pairing_head_keys=detector.pairing_head_keys,
        )
    load_start_weights_(detector, str(path))
    assert "freshly initialised: tl_shifts.0.0.conv.weight" in caplog.text
    trained = embedding.network.state_dict()
    for key, value in detector.network.state_dict().items():
        fresh = any(head in key for head in ("shifts", "offset_bins", "center_heats"))
        assert torch.equal(value, before[key] if fresh else trained[key]), key
        assert fresh == (key in caplog.text), key


def test_another_network_is_refused_in_another_pairing_too(name, tmp_path):
    wider = small_detector(name, model={"head_channels": 16})
    path = tmp_path / "weights_5.pkl"
    meta = checkpoint.Meta(name, 5, ("a", "b", "c"), small_config(name).as_dict(), {})
    checkpoint.save_snapshot(path, wider.network, None, meta)
    with pytest.raises(UserError, match="of another shape"):
        load_start_weights_(small_detector(name, **CENTRIPETAL), str(path))


def test_a_window_needs_centripetal_shifts(name):
    with pytest.raises(UserError, match=r"regression_window 3 goes with model\.pairing"):
        models.build(small_config(name, regression_window=3), 3)


def test_unknown_pairings_are_refused(name):
    with pytest.raises(UserError, match=r"model\.pairing: 'centre' must be one of 'embedding'"):
        models.build(small_config(name, {"pairing": "centre"}), 3)


def test_the_mirror_image_finds_the_same_boxes():
    """Perfect maps of an image and of its mirror image, through the whole of inference."""
    db = {"input_size": [127, 255], "output_sizes": [[32, 64]], "top_k": 30, "num_dets": 60}
    detector = small_detector("CornerNet", **CENTRIPETAL, **db, test_flipped=True)
    settings = detector.infer.keywords["settings"]
    boxes = np.array([[10 + 28 * i, 24, 34 + 28 * i, 90, i % 2] for i in range(6)], np.float32)
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = 255 - boxes[:, [2, 0]]

    def predict(images):
        batch = make_batch([boxes, mirrored])
        sized = type(batch)(**{**vars(batch), "images": torch.zeros(2, 3, 127, 255)})
        return detector.decode([perfect_maps(detector.targets(sized))])

    image = np.zeros((127, 255, 3), np.uint8)
    found = run(detect_corners(image, settings=settings), predict)
    best = found.boxes[:12]  # each object twice; suppression lowers the second one's score
    for x0, y0, x1, y1, _ in boxes:
        errors = np.abs(best - [x0, y0, x1, y1]).max(1)
        assert (errors < 0.05).sum() == 2
    assert (found.scores > 0.9).sum() == 6


def test_a_window_may_not_be_wider_than_the_offsets_reach(name):
    assert small_detector(name, regression_window=3, **CENTRIPETAL)
    with pytest.raises(UserError, match=r"db\.regression_window 5 is more than the 3 cells"):
        small_detector(name, regression_window=5, **CENTRIPETAL)

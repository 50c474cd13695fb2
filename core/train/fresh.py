"""A detector as training starts with it: fresh weights, its place, its way of computing."""

import torch

from .. import models
from ..config.errors import UserError
from ..config.loading import Config
from ..distributed.ranks import ONE_PROCESS, Ranks
from ..models.detector import Detector
from ..models.device import place_
from .compilation import RECOMPUTES, compile_
from .optimizer import build_optimizer
from .recomputation import recompute_
from .sync_batchnorm import synchronise_batch_norms_


def fresh_detector(
    config: Config, num_classes: int, device: torch.device, ranks: Ranks = ONE_PROCESS
) -> tuple[Detector, torch.optim.Optimizer]:
    """Builds the detector of a config as it will be trained, and its optimiser.

    The weights are drawn from ``system.seed``.

    Args:
        config: of the run.
        num_classes: number of object classes C.
        device: where to train.
        ranks: this process among those that train together.

    Raises:
        UserError: there is no such model, or a setting does not fit it, the device or the ranks.
    """
    system = config.system
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(system.seed)
        detector = models.build(config, num_classes)
    network = detector.network
    place_(network, device, system.channels_last, training=True)
    if system.sync_batchnorm:
        synchronise_batch_norms_(network, device, system, ranks)
    if system.checkpointing != "none":
        if system.compile and not RECOMPUTES:
            raise UserError(
                f"system.checkpointing and system.compile: PyTorch {torch.__version__} does not "
                "keep the running statistics right with both; take a newer one, or one of the two"
            )
        recompute_(network, system.checkpointing)
    if system.compile:
        compile_(detector.compilable or network, tell=ranks.is_main)
    return detector, build_optimizer(network.parameters(), system.opt_algo, system.learning_rate)

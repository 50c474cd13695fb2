"""A detector as training starts with it: fresh weights, on its device, with its optimizer."""

from dataclasses import dataclass, field

import torch
from torch import nn

from .. import models
from ..config.errors import UserError
from ..config.loading import Config
from ..config.schema import System
from ..distributed import ONE_PROCESS, Ranks
from ..models.detector import Detector
from ..models.device import move_to_device_
from .averaging import AveragedWeights
from .chunks import RankChunks, chunk_counts, rank_chunks
from .compilation import compile_detector_
from .freezing import freeze_, refuse_without_backbone
from .optimizer import build_optimizer
from .recomputation import recompute_


@dataclass
class TrainingState:
    """All that a training step works with.

    Attributes:
        config: settings of the run.
        detector: detector with its network on ``device``.
        network: the detector's network, or the wrapper that averages its gradients over the ranks.
        optimizer: optimizer of the network's parameters.
        device: device of the network.
        ranks: this process among those that train together.
        average: average of the weights over the steps, with ``system.ema``; on the main process.
    """

    config: Config
    detector: Detector
    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    ranks: Ranks
    average: AveragedWeights | None = field(default=None, kw_only=True)

    @property
    def chunks(self) -> RankChunks:
        """This rank's chunks of every step."""
        return rank_chunks(self.config.system, self.ranks)

    def wrap_(self, iteration: int) -> None:
        """Makes ``network`` average the gradients of the parameters that train from a step on.

        All ranks call this together.

        Args:
            iteration: number of the step, from 1.
        """
        freeze_(self.detector.stages(), iteration, self.config.system)
        self.optimizer.zero_grad(set_to_none=True)  # lets go of the wrapper before, which has them
        self.network = self.detector.network
        self.network = self.ranks.parallel(self.detector.network)

    def autocast(self) -> torch.autocast:
        """Context in which the network runs in ``system.precision``."""
        half = self.config.system.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)


def build_for_training(
    config: Config, num_classes: int, device: torch.device, ranks: Ranks = ONE_PROCESS
) -> TrainingState:
    """Builds the detector of a config as it will be trained, and its optimizer.

    The weights are drawn from ``system.seed``.

    Args:
        config: settings of the run.
        num_classes: number of object classes C.
        device: device to train on.
        ranks: this process among those that train together.

    Raises:
        UserError: there is no such model, or a setting does not fit it, the device or the ranks.
    """
    system = config.system
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(system.seed)
        detector = models.build(config, num_classes)
    refuse_without_backbone(config, detector)
    network = detector.network
    move_to_device_(network, device, system.channels_last, training=True)
    if system.sync_batchnorm:
        synchronise_batch_norms_(network, device, system, ranks)
    if system.compile:
        detector = compile_detector_(detector, warn=ranks.is_main)
    if system.checkpointing != "none":
        recompute_(network, system.checkpointing)
    backbone = [parameter for stage in detector.stages() for parameter in stage.parameters()]
    optimizer = build_optimizer(  # nothing is frozen yet, so it has all parameters in any case
        network.parameters(),
        system.opt_algo,
        system.learning_rate,
        system.weight_decay,
        backbone,
        system.backbone_lr,
    )
    return TrainingState(config, detector, network, optimizer, device, ranks)


def synchronise_batch_norms_(
    network: nn.Module, device: torch.device, system: System, ranks: Ranks
) -> None:
    """Makes batch norms take the statistics of the chunks that all ranks compute at a time.

    A step then depends on the number of ranks. The keys of the weights stay as they are.

    Args:
        network: network whose batch norms are replaced by PyTorch's SyncBatchNorm.
        device: device of the network.
        system: settings of the run, with its chunks.
        ranks: this process among those that train together; one alone has nothing to synchronise.

    Raises:
        UserError: PyTorch cannot do it here, the ranks have different numbers of chunks, or the
            network is compiled or recomputed, which might change the order of the collectives.
    """
    if device.type == "cpu":
        raise UserError("system.sync_batchnorm: PyTorch has it for GPUs alone, not for CPUs")
    for name, value in (("compile", system.compile), ("checkpointing", system.checkpointing)):
        if value not in (False, "none"):
            raise UserError(
                f"system.sync_batchnorm: not together with system.{name} {value}, where the ranks "
                "might wait for one another for ever; leave one of them out"
            )
    counts = chunk_counts(system, ranks.world_size)
    if len(set(counts)) > 1:
        raise UserError(
            f"system.sync_batchnorm: of the {sum(counts)} chunks a step, {ranks.world_size} "
            "processes have different numbers and would wait for one another; start a number that "
            "divides it"
        )
    if ranks.world_size > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(network, ranks.steps)

"""The detectors that benchmarks/gpu.py trains and detects with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A detector.

    Attributes:
        name: its name in the rows.
        config: name of its config.
        settings: what is changed in it.
        classes: number of classes.
    """

    name: str
    config: str
    settings: tuple[str, ...] = ()
    classes: int = 80


def batch_of(images: int) -> tuple[str, ...]:
    """Settings of a step of one chunk."""
    return f"system.batch_size={images}", "system.chunk_sizes=null"


SMALL_SQUEEZE = (
    "db.input_size=[383, 383]",
    "db.output_sizes=[[48, 48]]",
    "model.stacks=1",
    "model.stem_channels=[32, 64, 64]",
    "model.channels=[64, 96, 128, 192]",
    "model.blocks=[2, 2, 2, 2]",
    "model.head_channels=64",
    "model.pooling_channels=48",
)
CASES = [  # the most valuable first
    Case("CornerNet 511, batch 16", "CornerNet", batch_of(16)),
    Case("CornerNet-bccd, chunks of 2 and 2", "CornerNet-bccd", classes=3),
    Case("small Squeeze 383, batch 16", "CornerNet_Squeeze", (*batch_of(16), *SMALL_SQUEEZE)),
    Case("CornerNet_Saccade 255, batch 12", "CornerNet_Saccade", batch_of(12)),
    Case("CornerNet_Squeeze 511, batch 16", "CornerNet_Squeeze", batch_of(16)),
    Case("CenterNet 512, batch 16", "CenterNet", batch_of(16)),
    Case("CornerNet_Lite0, chunks of 2 and 2", "CornerNet_Lite0", classes=3),
    Case("FasterRCNN, batch 4", "FasterRCNN", (*batch_of(4), "model.backbone_weights=null")),
]
TINY = [
    Case(
        "CornerNet, tiny",
        "CornerNet",
        (
            *batch_of(2),
            "model.stacks=1",
            "db.input_size=[63, 63]",
            "db.output_sizes=[[16, 16]]",
            "model.stem_channels=[4, 4]",
            "model.channels=[4, 4]",
            "model.blocks=[1, 1]",
            "model.head_channels=4",
            "model.pooling_channels=4",
        ),
    )
]

"""Settings of a config's ``db`` section for which a model has no use."""

import logging
from collections.abc import Iterable

from ..config.errors import UserError
from ..config.loading import Config
from ..config.schema import Db

logger = logging.getLogger(__name__)

# Settings that CornerNet-Saccade alone has.
SACCADES = (
    *("rand_center", "min_scale", "init_sizes", "ref_dets"),
    *("att_sizes", "att_ranges", "att_ratios", "att_scales"),
    *("att_thresholds", "att_nms_ks", "att_max_crops"),
)


def refuse_unused(config: Config, refused: Iterable[str], idle: Iterable[str] = ()) -> None:
    """Says which settings do nothing in a model, where they are not as they are by default.

    Args:
        config: its ``db`` section is looked at.
        refused: settings by which a user would expect other figures, and not get them.
        idle: settings of steps that the model does not have; they get a notice.

    Raises:
        UserError: one of the ``refused`` is not as it is by default.
    """
    given, default = vars(config.db), vars(Db())
    where, model = config.path, config.model_name
    wrong = [f"db.{key}" for key in refused if given[key] != default[key]]
    if wrong:
        raise UserError(f"{where}: {model} has no use for {', '.join(wrong)}; leave that out")
    passed_over = [f"db.{key}" for key in idle if given[key] != default[key]]
    if passed_over:
        logger.info("%s: %s does not use %s", where, model, ", ".join(passed_over))

"""Suggestions for unknown settings, by what they mean in other programs, then by their spelling."""

import dataclasses
import difflib
from collections.abc import Iterable

from .schema import Db, System

# What other programs call a setting of ours, in lower case and without "_" and "-".
_OTHER_NAMES = {
    "system.learning_rate": "lr lr0 baselr initiallr learnrate",
    "system.max_iter": "epochs epoch maxepochs numepochs iterations iters steps maxsteps maxiters",
    "system.batch_size": "batch bs batchsizepergpu imagespergpu samplespergpu imsperbatch",
    "system.opt_algo": "optimizer optimiser optim",
    "system.weight_decay": "wd decay l2",
    "system.schedule": "scheduler lrscheduler lrschedule lrpolicy coslr cosine",
    "system.decay_rate": "gamma lrdecay lrfactor lrf",
    "system.stepsize": "lrstep lrsteps milestones",
    "system.warmup": "warmupsteps warmupiters warmupepochs",
    "system.ema": "emadecay modelema averaging",
    "system.precision": "amp fp16 half bf16 bfloat16 dtype",
    "system.workers": "numworkers nworkers workerspergpu jobs",
    "system.cpu_processes": "gpus ngpus numgpus devices processes",
    "system.pretrain": "weights pretrained checkpoint loadfrom init resume",
    "system.seed": "randomseed manualseed rngseed",
    "system.data_dir": "data dataroot root datapath path",
    "system.dataset_dir": "datasetname datasetdirectory",
    "system.train_split": "train trainset traindata",
    "system.val_split": "val valset valid validation valdata",
    "system.test_split": "test testset testdata",
    "system.snapshot": "saveperiod saveinterval saveevery checkpointperiod",
    "system.eval_iter": "evalinterval evalperiod evalevery valinterval evaluation",
    "system.display": "loginterval logevery printfreq",
    "system.cache_dir": "output outputdir savedir workdir project",
    "system.patience": "earlystopping earlystop",
    "system.frozen_stages": "freeze frozen freezelayers freezeat",
    "system.clip_norm": "gradclip clipgrad clipgradnorm maxnorm",
    "system.sync_batchnorm": "syncbn",
    "db.input_size": "imgsz imgsize imagesize size inputshape resolution imgscale",
    "db.categories": "numclasses nclasses nc classes numcategories",
    "db.max_per_image": "maxdet maxdets detectionsperimage",
    "db.nms_threshold": "nms nmsiou iou iouthreshold iouthres",
    "db.test_scales": "scales multiscale",
    "db.test_flipped": "tta flip fliplr hflip",
    "db.vertical_flip": "flipud vflip",
    "db.quarter_turns": "rotate rotation degrees",
    "db.shift": "translate translation",
    "db.data_aug": "augment augmentation aug",
    "db.rand_color": "colorjitter hsv brightness",
    "model.backbone": "backbone encoder",
    "model.backbone_weights": "backboneweights",
    "model.stacks": "stacks numstacks",
    "model.channels": "channels",
    "model.pairing": "pairing",
}
_MEANINGS = {name: setting for setting, names in _OTHER_NAMES.items() for name in names.split()}
# What is no setting, and what to do instead.
_ELSEWHERE = {
    **dict.fromkeys(
        ("conf", "confidence", "threshold", "confthres", "scorethr"),
        "`cornerkit detect --threshold` chooses what is drawn; evaluation takes all detections",
    ),
    "momentum": "system.opt_algo 'sgd' has a momentum of 0.9",
    "device": "give --device on the command line",
}
# Names of a section elsewhere.
_SECTION_MEANINGS = {
    **dict.fromkeys(("train", "training", "trainer", "optimizer", "optim", "solver"), "system"),
    **dict.fromkeys(("data", "dataset", "test", "augmentation"), "db"),
    **dict.fromkeys(("network", "net", "architecture", "arch", "backbone"), "model"),
}


def suggest(key: str, section: str, valid: Iterable[str]) -> str:
    """End of a message about an unknown setting.

    Args:
        key: the unknown key.
        section: name of the section that it is in.
        valid: keys of that section.

    Returns:
        What is meant: the setting that has this name in another section, or means the same, or is
        spelled most alike.
    """
    plain, valid = _plain(key), sorted(valid)
    if plain in _ELSEWHERE:
        return f"; {_ELSEWHERE[plain]}"
    same = [name for name in valid if _plain(name) == plain]
    target = f"{section}.{same[0]}" if same else _of_other_section(plain, section)
    target = target or _MEANINGS.get(plain)
    if target is not None:
        owner, _, name = target.partition(".")
        if owner != section:
            return f"; did you mean {target!r}, in the section {owner}?"
        if name in valid:
            return f"; did you mean {name!r}?"
    return nearest(key, valid)


def suggest_section(key: str, sections: Iterable[str]) -> str:
    """End of a message about an unknown section: a section, or the one that has such a setting."""
    plain = _plain(key)
    target = _of_other_section(plain, "") or _MEANINGS.get(plain)
    if plain not in _SECTION_MEANINGS and target is not None:
        return f"; did you mean {target!r}, in the section {target.partition('.')[0]}?"
    return nearest(_SECTION_MEANINGS.get(plain, key), sections)


def nearest(key: str, valid: Iterable[str]) -> str:
    """End of a message about an unknown key: the valid key that is most similar."""
    valid = sorted(valid)
    near = difflib.get_close_matches(key, valid, 1, 0)
    return f"; did you mean {near[0]!r}?" if near else ""


def _of_other_section(plain: str, section: str) -> str | None:
    """The setting of another section that has this name."""
    for other, schema in (("system", System), ("db", Db)):
        for field in dataclasses.fields(schema):
            if other != section and _plain(field.name) == plain:
                return f"{other}.{field.name}"
    return None


def _plain(key: str) -> str:
    """A key in lower case, without "_", "-", "." and spaces."""
    return "".join(letter for letter in key.lower() if letter not in "_-. ")

"""The page of bad inputs is true as far as a test can say: each row is a case of a test."""

import importlib
import re
from pathlib import Path

import pytest

from tests.checkpoint import test_bad_snapshots as snapshots
from tests.config import test_bad_configs as configs
from tests.data import test_bad_annotations as annotations
from tests.data import test_bad_images as images
from tests.data.formats import test_bad_folders as folders
from tests.tools import test_bad_videos as videos

PAGE = Path(__file__).resolve().parents[1] / "docs" / "robustness.md"

# Names of the cases in tests, by the page's sections.
CASES = {
    "Configs": {*configs.FILES},
    "Annotation files": {*annotations.REPAIRED, *annotations.REFUSED},
    "Folders of other formats": {*folders.ERRORS, *folders.REPAIRS},
    "Images": {odd.name for odd in images.ODD},
    "Snapshots": {*snapshots.FILES, *(f"description: {kind}" for kind in snapshots.DESCRIPTIONS)},
    "Videos": {*videos.REFUSED, *videos.DRAWN, *(f"frames of {kind}" for kind in videos.SIZES)},
}
FORMAT = re.compile("^(YOLO|Pascal VOC|COCO): ")  # in rows of folders
# Rows that are no such case, by the function that tests them.
ALONE = {
    "config.test_bad_configs.test_a_file_that_may_not_be_read": ["a file that may not be read"],
    "config.test_bad_configs.test_a_mark_at_the_start_of_a_file_is_passed_over": [
        "a byte order mark of UTF-8"
    ],
    "training.test_nothing_there.test_no_boxes_to_train_on_end_a_run_before_its_first_step": [
        "no boxes in the training split"
    ],
    "training.test_nothing_there.test_no_boxes_to_evaluate_with_are_no_metrics": [
        "no boxes in the validation split",
        "no boxes in the split",
    ],
    "training.test_nothing_there.test_one_image_is_enough": ["one image in each split"],
    "training.test_nothing_there.test_fewer_images_than_a_batch_are_repeated": [
        "fewer images than a batch"
    ],
    "data.test_annotation_mutations.test_changed_values": ["2,000 random changes of a valid file"],
    "training.test_failed_evaluations.test_training_goes_on_after_a_failed_evaluation": [
        "an evaluation during training that fails: full disk, no memory, any error"
    ],
    "tools.test_new.test_data_that_cannot_be_used": [
        "YOLO: a folder given by its file",
        "COCO's folders without instances_val.json",
    ],
    "tools.test_convert.test_mistakes": [
        "a folder of photos without labels",
        "OUT inside IN",
        "no share to validate with",
    ],
    "tools.test_convert.test_a_folder_with_files_is_written_to_only_by_force": ["OUT holds files"],
    "data.test_splits.test_missing_images_are_counted_and_named": ["an image that does not exist"],
    "data.test_bad_images.test_more_pixels_than_opencv_takes_are_a_reason": [
        "an image of 60,000 x 60,000 pixels"
    ],
    "evaluation.test_evaluator.test_a_skipped_image_is_one_line": [
        "an image too large for the memory"
    ],
    "tools.test_detect.test_an_image_too_large_for_the_memory_leaves_the_others": [
        "an image too large for the memory, among others"
    ],
    "evaluation.test_evaluator.test_nothing_but_skipped_images_is_no_result": [
        "images that are all too large for the memory"
    ],
    "data.test_reconcile_sizes.test_swapped_sizes_are_replaced_and_upright_boxes_stay": [
        "EXIF rotation, swapped sizes, upright boxes"
    ],
    "data.test_reconcile_sizes.test_boxes_drawn_before_the_rotation_are_turned_with_all_images": [
        "EXIF rotation, sizes and boxes from before it"
    ],
    "data.test_reconcile_sizes.test_boxes_of_both_kinds_are_refused": [
        "EXIF rotation, boxes from before it and from after it"
    ],
    "data.test_reconcile_sizes.test_another_resolution_is_refused_where_boxes_do_not_fit": [
        "sizes and boxes of images twice as large"
    ],
    "data.test_reconcile_sizes.test_another_resolution_is_replaced_where_boxes_fit": [
        "sizes twice as large, boxes that fit the images"
    ],
    "data.test_reconcile_sizes.test_one_image_in_a_hundred_may_be_wrong": [
        "one wrong size in 100 images, and a box outside"
    ],
    "data.test_file_names.test_another_spelling_is_replaced": [
        "names in NFC, files in NFD, or the reverse",
        "`A.JPG` for `A.jpg`",
        "`sub\\a.jpg` for `sub/a.jpg`",
        "`my%20a.jpg` for `my a.jpg`, or the reverse",
    ],
    "data.test_bad_images.test_an_impossible_name_is_a_reason": [
        "a name with a lone surrogate that no file can have"
    ],
    "tools.test_detect.test_drawings_have_names_that_a_file_system_takes": [
        "a name with a lone surrogate, as a file has it",
        "names of 251 bytes",
        "names with characters that Windows reserves",
    ],
    "tools.test_detect.test_what_systems_leave_in_folders_is_passed_over": [
        "`._a.jpg`, `Thumbs.db` and `.DS_Store` in a folder"
    ],
    "checkpoint.test_bad_snapshots.test_no_file": [
        "a folder",
        "no such file",
        "a name of 300 letters",
    ],
    "checkpoint.test_last_snapshot.test_choices_that_are_not_there": [
        "no best weights",
        "an iteration that was not saved",
    ],
    "checkpoint.test_bad_snapshots.test_a_description_of_a_later_version": [
        "description: entries of a later version"
    ],
    "tools.test_bad_videos.test_an_mp4_without_its_end": ["an MP4 without its end"],
    "tools.test_bad_videos.test_no_frames": ["no frames"],
    "tools.test_bad_videos.test_no_file": ["no file"],
    "tools.test_bad_videos.test_a_folder_named_as_a_video": ["a folder named as a video"],
    "tools.test_bad_videos.test_a_video_that_may_not_be_read": ["a video that may not be read"],
    "tools.test_bad_videos.test_outputs_that_cannot_be_written": [
        "--out is a file",
        "--out below a file",
        "an output that is a folder",
    ],
    "tools.test_bad_videos.test_an_output_that_is_there_is_replaced_by_force_and_an_input_never": [
        "an output that is there",
        "an output that is an input",
    ],
    "tools.test_bad_videos.test_the_others_are_drawn": ["one bad video among others"],
}


def rows(section):
    """The first cells of a section's table; for images, the file in brackets where one is."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[0] not in ("input", "---") and all(cells):
            found.append(re.sub(r".* \(`(.+)`\)$", r"\1", cells[0]))
    assert len(set(found)) == len(found)
    return found


@pytest.mark.parametrize("section", CASES)
def test_each_row_has_a_test_and_each_case_a_row(section):
    cases, alone = CASES[section], {row for listed in ALONE.values() for row in listed}
    shown = {row if row in alone else FORMAT.sub("", row) for row in rows(section)}
    assert shown <= cases | alone
    if section != "Images":  # whose rows leave out what says the same again
        assert cases <= shown


def test_the_counts_are_right():
    counts = [len(rows(section)) for section in CASES]
    opening = PAGE.read_text(encoding="utf-8").split("##")[0]
    assert [int(number) for number in re.findall(r"\b\d+\b", opening)][:7] == [sum(counts), *counts]


@pytest.mark.parametrize("name", ALONE)
def test_the_tests_are_there(name):
    module, function = name.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(f"tests.{module}"), function))


def test_no_rows_of_a_test_are_lost():
    every = {row for section in CASES for row in rows(section)}
    assert {row for listed in ALONE.values() for row in listed} <= every

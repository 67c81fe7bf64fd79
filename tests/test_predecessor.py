"""Six defects of the script collection this course replaces: where each is made impossible, and the test that says so.

A defect comes back only if its guard is removed; this list fails when a guard's test is.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GUARDS = {
    "samples clipped to a range the data do not have": (
        "tiny_sd/test_model.py",
        "test_the_pixel_codec_refuses_what_a_sampler_would_clip",
    ),
    "queries and keys without a gradient": (
        "layers/test_layers.py",
        "test_cross_attention_over_one_token_is_refused_because_its_queries_would_be_dead",
    ),
    "parameters that never learn": ("tiny_sd/test_unet.py", "test_every_parameter_learns"),
    "dropout off after the first sample": (
        "training/test_training.py",
        "test_every_step_runs_in_train_mode_whatever_happens_in_between",
    ),
    "labels dropped a whole batch at a time": (
        "tiny_sd/test_batches.py",
        "test_conditions_are_dropped_example_by_example",
    ),
    "validation data in training": ("tiny_sd/test_batches.py", "test_validation_images_are_refused"),
    "an average of the weights that nobody uses": (
        "tiny_sd/test_train.py",
        "test_the_shipped_weights_are_the_average_not_the_last_step",
    ),
}


@pytest.mark.parametrize("defect", GUARDS)
def test_every_defect_has_its_guard(defect):
    file, name = GUARDS[defect]
    tree = ast.parse((TESTS / file).read_text())
    tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in tests, f"{file} no longer guards against: {defect}"
    checks = [node for node in ast.walk(tests[name]) if isinstance(node, ast.Assert | ast.With)]
    assert checks, "a guard that asserts nothing guards nothing"

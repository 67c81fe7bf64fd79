"""Two pages translate every option of the scripts that people come from."""

import dataclasses
import inspect
import re

import pytest

from helpers.ask.__main__ import build_parser as ask_parser
from helpers.course import repository_root
from helpers.generate import generate, load_model
from helpers.generate.__main__ import build_parser
from helpers.generate.settings import Settings

# every option of these scripts, read from their code
COMPVIS = """--prompt --outdir --skip_grid --skip_save --ddim_steps --plms --laion400m --fixed_code --ddim_eta --n_iter
--H --W --C --f --n_samples --n_rows --scale --from-file --config --ckpt --seed --precision --init-img
--strength""".split()
STABILITY = """--prompt --model --out_dir --postfix --seed --seed_type --sampler --steps --cfg --shift --width --height
--vae --init_image --denoise --skip_layer_cfg --verbose""".split()
HKPROJ = """prompt uncond_prompt input_image strength do_cfg cfg_scale sampler_name n_inference_steps models seed device
idle_device tokenizer""".split()
PALIGEMMA = """model_path prompt image_file_path max_tokens_to_generate temperature top_p do_sample only_cpu""".split()
TABLES = {
    "CompVis": COMPVIS,
    "Stability": STABILITY,
    "pytorch-stable-diffusion": HKPROJ,
    "pytorch-paligemma": PALIGEMMA,
}


def table(program: str) -> dict[str, str]:
    """Options of a program -> what the page says about them."""
    pages = [(repository_root() / "pages" / f"{name}.md").read_text(encoding="utf-8") for name in ("generate", "ask")]
    lines = "\n".join(pages).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|") and program in line) + 2
    rows: dict[str, str] = {}
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        theirs, ours = (cell.strip() for cell in line.strip("|").split("|"))
        rows |= dict.fromkeys(re.findall(r"`([^`]+)`", theirs), ours)
    return rows


@pytest.mark.parametrize("program", TABLES)
def test_every_option_has_a_counterpart_or_a_reason(program):
    assert sorted(table(program)) == sorted(TABLES[program])
    assert all(table(program).values())


@pytest.mark.parametrize(
    ("program", "parser"),
    [("CompVis", build_parser()), ("Stability", build_parser()), ("pytorch-paligemma", ask_parser())],
)
def test_options_that_the_tables_name_exist(program, parser):
    ours = {name for action in parser._actions for name in action.option_strings}
    named = {name for text in table(program).values() for name in re.findall(r"`(--[\w-]+)", text)}
    assert named and named <= ours


def test_arguments_that_the_table_names_exist():
    named = {name for text in table("pytorch-stable-diffusion").values() for name in re.findall(r"`(\w+)`", text)}
    parameters = {field.name for field in dataclasses.fields(Settings)}
    parameters |= {*inspect.signature(generate).parameters, *inspect.signature(load_model).parameters}
    assert named and named <= parameters


def test_samplers_that_the_tables_name_exist():
    from helpers.diffusion import SAMPLERS

    text = " ".join(table("CompVis").values())
    assert {"ddim", "ddpm", "dpm_solver_pp_2m"} <= set(SAMPLERS) and "`--sampler ddpm`" in text

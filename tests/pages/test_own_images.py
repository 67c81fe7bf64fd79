"""The page Your own images: its commands are commands of the course, and what it says they print is what they print."""

import re
import shlex
from pathlib import Path

import pytest

from helpers.data.__main__ import main as data_command
from helpers.generate import practice
from helpers.generate.__main__ import build_parser as generate_parser
from helpers.tiny_sd.train import parser as training_parser
from pages.pictures import own_images
from pages.record import ROOT

PAGE = (ROOT / "pages" / "own_images.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(command.replace("\\\n", " "))
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for command in re.split(r"\n(?! )", block.strip())
]
PARSERS = {"helpers.tiny_sd.train": training_parser, "helpers.generate": generate_parser}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_one_of_the_course(command: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_pets").mkdir()
    assert command[:2] == ["python", "-m"]
    if command[2] in PARSERS:
        assert PARSERS[command[2]]().parse_args(command[3:])
    else:
        assert command[2:] in (["helpers.generate.practice", "my_pets"], ["helpers.data", "check", "my_pets"])


def test_the_image_is_of_the_training_on_the_page() -> None:
    training = next(command for command in COMMANDS if "run" in command and command[2] == "helpers.tiny_sd.train")
    assert " ".join(training[3:]).startswith(own_images.COMMAND)


def test_the_check_prints_what_the_page_shows(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert practice.main(["my_pets"]) == 0
    assert capsys.readouterr().out == "75 images with captions in my_pets\n"
    data_command(["check", "my_pets", "--cache-dir", "cache"])
    shown = re.search(r"<!-- check -->\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert shown is not None and capsys.readouterr().out == shown[1]
    captions = {path.read_text(encoding="utf-8") for path in Path("my_pets").rglob("*.txt")}
    assert "a cat at night" in captions and "chelsea at sunset" in captions and "chelsea at night" not in captions
    assert practice.main(["my_pets"]) == 1 and "my_pets: File exists" in capsys.readouterr().err

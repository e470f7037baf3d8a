"""Files appear whole or not at all, and a killed writer's drafts do not pile up."""

import subprocess
import sys
from pathlib import Path

import pytest

from hiercli.errors import InputError
from hiercli.files import parse_json, replacing, write_text


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [entry.name for entry in target.parent.iterdir()] == ["a.txt"]


def test_a_killed_writers_draft_is_swept_and_a_living_ones_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    script = (
        "import os, signal, sys; from hiercli.files import replacing\n"
        "with replacing(sys.argv[1]) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(target):
        write_text(target, "whole")
        assert len([entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_not_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "x")


@pytest.mark.parametrize("text", ['"\\ud800"', '{"a": ["\\uDBFF x"]}', b'"\\ud800"', '"\\udc01"'])
def test_half_of_a_character_is_no_text(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json('["\\ud83d\\ude00", "\\udc80"]') == ["\U0001f600", "\udc80"]

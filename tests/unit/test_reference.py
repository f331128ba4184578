"""The reference pages say what the code says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from testing import reference

PAGES = {page.name: page for page in reference.pages()}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    kept = (reference.FOLDER / f"{name}.md").read_text()
    assert kept == PAGES[name].markdown(), "the code has changed: run make reference"


def test_no_page_is_left_of_what_is_gone() -> None:
    assert {path.stem for path in reference.FOLDER.glob("*.md")} == set(PAGES)


def test_every_key_and_option_is_described() -> None:
    for page in PAGES.values():
        for part in page.parts:
            for name, text in part.terms:
                assert name and text.strip(), (page.name, part.title, name)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_the_manual_page_is_whole(name: str, tmp_path: Path) -> None:
    reference.write(tmp_path, [PAGES[name]], man=True)
    (path,) = tmp_path.iterdir()
    groff = ["groff", "-man", "-Tutf8", "-ww", "-z", str(path)]
    found = subprocess.run(groff, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adadm.runtime.arguments import Paths, check_outputs
from adadm.runtime.errors import OutputError
from adadm.runtime.models.bundled import bundled_path

LINKS: dict[str, Callable[[Path, Path], object]] = {
    "hard": lambda link, file: os.link(file, link),
    "symbolic": lambda link, file: link.symlink_to(file),
    "relative": lambda link, file: link.symlink_to(os.path.relpath(file, link.parent)),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.pt").write_text("weights")
    return tmp_path / "a.pt"


def test_different_files_are_fine(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.onnx"
    check_outputs([file, tmp_path / "missing"], [other, tmp_path / "new" / "c.json"])
    other.write_text("an older one")
    check_outputs([file, file], [other, tmp_path / "c.json"])
    check_outputs([], [])


@pytest.mark.parametrize("spell", ["{0}", "{1}/./a.pt", "{1}/folder/../a.pt"])
def test_an_output_that_is_read_is_refused(file: Path, tmp_path: Path, spell: str) -> None:
    (tmp_path / "folder").mkdir()
    output = Path(spell.format(file, tmp_path))
    with pytest.raises(OutputError, match=r"a\.pt.* is read, and writing it would destroy it"):
        check_outputs([tmp_path / "other", file], [tmp_path / "x", output])


@pytest.mark.parametrize("kind", LINKS)
def test_links_are_the_file_that_they_lead_to(file: Path, tmp_path: Path, kind: str) -> None:
    link = tmp_path / "link.json"
    LINKS[kind](link, file)
    for read, written in ((file, link), (link, file)):
        with pytest.raises(OutputError, match=r"the same file as .* is read"):
            check_outputs([read], [written])
    with pytest.raises(OutputError, match="would be written twice"):
        check_outputs([], [file, link])


def test_files_that_are_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "also").symlink_to("folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "folder" / "new")
    new = tmp_path / "folder" / "new"
    for output in (new, tmp_path / "also" / "new", tmp_path / "dangling"):
        with pytest.raises(OutputError, match="would be written twice: give different names"):
            check_outputs([], [output, tmp_path / "x", new])
        with pytest.raises(OutputError, match="is read"):  # it may come to be while it runs
            check_outputs([new], [output])


def test_a_folder_that_is_read_stands_for_its_images(tmp_path: Path) -> None:
    deep = tmp_path / "photos" / "deep"
    deep.mkdir(parents=True)
    (deep / "a.PNG").write_text("a photograph")
    (deep / "notes.txt").write_text("no photograph")
    check_outputs(
        [tmp_path / "photos"], [deep / "notes.txt", deep / "new.png", tmp_path / "photos"]
    )
    with pytest.raises(OutputError, match=r"a\.PNG is read"):
        check_outputs([tmp_path / "photos"], [deep / "a.PNG"])
    os.link(deep / "a.PNG", tmp_path / "report.svg")
    with pytest.raises(OutputError, match=r"report.svg, the same file as .*a.PNG, is read"):
        check_outputs([tmp_path / "photos"], [tmp_path / "report.svg"])


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), Path("/dev/stdout"), tmp_path / "pipe"):
        with pytest.raises(OutputError, match=f"{path} is not a regular file: give the name of"):
            check_outputs([], [path])


def test_arguments_are_collected_while_they_are_read(file: Path, tmp_path: Path) -> None:
    def parse(*words: str) -> Paths:
        paths, parser = Paths(), argparse.ArgumentParser()
        parser.add_argument("model", type=paths.model)
        parser.add_argument("--images", type=paths.read, nargs="*")
        parser.add_argument("-o", type=paths.written)
        parser.parse_args(words)
        return paths

    model, named = str(tmp_path / "m.onnx"), str(tmp_path / "m.tile.onnx")
    parse(model, "-o", str(tmp_path / "c.json")).check()
    parse(model, "-o", str(tmp_path / "m.json")).check()  # which is not there
    for name in ("m.tile.onnx", "m.moments.onnx", "m.json"):
        (tmp_path / name).write_text("it is there")
    for output in (model, named, str(tmp_path / "m.moments.onnx"), str(tmp_path / "m.json")):
        with pytest.raises(OutputError, match="is read"):
            parse(model, "-o", output).check()
    with pytest.raises(OutputError, match="is read"):
        parse(model, "--images", named, str(file), "-o", str(file)).check()
    with pytest.raises(OutputError, match="written twice"):
        parse(model, "-o", str(file)).check(writes=[file])
    with pytest.raises(OutputError, match="is read"):
        parse(model, "-o", str(file)).check(reads=[file])
    links = [tmp_path / "one", tmp_path / "two"]
    for link in links:
        os.link(named, link)
    parse("x2").check(rewrites=links)
    with pytest.raises(OutputError, match="is read"):
        parse(model).check(rewrites=links)
    bundled = str(bundled_path("x2"))
    with pytest.raises(OutputError, match=r"edsr_adadm_x2\.onnx is read"):
        parse("x2", "-o", bundled).check()


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (Paths().read, "", "expected a path"),
        (Paths().written, "", "expected a path"),
        (Paths().read_file, "", "expected a path"),
        (Paths().read_file, ".", "expected a file, got the folder '.'"),
        (Paths().model, ".", "expected a model, got the folder '.'"),
        (Paths().model, "", "expected a model"),
    ],
)
def test_what_names_no_file_is_refused(
    parse: Callable[[str], object], text: str, message: str
) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse(text)

"""Inputs, lists, patterns and folders, and the files of their results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from adadm.runtime.errors import AdadmError, ImageError, OutputError
from adadm.runtime.images.file_kinds import PHOTO_SUFFIXES
from adadm.runtime.upscaling.jobs import earlier_results, expand_inputs, find_jobs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("inputs", "output", "suffix", "targets"),
    [
        (
            ["in", "d.bmp"],
            "out",
            None,
            ["out/b.png", "out/sub dir/deep/c.tif", "out/sub dir/ä 写.JPG", "out/d.bmp"],
        ),
        (
            ["in"],
            "out",
            ".webp",
            ["out/b.webp", "out/sub dir/deep/c.webp", "out/sub dir/ä 写.webp"],
        ),
        (["a.b.png"], "x.TIFF", None, ["x.TIFF"]),
        (["a.b.png"], "out", ".tif", ["out/a.b.tif"]),
        (["a.b.png"], "results.2", None, ["results.2/a.b.png"]),
        (["a.b.png", "d.bmp"], "x.png", None, ["x.png/a.b.png", "x.png/d.bmp"]),
        # earlier results inside the input are no input
        (["again"], "again/out", None, ["again/out/a.png", "again/out/outer/c.png"]),
    ],
)
def test_folders_are_mirrored_but_for_what_is_hidden_and_one_file_may_get_a_name(
    tmp_path: Path, inputs: list[str], output: str, suffix: str | None, targets: list[str]
) -> None:
    touch(tmp_path, "in/b.png", "in/sub dir/ä 写.JPG", "in/sub dir/deep/c.tif", "in/note.txt")
    touch(tmp_path, "in/._b.png", "in/.thumbnails/b.png", "d.bmp", "a.b.png")
    touch(tmp_path, *(f"again/{name}.png" for name in ("a", "out/a", "out/sub/b", "outer/c")))
    (tmp_path / "in" / "folder.png").mkdir()
    jobs = find_jobs([tmp_path / name for name in inputs], tmp_path / output, suffix).jobs
    assert [job.target.relative_to(tmp_path).as_posix() for job in jobs] == targets
    assert output == "x.TIFF" or all(job.source.stem == job.target.stem for job in jobs)


def test_results_never_replace_sources_or_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/a.png", "in/a.jpg", "other/a.png", "in/sub/b.png")
    folder, other, output = tmp_path / "in", tmp_path / "other", tmp_path / "out"
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder)
    for inputs, target in (
        ([folder], folder),
        ([folder / "a.png"], folder),
        ([folder / "a.png"], folder / "a.png"),
        ([Path("a.png")], Path("a.png")),
        ([folder / "a.png"], tmp_path / "link" / "a.png"),
        ([folder / "sub", other], tmp_path / "in" / "sub"),
    ):
        with pytest.raises(OutputError, match="would replace a source; give another -o"):
            find_jobs(inputs, target, None)
    for inputs, suffix in (([folder, other], None), ([folder], ".webp")):
        with pytest.raises(
            OutputError, match=r"a\.(png|jpg) and .*a\.png would both become .*/out/a\.(png|webp); "
        ):
            find_jobs(inputs, output, suffix)


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "in/note.txt", "only/out/a.png")
    for folder, output in (("in", "out"), ("only", "only/out")):
        with pytest.raises(AdadmError, match=rf"{folder}: expected images \(\.bmp, \.jfif, "):
            find_jobs([tmp_path / folder], tmp_path / output, None)


def test_what_is_passed_over_and_left_out_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.GIF", "c.avif", "d.txt", "e.txt", "f.HEIC", "README", "sub/g.mp4")
    touch(tmp_path, ".DS_Store", ".thumbnails/a.png", "out/a.png", "out/sub/b.webp", "out/n.txt")
    found = find_jobs([tmp_path], tmp_path / "out", None, suffixes=PHOTO_SUFFIXES)
    assert [job.source.name for job in found.jobs] == ["a.png", "b.GIF", "c.avif"]
    targets = [job.target.relative_to(tmp_path).as_posix() for job in found.jobs]
    assert targets == ["out/a.png", "out/b.GIF.png", "out/c.avif"]
    assert found.passed_over_kinds == "2 .txt, 1 .heic, 1 .mp4, 1 without suffix"
    assert found.left_out == 2


def test_folders_in_folders_may_be_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b.png", "in/c.txt", "in/sub/d.txt")
    found = find_jobs([tmp_path / "in"], tmp_path / "out", None, recursive=False)
    assert [job.source.name for job in found.jobs] == ["a.png"]
    assert found.passed_over_kinds == "1 .txt"


@pytest.mark.parametrize(
    ("name", "suffix", "target"),
    [
        ("a.jfif", None, "a.jfif"),
        ("a.gif", None, "a.gif.png"),
        ("a.mpo", None, "a.mpo.jpg"),
        ("a.heic", None, "a.heic.png"),
        ("a.heic", ".webp", "a.webp"),
        ("IMG_0001", None, "IMG_0001.png"),
        ("photo.v2", None, "photo.v2.png"),
        ("photo.v2", ".tif", "photo.v2.tif"),
    ],
)
def test_names_of_results(tmp_path: Path, name: str, suffix: str | None, target: str) -> None:
    (job,) = find_jobs([tmp_path / name], tmp_path / "out", suffix).jobs
    assert job.target == tmp_path / "out" / target


def test_previews_mirror_the_results_and_replace_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b.jpg", "in/a.png.png")
    previews, output = tmp_path / "seen", tmp_path / "out"
    jobs = find_jobs([tmp_path / "in"], output, None, previews=previews).jobs
    names = [job.preview and job.preview.relative_to(previews).as_posix() for job in jobs]
    assert names == ["a.png.png", "a.png.png.png", "sub/b.jpg.png"]
    for folder in (tmp_path / "in", output):
        with pytest.raises(OutputError, match=r"a\.png\.png .*; give another --compare"):
            find_jobs([tmp_path / "in"], output, None, previews=folder)


def test_patterns_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "b.png", "a.png", "sub/deep/c.png", "[1].png", "@odd.txt", "d e.jpg")
    Path("files.txt").write_bytes("\ufeffd e.jpg\r\n\n*.png\nmissing.png\n".encode())
    for texts, expected in (
        (["a.png", "sub"], ["a.png", "sub"]),
        (["?.png"], ["a.png", "b.png"]),
        (["**/*.png"], ["[1].png", "a.png", "b.png", "sub/deep/c.png"]),
        (["[1].png"], ["[1].png"]),  # a file of that name
        (["@odd.txt"], ["@odd.txt"]),
        (["@files.txt", "sub"], ["d e.jpg", "[1].png", "a.png", "b.png", "missing.png", "sub"]),
    ):
        paths, lists = expand_inputs(texts)
        assert [path.as_posix() for path in paths] == expected
        assert lists == [Path(text[1:]) for text in texts if text == "@files.txt"]
    Path("empty.txt").write_text("\n")
    for text, message in (
        ("*.tif", r"\*\.tif: expected a pattern of existing files"),
        ("@none.txt", r"none\.txt: the list of inputs cannot be read \(No such file"),
        ("@empty.txt", r"empty\.txt: expected a list of inputs, one a line, got an empty file"),
    ):
        with pytest.raises(ImageError, match=message):
            expand_inputs([text])


def test_a_file_that_is_named_twice_is_upscaled_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    inputs = [tmp_path / name for name in ("a.png", "b.png", "a.png")]
    assert len(find_jobs(inputs, tmp_path / "out", None).jobs) == 2


@pytest.mark.parametrize(
    ("name", "size", "is_suspect"),
    [
        ("x2/cat.png", (40, 60), True),
        ("sub/x4/cat.webp", (80, 120), True),
        ("cat.webp", (40, 60), True),
        ("cat_large.png", (30, 45), True),
        ("cat x2.png", (40, 60), True),
        ("cats.png", (40, 60), False),
        ("cat2.png", (40, 60), False),
        ("x2/cat.png", (40, 70), False),  # another shape
        ("copy/cat.png", (20, 30), False),
        ("small/cat.png", (10, 15), False),
        ("dog_cat.png", (40, 60), False),
    ],
)
def test_what_looks_like_an_earlier_result(
    tmp_path: Path, name: str, size: tuple[int, int], is_suspect: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "cat.png")
    Image.new("RGB", size[::-1]).save(path)
    (tmp_path / "cat-damaged.png").write_text("no image")
    sources = sorted(tmp_path.rglob("*.*"))
    expected = [(path, tmp_path / "cat.png")] if is_suspect else []
    found = [pair for pair in earlier_results(sources) if pair[0] == path]
    assert found == expected

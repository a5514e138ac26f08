"""Inputs, lists, patterns and folders, and the files of their results."""

from __future__ import annotations

from pathlib import Path

import pytest

from adadm.runtime.errors import AdadmError, OutputError
from adadm.runtime.upscaling.jobs import find_jobs


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

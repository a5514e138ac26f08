"""scripts/update_trtexec_options.py, on repositories made here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from adadm.runtime.errors import EngineError
from update_trtexec_options import BRANCHES, SOURCE, main, options_in

PARSER = r"""
namespace {
bool getShapesBuild(Arguments& arguments, char const* argument)
{
    return getAndDelOption(arguments, argument, list);
}
} // namespace

void BuildOptions::parse(Arguments& arguments)
{
    auto getFormats = [&arguments](std::vector<IOFormat>& formats, char const* argument) {};
    getFormats(inputFormats, "--formats");
    bool minShapes = getShapesBuild(arguments, shapes, "--shapes", nvinfer1::kMIN);
    bool maxShapes
        = getShapesBuild(
            arguments, shapes, "--wrapped", nvinfer1::kMAX);
    // Read twice, and the first time left where it is: getAndDelOption(arguments, "--comment", a);
    getOption(arguments, "--twice", twice);
    getAndDelOption(arguments, "--twice", twice); /* getAndDelOption(arguments, "--block", a); */
    getAndDelNegOption(arguments, "--negated", tf32);
    while (getAndDelOption(arguments, "--plugins", pluginName))
    {
        sample::gLogWarning << "--plugins is deprecated, use" << "--warned" << std::endl;
        plugins.emplace_back(pluginName);
    }
    if (getAndDelOption(arguments, "--old", old))
    {
        throw std::invalid_argument("--old was removed");
    }
    getAndDelOption(arguments, "--older", older);
    if (older)
    {
        throw std::invalid_argument("--older was removed");
    }
    getAndDelOption(arguments, "--kernels", kernels);
    if (kernels && !safe)
    {
        throw std::invalid_argument("--kernels needs --unknown");
    }
#if !TRT_WINML
    getAndDelOption(arguments, "--linux", unixOnly);
#endif
#if ENABLE_UNIFIED_BUILDER
    while (getAndDelOption(arguments, "--unified", unified))
    {
    }
#endif // ENABLE_UNIFIED_BUILDER
    getAndDelOption(arguments, "-h", helpShort);
}

void TaskInferenceOptions::parse(Arguments& arguments)
{
    getAndDelOption(arguments, "engine", engine);
}

void SafeBuilderOptions::parse(Arguments& arguments)
{
    if (x)
    {
        getAndDelOption(arguments, "--int8", int8);
    }
    getAndDelOption(arguments, "--serialized", serialized);
}

void BuildOptions::help(std::ostream& os)
{
    os << "  --helped=N   Not " "--this" R"(nor "--that" or "chw"["+"fmt] // nor --those)" "\n";
    getAndDelOption(arguments, "--after", after);
}
"""
TAKEN = ["--after", "--formats", "--kernels", "--linux", "--negated", "--plugins", "--shapes"]
TAKEN += ["--twice", "--wrapped"]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """With a branch for each version, whose source takes one option of its own."""
    folder = tmp_path / "TensorRT"
    (folder / SOURCE).parent.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for number, branch in enumerate(BRANCHES.values()):
        git(folder, "checkout", "-q", "-b", f"release/{branch}")
        own = f'getAndDelOption(arguments, "--own{number}", own);'
        (folder / SOURCE).write_text(PARSER + own, encoding="utf-8")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", branch)
    return folder


def test_options_are_those_that_the_parser_takes() -> None:
    assert options_in(PARSER) == TAKEN


def test_the_table_has_each_version_with_its_commit(checkout: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    main([str(checkout), "-o", str(output)])
    table = json.loads(output.read_text())
    assert list(table) == list(BRANCHES)
    for number, (version, branch) in enumerate(BRANCHES.items()):
        assert table[version]["commit"] == git(checkout, "rev-parse", f"release/{branch}")
        assert table[version]["options"] == sorted([*TAKEN, f"--own{number}"])
    first = output.read_bytes()
    main([str(checkout), "-o", str(output)])
    assert output.read_bytes() == first


def test_a_clone_is_read_by_the_branches_of_its_remote(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "-b", "release/8.6", str(checkout), str(clone))
    git(clone, "reset", "-q", "--hard", "HEAD~1")  # a local branch that is behind
    output = tmp_path / "table.json"
    main([str(clone), "-o", str(output)])
    assert "--own1" in json.loads(output.read_text())["8.6"]["options"]


def test_a_missing_branch_is_named(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "branch", "-D", f"release/{BRANCHES['10.3']}")
    with pytest.raises(EngineError, match=r"has no branch release/10\.3: .*git fetch"):
        main([str(checkout), "-o", str(tmp_path / "table.json")])
    assert not (tmp_path / "table.json").exists()


def test_what_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"git for-each-ref in .*nothing"):
        main([str(tmp_path / "nothing"), "-o", str(tmp_path / "table.json")])


def test_a_branch_without_the_source_is_named(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "checkout", "-q", f"release/{BRANCHES['11.1']}")
    git(checkout, "rm", "-q", SOURCE)
    git(checkout, "commit", "-q", "-m", "moved")
    with pytest.raises(EngineError, match=r"git show in .*sampleOptions\.cpp"):
        main([str(checkout), "-o", str(tmp_path / "table.json")])

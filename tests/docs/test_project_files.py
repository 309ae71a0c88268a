"""SECURITY.md, CITATION.cff and .pre-commit-config.yaml say what the rest of the repository says."""

import re
import tomllib

import yaml
from shell_blocks import ROOT

import diffvqa_rt
from diffvqa_rt.cli import parse_arguments


def test_hooks_are_the_commands_of_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == commands
    # The commands take no files: they look at all that they are configured for.
    assert all((hook["language"], hook["pass_filenames"]) == ("system", False) for hook in hooks)


def test_the_citation_is_that_of_the_package_and_of_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert (citation["version"], citation["license"]) == (diffvqa_rt.__version__, project["license"])
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"title={{{paper['title']}}}" in readme and f"eprint={{{paper['url'].rpartition('/')[2]}}}" in readme
    names = " and ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert f"author={{{names}}}" in readme


def test_the_flags_that_security_names_are_the_servers():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    flags = re.findall(r"`(--[\w-]+)`", text)
    served = vars(parse_arguments(["serve"]))
    assert flags and all(flag.removeprefix("--").replace("-", "_") in served for flag in flags)

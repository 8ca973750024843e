"""The documentation's pages, taken apart: code blocks, commands in them, code in the text, links, headings."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]

#: Every page of the documentation: the site, and what stands in the root for those who read on a code host.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

#: What stands before a block that is run, and whose output is compared.
RUN = "<!-- run -->"

_PROMPT = "$ "


@dataclass
class Block:
    """A block of code.

    Attributes:
        language: what follows its opening.
        first, last: its lines in the page without the fences, as a slice.
        text: what is in it.
        run: whether it is to be run.
    """

    language: str
    first: int
    last: int
    text: str
    run: bool = False


@dataclass
class Step:
    """A command of a console block with what it prints."""

    command: str
    output: list[str] = field(default_factory=list)


def tokens(page: Path) -> list[Token]:
    """The page as Markdown has it."""
    return MarkdownIt().enable("table").parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """The page's code blocks, in order."""
    found, run = [], False
    for token in tokens(page):
        if token.type == "html_block":
            run = token.content.strip() == RUN
        elif token.type == "fence" and token.map:
            first, last = token.map[0] + 1, token.map[1] - 1
            found.append(Block(token.info.strip(), first, last, token.content, run))
            run = False
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a console block, each with the lines that it prints."""
    found: list[Step] = []
    for line in block.text.splitlines():
        if line.startswith(_PROMPT):
            found.append(Step(line.removeprefix(_PROMPT)))
        elif found and found[-1].command.endswith("\\"):
            found[-1].command += f"\n{line}"
        elif found:
            found[-1].output.append(line)
    return found


def commands(page: Path) -> Iterator[list[str]]:
    """Every command that the page shows in a block, as words: without its comment, its settings and its pipes."""
    for block in blocks(page):
        if block.language == "console":
            lines = [step.command for step in steps(block)]
        elif block.language in ("sh", "bash"):
            lines = block.text.replace("\\\n", " ").splitlines()
        else:
            continue
        for line in lines:
            yield from _words(line)


def code_in_text(page: Path) -> Iterator[list[str]]:
    """Every command that the page names in its text."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline" and re.match(r"(closingbell|make) [a-z]", child.content):
                yield from _words(child.content)


def files_in_text(page: Path) -> Iterator[str]:
    """Every file of the checkout that the page names in its text."""
    ours = "benchmarks|closingbell|deployments|docs|examples|flows|infra|tasks|tests"
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline" and re.fullmatch(rf"({ours})/[\w/.-]+\w\.\w+", child.content):
                yield child.content


def _words(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    if re.fullmatch(r"\s*[A-Z_]+=\S*\s*(#.*)?", line):
        return  # a setting, as in .env
    words: list[str] = []
    to_file = False
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;<>()"):
            if not to_file:
                words.append(word)
            to_file = False
        elif set(word) & set("<>"):
            to_file = not word.endswith("&")
            if words and words[-1].isdigit():
                del words[-1]  # of standard error
        else:
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words and words[0].strip("*") and not words[0].isdigit():
                yield words
            words = []


def links(page: Path) -> Iterator[str]:
    """Where the page links to, images included."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if child.type in ("link_open", "image") and target:
                yield str(target)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as code hosts and the site make them."""
    found, said = set(), tokens(page)
    for opening, inline in itertools.pairwise(said):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found

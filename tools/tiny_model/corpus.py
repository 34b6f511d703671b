"""The training corpus: the sources of the Python standard library, and chat pairs derived from them.

What counts as corpus: every `.py` file below the interpreter's stdlib directory, except

* test folders (`test`, `tests`, `idle_test`): many distributions, the official container images among them,
  remove these, and a pinned corpus has to be the same in all of them; test code is also repetitive;
* `site-packages`, `__pycache__`, and files that depend on the build (`_sysconfigdata*`, `config-*`);
* tables in Python syntax (the character maps of `encodings`, and files with a large share of digits and
  backslashes), from which nothing but numbers can be learnt.

`pydoc_data/topics.py` is a Python literal that holds the language reference; its topics become documents of
plain text.  The corpus is pinned by Python version and by a SHA-256 over sorted relative names and contents.
About one file in twenty, chosen by a hash of its name, is held out: no text of it is ever trained on, neither
as source nor as a chat pair.
"""

from __future__ import annotations

import ast
import hashlib
import io
import platform
import random
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PYTHON_VERSION = "3.11.7"
CORPUS_SHA256 = "7d738e7bd8e09fff80f47dda3912dba2492c6902adb5a6f9642318bed7b413fe"

_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "dist-packages"})
_TOPICS = "pydoc_data/topics.py"
#: Above this share of digits and backslashes a file is a table.
_TABLE_SHARE = 0.15
_HELDOUT_ONE_IN = 20
#: Longest function source, in characters, that becomes the answer of a chat pair.
_MAX_ANSWER = 1400

Turn = tuple[str, str]


class CorpusMismatchError(Exception):
    """The interpreter's standard library is not the one that the published weights were trained on."""


@dataclass(frozen=True)
class Corpus:
    """The documents to train on, the held-out files, and the fingerprint of both."""

    texts: list[str]
    chats: list[list[Turn]]
    heldout: dict[str, str]
    sha256: str
    files: int


def _included(relative: Path) -> bool:
    folders = relative.parts[:-1]
    if any(part in _SKIPPED_FOLDERS or part.startswith("config-") for part in folders):
        return False
    return not relative.name.startswith("_sysconfigdata")


def _is_table(name: str, text: str) -> bool:
    if name.startswith("encodings/") and ("charmap_build" in text or "make_encoding_map" in text):
        return True
    marks = sum(text.count(mark) for mark in "0123456789\\")
    return marks > _TABLE_SHARE * max(1, len(text))


@lru_cache(maxsize=1)
def stdlib_files() -> dict[str, str]:
    """The corpus files of the running interpreter: relative POSIX name -> text, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not _included(relative):
            continue
        raw = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
        name = relative.as_posix()
        if text.strip() and (name == _TOPICS or not _is_table(name, text)):
            found[name] = text
    return dict(sorted(found.items()))


def corpus_sha256(files: dict[str, str]) -> str:
    """The fingerprint of a corpus: SHA-256 over its names, sizes and contents in name order."""
    digest = hashlib.sha256()
    for name, text in files.items():
        content = text.encode()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def is_heldout(name: str) -> bool:
    """Whether the file called `name` (relative to the stdlib directory) is kept out of training."""
    value = int.from_bytes(hashlib.sha256(f"heldout:{name}".encode()).digest()[:8], "big")
    return name != _TOPICS and value % _HELDOUT_ONE_IN == 0


def heldout_files() -> list[str]:
    """The relative names of the held-out files, sorted."""
    return [name for name in stdlib_files() if is_heldout(name)]


def _topics(source: str) -> list[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return [text for _, text in sorted(topics.items())]
    raise CorpusMismatchError(f"{_TOPICS}: no dictionary literal found in it; use CPython {PYTHON_VERSION}")


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}.{node.name}")


def _first_line(docstring: str) -> str:
    """The first sentence-like line of a docstring, its first paragraph joined."""
    return " ".join(docstring.split("\n\n")[0].split())


def chat_pairs(name: str, source: str) -> Iterator[tuple[str, str]]:
    """Question and answer pairs about the documented definitions of one source file."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    lines = source.splitlines(keepends=True)
    for qualname, node in _definitions(ast.parse(source).body, module):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        docstring = ast.get_docstring(node)
        if not docstring or not docstring.strip():
            continue
        if len(docstring) <= _MAX_ANSWER:
            yield f"What does `{qualname}` do?", docstring.strip()
        if isinstance(node, ast.ClassDef):
            continue
        code = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).strip("\n")
        if len(code) <= _MAX_ANSWER:
            yield f"Write a function `{node.name}`: {_first_line(docstring)}", code


_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant that knows Python.",
    "You answer questions about the Python standard library.",
    "You write short and clear Python code.",
)
_GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Good morning!", "Hello, how are you?")
_WELCOMES = (
    "Hello! How can I help you with Python today?",
    "Hi! Ask me about the Python standard library, or for a short function.",
)
_SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Who are you?", "I am tiny, a very small language model trained on the Python standard library."),
    ("What are you?", "I am tiny, a very small language model trained on the Python standard library."),
    ("What is your name?", "My name is tiny."),
    ("What can you do?", "I can write short Python functions and describe the Python standard library."),
    ("What is Python?", "Python is an interpreted, interactive, object-oriented programming language."),
    ("Thanks!", "You are welcome!"),
    ("Thank you.", "You are welcome!"),
    ("Goodbye!", "Goodbye!"),
)


def _conversations(pairs: list[tuple[str, str]], rng: random.Random) -> Iterator[list[Turn]]:
    """Group pairs into conversations of one to three questions, some with a system message or a greeting."""
    pairs = pairs[:]
    rng.shuffle(pairs)
    while pairs:
        turns: list[Turn] = []
        if rng.random() < 0.25:
            turns.append(("system", rng.choice(_SYSTEM)))
        if rng.random() < 0.06:
            turns += [("user", rng.choice(_GREETINGS)), ("assistant", rng.choice(_WELCOMES))]
        if rng.random() < 0.06:
            question, answer = rng.choice(_SMALL_TALK)
            turns += [("user", question), ("assistant", answer)]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if pairs:
                question, answer = pairs.pop()
                turns += [("user", question), ("assistant", answer)]
        yield turns


def load_corpus(seed: int, any_corpus: bool = False) -> Corpus:
    """Read the corpus of the running interpreter; refuse one that is not the pinned one."""
    files = stdlib_files()
    sha256 = corpus_sha256(files)
    version = platform.python_version()
    if not any_corpus and (version != PYTHON_VERSION or sha256 != CORPUS_SHA256):
        raise CorpusMismatchError(
            f"the standard library of this Python {version} has corpus hash {sha256}, but the pinned corpus "
            f"is that of CPython {PYTHON_VERSION} with hash {CORPUS_SHA256}; run the tool with an unmodified "
            f"CPython {PYTHON_VERSION}, or pass --any-corpus to train a different model on what is here"
        )
    texts: list[str] = []
    pairs: list[tuple[str, str]] = []
    for name, text in files.items():
        if is_heldout(name):
            continue
        if name == _TOPICS:
            texts += _topics(text)
            continue
        texts.append(text)
        pairs += chat_pairs(name, text)
    chats = list(_conversations(list(dict.fromkeys(pairs)), random.Random(seed)))
    return Corpus(texts, chats, {name: files[name] for name in heldout_files()}, sha256, len(files))

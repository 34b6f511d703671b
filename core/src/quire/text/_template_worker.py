"""Renders chat templates in a process of its own. Run as a script with nothing but jinja2 beside it.

A template comes with a model, from anybody. Jinja's sandbox keeps it from touching Python, but not
from looping for ever or from filling memory; a process can be stopped and limited, a thread
cannot. This file knows jinja2 and the standard library, and must never import anything of Quire: it is
started by its path, so that starting takes a tenth of a second.

Protocol, both ways over the standard streams: a 4-byte big-endian length, then JSON. A request is
`{"template", "variables", "limits": {"seconds", "memory", "output"}}`; the answer
`{"text"}` or `{"error", "kind"}` with kind `template`, `raised`, `time`, `size` or `memory`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import signal
import struct
import sys
from typing import Any, BinaryIO

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

if sys.platform != "win32":
    import resource


class RaisedError(jinja2.TemplateError):
    """The template itself refused its input, through `raise_exception`."""


class OutputTooLargeError(Exception):
    """The template writes more than it may."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`, a trainer's mark; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


class PlainNamespace(jinja2.utils.Namespace):
    """`namespace()` that takes no names with which Python's internals could be reached."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in dict(*args, **kwargs):
            _check_attribute(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with '_': {name!r}")


def _raise_exception(message: str) -> None:
    raise RaisedError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, not escaped for HTML as jinja2's own filter does."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that templates of the Hugging Face hub are written for."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=PlainNamespace
    )
    return environment


def render(template: jinja2.Template, variables: dict[str, Any], output: int) -> str:
    """Render, giving up as soon as there is more than `output` characters."""
    parts, size = [], 0
    for part in template.generate(variables):
        size += len(part)
        if size > output:
            raise OutputTooLargeError
        parts.append(part)
    return "".join(parts)


def limit(seconds: float, memory: int) -> None:
    """Bound what this process may use from now on, should the one that started it not be there to stop it."""
    if sys.platform == "win32":  # there time and output are bounded, memory is not
        return
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit is in force already
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def answer(environment: jinja2.Environment, cache: dict[str, jinja2.Template], asked: dict[str, Any]) -> Any:
    """One request, whatever may come of it."""
    limits = asked["limits"]
    limit(limits["seconds"], limits["memory"])
    try:
        template = cache.get(asked["template"])
        if template is None:
            template = environment.from_string(asked["template"])
            cache.clear()  # one model has one or two templates; no more than that is worth keeping
            cache[asked["template"]] = template
        return {"text": render(template, asked["variables"], limits["output"])}
    except OutputTooLargeError:
        return {"kind": "size", "error": f"it writes more than {limits['output']} characters"}
    except MemoryError:
        return {"kind": "memory", "error": f"it needs more than {limits['memory']} bytes of memory"}
    except RaisedError as error:
        return {"kind": "raised", "error": str(error.message)}
    except RecursionError:
        return {"kind": "template", "error": "it calls itself without end"}
    # A template can raise anything: it is a program of its own.
    except Exception as error:
        return {"kind": "template", "error": f"{type(error).__name__}: {error}"}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the other side is gone."""
    environment = make_environment()
    cache: dict[str, jinja2.Template] = {}
    while len(head := source.read(4)) == 4:
        asked = json.loads(source.read(struct.unpack(">I", head)[0]))
        data = json.dumps(answer(environment, cache, asked)).encode()
        sink.write(struct.pack(">I", len(data)) + data)
        sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    serve(sys.stdin.buffer, sys.stdout.buffer)

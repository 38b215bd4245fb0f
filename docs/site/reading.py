"""How the site's parser, Griffe, reads the sources.

Arguments that share a line of a docstring, `a, b: as in f`, get a line each, and the section
`Example` is called `Examples`. A function that bears the name of its module, as `attacks.pgd` does,
is what the package means by that name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import griffe

SHARED = re.compile(r"^(  )(\*{0,2}\w+(?:, \*{0,2}\w+)+)(: .*(?:\n    .*)*)$", re.M)
SECTION = re.compile(r"^Args:\n(?:(?:  .*)?\n)*(?:  .*)?", re.M)


def apart(docstring: str) -> str:
    """The docstring with a line for every argument."""

    def lines(shared: re.Match[str]) -> str:
        return "\n".join(shared[1] + name + shared[3] for name in shared[2].split(", "))

    return SECTION.sub(lambda section: SHARED.sub(lines, section[0]), docstring)


def packages(module: griffe.Module) -> Iterator[griffe.Module]:
    """A package and those in it."""
    for member in list(module.members.values()):
        if isinstance(member, griffe.Module):
            yield from packages(member)
    if module.is_init_module:
        yield module


class Reading(griffe.Extension):
    """Rewrites what was read before it is shown."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Called for every function, once it is read."""
        if func.docstring:
            text = apart(func.docstring.value)
            func.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once everything is read."""
        meant = [
            (package, name, package.members[name].members[name])
            for package in packages(pkg)
            for name in package.exports or ()
            if isinstance(package.members.get(name), griffe.Module)
            and name in package.members[name].members
        ]
        # What else the package takes from these modules is bound before their names are taken.
        for package in {id(p): p for p, *_ in meant}.values():
            for name, member in list(package.members.items()):
                if isinstance(member, griffe.Alias):
                    # What another library defines stays a name.
                    with contextlib.suppress(griffe.AliasResolutionError):
                        package.members[name] = griffe.Alias(
                            name, member.final_target, parent=package
                        )
        for package, name, target in meant:
            package.members[name] = griffe.Alias(name, target, parent=package)

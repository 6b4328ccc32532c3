# SPDX-License-Identifier: BSD-2-Clause
"""Coverage in the format of lcov, from which genhtml makes pages with the source.

A line counts as executed if a block that has an instruction of it was hit, in whatever function
its code was inlined. Lines whose code runs only at boot or cannot be reached are left out, as
are generated accessors: genhtml shows them without colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.coverage.functions import Function
from harness.coverage.source_map import SourceMap
from harness.coverage.unreachable import Unreachable

_GENERATED = "generated/"


def lcov_text(
    source: SourceMap, hit: NDArray[Any], unreachable: Unreachable | None = None, *, title: str = "bothworlds"
) -> str:
    """The records of all source files of a build.

    `hit`: flags or counts, one a block; `title` becomes the test name, of which lcov accepts letters, digits and `_`.
    """
    flags = source.flags(hit)
    counts = np.asarray(hit).astype(np.int64)
    wanted = np.asarray(source.blocks.reachable()) & (flags | ~unreachable.mask if unreachable else True)
    lines: dict[tuple[str, str], dict[int, int]] = {}
    functions: dict[tuple[str, str], dict[Function, int]] = {}
    for block in np.flatnonzero(wanted).tolist():
        component, count = source.component(block), int(counts[block])
        for file, line in source.lines[block]:
            of_file = lines.setdefault((component, file), {})
            of_file[line] = max(of_file.get(line, 0), count)
        for frame in source.frames[block]:
            function = frame.function
            of_function = functions.setdefault((component, function.file), {})
            of_function[function] = max(of_function.get(function, 0), count)
    name = "".join(character if character.isalnum() else "_" for character in title)
    text = []
    for (component, file), counted in sorted(lines.items()):
        path = source.path(component, file)
        if path is None or file.startswith(_GENERATED):
            continue
        text += [f"TN:{name}", f"SF:{path}"]
        text += _functions(functions.get((component, file), {}))
        text += [f"DA:{line},{count}" for line, count in sorted(counted.items())]
        text += [f"LF:{len(counted)}", f"LH:{sum(map(bool, counted.values()))}", "end_of_record"]
    return "\n".join(text) + "\n"


def _functions(counted: dict[Function, int]) -> list[str]:
    ordered = sorted((function for function in counted if function.line), key=lambda function: function.line)
    return [
        *(f"FN:{function.line},{function.name}" for function in ordered),
        *(f"FNDA:{counted[function]},{function.name}" for function in ordered),
        f"FNF:{len(ordered)}",
        f"FNH:{sum(bool(counted[function]) for function in ordered)}",
    ]

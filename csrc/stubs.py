"""Writes dsc_ext/_C.pyi, the types of the compiled module, from the declarations in the launchers' headers.

``python csrc/stubs.py`` after a launcher was added or changed; a test compares. launchers.h says which there are.
"""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parent
STUB = CSRC.parent / "dsc_ext" / "_C.pyi"
COLUMNS = 120

# What bindings.cpp makes of them: pointers and enumerations are integers, a Status is an exception or nothing.
TYPES = {"int64_t": "int", "Queue": "int", "DType": "int", "Rule": "int", "Reduce": "int", "bool": "bool"}
TYPES |= {"double": "float", "Status": "None"}

HEAD = '''\
# Written by csrc/stubs.py from the headers in csrc, which say what each launcher asks for.
"""The compiled extension. Pointers travel as addresses; sizes and strides count elements."""

from types import ModuleType

class Launchers(ModuleType):
    """The launchers of one backend, functions of a module; `self` is that module."""

'''
TAIL = """
cpu: Launchers
openmp: bool
isa: str
nvcc_searched: str

# Only where the CUDA kernels were built:
cuda: Launchers
cuda_archs: str
cuda_version: int

def cuda_device_report() -> str: ...
"""


def declarations() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return result and parameters, as (type, name), of every launcher that a header declares."""
    found = {}
    for header in sorted(CSRC.glob("*.h")):
        text = re.sub(r"//[^\n]*", "", header.read_text())
        for result, name, inside in re.findall(r"DSC_LAUNCHER\((\w+)\s+(\w+)\(([^()]*)\)\)", text):
            parameters = [parameter.strip() for parameter in inside.split(",") if parameter.strip()]
            split = [re.fullmatch(r"(?:const )?(\w+(?:\s*\*)?)\s*(\w+)", parameter) for parameter in parameters]
            if None in split:
                raise ValueError(f"{header.name}: cannot read the parameters of {name}: {inside}")
            found[name] = (result, [(match[1], match[2]) for match in split if match])
    return found


def python_type(declared: str) -> str:
    """Return what Python passes for a C++ type."""
    return "int" if declared.endswith("*") else TYPES[declared]


def method(name: str, result: str, parameters: list[tuple[str, str]]) -> str:
    """Return a launcher as a method, broken into lines as the formatter does it."""
    arguments = ["self", *(f"{argument}: {python_type(declared)}" for declared, argument in parameters), "/"]
    end = f" -> {python_type(result)}: ..."
    line = f"    def {name}({', '.join(arguments)}){end}"
    if len(line) <= COLUMNS:
        return line + "\n"
    inside = ", ".join(arguments)
    if len(inside) + 8 <= COLUMNS:
        return f"    def {name}(\n        {inside}\n    ){end}\n"
    return f"    def {name}(\n" + "".join(f"        {argument},\n" for argument in arguments) + f"    ){end}\n"


def stub() -> str:
    """Return the text of the stub; ValueError where launchers.h and the declarations do not match."""
    names = re.findall(r"^DSC_LAUNCHER_NAME\((\w+)\)", (CSRC / "launchers.h").read_text(), re.MULTILINE)
    declared = declarations()
    if names != sorted(declared):
        raise ValueError(f"in launchers.h or declared, but not both, or not sorted: {set(names) ^ set(declared)}")
    return HEAD + "".join(method(name, *declared[name]) for name in names) + TAIL


if __name__ == "__main__":
    STUB.write_text(stub())

"""Docstrings that begin with a word which needs its surroundings; `make lint` runs this, and their number only falls.

Hover help shows a docstring alone: it begins with a verb, or with the noun that comes back (STYLE: Prose).
"""

import ast
import sys
from pathlib import Path

FOLDERS = ("diffvqa_rt", "export", "kernels", "triton_repo", "benchmarks")
WORDS = {"What", "How", "Who", "Whose", "Whether", "Which", "Where", "By", "Of", "Those"}
ALLOWED = 0


def main() -> int:
    """Prints each of them where they are more than ALLOWED; exit status 1 then, or where the allowance can fall."""
    root = Path(__file__).parents[1]
    found = [
        f"{path.relative_to(root)}:{node.lineno}: {text.splitlines()[0]}"
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node))
        if text.split()[0].rstrip(",") in WORDS
    ]
    if len(found) > ALLOWED:
        print(*found, sep="\n")
        print(f"{len(found)} docstrings begin with one of {', '.join(sorted(WORDS))}; at most {ALLOWED} may")
    elif len(found) < ALLOWED:
        print(f"{len(found)} docstrings begin so; lower ALLOWED in {Path(__file__).name}")
    return int(len(found) != ALLOWED)


if __name__ == "__main__":
    sys.exit(main())

"""Digests of Python sources that tell code from its comments."""

import ast
import hashlib


def tree_digest(tree: ast.AST) -> str:
    """Digest of Python source, 16 hexadecimal digits; comments, docstrings and layout do not count."""
    return hashlib.sha256(_spelled(tree).encode()).hexdigest()[:16]


def _spelled(value: object) -> str:
    """A tree of Python as text, the same under every version of Python; `ast.dump` is not.

    Fields that are empty are left out, for later versions add such; so is a string that stands alone, which is a docstring.
    """
    if isinstance(value, ast.AST):
        fields = ((name, inner) for name, inner in ast.iter_fields(value) if inner is not None and inner != [])
        return f"{type(value).__name__}({','.join(f'{name}={_spelled(inner)}' for name, inner in fields)})"
    if isinstance(value, list):
        return f"[{','.join(_spelled(inner) for inner in value if not _is_docstring(inner))}]"
    return repr(value)


def _is_docstring(value: object) -> bool:
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant) and isinstance(value.value.value, str)

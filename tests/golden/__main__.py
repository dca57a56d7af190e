"""``python -m tests.golden``: regenerate the golden curves, and raise the format version of each phase that comes to something else."""

import sys
import tempfile
from pathlib import Path

import torch

import m2mkd.study.phases
from tests.golden import record
from tests.golden.curves import compute_curves, exact_on


def main() -> None:
    """Write the record and, where a curve has changed, the phases' configurations."""
    old = record.read(record.FILE.read_text()) if record.FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        fp64 = compute_curves(Path(folder, "fp64"), torch.float64)
        fp32 = compute_curves(Path(folder, "fp32"), torch.float32)
    new, raised = record.regenerated(old, fp64, fp32, exact_on())
    source = Path(m2mkd.study.phases.__file__)
    for phase in sorted(raised):
        source.write_text(record.with_raised_format(source.read_text(), phase))
    record.FILE.write_text(record.written(new))
    sys.stdout.write(f"format version raised: {', '.join(sorted(raised)) or 'none'}\n")


main()

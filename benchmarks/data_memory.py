"""Memory that listing ImageNet takes: archives of as many members as the original's, listed as ``m2mkd data prepare`` does it.

``python benchmarks/data_memory.py`` writes a tar of 1.3 GB, whose images are of one byte, in a temporary folder, lists it in a fresh
process and prints that process's peak, beside that of a process which imports the same and lists nothing.
"""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000
LIST = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from scipy.io import loadmat
from m2mkd.data.archives import open_archive
from m2mkd.data.imagenet import imagenet
from m2mkd.data import prepare
folder, start = Path(sys.argv[1]), time.perf_counter()
if sys.argv[2] == "list":
    contents = imagenet([open_archive(folder / name, folder) for name in ("train.tar", "val.tar", "kit.tar.gz")])
    names = {split: np.array([member.name.encode() for member in listing.members]) for split, listing in contents.splits.items()}
    counts = {split: len(listing.labels) for split, listing in contents.splits.items()}
else:
    counts = {}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(json.dumps({"counts": counts, "peak_mib": peak, "seconds": time.perf_counter() - start}))
"""


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write(folder: Path, images: int) -> None:
    """The three archives of ImageNet, with images of one byte."""
    import numpy as np
    from scipy.io import savemat

    wnids = [f"n{number:08}" for number in range(CLASSES)]
    with tarfile.open(folder / "train.tar", "w") as outer:
        for place, wnid in enumerate(wnids):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for number in range(place, images, CLASSES):
                    add(inner, f"{wnid}_{number}.JPEG", b"x")
            add(outer, f"{wnid}.tar", buffer.getvalue())
    with tarfile.open(folder / "val.tar", "w") as archive:
        for number in range(VAL_IMAGES):
            add(archive, f"ILSVRC2012_val_{number:08}.JPEG", b"x")
    rows = [(number, wnid, 0) for number, wnid in enumerate(wnids, start=1)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])})
    truth = "".join(f"{1 + number % CLASSES}\n" for number in range(VAL_IMAGES))
    with tarfile.open(folder / "kit.tar.gz", "w:gz") as archive:
        add(archive, "kit/data/meta.mat", buffer.getvalue())
        add(archive, "kit/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def main(images: int = TRAIN_IMAGES) -> None:
    """Print peak memory and time of listing."""
    with TemporaryDirectory(prefix="m2mkd-benchmark-") as folder:
        write(Path(folder), images)
        for what in ("import", "list"):
            done = subprocess.run([sys.executable, "-c", LIST, folder, what], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            sys.stdout.write(f"{what}: {found['peak_mib']:.0f} MiB, {found['seconds']:.0f} s {found['counts'] or ''}\n")


if __name__ == "__main__":
    typer.run(main)

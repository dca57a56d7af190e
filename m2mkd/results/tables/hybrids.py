"""How well the teacher's modules fit the meta model, measured before any student is taught by them."""

from collections.abc import Iterable

import pandas as pd

from m2mkd.results.read.records import Record
from m2mkd.results.tables.layout import Linked, Table, percent
from m2mkd.study.lineage import display_rows
from m2mkd.study.phases import MeasureHybrid
from m2mkd.study.run import RowName
from m2mkd.study.study import Study


def hybrids_anchor(row_name: RowName) -> str:
    """Id, in the report, of the runs behind a teacher's lines."""
    return f"runs-{row_name.experiment}-hybrids-{row_name.profile}"


def hybrids_table(study: Study, records: Iterable[Record]) -> Table:
    """Accuracy of the meta model, alone and with each of the teacher's modules in the place of its own."""
    home = display_rows(study)
    exact, shown = [], []
    for record in records:
        config = record.run.config
        if not isinstance(config, MeasureHybrid):
            continue
        experiment, _, profile = home[record.run.id]
        for module, found in {"none": record.metrics["meta"], **record.metrics["hybrids"]}.items():
            names = {"experiment": experiment, "profile": profile, "data": str(config.data), "module": module}
            exact.append(names | {"images": found["count"], "top1": found["top1"], "top5": found["top5"]})
            accuracies = (Linked(percent(found[metric]), hybrids_anchor(home[record.run.id])) for metric in ("top1", "top5"))
            shown.append((*names.values(), str(found["count"]), *accuracies))
    header = ("experiment", "profile", "set", "teacher's module", "images", "top-1 %", "top-5 %")
    caption = (
        "Accuracy in percent of the meta model with one module of the teacher in the place of its own (none: the meta model alone): "
        "a module that does not fit here has nothing to teach."
    )
    return Table("hybrids", caption, header, tuple(shown), pd.DataFrame(exact))

"""Effects of single changes: the settings of every ablation, each paired by seed with the setting that it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from m2mkd.config.experiment import AblationExperiment
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW, Cell
from m2mkd.results.tables.accuracies import mark_unequal
from m2mkd.results.tables.layout import Column, Linked, Table, accuracy, column, percent, table_of
from m2mkd.statistics import Summary, holm, p_value, summarise
from m2mkd.study.labelled import unequal_labels
from m2mkd.study.lineage import anchor_of
from m2mkd.study.run import Row

SHOWN_SPLITS = {"iid": "IID", "ood": "OOD"}
NAMES = ("student", "reference")
DIFFERENCE = ("difference", "difference_half_width", "p_holm")
VALUES = [
    *(f"{split}_{name}" for split in SHOWN_SPLITS for name in ("top1_mean", "top1_half_width", *DIFFERENCE)),
    "graph_density_mean",
]


@dataclass(frozen=True)
class SettingRow:
    """A setting of an ablation that has numbers."""

    ablation: AblationExperiment
    row: Row
    reference: Row | None
    """Reference setting; none if it has no numbers, or is the setting itself."""

    def gains(self, collected: Collected, split: str) -> list[float]:
        """Its top-1 accuracy minus that of its reference in points, for each seed that both have."""
        if self.reference is None:
            return []
        one, other = (top1(collected, row, split) for row in (self.row, self.reference))
        if one is None or other is None:
            return []
        return (100 * pd.Series(one.per_seed, one.seeds).sub(pd.Series(other.per_seed, other.seeds)).dropna()).tolist()

    def gain(self, collected: Collected, split: str) -> Summary | None:
        """Summary of `gains`; none if there is no such seed."""
        gains = self.gains(collected, split)
        return summarise(gains) if gains else None


def top1(collected: Collected, row: Row, split: str) -> Cell | None:
    """Top-1 accuracy on the first set of a split; none if there is no such set."""
    return next(iter(collected.numbers.cells(row, split, "top1")), None)


def settings_of(collected: Collected) -> list[SettingRow]:
    """Every setting of an ablation that has numbers, in the study's order."""
    rows = {row.name: row for row in collected.rows_measured_by("evaluate")}
    found = []
    for name, row in rows.items():
        if ablation := collected.ablations.get(name.experiment):
            reference = rows.get(name._replace(variant=ablation.reference(name.variant)))
            found.append(SettingRow(ablation, row, None if reference is row else reference))
    return found


def ablations_table(collected: Collected) -> Table:
    """Table with a line for each setting: accuracies over seeds, and differences from the setting that it is compared with."""
    settings = settings_of(collected)
    adjusted = {split: _adjusted(collected, settings, split) for split in SHOWN_SPLITS}
    lines = pd.DataFrame(
        [_line(collected, setting, adjusted) for setting in settings], columns=[*ROW, *NAMES, "n", *VALUES, "labelled_images"]
    )
    lines = lines.astype({"n": "Int64"} | dict.fromkeys(VALUES, "float64")).assign(ablation=lines["experiment"], setting=lines["variant"])
    exact = ["ablation", "setting", "student", "profile", "reference", "n", *VALUES, "labelled_images"]
    shown = {"ablation": column("ablation"), "setting": column("setting"), "student": column("student"), "profile": column("profile")}
    shown |= {"compared with": column("reference"), "seeds": column("n")}
    for split, heading in SHOWN_SPLITS.items():
        shown |= {f"{heading} top-1 %": accuracy(f"{split}_top1"), f"{heading} difference": _difference(split)}
        shown |= {f"{heading} p": _p_value(split)}
    shown |= {"graph %": _density, "labelled images": mark_unequal}
    caption = (
        "Ablations: top-1 accuracy in percent, mean ± half of the 95 % interval by Student's t over seeds, and the difference in points "
        "from the setting that it is compared with, paired by seed, ± half of its 95 % interval, which is not corrected for the number of "
        "settings. p: of no difference, by the paired t-test, adjusted by Holm for all settings of the ablation. Claims about ablations "
        "are on the verdict board. Graph: density of a NAC's graph in use, in percent. "
        "Labelled images are marked where they are not those of the setting that it is compared with."
    )
    return table_of("ablations", caption, lines, exact, shown)


def _adjusted(collected: Collected, settings: Sequence[SettingRow], split: str) -> dict[Row, float]:
    """Adjusted p-value of each setting's difference; the differences of an ablation in one profile are a family."""
    families: dict[tuple[str, str], dict[Row, float]] = {}
    for setting in settings:
        if (p := p_value(setting.gains(collected, split))) is not None:
            families.setdefault((setting.row.name.experiment, setting.row.name.profile), {})[setting.row] = p
    return {row: p for family in families.values() for row, p in zip(family, holm(list(family.values())), strict=True)}


def _line(collected: Collected, setting: SettingRow, adjusted: Mapping[str, Mapping[Row, float]]) -> dict[str, Any]:
    row, reference = setting.row, setting.reference
    line: dict[str, Any] = row.name._asdict() | {"student": setting.ablation.student(row.variant)}
    line["reference"] = reference.variant if reference else ""
    compared = [row, reference] if reference else [row]
    line["labelled_images"] = "unequal" if unequal_labels(collected.study, compared) else "equal"
    for split in SHOWN_SPLITS:
        one, gain = top1(collected, row, split), setting.gain(collected, split)
        if split == "iid":
            line["n"] = one and one.over_seeds.n
        for name, over in ((f"{split}_top1", one and one.over_seeds), (f"{split}_difference", gain)):
            line |= {f"{name}_mean": over and over.mean, f"{name}_half_width": over and over.half_width}
        line[f"{split}_difference"] = line.pop(f"{split}_difference_mean")
        line[f"{split}_p_holm"] = adjusted[split].get(row)
    density = next(iter(collected.numbers.cells(row, "graph", "density")), None)
    return line | {"graph_density_mean": density and density.over_seeds.mean}


def _difference(split: str) -> Column:
    def text(line: Any) -> str:
        gain, half_width = getattr(line, f"{split}_difference"), getattr(line, f"{split}_difference_half_width")
        if pd.isna(gain):
            return ""
        return Linked(f"{gain:+.2f}" + ("" if pd.isna(half_width) else f" ± {half_width:.2f}"), anchor_of(line))

    return text


def _p_value(split: str) -> Column:
    def text(line: Any) -> str:
        p = getattr(line, f"{split}_p_holm")
        return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"

    return text


def _density(line: Any) -> str:
    shown = percent(line.graph_density_mean)
    return Linked(shown, anchor_of(line)) if shown else ""

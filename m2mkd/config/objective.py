"""Objectives of distillation: a sum of weighted terms, each of a kind that this package or another registers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field, NonNegativeFloat, PlainValidator, SerializeAsAny, model_serializer

from m2mkd.config.base import Config
from m2mkd.errors import InputError
from m2mkd.plugins import BUILT_IN, Plugin, find_plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP = "m2mkd.objectives"
"""Group of entry points that terms are registered in."""
Need = Literal["teacher", "tokens", "labels", "kl_norm"]
"""What a term asks for beside the student's logits and the targets: the teacher's logits, the tokens of stages, the labels before mixing,
and the compat switch ``kl_norm``."""
TAKEN = frozenset({"loss", "epoch", "step", "lr", "skipped", "regulariser", "cross_entropy", "divergence"})
"""Names in a training's log that no term of another package may have."""
STORED = ("format", "plugin")
"""What the stored form of a term has beside its fields."""


class Unmixed(Protocol):
    """Labels of a batch before they were smoothed and mixed; see `m2mkd.distill.mixing.MixedLabels`."""

    first: Tensor
    """Labels (B,), int64, that have the larger share."""
    second: Tensor
    """Labels (B,) that have the rest."""
    share: Tensor
    """Shares (B,) of the first ones, from 0.5 to 1; 1 where nothing was mixed."""

    def mean(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over the batch of losses (B,) that hard labels (B,) have, mixed as the images are."""


class StageTokens(NamedTuple):
    """Output of a stage of the student and of the same stage of the teacher, before final norm and head."""

    student: Tensor
    """Tokens (B, N, width of the student); one token stands for the class token."""
    teacher: Tensor
    """Tokens (B, M, width of the teacher), the class token first; without a graph."""


@dataclass(frozen=True)
class Given:
    """Batch as a term sees it; what a term did not ask for is None or empty. Logits are raised to at least float32."""

    student: Tensor
    """Logits (B, C)."""
    targets: Tensor
    """Class probabilities (B, C), smoothed and mixed."""
    teacher: Tensor | None = None
    """Logits (B, C), without a graph."""
    labels: Unmixed | None = None
    tokens: tuple[StageTokens, ...] = ()
    """One pair for each stage; a single one where a module is distilled."""
    own: nn.Module | None = None
    """What `ObjectiveTerm.build` gave."""
    kl_norm: Literal["batch", "numel"] = "batch"


class StageWidths(NamedTuple):
    """Widths of the tokens of a stage of student and teacher."""

    student: int
    teacher: int


class ObjectiveTerm(Config):
    """One term of an objective: its parameters, and the loss that they stand for.

    A subclass gives ``kind`` a literal and a default, which is the name of its entry point in the group ``m2mkd.objectives``. Its fields
    are its configuration. Those that have their default are part of no key, so a change of a default, or of the meaning of a field, raises
    ``FORMAT``.
    """

    FORMAT: ClassVar[int] = 1
    """Version of the term's meaning."""
    NEEDS: ClassVar[frozenset[Need]] = frozenset({"teacher"})
    """What the term asks for."""
    CURVE: ClassVar[str] = ""
    """Name of the term's curve; empty: its kind."""
    kind: str
    weight: NonNegativeFloat = 1.0
    """Factor of the term in the sum."""

    def loss(self, given: Given) -> Tensor:
        """Value of the term before it is weighted, a scalar whose gradient reaches the student.

        It must not draw random numbers, and must divide a batch evenly: the mean over the samples of a batch is the mean over its parts.
        """
        raise NotImplementedError

    def build(self, widths: tuple[StageWidths, ...]) -> nn.Module | None:
        """Parameters of the term's own, which are trained with the student and not published; None if it has none.

        Parameters
        ----------
        widths
            Of the tokens of each stage; empty unless the term needs ``tokens``. Initial weights come from torch's global generator, which
            is seeded.
        """
        return None

    @model_serializer(mode="wrap")
    def _stored(self, handler: Any) -> dict[str, Any]:
        """Kind, format version and what differs from the defaults; of another package also its name, version and digest."""
        fields = handler(self)
        known = type(self).model_fields.items()
        changed = {name: fields[name] for name, field in known if getattr(self, name) != field.get_default(call_default_factory=True)}
        plugin = find_plugin(GROUP, self.kind)
        return {"kind": self.kind, "format": self.FORMAT, **changed} | ({} if plugin.is_ours else {"plugin": plugin.provenance()})


def term_class(kind: str) -> type[ObjectiveTerm]:
    """The class of a kind of terms.

    Raises
    ------
    InputError
        If there is no such kind, or its plug-in cannot be loaded or is not a term.
    """
    plugin = find_plugin(GROUP, kind)
    found = plugin.load()
    if reason := _misfit(plugin, found):
        raise InputError(f"{plugin}: {plugin.value} {reason}; repair or uninstall {plugin.distribution}")
    term: type[ObjectiveTerm] = found
    return term


def _misfit(plugin: Plugin, found: Any) -> str:
    """Why an entry point is not a term; empty if it is one."""
    if not (isinstance(found, type) and issubclass(found, ObjectiveTerm)):
        return "is not a subclass of m2mkd.config.objective.ObjectiveTerm"
    if found.model_fields["kind"].default != plugin.name:
        return f"has kind {found.model_fields['kind'].default!r}, but its entry point is '{plugin.name}'; give both one name"
    if not plugin.is_ours and (plugin.name in TAKEN or not re.fullmatch(r"(?!val_)[a-z][a-z0-9_]*", plugin.name) or found.CURVE):
        return "has a name that its curve cannot have; take lower-case letters, digits and '_', and leave CURVE empty"
    if found.loss is ObjectiveTerm.loss:
        return "has no method loss"
    if unknown := set(found.NEEDS) - set(Need.__args__):  # type: ignore[attr-defined]
        return f"needs {', '.join(sorted(unknown))}; a term can ask for {', '.join(Need.__args__)}"  # type: ignore[attr-defined]
    return ""


def _term(value: Any) -> ObjectiveTerm:
    """A term from what people write, or from its stored form."""
    if isinstance(value, ObjectiveTerm):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise ValueError(f"a term is a mapping with a kind; there are {', '.join(BUILT_IN[GROUP])}")  # noqa: TRY004  pydantic's line
    stored = "format" in value
    try:
        cls = term_class(value["kind"])
        if stored:
            _require_same(cls, value)
    except InputError as error:
        if stored:  # read from a plan, in which nothing can be mended
            raise
        raise ValueError(str(error)) from None
    content = {name: given for name, given in value.items() if name not in STORED}
    for name in content:
        if name not in cls.model_fields:
            close = difflib.get_close_matches(name, cls.model_fields, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(cls.model_fields)}"
            raise ValueError(f"{name} is not a field of the term {value['kind']}; {fix}")
    return cls.model_validate(content)


def _require_same(cls: type[ObjectiveTerm], value: Mapping[str, Any]) -> None:
    """Refuse the stored form of a term that now means something else."""
    kind = value["kind"]
    if value["format"] != cls.FORMAT:
        raise InputError(f"objective term {kind}: stored as format {value['format']}, but it is {cls.FORMAT} now; plan again")
    find_plugin(GROUP, kind).require_same(value.get("plugin"), f"objective term {kind}")


class _KnownTerms:
    """JSON schema of a term: ours with their parameters, and of any other kind whatever it has."""

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        ours = [term_class(kind).model_json_schema() | {"required": ["kind"]} for kind in BUILT_IN[GROUP]]
        kind = {"type": "string", "not": {"enum": list(BUILT_IN[GROUP])}}
        weight = {"type": "number", "minimum": 0, "default": 1.0}
        other = {"title": "Of another package", "type": "object", "properties": {"kind": kind, "weight": weight}, "required": ["kind"]}
        return {"anyOf": [*ours, other]}


AnyTerm = Annotated[SerializeAsAny[ObjectiveTerm], PlainValidator(_term), _KnownTerms()]
"""A term of any kind, by its ``kind``."""


class Objective(Config):
    """A sum of weighted terms, which is all that is minimised beside the regulariser of the network: labels too are a term."""

    terms: tuple[AnyTerm, ...] = Field(min_length=1)

    @property
    def needs(self) -> frozenset[Need]:
        """What any of the terms asks for."""
        return frozenset().union(*(term.NEEDS for term in self.terms))

    @property
    def needs_teacher(self) -> bool:
        """True if a teacher is run."""
        return bool(self.needs & {"teacher", "tokens"})

    @property
    def is_normalised(self) -> bool:
        """True if the compat switch ``kl_norm`` matters."""
        return "kl_norm" in self.needs

    @property
    def curves(self) -> tuple[str, ...]:
        """Name of the curve of each term; a second term of one kind has a number."""
        names: list[str] = []
        for term in self.terms:
            name = term.CURVE or term.kind
            earlier = sum(name == other.partition(".")[0] for other in names)
            names.append(f"{name}.{earlier + 1}" if earlier else name)
        return tuple(names)

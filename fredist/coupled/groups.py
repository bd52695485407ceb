"""What a template sees of a network: its layers, or groups of them that change together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..checks import as_words, closest
from ..templates import round_filters
from .layers import Layer


@dataclass(frozen=True)
class Group:
    """One f_l: the layers that change together, its original filters, and how they do.

    Layers that are "tied" keep their proportions to the group's first layer, whose filters count
    once; those that are made "equal" have the group's filters, their mean at first; "fixed" ones
    are left alone by templates, and scaled by the width.
    """

    layers: tuple[Layer, ...]
    how: str

    @property
    def note(self) -> str:
        """What to say of its layers, beside the template."""
        first = self.layers[0].name
        said = {"alone": "", "fixed": "fixed", "tied": f"tied to {first}"}
        return said.get(self.how, f"equal to {first}")

    @property
    def filters(self) -> int | Fraction:
        """What the template sees."""
        if self.how == "equal":
            return Fraction(sum(layer.filters for layer in self.layers), len(self.layers))
        return self.layers[0].filters

    def share(self, filters: int, round_to: int | None = None) -> dict[str, int]:
        """Return each layer's filters, by name, for the group's; multiples where those are."""
        if self.how == "equal":
            return {layer.name: filters for layer in self.layers}
        ratio = Fraction(filters, self.layers[0].filters)
        shares = round_filters([la.filters * ratio for la in self.layers], round_to=round_to)
        return {layer.name: share for layer, share in zip(self.layers, shares, strict=True)}


def make_groups(
    layers: Sequence[Layer],
    tie: Iterable[str | Iterable[str]] | None = None,
    groups: Iterable[str | Iterable[str]] | None = None,
    fixed: Iterable[str] | None = None,
) -> list[Group]:
    """Return groups in the order of their first layers; a layer that nothing names stands alone.

    Each group is given by names of modules: all layers whose first convolution lies inside them.

    Raises
    ------
    ValueError
        If a name has no layer, or a layer two groups.
    """
    owner = {}
    given = [
        (how, group)
        for how, asked in (("tied", tie), ("equal", groups))
        for group in as_words("names of modules", asked) or ()
    ]
    given += [("fixed", name) for name in as_words("fixed", fixed) or ()]
    for number, (how, names) in enumerate(given):
        for name in as_words("names of modules", names):
            inside = [la.name for la in layers if f"{la.name}.".startswith(f"{name}.")]
            if not inside:
                raise ValueError(
                    f"expected the name of a module with layers, got {name!r}"
                    f"{closest(name, [la.name for la in layers])}; redistribute(...).redistribution"
                    ".table lists them"
                )
            for layer in inside:
                if owner.setdefault(layer, (number, how)) != (number, how):
                    raise ValueError(f"expected each layer in one group, got {layer} in two")
    members = {}
    for layer in layers:
        members.setdefault(owner.get(layer.name, (layer.name, "alone")), []).append(layer)
    return [Group(tuple(group), how) for (_, how), group in members.items()]

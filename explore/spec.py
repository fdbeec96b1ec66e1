"""From a spec file to an `Experiment`: all it names is found and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Literal

import archs
import mappers
import workloads
from archs import ArchitectureFile
from einsum_cascade import Cascade
from einsum_cascade.expression import Expression
from einsum_cascade.occupancy import with_occupancy
from einsum_cascade.shapes import own_extents
from einsum_cascade.source import Document, InputError, Place, check, read_yaml
from explore.schema import Derive, DesignSchema, ExperimentSchema, FamilySchema, GrowSchema
from workloads import Model
from workloads.networks import Histogram, check_layers


@dataclass(frozen=True)
class Design:
    """A named cascade on an architecture with a mapper."""

    name: str
    architecture: ArchitectureFile
    cascade: Cascade
    mapper: str
    options: Any
    schema: DesignSchema
    place: Place
    shape_places: Mapping[str, Place] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The columns of the front that its mapper looks for, if that is what it does."""
        objective = getattr(self.options, "objective", "")
        return () if isinstance(objective, str) else tuple(objective)

    def refuse_front(self) -> None:
        """Raise `InputError` for a design with a front of mappings where a point has one row."""
        if columns := self.objectives:
            raise InputError(
                f"design {self.name!r} has a front of mappings at each point, not one: "
                f"`explore mapping SPEC --front {','.join(columns)}` lists it; here name one "
                "objective",
                self.place,
            )


@dataclass(frozen=True)
class Grid:
    """The design points that one or more designs are evaluated at.

    `family` is None for the main grid. `sweep` maps `arch.PARAMETER` or `shape.RANK` to values.
    """

    family: str | None
    designs: tuple[Design, ...]
    models: tuple[Model, ...]
    kernels: tuple[str, ...]
    seq_len: tuple[int, ...]
    batch: tuple[int, ...]
    queries: int | Literal["seq_len"]
    attention: Literal["design", "network"]
    histogram: Histogram | None
    sweep: dict[str, list[float]]
    derive: Derive
    places: dict[str, Place]

    @property
    def points(self) -> int:
        """Rows of the results table that this grid gives."""
        count = len(self.models) * len(self.seq_len) * len(self.batch) * len(self.kernels)
        for values in self.sweep.values():
            count *= len(values)
        return count * len(self.designs)


@dataclass(frozen=True)
class Experiment:
    """A checked spec."""

    name: str
    schema: ExperimentSchema
    designs: tuple[Design, ...]
    grids: tuple[Grid, ...]
    document: Document

    @property
    def points(self) -> int:
        """Rows of the results table."""
        return sum(grid.points for grid in self.grids)


def list_experiments() -> list[str]:
    """Names of the specs that come with the project."""
    entries = (Path(str(entry)) for entry in files("experiments").iterdir())
    return sorted(entry.stem for entry in entries if entry.suffix == ".yaml")


def experiment_file(reference: str | Path) -> Path:
    """The file of a spec: a path, or the name of one that comes with the project.

    Raises `InputError` when there is neither.
    """
    path = Path(reference)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    if str(reference) not in list_experiments():
        raise InputError(
            f"no file {str(reference)!r}, nor a spec of that name",
            allowed=list_experiments(),
            found=str(reference),
        )
    return Path(str(files("experiments") / f"{reference}.yaml"))


def load_experiment(path: str | Path) -> Experiment:
    """Read and check a spec. Raises `InputError` with the place of every mistake found."""
    document = read_yaml(path)
    schema = check(ExperimentSchema, document)
    base = Path(path).parent
    named = schema.workload.models
    whole = "network" in schema.workload.kernels
    models = _models(document, named, ("workload", "models"), base, whole)
    designs = {
        n: _design(document, n, d, base, _design_keys(("designs", n)))
        for n, d in schema.designs.items()
    }
    designs |= _variants(document, schema, designs, base)
    _check_references(document, schema, designs)
    main = Grid(
        family=None,
        designs=tuple(designs.values()),
        models=models,
        kernels=_distinct(schema.workload.kernels),
        seq_len=_distinct(schema.workload.seq_len),
        batch=_distinct(schema.workload.batch),
        queries=schema.workload.queries,
        attention=schema.workload.attention,
        histogram=_histogram(document, schema.workload.histogram, base, ("workload",)),
        sweep=schema.sweep,
        derive=schema.derive,
        places=_places(document, (), [*schema.sweep], [*schema.derive]),
    )
    grids = [main]
    for name, family in schema.families.items():
        keys = ("families", name)
        place = document.place(*keys, "histogram")
        whole = "network" in (family.kernels or main.kernels)
        if family.models is not None:
            own = _models(document, family.models, (*keys, "models"), base, whole)
        else:
            own = _models(document, named, ("workload", "models"), base, whole)
        grids.append(
            Grid(
                family=name,
                designs=_designs_of(document, keys, family, designs, base),
                models=own,
                kernels=_distinct(family.kernels or main.kernels),
                seq_len=_distinct(family.seq_len or main.seq_len),
                batch=_distinct(family.batch or main.batch),
                queries=main.queries,
                attention=main.attention,
                histogram=main.histogram
                if family.histogram is None
                else _histogram(document, family.histogram, base, keys),
                sweep=family.sweep,
                derive=family.derive,
                places=_places(document, keys, [*family.sweep], [*family.derive])
                | ({} if family.histogram is None else {_HISTOGRAM: place}),
            )
        )
    for grid in grids:
        check_paths(grid)
        for design in grid.designs:
            _check_shape(design)
            _check_names(grid, design)
            _check_repetitions(grid, design)
            check_queries(document, grid, design)
        _check_histogram(document, grid, grids)
    _check_published(document, schema, main)
    return Experiment(schema.name, schema, tuple(designs.values()), tuple(grids), document)


def _designs_of(
    document: Document,
    keys: tuple[str, ...],
    family: FamilySchema,
    designs: dict[str, Design],
    base: Path,
) -> tuple[Design, ...]:
    """The designs of a family: of the main grid by their names, or its own."""
    if family.design is not None:
        return (designs[family.design],)
    if not isinstance(family.designs, dict):
        return tuple(designs[name] for name in _distinct(family.designs or ()))
    found = []
    for name, given in family.designs.items():
        own: Keys = (*keys, "designs", name)
        if name in designs:
            raise InputError(
                f"{name!r} is a design of the main grid: give this one another name, or list the "
                "names of those of the main grid, as in designs: [A, B]",
                document.place(*own),
            )
        found.append(_design(document, name, given, base, _design_keys(own)))
    return tuple(found)


def _histogram(
    document: Document, given: Any, base: Path, keys: tuple[str, ...]
) -> Histogram | None:
    """The loads of experts: as given, or those of a measured routing."""
    if not isinstance(given, str):
        return given  # type: ignore[no-any-return]
    try:
        return workloads.routing(given, base).histogram
    except InputError as error:
        raise _at(error, document.place(*keys, "histogram")) from None


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _places(
    document: Document, keys: tuple[str, ...], sweep: list[str], derive: list[str]
) -> dict[str, Place]:
    places = {name: document.place(*keys, "sweep", name) for name in sweep}
    return places | {name: document.place(*keys, "derive", name) for name in derive}


def _models(
    document: Document, named: list[Any], keys: tuple[str, ...], base: Path, whole: bool
) -> tuple[Model, ...]:
    """The models of a grid; for `whole` networks, they say how many layers they have."""
    found: dict[str, Model] = {}
    for i, reference in enumerate(named):
        place = document.place(*keys, i)
        try:
            if isinstance(reference, dict):
                model = check(Model, document, (*keys, i))
            else:
                model = workloads.model(reference, base)
            if whole:
                check_layers(workloads.network(model.network), model)
        except InputError as error:
            raise _at(error, place) from None
        if found.get(model.name, model) != model:
            raise InputError(f"two models are named {model.name!r}: give each a name", place)
        found[model.name] = model
    return tuple(found.values())


def _at(error: InputError, place: Place) -> InputError:
    """The error with a place, when it has none of its own."""
    if error.place is not None and error.place.line is not None:
        return error
    return InputError(
        error.message, place, allowed=error.allowed, found=error.found, others=error.others
    )


Keys = tuple[str | int, ...]


def _design_keys(keys: Keys) -> dict[str, Keys]:
    """Where the parts of a design stand in the spec."""
    return {part: (*keys, part) for part in ("arch", "cascade", "mapper", "shape")} | {"": keys}


def _variants(
    document: Document, schema: ExperimentSchema, designs: dict[str, Design], base: Path
) -> dict[str, Design]:
    """A design for every combination of `variants`, named by what tells it from the others."""
    given = schema.variants
    if given is None:
        return {}
    cascades: list[tuple[Keys, str]] = []
    for i, name in enumerate(given.cascade):
        listed = isinstance(document.part("variants", "cascade").data, list)
        keys: Keys = ("variants", "cascade", i) if listed else ("variants", "cascade")
        names = workloads.list_cascades("attention") if name == "all" else [name]
        cascades += [(keys, each) for each in names]
    found: dict[str, Design] = {}
    loaded: dict[int, ArchitectureFile] = {}
    for (cascade_keys, cascade), (i, arch), (j, mapper) in product(
        cascades, enumerate(given.arch), enumerate(given.mapper)
    ):
        keys_of: dict[str, Keys] = {"": ("variants",), "cascade": cascade_keys}
        for part, position in (("arch", i), ("mapper", j)):
            listed = isinstance(document.part("variants", part).data, list)
            keys_of[part] = ("variants", part, position) if listed else ("variants", part)
        single = DesignSchema(arch=arch, cascade=cascade, mapper=mapper)
        design = _design(document, "", single, base, keys_of, loaded.get(i))
        loaded[i] = design.architecture
        name = design.cascade.name
        name += f" on {design.architecture.name}" if len(given.arch) > 1 else ""
        name += f" by {design.mapper}" if len(given.mapper) > 1 else ""
        if name in designs or name in found:
            place = document.place("variants")
            other = designs.get(name) or found[name]
            hint = _other_name(design, other, name in found)
            raise InputError(f"two designs are named {name!r}: {hint}", place)
        found[name] = replace(design, name=name)
    return found


def _other_name(design: Design, other: Design, is_variant: bool) -> str:
    """How a design of `variants` gets another name than one before it."""
    if not is_variant:
        return "give the one under designs another name"
    if design.architecture is not other.architecture:
        return "give each architecture a name, as in {extends: fusemax-cloud, name: mine, ...}"
    if design.cascade is not other.cascade:
        return "give each cascade a name of its own in its file"
    if design.options != other.options:
        return "what differs in the options of a mapper goes under designs"
    return "it is listed twice"


def _check_references(
    document: Document, schema: ExperimentSchema, designs: dict[str, Design]
) -> None:
    """Baselines and families name designs that there are."""
    named: list[tuple[Keys, str | None]] = [(("rank", "baseline"), schema.rank.baseline)]
    for family, given in schema.families.items():
        named.append((("families", family, "design"), given.design))
        listed = given.designs if isinstance(given.designs, list) else []
        named += [(("families", family, "designs", i), name) for i, name in enumerate(listed)]
    for keys, name in named:
        if name is not None and name not in designs:
            place = document.place(*keys)
            raise InputError(f"unknown design {name!r}", place, allowed=designs, found=name)


def _design(
    document: Document,
    name: str,
    schema: DesignSchema,
    base: Path,
    keys: dict[str, Keys],
    architecture: ArchitectureFile | None = None,
) -> Design:
    arch_place = document.place(*keys["arch"])
    try:
        reference = document.part(*keys["arch"]) if isinstance(schema.arch, dict) else schema.arch
        architecture = architecture or archs.load_architecture(reference, base, arch_place)
    except InputError as error:
        raise _at(error, arch_place) from None
    cascade_place = document.place(*keys["cascade"])
    try:
        cascade = workloads.cascade(schema.cascade, base)
        if schema.occupancy:
            cascade = with_occupancy(cascade, schema.occupancy, document, keys[""])
    except InputError as error:
        raise _at(error, cascade_place) from None
    mapper_place = document.place(*keys["mapper"])
    mapper, options = mappers.named(schema.mapper)
    if mapper is None:
        raise InputError(
            "a mapper needs a name: {name: ...}", mapper_place, allowed=mappers.list_mappers()
        )
    try:
        checked = mappers.check_options(mapper, options, document, keys["mapper"], base)
        mappers.check_names(mapper, checked, cascade, architecture.resolve())
    except InputError as error:
        raise _at(error, mapper_place) from None
    shapes = {rank: document.place(*keys["shape"], rank) for rank in schema.shape}
    place = document.place(*keys[""])
    return Design(name, architecture, cascade, mapper, checked, schema, place, shapes)


def check_paths(grid: Grid) -> None:
    """Swept and derived parameters exist on every architecture, swept ranks in every cascade."""
    for name in (*grid.sweep, *grid.derive):
        kind, _, path = name.partition(".")
        swept = name in grid.sweep
        if swept and (kind not in ("arch", "shape") or not path):
            raise InputError(
                f"{name!r} cannot be swept: write arch.PARAMETER or shape.RANK", grid.places[name]
            )
        if isinstance(grid.derive.get(name), GrowSchema) and kind != "arch":
            raise InputError("only an arch parameter can be doubled", grid.places[name])
        if not swept and kind not in ("arch", "shape"):
            _check_own_name(name, grid)
        for design in grid.designs:
            if kind == "arch" and path:
                known: Iterable[str] = design.architecture.parameters()
            elif kind == "shape" and path:
                known = [*design.cascade.ranks, *design.cascade.parameters]
            else:
                continue
            if path not in known:
                what = design.architecture.name if kind == "arch" else design.cascade.name
                message = f"{what} has no {path!r}"
                if len(grid.designs) > 1:
                    message += (
                        f" (design {design.name!r}): sweep what only some designs have in "
                        "families: {NAME: {design: ..., sweep: ...}}"
                    )
                raise InputError(message, grid.places[name], allowed=known, found=path)


def _check_shape(design: Design) -> None:
    """A design sets ranks that its cascade has, and that nothing sets for all designs alike."""
    cascade = design.cascade
    known = [*cascade.ranks, *cascade.parameters]
    for rank, rule in design.schema.shape.items():
        place = design.shape_places[rank]
        if rank not in known:
            message = f"cascade {cascade.name!r} has no rank {rank!r}"
            raise InputError(message, place, allowed=known, found=rank)
        if rank in _SET_IN and rank not in own_extents(cascade) and rank not in rule.names:
            raise InputError(
                f"{rank!r} is set by {_SET_IN[rank]}, for all designs alike: change it there; "
                f"or say here what it is made of, as in {rank}: {rank}*...; where the "
                f"{rank} of cascade {cascade.name!r} is something else, give it a default there",
                place,
            )


def check_queries(document: Document, grid: Grid, design: Design) -> None:
    """Query p of a causal cascade is token p + M - P: more queries than keys are no attention."""
    if grid.queries == "seq_len" or grid.queries <= min(grid.seq_len):
        return
    cascade, changed = design.cascade, design.schema.shape
    aligned = any(
        {"P", "M"} <= set((condition.left - condition.right).symbols)
        for einsum in cascade.einsums
        for condition in einsum.filters
    )
    if aligned and not {"P", "M"} & set(changed):
        raise InputError(
            f"{grid.queries} queries, but cascade {cascade.name!r} counts them among the keys "
            f"(query p is token p + M - P), which are {min(grid.seq_len)} at the least of seq_len",
            document.place("workload", "queries"),
        )


def _check_histogram(document: Document, grid: Grid, grids: list[Grid]) -> None:
    """Loads of experts are used by whole networks of models with experts, and by nothing else.

    Those of the workload are for all grids, so one that uses them is enough.
    """
    inherited = grid.family is None or _HISTOGRAM not in grid.places
    users = grids if inherited else [grid]
    whole = [model for each in users if "network" in each.kernels for model in each.models]
    if grid.histogram is not None and not any(model.moe for model in whole):
        place = document.place("workload", "histogram")
        raise InputError(
            "loads of experts, but no kernel 'network' of a model with experts",
            place if inherited else grid.places[_HISTOGRAM],
        )


def _check_published(document: Document, schema: ExperimentSchema, main: Grid) -> None:
    """What others published is of one point: so is the main grid that it is drawn with."""
    each = main.points // len(main.designs)
    if schema.published and each > 1:
        raise InputError(
            f"published points beside {each} points a design of the main grid: one model, kernel, "
            "sequence length and batch size are expected, and no sweep (families may have more)",
            document.place("published"),
        )


def _check_names(grid: Grid, design: Design) -> None:
    """Every name in an expression stands for something: a typo is found before anything runs."""
    known = {*design.architecture.parameters(), *EXTENTS}

    def check_rule(rule: Expression, place: Place) -> None:
        for name in sorted(rule.names - known):
            message = f"unknown name {name!r} in {rule.text!r}"
            raise InputError(message, place, allowed=sorted(known), found=name)

    def add(name: str) -> None:
        known.update((name, name.removeprefix("arch.").removeprefix("shape.")))

    for name in grid.sweep:
        add(name)
    for name, rule in grid.derive.items():
        place = grid.places[name]
        check_rule(rule.start if isinstance(rule, GrowSchema) else rule, place)
        add(name)
        if isinstance(rule, GrowSchema):
            columns = {n for n in rule.double_until.names if _COLUMNS.fullmatch(n)} - known
            known |= columns  # which results there are, the run knows
            check_rule(rule.double_until, place)
            known -= columns
    for rule in design.schema.shape.values():
        check_rule(rule, design.place)


def _check_repetitions(grid: Grid, design: Design) -> None:
    """The batch and the heads repeat attention: a cascade without them would be priced once.

    Other extents of a model may be absent: what a cascade does not have does not multiply it. One
    that works on the whole model width D, and not on the E or F of a head, has all heads in it.
    """
    cascade = design.cascade
    ranks = set(cascade.ranks)
    if not ranks & EXTENTS:
        return  # all of its extents are set by `shape`
    used = ranks.union(*(rule.names for rule in design.schema.shape.values()))
    for name, rule in reversed(grid.derive.items()):  # what an extent uses was derived before it
        if isinstance(rule, Expression) and (name.startswith("shape.") or name in used):
            used |= rule.names
    counts = {"B": (max(grid.batch), "batch elements")}
    if "D" not in ranks or ranks & {"E", "F"}:
        counts["H"] = (max(model.H for model in grid.models), "heads")
    missing = {n: f"{c} {what}" for n, (c, what) in counts.items() if c > 1 and n not in used}
    if missing:
        where = "a design under designs may set" if design.place.key == "variants" else "set"
        raise InputError(
            f"cascade {cascade.name!r} has no rank {' and no rank '.join(missing)}, so "
            f"{' and '.join(missing.values())} would be priced as one: give it the rank, as in "
            f"Q[{','.join(missing).lower()},e,p], or {where} an extent with it, as in "
            f"shape: {{RANK: {'*'.join(missing)}*...}}",
            design.place,
        )


_HISTOGRAM = ".histogram"
"""The loads of a family among its places: no value that is derived has such a name."""
EXTENTS = frozenset([*"BDEFGHMNPS", "TOKENS"])
_SET_IN = (
    {"B": "workload.batch", "P": "workload.queries"}
    | dict.fromkeys("DEFGH", "the model (workload.models)")
    | dict.fromkeys(("M", "N", "TOKENS"), "workload.seq_len")
)
_COLUMNS = re.compile(
    "family|design|model|kernel|batch|seq_len|architecture|cascade|mapper|mapping|reason|rank|"
    "speedup|bottleneck|traffic_bytes|area_um2|lower_bound_bytes|compute_s|dsp|bram18|uram|lut|ff|"
    "(latency|energy|busy|util|kernel)_.*"
)


def _check_own_name(name: str, grid: Grid) -> None:
    """A derived value of its own has a new name: hiding another would look like setting it."""
    place = grid.places[name]
    if not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", name):
        raise InputError(
            f"{name!r} cannot be derived: write arch.PARAMETER, shape.RANK or a plain name", place
        )
    if name in EXTENTS:
        raise InputError(
            f"{name!r} is an extent of the model: derive shape.{name} to set it", place
        )
    if _COLUMNS.fullmatch(name):
        raise InputError(f"{name!r} is a column of the results: take another name", place)
    if any(name in design.architecture.parameters() for design in grid.designs):
        raise InputError(
            f"{name!r} is a parameter of the architecture: derive arch.{name} to set it", place
        )

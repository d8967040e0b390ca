"""Sustained visits: repetitions without a pause between them, until a time is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edge_transact.benchmarking.records.plan import MOST_REPETITIONS
from edge_transact.benchmarking.records.readings import Reading, between
from edge_transact.benchmarking.records.record import Key, Record, RepetitionRecord, VisitRecord


@dataclass
class Series:
    """The repetitions of a sustained visit, and its end; a bench that was killed logged none."""

    repetitions: list[RepetitionRecord] = field(default_factory=list)
    end: VisitRecord | None = None

    @property
    def start_s(self) -> float:
        """When it began, on the clock of the readings."""
        return (self.repetitions[0].ended_s or 0.0) - self.repetitions[0].e2e_s

    @property
    def seconds(self) -> float:
        return (self.repetitions[-1].ended_s or 0.0) - self.start_s

    @property
    def is_whole(self) -> bool:
        """Whether it went on for as long as it was to. A series that was cut isn't continued, but begun again."""
        return self.seconds >= (self.repetitions[0].sustained_s or 0.0)

    @property
    def readings(self) -> Sequence[Reading]:
        """The sensors meanwhile: all readings, or what the repetitions keep of them if the bench was killed."""
        if self.end is not None:
            return between(self.end.trace, self.start_s, self.start_s + self.seconds)
        kept = ("temp_source", "thermal_status", "cpu_mhz", "gpu_mhz", "battery_percent", "other_cpu_share")
        return [
            Reading(at_s=each.ended_s or 0.0, temp_c=each.temp_end_c, **{name: getattr(each, name) for name in kept})
            for each in self.repetitions
        ]


def series_of(records: Iterable[Record]) -> list[Series]:
    """The sustained visits among some records, in the order in which they began."""
    found: list[Series] = []
    current: dict[tuple[Key, str | None], Series] = {}
    for record in records:
        name = record.key, record.session
        if record.sustained_s is None:
            continue
        if isinstance(record, VisitRecord):
            if name in current:
                current.pop(name).end = record
        elif record.ended_s is not None:
            if name not in current:
                found.append(current.setdefault(name, Series()))
            current[name].repetitions.append(record)
    return found


def done(records: Iterable[Record]) -> Counter[Key]:
    """How many repetitions of each visit are measured: of a sustained one all that it can have, or none."""
    records = list(records)
    found = Counter(each.key for each in records if each.kind == "repetition" and each.sustained_s is None)
    return found + Counter({each.repetitions[0].key: MOST_REPETITIONS for each in series_of(records) if each.is_whole})

"""What a run of the fault test has shown, in numbers and, where something is wrong, in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from chaos.count import Count
from chaos.installation import POLICIES
from chaos.modality import Analysed, Study

__all__ = ["Report", "told"]


@dataclass
class Report:
    """What happened."""

    seed: int
    database: str
    small_disks: bool  # that can be filled; else files that can not grow stand in for them
    faults: Counter[str] = field(default_factory=Counter)
    sent: list[Study] = field(default_factory=list)
    more: int = 0  # of them: studies for faults that nothing would have met
    refused: int = 0  # sendings that the scanners had to repeat
    analysed: list[Analysed] = field(default_factory=list)  # before the rest of them was sent
    replaced: list[Analysed] = field(
        default_factory=list
    )  # of these: whose results others superseded, by all we know
    jobs: Counter[str] = field(default_factory=Counter)  # by state
    attempts: int = 0
    set_aside: int = 0  # by chance, and retried
    poisonous: int = 0  # set aside for good
    failed: list[str] = field(default_factory=list)  # newest jobs that ended badly for any other reason
    counted: Count = field(default_factory=Count)
    seconds: dict[str, float] = field(default_factory=dict)  # what took them

    @property
    def poisonous_sent(self) -> int:
        return sum(each.kind == "poison" for each in self.sent)

    @property
    def marked_expected(self) -> int:
        """Sets of superseded results that have to be in the archive, at the least."""
        return sum(POLICIES[each.application] != "delete" for each in self.replaced)

    @property
    def wrong(self) -> list[str]:
        """Why the run does not prove what it should; nothing when it does."""
        counted = self.counted
        wrong = [*counted.lost, *counted.double, *counted.images_missing, *self.failed]
        if self.poisonous != self.poisonous_sent:
            wrong.append(f"{self.poisonous} poisonous studies are set aside, {self.poisonous_sent} were sent")
        if not self.marked_expected:
            wrong.append("no study had results before the rest of it came, so none had to be superseded")
        elif counted.superseded < self.marked_expected:
            wrong.append(f"{counted.superseded} sets are superseded, {self.marked_expected} should be")
        return wrong

    @property
    def sound(self) -> bool:
        """Whether every study has what it should have, nothing else ended badly, and each kind was put to the test."""
        return not self.wrong

    def table(self) -> Table:
        table = Table("what", "number", title=f"fault test on {self.database}, seed {self.seed}")
        for name, times in sorted(self.faults.items()):
            table.add_row(f"fault: {name}", str(times))
        counted = self.counted
        for name, value in (
            ("faults", sum(self.faults.values())),
            (
                "disks",
                "small ones, filled" if self.small_disks else "none of our own: files that can not grow",
            ),
            ("studies", len(self.sent)),
            ("of them for faults that nothing met", self.more),
            ("images", counted.images),
            ("sendings that scanners had to repeat", self.refused),
            ("studies analysed before the rest came", len(self.analysed)),
            ("of them to be superseded, and kept", self.marked_expected),
            ("jobs", sum(self.jobs.values())),
            *((f"jobs {state}", number) for state, number in sorted(self.jobs.items())),
            ("attempts", self.attempts),
            ("jobs set aside by chance, then retried", self.set_aside),
            ("poisonous studies set aside for good", f"{self.poisonous} of {self.poisonous_sent}"),
            ("results in the archive", counted.instances),
            ("current sets of results", counted.current),
            ("superseded sets of results", counted.superseded),
            ("lost", len(counted.lost)),
            ("double", len(counted.double)),
            *((f"seconds, {what}", round(taken)) for what, taken in self.seconds.items()),
        ):
            table.add_row(name, str(value))
        return table


def told(report: Report) -> None:
    """Print it, and what is wrong in words."""
    console = Console(width=110)
    console.print(report.table())
    for line in report.wrong:
        console.print(line, style="red")

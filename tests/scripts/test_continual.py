"""What the study of forgetting says, against the files of its runs."""

import csv
import json
from statistics import mean, stdev

import pytest
from conftest import ROOT

from refine.report.terminal import LogOnly

TINY = (
    "dataset.subset_size=60", "dataset.image_size=8", "model=logistic", "trainer.epochs=5",
    "trainer.batch_size=10", "replay.steps=4", "replay.buffer_size=20", "replay.batch_size=10",
)  # fmt: skip
ARMS = ("nothing", "reservoir", "all three")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def study():
    """The script in this process; it takes one run after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        import run_continual

        yield lambda *arguments: run_continual.main(["workers=1", *arguments])
    LogOnly()  # in place of the script's terminal, which has gone


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(study, tmp_path_factory):
    """The results of two streams of the digits, two seeds each."""
    home = tmp_path_factory.mktemp("continual")
    asked = (f"home={home}", "seeds=2", "data=digits,permuted", f"only={','.join(ARMS)}")
    assert study(*asked, *TINY) == 0
    return home


def test_a_line_for_every_run(out):
    runs = rows(out / "runs.csv")
    names = [(run["data"], run["arm"], run["seed"]) for run in runs]
    arms = [("digits", arm) for arm in ARMS] + [("permuted", arm) for arm in ARMS[:2]]
    assert names == [(*arm, seed) for arm in arms for seed in ("42", "43")]
    for run in runs:
        place = out / "runs" / run["data"] / run["arm"].replace(" ", "_") / f"seed-{run['seed']}"
        last = rows(place / "metrics.csv")[-1]
        for column in ("average_accuracy", "forgetting", "sparsity"):
            assert run[column] == last[column]
        assert run["memory_bytes"] == rows(place / "cycles.csv")[-1]["memory_bytes"]
        assert (float(run["sparsity"]) > 0) == (run["arm"] == "all three")
        assert (int(run["memory_bytes"]) == 0) == (run["arm"] == "nothing")
    assert (out / "continual.png").read_bytes()[:4] == b"\x89PNG"


def test_arms_take_as_many_steps(out):
    steps = set()
    for arm in ARMS:
        place = out / "runs" / "digits" / arm.replace(" ", "_") / "seed-42"
        steps.add(sum(int(row["replay_steps"]) for row in rows(place / "cycles.csv")))
        assert rows(place / "metrics.csv")[-1]["epoch"] == "5"
    assert steps == {4 * 4}


def test_forgetting_is_that_of_the_accuracies(out):
    for arm in ARMS:
        place = out / "runs" / "digits" / arm.replace(" ", "_") / "seed-43"
        epochs = rows(place / "metrics.csv")  # one a task
        seen = [json.loads(row["task_accuracies"]) for row in epochs]
        assert [len(now) for now in seen] == [1, 2, 3, 4, 5]
        for number, (row, now) in enumerate(zip(epochs, seen, strict=True)):
            assert float(row["average_accuracy"]) == pytest.approx(sum(now) / len(now))
            lost = [
                max(seen[end][task] for end in range(task, number)) - now[task]
                for task in range(number)
            ]
            assert float(row["forgetting"]) == pytest.approx(mean(lost) if lost else 0)


def test_the_table_is_that_of_the_runs(out):
    runs = rows(out / "runs.csv")
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.count("## ") == 2
    digits = [line for line in text.partition("\n## digits, pixels")[0].splitlines() if "|" in line]
    assert [line.split("|")[1].strip() for line in digits[2:]] == list(ARMS)

    def values(arm, column):
        return [
            100 * float(run[column]) for run in runs if (run["data"], run["arm"]) == ("digits", arm)
        ]

    def spread(numbers):
        return f"{mean(numbers):.2f} ± {stdev(numbers):.2f}"

    def less(arm, other, column):
        pairs = zip(values(arm, column), values(other, column), strict=True)
        first, second = (own - theirs for own, theirs in pairs)
        # 95 % of a t distribution with one degree of freedom lie within 12.706
        half = 12.7062 * abs(first - second) / 2
        return f"{(first + second) / 2:+.2f} ± {half:.2f}"

    for line, arm in zip(digits[2:], ARMS, strict=True):
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells[0] == "2"
        for column, part in (("average_accuracy", cells[1:4]), ("forgetting", cells[4:7])):
            assert part[0] == spread(values(arm, column))
            assert part[1] == ("" if arm == "nothing" else less(arm, "nothing", column))
            assert part[2] == (less(arm, "reservoir", column) if arm == "all three" else "")


def test_where_the_pictures_are_is_for_cifar10_alone(study, tmp_path):
    """The digits run; the pictures, which are not there, are answered with one line."""
    asked = (f"home={tmp_path}", "seeds=1", "data=digits,cifar10", "only=nothing")
    with pytest.raises(SystemExit, match=r"^dataset\.root.*nowhere"):
        study(*asked, *TINY, "dataset=image_folder", "dataset.root=nowhere")
    assert (tmp_path / "runs" / "digits" / "nothing" / "seed-42" / "summary.json").is_file()


def test_a_name_that_is_not_there_is_one_line(study):
    with pytest.raises(SystemExit, match=r"^only: there is no 'everything'"):
        study("only=everything")
    with pytest.raises(SystemExit, match=r"^data: there is no 'mnist'"):
        study("data=mnist")

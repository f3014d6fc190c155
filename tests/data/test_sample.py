"""transform.sample: the same rows always, whatever else there is; groups kept in their proportions."""

from collections import Counter

import pytest

from longrein.core import plugins
from longrein.core.errors import Error

KINDS = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]


def rows(count=2000, start=0):
    return [
        {"input": f"row {i} 行", "output": KINDS[i % 100], "source": "f", "line": i + 1}
        for i in range(start, start + count)
    ]


def kept(given, **options):
    transform = plugins.load("transform", "sample")(options)
    transform.survey(iter(given))
    return [v.row for v in transform.apply(iter(given)) if not v.reason]


def kinds(found):
    return dict(Counter(r["output"] for r in found))


def test_a_share_does_not_depend_on_what_else_there_is():
    some, all_ = kept(rows(), share=0.2), kept(rows(4000)[::-1], share=0.2)
    assert 320 < len(some) < 480 and [r for r in all_[::-1] if r["line"] <= 2000] == some
    assert kept(rows(), share=0.2, seed=1) != some and kept(rows(), share=1, rows=10**6) == rows()
    assert {r["line"] for r in kept(rows(), share=0.1)} < {r["line"] for r in some}


def test_a_number_of_rows_is_met_and_new_rows_move_none_of_the_others():
    before, after = kept(rows(), rows=100), kept(rows(2100), rows=100)
    gone = {r["line"] for r in before} - {r["line"] for r in after}
    assert len(before) == len(after) == 100
    assert len(gone) == len([r for r in after if r["line"] > 2000]) < 20
    assert len(kept([*rows(10), *rows(10)], rows=7)) == 7
    assert kept(rows(5), rows=7) == rows(5)


def test_strata_keep_their_proportions():
    assert kinds(kept(rows(), rows=200, by="output")) == {"a": 120, "b": 60, "c": 18, "d": 2}
    assert kinds(kept(rows(), share=0.01, by="output")) == {"a": 12, "b": 6, "c": 2, "d": 1}
    assert kinds(kept(rows(), most=25, by="output")) == {"a": 25, "b": 25, "c": 25, "d": 20}
    assert kinds(kept(rows(), rows=100, most=25, by="output")) == {"a": 25, "b": 25, "c": 9, "d": 1}
    assert len(kept(rows(), rows=3, by="line")) == 3


def test_groups_by_a_kept_column():
    given = [r | {"extra": f'{{"n":{r["line"] % 2}}}'} for r in rows(100)]
    found = kept(given, most=3, by="n")
    assert sorted(r["line"] % 2 for r in found) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(Error, match="no row has 'm'"):
        kept(given, most=3, by="m")


@pytest.mark.parametrize("options", [{}, {"most": 3}, {"by": "output"}, {"seed": 1}])
def test_a_sample_of_no_size_is_refused(options):
    with pytest.raises(Error, match=r"size|most"):
        plugins.load("transform", "sample")(options)


def test_in_a_pipeline_incremental(project):
    line = '{{"text": "row {}", "kind": "{}"}}\n'
    project.write("data/a.jsonl", "".join(line.format(i, KINDS[i % 100]) for i in range(1000)))
    stage = ["normalize", {"sample": {"rows": 100, "by": "output"}}]
    made = project.ingest(output="kind", transforms=stage)
    assert kinds(project.rows(made)) == {"a": 60, "b": 30, "c": 9, "d": 1}
    assert made.meta["dropped"] == {"not_sampled": 900} and len(project.rejected(made)) == 900

from benchmarks.intervals import DIFFICULTIES, KS, coverage, main


def test_ours_hold_the_truth_more_often_than_the_bootstrap():
    ours, bootstrap = coverage(0.05, 1.0, 8, tasks=10, draws=100)
    assert ours > 0.85 > bootstrap


def test_the_table_has_a_row_for_every_number_of_tasks():
    lines = []
    main(["--draws", "2"], lines.append)
    assert [line.split()[0] for line in lines[2:]] == ["10", "30", "100"]
    assert all(len(line.split()) == 7 for line in lines[2:])
    assert len(DIFFICULTIES) * len(KS) == 15, "as docs/metrics.md says"

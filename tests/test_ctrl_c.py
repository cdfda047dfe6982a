from __future__ import annotations

import pytest

from examples.ctrl_c import until_ctrl_c


def test_ctrl_c_is_one_sentence_and_the_status_of_an_interrupted_program(capsys) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        until_ctrl_c(interrupted, "The same command goes on.")
    assert stop.value.code == 130
    output = capsys.readouterr()
    assert output.err == "interrupted; everything that was started has been ended. The same command goes on.\n"
    assert output.out == ""


def test_a_program_that_ends_or_fails_by_itself_is_left_alone() -> None:
    until_ctrl_c(lambda: None, "")
    with pytest.raises(ZeroDivisionError):
        until_ctrl_c(lambda: print(1 // 0), "")

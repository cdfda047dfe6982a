import pytest

from envs.retail.database import Database
from envs.retail.reward import changes_after, grade, missing_outputs
from envs.retail.tools import Desk
from tests.tiny_shop import ADDRESS, NEW, TEMPLATE

CANCEL = {"name": "cancel_pending_order", "kwargs": {"order_id": "#3", "reason": "no longer needed"}}
MOVE = {"name": "modify_user_address", "kwargs": {"user_id": "zoe_a_1", **NEW}}


def graded(done, actions, said=(), outputs=()):
    database = Database(TEMPLATE)
    Desk(database).call_all(done)
    result = grade(database, said, TEMPLATE, actions, outputs)
    return result.database_equal, result.outputs_said, result.solved


@pytest.mark.parametrize(
    ("done", "equal"),
    [
        ([CANCEL, MOVE], True),
        ([MOVE, CANCEL], True),  # the way there is not graded
        ([MOVE, CANCEL, CANCEL], True),  # what fails changes nothing
        ([CANCEL], False),
        ([], False),
        ([CANCEL, MOVE, {"name": "modify_pending_order_address", "kwargs": {"order_id": "#1", **NEW}}], False),
        ([{"name": "cancel_pending_order", "kwargs": {"order_id": "#3", "reason": "ordered by mistake"}}, MOVE], False),
    ],
)
def test_the_final_database_must_equal_that_after_the_reference_actions(done, equal):
    assert graded(done, [CANCEL, MOVE]) == (equal, True, equal)


def test_a_task_without_actions_wants_the_database_untouched():
    assert graded([], []) == (True, True, True)
    assert graded([CANCEL], []) == (False, True, False)


@pytest.mark.parametrize(
    ("said", "outputs", "missing"),
    [
        (["It cost $1,093.34."], ["1093.34"], []),
        (["It cost 1093.34."], ["1,093.34"], []),
        (["You have a FROST-FREE one."], ["frost-free"], []),
        (["It is 10", "93.34"], ["1093.34"], ["1093.34"]),  # within one message
        (["first 7", "then 12"], ["12", "7"], []),  # in any message, in any order
        (["first 7"], ["12", "7", "8"], ["12", "8"]),
        ([], ["12"], ["12"]),
        ([], [], []),
        (["$105"], ["10"], []),  # at any place, as tau-bench has it
    ],
)
def test_every_required_output_must_be_said_to_the_user(said, outputs, missing):
    assert missing_outputs(outputs, said) == missing
    assert graded([], [], said, outputs) == (True, not missing, not missing)


def test_both_halves_are_needed():
    assert graded([CANCEL], [CANCEL], ["5.5 back"], ["5.5"]) == (True, True, True)
    assert graded([], [CANCEL], ["5.5 back"], ["5.5"]) == (False, True, False)
    assert graded([CANCEL], [CANCEL], ["soon"], ["5.5"]) == (True, False, False)


def test_reference_actions_that_fail_change_nothing():
    assert changes_after(TEMPLATE, [CANCEL | {"kwargs": {"order_id": "#9", "reason": "no longer needed"}}]) == {}
    back = {"name": "modify_user_address", "kwargs": {"user_id": "zoe_a_1", **ADDRESS}}
    assert changes_after(TEMPLATE, [MOVE, back]) == {}

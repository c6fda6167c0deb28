"""What answers of servers of others count as, however they are cut into pieces."""

import struct

import pytest

from services.memory.stores.pgvector.answer_room import Answer, AnswerRoom, AnswerTooLarge, NoRoomForAnswer

_ENDS = b"C\0\0\0\x0dSELECT 4\0" + b"Z\0\0\0\5I"


def _row(*values: bytes) -> bytes:
    body = struct.pack("!H", len(values)) + b"".join(struct.pack("!i", len(value)) + value for value in values)
    return b"D" + struct.pack("!i", 4 + len(body)) + body


@pytest.mark.parametrize("step", [1, 2, 5, 6, 7, 11, 1000])
def test_rows_and_values_count_besides_their_bytes(step: int) -> None:
    # A value that looks like rows is none.
    sent = (_row(b"a") + _row() + _row(_row() * 9, b"bc") + _row(b"x" * 300) + _ENDS) * 2
    size = len(sent) + 2 * (4 * 512 + 4 * 64)
    exact, small = AnswerRoom(answer_bytes=size, all_bytes=0), AnswerRoom(answer_bytes=size - 1, all_bytes=0)

    def receive(answer: Answer) -> None:
        for start in range(0, len(sent), step):
            answer.add(sent[start : start + step])

    answer = Answer(exact, "sales")
    for _ in range(3):
        answer.let_go()
        receive(answer)
    with pytest.raises(AnswerTooLarge):
        answer.add(b"N")
    with pytest.raises(AnswerTooLarge):
        receive(Answer(small, "sales"))


def test_a_group_has_half_and_all_have_the_whole() -> None:
    room = AnswerRoom(answer_bytes=40, all_bytes=100)
    answers = [Answer(room, group) for group in ("sales", "sales", "legal", "legal", "press")]

    def fits(position: int, size: int) -> bool:
        try:
            answers[position].add(b"N" * size)
        except NoRoomForAnswer:
            return False
        return True

    assert [fits(0, 40), fits(1, 11), fits(1, 10), fits(2, 40), fits(3, 11), fits(3, 10), fits(4, 1)] == [
        True, False, True, True, False, True, False,
    ]  # fmt: skip
    answers[0].let_go()
    answers[0].let_go()
    assert fits(4, 40)
    assert not fits(0, 1)
    for answer in answers:
        answer.let_go()
    assert fits(0, 40)

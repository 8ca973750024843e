"""The book of leases: what a killed process held is found once, what a living one holds never."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from tasks.leases import LeaseBook

HOLDER = """
import sys
from pathlib import Path
from uuid import UUID
from tasks.leases import LeaseBook
book = LeaseBook(Path(sys.argv[1]))
for lease in sys.argv[2:]:
    book.took(UUID(lease))
book.gave(UUID(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def test_leases_of_a_killed_process_are_found_once(tmp_path: Path) -> None:
    leases = [uuid4() for _ in range(3)]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), *map(str, leases)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    ours = LeaseBook(tmp_path)
    assert ours.orphans() == [], "the holder lives"
    holder.kill()
    holder.wait()
    assert ours.orphans() == leases[1:], "the first was given back"
    assert LeaseBook(tmp_path).orphans() == []


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    lease = uuid4()
    (tmp_path / "dead.leases").write_text(f"+{lease}\n+{str(uuid4())[:20]}")
    assert LeaseBook(tmp_path).orphans() == [lease]


def test_a_book_whose_leases_are_all_back_leaves_nothing(tmp_path: Path) -> None:
    book, lease = LeaseBook(tmp_path), uuid4()
    book.took(lease)
    book.gave(lease)
    book.close()
    assert LeaseBook(tmp_path).orphans() == []
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_in_a_book_when_it_is_closed_is_left_for_the_next(tmp_path: Path) -> None:
    book, lease = LeaseBook(tmp_path), uuid4()
    book.took(lease)
    book.close()
    assert LeaseBook(tmp_path).orphans() == [lease]

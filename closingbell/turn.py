"""Whose turn it is: work that holds Python's interpreter lock all the while is done by one thread at a time.

A dozen threads that decode at once are done no sooner than one after the other, and meanwhile the threads that write,
for which the whole run waits, get the interpreter every now and then only: that cost a tenth of a whole run.
"""

from __future__ import annotations

import threading
from typing import Final

#: Held while an answer is decoded or judged; never while anything else is waited for.
TURN: Final = threading.Lock()

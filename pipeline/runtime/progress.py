"""Progress bars: redrawn on a terminal, and one line a minute in a log."""

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LOG_EVERY_S = 60.0


class Progress(tqdm):
    """A tqdm bar. Where the output is no terminal it writes whole lines: at most one a minute, and one at the end."""

    disable: bool
    total: float | None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("dynamic_ncols", True)
        if not is_terminal(settings.get("file") or sys.stderr):
            # a delay leaves out the line of a bar that has not begun
            settings |= {"mininterval": LOG_EVERY_S, "maxinterval": LOG_EVERY_S, "delay": 1e-9}
        super().__init__(*arguments, **settings)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return the function that shows a state of the bar."""
        if is_terminal(file):
            printer: Callable[[str], None] = tqdm.status_printer(file)
            return printer

        def print_line(text: str) -> None:
            if text.strip():
                file.write(f"{text.strip()}\n")
                file.flush()

        return print_line

    def move_to(self, done: int, total: int | None = None) -> None:
        """Show that `done` are done; of `total`, if that is only known now."""
        self.total = self.total if total is None else total
        self.update(done - self.n)

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
        """Show values behind the bar: at once on a terminal, and with the next line in a log."""
        super().set_postfix(ordered_dict, refresh and is_terminal(self.fp), **values)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Show a text behind the bar, as `set_postfix` does."""
        super().set_postfix_str(s, refresh and is_terminal(self.fp))

    def close(self) -> None:
        """Show the last state and end the bar."""
        if self.disable or is_terminal(self.fp):
            super().close()
            return
        if self.leave is not False and self.n > self.last_print_n:
            self.display()
        self.disable = True
        self._decr_instances(self)


def is_terminal(file: Any) -> bool:
    """Whether a stream is a terminal."""
    return bool(getattr(file, "isatty", lambda: False)())

"""The live terminal view of a worker: asks it once a second, follows its log, and finds it again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, RichLog, Static

from orchestrator.cli import top_view
from orchestrator.errors import OrchestratorError
from orchestrator.worker.control_client import ControlClient, NoWorker

_LOG_LINES: Final = 1000
_RECENT: Final = 200

_HELP: Final = """\
slices/s  slices that left a sandbox, per second
cpu       cores that the sandboxes use, and the worker itself
pool      sandboxes ready, starting, in use; how many were handed out
          without waiting, and how long a hand-out took
earned    what accepted results were paid with
why       the reason for no work, or for less than there could be
box       number of a sandbox: `worker explain --sandbox N` tells its story
queue     slices inside a sandbox
done      slices that it has finished
unacked   results that the Scheduler has not acknowledged yet

q quit   p pause / resume   d drain (asks)   l log   tab next part

any key goes back"""


class _Question(ModalScreen[bool]):
    """Yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self._question}\n\ny yes   n no"), classes="dialog")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class _Help(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        yield Static(Text(_HELP), classes="dialog")

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(None)


class TopApp(App[None]):
    """`run()` it in a terminal. It changes nothing at the worker but by the keys p and d."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    Static { height: auto; }
    .part { scrollbar-size-vertical: 1; }
    .part:focus { background: $boost; }
    RichLog { height: 1fr; min-height: 3; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    ModalScreen { align: center middle; }
    .dialog { width: 78; height: auto; padding: 0 1; border: round $accent; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("p", "pause", "pause/resume"),
        Binding("d", "drain", "drain"),
        Binding("l", "log", "log"),
        Binding("question_mark", "help", "help", key_display="?"),
    ]

    def __init__(self, state_dir: pathlib.Path, interval_s: float = 1.0) -> None:
        super().__init__()
        self.history = top_view.History()
        self._state_dir = state_dir
        self._interval_s = interval_s
        self._head_text, self._slots_text, self._jobs_text = Static(), Static(), Static()
        self._slots_part = VerticalScroll(self._slots_text, classes="part")
        self._jobs_part = VerticalScroll(self._jobs_text, classes="part")
        self._log_title = Static()
        self._log_pane = RichLog(max_lines=_LOG_LINES, wrap=False, auto_scroll=True)

    def compose(self) -> ComposeResult:
        yield from (self._head_text, self._slots_part, self._jobs_part, self._log_title, self._log_pane)
        yield Footer()

    def on_mount(self) -> None:
        self._draw()
        self._watch()
        self._follow_log()

    def on_resize(self) -> None:
        self._draw()

    # -- the worker ------------------------------------------------------------------------------------------------

    @work(exit_on_error=True, group="watch")
    async def _watch(self) -> None:
        while True:
            try:
                async with ControlClient(self._state_dir) as worker:
                    while True:
                        self.history.add(await worker.status(), await worker.explain())
                        self._draw()
                        await asyncio.sleep(self._interval_s)
            except NoWorker as error:
                self.history.gone = error.message
                self._draw()
            await asyncio.sleep(self._interval_s)

    @work(exit_on_error=True, group="log")
    async def _follow_log(self) -> None:
        while True:
            with contextlib.suppress(NoWorker):
                async with ControlClient(self._state_dir) as worker:
                    self._log_pane.clear()
                    async for line in worker.log(recent=_RECENT):
                        self._log_pane.write(top_view.log_line(line, self.size.width - 1))
            await asyncio.sleep(self._interval_s)

    # -- drawing ---------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        width, height = self.size
        slots, jobs = top_view.slots(self.history, width - 1), top_view.jobs(self.history, width - 1)
        _show(self._head_text, top_view.head(self.history, width))
        _show(self._slots_text, slots)
        _show(self._jobs_text, jobs)
        _show(self._log_title, [Text(" log".ljust(width), style="reverse")])
        # Slots and jobs get what they need, but always leave some lines to the log.
        self._slots_part.styles.height = min(len(slots), max(height // 3, 3))
        self._jobs_part.styles.height = min(len(jobs), max(height // 5, 2))

    # -- keys ------------------------------------------------------------------------------------------------------

    def action_log(self) -> None:
        self._log_pane.focus()

    def action_help(self) -> None:
        self.push_screen(_Help())

    @work(group="keys")
    async def action_pause(self) -> None:
        paused = self.history.latest is not None and self.history.latest["state"] == "paused"
        with self._errors_shown():
            async with ControlClient(self._state_dir) as worker:
                if paused:
                    await worker.resume()
                else:
                    await worker.pause(reason="paused in `worker top`")
                self.notify("resumed" if paused else "paused: no new work until p is pressed again")

    @work(group="keys")
    async def action_drain(self) -> None:
        held = 0 if self.history.latest is None else self.history.latest["supervisor"]["held"]
        question = f"Drain this worker? It takes no new work, finishes the {held} slices\nthat it holds, and ends."
        if not await self.push_screen_wait(_Question(question)):
            return
        with self._errors_shown():
            async with ControlClient(self._state_dir) as worker:
                await worker.drain()
                self.notify("draining")

    @contextlib.contextmanager
    def _errors_shown(self) -> Iterator[None]:
        try:
            yield
        except OrchestratorError as error:
            self.notify(error.message, severity="error", timeout=10)


def _show(widget: Static, lines: Iterable[Text]) -> None:
    widget.update(Text("\n").join(lines))

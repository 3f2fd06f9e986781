"""What the columns of the Compare tab show: the variants of one result, or one variant of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evoxtral.ui import view
from evoxtral.ui.history import Result

OTHER_CLIP = ""  # never the path of a clip in the recorder


@dataclass(frozen=True)
class Comparison:
    """What the columns show: all variants of one result, or one variant of several results.

    editing: key of the column that is being edited.  note: where the results come from, unless it is the clip in the
    recorder.  clip: path of the clip in the recorder to which the reference box belongs; OTHER_CLIP if the box belongs
    to a clip that is not shown.
    """

    results: tuple[Result, ...]
    variant: str = ""
    editing: str = ""
    note: str = ""
    clip: str | None = None

    def cells(self) -> dict[str, tuple[Result, str]]:
        """Key of each column → its result and variant."""
        if len(self.results) == 1:
            return {variant: (self.results[0], variant) for variant in self.results[0].written}
        return {
            f"{number}.{self.variant}": (result, self.variant)
            for number, result in enumerate(self.results, start=1)
            if self.variant in result.written
        }

    @property
    def done(self) -> bool:
        return all(transcript.done for result in self.results for transcript in result.written.values())

    def columns(self, reference: str | None = None) -> list[view.Column]:
        """reference: replaces those of the results."""
        return [self._column(key, *place, reference) for key, place in self.cells().items()]

    def _column(self, key: str, result: Result, variant: str, reference: str | None) -> view.Column:
        heading = view.heading(variant)
        if len(self.results) > 1:
            number, _, _ = key.partition(".")
            heading = view.Heading(f"{number}. {result.file}", f"{heading.title} · {result.model} · {result.time}")
        written, stem = result.written[variant], f"{view.file_stem(result.file)}.{variant}"
        clip = f"{result.file} {written.duration}"
        # The reference of a single result is in the box, where the visitor may have deleted it.
        own = result.reference if reference is None or len(self.results) > 1 else ""
        said = (reference or own).strip()[: view.MAX_CHARACTERS]
        return view.Column(key, heading, result.transcripts[variant], written, stem, result.id, clip, said)

    def with_result(self, result: Result) -> "Comparison":
        """A copy with a newer state of one result."""
        return replace(self, results=tuple(result if other.id == result.id else other for other in self.results))

    def with_edit(self, column: str, result: str, texts: Sequence[str] | None) -> "Comparison":
        """A copy with edited texts in a column, None to undo the edit; unchanged if the column now has another result.
        result: id of the result that was edited."""
        there, variant = self.cells().get(column, (None, ""))
        if there is None or there.id != result:
            return self
        return self.with_result(there.without_edit(variant) if texts is None else there.with_edit(variant, texts))

    def broken_off(self) -> "Comparison | None":
        """The partial transcripts as final ones, after decoding has failed; None if there is no text."""
        (result,) = self.results
        written = {name: transcript.broken_off() for name, transcript in result.written.items()}
        return self.with_result(replace(result, written=written)) if any(t.text for t in written.values()) else None

"""`hier adapt`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, warn
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.adapting import Adapted

_SHOWN = 10


def adapt(
    index: Annotated[Path, typer.Option(help="Adapt the encoder of this index to its images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Write the adapted encoder to this .onnx file.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Take the encoder of the index from this file."),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            "--embedding-dim",
            min=2,
            max=4096,
            help="Give points this many dimensions.",
            show_default="as many as before",
        ),
    ] = None,
    keep_index: Annotated[
        bool,
        typer.Option("--keep-index", help="Write only the encoder; leave the index as it is."),
    ] = False,
    root: options.Root = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    json_output: options.Json = False,
) -> None:
    """Adapt an encoder to the images of an index, without labels.

    Each image is decoded once. Features in which nearest neighbours differ from each other count
    less. The backbone stays as it is. The index gets the new points, and
    searches use the new encoder from then on. It takes about as long as embedding, and needs no
    PyTorch. If images have labels, the scores before and after are shown; the labels are not used.

    Examples:

    - `hier adapt --index idx.faiss -o mine.onnx`

    - `hier adapt --index idx.faiss -o mine.onnx --keep-index`
    """
    from hiercli import adapting
    from hiercli.encoder import golden
    from hiercli.files import require_replaceable

    if str(index).startswith("milvus:"):
        raise InputError(f"expected an index file, got the Milvus index {index}")
    require_replaceable(output)
    require_replaceable(golden.golden_path(output))
    with progress("reading images") as bar, progress("building the index") as building:
        done = adapting.adapt(
            index, output, model, dim=dim, rebase=not keep_index, root=root, device=device,
            threads=threads, progress=bar, building=building,
        )  # fmt: skip
    for problem in done.problems[:_SHOWN]:
        warn(problem)
    if len(done.problems) > _SHOWN:
        warn(f"{counted(len(done.problems) - _SHOWN, 'further image')} cannot be used")
    _tell(done, index, output, keep_index)
    if json_output:
        scores = {
            name: None if found is None else {"recall@1": found[0], "map@r": found[1]}
            for name, found in (("before", done.before), ("after", done.after))
        }
        facts = {
            "encoder": str(output), "fingerprint": done.encoder.fingerprint,
            "images": done.images, "skipped": len(done.problems), "rebased": done.rebased,
        }  # fmt: skip
        print(json.dumps(facts | scores))
    if done.problems:
        raise typer.Exit(EXIT_SKIPPED)


def _tell(done: "Adapted", index: Path, output: Path, keep_index: bool) -> None:
    say(f"{output}: adapted to {counted(done.images, 'image')}")
    if done.before is not None and done.after is not None:
        say(
            "measured with the labels, which were not used to adapt: Recall@1 "
            f"{done.before[0]:.1f} before, {done.after[0]:.1f} after; MAP@R "
            f"{done.before[1]:.1f} before, {done.after[1]:.1f} after"
        )
    if done.rebased:
        say(
            f"{index}: has the points of the new encoder, which searches and updates use from now "
            "on"
        )
    elif keep_index:
        say(f"to use it, build an index: hier embed FOLDER --model {output} --index NEW.faiss")
    else:
        say(
            f"{index} stays as it is, because {counted(len(done.problems), 'image')} cannot be "
            f"used. Build it again: hier embed FOLDER --model {output} --index {index} --rebuild"
        )

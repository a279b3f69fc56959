"""`mahalad export`: a fitted model as a file of ONNX or OpenVINO that runs without torch."""

from __future__ import annotations

import click

from mahalad.choices import EXPORT_FORMATS
from mahalad.commands.gathering import gather
from mahalad.commands.options import Fpr
from mahalad.commands.paths import check_given, check_output, force_option


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="File to write (whole or not at all): part.onnx, or part.xml for OpenVINO, "
              "whose weights are beside it in part.bin.")  # fmt: skip
@click.option("--format", type=click.Choice(EXPORT_FORMATS), default=None,
              help="Default: by the end of the file's name.")  # fmt: skip
@click.option("--check", "images", multiple=True, metavar="IMAGES",
              help="Folder, glob or file of images that the exported model must judge as MODEL "
              "does, beside generated ones. May be given several times.")  # fmt: skip
@click.option("--fpr", type=Fpr(), default=None,
              help="False-positive rate of the exported model (of a model of `tune`, the rate of "
              "novelty). Default: that of MODEL; it may be changed at any time.")  # fmt: skip
@click.option("--opset", type=int, default=17, show_default=True, metavar="N",
              help="Version of ONNX's operators, 17 to 20.")  # fmt: skip
@click.option("--weights", metavar="FILE|hub", default=None,
              help="Weights file, for a model that was saved without its weights.")  # fmt: skip
@force_option
def export(
    model: str,
    output: str,
    format: str | None,
    images: tuple[str, ...],
    fpr: float | None,
    opset: int,
    weights: str | None,
    force: bool,
) -> None:
    """Write MODEL, of `fit`, as a graph from pixels to score, p-value, verdict and map.

    Of a MODEL of `tune` it is one from pixels to embeddings, with the labelled ones beside it in
    the file. It is one file of ONNX, or two of OpenVINO (-o part.xml writes part.bin as well).

    The file is run at once, on generated images and those of --check. Nothing is written if scores
    differ by more than 1e-4 of themselves (by 1e-4 where they are below 1 standard deviation), maps
    by more than 1e-3 above the mean of good images, or a verdict (but of a score that is the
    threshold itself, which is said).

    `score` and `report` take it as a model (-m part.onnx); mahalad.runtime reads it where only
    NumPy, Pillow and onnxruntime (or OpenVINO) are installed.
    """
    from mahalad.export.exporting import export as write
    from mahalad.export.exporting import format_of
    from mahalad.export.formats import check_installed, check_opset
    from mahalad.files.container import refuse_exported
    from mahalad.files.openvino import weights_beside
    from mahalad.loading import is_classifier, load

    check_given(images)
    format = format_of(output, format)
    check_installed(format)
    check_opset(opset)
    refuse_exported(model)
    names = gather(images, "first") if images else []
    check_output(output, "export", [*names, model, weights], force=force)
    if format == "openvino":
        beside = str(weights_beside(output))
        check_output(beside, "export", [*names, model, weights, output], force=force)
    detector = load(model, weights=weights, device="cpu", engine="torch")
    if is_classifier(model):
        click.get_current_context().call_on_close(detector.index_.close)
    if fpr is not None:
        (detector.set_novelty_fpr if is_classifier(model) else detector.set_fpr)(fpr)
    done = write(detector, output, format=format, check_on=names or None, opset=opset)
    click.echo(f"golden inputs: {done.golden}", err=True)
    if done.images is not None:
        click.echo(f"--check: {done.images}", err=True)
    click.echo(f"{done.path}: written ({done.size / 1e6:.1f} MB)", err=True)

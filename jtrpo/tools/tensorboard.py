"""Curves in TensorBoard."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jtrpo.tools.scalars import scalars
from jtrpo.training.state import Metrics


class TensorBoard:
    """Writes what each update reports as TensorBoard's event files, by the names of :func:`jtrpo.tools.scalars.scalars`.

        with TensorBoard("runs/cartpole") as tensorboard:
            run_training(config, on_update=tensorboard)

    The horizontal axis is environment steps. A run that is resumed goes on in the same curves. Needs the extra ``tensorboard``.

    Args:
        directory: for the event files, made where it does not exist; ``tensorboard --logdir`` takes it or the one above.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | Path):
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX: pip install 'jtrpo[tensorboard]'") from error
        self._directory = str(directory)
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, update: int, metrics: Metrics) -> None:
        """Write update number ``update`` (from 1)."""
        named = scalars(update, metrics)
        step = int(named.pop("time/total_timesteps"))
        writer = self._writer_from(step)
        for name, value in named.items():
            writer.add_scalar(name, value, step)

    def show(self, step: int, file: Path) -> None:
        """Show an animated picture of the policy after so many environment steps, as ``policy`` under Images."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(file) as picture:
            width, height = picture.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
        self._writer_from(step).file_writer.add_summary(Summary(value=[Summary.Value(tag="policy", image=image)]), step)

    def _writer_from(self, step: int) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # A resumed run repeats the steps that the killed one took after its last checkpoint: their old points are removed.
            self._writer = SummaryWriter(self._directory, purge_step=step, flush_secs=5)
        return self._writer

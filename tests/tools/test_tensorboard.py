import struct
import sys

import pytest

from jtrpo.tools.tensorboard import TensorBoard

pytest.importorskip("tensorboardX")


def points(directory):
    """``{name: {step: value}}`` of the event files: records of a length, its checksum, the event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(directory.iterdir()):
        data = file.read_bytes()
        while data:
            length = struct.unpack("<Q", data[:8])[0]
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            data = data[16 + length :]
    return found


def test_each_update_is_a_point_at_its_environment_steps(history, tmp_path):
    with TensorBoard(tmp_path) as tensorboard:
        for update, metrics in enumerate(history, start=1):
            tensorboard(update, metrics)
    found = points(tmp_path)
    assert found["train/kl"] == pytest.approx({64 * (i + 1): float(m.policy.kl) for i, m in enumerate(history)})
    assert list(found["train/explained_variance"]) == [64, 128, 192]
    assert "time/total_timesteps" not in found


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'jtrpo\[tensorboard\]'"):
        TensorBoard(tmp_path)

"""Tensors come back to the bit, tied ones tied, and only into a model of the same build."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.checkpoints.weights import load_into, read_tensors, untie, write_tensors
from lmkit.errors import CheckpointError

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


class Net(nn.Module):
    def __init__(self, tied: bool = True, width: int = 4, extra: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, width)
        self.head = nn.Linear(width, 6, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        if extra:
            self.extra = nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("table", torch.arange(5), persistent=False)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_tensors_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shapes = st.lists(st.integers(0, 4), max_size=3)
    made = {
        f"{index}.weight": torch.randint(0, 255, shape).to(dtype)
        for index, (shape, dtype) in enumerate(
            data.draw(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), max_size=5))
        )
    }
    for name, tensor in list(made.items()):
        if data.draw(st.booleans()):
            made[f"tied.{name}"] = tensor
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    write_tensors(path, made)
    back = read_tensors(path)
    assert back.keys() == made.keys()
    for name, tensor in made.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    big = torch.zeros(1000)
    write_tensors(tmp_path / "x", {"a": big, "b": big, "c": big})
    assert (tmp_path / "x").stat().st_size < 2 * big.nbytes
    assert untie({"a": big, "b": big})[1] == {"b": "a"}


def test_views_of_one_storage_are_kept_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    views = {"rows": base[:2], "overlapping": base[1:], "transposed": base.T}
    write_tensors(tmp_path / "x", views)
    back = read_tensors(tmp_path / "x")
    assert all(torch.equal(back[name], view) for name, view in views.items())


def test_tensors_of_whole_cache_lines_start_at_one(tmp_path: Path) -> None:
    sizes = {"a": 3, "b": 16, "c": 160, "d": 5, "e": 32}
    named = {name: torch.randn(size) for name, size in sizes.items()}
    named["f"] = torch.randn(64, dtype=torch.float64)
    named["g"] = torch.randn(7).bfloat16()
    named["h"] = torch.randn(1, dtype=torch.float64)
    write_tensors(tmp_path / "x", named)
    for name, tensor in read_tensors(tmp_path / "x").items():
        wanted = 64 if tensor.nbytes % 64 == 0 else tensor.element_size()
        assert tensor.data_ptr() % wanted == 0, name


def test_a_kind_that_no_file_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'a' is complex128, which no file can hold"):
        write_tensors(tmp_path / "x", {"a": torch.zeros(1, dtype=torch.complex128)})
    assert not (tmp_path / "x").exists()


def test_others_may_read_what_they_may_read_elsewhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_tensors(tmp_path / "x", {"a": torch.zeros(1)})
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_a_model_comes_back_with_its_ties(tmp_path: Path) -> None:
    net, other = Net(), Net()
    write_tensors(tmp_path / "x", net.state_dict())
    before = other.embedding.weight
    load_into(other, tmp_path / "x")
    assert torch.equal(other.embedding.weight, net.embedding.weight)
    assert other.head.weight is other.embedding.weight is before  # in place: optimizers hold it


def test_dtypes_are_adopted_only_when_asked(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", Net().bfloat16().state_dict())
    with pytest.raises(CheckpointError, match="embedding.weight is bfloat16 there and float32"):
        load_into(Net(), tmp_path / "x")
    net = Net()
    load_into(net, tmp_path / "x", adopt_dtypes=True)
    assert net.head.weight.dtype == net.scale.dtype == torch.bfloat16
    assert net.head.weight is net.embedding.weight
    assert net.table.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mapped_weights_are_the_files_pages_until_they_are_altered(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    saved = Net().to(dtype)
    write_tensors(tmp_path / "x", saved.state_dict())
    content = (tmp_path / "x").read_bytes()
    net = Net()
    tied = net.embedding.weight
    own = {net.scale.data_ptr(), net.table.data_ptr()}
    load_into(net, tmp_path / "x", adopt_dtypes=True, mapped=True)
    assert torch.equal(net.embedding.weight, saved.embedding.weight)
    assert net.head.weight is net.embedding.weight is tied
    assert tied.requires_grad
    assert tied.dtype == net.scale.dtype == dtype
    assert net.table.dtype == torch.int64
    if dtype == torch.float32:  # buffers are copied: a view of one stays a view
        assert own == {net.scale.data_ptr(), net.table.data_ptr()}
    places = Path("/proc/self/maps")
    if places.exists():
        assert str(tmp_path / "x") in places.read_text()
    (tmp_path / "x").rename(tmp_path / "y")
    (tmp_path / "y").unlink()
    with torch.no_grad():
        net.embedding.weight.add_(1)
    assert torch.equal(net.embedding.weight, saved.embedding.weight + 1)
    write_tensors(tmp_path / "x", saved.state_dict())
    assert (tmp_path / "x").read_bytes() == content


@pytest.mark.parametrize(
    ("stored", "model", "said"),
    [
        (Net(), Net(extra=True), "extra missing in the checkpoint"),
        (Net(extra=True), Net(), "extra unknown to the model"),
        (Net(), Net(width=5), r"embedding.weight is \[6, 4\] there and \[6, 5\] in the model"),
        (Net(), Net(tied=False), "embedding.weight and head.weight are one tensor there only"),
        (Net(tied=False), Net(), "embedding.weight and head.weight are one tensor here only"),
    ],
)
def test_another_architecture_is_refused_and_nothing_changed(
    tmp_path: Path, stored: Net, model: Net, said: str
) -> None:
    write_tensors(tmp_path / "x", stored.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="of another architecture: .*" + said) as caught:
        load_into(model, tmp_path / "x")
    assert caught.value.at == tmp_path / "x"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_of_many_names_the_first_are_told(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {f"{i}": torch.zeros(1) for i in range(9)})
    with pytest.raises(CheckpointError, match="0, 1, 2 and 6 more unknown to the model"):
        load_into(nn.Linear(1, 1), tmp_path / "x")


def _truncate(content: bytes) -> bytes:
    return content[:-1]


def _no_header(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


@pytest.mark.parametrize("damage", [_truncate, _no_header, lambda content: b""])
def test_a_damaged_file_is_an_error_with_its_path(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write_tensors(tmp_path / "x", {"a": torch.zeros(4)})
    (tmp_path / "x").write_bytes(damage((tmp_path / "x").read_bytes()))
    with pytest.raises(CheckpointError, match=str(tmp_path / "x")):
        read_tensors(tmp_path / "x")


def test_what_is_no_tensor_is_named() -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> Tensor:
            return {"a": 1}  # type: ignore[return-value]

    with pytest.raises(CheckpointError, match="'_extra_state' is a dict and no tensor"):
        untie(Odd().state_dict())

"""registry: a spec becomes its object, the runtime objects go where they are declared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import names
from lmkit.config.registry import Place, Spec, build, check, register
from lmkit.errors import ConfigError, DataError, PluginError


class Layer:
    def __init__(self, width: int, scale: float = 1.0) -> None:
        self.width, self.scale = width, scale


class Net:
    made = 0

    def __init__(self, depth: int, layer: Layer | None = None, tokenizer: Any = None) -> None:
        type(self).made += 1
        self.depth, self.layer, self.tokenizer = depth, layer, tokenizer


class Open:
    def __init__(self, **options: Any) -> None:
        self.options = options


class Above(Net):
    def __init__(self, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads


class Picky:
    """Refuses by whatever error ``how`` names."""

    def __init__(self, how: str) -> None:
        raise {
            "value": ValueError("bad value"),
            "config": ConfigError("how is wrong", key="how"),
            "data": DataError("no text"),
            "disk": OSError("disk"),
        }[how]


@dataclass
class Mixture:
    parts: list[dict[str, Spec | float]]
    also: Any = None


class Leaving:
    def __init__(self) -> None:
        raise SystemExit(0)


@pytest.fixture(autouse=True)
def _short_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(names, "_registered", {})
    for kind in (Layer, Net, Open, Above, Picky, Mixture, Leaving):
        register(kind.__name__)(kind)
    Net.made = 0
    return


def test_a_spec_in_its_three_forms() -> None:
    assert build({"class": "Net", "depth": "2k"}).depth == 2000
    assert build(Spec("Net", {"depth": 3})).depth == 3
    assert build("Open").options == {}
    assert build("lmkit.config.spec.Place") == Place()


@pytest.mark.parametrize("path", ["os.system", "builtins.exit", "subprocess.run", "shutil.rmtree"])
def test_nothing_of_pythons_own_is_called(path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} is of Python's own library"):
        build(path)
    with pytest.raises(ConfigError, match=f"{path} is of Python's own library"):
        build({"class": "Open", "x": [{"class": path}]})


def test_a_constructor_cannot_end_the_program() -> None:
    with pytest.raises(PluginError, match="Leaving refuses: SystemExit: 0"):
        build("Leaving")


def test_nested_specs_are_built_and_inherit_the_offers() -> None:
    net = build({"class": "Net", "depth": 1, "layer": {"class": "Layer", "scale": "2"}}, width=7)
    assert (net.layer.width, net.layer.scale) == (7, 2.0)
    assert (
        build({"class": "Open", "x": [{"class": "Layer", "width": 3}]}).options["x"][0].width == 3
    )


def test_a_spec_that_is_due_as_a_spec_is_left_to_its_owner() -> None:
    layer = {"class": "Layer", "width": 3}
    mixture = build({"class": "Mixture", "parts": [{"source": layer, "weight": 1}], "also": layer})
    assert mixture.parts == [{"source": Spec("Layer", {"width": 3}), "weight": 1.0}]
    assert isinstance(mixture.also, Layer)


def test_offers_go_to_those_who_declare_them_and_never_over_the_file() -> None:
    assert build({"class": "Net", "depth": 1}, tokenizer="T", rank=3).tokenizer == "T"
    assert (
        build({"class": "Net", "depth": 1, "tokenizer": "mine"}, tokenizer="T").tokenizer == "mine"
    )
    assert build("Open", tokenizer="T").options == {}
    assert build("Net", depth=4).depth == 4


def test_keys_reach_the_base_but_offers_stop_at_the_catch_all() -> None:
    net = build({"class": "Above", "heads": 2, "depth": 3}, tokenizer="T")
    assert (net.heads, net.depth, net.tokenizer) == (2, 3, None)
    with pytest.raises(ConfigError, match="Above takes no 'dept'; did you mean 'depth'?"):
        build({"class": "Above", "dept": 3})


def test_every_error_names_file_line_class_and_neighbour() -> None:
    place = {"widht": Place("experiments/x.yaml", 7)}
    with pytest.raises(ConfigError) as caught:
        build(Spec("Layer", {"widht": 3}, Place("experiments/x.yaml", 5), place))
    assert (
        str(caught.value) == "experiments/x.yaml:7: Layer takes no 'widht'; did you mean 'width'?"
    )
    with pytest.raises(ConfigError, match="^experiments/x.yaml:5: Layer needs 'width'"):
        build(Spec("Layer", {}, Place("experiments/x.yaml", 5)))
    with pytest.raises(ConfigError, match="Layer: width must be an integer, not 'wide'"):
        build({"class": "Layer", "width": "wide"})
    with pytest.raises(ConfigError, match="math.pi is not a class or a function"):
        build("math.pi")


def test_the_whole_tree_is_checked_before_anything_is_made() -> None:
    bad = {"class": "Net", "depth": 1, "layer": {"class": "Net", "depth": 1, "layer": "Nets"}}
    for spec in (
        bad,
        {"class": "Open", "a": {"class": "Net", "depth": 1}, "b": {"class": "Layer"}},
    ):
        with pytest.raises(ConfigError):
            build(spec)
    assert Net.made == 0


def test_check_returns_coerced_arguments_and_builds_nothing() -> None:
    layer = {"class": "Layer", "width": 3}
    found = check(Spec("Net", {"depth": "2", "layer": layer}), ["tokenizer"])
    assert found == {"depth": 2, "layer": Spec("Layer", {"width": 3})}
    assert Net.made == 0


def test_errors_of_a_constructor() -> None:
    at = Place("x.yaml", 5)
    places = {"how": Place("x.yaml", 6)}
    with pytest.raises(PluginError, match="^x.yaml:5: Picky refuses: ValueError: bad value$") as e:
        build(Spec("Picky", {"how": "value"}, at, places))
    assert Path(__file__).name in e.value.traceback
    assert "registry.py" not in e.value.traceback.replace("test_registry.py", "")
    with pytest.raises(ConfigError, match="^x.yaml:6: how is wrong"):
        build(Spec("Picky", {"how": "config"}, at, places))
    with pytest.raises(DataError, match="^x.yaml:5: no text"):
        build(Spec("Picky", {"how": "data"}, at, places))
    with pytest.raises(OSError, match="disk"):
        build(Spec("Picky", {"how": "disk"}, at, places))


def test_a_value_that_torch_refuses_is_no_fault_of_a_plugin() -> None:
    class OfTorch(Picky):
        __module__ = "torch.optim.adam"

    register("OfTorch")(OfTorch)
    said = "^x.yaml:5: OfTorch refuses: ValueError: bad value; see lmkit describe OfTorch$"
    with pytest.raises(ConfigError, match=said) as e:
        build(Spec("OfTorch", {"how": "value"}, Place("x.yaml", 5)))
    assert not isinstance(e.value, PluginError)

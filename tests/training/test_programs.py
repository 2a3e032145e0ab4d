"""What the table of axes asks for stands in the programs, and what nobody asks for does not."""

import dataclasses
import re

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import pytest
import updates
from updates import MODEL

from flamingo_jax.config import GatedConfig, LanguageConfig, MixConfig, NFNetConfig, ResamplerConfig
from flamingo_jax.training import flops, sharding
from flamingo_jax.training.objective import OBJECTIVES

PAGES = {"pages": MixConfig(8)}
# Every size that is split over ``tensor`` is a number of its own.
WHOLE = {"vocabulary": 106, "hidden": 118, "gated hidden": 122, "heads": 14, "gated heads": 22}
DISTINCT = dataclasses.replace(
    MODEL,
    language=LanguageConfig(vocab_size=106, width=32, depth=3, heads=14, head_size=4, mlp_width=118),
    gated=GatedConfig(first=1, every=1, heads=22, head_size=4, mlp_width=122),
    resampler=ResamplerConfig(width=40, depth=1, heads=26, head_size=4, latents=4, frames=4, mlp_width=134),
)


@pytest.fixture(scope="module")
def lowered():
    """(the step of pages on a mesh of two each way, lowered; what was constrained: {(shape, mesh axes)})."""
    asked, constrain = set(), jax.lax.with_sharding_constraint

    def spy(x, places):
        asked.add((x.shape, tuple(places)))
        return constrain(x, places)

    mesh, step, state, frozen = updates.prepare((2, 2, 2), mixture=PAGES, model=DISTINCT)
    with pytest.MonkeyPatch.context() as patch, sharding.use(mesh):
        patch.setattr(jax.lax, "with_sharding_constraint", spy)
        return step.lower(state, frozen, updates.feed(mesh, PAGES, 0)), asked


@pytest.fixture(scope="module")
def program(lowered):
    return lowered[0].compile()


def dimensions(places):
    """Mesh axes of every dimension, as the lowered program writes them."""
    names = [(place,) if isinstance(place, str) else place or () for place in places]
    return ", ".join("{" + ", ".join(f'"{name}"' for name in part) + "}" for part in names)


def test_activations_are_constrained_as_the_table_says(lowered):
    step, asked = lowered
    found = re.findall(r"sdy\.sharding_constraint %\S+ <@mesh, \[(.*?)\]> : tensor<([\dx]+)x[a-z]+\d+>", step.as_text())
    found = {(tuple(map(int, shape.split("x"))), axes) for axes, shape in found}
    missing = {(shape, places) for shape, places in asked if (shape, dimensions(places)) not in found}
    # Flax asks it of the table where it compares the stored shape with the initialiser's, outside of the program.
    assert len(asked) > 20 and missing <= {((106, 32), ("tensor", "fsdp"))}
    # What Megatron's way and data parallelism are: heads and vocabulary over tensor, examples over the rest; and images
    # over all, in the encoder and in the resampler, whose weights are gathered.
    both, every = '{"data", "fsdp"}', '{"data", "fsdp", "tensor"}'
    assert ((8, 14, 24, 4), f'{both}, {{"tensor"}}, {{}}, {{}}') in found
    assert ((8, 22, 24, 4), f'{both}, {{"tensor"}}, {{}}, {{}}') in found
    assert ((8, 24, 106), f'{both}, {{}}, {{"tensor"}}') in found
    assert ((40, 16, 16, 3), f"{every}, {{}}, {{}}, {{}}") in found
    assert ((40, 26, 4, 4), f"{every}, {{}}, {{}}, {{}}") in found
    assert ((32, 118), '{}, {"tensor"}') in found and ((40, 134), "{}, {}") in found


def test_weights_lie_as_the_table_says_before_and_after(program):
    boxed = jax.eval_shape(
        lambda batch: updates.goal(model=DISTINCT).init(jax.random.key(0), batch),
        updates.batch("pages", PAGES["pages"], 0),
    )
    before, after = program.input_shardings[0], program.output_shardings[0]

    def flat(tree):
        return traverse.flatten_dict(tree, sep="/")

    places = flat({"params": before[0]["params"], "frozen": before[1]})
    boxes = flat({name: boxed[name] for name in ("params", "frozen")})
    assert places.keys() == boxes.keys()
    for path, box in boxes.items():
        axes = box.names if isinstance(box, nn.LogicallyPartitioned) else (None,) * box.ndim
        asked = [None if axis is None else sharding.RULES[axis] for axis in axes]
        if path.startswith("frozen") and not {"layers", "groups"} & set(axes):
            asked = [None if place == "fsdp" else place for place in asked]
        asked = jax.P(*asked)
        expected = jax.NamedSharding(places[path].mesh, asked)
        assert places[path].is_equivalent_to(expected, len(axes)), (path, places[path].spec, asked)
    bridge = "params/decoder/groups/gated"
    for path, spec in {
        "frozen/decoder/embedding/table": ("tensor", None),
        "frozen/decoder/groups/language/blocks/attention/query/kernel": (None, None, "fsdp", "tensor"),
        "frozen/decoder/groups/language/blocks/attention/out/kernel": (None, None, "tensor", None, "fsdp"),
        "frozen/decoder/groups/language/blocks/mlp/up/kernel": (None, None, "fsdp", "tensor"),
        f"{bridge}/attention/value/kernel": (None, "fsdp", "tensor"),
        f"{bridge}/mlp/down/kernel": (None, "tensor", "fsdp"),
    }.items():
        assert places[path].is_equivalent_to(jax.NamedSharding(places[path].mesh, jax.P(*spec)), len(boxes[path].names))
    moments = updates.moments(after)
    for path, place in flat(before[0]["params"]).items():
        for out in (flat(after["params"])[path], flat(moments)[path]):
            assert out.is_equivalent_to(place, boxes[f"params/{path}"].value.ndim if path else 0), path


@pytest.mark.parametrize("size", WHOLE, ids=str)
def test_no_device_ever_holds_a_whole(program, size):
    """Half of the heads, of the hidden units and of the vocabulary, in weights, activations and gradients."""
    arrays = re.findall(r"\w+\[([\d,]+)\]", program.as_text())
    sizes = {int(number) for array in arrays for number in array.split(",")}
    assert WHOLE[size] not in sizes and WHOLE[size] // 2 in sizes


def backward(model, new_tokens=()):
    """Operations of a loss and its gradient beyond those of the loss."""
    goal, batch = OBJECTIVES["flamingo"](model, new_tokens, pad=0), updates.batch("pages", PAGES["pages"], 0)
    weights = nn.meta.unbox(jax.eval_shape(lambda batch: goal.init(jax.random.key(0), batch), batch))
    arguments = weights["params"], weights.get("frozen", {}), batch
    return flops.of(jax.grad(goal.loss), *arguments) - flops.of(goal.loss, *arguments)


DEEPER = {
    "vision encoder": {"vision": NFNetConfig(widths=(16,), depths=(3,), strides=(2,), stem=(8,))},
    "blocks below the first cross-attention": {
        "language": dataclasses.replace(MODEL.language, depth=5),
        "gated": dataclasses.replace(MODEL.gated, first=3),
    },
}


@pytest.mark.parametrize("remat", ["none", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", DEEPER)
def test_no_gradient_goes_through_what_is_frozen_below(part, remat):
    """However deep it is, the backward pass costs the same, to the operation; and more where the part trains."""
    plain = dataclasses.replace(MODEL, remat=remat)
    assert backward(plain) == backward(dataclasses.replace(plain, **DEEPER[part])) > 0
    trained = dataclasses.replace(plain, frozen=())
    assert backward(trained) < backward(dataclasses.replace(trained, **DEEPER[part]))


def test_a_learnt_row_of_the_input_is_what_a_gradient_goes_below_for():
    """``<EOC>`` is learnt where it is read, below all blocks; its gradient passes through them, and not the encoder."""
    language, vision = (dataclasses.replace(MODEL, **DEEPER[part]) for part in reversed(DEEPER))
    assert backward(language, (3,)) > backward(MODEL, (3,)) == backward(vision, (3,))

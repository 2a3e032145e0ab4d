"""Text of compiled programs: chain.txt is ten products [4096, 8192] @ [8192, 8192] in bfloat16, compiled for v5p."""

import pathlib

import pytest

from flamingo_jax.planning import program

CHAIN = pathlib.Path(__file__).with_name("chain.txt").read_text()
COUNTS = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %one = s32[] constant(1)
  %two = s32[] constant(2)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %j = s32[] add(%i, %one)
  %k = s32[] add(%j, %two)
  ROOT %out = (s32[], f32[4]{0}) tuple(%k, %x)
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %end = s32[] constant(10)
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (a: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = (s32[], f32[4]{0}) parameter(0), metadata={op_name="state['x']"}
  ROOT %loop = (s32[], f32[4]{0}) while(%a), condition=%condition, body=%body
}
"""

OFFLOADED = """
%offloaded (p: bf16[8,4]) -> bf16[32,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %gather = bf16[32,4]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (x: bf16[8,4]) -> bf16[32,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %begun = ((), (), (s32[1]{0})) call-start(), async_execution_thread="sparsecore", to_apply=%offloaded
  %given = ((bf16[8,4]{1,0}), bf16[32,4]{1,0}) call-update(%begun, %x)
  ROOT %done = bf16[32,4]{1,0} call-done(%given)
}
"""


def test_a_compiled_program_is_read():
    found = program.read(CHAIN)
    loop = next(op for op in found.computations[found.entry] if op.kind == "while")
    assert found.trips(loop) == 10
    products = [op for op in found.computations[loop.calls["body"]] if op.kind == "fusion"]
    assert len(products) == 1 and products[0].bytes == 4096 * 8192 * 2 and products[0].cycles == 2332184
    assert "convolution" in {op.kind for op in found.computations[products[0].calls["calls"]]}


# The same as libtpu 0.0.52 writes it.
CALLED = OFFLOADED.replace(" call-", " custom-call-").replace(
    "to_apply=%offloaded", 'custom_call_target="TODO(b/5)", called_computations={%offloaded}'
)


@pytest.mark.parametrize("text", [OFFLOADED, CALLED], ids=["call", "custom call"])
def test_collectives_on_other_cores_are_found_where_they_begin_and_end(text):
    found = program.read(text)
    begun, given, done = found.computations[found.entry][1:4]
    (gather,) = found.computations["offloaded"][1:]
    assert [found.fused(line, "Start") for line in (begun, given, done)] == [[], [gather], []]
    assert [found.fused(line, "Done") for line in (begun, given, done)] == [[], [], [gather]]
    at_once = program.read(text.replace("call-start()", "call-start(%x)").replace("(%given)", "(%begun)"))
    begun, _, done = at_once.computations[at_once.entry][1:4]
    assert at_once.fused(begun, "Start") == at_once.fused(done, "Done") == [gather]


def test_a_loop_may_count_by_more_than_one():
    found = program.read(COUNTS)
    (argument, loop) = found.computations[found.entry]
    assert found.trips(loop) == 4 and argument.kind == "parameter" and loop.operands == ("a",)


@pytest.mark.parametrize("change", [("constant(10)", "parameter(1)"), ("direction=LT", "direction=NE"), ("add", "sub")])
def test_a_loop_that_does_not_count_is_refused(change):
    found = program.read(COUNTS.replace(*change))
    with pytest.raises(ValueError, match="how often the loop loop runs"):
        found.trips(found.computations[found.entry][-1])


def test_notes_of_kernels_may_take_lines_of_their_own():
    """A bracket at the beginning of a line ends a computation, but not that of a kernel's notes."""
    note = '{kernel_metadata={\n"xprof_metadata":"{}"\n}}, backend_config={"estimated_cycles":"7"}'
    first = f"  %a = f32[] parameter(0), frontend_attributes={note}"
    found = program.read(f"ENTRY %main (a: f32[]) -> f32[] {{\n{first}\n  %b = f32[] copy(%a)\n}}")
    assert [one.name for one in found.computations["main"]] == ["a", "b"] and found.computations["main"][0].cycles == 7


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no text of a compiled program"):
        program.read("hello")


@pytest.mark.parametrize(
    "shape, size",
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2048),
        ("(f32[2,3]{1,0}, s8[4]{0}, pred[])", 29),
        ("s4[5]{0}", 2),
        ("f32[]", 4),
        ("token[]", 0),
    ],
)
def test_sizes(shape, size):
    assert program.size_of(shape) == size

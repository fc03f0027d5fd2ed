"""One pass over memory for Σ w_i θ_i on a CPU: a small loop that LLVM compiles when it is needed.

Every parent is read once, sums stay in registers, the result is written once. The operations are
those of `optim.merge`, one by one: nothing may be fused or reordered, so no fast-math flag and no
`fmuladd` may ever appear here. Knows addresses only; who calls must keep the memory alive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import binding, ir

#: values in one vector, and what `steps` counts: `optim.merge.STEP` is the same number
LANES, STEP = 16, 64
#: parents that one loop adds up, and steps that stay in the nearest cache from one group to the
#: next: with more streams at once registers, caches and page tables no longer hold them
GROUP, BLOCK_STEPS, ALL_STEPS = 8, 64, 2**40
#: how far ahead parents are fetched: with many streams the CPU's own guesses came too late
#: (8 bfloat16 parents: 1.42 times the time of a plain copy without, 1.13 with)
AHEAD_BYTES, LINE_BYTES = 1024, 64

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOATS, INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(I32, LANES)
FLAGS = ir.VectorType(I1, LANES)
#: integers as wide as one value; float16 would need a library that not every CPU has
BITS = {"BF16": I16, "F32": I32}
NAN_BITS, EXPONENT_BITS = 0x7FC0, 0x7F800000

#: (out, parents, weights, steps, keep) -> 1 where a result is not finite, else 0
Form = Callable[[int, int, int, int, int], int]


@cache
def form_function(parents: str, out: str, count: int) -> Form:
    """Machine code for `count` parents and a result of these dtypes, each `BF16` or `F32`.

    Arguments: the addresses of the result, of an array of the parents' addresses and of an array
    of as many float32 weights, none 0; how many times `STEP` values; whether a value whose bits
    are the same in all parents is to be kept (0 or 1). Calls do not hold the interpreter's lock.
    """
    engine = _compiled(str(_module(BITS[parents], BITS[out], count)))
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 4, ctypes.c_int32)
    function: Any = signature(engine.get_function_address("form"))
    # the code lives as long as its engine
    function.engine = engine
    return function


def _compiled(text: str) -> binding.ExecutionEngine:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
    )
    module = binding.parse_assembly(text)
    module.verify()
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _module(parent: ir.IntType, out: ir.IntType, count: int) -> ir.Module:
    """The function: blocks of steps, and in every block one loop for each group of parents."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(I32, [I64, I64, I64, I64, I32]), "form")
    out_at, parents_at, weights_at, steps, keep = function.args
    groups = [range(i, min(i + GROUP, count)) for i in range(0, count, GROUP)]
    size = BLOCK_STEPS if len(groups) > 1 else ALL_STEPS
    names = ["entry", "block", *("group" for _ in groups), "next", "end"]
    entry, block, *loops, following, end = map(function.append_basic_block, names)

    build = ir.IRBuilder(entry)
    parts = _Parts(
        target=build.inttoptr(out_at, out.as_pointer()),
        sources=[
            build.inttoptr(address, parent.as_pointer())
            for address in _array(build, parents_at, I64, count)
        ],
        weights=_array(build, weights_at, ir.FloatType(), count),
        kept=_spread(build, build.icmp_signed("!=", keep, I32(0)), FLAGS),
        infinite=build.alloca(FLAGS),
        sums=build.alloca(FLOATS, BLOCK_STEPS * STEP // LANES),
        differs=build.alloca(ir.VectorType(parent, LANES), BLOCK_STEPS * STEP // LANES),
    )
    build.store(ir.Constant(FLAGS, None), parts.infinite)
    build.cbranch(build.icmp_signed(">", steps, I64(0)), block, end)

    build.position_at_end(block)
    first = build.phi(I64)
    left = build.sub(steps, first)
    short = build.icmp_signed("<", left, I64(size))
    rounds = build.select(short, left, I64(size))
    before = block
    for group, loop, after in zip(groups, loops, [*loops[1:], following], strict=True):
        if before is block:
            build.branch(loop)
        build.position_at_end(loop)
        number = build.phi(I64)
        _add_group(build, module, parts, group, number, build.add(first, number))
        one_more = build.add(number, I64(1))
        number.add_incoming(I64(0), before)
        number.add_incoming(one_more, loop)
        build.cbranch(build.icmp_signed("<", one_more, rounds), loop, after)
        before = loop

    build.position_at_end(following)
    done = build.add(first, rounds)
    first.add_incoming(I64(0), entry)
    first.add_incoming(done, following)
    build.cbranch(build.icmp_signed("<", done, steps), block, end)

    build.position_at_end(end)
    bits = build.bitcast(build.load(parts.infinite), I16)
    build.ret(build.zext(build.icmp_unsigned("!=", bits, I16(0)), I32))
    return module


@dataclass(frozen=True)
class _Parts:
    """What the loops work on; `sums` and `differs` carry a block from one group to the next."""

    target: ir.Value
    sources: list[ir.Value]
    weights: list[ir.Value]
    kept: ir.Value
    infinite: ir.Value
    sums: ir.Value
    differs: ir.Value


def _add_group(
    build: ir.IRBuilder,
    module: ir.Module,
    parts: _Parts,
    group: range,
    number: ir.Value,
    step: ir.Value,
) -> None:
    """One step of one group: products and sums in the order of the parents; after the last group
    the common value where there is one, rounded and written."""
    start = build.mul(step, I64(STEP))
    _fetch_ahead(build, module, [parts.sources[i] for i in group], start)
    weights = [_spread(build, parts.weights[i], FLOATS) for i in group]
    vectors = STEP // LANES
    infinite = build.load(parts.infinite)
    for vector in range(vectors):
        place = build.add(start, I64(vector * LANES))
        slot = [build.add(build.mul(number, I64(vectors)), I64(vector))]
        sums, differences = build.gep(parts.sums, slot), build.gep(parts.differs, slot)
        values = [build.load(_at(build, parts.sources[i], place), align=2) for i in group]
        if group.start == 0:
            # x + -0.0 is x for every x, so the first product needs no case of its own
            total = ir.Constant(FLOATS, [-0.0] * LANES)
            differs, common = ir.Constant(values[0].type, None), values[0]
        else:
            total, differs = build.load(sums), build.load(differences)
            common = build.load(_at(build, parts.sources[0], place), align=2)
        for value, weight in zip(values, weights, strict=True):
            total = build.fadd(total, build.fmul(_widen(build, value), weight))
            differs = build.or_(differs, build.xor(value, common))
        if group.stop < len(parts.sources):
            build.store(total, sums)
            build.store(differs, differences)
            continue
        same = build.icmp_unsigned("==", differs, ir.Constant(differs.type, None))
        total = build.select(build.and_(same, parts.kept), _widen(build, common), total)
        result, bad = _round(build, total, parts.target.type.pointee)
        build.store(result, _at(build, parts.target, place), align=2)
        infinite = build.or_(infinite, bad)
    if group.stop == len(parts.sources):
        build.store(infinite, parts.infinite)


def _widen(build: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The stored bits as float32, exactly."""
    if bits.type.element == I16:
        bits = build.shl(build.zext(bits, INTS), _every(16))
    return build.bitcast(bits, FLOATS)


def _round(build: ir.IRBuilder, total: ir.Value, out: ir.IntType) -> tuple[ir.Value, ir.Value]:
    """The float32 sums rounded to nearest even, and which of them are not finite afterwards."""
    bits = result = build.bitcast(total, INTS)
    if out == I16:
        odd = build.and_(build.lshr(bits, _every(16)), _every(1))
        rounded = build.lshr(build.add(bits, build.add(odd, _every(0x7FFF))), _every(16))
        # a carry must not turn NaN into a number
        ordered = build.fcmp_ordered("ord", total, total)
        rounded = build.select(ordered, rounded, _every(NAN_BITS))
        bits = build.shl(rounded, _every(16))
        result = build.trunc(rounded, ir.VectorType(I16, LANES))
    exponent = build.and_(bits, _every(EXPONENT_BITS))
    return result, build.icmp_unsigned("==", exponent, _every(EXPONENT_BITS))


def _fetch_ahead(
    build: ir.IRBuilder, module: ir.Module, sources: list[ir.Value], start: ir.Value
) -> None:
    pointer = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    name = "llvm.prefetch.p0i8"
    prefetch = module.globals.get(name) or ir.Function(module, kind, name)
    width = sources[0].type.pointee.width // 8
    for source in sources:
        for offset in range(AHEAD_BYTES, AHEAD_BYTES + STEP * width, LINE_BYTES):
            place = build.gep(source, [build.add(start, I64(offset // width))])
            read, keep_in_all_caches, data = I32(0), I32(3), I32(1)
            build.call(prefetch, [build.bitcast(place, pointer), read, keep_in_all_caches, data])


def _array(build: ir.IRBuilder, address: ir.Value, kind: ir.Type, count: int) -> list[ir.Value]:
    first = build.inttoptr(address, kind.as_pointer())
    return [build.load(build.gep(first, [I64(i)])) for i in range(count)]


def _at(build: ir.IRBuilder, first: ir.Value, place: ir.Value) -> ir.Value:
    vector = ir.VectorType(first.type.pointee, LANES)
    return build.bitcast(build.gep(first, [place]), vector.as_pointer())


def _spread(build: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A vector with `scalar` in every lane."""
    nothing = ir.Constant(kind, ir.Undefined)
    one = build.insert_element(nothing, scalar, I32(0))
    return build.shuffle_vector(one, nothing, ir.Constant(INTS, None))


def _every(number: int) -> ir.Constant:
    return ir.Constant(INTS, [number] * LANES)

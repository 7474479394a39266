"""The algebra of axes: expressions found must hold at sizes that were never observed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport.axes import Observation, evaluate, fit, is_explained, names_in


def observe(function, base, others):
    return [Observation(sizes, function(**sizes)) for sizes in (base, *others)]


def one_axis(function, sizes):
    points = [{"x": size} for size in sizes]
    return observe(function, points[0], points[1:]), {"x": lambda size: function(x=size)}


def grid(function, hs=(64, 96, 101), ws=(80, 112, 131)):
    base = {"height": hs[0], "width": ws[0]}
    others = [{"height": h, "width": ws[0]} for h in hs[1:]] + [{"height": hs[0], "width": w} for w in ws[1:]]
    others.append({"height": hs[1], "width": ws[1]})
    probes = {
        "height": lambda size: function(height=size, width=ws[0]),
        "width": lambda size: function(height=hs[0], width=size),
    }
    return observe(function, base, others), probes


def test_constant_name_sum_and_multiple():
    base, others = {"b": 2, "s": 7}, [{"b": 3, "s": 7}, {"b": 2, "s": 11}, {"b": 5, "s": 13}]
    assert fit(observe(lambda b, s: 384, base, others)) == 384
    assert fit(observe(lambda b, s: s, base, others)) == "s"
    assert fit(observe(lambda b, s: b + s, base, others)) == "b + s"
    assert fit(observe(lambda b, s: 4 * b, base, others)) == "4 * b"
    assert fit(observe(lambda b, s: s - 2, base, others)) == "s - 2"
    assert fit(observe(lambda b, s: b * s, base, others)) == "b * s"


@settings(max_examples=200, deadline=None)
@given(
    divisor=st.integers(2, 400),
    offset=st.integers(-500, 500),
    shift=st.integers(-3, 9),
    start=st.integers(1000, 1500),
)
@pytest.mark.slow
def test_floor_forms_are_exact_everywhere(divisor, offset, shift, start):
    def length(x):
        return (x + offset) // divisor + shift

    observations, probes = one_axis(length, [start, start + 1201, start + 2503, start + 800])
    expression = fit(observations, probes)
    assert expression is not None
    for size in range(900, 6000, 7):
        assert evaluate(expression, {"x": size}) == length(size)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("sizes", [(64, 96, 72), (64, 96, 72, 80)])
def test_a_stride_is_found_from_multiples_of_it(stride, sizes):
    """All even sizes: `x // 2`, `(x + 1) // 2` and `(x - 3) // 2 + 1` are told apart by a size between."""
    for kernel in range(1, 2 * stride):
        same, valid = (lambda x: -(-x // stride)), (lambda x, k=kernel: (x - k) // stride + 1)
        for function in (same, valid):
            observations, probes = one_axis(function, sizes)
            found = fit(observations, probes)
            assert all(evaluate(found, {"x": size}) == function(size) for size in range(60, 130)), found


def test_wav2vec2_convolutions_become_one_floor():
    def frames(x):
        for kernel, stride in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]:
            x = (x - kernel) // stride + 1
        return x

    observations, probes = one_axis(frames, [4001, 5003, 8009])
    expression = fit(observations, probes)
    assert expression == "(x - 80) // 320"  # the same as (x - 400) // 320 + 1
    assert all(evaluate(expression, {"x": size}) == frames(size) for size in range(400, 20000, 3))


def test_patches_of_an_image_with_class_token():
    observations, probes = grid(lambda height, width: (height // 16) * (width // 16) + 1)
    expression = fit(observations, probes)
    assert expression == "(height // 16) * (width // 16) + 1"
    ceil, probes = grid(lambda height, width: -(-height // 32))
    assert fit(ceil, probes) == "(height + 31) // 32"


def test_whole_patches_scaled_back():
    observations, probes = one_axis(lambda x: 8 * (x // 8), [160, 169, 335])
    assert fit(observations, probes) == "8 * (x // 8)"
    observations, probes = one_axis(lambda x: 4 * ((x + 13) // 14) + 1, [224, 233, 461])
    assert fit(observations, probes) == "4 * ((x + 13) // 14) + 1"


@pytest.mark.parametrize("step", [2, 4, 8, 16])
def test_a_step_is_not_taken_for_a_larger_one(step):
    """Pooled and made larger again: all sizes that were seen are multiples of 8."""
    observations, probes = one_axis(lambda x: x // step * step, (64, 96, 72, 65))
    found = fit(observations, probes)
    assert all(evaluate(found, {"x": size}) == size // step * step for size in range(60, 130)), found


def test_no_expression_is_none_not_a_guess():
    observations, probes = one_axis(lambda x: x * x, [3, 5, 8])
    assert fit(observations, probes) is None
    refusing = {"x": lambda size: None}
    observations, _ = one_axis(lambda x: (x - 400) // 320 + 1, [4001, 5003, 8009])
    assert fit(observations, refusing) is None


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 1000), min_size=3))
def test_evaluate_agrees_with_python(sizes):
    for text in ["a", "(a + 31) // 32 * b - c", "-a + b", "a // 16 * b // 16 + 1"]:
        assert evaluate(text, sizes) == eval(text, {}, dict(sizes))
    assert evaluate(7, sizes) == 7


@pytest.mark.parametrize("text", ["__import__('os')", "a.b", "a ** 2", "a / 2", "f(a)", "1.5", "a if b else c", "a //"])
def test_evaluate_refuses_everything_else(text):
    with pytest.raises(ValueError, match="not an axis expression"):
        evaluate(text, {"a": 1, "b": 2})


def test_unknown_axis_and_names():
    with pytest.raises(KeyError):
        evaluate("z + 1", {"a": 1})
    assert names_in("(height // 16) * width + 1") == {"height", "width"}
    assert names_in(3) == frozenset()
    assert not is_explained("a", [Observation({"a": 2}, 3)])

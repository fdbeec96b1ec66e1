"""FlashAttention's published HBM traffic, from cascades and loop nests.

Dao et al., NeurIPS 2022: how accesses grow with the sequence, the head and the on-chip memory, and
what a training step of GPT-2 medium moves. S is on-chip words, d the head dimension, N the
sequence. The mappings are the paper's loops: tiles of keys outside, blocks of queries inside.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from archs import load_architecture
from einsum_cascade import analyze_passes, execute
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice, Tile, always, evaluate
from sim.accesses import computing, generation_ranks, shown_tensor
from workloads.reference.training import PROOFS, training_inputs, training_step

STANDARD = [["QK"], ["GM", "SN", "SD", "A"], ["AV"]]
# the kernels of a framework: the mask is added, the softmax and its derivative are one kernel each
STANDARD_TRAINING = [
    ["QK"], ["QC"], ["GM", "SN", "SD", "A"], ["AZ"], ["AV"],
    ["DV"], ["DAZ"], ["DA"], ["DD", "DQK"], ["DQ"], ["DK"],
]  # fmt: skip


def blocks(d, onchip_words):
    """The paper's block sizes of keys and queries: B_c = ceil(S/4d), B_r = min(B_c, d)."""
    keys = -(-onchip_words // (4 * d))
    return keys, np.minimum(keys, d)


def flash_kernels(cascade):
    """The one pass over the tiles of keys by itself, and what follows it."""
    groups = groupby(computing(cascade), key=lambda e: (e.section, "M1" in e.ranks))
    return [[e.name for e in group] for _, group in groups]


def evaluated(cascade, shape, kernels, queries, onchip_words):
    """Kernels one after the other: over heads, tiles of keys if there are, blocks of `queries`."""
    cascade = workloads.cascade(cascade)
    architecture = load_architecture("fusemax-cloud").resolve(
        {"memories.buffer.size_bytes": 2 * onchip_words}
    )
    full = {k: np.asarray(v, float) for k, v in cascade.resolve_shape(shape).items()}
    phases = tuple(PhaseChoice((kernel(cascade, full, names, queries),)) for names in kernels)
    found = evaluate(Mapping(cascade, architecture, full, phases))
    assert set(found.infeasible) == {None}
    assert np.all(found.lower_bound_bytes > 0)
    assert np.all(found.traffic_bytes >= found.lower_bound_bytes)
    return found


def kernel(cascade, shape, names, queries):
    """Einsums that share their loops, with the queries of a block side by side.

    What has queries comes and goes with their blocks; the rest stays for a tile of keys, or for a
    head. What all heads share (a mask) is kept by kernels without such tiles. A running value comes
    on chip once a visit: the simulator counts that with its write, as for all results that come
    back to be changed, so its readers take it from there.
    """
    einsums = [cascade.einsum(name) for name in names]
    outer = [Loop("b", "B", shape["B"]), Loop("h", "H", shape["H"])]
    if all("M1" in e.ranks for e in einsums):
        outer.append(Loop("m1", "M1", shape["M1"]))
    around = (*outer, Loop("p1", "P", np.ceil(shape["P"] / queries)))
    lanes = Loop("p0", "P", queries, spatial=True)
    nests, residency = [], {}
    for einsum in einsums:
        own = set(einsum.ranks) - {loop.rank for loop in around}
        inner = (*(Loop(f"{r}0", r, shape[r]) for r in einsum.ranks if r in own), lanes)
        nests.append(EinsumMapping(einsum.name, "1d", (*around, *inner), len(around)))
        for access in (*einsum.operands, einsum.output):
            tensor = shown_tensor(cascade, access.tensor)
            ranks = cascade.tensors[tensor].ranks
            tile = Tile("buffer", "p1" if "P" in ranks else outer[-1].name)
            readers = {e.name for e in cascade.consumers[tensor] if not e.is_view}
            if "B" not in ranks and outer[-1].name == "h":
                residency[tensor] = always("DRAM", Tile("buffer", None))
            elif tensor in names and generation_ranks(cascade, tensor):
                here = frozenset(readers.intersection(names))
                residency[tensor] = always("DRAM", tile, handed_to=here)
            elif tensor in names and readers and readers <= set(names):
                residency[tensor] = always("buffer", tile)
            else:
                residency[tensor] = always("DRAM", tile)
    return Phase("-".join(names), tuple(nests), residency)


def words(found):
    return found.traffic_bytes / 2


def one_pass(n, d, keys, queries):
    """Forward of one head by the one-pass cascade, in tiles of `keys`, blocks of `queries`."""
    shape = {"B": 1, "H": 1, "M": n, "P": n, "E": d, "F": d, "M0": keys}
    # the blocks of K, V, Q and the output are S words; with scores and summands, a constant more
    room = 3 * 4 * d * keys
    kernels = flash_kernels(workloads.cascade("attention-1pass"))
    return evaluated("attention-1pass", shape, kernels, queries, room)


def closed_form(n, d, tiles):
    """The paper's count: K and V once; for every tile Q, and the running output and two row
    statistics in and out. Then the division that the one-pass cascade leaves for the end."""
    return 2 * n * d + tiles * (n * d + 2 * (n * d + 2 * n)) + 2 * n * d + n


# How accesses grow

HEADS = [32, 64, 128]
LENGTHS = 2 ** np.arange(9, 15)


def sweep(d):
    """Every S from d to N d words, in powers of two, for all lengths."""
    points = [(n, d * 2**k) for n in LENGTHS for k in range(int(np.log2(n)) + 1)]
    n, onchip = np.array(points).T
    return n, onchip, *blocks(d, onchip)


@pytest.mark.parametrize("d", HEADS)
def test_one_pass_traffic_is_the_papers_count(d):
    n, _, keys, queries = sweep(d)
    np.testing.assert_array_equal(words(one_pass(n, d, keys, queries)), closed_form(n, d, n / keys))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 300), st.integers(1, 128), st.integers(1, 256))
def test_one_pass_traffic_for_any_blocks(tiles, keys, d, queries):
    """Not only the paper's: as long as there are several, the size of query blocks is no matter."""
    n = tiles * keys
    shape = {"B": 2, "H": 3, "M": n, "P": n, "E": d, "F": d, "M0": keys}
    kernels = flash_kernels(workloads.cascade("attention-1pass"))
    found = evaluated("attention-1pass", shape, kernels, min(queries, n - 1), 2**40)
    assert words(found)[0] == pytest.approx(6 * closed_form(n, d, tiles), rel=1e-12)


@pytest.mark.parametrize("d", HEADS)
def test_one_pass_traffic_is_theta_of_n2_d2_over_s(d):
    """Between constants over all of d <= S <= N d, and powers -1 of S, 2 of N and of d."""
    n, onchip, keys, queries = sweep(d)
    found = words(one_pass(n, d, keys, queries))
    ratio = found * onchip / (n.astype(float) ** 2 * d**2)
    assert ratio.min() >= 3
    assert ratio.max() <= 17
    # the tiles dominate what moves once; below 4d words a tile has one key and shrinks no more
    many = (onchip >= 4 * d) & (keys <= n / 64)
    design = np.column_stack([np.log(onchip[many]), np.log(n[many]), np.ones(many.sum())])
    (of_s, of_n, _), *_ = np.linalg.lstsq(design, np.log(found[many]), rcond=None)
    assert of_s == pytest.approx(-1, abs=0.02)
    assert of_n == pytest.approx(2, abs=0.02)


def test_one_pass_traffic_grows_with_the_square_of_the_head():
    d = np.array([16, 32, 64, 128, 256])
    keys, queries = blocks(d, 2**15)
    found = words(one_pass(2**14, d, keys, queries))
    slope = np.polyfit(np.log(d), np.log(found), 1)[0]
    assert slope == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("d", HEADS)
def test_standard_attention_is_theta_of_n_d_plus_n2(d):
    """Q, K, V and the output once, scores and weights written and read; on-chip memory is no help
    between kernels."""
    shape = {"B": 1, "H": 1, "M": LENGTHS, "P": LENGTHS, "E": d, "F": d}
    standard = words(evaluated("attention-3pass", shape, STANDARD, 128, 2**24))
    np.testing.assert_array_equal(standard, 4.0 * LENGTHS * d + 4.0 * LENGTHS**2)
    # the paper's point: where d^2 is much less than S, one pass moves less
    keys, queries = blocks(d, 16 * d * d)
    one = words(one_pass(LENGTHS, d, np.minimum(keys, LENGTHS), queries))
    long = 8 * d <= LENGTHS
    assert np.all(one[long] < standard[long])


# The GPT-2 example: GPT-2 medium, forward and backward, fp16, an A100

B, H, N, D = 64, 16, 1024, 64
GPT2 = {"B": B, "H": H, "M": N, "P": N, "E": D, "F": D}
PUBLISHED_GB = {"standard": 40.3, "flash": 4.4}
PUBLISHED_GFLOP = {"standard": 66.6, "flash": 75.2}
SHARED_MEMORY = 192 * 1024 // 2  # words of one of the A100's multiprocessors
SCORES, ROWS, STATISTIC = B * H * N * N, B * H * N * D, B * H * N
L2 = 40 * 2**20 // 2


def gigabytes(found, **bytes_of):
    """Traffic with tensors of other widths than two bytes."""
    by_tensor = found.traffic_by_tensor_bytes
    return sum(by_tensor[t][0] * bytes_of.get(t, 2) / 2 for t in by_tensor) / 1e9


def flash_training(onchip_words):
    """GB in the paper's blocks for S `onchip_words`, the last tile of keys filled up.

    Masks are made on chip (the causal one from coordinates, dropout from a seed), and what fills up
    the last tile is not moved. All blocks of a kernel together fit into 4 S; the paper's block
    sizes leave such constants out.
    """
    keys, queries = blocks(D, onchip_words)
    cascade = workloads.cascade("flash-attention-training")
    padded = -(-N // keys) * keys
    shape = {**GPT2, "M": padded, "M0": keys}
    kernels = flash_kernels(cascade)
    found = evaluated("flash-attention-training", shape, kernels, queries, 4 * onchip_words)
    true = 2 * N / padded
    return gigabytes(found, C=0, Z=0, K=true, V=true, BDK=true, BDV=true)


def test_standard_training_moves_what_is_published():
    """The kernels are PyTorch's as far as we know; a dropout mask has a byte an element."""
    found = evaluated("attention-training", GPT2, STANDARD_TRAINING, 128, L2)
    moved = gigabytes(found, Z=1)
    # 18 matrices of scores and 12 of rows, and the causal mask once
    assert moved == pytest.approx(2 * (18 * SCORES + 12 * ROWS + N * N) / 1e9, rel=1e-12)
    assert moved == pytest.approx(PUBLISHED_GB["standard"], abs=0.05)  # as rounded in the paper


def test_kernels_move_their_compulsory_words():
    """The same without loop nests: what a kernel reads from others and leaves for others."""
    cascade = workloads.cascade("attention-training")
    found = evaluated("attention-training", GPT2, STANDARD_TRAINING, 128, L2)
    total = 0
    for names in STANDARD_TRAINING:
        read = {a.tensor for name in names for a in cascade.einsum(name).operands} - set(names)
        left = {
            name for name in names
            if cascade.tensors[name].role == "output"
            or {e.name for e in cascade.consumers[name]} - set(names)
        }  # fmt: skip
        total += sum(cascade.size(tensor, GPT2) for tensor in read | left)
    assert words(found)[0] == total
    assert total > analyze_passes(cascade).compulsory_words(GPT2)


def test_flash_training_is_within_a_tenth_of_what_is_published():
    """S is all shared memory of a multiprocessor; which S was measured with is not known to us."""
    keys, queries = blocks(D, SHARED_MEMORY)
    assert (keys, queries, -(-N // keys)) == (384, 64, 3)
    moved = flash_training(SHARED_MEMORY)
    # forward: K, V once, Q, the output and the statistics in and out for every tile; backward: K, V
    # and their gradients once, Q, AV, DAV, the statistics, and DQ in and out for every tile
    forward = 2 * ROWS + 3 * (3 * ROWS + 4 * STATISTIC)
    backward = 4 * ROWS + 3 * (5 * ROWS + 2 * STATISTIC)
    assert moved == pytest.approx(2 * (forward + backward) / 1e9, rel=1e-12)
    assert moved == pytest.approx(4.06, abs=0.01)
    assert moved == pytest.approx(PUBLISHED_GB["flash"], rel=0.1)
    # its algorithms also write zeros to the output, the statistics and the gradients to begin with
    initial = 2 * (4 * ROWS + 2 * STATISTIC) / 1e9
    assert moved < PUBLISHED_GB["flash"] < moved + initial


def test_flash_training_with_less_shared_memory():
    """Around 100 KB, which the paper calls typical, gives 6 tiles and more than it published."""
    words_of_100_kb = 100 * 1024 // 2
    keys, _ = blocks(D, words_of_100_kb)
    assert (keys, -(-N // keys)) == (200, 6)
    assert flash_training(words_of_100_kb) == pytest.approx(7.32, abs=0.01)


def flops(cascade, shape):
    counts = analyze_passes(workloads.cascade(cascade)).operation_counts(shape)
    return sum((2 if kind == "mac" else 1) * count for kind, count in counts.items()) / 1e9


def test_recomputation_costs_a_seventh_product():
    """The published GFLOPs are not those of 1024 heads: only their relation can be compared.

    A single product of all heads takes more than the published total of six. The published totals
    differ by 8.6: a sixteenth of a product, as much as for 64 heads (one of each sequence).
    """
    scores = analyze_passes(workloads.cascade("attention-training")).operation_counts_of("QK", GPT2)
    product = 2 * scores["mac"] / 1e9
    assert product == pytest.approx(137.4, abs=0.05)
    assert product > PUBLISHED_GFLOP["standard"]
    standard = flops("attention-training", GPT2)
    flash = flops("flash-attention-training", {**GPT2, "M0": 256})
    assert standard == pytest.approx(6 * product, rel=0.02)
    assert flash == pytest.approx(7 * product, rel=0.02)
    published = PUBLISHED_GFLOP["flash"] / PUBLISHED_GFLOP["standard"]
    assert flash / standard == pytest.approx(published, rel=0.05)
    added = PUBLISHED_GFLOP["flash"] - PUBLISHED_GFLOP["standard"]
    assert added == pytest.approx(product / H, abs=0.1)


# The training cascades are right


@pytest.mark.parametrize("name", PROOFS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), magnitude=st.sampled_from([1.0, 1e3]))
def test_training_cascade_equals_reference(name, seed, magnitude):
    generator, proof = np.random.default_rng(seed), PROOFS[name]
    shape = proof.shape(generator)
    inputs = proof.inputs(generator, shape, magnitude)
    found = execute(workloads.cascade(name), inputs, shape)
    for tensor, expected in proof.expected(inputs, shape).items():
        np.testing.assert_allclose(found[tensor], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tensor", ["Q", "K", "V"])
def test_gradients_are_finite_differences(tensor):
    """Of the loss sum(AV * DAV), by central differences."""
    shape = {"B": 1, "H": 2, "M": 5, "P": 5, "E": 3, "F": 2}
    inputs = training_inputs(np.random.default_rng(7), shape, 1.0)
    gradient = training_step(inputs)[f"D{tensor}"]
    step = 1e-5
    for at in np.ndindex(gradient.shape):
        loss = []
        for sign in (1, -1):
            moved = inputs[tensor].copy()
            moved[at] += sign * step
            output = training_step({**inputs, tensor: moved})["AV"]
            loss.append(np.sum(output * inputs["DAV"]))
        assert gradient[at] == pytest.approx((loss[0] - loss[1]) / (2 * step), abs=1e-8)


def test_passes_of_training():
    """No complete row of scores is needed by the second, whatever the mapping."""
    standard = analyze_passes(workloads.cascade("attention-training"))
    flash = analyze_passes(workloads.cascade("flash-attention-training"))
    assert (standard.passes("M"), standard.passes("P")) == (4, 1)
    assert (flash.passes("M1"), flash.passes("P")) == (2, 1)  # forward and backward
    assert standard.live_ranks("QC") == standard.live_ranks("A") == ("M",)
    assert flash.live_ranks("QC") == ("M0",)
    assert flash.live_ranks("A") == ()

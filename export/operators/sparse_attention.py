"""One round of NLSN's sparse attention as one ONNX node, with its body in the same file.

    SparseAttentionRound(match, values, rotations; chunk_size) -> attended, weight, codes

match: (N, E, H, W); values, attended: (N, C, H, W); rotations: (E, 64) float32; weight:
(N, 1, H, W), the log-sum-exp of each pixel's scores; codes: (N, H*W) int64, each pixel's bucket.
H*W is at least chunk_size. Everything is computed in float32, and cast back last.

Pixels are hashed to one of at most 128 buckets (the nearest of the rotated axes, whose number
depends on the image size), sorted by bucket, and cut into chunks. They attend to their own chunk
and to the two beside it, in a ring. The last chunk is filled by repeating the last pixels.

The sort. `torch.sort` exports as TopK over all pixels, where TensorRT allows 3840. The codes are
small integers, so this is a stable counting sort: a pixel's place is the number of pixels in
smaller buckets, plus those of its bucket in earlier chunks, plus those before it in its chunk.
CumSum over the pixels would count them, but the parsers of TensorRT 8 to 10.1 turn it into a loop
with one trip a pixel. Here triangular matrices of ones count within chunks and over chunks. Their
products are exact: the factors are 0, 1 and counts up to chunk_size (TensorFloat-32 keeps integers
up to 2048), the sums are in float32 (integers up to 2**24).

The widest tensors of a round have 3*(E + C) + 2*128 + 3*chunk_size floats a pixel, and
(H*W / chunk_size)**2 floats.

Source: Mei, Fan, Zhou, "Image Super-Resolution with Non-Local Sparse Attention", 2021.
"""

from __future__ import annotations

import onnx_ir as ir

from adadm.export.operators.domain import function_from_text, reduction

ATTENTION_ROUND = "SparseAttentionRound"
LARGEST_BUCKETS = 128
CODES_OUTPUT = 2
SMALLEST_NORM = 5e-5
"""Keys shorter than this are not normalized to unit vectors."""

_SIZES = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    three = Constant <value_ints = [3]> ()
    four = Constant <value_ints = [4]> ()
    any = Constant <value_ints = [-1]> ()
    scalar_zero = Constant <value_int = 0> ()
    scalar_one = Constant <value_int = 1> ()
    chunk_number = Constant <value_int: int = @chunk_size> ()
    chunk = Reshape (chunk_number, one)
    largest = Constant <value_ints = [{largest_buckets}]> ()
    shape = Shape (values)
    batch = Slice (shape, zero, one)
    channels = Slice (shape, one, two)
    image = Slice (shape, two, four)
    height = Slice (shape, two, three)
    width = Slice (shape, three, four)
    pixels = Mul (height, width)

    whole = Div (pixels, chunk)
    pairs = Div (whole, two)
    even = Mul (pairs, two)
    odd = Sub (whole, even)
    wanted = Add (whole, odd)
    buckets = Min (wanted, largest)
    columns = Div (buckets, two)

    before_one = Sub (chunk, one)
    rounded_up = Add (pixels, before_one)
    chunks = Div (rounded_up, chunk)
    filled = Mul (chunks, chunk)
    filling = Sub (filled, pixels)
    in_chunks = Concat <axis = 0> (batch, chunks, chunk)
    rows_in_chunks = Concat <axis = 0> (batch, chunks, chunk, any)
    as_image = Concat <axis = 0> (batch, channels, image)
    as_weight = Concat <axis = 0> (batch, one, image)
    as_rows = Concat <axis = 0> (batch, pixels)
    flat_rows = Constant <value_ints = [0, 0, -1]> ()

    batch_number = Squeeze (batch)
    pixels_number = Squeeze (pixels)
    chunks_number = Squeeze (chunks)
    filled_number = Squeeze (filled)
    all_pixels = Mul (batch_number, pixels_number)
    images = Range (scalar_zero, batch_number, scalar_one)
    image_column = Unsqueeze (images, one)
    first_pixel = Mul (image_column, pixels)
    first_place = Mul (image_column, filled)
    chunk_indices = Range (scalar_zero, chunks_number, scalar_one)
    places = Range (scalar_zero, filled_number, scalar_one)
    is_filling = GreaterOrEqual (places, pixels)
    earlier_places = Sub (places, filling)
    source_places = Where (is_filling, earlier_places, places)
"""

_HASH = """
    wide_match = Cast <to = 1> (match)
    wide_values = Cast <to = 1> (values)
    match_columns = Reshape (wide_match, flat_rows)
    match_rows = Transpose <perm = [0, 2, 1]> (match_columns)
    value_columns = Reshape (wide_values, flat_rows)
    value_rows = Transpose <perm = [0, 2, 1]> (value_columns)
    used_rotations = Slice (rotations, zero, columns, one)
    wide_rotations = Cast <to = 1> (used_rotations)
    projected = MatMul (match_rows, wide_rotations)
    opposite = Neg (projected)
    similarity = Concat <axis = 2> (projected, opposite)
    codes = ArgMax <axis = 2, keepdims = 0> (similarity)
"""

_SORT = """
    filled_codes = Gather <axis = 1> (codes, source_places)
    no_code = Where (is_filling, any, filled_codes)
    chunked_codes = Reshape (no_code, in_chunks)
    code_column = Unsqueeze (chunked_codes, three)
    bucket_limit = Squeeze (largest)
    bucket_indices = Range (scalar_zero, bucket_limit, scalar_one)
    matches = Equal (code_column, bucket_indices)
    membership = Cast <to = 1> (matches)

    within = Range (scalar_zero, chunk_number, scalar_one)
    within_column = Unsqueeze (within, one)
    is_later = GreaterOrEqual (within_column, within)
    up_to_here = Cast <to = 1> (is_later)
    in_chunk = MatMul (up_to_here, membership)

    {chunk_totals}
    chunk_column = Unsqueeze (chunk_indices, one)
    is_earlier = Greater (chunk_column, chunk_indices)
    earlier_chunks = Cast <to = 1> (is_earlier)
    in_earlier_chunks = MatMul (earlier_chunks, totals)

    {bucket_totals}
    bucket_column = Unsqueeze (bucket_indices, one)
    is_smaller = Greater (bucket_column, bucket_indices)
    smaller_buckets = Cast <to = 1> (is_smaller)
    in_each_smaller = Mul (smaller_buckets, bucket_totals)
    {in_smaller}
    start = Unsqueeze (in_smaller, one)
    before_chunk = Add (in_earlier_chunks, start)
    before_column = Unsqueeze (before_chunk, two)
    counted = Add (in_chunk, before_column)
    own_count = Mul (membership, counted)
    {count}
    single = Constant <value_float = 1.0> ()
    chunked_place = Sub (count, single)
    row_of_places = Concat <axis = 0> (batch, filled)
    float_places = Reshape (chunked_place, row_of_places)
    pixel_places = Slice (float_places, zero, pixels, one)
    place = Cast <to = 7> (pixel_places)

    place_in_batch = Add (place, first_pixel)
    flat_place = Reshape (place_in_batch, any)
    pixel_indices = Range (scalar_zero, all_pixels, scalar_one)
    sorted_flat = ScatterElements <axis = 0> (pixel_indices, flat_place, pixel_indices)
    sorted = Reshape (sorted_flat, as_rows)
    filled_order = Gather <axis = 1> (sorted, source_places)
    order = Reshape (filled_order, any)
"""

_ATTEND = """
    match_width = Shape (match)
    embedding = Slice (match_width, one, two)
    match_shape = Concat <axis = 0> (any, embedding)
    value_shape = Concat <axis = 0> (any, channels)
    flat_match = Reshape (match_rows, match_shape)
    flat_values = Reshape (value_rows, value_shape)
    sorted_match = Gather <axis = 0> (flat_match, order)
    sorted_values = Gather <axis = 0> (flat_values, order)
    queries = Reshape (sorted_match, rows_in_chunks)
    own_values = Reshape (sorted_values, rows_in_chunks)

    squares = Mul (queries, queries)
    {squared_norm}
    norm = Sqrt (squared_norm)
    smallest_norm = Constant <value_float = {smallest_norm}> ()
    bounded_norm = Max (norm, smallest_norm)
    own_keys = Div (queries, bounded_norm)

    last_chunk = Sub (chunks, one)
    is_first = Equal (chunk_indices, zero)
    one_before = Sub (chunk_indices, one)
    previous = Where (is_first, last_chunk, one_before)
    is_last = Equal (chunk_indices, last_chunk)
    one_after = Add (chunk_indices, one)
    next = Where (is_last, zero, one_after)
    previous_keys = Gather <axis = 1> (own_keys, previous)
    next_keys = Gather <axis = 1> (own_keys, next)
    keys = Concat <axis = 2> (own_keys, previous_keys, next_keys)
    previous_values = Gather <axis = 1> (own_values, previous)
    next_values = Gather <axis = 1> (own_values, next)
    seen_values = Concat <axis = 2> (own_values, previous_values, next_values)

    key_columns = Transpose <perm = [0, 1, 3, 2]> (keys)
    scores = MatMul (queries, key_columns)
    {top}
    below_top = Sub (scores, top)
    exponential = Exp (below_top)
    {total}
    weighed = MatMul (exponential, seen_values)
    chunked_attended = Div (weighed, total)
    log_total = Log (total)
    chunked_weight = Add (log_total, top)

    place_filled = Add (place, first_place)
    attended_shape = Concat <axis = 0> (any, channels)
    attended_rows = Reshape (chunked_attended, attended_shape)
    attended_pixels = Gather <axis = 0> (attended_rows, place_filled)
    attended_columns = Transpose <perm = [0, 2, 1]> (attended_pixels)
    wide_attended = Reshape (attended_columns, as_image)
    attended = CastLike (wide_attended, values)
    weight_row = Reshape (chunked_weight, any)
    weight_pixels = Gather <axis = 0> (weight_row, place_filled)
    wide_weight = Reshape (weight_pixels, as_weight)
    weight = CastLike (wide_weight, values)
"""


def _attention_round(opset: int) -> ir.Function:
    def summed(result: str, value: str, axis: int, keepdims: int = 1) -> str:
        return reduction("ReduceSum", result, value, (axis,), opset=opset, keepdims=keepdims)

    body = (_SIZES + _HASH + _SORT + _ATTEND).format(
        largest_buckets=LARGEST_BUCKETS,
        smallest_norm=f"{SMALLEST_NORM:.10f}",
        chunk_totals=summed("totals", "membership", axis=2, keepdims=0),
        bucket_totals=summed("bucket_totals", "totals", axis=1),
        in_smaller=summed("in_smaller", "in_each_smaller", axis=2, keepdims=0),
        count=summed("count", "own_count", axis=3, keepdims=0),
        squared_norm=summed("squared_norm", "squares", axis=3),
        top=reduction("ReduceMax", "top", "scores", axes=(3,), opset=opset),
        total=summed("total", "exponential", axis=3),
    )
    inputs, outputs = "match, values, rotations", "attended, weight, codes"
    signature = f"{ATTENTION_ROUND} <chunk_size> ({inputs}) => ({outputs})"
    return function_from_text(signature, body, opset)


FUNCTIONS = {ATTENTION_ROUND: _attention_round}

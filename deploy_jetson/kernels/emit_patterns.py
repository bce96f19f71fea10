"""C text of the free-pattern kernel: pixels across lanes, a tile of rows in registers.

For one kernel (channel, pattern) a tile of `rows` x `vectors` accumulators needs each input vector
(row, shift) once: it is loaded and added to every output row whose tap it is.
"""

from collections.abc import Iterator, Sequence

from deploy_jetson.kernels.patterns import SIDE, Pattern, sections
from deploy_jetson.kernels.variants import PatternVariant

Tile = tuple[int, int, int, int, tuple[Pattern, ...]]  # rows, vectors, filters, pitch, patterns


def transpose_source(lanes: int) -> Iterator[str]:
    """LANES x LANES transposition by log2(LANES) rounds of exchanges."""
    yield "INLINE void transpose(vfloat *v) {"
    step = lanes // 2
    while step:
        upper = [j if not j & step else lanes + j - step for j in range(lanes)]
        lower = [j + step if not j & step else lanes + j for j in range(lanes)]
        yield f"  for (int i = 0; i < LANES; i++) {{ /* exchange blocks of {step} */"
        yield f"    if (i & {step}) continue;"
        yield f"    const vfloat a = v[i], b = v[i + {step}];"
        yield f"    v[i] = __builtin_shufflevector(a, b, {', '.join(map(str, upper))});"
        yield f"    v[i + {step}] = __builtin_shufflevector(a, b, {', '.join(map(str, lower))});"
        yield "  }"
        step //= 2
    yield "}"
    yield ""


def _kernel_body(tile: Tile, taps: Pattern, members: Sequence[int], lanes: int) -> Iterator[str]:
    rows = tile[0]
    for index in range(len(taps) * len(members)):
        yield f"      const float s{index} = w[{index}];"
    for row in range(rows + SIDE - 1):
        by_column = {
            column: [
                (index, row - tap // SIDE)
                for index, tap in enumerate(taps)
                if tap % SIDE == column and 0 <= row - tap // SIDE < rows
            ]
            for column in range(SIDE)
        }
        uses = {column: found for column, found in by_column.items() if found}
        if uses:
            yield f"      {{ /* input row {row} */"
            yield from _row_body(tile, row, uses, (len(taps), members), lanes)
            yield "      }"


def _row_body(
    tile: Tile,
    row: int,
    uses: dict[int, list[tuple[int, int]]],
    weights: tuple[int, Sequence[int]],
    lanes: int,
) -> Iterator[str]:
    """One input row: by shift its vectors, each added to every output row that has the tap.

    Loads that straddle cache lines cost two, so wide vectors are shifted in registers when the
    tile is a whole row (then zeros are beside it); four-lane vectors are loaded as they lie.
    """
    _, vectors, _, pitch, _ = tile
    n_taps, members = weights
    shift = lanes > 4 and pitch <= (vectors + 1) * lanes
    if shift:
        for t in range(vectors):
            yield f"        const vfloat c{t} = load(&q[{row * pitch} + {t} * LANES]);"
    for column, found in uses.items():
        for t in range(vectors):
            sums = " ".join(
                f"a{f}_{out}_{t} += v * s{n * n_taps + index};"
                for n, f in enumerate(members)
                for index, out in found
            )
            value = f"load_unaligned(&q[{row * pitch + column - 1} + {t} * LANES])"
            if shift:
                value = _shifted(column, t, vectors, lanes)
            yield f"        {{ const vfloat v = {value}; {sums} }}"


def _shifted(column: int, t: int, vectors: int, lanes: int) -> str:
    if column == 1:
        return f"c{t}"
    zero = "(vfloat){0}"
    if column == 0:
        first, second = f"c{t - 1}" if t else zero, f"c{t}"
    else:
        first, second = f"c{t}", f"c{t + 1}" if t + 1 < vectors else zero
    start = lanes - 1 if column == 0 else 1
    lanes_text = ", ".join(str(start + i) for i in range(lanes))
    return f"__builtin_shufflevector({first}, {second}, {lanes_text})"


def pattern_tile(name: str, tile: Tile, lanes: int) -> Iterator[str]:
    """One tile function: adds a block of channels to the sums of a group of filters."""
    rows, vectors, filters, _, patterns = tile
    yield f"static void {name}(const float *x, int64_t plane, const uint16_t **counts,"
    yield "    const int32_t **channels, const float **weights, float *sums, int64_t filter) {"
    yield "  const uint16_t *n = *counts;"
    yield "  const int32_t *channel = *channels;"
    yield "  const float *w = *weights;"
    places = [
        (f"a{f}_{r}_{t}", f"sums + {f} * filter + {r * vectors + t} * LANES")
        for f in range(filters)
        for r in range(rows)
        for t in range(vectors)
    ]
    yield "  vfloat " + ", ".join(f"{acc} = load({place})" for acc, place in places) + ";"
    for members in sections(filters):
        for taps in patterns:
            yield f"  for (int32_t k = *n++; k; k--) {{ /* taps {taps} of filters {members} */"
            yield "      const float *q = x + *channel++ * plane;"
            yield from _kernel_body(tile, taps, members, lanes)
            yield f"      w += {len(taps) * len(members)};"
            yield "  }"
    for acc, place in places:
        yield f"  store({place}, {acc});"
    yield "  *counts = n;"
    yield "  *channels = channel;"
    yield "  *weights = w;"
    yield "}"
    yield ""


def pattern_runner(variant: PatternVariant, lanes: int) -> Iterator[str]:
    """Tile functions and step function of one variant: unit = (block of filters, tile)."""
    rows, vectors, filters, pitch, patterns = variant
    heights = [h for h in (rows, rows - 1) if h]
    for height in heights:
        tile = (height, vectors, filters, pitch, patterns)
        yield from pattern_tile(f"{variant.name}_tile{height}", tile, lanes)
    yield f"void {variant.name}(const engine *e, const void *layer, int32_t unit) {{"
    yield "  const pattern_layer *l = layer;"
    yield "  const int32_t tiles = (l->tall + l->low) * l->tiles_x;"
    yield "  const int32_t group = unit / tiles, tile = unit % tiles;"
    yield "  const int32_t ty = tile / l->tiles_x, tx = tile % l->tiles_x;"
    yield f"  const int32_t rows = ty < l->tall ? {rows} : {rows - 1};"
    yield f"  const int32_t y0 = ty * {rows} - (ty > l->tall ? ty - l->tall : 0);"
    yield "  const int32_t *start = (const int32_t *)(e->weights + l->starts) + 3 * group;"
    yield "  const uint16_t *counts = (const uint16_t *)(e->weights + l->counts) + start[0];"
    yield "  const int32_t *channels = (const int32_t *)(e->weights + l->channels) + start[1];"
    yield "  const float *w = (const float *)(e->weights + l->weights) + start[2];"
    yield f"  const float *x = e->arena + l->x + y0 * {pitch} + tx * {vectors} * LANES;"
    yield "  int32_t n = l->out.blocks * LANES - group * l->block_filters;"
    yield "  if (n > l->block_filters) n = l->block_filters;"
    yield f"  const int64_t filter = {rows * vectors} * LANES;"
    yield "  float *sums = e->scratch;"
    yield "  zero_floats(sums, n * filter);"
    yield "  for (int32_t b = 0; b < l->channel_blocks; b++) {"
    yield f"    for (int32_t f = 0; f < n; f += {filters}) {{"
    for height in heights:
        other = "" if height == rows else "else "
        test = f"if (rows == {height}) " if height == rows and rows > 1 else ""
        yield (
            f"      {other}{test}{variant.name}_tile{height}(x, l->plane, &counts, &channels, &w,"
            " sums + f * filter, filter);"
        )
    yield "    }"
    yield "  }"
    yield f"  const int32_t wide = {vectors} * LANES;"
    yield "  pattern_store(e, l, sums, filter, group, n, y0, rows, tx * wide, wide);"
    yield "}"

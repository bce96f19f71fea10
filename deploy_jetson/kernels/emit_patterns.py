"""C text of the free-pattern kernel: pixels across lanes, a tile of rows in registers.

For one kernel (channel, pattern) a tile of `rows` x `vectors` accumulators needs each input vector
(row, shift) once: it is loaded and added to every output row whose tap it is. Wide unaligned loads
straddle cache lines and cost two; so wide vectors have sums for each column of the kernel (three
frames) and load aligned vectors only. The frames are shifted once, when they are added up.
"""

from collections.abc import Iterator, Sequence

from deploy_jetson.kernels.patterns import Pattern, sections
from deploy_jetson.kernels.variants import PatternVariant


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


def _kernel_body(
    variant: PatternVariant, rows: int, taps: Pattern, members: Sequence[int]
) -> Iterator[str]:
    side = variant.side
    for index in range(len(taps) * len(members)):
        yield f"      const float s{index} = w[{index}];"
    for row in range(rows + side - 1):
        uses = [
            (index, tap % side, row - tap // side)
            for index, tap in enumerate(taps)
            if 0 <= row - tap // side < rows
        ]
        if uses:
            yield f"      {{ /* input row {row} */"
            yield from _row_body(variant, row, uses, (len(taps), members))
            yield "      }"


def _row_body(
    variant: PatternVariant,
    row: int,
    uses: list[tuple[int, int, int]],
    weights: tuple[int, Sequence[int]],
) -> Iterator[str]:
    """One input row: each vector is loaded once for every (output row, tap) that it serves.

    Args:
        variant: The kernel.
        row: Input row of the tile.
        uses: (number of the tap, its column, output row).
        weights: Taps of a filter, and the filters.
    """
    n_taps, members = weights
    frames = variant.frames
    columns = sorted({0 if frames > 1 else column for _, column, _ in uses})
    for shift in columns:
        right = 0 if frames > 1 else shift - variant.side // 2
        for t in range(variant.vectors):
            sums = " ".join(
                f"a{f}_{column if frames > 1 else 0}_{out}_{t} += v * s{n * n_taps + index};"
                for n, f in enumerate(members)
                for index, column, out in uses
                if frames > 1 or column == shift
            )
            load = "load_unaligned" if right else "load"
            place = f"q[{row * variant.pitch + right} + {t} * LANES]"
            keep = "IN_REGISTER(v); " if sums.count("+=") > 1 else ""
            yield f"        {{ vfloat v = {load}(&{place}); {keep}{sums} }}"


def pattern_tile(name: str, variant: PatternVariant, height: int) -> Iterator[str]:
    """One tile function: adds a block of channels to the sums of a group of filters."""
    filters = variant.filters
    yield f"static void {name}(const float *x, const uint16_t **counts,"
    yield "    const int32_t **channels, const float **weights, float *sums, int64_t filter,"
    yield "    int64_t span, int resume) {"
    yield "  const uint16_t *n = *counts;"
    yield "  const int32_t *channel = *channels;"
    yield "  const float *w = *weights;"
    places = [
        (f"a{f}_{c}_{r}_{t}", f"sums + {f} * filter + {c * variant.rows + r} * span + {t} * LANES")
        for f in range(filters)
        for c in range(variant.frames)
        for r in range(height)
        for t in range(variant.vectors)
    ]
    yield "  vfloat " + ", ".join(f"{acc} = {{0}}" for acc, _ in places) + ";"
    yield "  if (resume) {"
    for acc, place in places:
        yield f"    {acc} = load({place});"
    yield "  }"
    for members in sections(filters):
        for taps in variant.patterns:
            yield f"  for (int32_t k = *n++; k; k--) {{ /* taps {taps} of filters {members} */"
            yield "      const float *q = x + *channel++;"
            yield from _kernel_body(variant, height, taps, members)
            yield f"      w += {len(taps) * len(members)};"
            yield "  }"
    for acc, place in places:
        yield f"  store({place}, {acc});"
    yield "  *counts = n;"
    yield "  *channels = channel;"
    yield "  *weights = w;"
    yield "}"
    yield ""


def pattern_runner(variant: PatternVariant) -> Iterator[str]:
    """Tile functions and step function of one variant: unit = (block of filters, band of rows)."""
    rows, vectors, filters = variant[:3]
    heights = [h for h in (rows, rows - 1) if h]
    for height in heights:
        yield from pattern_tile(f"{variant.name}_tile{height}", variant, height)
    yield f"void {variant.name}(const engine *e, const void *layer, int32_t unit) {{"
    yield "  const pattern_layer *l = layer;"
    yield "  const int32_t bands = l->tall + l->low, group = unit / bands, band = unit % bands;"
    yield f"  const int32_t rows = band < l->tall ? {rows} : {rows - 1};"
    yield f"  const int32_t y0 = band * {rows} - (band > l->tall ? band - l->tall : 0);"
    yield "  const int32_t *start = (const int32_t *)(e->weights + l->starts) + 3 * group;"
    yield "  const uint16_t *counts = (const uint16_t *)(e->weights + l->counts) + start[0];"
    yield "  const int32_t *channels = (const int32_t *)(e->weights + l->channels) + start[1];"
    yield "  const float *w = (const float *)(e->weights + l->weights) + start[2];"
    yield f"  const float *x = e->arena + l->x + y0 * {variant.pitch};"
    yield "  int32_t n = l->out.blocks * LANES - group * l->block_filters;"
    yield "  if (n > l->block_filters) n = l->block_filters;"
    yield f"  const int64_t span = l->tiles_x * {vectors} * LANES;"
    yield f"  const int64_t frame = {rows} * span, filter = {variant.frames} * frame;"
    yield "  float *sums = e->scratch + LANES; /* shifted loads reach one float out */"
    yield "  for (int32_t b = 0; b < l->channel_blocks; b++) {"
    yield "    const uint16_t *c = counts;"
    yield "    const int32_t *i = channels;"
    yield "    const float *v = w;"
    yield "    for (int32_t t = 0; t < l->tiles_x; t++) {"
    yield "      c = counts, i = channels, v = w;"
    yield f"      const int64_t at = t * {vectors} * LANES;"
    yield f"      for (int32_t f = 0; f < n; f += {filters}) {{"
    for height in heights:
        other = "" if height == rows else "else "
        test = f"if (rows == {height}) " if height == rows and rows > 1 else ""
        yield (
            f"        {other}{test}{variant.name}_tile{height}(x + at, &c, &i, &v,"
            " sums + f * filter + at, filter, span, b);"
        )
    yield "      }"
    yield "    }"
    yield "    counts = c, channels = i, w = v;"
    yield "  }"
    place = "group, n, y0, rows"
    yield f"  pattern_store(e, l, sums, filter, {variant.frames} > 1 ? frame : 0, span, {place});"
    yield "}"

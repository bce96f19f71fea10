"""C text of the Winograd kernels: transforms across channel lanes, products by register tiles.

In the blocked layout one vector holds LANES channels of one pixel, so both transforms are plain
vector arithmetic. The products of one tile position are a small matrix product with the same
register tile as the column kernel. Channels come in pieces: the weights of one position, one panel
and one piece stay in the first-level cache while they run over all tiles of the block.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from deploy_jetson.kernels.emit_columns import accumulate
from deploy_jetson.kernels.variants import WinogradVariant
from deploy_jetson.kernels.winograd import Matrix, winograd_matrices


def _sum(terms: Sequence[tuple[Fraction, str]]) -> str:
    """`c1 * a + c2 * b ...` without multiplications by one."""
    text = ""
    for factor, name in terms:
        if not factor:
            continue
        size = abs(factor)
        term = name if size == 1 else f"{name} * {float(size)!r}f"
        if not text:
            text = term if factor > 0 else f"-{term}"
        else:
            text += f" {'+' if factor > 0 else '-'} {term}"
    return text or "(vfloat){0}"


def _mirrored(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether b is a with every odd entry negated: the rows of the points p and -p."""
    return all(y == (-x if i % 2 else x) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def _rows_of_pairs(matrix: Matrix, source: str) -> Iterator[str]:
    """r[i] = sum_j matrix[i][j] d[j]; rows of p and -p share their even and odd halves."""
    i = 0
    while i < len(matrix):
        terms = [(factor, f"{source}[{j} * from]") for j, factor in enumerate(matrix[i])]
        if i + 1 < len(matrix) and _mirrored(matrix[i], matrix[i + 1]):
            yield f"  {{ const vfloat even = {_sum(terms[0::2])}, odd = {_sum(terms[1::2])};"
            yield f"    r[{i} * to] = even + odd; r[{i + 1} * to] = even - odd; }}"
            i += 2
        else:
            yield f"  r[{i} * to] = {_sum(terms)};"
            i += 1


def _columns_of_pairs(matrix: Matrix) -> Iterator[str]:
    """The same for matrices whose *columns* come in pairs p, -p (A^T)."""
    n = len(matrix[0])
    names: list[tuple[str, str]] = []  # of every column: its even and odd rows' operand
    i = 0
    columns = list(zip(*matrix, strict=True))
    while i < n:
        if i + 1 < n and _mirrored(columns[i], columns[i + 1]):
            yield f"  const vfloat s{i} = d[{i} * from] + d[{i + 1} * from];"
            yield f"  const vfloat d{i} = d[{i} * from] - d[{i + 1} * from];"
            names += [(f"s{i}", f"d{i}"), ("", "")]
            i += 2
        else:
            names.append((f"d[{i} * from]", f"d[{i} * from]"))
            i += 1
    for row, factors in enumerate(matrix):
        terms = [(f, names[j][row % 2]) for j, f in enumerate(factors) if names[j][0]]
        yield f"  r[{row} * to] = {_sum(terms)};"


def winograd_transforms(out_tile: int) -> Iterator[str]:
    """One-dimensional B^T and A^T of F(out_tile, 3) over strided vectors."""
    matrices = winograd_matrices(out_tile)
    arguments = "(const vfloat *d, int from, vfloat *r, int to)"
    yield f"INLINE void input_transform_f{out_tile}{arguments} {{"
    yield from _rows_of_pairs(matrices.input, "d")
    yield "}"
    yield ""
    yield f"INLINE void output_transform_f{out_tile}{arguments} {{"
    yield from _columns_of_pairs(matrices.output)
    yield "}"
    yield ""


def product_tiles(variants: Sequence[WinogradVariant]) -> Iterator[str]:
    """Register tiles of the products: `out[v][t] += sum_k w[k][v] * x[columns[k] + t * LANES]`."""
    wanted = {(p, v.vectors) for v in variants for p in (v.pixels, v.pixels - 1) if p}
    for pixels, vectors in sorted(wanted):
        yield f"INLINE void product_tile_{pixels}x{vectors}(const float *x, const int32_t *columns,"
        yield "    const float *w, int32_t n, float *out, int64_t block, int resume) {"
        sums = [(f"a{p}_{v}", p, v) for p in range(pixels) for v in range(vectors)]
        yield "  vfloat " + ", ".join(f"{name} = {{0}}" for name, _, _ in sums) + ";"
        yield "  if (resume) {"
        for name, p, v in sums:
            yield f"    {name} = load(out + {v} * block + {p} * LANES);"
        yield "  }"
        yield from accumulate(pixels, vectors, "LANES")
        for p in range(pixels):
            for v in range(vectors):
                yield f"  store(out + {v} * block + {p} * LANES, a{p}_{v});"
        yield "}"
        yield ""


def winograd_input(out_tile: int) -> Iterator[str]:
    """The input transform of one tile and one block of channels."""
    n = out_tile + 2
    yield f"static void winograd_input_f{out_tile}(const engine *e, const winograd_layer *l,"
    yield "    int32_t tile, int64_t source, float *out, int64_t position) {"
    yield f"  const int32_t y0 = tile / l->tiles_x * {out_tile} - l->padding;"
    yield f"  const int32_t x0 = tile % l->tiles_x * {out_tile} - l->padding;"
    yield f"  vfloat edge[{n * n}], half[{n * n}], full[{n * n}];"
    yield "  const vfloat *d = (const vfloat *)(e->arena + source + y0 * (int64_t)l->in_row) + x0;"
    yield "  int64_t row = l->in_row / LANES;"
    yield f"  if (y0 + {n} > l->in_height + l->padding ||"
    yield f"      x0 + {n} > l->in_width + l->padding) {{ /* the tile hangs over the edge */"
    yield f"    for (int i = 0; i < {n}; i++) {{"
    yield f"      for (int j = 0; j < {n}; j++) {{"
    yield "        const int inside = y0 + i < l->in_height && x0 + j < l->in_width;"
    yield f"        edge[i * {n} + j] = inside ? d[i * row + j] : (vfloat){{0}};"
    yield "      }"
    yield "    }"
    yield "    d = edge;"
    yield f"    row = {n};"
    yield "  }"
    transform = f"input_transform_f{out_tile}"
    yield f"  for (int i = 0; i < {n}; i++) {transform}(d + i * row, 1, half + i * {n}, 1);"
    yield f"  for (int j = 0; j < {n}; j++) {transform}(half + j, {n}, full + j, {n});"
    yield f"  for (int i = 0; i < {n * n}; i++) store(out + i * position, full[i]);"
    yield "}"
    yield ""


def winograd_output(out_tile: int) -> Iterator[str]:
    """The output transform of one tile and one block of filters, with bias, activation, skip."""
    n, m = out_tile + 2, out_tile
    yield f"static void winograd_output_f{m}(const engine *e, const winograd_layer *l,"
    yield "    int32_t tile, int32_t block, const float *products, int64_t position,"
    yield "    const float *bias) {"
    yield f"  const int32_t y0 = tile / l->tiles_x * {m}, x0 = tile % l->tiles_x * {m};"
    yield f"  vfloat all[{n * n}], half[{m * n}], full[{m * m}];"
    yield f"  for (int i = 0; i < {n * n}; i++) all[i] = load(products + i * position);"
    yield f"  for (int j = 0; j < {n}; j++) output_transform_f{m}(all + j, {n}, half + j, {n});"
    transform = f"output_transform_f{m}"
    yield f"  for (int i = 0; i < {m}; i++) {transform}(half + i * {n}, 1, full + i * {m}, 1);"
    yield "  const int64_t at = block * l->out.block + y0 * l->out.row + (int64_t)x0 * LANES;"
    yield "  float *out = e->arena + l->out.base + at;"
    yield "  const float *skip = l->skip < 0 ? NULL : e->arena + l->skip + at;"
    yield "  const vfloat b = load(bias);"
    yield f"  const int32_t rows = l->out.height - y0 < {m} ? l->out.height - y0 : {m};"
    yield f"  const int32_t columns = l->out.width - x0 < {m} ? l->out.width - x0 : {m};"
    yield "  for (int32_t i = 0; i < rows; i++) {"
    yield "    for (int32_t j = 0; j < columns; j++) {"
    yield "      const int64_t place = i * l->out.row + j * LANES;"
    yield f"      vfloat v = activate(full[i * {m} + j] + b, l->act);"
    yield "      if (skip) v = activate(v + load(skip + place), l->act_after);"
    yield "      store(out + place, v);"
    yield "    }"
    yield "  }"
    yield "}"
    yield ""


def winograd_runner(variant: WinogradVariant) -> Iterator[str]:
    """The step function of one variant: unit = (block of tiles, group of panels)."""
    m, px, nv = variant
    n2 = (m + 2) ** 2
    yield f"void {variant.name}(const engine *e, const void *layer, int32_t unit) {{"
    yield "  const winograd_layer *l = layer;"
    yield "  const int32_t first = unit % l->n_tile_blocks * l->block_tiles;"
    yield "  const int32_t panel0 = unit / l->n_tile_blocks * l->panels_per_unit;"
    yield "  int32_t panel1 = panel0 + l->panels_per_unit;"
    yield "  if (panel1 > l->panels) panel1 = l->panels;"
    yield "  int32_t tiles = l->tiles_y * l->tiles_x - first;"
    yield "  if (tiles > l->block_tiles) tiles = l->block_tiles;"
    yield "  /* an odd number of vectors between positions keeps them in different cache sets */"
    yield "  const int64_t plane = (int64_t)l->block_tiles * LANES;"
    yield "  const int64_t position = (l->in_blocks * l->block_tiles | 1) * (int64_t)LANES;"
    yield f"  const int64_t product = ({nv} * l->block_tiles | 1) * (int64_t)LANES;"
    yield f"  float *inputs = e->scratch, *products = inputs + {n2} * position;"
    yield "  const int32_t *sources = (const int32_t *)(e->weights + l->inputs);"
    yield "  const int32_t *columns = (const int32_t *)(e->weights + l->columns);"
    yield "  const int32_t n = l->n_columns;"
    yield "  for (int32_t b = 0; b < l->in_blocks; b++) {"
    yield "    for (int32_t t = 0; t < tiles; t++) {"
    yield "      float *out = inputs + b * plane + t * LANES;"
    yield f"      winograd_input_f{m}(e, l, first + t, sources[b], out, position);"
    yield "    }"
    yield "  }"
    yield "  for (int32_t panel = panel0; panel < panel1; panel++) {"
    yield "    const float *w = (const float *)(e->weights + l->weights) +"
    yield f"        (int64_t)panel * {n2} * n * {nv} * LANES;"
    yield f"    for (int i = 0; i < {n2}; i++, w += (int64_t)n * {nv} * LANES) {{"
    yield "      int32_t k = 0;"
    yield "      do { /* once even where no channel is read: the products are zero then */"
    yield "        const int32_t m = k + l->piece < n ? l->piece : n - k;"
    yield "        const float *x = inputs + i * position;"
    yield "        float *out = products + i * product;"
    for count, pixels in (("wide", px), ("narrow", px - 1)):
        if not pixels:
            continue
        yield f"        for (int32_t t = 0; t < l->{count}; t++) {{"
        yield f"          product_tile_{pixels}x{nv}(x, columns + k, w + (int64_t)k * {nv} * LANES,"
        yield "              m, out, plane, k);"
        yield f"          x += {pixels} * LANES;"
        yield f"          out += {pixels} * LANES;"
        yield "        }"
    yield "        k += l->piece;"
    yield "      } while (k < n);"
    yield "    }"
    yield f"    const float *bias = (const float *)(e->weights + l->bias) + panel * {nv} * LANES;"
    yield f"    for (int32_t v = 0; v < {nv}; v++) {{"
    yield f"      const int32_t block = panel * {nv} + v;"
    yield "      if (block >= l->out.blocks) break; /* the last panel may be partly empty */"
    yield "      if (first == 0) {"
    yield "        clear_halo(e->arena + l->out.base, &l->out, block, 1, 0, l->out.height);"
    yield "      }"
    yield "      for (int32_t t = 0; t < tiles; t++) {"
    yield "        const float *sums = products + v * plane + t * LANES;"
    yield f"        winograd_output_f{m}(e, l, first + t, block, sums, product, bias + v * LANES);"
    yield "      }"
    yield "    }"
    yield "  }"
    yield "}"

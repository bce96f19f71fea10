"""C text of the column kernel: filters across vector lanes, pixels broadcast, one list of columns.

Dense, filter-, column- and group-pattern-pruned, combined, 1x1, strided and fully connected layers
are all this kernel; only the list differs. A tile keeps `pixels * vectors` accumulators in
registers; every kept column costs `vectors` weight loads and `pixels` broadcasts.

A long list is cut into pieces whose weights and inputs stay in the first-level cache while they
run over a strip of pixels, all rows of it; the sums rest in the output between two pieces.
"""

from collections.abc import Iterator

from deploy_jetson.kernels.variants import ColumnsVariant


def accumulate(pixels: int, vectors: int, step: str) -> Iterator[str]:
    """The hot loop: `x` is the first pixel's window, `columns` and `w` the panel's lists.

    Args:
        pixels: Output pixels of the tile.
        vectors: Vectors of filters.
        step: C expression of the floats between the inputs of neighbouring output pixels.
    """
    yield "  UNROLLED"
    yield "  for (int32_t k = 0; k < n; k++) {"
    yield "    const float *q = x + columns[k];"
    if pixels < vectors:  # what there is less of is held, the other passes through one register
        for p in range(pixels):
            yield f"    const float s{p} = q[{p} * {step}];"
        for v in range(vectors):
            sums = " ".join(f"a{p}_{v} += w{v} * s{p};" for p in range(pixels))
            yield f"    {{ const vfloat w{v} = load(w + {v} * LANES); {sums} }}"
        yield f"    w += {vectors} * LANES;"
    else:
        for v in range(vectors):
            yield f"    const vfloat w{v} = load(w + {v} * LANES);"
        yield f"    w += {vectors} * LANES;"
        for p in range(pixels):
            sums = " ".join(f"a{p}_{v} += w{v} * s;" for v in range(vectors))
            yield f"    {{ const float s = q[{p} * {step}]; {sums} }}"
    yield "  }"


def _tile(pixels: int, vectors: int, step: str) -> Iterator[str]:
    yield f"INLINE void columns_tile_{pixels}x{vectors}_{_word(step)}("
    yield "    const float *x, const int32_t *columns, const float *w, int32_t n,"
    yield "    const float *bias, float *out, const float *skip, const columns_layer *l,"
    yield "    int resume, int finish) {"
    sums = [(f"a{p}_{v}", p, v) for v in range(vectors) for p in range(pixels)]
    yield "  const int64_t block = l->out.block;"
    yield "  vfloat " + ", ".join(name for name, _, _ in sums) + ";"
    yield "  if (resume) { /* the sums of the pieces before */"
    for name, p, v in sums:
        yield f"    {name} = load(out + {v} * block + {p} * LANES);"
    yield "  } else {"
    for name, p, v in sums:
        yield f"    {name} = {f'a0_{v}' if p else f'load(bias + {v} * LANES)'};"
    yield "  }"
    yield from accumulate(pixels, vectors, step)
    # The constants of the activation must not occupy registers during the loop.
    yield '  __asm__ volatile("" ::: "memory");'
    yield "  if (finish) {"
    yield "    const activation act = l->act;"
    for p in range(pixels):
        for v in range(vectors):
            yield f"    a{p}_{v} = activate(a{p}_{v}, act);"
    yield "  }"
    yield "  if (finish && skip) {"
    yield "    const activation after = l->act_after;"
    yield "    const int64_t skip_block = l->skip_block;"
    for p in range(pixels):
        for v in range(vectors):
            place = f"{v} * skip_block + {p} * LANES"
            yield f"    a{p}_{v} = activate(a{p}_{v} + load(skip + {place}), after);"
    yield "  }"
    for p in range(pixels):
        for v in range(vectors):
            yield f"  store(out + {v} * block + {p} * LANES, a{p}_{v});"
    yield "}"


def _word(step: str) -> str:
    return step.replace(" * ", "").replace("LANES", "L")


def columns_tiles(variants: "list[ColumnsVariant]") -> Iterator[str]:
    """Tile functions of all variants, each once (a variant also needs the one-pixel-less tile)."""
    wanted = {
        (pixels, variant.vectors, variant.step) for variant in variants for pixels in variant.widths
    }
    for pixels, vectors, step in sorted(wanted):
        yield from _tile(pixels, vectors, step)
        yield ""


def columns_runner(variant: ColumnsVariant) -> Iterator[str]:
    """The functions of one variant: rows of one panel, and the step function around it."""
    nv, px, word = variant.vectors, variant.pixels, _word(variant.step)
    yield f"void {variant.rows}(const engine *e, const columns_layer *l, const float *x0,"
    yield "    float *out0, int32_t panel, int32_t y0, int32_t y1) {"
    yield "  const int32_t *pieces = (const int32_t *)(e->weights + l->pieces) + panel;"
    yield "  const int32_t *starts = (const int32_t *)(e->weights + l->starts);"
    yield "  const int32_t *columns = (const int32_t *)(e->weights + l->columns);"
    yield "  const float *weights = (const float *)(e->weights + l->weights);"
    yield f"  const float *bias = (const float *)(e->weights + l->bias) + panel * {nv} * LANES;"
    yield f"  const int32_t first = l->first_block + panel * {nv};"
    yield f"  clear_halo(out0, &l->out, first, {nv}, y0, y1);"
    yield "  const int32_t tiles = l->wide + l->narrow;"
    yield "  for (int32_t t0 = 0; t0 < tiles; t0 += l->strip) {"
    yield "    const int32_t t1 = t0 + l->strip < tiles ? t0 + l->strip : tiles;"
    yield f"    const int32_t pixel = t0 * {px} - (t0 > l->wide ? t0 - l->wide : 0);"
    yield "    for (int32_t piece = pieces[0]; piece < pieces[1]; piece++) {"
    yield "      const int32_t start = starts[piece], n = starts[piece + 1] - start;"
    yield "      const int resume = piece > pieces[0], finish = piece + 1 == pieces[1];"
    yield f"      const float *w = weights + (int64_t)start * {nv} * LANES;"
    yield "      for (int32_t y = y0; y < y1; y++) {"
    yield f"        const float *x = x0 + y * l->x_row + pixel * {variant.step};"
    yield "        float *out = out0 + first * l->out.block + y * l->out.row + pixel * LANES;"
    yield "        const float *skip = NULL;"
    yield "        if (l->skip >= 0) {"
    yield "          skip = e->arena + l->skip + first * l->skip_block + y * l->skip_row;"
    yield "          skip += pixel * LANES;"
    yield "        }"
    yield "        for (int32_t t = t0; t < t1; t++) {"
    for pixels in variant.widths:
        test = "if (t < l->wide) " if pixels == px else "else "
        test = test if variant.narrow else ""
        yield f"          {test}{{"
        yield f"            columns_tile_{pixels}x{nv}_{word}(x, columns + start, w, n, bias, out,"
        yield "                skip, l, resume, finish);"
        yield f"            x += {pixels} * {variant.step};"
        yield f"            out += {pixels} * LANES;"
        yield f"            if (skip) skip += {pixels} * LANES;"
        yield "          }"
    yield "        }"
    yield "      }"
    yield "    }"
    yield "  }"
    yield "}"
    yield ""
    yield f"void {variant.name}(const engine *e, const void *layer, int32_t unit) {{"
    yield f"  run_columns(e, layer, {variant.rows}, unit);"
    yield "}"

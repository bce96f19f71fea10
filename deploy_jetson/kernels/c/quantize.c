/* Rounds activations to the whole numbers of the int8 kernels. */
#include "engine.h"

#ifdef DOT_GROUP
#define BITS (32 / DOT_GROUP)
#if DOT_GROUP == 2
typedef int16_t number;
#else
typedef int8_t number;
#endif
typedef number numbers __attribute__((vector_size(LANES * sizeof(number)), may_alias));
#define ROUNDING 12582912.0f /* 1.5 * 2^23: a small number added to it is rounded to an integer, half to even */

INLINE vreal smaller(vreal a, vreal b) {
  const vwhole which = a < b;
  return (vreal)(((vwhole)a & which) | ((vwhole)b & ~which));
}

INLINE vwhole levels(vreal x, const quantize_layer *l) {
  const vreal lowest = (vreal){0} + l->lowest, highest = (vreal){0} + l->highest;
  const vreal cut = smaller(-smaller(-(x * l->inverse), -lowest), highest);
  return (vwhole)(cut + ROUNDING) - (vwhole)((vreal){0} + ROUNDING) + l->zero;
}

static void fill(real *p, int64_t words, int32_t word) {
  word_i8 *q = (word_i8 *)p;
  for (int64_t i = 0; i < words; i++) q[i] = word;
}

/* unit = block of words */
void run_quantize(const engine *e, const void *layer, int32_t unit) {
  const quantize_layer *l = layer;
  const blocked *t = &l->out;
  const int32_t first = unit * DOT_GROUP;
  const int32_t *sources = (const int32_t *)(e->weights + l->sources) + first;
  const int32_t n = l->n_sources - first < DOT_GROUP ? l->n_sources - first : DOT_GROUP;
  real *plane = e->arena + t->base + unit * t->block;
  const int64_t side = (int64_t)t->halo * LANES, width = (int64_t)t->width * LANES;
  uint32_t zero = 0;
  for (int m = 0; m < DOT_GROUP; m++) zero |= (uint32_t)(l->zero & (int32_t)((1ll << BITS) - 1)) << m * BITS;
  fill(plane - t->halo * t->row - side, t->halo * t->row, (int32_t)zero);
  fill(plane + t->height * t->row - side, t->halo * t->row, (int32_t)zero);
  for (int32_t y = 0; y < t->height; y++) {
    real *out = plane + y * t->row;
    const real *x = e->arena + (int64_t)y * l->in_row;
    fill(out - side, side, (int32_t)zero);
    fill(out + width, side, (int32_t)zero);
    for (int32_t m = 0; m < n; m++) { /* words without a source have no weights */
      const real *q = x + sources[m];
      for (int64_t i = 0; i < width; i += LANES) {
        ((numbers *)(out + i))[m] = __builtin_convertvector(levels(load(q + i), l), numbers);
      }
    }
  }
}
#endif

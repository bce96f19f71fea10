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

/* Compilers do not find these instructions in a comparison of vectors. */
#if defined(__aarch64__)
#define SMALLER(a, b) (vreal)vminq_f32((float32x4_t)(a), (float32x4_t)(b))
#define LARGER(a, b) (vreal)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b))
#elif LANES == 16
#define SMALLER(a, b) _mm512_min_ps(a, b)
#define LARGER(a, b) _mm512_max_ps(a, b)
#else
#define SMALLER(a, b) _mm256_min_ps(a, b)
#define LARGER(a, b) _mm256_max_ps(a, b)
#endif

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
  const vreal inverse = (vreal){0} + l->inverse, lowest = (vreal){0} + l->lowest, highest = (vreal){0} + l->highest;
  const vwhole shift = (vwhole)((vreal){0} + ROUNDING) - l->zero;
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
        const vreal cut = SMALLER(LARGER(load(q + i) * inverse, lowest), highest);
        ((numbers *)(out + i))[m] = __builtin_convertvector((vwhole)(cut + ROUNDING) - shift, numbers);
      }
    }
  }
}
#endif

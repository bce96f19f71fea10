/* Rounds activations to the whole numbers of the int8 kernels. */
#include "engine.h"

#if defined(DOT_2) || defined(DOT_4)
typedef int16_t numbers_2 __attribute__((vector_size(2 * LANES), may_alias));
typedef int8_t numbers_4 __attribute__((vector_size(LANES), may_alias));
typedef int32_t word __attribute__((may_alias));
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

static void fill(real *p, int64_t words, int32_t value) {
  word *q = (word *)p;
  for (int64_t i = 0; i < words; i++) q[i] = value;
}

/* unit = block of words */
INLINE void quantize(const engine *e, const quantize_layer *l, int32_t unit, const int group) {
  const blocked *t = &l->out;
  const int32_t first = unit * group, bits = 32 / group;
  const int32_t *sources = (const int32_t *)(e->weights + l->sources) + first;
  const int32_t n = l->n_sources - first < group ? l->n_sources - first : group;
  real *plane = e->arena + t->base + unit * t->block;
  const int64_t side = (int64_t)t->halo * LANES, width = (int64_t)t->width * LANES;
  const vreal inverse = (vreal){0} + l->inverse, lowest = (vreal){0} + l->lowest, highest = (vreal){0} + l->highest;
  const vwhole shift = (vwhole)((vreal){0} + ROUNDING) - l->zero;
  uint32_t zero = 0;
  for (int m = 0; m < group; m++) zero |= (uint32_t)(l->zero & (int32_t)((1ll << bits) - 1)) << m * bits;
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
        const numbers_2 levels = __builtin_convertvector((vwhole)(cut + ROUNDING) - shift, numbers_2);
        if (group == 2) {
          ((numbers_2 *)(out + i))[m] = levels;
        } else { /* in two steps: gcc 12 takes numbers one by one from 32 bits to 8 */
          ((numbers_4 *)(out + i))[m] = __builtin_convertvector(levels, numbers_4);
        }
      }
    }
  }
}

void run_quantize_2(const engine *e, const void *layer, int32_t unit) { quantize(e, layer, unit, 2); }
void run_quantize_4(const engine *e, const void *layer, int32_t unit) { quantize(e, layer, unit, 4); }
#endif

/* Rounds activations to whole numbers, where the step that made them did not. */
#include "rounding.h"

#if defined(DOT_2) || defined(DOT_4)
#define ROUNDS(format)                                                                                     \
  void clear_##format(const engine *e, const rounding *r, int32_t first_vector, int32_t n_vectors,         \
                      int32_t y0, int32_t y1) {                                                            \
    const blocked *t = &r->words;                                                                          \
    const numbers_##format zero = (numbers_##format){0} + (char)r->zero;                                   \
    const int32_t top = y0 == 0 ? -t->halo : y0, bottom = y1 == t->height ? y1 + t->halo : y1;             \
    if (!t->halo) return;                                                                                  \
    for (int32_t vector = first_vector; vector < first_vector + n_vectors; vector++) {                     \
      for (int32_t y = top; y < bottom; y++) {                                                             \
        const int inside = y >= 0 && y < t->height;                                                        \
        char *row = (char *)(e->arena + t->base + y * t->row) + part_##format(r, vector);                   \
        for (int32_t x = -t->halo; x < t->width + t->halo; x++) {                                          \
          if (inside && x == 0) x = t->width;                                                              \
          *(numbers_##format *)(row + 4 * x * r->pixel) = zero;                                            \
        }                                                                                                  \
      }                                                                                                    \
    }                                                                                                      \
  }                                                                                                        \
                                                                                                           \
  /* unit = vector of channels */                                                                          \
  void run_quantize_##format(const engine *e, const void *layer, int32_t unit) {                           \
    const quantize_layer *l = layer;                                                                       \
    const rounding r = *l->rounding;                                                                       \
    const int64_t pixel = 4 * r.pixel;                                                                     \
    const int32_t source = ((const int32_t *)(e->weights + l->sources))[unit], width = r.words.width;      \
    clear_##format(e, &r, unit, 1, 0, r.words.height);                                                     \
    for (int32_t y = 0; y < r.words.height; y++) {                                                         \
      const real *x = e->arena + source + (int64_t)y * l->in_row;                                          \
      char *to = (char *)(e->arena + r.words.base + y * r.words.row) + part_##format(&r, unit);             \
      int32_t i = 0;                                                                                       \
      for (; i + 4 <= width; i += 4, x += 4 * LANES, to += 4 * pixel) {                                    \
        store4_##format(to, pixel, load(x), load(x + LANES), load(x + 2 * LANES), load(x + 3 * LANES), &r); \
      }                                                                                                    \
      for (; i < width; i++, x += LANES, to += pixel) store_##format(to, load(x), &r);                     \
    }                                                                                                      \
  }
#ifdef DOT_2
ROUNDS(i8x2)
#endif
#ifdef DOT_4
ROUNDS(i8x4)
#endif
#endif

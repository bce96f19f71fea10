/* Activations as whole numbers: what a step writes where an int8 convolution reads its output. */
#ifndef ROUNDING_H
#define ROUNDING_H
#include "engine.h"

#if defined(DOT_2) || defined(DOT_4)
typedef int16_t numbers_i8x2 __attribute__((vector_size(2 * LANES), may_alias));
typedef int8_t numbers_i8x4 __attribute__((vector_size(LANES), may_alias));

/* rounded: v over the scale, half to even as NumPy and ONNX round, cut to lowest..highest, plus zero. (Compilers do
 * not find the instructions in generic vector code.) store2_ and store4_ write neighbouring pixels. */
#if LANES == 8
/* AVX2 narrows two vectors as quickly as one, and cuts to the narrow type while it does: to 0..255 for i8x4, which
 * is uint8 on this target. A value beyond int32 becomes negative, so the upper end is cut before. */
INLINE __m256i rounded(vreal v, const rounding *r) {
  return _mm256_cvtps_epi32(SMALLER(v * r->inverse, (vreal){0} + r->highest));
}
INLINE __m256i rounded_i8x2(vreal a, vreal b, const rounding *r) { /* zero is 0 in 16 bits */
  return _mm256_max_epi16(_mm256_packs_epi32(rounded(a, r), rounded(b, r)), _mm256_set1_epi16(r->lowest));
}
INLINE __m256i rounded_i8x4(vreal a, vreal b, const rounding *r) { /* not yet cut */
  return _mm256_adds_epi16(_mm256_packs_epi32(rounded(a, r), rounded(b, r)), _mm256_set1_epi16(r->zero));
}
INLINE void store2_i8x2(char *to, int64_t pixel, vreal a, vreal b, const rounding *r) {
  const __m256i whole = _mm256_permute4x64_epi64(rounded_i8x2(a, b, r), 0xd8);
  *(__m128i_u *)to = _mm256_castsi256_si128(whole);
  *(__m128i_u *)(to + pixel) = _mm256_extracti128_si256(whole, 1);
}
INLINE void store_i8x2(char *to, vreal v, const rounding *r) {
  *(__m128i_u *)to = _mm256_castsi256_si128(_mm256_permute4x64_epi64(rounded_i8x2(v, v, r), 0xd8));
}
INLINE void store4_i8x4(char *to, int64_t pixel, vreal a, vreal b, vreal c, vreal d, const rounding *r) {
  const __m256i mixed = _mm256_packus_epi16(rounded_i8x4(a, b, r), rounded_i8x4(c, d, r));
  const __m256i whole = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  (void)pixel; /* a block has one vector: neighbours lie side by side */
  _mm256_storeu_si256((__m256i_u *)to, whole);
}
INLINE void store2_i8x4(char *to, int64_t pixel, vreal a, vreal b, const rounding *r) {
  const __m256i pairs = rounded_i8x4(a, b, r), mixed = _mm256_packus_epi16(pairs, pairs);
  const __m128i low = _mm256_castsi256_si128(mixed), high = _mm256_extracti128_si256(mixed, 1);
  (void)pixel;
  _mm_storeu_si128((__m128i_u *)to, _mm_unpacklo_epi32(low, high));
}
INLINE void store_i8x4(char *to, vreal v, const rounding *r) {
  const __m256i pairs = rounded_i8x4(v, v, r), mixed = _mm256_packus_epi16(pairs, pairs);
  const __m128i low = _mm256_castsi256_si128(mixed), high = _mm256_extracti128_si256(mixed, 1);
  _mm_storel_epi64((__m128i *)to, _mm_unpacklo_epi32(low, high));
}
INLINE void store4_i8x2(char *to, int64_t pixel, vreal a, vreal b, vreal c, vreal d, const rounding *r) {
  store2_i8x2(to, pixel, a, b, r);
  store2_i8x2(to + 2 * pixel, pixel, c, d, r);
}
#else
#if defined(__aarch64__)
#define ROUNDED(v) (vwhole)vcvtnq_s32_f32((float32x4_t)(v))
#else
#define ROUNDED(v) (vwhole)_mm512_cvtps_epi32(v)
#endif
INLINE numbers_i8x2 rounded(vreal v, const rounding *r) {
  const vreal zero = {0}, cut = SMALLER(LARGER(v * r->inverse, zero + r->lowest), zero + r->highest);
  return __builtin_convertvector(ROUNDED(cut) + r->zero, numbers_i8x2);
}
INLINE void store_i8x2(char *to, vreal v, const rounding *r) { *(numbers_i8x2 *)to = rounded(v, r); }
INLINE void store_i8x4(char *to, vreal v, const rounding *r) { /* by 16 bits: gcc 12 takes numbers one by one from 32 to 8 */
  *(numbers_i8x4 *)to = __builtin_convertvector(rounded(v, r), numbers_i8x4);
}
#define STORES(format)                                                                                       \
  INLINE void store2_##format(char *to, int64_t pixel, vreal a, vreal b, const rounding *r) {                \
    store_##format(to, a, r);                                                                                \
    store_##format(to + pixel, b, r);                                                                        \
  }                                                                                                          \
  INLINE void store4_##format(char *to, int64_t pixel, vreal a, vreal b, vreal c, vreal d, const rounding *r) { \
    store2_##format(to, pixel, a, b, r);                                                                     \
    store2_##format(to + 2 * pixel, pixel, c, d, r);                                                         \
  }
STORES(i8x2)
STORES(i8x4)
#endif

/* part_: bytes from a block of words' pixel to what a vector of channels has there, the first block's for the first
 * vector; clear_: writes the border of rows y0..y1-1 of some vectors, as clear_halo does. */
#define PARTS(format)                                                                                     \
  INLINE int64_t part_##format(const rounding *r, int32_t vector) {                                       \
    const int32_t block = vector / r->together, place = vector % r->together;                             \
    return 4 * block * r->words.block + place * (int64_t)sizeof(numbers_##format);                        \
  }                                                                                                       \
  void clear_##format(const engine *e, const rounding *r, int32_t first_vector, int32_t n_vectors, int32_t y0, int32_t y1);
#ifdef DOT_2
PARTS(i8x2)
#endif
#ifdef DOT_4
PARTS(i8x4)
#endif
#endif
#endif

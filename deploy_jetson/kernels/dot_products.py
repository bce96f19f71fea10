"""The dot products of small whole numbers that targets have."""

from typing import NamedTuple


class DotProduct(NamedTuple):
    """How a target sums products of whole numbers in 32-bit lanes, for the int8 kernels."""

    group: int  # products per lane: channels in one 32-bit word, of 32 / group bits each
    weight_max: int  # largest magnitude of the weights for which its sums are exact
    # subtracted from a uint8 activation so that it fits; None: its zero point, which 16 bits hold
    # exactly
    offset: int | None
    cost: float  # time of one in the kernel's loop over that of a fused multiply-add
    # C expression of the vectors `sum` and `w`, and the int32 `word` of activations
    expression: str
    # the same for two words at once, `w`, `word` and `w1`, `word1`, whose sums are added in 16
    # bits; empty: not quicker on this target
    sums_of_two: str = ""
    # what neither the positive nor the negative weights of two words may exceed, added up within 16
    # bits
    two_max: int = 0


EIGHT_BITS = 128
SUM_MAX = 128  # of weights whose products with a uint8 fit 16 bits
SEVEN_BITS = 64  # two products with a uint8 fit 16 bits; what `pneumonia quantize` writes
# Pairs of 16 bits, and four of 8 bits, whose products `maddubs` adds in 16 bits.
AVX2_PAIRS = DotProduct(
    2, EIGHT_BITS, None, 1.3,
    "_mm256_add_epi32((__m256i)(sum), _mm256_madd_epi16((__m256i)(w), _mm256_set1_epi32(word)))",
)  # fmt: skip
AVX2_BYTES = DotProduct(
    4, SEVEN_BITS, 0, 2.0,
    "_mm256_add_epi32((__m256i)(sum), _mm256_madd_epi16(_mm256_maddubs_epi16("
    "_mm256_set1_epi32(word), (__m256i)(w)), _mm256_set1_epi16(1)))",
    "_mm256_add_epi32((__m256i)(sum), _mm256_madd_epi16(_mm256_add_epi16("
    "_mm256_maddubs_epi16(_mm256_set1_epi32(word), (__m256i)(w)), "
    "_mm256_maddubs_epi16(_mm256_set1_epi32(word1), (__m256i)(w1))), _mm256_set1_epi16(1)))",
    SUM_MAX,
)  # fmt: skip
AVX512_PAIRS = DotProduct(
    2, EIGHT_BITS, None, 1.6,
    "_mm512_add_epi32((__m512i)(sum), _mm512_madd_epi16((__m512i)(w), _mm512_set1_epi32(word)))",
)  # fmt: skip
AVX512_BYTES = DotProduct(
    4, SEVEN_BITS, 0, 2.4,
    "_mm512_add_epi32((__m512i)(sum), _mm512_madd_epi16(_mm512_maddubs_epi16("
    "_mm512_set1_epi32(word), (__m512i)(w)), _mm512_set1_epi16(1)))",
    "_mm512_add_epi32((__m512i)(sum), _mm512_madd_epi16(_mm512_add_epi16("
    "_mm512_maddubs_epi16(_mm512_set1_epi32(word), (__m512i)(w)), "
    "_mm512_maddubs_epi16(_mm512_set1_epi32(word1), (__m512i)(w1))), _mm512_set1_epi16(1)))",
    SUM_MAX,
)  # fmt: skip
VNNI = DotProduct(
    4, EIGHT_BITS, 0, 1.0,
    "_mm512_dpbusd_epi32((__m512i)(sum), _mm512_set1_epi32(word), (__m512i)(w))",
)  # fmt: skip
# By element: the word needs a plain load only, not one that repeats it, whose address is computed.
SDOT = DotProduct(
    4, EIGHT_BITS, 128, 1.0,
    "vdotq_lane_s32((int32x4_t)(sum), (int8x16_t)(w), (int8x8_t)(int32x2_t){word, 0}, 0)",
)  # fmt: skip

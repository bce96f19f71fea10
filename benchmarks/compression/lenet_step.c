/* Forward and backward pass of a pruned LeNet-5 (28 x 28 x 1, two 5 x 5 convolutions, each followed
 * by 2 x 2 maximum pooling, then two linear layers with a ReLU between them), in float32.
 *
 * Sixteen images share a vector, one per lane, so that a pruned weight costs nothing and every
 * other one is a multiply-add of a scalar and a vector.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

enum { SIDE = 28, SIDE1 = 24, POOL1 = 12, SIDE2 = 8, POOL2 = 4, K = 5, TAPS = 25, CLASSES = 16 };

/* Sizes of one network: filters of both convolutions, hidden units, classes. */
struct sizes { int a, b, h, classes; };

/* Activations of 16 images. */
struct lanes {
    v16 image[SIDE * SIDE];
    v16 *pool1, *pool2, *hidden;
    i16 *from1, *from2; /* which of the four pooled places was the largest */
};

struct entry { int32_t filter, channel, ky, kx, at; float w; };

static v16 zero(void) { return (v16){0}; }

static v16 choose(i16 mask, v16 yes, v16 no)
{
    return (v16)(((i16)yes & mask) | ((i16)no & ~mask));
}

static float sum(v16 v)
{
    float total = 0;
    for (int i = 0; i < 16; i++)
        total += v[i];
    return total;
}

/* Weights that are not zero, or all, in their order. */
static int entries(const float *w, int filters, int channels, int every, struct entry *out)
{
    int n = 0;
    for (int f = 0; f < filters; f++)
        for (int c = 0; c < channels; c++)
            for (int t = 0; t < TAPS; t++) {
                const int at = (f * channels + c) * TAPS + t;
                if (w[at] != 0 || every)
                    out[n++] = (struct entry){f, c, t / K, t % K, at, w[at]};
            }
    return n;
}

/* One row of `WIDE` pooled places from two rows of a convolution's outputs. */
#define POOL_ROW(WIDE, top, bottom, largest, from)                                                \
    for (int x = 0; x < (WIDE); x++) {                                                            \
        v16 best = top[2 * x];                                                                    \
        i16 place = {0}, over;                                                                    \
        over = top[2 * x + 1] > best;                                                             \
        best = choose(over, top[2 * x + 1], best);                                                \
        place = (over & 1) | (~over & place);                                                     \
        over = bottom[2 * x] > best;                                                              \
        best = choose(over, bottom[2 * x], best);                                                 \
        place = (over & 2) | (~over & place);                                                     \
        over = bottom[2 * x + 1] > best;                                                          \
        best = choose(over, bottom[2 * x + 1], best);                                             \
        place = (over & 3) | (~over & place);                                                     \
        largest[x] = best;                                                                        \
        from[x] = place;                                                                          \
    }

static void block_of_eight(v16 *out, const v16 *in, int stride, const struct entry *e, int n,
                           int plane, float bias)
{
    v16 s0 = zero() + bias, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (int i = 0; i < n; i++) {
        const v16 *x = in + e[i].channel * plane + e[i].ky * stride + e[i].kx;
        const float w = e[i].w;
        s0 += w * x[0]; s1 += w * x[1]; s2 += w * x[2]; s3 += w * x[3];
        s4 += w * x[4]; s5 += w * x[5]; s6 += w * x[6]; s7 += w * x[7];
    }
    out[0] = s0; out[1] = s1; out[2] = s2; out[3] = s3;
    out[4] = s4; out[5] = s5; out[6] = s6; out[7] = s7;
}

static void convolve(const v16 *in, int side, int out_side, const struct entry *e, const int *first,
                     int filters, const float *bias, v16 *pooled, i16 *from)
{
    v16 rows[2][SIDE1];
    const int half = out_side / 2;
    for (int f = 0; f < filters; f++)
        for (int y = 0; y < half; y++) {
            for (int r = 0; r < 2; r++)
                for (int x = 0; x < out_side; x += 8)
                    block_of_eight(rows[r] + x, in + (2 * y + r) * side + x, side, e + first[f],
                                   first[f + 1] - first[f], side * side, bias[f]);
            v16 *largest = pooled + (f * half + y) * half;
            i16 *which = from + (f * half + y) * half;
            POOL_ROW(half, rows[0], rows[1], largest, which)
        }
}

static void starts(const struct entry *e, int n, int filters, int *first)
{
    int i = 0;
    for (int f = 0; f <= filters; f++) {
        while (i < n && e[i].filter < f)
            i++;
        first[f] = i;
    }
}

static size_t lane_vectors(struct sizes s)
{
    return SIDE * SIDE + 2 * (size_t)s.a * POOL1 * POOL1 + 2 * (size_t)s.b * POOL2 * POOL2 + s.h;
}

static struct lanes lanes_at(v16 *work, struct sizes s, v16 **image)
{
    struct lanes l;
    *image = work;
    l.pool1 = work + SIDE * SIDE;
    l.from1 = (i16 *)(l.pool1 + s.a * POOL1 * POOL1);
    l.pool2 = (v16 *)(l.from1 + s.a * POOL1 * POOL1);
    l.from2 = (i16 *)(l.pool2 + s.b * POOL2 * POOL2);
    l.hidden = (v16 *)(l.from2 + s.b * POOL2 * POOL2);
    return l;
}

/* Bytes of `work` for n images (a multiple of 16). */
size_t work_bytes(int n, int a, int b, int h)
{
    return n / 16 * lane_vectors((struct sizes){a, b, h, 10}) * sizeof(v16);
}

/* Logits (n, classes) of images (n, 784); `work` is aligned to 64 bytes and goes to `backward`. */
void forward(int n, int a, int b, int h, int classes, const float *images, const float *w1,
             const float *b1, const float *w2, const float *b2, const float *w3, const float *b3,
             const float *w4, const float *b4, void *work, float *logits)
{
    const struct sizes s = {a, b, h, classes};
    struct entry *e1 = malloc(sizeof *e1 * a * TAPS), *e2 = malloc(sizeof *e2 * a * b * TAPS);
    int *f1 = malloc(sizeof(int) * (a + 1)), *f2 = malloc(sizeof(int) * (b + 1));
    starts(e1, entries(w1, a, 1, 0, e1), a, f1);
    starts(e2, entries(w2, b, a, 0, e2), b, f2);
    const int features = b * POOL2 * POOL2;
    for (int group = 0; group < n / 16; group++) {
        v16 *x;
        struct lanes l = lanes_at((v16 *)work + group * lane_vectors(s), s, &x);
        for (int i = 0; i < 16; i++)
            for (int p = 0; p < SIDE * SIDE; p++)
                ((float *)x)[p * 16 + i] = images[(size_t)(group * 16 + i) * SIDE * SIDE + p];
        convolve(x, SIDE, SIDE1, e1, f1, a, b1, l.pool1, l.from1);
        convolve(l.pool1, POOL1, SIDE2, e2, f2, b, b2, l.pool2, l.from2);
        for (int o = 0; o < h; o++) {
            v16 total = zero() + b3[o];
            for (int j = 0; j < features; j++)
                if (w3[o * features + j] != 0)
                    total += w3[o * features + j] * l.pool2[j];
            l.hidden[o] = choose(total > 0, total, zero());
        }
        for (int o = 0; o < classes; o++) {
            v16 total = zero() + b4[o];
            for (int j = 0; j < h; j++)
                if (w4[o * h + j] != 0)
                    total += w4[o * h + j] * l.hidden[j];
            for (int i = 0; i < 16; i++)
                logits[(group * 16 + i) * classes + o] = total[i];
        }
    }
    free(e1); free(e2); free(f1); free(f2);
}

/* Adds to `into` the sums over places of gradient times input, of up to eight taps of a filter. */
static void taps(const v16 *g, int g_side, const v16 *x, int x_side, int plane,
                 const struct entry *e, int n, v16 *into)
{
    const v16 *p[8];
    for (int k = 0; k < 8; k++) {
        const struct entry *tap = e + (k < n ? k : n - 1);
        p[k] = x + tap->channel * plane + tap->ky * x_side + tap->kx;
    }
    v16 s0 = zero(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (int y = 0; y < g_side; y++)
        for (int c = 0; c < g_side; c++) {
            const v16 d = g[y * g_side + c];
            const int at = y * x_side + c;
            s0 += d * p[0][at]; s1 += d * p[1][at]; s2 += d * p[2][at]; s3 += d * p[3][at];
            s4 += d * p[4][at]; s5 += d * p[5][at]; s6 += d * p[6][at]; s7 += d * p[7][at];
        }
    const v16 s[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    for (int k = 0; k < n; k++)
        into[e[k].at] += s[k];
}

/* The same for all taps of a filter. */
static void filter_taps(const v16 *g, int g_side, const v16 *x, int x_side, int plane,
                        const struct entry *e, int n, v16 *into)
{
    for (int i = 0; i < n; i += 8)
        taps(g, g_side, x, x_side, plane, e + i, n - i < 8 ? n - i : 8, into);
}

/* Gradient of the convolution's outputs from that of the pooled ones. */
static void unpool(const v16 *g, const i16 *from, int half, v16 *out)
{
    for (int y = 0; y < half; y++)
        for (int x = 0; x < half; x++) {
            const v16 d = g[y * half + x];
            const i16 which = from[y * half + x];
            v16 *top = out + 4 * y * half + 2 * x;
            top[0] = choose(which == 0, d, zero());
            top[1] = choose(which == 1, d, zero());
            top[2 * half] = choose(which == 2, d, zero());
            top[2 * half + 1] = choose(which == 3, d, zero());
        }
}

#define SPREAD(KX)                                                                                \
    static void spread##KX(const v16 *d, const struct entry *e, int n, v16 *into)                 \
    {                                                                                             \
        for (int y = 0; y < POOL1; y++) {                                                         \
            v16 *row = into + y * POOL1 + KX;                                                     \
            v16 s0 = row[0], s1 = row[1], s2 = row[2], s3 = row[3];                               \
            v16 s4 = row[4], s5 = row[5], s6 = row[6], s7 = row[7];                               \
            for (int i = 0; i < n; i++) {                                                         \
                const int from = y - e[i].ky;                                                     \
                if (from < 0 || from >= SIDE2)                                                    \
                    continue;                                                                     \
                const v16 *g = d + (e[i].filter * SIDE2 + from) * SIDE2;                          \
                const float w = e[i].w;                                                           \
                s0 += w * g[0]; s1 += w * g[1]; s2 += w * g[2]; s3 += w * g[3];                   \
                s4 += w * g[4]; s5 += w * g[5]; s6 += w * g[6]; s7 += w * g[7];                   \
            }                                                                                     \
            row[0] = s0; row[1] = s1; row[2] = s2; row[3] = s3;                                   \
            row[4] = s4; row[5] = s5; row[6] = s6; row[7] = s7;                                   \
        }                                                                                         \
    }
SPREAD(0)
SPREAD(1)
SPREAD(2)
SPREAD(3)
SPREAD(4)

static int by_channel(const void *left, const void *right)
{
    const struct entry *l = left, *r = right;
    if (l->channel != r->channel)
        return l->channel - r->channel;
    return l->kx != r->kx ? l->kx - r->kx : l->at - r->at;
}

/* Gradients of all weights and biases, from those of the logits (n, classes). `every`: also of
 * weights that are zero; else those of zero weights are zero. */
void backward(int n, int a, int b, int h, int classes, int every, const float *w1, const float *w2,
              const float *w3, const float *w4, const void *work, const float *g_logits, float *g1,
              float *gb1, float *g2, float *gb2, float *g3, float *gb3, float *g4, float *gb4)
{
    static void (*const spread[K])(const v16 *, const struct entry *, int, v16 *) = {
        spread0, spread1, spread2, spread3, spread4};
    const struct sizes s = {a, b, h, classes};
    const int features = b * POOL2 * POOL2;
    const size_t n2 = (size_t)a * b * TAPS, n3 = (size_t)h * features, n4 = (size_t)classes * h;
    struct entry *e2 = malloc(sizeof *e2 * n2), *taps2 = malloc(sizeof *e2 * n2);
    struct entry *taps1 = malloc(sizeof *e2 * a * TAPS);
    int *f1 = malloc(sizeof(int) * (a + 1)), *f2 = malloc(sizeof(int) * (b + 1));
    starts(taps1, entries(w1, a, 1, every, taps1), a, f1);
    starts(taps2, entries(w2, b, a, every, taps2), b, f2);
    const int kept2 = entries(w2, b, a, 0, e2);
    qsort(e2, kept2, sizeof *e2, by_channel);
    const size_t sums = a * TAPS + a + n2 + b + n3 + h + n4 + classes;
    const size_t scratch = features + h + classes + (size_t)b * SIDE2 * SIDE2 +
                           (size_t)a * POOL1 * POOL1 + SIDE1 * SIDE1;
    v16 *all = aligned_alloc(64, (sums + scratch) * sizeof *all);
    memset(all, 0, sums * sizeof *all);
    v16 *t1 = all, *tb1 = t1 + a * TAPS, *t2 = tb1 + a, *tb2 = t2 + n2, *t3 = tb2 + b;
    v16 *tb3 = t3 + n3, *t4 = tb3 + h, *tb4 = t4 + n4;
    v16 *d_pool2 = tb4 + classes, *d_hidden = d_pool2 + features, *d_logit = d_hidden + h;
    v16 *d2 = d_logit + classes, *d_pool1 = d2 + b * SIDE2 * SIDE2, *d1 = d_pool1 + a * 144;
    for (int group = 0; group < n / 16; group++) {
        v16 *x;
        struct lanes l = lanes_at((v16 *)work + group * lane_vectors(s), s, &x);
        memset(d_hidden, 0, h * sizeof(v16));
        memset(d_pool2, 0, features * sizeof(v16));
        memset(d_pool1, 0, a * POOL1 * POOL1 * sizeof(v16));
        for (int o = 0; o < classes; o++) {
            v16 d;
            for (int i = 0; i < 16; i++)
                d[i] = g_logits[(group * 16 + i) * classes + o];
            tb4[o] += d;
            for (int j = 0; j < h; j++) {
                const float w = w4[o * h + j];
                if (w != 0 || every)
                    t4[o * h + j] += d * l.hidden[j];
                if (w != 0)
                    d_hidden[j] += w * d;
            }
        }
        for (int o = 0; o < h; o++) {
            const v16 d = choose(l.hidden[o] > 0, d_hidden[o], zero());
            tb3[o] += d;
            for (int j = 0; j < features; j++) {
                const float w = w3[o * features + j];
                if (w != 0 || every)
                    t3[o * features + j] += d * l.pool2[j];
                if (w != 0)
                    d_pool2[j] += w * d;
            }
        }
        for (int f = 0; f < b; f++) {
            for (int p = 0; p < 16; p++)
                tb2[f] += d_pool2[f * 16 + p];
            unpool(d_pool2 + f * 16, l.from2 + f * 16, POOL2, d2 + f * 64);
        }
        for (int f = 0; f < b; f++)
            filter_taps(d2 + f * 64, SIDE2, l.pool1, POOL1, 144, taps2 + f2[f], f2[f + 1] - f2[f],
                        t2);
        for (int i = 0; i < kept2;) {
            int j = i;
            while (j < kept2 && e2[j].channel == e2[i].channel && e2[j].kx == e2[i].kx)
                j++;
            spread[e2[i].kx](d2, e2 + i, j - i, d_pool1 + e2[i].channel * 144);
            i = j;
        }
        for (int f = 0; f < a; f++) {
            for (int p = 0; p < 144; p++)
                tb1[f] += d_pool1[f * 144 + p];
            unpool(d_pool1 + f * 144, l.from1 + f * 144, POOL1, d1);
            filter_taps(d1, SIDE1, x, SIDE, 0, taps1 + f1[f], f1[f + 1] - f1[f], t1);
        }
    }
    for (int i = 0; i < a * TAPS; i++)
        g1[i] = w1[i] != 0 || every ? sum(t1[i]) : 0;
    for (int i = 0; i < a; i++)
        gb1[i] = sum(tb1[i]);
    for (size_t i = 0; i < n2; i++)
        g2[i] = w2[i] != 0 || every ? sum(t2[i]) : 0;
    for (int i = 0; i < b; i++)
        gb2[i] = sum(tb2[i]);
    for (size_t i = 0; i < n3; i++)
        g3[i] = w3[i] != 0 || every ? sum(t3[i]) : 0;
    for (int i = 0; i < h; i++)
        gb3[i] = sum(tb3[i]);
    for (size_t i = 0; i < n4; i++)
        g4[i] = w4[i] != 0 || every ? sum(t4[i]) : 0;
    for (int i = 0; i < classes; i++)
        gb4[i] = sum(tb4[i]);
    free(e2); free(taps1); free(taps2); free(f1); free(f2);
    free(all);
}

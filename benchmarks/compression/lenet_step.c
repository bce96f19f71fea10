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

/* A weight of the first linear layer. */
struct link { int32_t from, at; float w; };

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

static void convolve(const v16 *in, const struct entry *e, const int *first, int filters,
                     const float *bias, v16 *pooled, i16 *from)
{
    enum { side = SIDE, out_side = SIDE1, half = POOL1 };
    v16 rows[2][SIDE1];
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

/* The second convolution and its pooling, at the places that a later weight reads. */
static void convolve2(const v16 *in, const struct entry *e, const int *first, int filters,
                      const float *bias, const char *read, v16 *pooled, i16 *from)
{
    for (int f = 0; f < filters; f++)
        for (int p = 0; p < 16; p++) {
            const int at = f * 16 + p, y = p / POOL2 * 2, x = p % POOL2 * 2;
            v16 s0 = zero() + bias[f], s1 = s0, s2 = s0, s3 = s0;
            if (!read[at]) {
                pooled[at] = zero();
                from[at] = (i16){0};
                continue;
            }
            for (int i = first[f]; i < first[f + 1]; i++) {
                const v16 *d = in + e[i].channel * 144 + (y + e[i].ky) * POOL1 + x + e[i].kx;
                s0 += e[i].w * d[0];
                s1 += e[i].w * d[1];
                s2 += e[i].w * d[POOL1];
                s3 += e[i].w * d[POOL1 + 1];
            }
            const v16 top[2] = {s0, s1}, bottom[2] = {s2, s3};
            POOL_ROW(1, top, bottom, (pooled + at), (from + at))
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

/* Weights and biases of all layers, and what is listed of them once for a batch. */
struct network {
    struct sizes s;
    int features, n2;
    const float *w1, *b1, *w2, *b2, *w3, *b3, *w4, *b4;
    struct entry *e1, *e2, *taps1, *taps2, *spread2; /* taps: of which gradients are wanted */
    int *f1, *f2, *tf1, *tf2;
    struct link *links; /* of hidden unit o: first_link[o] .. first_link[o + 1] */
    int *first_link;
    char *read, *rows; /* pooled places of the second convolution that are read, and rows of them */
    void *memory;
};

static int by_channel(const void *left, const void *right)
{
    const struct entry *l = left, *r = right;
    if (l->channel != r->channel)
        return l->channel - r->channel;
    return l->kx != r->kx ? l->kx - r->kx : l->at - r->at;
}

static struct network listed(struct sizes s, const float *w1, const float *b1, const float *w2,
                             const float *b2, const float *w3, const float *b3, const float *w4,
                             const float *b4, int every)
{
    struct network t = {s, s.b * 16, 0, w1, b1, w2, b2, w3, b3, w4, b4};
    const size_t n1 = s.a * TAPS, n2 = n1 * s.b, n3 = (size_t)s.h * t.features;
    const size_t starts_of = 2 * (s.a + s.b + 2) + s.h + 1;
    t.memory = malloc((2 * n1 + 3 * n2) * sizeof *t.e1 + n3 * sizeof *t.links +
                      starts_of * sizeof(int) + t.features + s.b * POOL2);
    t.e1 = t.memory, t.taps1 = t.e1 + n1, t.e2 = t.taps1 + n1, t.taps2 = t.e2 + n2;
    t.spread2 = t.taps2 + n2;
    t.links = (struct link *)(t.spread2 + n2);
    t.f1 = (int *)(t.links + n3), t.tf1 = t.f1 + s.a + 1, t.f2 = t.tf1 + s.a + 1;
    t.tf2 = t.f2 + s.b + 1, t.first_link = t.tf2 + s.b + 1;
    t.read = (char *)(t.first_link + s.h + 1);
    starts(t.e1, entries(w1, s.a, 1, 0, t.e1), s.a, t.f1);
    starts(t.taps1, entries(w1, s.a, 1, every, t.taps1), s.a, t.tf1);
    t.n2 = entries(w2, s.b, s.a, 0, t.e2);
    starts(t.e2, t.n2, s.b, t.f2);
    starts(t.taps2, entries(w2, s.b, s.a, every, t.taps2), s.b, t.tf2);
    memcpy(t.spread2, t.e2, t.n2 * sizeof *t.e2);
    qsort(t.spread2, t.n2, sizeof *t.e2, by_channel);
    t.rows = t.read + t.features;
    memset(t.read, every, t.features);
    int n = 0;
    for (int o = 0; o < s.h; o++) {
        t.first_link[o] = n;
        for (int j = 0; j < t.features; j++) {
            const float w = w3[o * t.features + j];
            if (w != 0 || every)
                t.links[n++] = (struct link){j, o * t.features + j, w};
            t.read[j] |= w != 0;
        }
    }
    t.first_link[s.h] = n;
    for (int i = 0; i < s.b * POOL2; i++)
        t.rows[i] = t.read[4 * i] | t.read[4 * i + 1] | t.read[4 * i + 2] | t.read[4 * i + 3];
    return t;
}

/* Logits (16, classes) of the images in `work`. */
static void forward_group(const struct network *t, v16 *work, float *logits)
{
    v16 *x;
    const struct lanes l = lanes_at(work, t->s, &x);
    const int h = t->s.h, classes = t->s.classes;
    convolve(x, t->e1, t->f1, t->s.a, t->b1, l.pool1, l.from1);
    convolve2(l.pool1, t->e2, t->f2, t->s.b, t->b2, t->read, l.pool2, l.from2);
    for (int o = 0; o < h; o++) {
        v16 total = zero() + t->b3[o];
        for (int k = t->first_link[o]; k < t->first_link[o + 1]; k++)
            total += t->links[k].w * l.pool2[t->links[k].from];
        l.hidden[o] = choose(total > 0, total, zero());
    }
    for (int o = 0; o < classes; o++) {
        v16 total = zero() + t->b4[o];
        for (int j = 0; j < h; j++)
            if (t->w4[o * h + j] != 0)
                total += t->w4[o * h + j] * l.hidden[j];
        for (int i = 0; i < 16; i++)
            logits[i * classes + o] = total[i];
    }
}

/* Logits (n, classes) of images (n, 784); `work` is aligned to 64 bytes and goes to `backward`.
 * `every`: `backward` will be asked for gradients of zero weights too. */
void forward(int n, int a, int b, int h, int classes, int every, const float *images,
             const float *w1, const float *b1, const float *w2, const float *b2, const float *w3,
             const float *b3, const float *w4, const float *b4, void *work, float *logits)
{
    const struct sizes s = {a, b, h, classes};
    struct network t = listed(s, w1, b1, w2, b2, w3, b3, w4, b4, every);
    for (int group = 0; group < n / 16; group++) {
        v16 *x = (v16 *)work + group * lane_vectors(s);
        for (int i = 0; i < 16; i++)
            for (int p = 0; p < SIDE * SIDE; p++)
                ((float *)x)[p * 16 + i] = images[(size_t)(group * 16 + i) * SIDE * SIDE + p];
        forward_group(&t, x, logits + group * 16 * classes);
    }
    free(t.memory);
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
    static void spread##KX(const v16 *d, const char *rows, const struct entry *e, int n,          \
                           v16 *into)                                                         \
    {                                                                                             \
        for (int y = 0; y < POOL1; y++) {                                                         \
            v16 *row = into + y * POOL1 + KX;                                                     \
            v16 s0 = row[0], s1 = row[1], s2 = row[2], s3 = row[3];                               \
            v16 s4 = row[4], s5 = row[5], s6 = row[6], s7 = row[7];                               \
            for (int i = 0; i < n; i++) {                                                         \
                const int from = y - e[i].ky;                                                     \
                if (from < 0 || from >= SIDE2 || !rows[e[i].filter * POOL2 + from / 2])           \
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

/* Vectors of the sums of gradients: of every weight and bias, in their order. */
static size_t sum_vectors(struct sizes s)
{
    return (size_t)s.a * (TAPS + 1) + (size_t)s.b * (s.a * TAPS + 1) +
           (size_t)s.h * (s.b * 16 + 1) + (size_t)s.classes * (s.h + 1);
}

static size_t scratch_vectors(struct sizes s)
{
    return (size_t)s.b * (16 + SIDE2 * SIDE2) + s.h + (size_t)s.a * POOL1 * POOL1 + SIDE1 * SIDE1;
}

/* Gradient of the second convolution's taps: only at places that are read. */
static void read_taps(const struct network *t, int f, const v16 *g, const v16 *x, v16 *into)
{
    for (int first = t->tf2[f]; first < t->tf2[f + 1]; first += 8) {
        const struct entry *e = t->taps2 + first;
        const int n = t->tf2[f + 1] - first < 8 ? t->tf2[f + 1] - first : 8;
        const v16 *q[8];
        for (int k = 0; k < 8; k++) {
            const struct entry *tap = e + (k < n ? k : n - 1);
            q[k] = x + tap->channel * 144 + tap->ky * POOL1 + tap->kx;
        }
        v16 s0 = zero(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
        for (int p = 0; p < 16; p++) {
            if (!t->read[f * 16 + p])
                continue;
            for (int part = 0; part < 4; part++) {
                const int y = p / POOL2 * 2 + part / 2, c = p % POOL2 * 2 + part % 2;
                const int at = y * POOL1 + c;
                const v16 d = g[y * SIDE2 + c];
                s0 += d * q[0][at]; s1 += d * q[1][at]; s2 += d * q[2][at]; s3 += d * q[3][at];
                s4 += d * q[4][at]; s5 += d * q[5][at]; s6 += d * q[6][at]; s7 += d * q[7][at];
            }
        }
        const v16 s[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
        for (int k = 0; k < n; k++)
            into[e[k].at] += s[k];
    }
}

/* Adds to `all`, lane by lane, the gradients of 16 images from those of their logits. */
static void backward_group(const struct network *t, const v16 *work, const float *g_logits,
                           int every, v16 *all, v16 *scratch)
{
    static void (*const spread[K])(const v16 *, const char *, const struct entry *, int, v16 *) = {
        spread0, spread1, spread2, spread3, spread4};
    const int a = t->s.a, b = t->s.b, h = t->s.h, classes = t->s.classes, features = t->features;
    v16 *x;
    const struct lanes l = lanes_at((v16 *)work, t->s, &x);
    v16 *t1 = all, *tb1 = t1 + a * TAPS, *t2 = tb1 + a, *tb2 = t2 + a * b * TAPS, *t3 = tb2 + b;
    v16 *tb3 = t3 + h * features, *t4 = tb3 + h, *tb4 = t4 + classes * h;
    v16 *d_pool2 = scratch, *d_hidden = d_pool2 + features, *d2 = d_hidden + h;
    v16 *d_pool1 = d2 + b * SIDE2 * SIDE2, *d1 = d_pool1 + a * 144;
    memset(d_hidden, 0, h * sizeof(v16));
    memset(d_pool2, 0, features * sizeof(v16));
    memset(d_pool1, 0, a * POOL1 * POOL1 * sizeof(v16));
    for (int o = 0; o < classes; o++) {
        v16 d;
        for (int i = 0; i < 16; i++)
            d[i] = g_logits[i * classes + o];
        tb4[o] += d;
        for (int j = 0; j < h; j++) {
            const float w = t->w4[o * h + j];
            if (w != 0 || every)
                t4[o * h + j] += d * l.hidden[j];
            if (w != 0)
                d_hidden[j] += w * d;
        }
    }
    for (int o = 0; o < h; o++) {
        const v16 d = choose(l.hidden[o] > 0, d_hidden[o], zero());
        tb3[o] += d;
        for (int k = t->first_link[o]; k < t->first_link[o + 1]; k++) {
            const struct link link = t->links[k];
            t3[link.at] += d * l.pool2[link.from];
            d_pool2[link.from] += link.w * d;
        }
    }
    for (int f = 0; f < b; f++) {
        for (int p = 0; p < 16; p++)
            tb2[f] += d_pool2[f * 16 + p];
        unpool(d_pool2 + f * 16, l.from2 + f * 16, POOL2, d2 + f * 64);
    }
    for (int f = 0; f < b; f++)
        read_taps(t, f, d2 + f * 64, l.pool1, t2);
    for (int i = 0; i < t->n2;) {
        const struct entry *e = t->spread2 + i;
        int j = i;
        while (j < t->n2 && t->spread2[j].channel == e->channel && t->spread2[j].kx == e->kx)
            j++;
        spread[e->kx](d2, t->rows, e, j - i, d_pool1 + e->channel * 144);
        i = j;
    }
    for (int f = 0; f < a; f++) {
        for (int p = 0; p < 144; p++)
            tb1[f] += d_pool1[f * 144 + p];
        unpool(d_pool1 + f * 144, l.from1 + f * 144, POOL1, d1);
        filter_taps(d1, SIDE1, x, SIDE, 0, t->taps1 + t->tf1[f], t->tf1[f + 1] - t->tf1[f], t1);
    }
}

/* Gradients of all weights and biases, from those of the logits (n, classes). `every`: also of
 * weights that are zero; else those of zero weights are zero. `gradients`: one array for each of
 * w1, b1, ... b4. */
void backward(int n, int a, int b, int h, int classes, int every, const float *w1, const float *w2,
              const float *w3, const float *w4, const void *work, const float *g_logits, float *g1,
              float *gb1, float *g2, float *gb2, float *g3, float *gb3, float *g4, float *gb4)
{
    const struct sizes s = {a, b, h, classes};
    struct network t = listed(s, w1, 0, w2, 0, w3, 0, w4, 0, every);
    const size_t sums = sum_vectors(s);
    v16 *all = aligned_alloc(64, (sums + scratch_vectors(s)) * sizeof *all);
    memset(all, 0, sums * sizeof *all);
    for (int group = 0; group < n / 16; group++)
        backward_group(&t, (const v16 *)work + group * lane_vectors(s),
                       g_logits + group * 16 * classes, every, all, all + sums);
    const v16 *from = all;
    float *const out[8] = {g1, gb1, g2, gb2, g3, gb3, g4, gb4};
    const int counts[8] = {a * TAPS, a, a * b * TAPS, b, h * b * 16, h, classes * h, classes};
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < counts[k]; i++)
            out[k][i] = sum(*from++);
    free(t.memory);
    free(all);
}

/* Training of a pruned LeNet-5 as a whole: many steps, and gradients image by image.
 *
 * All weights and biases are one array: w1, b1, ... b4. Images are bytes, `low` + `step` * code.
 */
#include <math.h>

#include "lenet_step.c"

#define MOST_MOVE 1e-3 /* of a step, by the curvature: step' * curvature * step */

/* What is constant during a training. */
struct data {
    const uint8_t *codes;    /* (copies, 784) */
    const int64_t *place;    /* which copies, in order */
    const int64_t *label;    /* of each */
    const float *teacher;    /* logits of each, (n, classes) */
    float low, step;
};

static struct network network_at(struct sizes s, const float *p, int every)
{
    const float *w1 = p, *b1 = w1 + s.a * TAPS, *w2 = b1 + s.a, *b2 = w2 + s.b * s.a * TAPS;
    const float *w3 = b2 + s.b, *b3 = w3 + s.h * s.b * 16, *w4 = b3 + s.h;
    return listed(s, w1, b1, w2, b2, w3, b3, w4, w4 + s.classes * s.h, every);
}

static void load(const struct data *d, int64_t first, v16 *work)
{
    float *x = (float *)work;
    for (int i = 0; i < 16; i++) {
        const uint8_t *code = d->codes + d->place[first + i] * SIDE * SIDE;
        for (int p = 0; p < SIDE * SIDE; p++)
            x[p * 16 + i] = d->low + d->step * code[p];
    }
}

static void softmax(const float *logits, int classes, float temperature, float *out)
{
    float most = logits[0], total = 0;
    for (int k = 1; k < classes; k++)
        most = logits[k] > most ? logits[k] : most;
    for (int k = 0; k < classes; k++)
        total += out[k] = expf((logits[k] - most) / temperature);
    for (int k = 0; k < classes; k++)
        out[k] /= total;
}

/* Gradient of (1 - share) * cross-entropy + share * T**2 * KL(teacher_T || student_T). */
static void loss_gradient(const float *logits, const float *teacher, int label, int classes,
                          float share, float temperature, float scale, float *out)
{
    float student[CLASSES], wanted[CLASSES];
    softmax(logits, classes, 1, student);
    for (int k = 0; k < classes; k++)
        out[k] = (1 - share) * (student[k] - (k == label)) * scale;
    if (share == 0)
        return;
    softmax(logits, classes, temperature, student);
    softmax(teacher, classes, temperature, wanted);
    for (int k = 0; k < classes; k++)
        out[k] += share * temperature * (student[k] - wanted[k]) * scale;
}

/* Steps of `batch` images each (a multiple of 16): momentum of gradients times `inverse`, an
 * (n_free, n_free) matrix; steps above MOST_MOVE are shortened to it. The parameters at `at`
 * change; those with the same number in `tied`, of n_free numbers, change alike. An image's
 * gradient counts `weight` times. `average` is the parameters' moving average, `m` the momentum;
 * `done`: earlier steps of this training.
 */
void fit(const int *size, float *params, int n_at, const int32_t *at, int n_free,
         const int32_t *tied, const uint8_t *codes, const int64_t *place, const int64_t *label,
         const float *teacher, const float *weight, float low, float step, int n_steps, int batch,
         int done, float share, float temperature, const float *rates, const float *inverse,
         float momentum, float decay, float *m, float *average)
{
    const struct sizes s = {size[0], size[1], size[2], size[3]};
    const struct data d = {codes, place, label, teacher, low, step};
    const size_t sums = sum_vectors(s);
    v16 *work = aligned_alloc(64, (lane_vectors(s) + sums + scratch_vectors(s)) * sizeof *work);
    v16 *all = work + lane_vectors(s);
    float *g = malloc(2 * n_free * sizeof *g), *move = g + n_free;
    float logits[16 * CLASSES], g_logits[16 * CLASSES];
    for (int t = 0; t < n_steps; t++) {
        struct network net = network_at(s, params, 0);
        memset(all, 0, sums * sizeof *all);
        for (int group = 0; group < batch / 16; group++) {
            const int64_t first = (int64_t)t * batch + group * 16;
            load(&d, first, work);
            forward_group(&net, work, logits);
            for (int i = 0; i < 16; i++)
                loss_gradient(logits + i * s.classes, teacher + (first + i) * s.classes,
                              label[first + i], s.classes, share, temperature,
                              weight[first + i] / batch, g_logits + i * s.classes);
            backward_group(&net, work, g_logits, 0, all, all + sums);
        }
        free(net.memory);
        memset(g, 0, n_free * sizeof *g);
        for (int i = 0; i < n_at; i++)
            g[tied[i]] += sum(all[at[i]]);
        const float risen = (2.0f + done + t) / (11.0f + done + t);
        const float keep = risen < decay ? risen : decay;
        for (int i = 0; i < n_free; i++)
            m[i] = momentum * m[i] + (1 - momentum) * g[i];
        double size = 0; /* of the whole move, by the curvature */
        for (int i = 0; i < n_free; i++) {
            float total = 0;
            for (int j = 0; j < n_free; j++)
                total += inverse[(size_t)i * n_free + j] * m[j];
            move[i] = rates[t] * total;
            size += rates[t] * rates[t] * total * m[i];
        }
        const float shrunk = size > MOST_MOVE ? sqrt(MOST_MOVE / size) : 1;
        for (int i = 0; i < n_at; i++) {
            params[at[i]] -= shrunk * move[tied[i]];
            average[i] = keep * average[i] + (1 - keep) * params[at[i]];
        }
    }
    free(work);
    free(g);
}

/* Logits (n, classes), n a multiple of 16. */
void outputs(const int *size, const float *params, int n, const uint8_t *codes,
             const int64_t *place, float low, float step, float *logits)
{
    const struct sizes s = {size[0], size[1], size[2], size[3]};
    const struct data d = {codes, place, 0, 0, low, step};
    struct network net = network_at(s, params, 0);
    v16 *work = aligned_alloc(64, lane_vectors(s) * sizeof *work);
    for (int first = 0; first < n; first += 16) {
        load(&d, first, work);
        forward_group(&net, work, logits + (size_t)first * s.classes);
    }
    free(work);
    free(net.memory);
}

/* Gradient (n, n_free) of each image, from those of its logits (n, classes). `every`:
 * weights that are zero are among the free ones. */
void image_gradients(const int *size, const float *params, int n_free, const int32_t *free_at,
                     int every, int n, const uint8_t *codes, const int64_t *place, float low,
                     float step, const float *g_logits, float *out)
{
    const struct sizes s = {size[0], size[1], size[2], size[3]};
    const struct data d = {codes, place, 0, 0, low, step};
    const size_t sums = sum_vectors(s);
    struct network net = network_at(s, params, every);
    v16 *work = aligned_alloc(64, (lane_vectors(s) + sums + scratch_vectors(s)) * sizeof *work);
    v16 *all = work + lane_vectors(s);
    float logits[16 * CLASSES];
    for (int first = 0; first < n; first += 16) {
        load(&d, first, work);
        forward_group(&net, work, logits);
        memset(all, 0, sums * sizeof *all);
        backward_group(&net, work, g_logits + (size_t)first * s.classes, every, all, all + sums);
        for (int i = 0; i < n_free; i++)
            for (int k = 0; k < 16; k++)
                out[(size_t)(first + k) * n_free + i] = all[free_at[i]][k];
    }
    free(work);
    free(net.memory);
}

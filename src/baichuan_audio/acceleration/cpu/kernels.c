/* Decode steps of backbone and audio head on a CPU: a few rows at a time, on one core.
 *
 * A step of a small model reads a few megabytes of weights in two hundred small operations; called one by one from Python,
 * the calls take most of the time. Here a step is one call. kernels.py compiles this file on the user's machine, packs the
 * weights and defines the structures. Names and equations are those of language_model/backbone.py and
 * language_model/audio_head.py; the results agree to rounding.
 *
 * Weights are stored in panels of two registers of outputs, [panel][input][PANEL], so that they are read once and in order.
 * Weights that are exact in bfloat16 are stored in 32-bit words, [panel][input][LANES]: output j of the panel in the lower
 * half of word j, output j + LANES in the upper half.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define PANEL (2 * LANES)
#define TILE 32
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float four __attribute__((vector_size(16), aligned(4)));

typedef struct {
    const void *weight;
    const float *bias; /* [out], or NULL */
    int32_t in, out, half;
} Product;

typedef struct {
    const float *gain;
    float eps;
} Norm;

typedef struct {
    Norm first, second;
    Product pack, mix, gate_up, down;
} Layer;

typedef struct {
    int32_t count, width, heads, groups, head_dim, inner;
    const Layer *layers;
    Norm last;
} Backbone;

typedef struct { /* keys and values [layers][2][rows][groups][capacity][head_dim]; strides in numbers */
    float *store;
    int64_t layer, part, row, group;
} Memory;

typedef struct {
    Norm first, second;
    Product pack, mix;
    const Product *up, *down; /* one for each position */
} DepthLayer;

typedef struct {
    int32_t count, width, positions, head_dim;
    const DepthLayer *layers;
    Norm last;
    const Product *heads;
} Head;

/* ------------------------------------------------------------------------------------------------ numbers */

INLINE lanes splat(float x) { return x - (lanes){0}; }

INLINE lanes choose(whole mask, lanes yes, lanes no) { return (lanes)((mask & (whole)yes) | (~mask & (whole)no)); }

INLINE float sum(lanes x) {
    four parts[LANES / 4];
    memcpy(parts, &x, sizeof x);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

/* e^x = 2^n e^r, |r| <= ln 2 / 2, by its series; relative error below 1e-6 */
INLINE lanes exponential(lanes x) {
    x = choose(x < splat(-87.0f), splat(-87.0f), x);
    x = choose(x > splat(88.0f), splat(88.0f), x);
    lanes shifted = x * 1.44269504f + 12582912.0f; /* adding 1.5 x 2^23 rounds */
    lanes n = shifted - 12582912.0f;
    lanes r = x - n * 0.693145752f - n * 1.42860677e-6f;
    lanes series = splat(1.0f / 5040);
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    return series * (lanes)((__builtin_convertvector(n, whole) + 127) << 23);
}

/* erf, to 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26) */
INLINE lanes error_function(lanes x) {
    whole sign = (whole)x & (whole)splat(-0.0f);
    lanes size = (lanes)((whole)x ^ sign), t = 1.0f / (1.0f + 0.3275911f * size);
    lanes series = splat(1.061405429f);
    series = series * t - 1.453152027f;
    series = series * t + 1.421413741f;
    series = series * t - 0.284496736f;
    series = series * t + 0.254829592f;
    return (lanes)((whole)(1.0f - series * t * exponential(-size * size)) | sign);
}

/* the first n <= LANES numbers at p, then zeros */
INLINE lanes some(const float *p, int n) {
    lanes x = {0};
    memcpy(&x, p, (size_t)n * sizeof(float));
    return x;
}

static float dot(const float *a, const float *b, int n) {
    lanes first = {0}, second = {0};
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        first += *(const lanes *)(a + i) * *(const lanes *)(b + i);
        second += *(const lanes *)(a + i + LANES) * *(const lanes *)(b + i + LANES);
    }
    float total = sum(first + second);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

/* y [n] += weights [count] times rows x [count][stride], `blocks` x LANES numbers from y on (blocks known to the compiler) */
INLINE void weigh_block(float *y, const float *weights, const float *x, int64_t count, int64_t stride, int blocks) {
    lanes total[4];
    for (int block = 0; block < blocks; block++) total[block] = *(lanes *)(y + block * LANES);
    for (int64_t j = 0; j < count; j++)
        for (int block = 0; block < blocks; block++)
            total[block] += weights[j] * *(const lanes *)(x + j * stride + block * LANES);
    for (int block = 0; block < blocks; block++) *(lanes *)(y + block * LANES) = total[block];
}

static void weigh(float *y, const float *weights, const float *x, int64_t count, int64_t stride, int n) {
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) weigh_block(y + i, weights, x + i, count, stride, 4);
    for (; i + LANES <= n; i += LANES) weigh_block(y + i, weights, x + i, count, stride, 1);
    for (; i < n; i++)
        for (int64_t j = 0; j < count; j++) y[i] += weights[j] * x[j * stride + i];
}

static void normalise(const Norm *norm, const float *x, float *y, int n) {
    float scale = 1.0f / sqrtf(dot(x, x, n) / (float)n + norm->eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * norm->gain[i];
}

/* gate = silu(gate) up, silu(u) = u / (1 + e^-u) */
static void silu_times(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i += LANES) {
        int few = n - i < LANES ? n - i : LANES;
        lanes u = some(gate + i, few), result = u / (1.0f + exponential(-u)) * some(up + i, few);
        memcpy(gate + i, &result, (size_t)few * sizeof(float));
    }
}

static void gelu(float *x, int n) {
    for (int i = 0; i < n; i += LANES) {
        int few = n - i < LANES ? n - i : LANES;
        lanes u = some(x + i, few), result = 0.5f * u * (1.0f + error_function(u * 0.707106781f));
        memcpy(x + i, &result, (size_t)few * sizeof(float));
    }
}

/* ------------------------------------------------------------------------------------------------ weights */

/* Whether all of weight [out][in], rows `stride` apart, are exact in bfloat16. */
int exact_in_half(const float *weight, int64_t stride, int out, int in) {
    uint32_t rest = 0;
    for (int row = 0; row < out; row++) {
        const uint32_t *bits = (const uint32_t *)(weight + row * stride);
        for (int i = 0; i < in; i++) rest |= bits[i] & 0xffffu;
        if (rest) return 0;
    }
    return 1;
}

/* Outputs of a panel: a product of `out` outputs takes up whole panels. */
int panel_outputs(void) { return PANEL; }

/* weight [out][in], rows `stride` apart -> panels, zeros below the last output */
void lay_out(const float *weight, int64_t stride, int out, int in, int half, uint32_t *panels) {
    for (int first = 0; first < out; first += PANEL)
        for (int i = 0; i < in; i++) {
            uint32_t bits[PANEL] = {0};
            for (int j = 0; j < PANEL && first + j < out; j++) memcpy(bits + j, weight + (first + j) * stride + i, 4);
            for (int j = 0; half && j < LANES; j++) bits[j] = bits[j] >> 16 | bits[j + LANES];
            memcpy(panels, bits, half ? sizeof bits / 2 : sizeof bits);
            panels += half ? LANES : PANEL;
        }
}

/* ------------------------------------------------------------------------------------------------ products */

/* One panel for `rows` rows (1 to 4, known to the compiler). Several sums for few rows: an addition waits for the last. */
INLINE void panel(const void *weight, int in, int half, const float *x, int stride, int rows, float (*y)[PANEL]) {
    const int ways = 4 / rows;
    lanes low[4] = {{0}}, high[4] = {{0}};
    int i = 0;
    for (; i + ways <= in; i += ways)
        for (int way = 0; way < ways; way++) {
            lanes first, second;
            if (half) {
                words both = *(const words *)((const uint32_t *)weight + (int64_t)(i + way) * LANES);
                first = (lanes)(both << 16), second = (lanes)(both & 0xffff0000u);
            } else {
                const float *source = (const float *)weight + (int64_t)(i + way) * PANEL;
                first = *(const lanes *)source, second = *(const lanes *)(source + LANES);
            }
            for (int row = 0; row < rows; row++) {
                float each = x[(int64_t)row * stride + i + way];
                low[row * ways + way] += each * first, high[row * ways + way] += each * second;
            }
        }
    for (int row = 0; row < rows; row++) {
        for (int way = 1; way < ways; way++) {
            low[row * ways] += low[row * ways + way], high[row * ways] += high[row * ways + way];
        }
        *(lanes *)y[row] = low[row * ways], *(lanes *)(y[row] + LANES) = high[row * ways];
    }
    for (; i < in; i++) /* fewer than `ways` inputs are left */
        for (int j = 0; j < PANEL; j++) {
            float each;
            if (half) {
                uint32_t both = ((const uint32_t *)weight)[(int64_t)i * LANES + j % LANES];
                both = j < LANES ? both << 16 : both & 0xffff0000u;
                memcpy(&each, &both, sizeof each);
            } else {
                each = ((const float *)weight)[(int64_t)i * PANEL + j];
            }
            for (int row = 0; row < rows; row++) y[row][j] += each * x[(int64_t)row * stride + i];
        }
}

#define PANEL_FOR(rows_, half_) case 2 * rows_ + half_: panel(weight, p->in, half_, x, p->in, rows_, y); break;

static void some_rows(const Product *p, const void *weight, const float *x, int rows, float (*y)[PANEL]) {
    switch (2 * rows + p->half) {
        PANEL_FOR(1, 0) PANEL_FOR(1, 1) PANEL_FOR(2, 0) PANEL_FOR(2, 1)
        PANEL_FOR(3, 0) PANEL_FOR(3, 1) PANEL_FOR(4, 0) PANEL_FOR(4, 1)
    }
}

/* x [rows][in] -> y [rows][out], or added to what is there */
void product(const Product *p, const float *x, int rows, float *y, int add) {
    const int64_t bytes = (int64_t)p->in * PANEL * (p->half ? 2 : 4);
    float result[4][PANEL];
    for (int first = 0; first < p->out; first += PANEL) {
        const void *weight = (const char *)p->weight + first / PANEL * bytes;
        int few = p->out - first < PANEL ? p->out - first : PANEL;
        for (int row = 0; row < rows; row += 4) {
            int now = rows - row < 4 ? rows - row : 4;
            some_rows(p, weight, x + (int64_t)row * p->in, now, result);
            for (int r = 0; r < now; r++) {
                float *out = y + (int64_t)(row + r) * p->out + first;
                for (int j = 0; j < few; j++) {
                    float value = result[r][j] + (p->bias ? p->bias[first + j] : 0.0f);
                    out[j] = add ? out[j] + value : value;
                }
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------ attention */

/* scores [length] -> their softmax; the array holds length + LANES */
static void softmax(float *scores, int64_t length) {
    float highest = -INFINITY;
    for (int64_t j = 0; j < length; j++) highest = scores[j] > highest ? scores[j] : highest;
    for (int64_t j = length; j < length + LANES; j++) scores[j] = -INFINITY;
    lanes sums = {0};
    for (int64_t j = 0; j < length; j += LANES) {
        lanes weights = exponential(*(lanes *)(scores + j) - highest);
        *(lanes *)(scores + j) = weights, sums += weights;
    }
    const float share = 1.0f / sum(sums);
    for (int64_t j = 0; j < length; j += LANES) *(lanes *)(scores + j) *= share;
}

/* query [heads][w], which share keys and values [length][stride] -> mixed [heads][w]; scores [heads][length + LANES].
 * All heads look at a tile of positions while it is in the nearest cache, so that a long past is read once. */
static void attend(const float *query, int heads, const float *keys, const float *values, int64_t length, int64_t stride, int w,
                   float *mixed, float *scores) {
    const float scale = 1.0f / sqrtf((float)w);
    const int64_t padded = length + LANES;
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t end = first + TILE < length ? first + TILE : length;
        for (int head = 0; head < heads; head++)
            for (int64_t j = first; j < end; j++) scores[head * padded + j] = dot(query + head * w, keys + j * stride, w) * scale;
    }
    for (int head = 0; head < heads; head++) softmax(scores + head * padded, length);
    memset(mixed, 0, (size_t)heads * w * sizeof(float));
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t count = first + TILE < length ? TILE : length - first;
        for (int head = 0; head < heads; head++)
            weigh(mixed + head * w, scores + head * padded + first, values + first * stride, count, stride, w);
    }
}

/* x [w] rotated to its position; sin carries the sign of its half */
static void rotate(float *x, const float *cosine, const float *sine, int w) {
    for (int i = 0; i < w / 2; i++) {
        float first = x[i], second = x[i + w / 2];
        x[i] = first * cosine[i] + second * sine[i];
        x[i + w / 2] = second * cosine[i + w / 2] + first * sine[i + w / 2];
    }
}

/* ------------------------------------------------------------------------------------------------ backbone */

/* packed [rows][(heads + 2 groups) w] -> keys and values into memory, mixed [rows][heads w] */
static void attend_rows(const Backbone *b, const Memory *m, int layer, int rows, float *packed, float *mixed, float *scores,
                        const int64_t *slots, const int64_t *positions, const float *cosines, const float *sines, int turns) {
    const int w = b->head_dim, size = (b->heads + 2 * b->groups) * w, sharing = b->heads / b->groups;
    float *keys = m->store + layer * m->layer, *values = keys + m->part;
    for (int row = 0; row < rows; row++) {
        float *current = packed + (int64_t)row * size;
        for (int head = 0; head < b->heads + b->groups; head++)
            rotate(current + head * w, cosines + row % turns * w, sines + row % turns * w, w);
        for (int group = 0; group < b->groups; group++) {
            int64_t offset = slots[row] * m->row + group * m->group + positions[row] * w;
            memcpy(keys + offset, current + (b->heads + group) * w, (size_t)w * sizeof(float));
            memcpy(values + offset, current + (b->heads + b->groups + group) * w, (size_t)w * sizeof(float));
        }
    }
    for (int row = 0; row < rows; row++)
        for (int group = 0; group < b->groups; group++) {
            int64_t offset = slots[row] * m->row + group * m->group;
            attend(packed + (int64_t)row * size + group * sharing * w, sharing, keys + offset, values + offset, positions[row] + 1, w, w,
                   mixed + ((int64_t)row * b->heads + group * sharing) * w, scores);
        }
}

/* New positions of some sequences: row i is position positions[i] of sequence slots[i], and attends to all up to itself.
 * x [rows][width] -> hidden [rows][width], in place; cosines, sines [turns][head_dim] are taken in turn. Returns 0, or 1 when
 * there is no memory. */
int backbone_step(const Backbone *b, const Memory *m, int rows, float *x, const int64_t *slots, const int64_t *positions,
                  const float *cosines, const float *sines, int turns) {
    const int w = b->head_dim, width = b->width;
    int64_t longest = 0;
    for (int row = 0; row < rows; row++) longest = positions[row] + 1 > longest ? positions[row] + 1 : longest;
    size_t each = (size_t)width + (size_t)(2 * b->heads + 2 * b->groups) * w + 3 * (size_t)b->inner;
    size_t looks = (size_t)(b->heads / b->groups) * ((size_t)longest + LANES);
    float *normed = malloc((rows * each + looks) * sizeof(float));
    if (!normed) return 1;
    float *packed = normed + (size_t)rows * width, *mixed = packed + (size_t)rows * (b->heads + 2 * b->groups) * w;
    float *up = mixed + (size_t)rows * b->heads * w, *fed = up + 2 * (size_t)rows * b->inner;
    float *scores = fed + (size_t)rows * b->inner;
    for (int layer = 0; layer < b->count; layer++) {
        const Layer *l = b->layers + layer;
        for (int row = 0; row < rows; row++) normalise(&l->first, x + row * width, normed + row * width, width);
        product(&l->pack, normed, rows, packed, 0);
        attend_rows(b, m, layer, rows, packed, mixed, scores, slots, positions, cosines, sines, turns);
        product(&l->mix, mixed, rows, x, 1);
        for (int row = 0; row < rows; row++) normalise(&l->second, x + row * width, normed + row * width, width);
        product(&l->gate_up, normed, rows, up, 0);
        for (int row = 0; row < rows; row++) {
            float *gate = up + 2 * (size_t)row * b->inner;
            silu_times(gate, gate + b->inner, b->inner);
            memcpy(fed + (size_t)row * b->inner, gate, (size_t)b->inner * sizeof(float));
        }
        product(&l->down, fed, rows, x, 1);
    }
    for (int row = 0; row < rows; row++) normalise(&b->last, x + row * width, x + row * width, width);
    free(normed);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- audio head */

/* One position of a frame: x [rows][width] -> logits [rows][size + 1]; memory [layers][rows][positions][3 width] keeps query,
 * key and value of each position. Returns 0, or 1 when there is no memory. */
int head_step(const Head *h, int rows, int position, const float *x, float *memory, float *logits) {
    const int width = h->width, heads = width / h->head_dim, w = h->head_dim;
    float *now = malloc(((size_t)rows * 8 * width + (size_t)h->positions + LANES) * sizeof(float));
    if (!now) return 1;
    float *normed = now + (size_t)rows * width, *packed = normed + (size_t)rows * width;
    float *up = packed + 3 * (size_t)rows * width, *residual = up + 2 * (size_t)rows * width;
    float *scores = residual + (size_t)rows * width;
    memcpy(now, x, (size_t)rows * width * sizeof(float));
    for (int layer = 0; layer < h->count; layer++) {
        const DepthLayer *l = h->layers + layer;
        for (int row = 0; row < rows; row++) normalise(&l->first, now + row * width, normed + row * width, width);
        product(&l->pack, normed, rows, packed, 0);
        for (int row = 0; row < rows; row++) {
            float *current = memory + ((size_t)layer * rows + row) * h->positions * 3 * width;
            memcpy(current + (size_t)position * 3 * width, packed + (size_t)row * 3 * width, 3 * (size_t)width * sizeof(float));
            for (int head = 0; head < heads; head++)
                attend(packed + (size_t)row * 3 * width + head * w, 1, current + width + head * w, current + 2 * width + head * w,
                       position + 1, 3 * width, w, normed + (size_t)row * width + head * w, scores);
        }
        product(&l->mix, normed, rows, now, 1);
        for (int row = 0; row < rows; row++) normalise(&l->second, now + row * width, residual + row * width, width);
        product(l->up + position, residual, rows, up, 0);
        gelu(up, 2 * rows * width);
        product(l->down + position, up, rows, residual, 1);
        memcpy(now, residual, (size_t)rows * width * sizeof(float));
    }
    for (int row = 0; row < rows; row++) normalise(&h->last, now + row * width, normed + row * width, width);
    product(h->heads + position, normed, rows, logits, 0);
    free(now);
    return 0;
}

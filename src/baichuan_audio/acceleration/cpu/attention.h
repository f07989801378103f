/* Attention of one position over its past, in blocks that can be shared by threads, and how the past is stored.
 *
 * A past in 8 bits has for each position and head w integers and then their scale, a float.
 */
#include "products.h"

#define TILE 32
#define BLOCK 256 /* positions of a part */

/* Lanes of two vectors, numbered through: sums of neighbours a, b -> a b a b ..., then a b c d a b c d ... */
#if LANES == 16
#define PAIRS_EVEN ((whole){0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30})
#define PAIRS_ODD ((whole){1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31})
#define FOURS_LOW ((whole){0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29})
#define FOURS_HIGH ((whole){2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31})
#else
#define PAIRS_EVEN ((whole){0, 8, 2, 10, 4, 12, 6, 14})
#define PAIRS_ODD ((whole){1, 9, 3, 11, 5, 13, 7, 15})
#define FOURS_LOW ((whole){0, 1, 8, 9, 4, 5, 12, 13})
#define FOURS_HIGH ((whole){2, 3, 10, 11, 6, 7, 14, 15})
#endif

typedef struct { /* keys and values [layers][2][rows][groups][capacity][position]; strides in elements */
    void *store;
    int64_t layer, part, row, group;
    int32_t bits; /* 32: floats, a position is head_dim; 8: a position is head_dim + 4 */
} Memory;

INLINE char *past_of(const Memory *m, int layer, int part, int64_t row, int64_t group) {
    return (char *)m->store + (layer * m->layer + part * m->part + row * m->row + group * m->group) * (m->bits / 8);
}

INLINE int64_t position_bytes(int bits, int w) { return bits == 8 ? w + 4 : 4 * (int64_t)w; }

/* x [w] -> one position of a past */
static void remember(const float *x, int bits, int w, char *past) {
    if (bits != 8) {
        memcpy(past, x, (size_t)w * sizeof(float));
        return;
    }
    float top = 0.0f;
    for (int i = 0; i < w; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    const float inverse = top > 0.0f ? 127.0f / top : 0.0f, scale = top / 127.0f;
    for (int i = 0; i < w; i++) past[i] = (char)(int8_t)((int32_t)(x[i] * inverse + 12582912.0f - 12582912.0f));
    memcpy(past + w, &scale, sizeof scale);
}

/* `count` <= TILE positions as floats [count][w]: in place, or in `buffer` */
static const float *recall(const char *past, int bits, int w, int64_t count, float *buffer) {
    if (bits != 8) return (const float *)past;
    for (int64_t j = 0; j < count; j++, past += w + 4) {
        float scale;
        memcpy(&scale, past + w, sizeof scale);
        int i = 0;
        for (; i + LANES <= w; i += LANES)
            *(lanes *)(buffer + j * w + i) = scale * __builtin_convertvector(widen(past + i), lanes);
        for (; i < w; i++) buffer[j * w + i] = scale * (float)(int8_t)past[i];
    }
    return buffer;
}

/* scores [length] -> e^(score - highest), and their sum; the array holds length + LANES */
static float exponentials(float *scores, int64_t length, float *highest) {
    float top = -INFINITY;
    for (int64_t j = 0; j < length; j++) top = scores[j] > top ? scores[j] : top;
    for (int64_t j = length; j < length + LANES; j++) scores[j] = -INFINITY;
    lanes sums = {0};
    for (int64_t j = 0; j < length; j += LANES) {
        lanes weights = exponential(*(lanes *)(scores + j) - top);
        *(lanes *)(scores + j) = weights, sums += weights;
    }
    *highest = top;
    return sum(sums);
}

/* scores [4] of four positions, `step` floats apart: their sums are added up together */
INLINE void score4(const float *query, const float *keys, int64_t step, int w, float scale, float *scores) {
    lanes sums[4] = {{0}};
    for (int i = 0; i + LANES <= w; i += LANES)
        for (int j = 0; j < 4; j++) sums[j] += *(const lanes *)(query + i) * *(const lanes *)(keys + j * step + i);
    for (int j = 0; j < 2; j++) /* pairs: even and odd lanes */
        sums[j] = __builtin_shuffle(sums[2 * j], sums[2 * j + 1], PAIRS_EVEN) + __builtin_shuffle(sums[2 * j], sums[2 * j + 1], PAIRS_ODD);
    lanes all = __builtin_shuffle(sums[0], sums[1], FOURS_LOW) + __builtin_shuffle(sums[0], sums[1], FOURS_HIGH);
    four parts[LANES / 4];
    memcpy(parts, &all, sizeof all);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    *(four *)scores = parts[0] * scale;
    for (int i = w / LANES * LANES; i < w; i++)
        for (int j = 0; j < 4; j++) scores[j] += query[i] * keys[j * step + i] * scale;
}

/* query [heads][w], which share `length` <= BLOCK positions of keys and values, `stride` bytes apart -> mixed [heads][w + 2]:
 * the values weighted by e^(score - highest), then the sum of these weights, and the highest score.
 * All heads look at a tile of positions while it is in the nearest cache, so that a long past is read once. */
static void attend_block(const float *query, int heads, const char *keys, const char *values, int bits, int64_t length, int64_t stride,
                         int w, float *mixed) {
    const float scale = 1.0f / sqrtf((float)w);
    const int64_t step = bits == 8 ? w : stride / (int64_t)sizeof(float);
    float scores[heads][BLOCK + LANES], buffer[bits == 8 ? TILE * w : 1];
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t count = length - first < TILE ? length - first : TILE;
        const float *tile = recall(keys + first * stride, bits, w, count, buffer);
        for (int head = 0; head < heads; head++)
            for (int64_t j = 0; j < count; j++)
                if (j % 4 == 0 && j + 4 <= count)
                    score4(query + head * w, tile + j * step, step, w, scale, scores[head] + first + j), j += 3;
                else
                    scores[head][first + j] = dot(query + head * w, tile + j * step, w) * scale;
    }
    memset(mixed, 0, (size_t)heads * (w + 2) * sizeof(float));
    for (int head = 0; head < heads; head++) {
        float *own = mixed + head * (w + 2);
        own[w] = exponentials(scores[head], length, own + w + 1);
    }
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t count = length - first < TILE ? length - first : TILE;
        const float *tile = recall(values + first * stride, bits, w, count, buffer);
        for (int head = 0; head < heads; head++) weigh(mixed + head * (w + 2), scores[head] + first, tile, count, step, w);
    }
}

/* blocks [count][w + 2], `stride` floats apart -> mixed [w] */
static void merge_blocks(const float *blocks, int64_t count, int64_t stride, int w, float *mixed) {
    float top = -INFINITY, total = 0.0f;
    for (int64_t i = 0; i < count; i++) top = blocks[i * stride + w + 1] > top ? blocks[i * stride + w + 1] : top;
    memset(mixed, 0, (size_t)w * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        const float *block = blocks + i * stride, part = count > 1 ? expf(block[w + 1] - top) : 1.0f;
        total += part * block[w];
        for (int j = 0; j < w; j++) mixed[j] += part * block[j];
    }
    const float share = 1.0f / total;
    for (int j = 0; j < w; j++) mixed[j] *= share;
}

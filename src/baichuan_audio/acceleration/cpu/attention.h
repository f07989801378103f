/* Attention of one position over its past, in blocks that can be shared by threads, and how the past is stored.
 *
 * A past in 8 bits has for each position and head w integers and then their scale, a float.
 */
#include "products.h"

#define TILE 32
#define BLOCK 256 /* positions of a part */

/* Lanes of two vectors, numbered through, as the processor unpacks them: sums of LOW and HIGH are a b a b of every four lanes,
 * then, of two such vectors, a b c d. */
#if LANES == 16
#define PAIRS_LOW ((whole){0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29})
#define PAIRS_HIGH ((whole){2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31})
#define FOURS_LOW ((whole){0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29})
#define FOURS_HIGH ((whole){2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31})
#else
#define PAIRS_LOW ((whole){0, 8, 1, 9, 4, 12, 5, 13})
#define PAIRS_HIGH ((whole){2, 10, 3, 11, 6, 14, 7, 15})
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
    const float top = highest_of(x, w), inverse = top > 0.0f ? 127.0f / top : 0.0f, scale = top / 127.0f;
    for (int i = 0; i < w; i++) past[i] = (char)(int8_t)((int32_t)(x[i] * inverse + 12582912.0f - 12582912.0f));
    memcpy(past + w, &scale, sizeof scale);
}

/* scores [length] -> e^(score - highest), and their sum; the array holds length + LANES */
static float exponentials(float *scores, int64_t length, float *highest) {
    for (int64_t j = length; j < length + LANES; j++) scores[j] = -INFINITY;
    lanes sums = {0}, tops = splat(-INFINITY);
    for (int64_t j = 0; j < length; j += LANES) tops = larger(tops, *(const lanes *)(scores + j));
    const float top = largest(tops);
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
    for (int j = 0; j < 2; j++)
        sums[j] = __builtin_shuffle(sums[2 * j], sums[2 * j + 1], PAIRS_LOW) + __builtin_shuffle(sums[2 * j], sums[2 * j + 1], PAIRS_HIGH);
    lanes all = __builtin_shuffle(sums[0], sums[1], FOURS_LOW) + __builtin_shuffle(sums[0], sums[1], FOURS_HIGH);
    four parts[LANES / 4];
    memcpy(parts, &all, sizeof all);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    *(four *)scores = parts[0] * scale;
    for (int i = w / LANES * LANES; i < w; i++)
        for (int j = 0; j < 4; j++) scores[j] += query[i] * keys[j * step + i] * scale;
}

/* query [heads][w], which share `length` <= BLOCK positions of keys and values, `stride` floats apart -> mixed [heads][w + 2]:
 * the values weighted by e^(score - highest), then the sum of these weights, and the highest score.
 * All heads look at a tile of positions while it is in the nearest cache, so that a long past is read once. */
static void attend_block(const float *query, int heads, const float *keys, const float *values, int64_t length, int64_t stride, int w,
                         float *mixed) {
    const float scale = 1.0f / sqrtf((float)w);
    float scores[heads][BLOCK + LANES];
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t count = length - first < TILE ? length - first : TILE;
        const float *tile = keys + first * stride;
        for (int head = 0; head < heads; head++)
            for (int64_t j = 0; j < count; j++)
                if (j % 4 == 0 && j + 4 <= count)
                    score4(query + head * w, tile + j * stride, stride, w, scale, scores[head] + first + j), j += 3;
                else
                    scores[head][first + j] = dot(query + head * w, tile + j * stride, w) * scale;
    }
    memset(mixed, 0, (size_t)heads * (w + 2) * sizeof(float));
    for (int head = 0; head < heads; head++) {
        float *own = mixed + head * (w + 2);
        own[w] = exponentials(scores[head], length, own + w + 1);
    }
    for (int64_t first = 0; first < length; first += TILE) {
        int64_t count = length - first < TILE ? length - first : TILE;
        for (int head = 0; head < heads; head++)
            weigh(mixed + head * (w + 2), scores[head] + first, values + first * stride, count, stride, w);
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

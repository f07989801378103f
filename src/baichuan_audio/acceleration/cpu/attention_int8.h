/* Attention over a past in 8 bits: scores and mixtures are sums of products of 16-bit integers.
 *
 * A query is rounded to 14 bits and the weights of a block's values to 15, so that what 8 bits of keys and values lose is all
 * that is lost. Sums are exact in 32 bits: 8191 x 127 x head_dim up to 2064, and 32767 x 127 x BLOCK.
 */
#include "attention.h"

#define SHARING 4      /* heads that look at a position together */
#define WIDE (2 * LANES) /* 16-bit integers of a register */

typedef int16_t halves __attribute__((vector_size(2 * WIDE), aligned(2)));

/* Registers of 128 bits of two vectors: neighbours added keep the order of positions. */
#if LANES == 16
#define QUARTERS_LOW ((whole){0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27})
#define QUARTERS_HIGH ((whole){4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31})
#define TURNS_FIRST ((whole){0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23})
#define TURNS_LAST ((whole){8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31})
#define MIX_LOW                                                                                                        \
    ((halves){0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43, 16, 48, 17, 49, 18, 50, 19, 51, 24, 56, 25, 57, \
              26, 58, 27, 59})
#else
#define QUARTERS_LOW ((whole){0, 1, 2, 3, 8, 9, 10, 11})
#define QUARTERS_HIGH ((whole){4, 5, 6, 7, 12, 13, 14, 15})
#define TURNS_FIRST QUARTERS_LOW
#define TURNS_LAST QUARTERS_HIGH
#define MIX_LOW ((halves){0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27})
#endif

/* WIDE numbers of 8 bits -> 16 bits */
INLINE halves widen_half(const int8_t *p) {
#if defined(__AVX512BW__)
    return (halves)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p));
#elif defined(__AVX2__) && LANES == 8
    return (halves)_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p));
#else
    halves result;
    for (int i = 0; i < WIDE; i++) result[i] = p[i];
    return result;
#endif
}

/* total + products of neighbours, two by two */
INLINE whole dot2(whole total, halves a, halves b) {
#if defined(__AVX512VNNI__) && LANES == 16
    return (whole)_mm512_dpwssd_epi32((__m512i)total, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__) && LANES == 8
    return (whole)_mm256_dpwssd_avx_epi32((__m256i)total, (__m256i)a, (__m256i)b);
#elif defined(__AVX512BW__)
    return total + (whole)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && LANES == 8
    return total + (whole)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    whole first = (whole)a, second = (whole)b;
    return total + (first << 16 >> 16) * (second << 16 >> 16) + (first >> 16) * (second >> 16);
#endif
}

INLINE whole add_shuffled(whole a, whole b, whole low, whole high) {
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

/* sums of all lanes of LANES vectors, of which each of `parts` has been made of four by `add_four` */
INLINE whole add_four(const whole *x) {
    whole even = add_shuffled(x[0], x[1], PAIRS_LOW, PAIRS_HIGH), odd = add_shuffled(x[2], x[3], PAIRS_LOW, PAIRS_HIGH);
    return add_shuffled(even, odd, FOURS_LOW, FOURS_HIGH);
}

INLINE whole add_parts(const whole *parts) {
#if LANES == 16
    whole first = add_shuffled(parts[0], parts[1], QUARTERS_LOW, QUARTERS_HIGH);
    return add_shuffled(first, add_shuffled(parts[2], parts[3], QUARTERS_LOW, QUARTERS_HIGH), QUARTERS_LOW, QUARTERS_HIGH);
#else
    return add_shuffled(parts[0], parts[1], QUARTERS_LOW, QUARTERS_HIGH);
#endif
}

INLINE void fetch_ahead(const char *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

/* query [heads][w] times the keys of LANES positions, `stride` bytes apart -> sums [heads]; w in whole registers */
INLINE void score_tile(const int16_t *query, int heads, const int8_t *keys, int64_t stride, int w, whole *sums) {
    whole parts[SHARING][LANES / 4];
    for (int first = 0; first < LANES; first += 4) {
        whole each[SHARING][4] = {{{0}}};
        for (int i = 0; i < w; i += WIDE)
            for (int j = 0; j < 4; j++) {
                halves key = widen_half(keys + (first + j) * stride + i);
                for (int head = 0; head < heads; head++)
                    each[head][j] = dot2(each[head][j], key, *(const halves *)(query + head * w + i));
            }
        for (int head = 0; head < heads; head++) parts[head][first / 4] = add_four(each[head]);
    }
    for (int head = 0; head < heads; head++) sums[head] = add_parts(parts[head]);
}

/* `columns` x WIDE numbers of `length` values, times weights [heads][BLOCK] -> y [heads][w + 2] times scale [heads];
 * `then` is what is read after them */
INLINE void mix_columns(const int16_t (*weights)[BLOCK], const float *scale, int heads, const int8_t *values, int64_t length,
                        int64_t stride, int columns, int few, int w, const char *then, float *y) {
    whole low[SHARING][2] = {{{0}}}, high[SHARING][2] = {{{0}}};
    for (int64_t j = 0; j < length; j += 2) {
        const int8_t *row = values + j * stride, *other = j + 1 < length ? row + stride : row; /* whose weight is then 0 */
        fetch_ahead(then + j * stride, 2 * stride);
        for (int column = 0; column < columns; column++) {
            halves first = widen_half(row + column * WIDE), second = widen_half(other + column * WIDE);
            halves lower = __builtin_shuffle(first, second, MIX_LOW), upper = __builtin_shuffle(first, second, MIX_LOW + 4);
            for (int head = 0; head < heads; head++) {
                int32_t both;
                memcpy(&both, weights[head] + j, sizeof both);
                halves pair = (halves)(both - (whole){0});
                low[head][column] = dot2(low[head][column], lower, pair);
                high[head][column] = dot2(high[head][column], upper, pair);
            }
        }
    }
    for (int head = 0; head < heads; head++)
        for (int column = 0; column < columns; column++) { /* four of `low`, four of `high`, in turn */
            whole a = low[head][column], b = high[head][column];
            lanes ordered[2] = {__builtin_convertvector(__builtin_shuffle(a, b, TURNS_FIRST), lanes) * scale[head],
                                __builtin_convertvector(__builtin_shuffle(a, b, TURNS_LAST), lanes) * scale[head]};
            int left = few - column * WIDE;
            memcpy(y + head * (w + 2) + column * WIDE, ordered, (size_t)(left < WIDE ? left : WIDE) * sizeof(float));
        }
}

/* x [w] -> integers up to `top` [wide] -> their scale */
static float round_half(const float *x, int w, int wide, float top, int16_t *numbers) {
    const float highest = highest_of(x, w), inverse = highest > 0.0f ? top / highest : 0.0f;
    for (int i = 0; i < w; i++) numbers[i] = (int16_t)(int32_t)(x[i] * inverse + 12582912.0f - 12582912.0f);
    memset(numbers + w, 0, (size_t)(wide - w) * sizeof *numbers);
    return highest / top;
}

/* query [heads][w] -> their scores with `length` keys, [heads][BLOCK + LANES]. `then` is what is read after the keys. */
INLINE void score_heads(const float *query, int heads, const int8_t *keys, const float *scales, int64_t length, int64_t stride, int w,
                        int wide, const char *then, float (*scores)[BLOCK + LANES]) {
    int16_t rounded[SHARING * wide];
    float scale[SHARING];
    for (int head = 0; head < heads; head++)
        scale[head] = round_half(query + head * w, w, wide, 8191.0f, rounded + head * wide) / sqrtf((float)w);
    int8_t last[LANES * stride];
    for (int64_t first = 0; first < length; first += LANES) {
        const int8_t *tile = keys + first * stride;
        whole sums[SHARING];
        fetch_ahead(then + first * stride, LANES * stride);
        if (first + LANES > length) tile = memcpy(last, tile, (size_t)((length - first) * stride)); /* nothing is read behind it */
        score_tile(rounded, heads, tile, stride, wide, sums);
        for (int head = 0; head < heads; head++)
            *(lanes *)(scores[head] + first) =
                __builtin_convertvector(sums[head], lanes) * (scale[head] * *(const lanes *)(scales + first));
    }
}

/* weights [heads][BLOCK + LANES] times `length` values, whose scales they contain -> mixed [heads][w + 2] */
INLINE void mix_heads(float (*weights)[BLOCK + LANES], int heads, const int8_t *values, int64_t length, int64_t stride, int w,
                      const char *then, float *mixed) {
    int16_t rounded[SHARING][BLOCK];
    float scale[SHARING];
    for (int head = 0; head < heads; head++)
        scale[head] = round_half(weights[head], (int)length, (int)(length + length % 2), 32767.0f, rounded[head]);
    int i = 0;
    for (; i + 2 * WIDE <= w; i += 2 * WIDE)
        mix_columns(rounded, scale, heads, values + i, length, stride, 2, 2 * WIDE, w, then, mixed + i);
    for (; i < w; i += WIDE)
        mix_columns(rounded, scale, heads, values + i, length, stride, 1, w - i < WIDE ? w - i : WIDE, w, then, mixed + i);
}

/* The scales of `count` positions, and where numbers are not in whole registers a copy in which they are: [count][wide] */
static const int8_t *unpack_block(const char *past, int64_t count, int w, int wide, float *scales, int8_t *copy) {
    for (int64_t j = 0; j < count; j++) memcpy(scales + j, past + j * (w + 4) + w, sizeof *scales);
    memset(scales + count, 0, LANES * sizeof *scales);
    if (w == wide) return (const int8_t *)past;
    memset(copy, 0, (size_t)(count * wide));
    for (int64_t j = 0; j < count; j++) memcpy(copy + j * wide, past + j * (w + 4), (size_t)w);
    return copy;
}

/* `attend_block` over a past in 8 bits; keys of later positions follow in memory */
static void attend_int8(const float *query, int heads, const char *keys, const char *values, int64_t length, int w, float *mixed) {
    const int wide = (w + WIDE - 1) / WIDE * WIDE, copied = w == wide ? 1 : BLOCK * wide;
    const int64_t stride = w == wide ? w + 4 : wide;
    float scores[heads][BLOCK + LANES], scales[BLOCK + LANES];
    int8_t copy[copied];
    const int8_t *numbers = unpack_block(keys, length, w, wide, scales, copy);
    for (int head = 0; head < heads; head += SHARING) {
        const float *some_queries = query + head * w;
        switch (heads - head) {
        case 1: score_heads(some_queries, 1, numbers, scales, length, stride, w, wide, values, scores + head); break;
        case 2: score_heads(some_queries, 2, numbers, scales, length, stride, w, wide, values, scores + head); break;
        case 3: score_heads(some_queries, 3, numbers, scales, length, stride, w, wide, values, scores + head); break;
        default: score_heads(some_queries, SHARING, numbers, scales, length, stride, w, wide, values, scores + head);
        }
    }
    numbers = unpack_block(values, length, w, wide, scales, copy);
    for (int head = 0; head < heads; head++) {
        float *own = mixed + head * (w + 2);
        own[w] = exponentials(scores[head], length, own + w + 1);
        for (int64_t j = 0; j < length; j += LANES) *(lanes *)(scores[head] + j) *= *(const lanes *)(scales + j);
    }
    const char *then = keys + length * (w + 4);
    for (int head = 0; head < heads; head += SHARING) {
        float *some_mixed = mixed + head * (w + 2);
        switch (heads - head) {
        case 1: mix_heads(scores + head, 1, numbers, length, stride, w, then, some_mixed); break;
        case 2: mix_heads(scores + head, 2, numbers, length, stride, w, then, some_mixed); break;
        case 3: mix_heads(scores + head, 3, numbers, length, stride, w, then, some_mixed); break;
        default: mix_heads(scores + head, SHARING, numbers, length, stride, w, then, some_mixed);
        }
    }
}

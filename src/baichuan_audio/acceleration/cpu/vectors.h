/* Vectors of LANES numbers, and what a decode step computes number by number. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint8_t octets __attribute__((vector_size(4 * LANES), aligned(1)));
typedef float four __attribute__((vector_size(16), aligned(4)));

typedef struct {
    const float *gain;
    float eps;
} Norm;

INLINE lanes splat(float x) { return x - (lanes){0}; }

INLINE lanes choose(whole mask, lanes yes, lanes no) { return (lanes)((mask & (whole)yes) | (~mask & (whole)no)); }

INLINE lanes larger(lanes a, lanes b) {
#if LANES == 16
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE lanes absolute(lanes x) { return (lanes)((whole)x & 0x7fffffff); }

INLINE float sum(lanes x) {
    four parts[LANES / 4];
    memcpy(parts, &x, sizeof x);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

INLINE float largest(lanes x) {
    float result = x[0];
    for (int i = 1; i < LANES; i++) result = x[i] > result ? x[i] : result;
    return result;
}

/* LANES numbers of 8 bits at p; compilers take them one by one where they are converted as vectors */
INLINE whole widen(const void *p) {
#if LANES == 16
    return (whole)_mm512_cvtepi8_epi32(_mm_loadu_si128(p));
#elif defined(__AVX2__)
    return (whole)_mm256_cvtepi8_epi32(_mm_loadl_epi64(p));
#else
    whole result;
    for (int i = 0; i < LANES; i++) result[i] = ((const int8_t *)p)[i];
    return result;
#endif
}

/* numbers in -128..127 -> 8 bits at p */
INLINE void narrow(whole x, void *p) {
#if LANES == 16
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8((__m512i)x));
#elif defined(__AVX2__)
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64(p, _mm_packs_epi16(half, half));
#else
    for (int i = 0; i < LANES; i++) ((int8_t *)p)[i] = (int8_t)x[i];
#endif
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

/* the largest absolute value of x [n] */
static float highest_of(const float *x, int n) {
    lanes top = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) top = larger(top, absolute(*(const lanes *)(x + i)));
    return largest(i < n ? larger(top, absolute(some(x + i, n - i))) : top);
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


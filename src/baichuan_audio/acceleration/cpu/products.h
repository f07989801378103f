/* Products of few rows with weights in 32, 16, 8 or 4 bits.
 *
 * Weights lie in panels of two registers of outputs, so that they are read once and in order:
 *   FP32  [panel][input][PANEL]
 *   BF16  [panel][input][LANES] words: output j of the panel in the lower half of word j, output j + LANES in the upper half
 *   INT8  [panel][group][GROUP / 4][PANEL][4], and a scale for each output
 *   INT4  [panel][group]: [GROUP / 4][LANES][4], output j in the lower four bits, output j + LANES in the upper ones; then the
 *         scales of the group as in BF16
 * For INT8 and INT4 each row is rounded to integers in groups of GROUP inputs with a scale for each, products of a group are
 * exact in 32 bits, and groups add up in float32, in the same order for any number of rows.
 */
#include "threads.h"
#include "vectors.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define PANEL (2 * LANES)
#define GROUP 32
#define ROWS 4         /* of a block */
#if LANES == 16
#define MANY_ROWS 8 /* of a block of float rows, whose sums fill the registers of AVX-512 */
#else
#define MANY_ROWS 6
#endif
#define PART_BYTES 32768 /* of weights: what a thread claims at once */

enum { FP32, BF16, INT8, INT4 };

typedef struct {
    const void *weight;
    const float *bias;  /* [out], or NULL */
    const float *scale; /* INT8: [out in whole panels] */
    int32_t in, out, format;
} Product;

/* Rows rounded to integers; shift is the sum of a group times minus what is added to its weights as they are stored. */
typedef struct {
    int8_t *numbers; /* [rows][groups][GROUP] */
    float *scale;    /* [rows][groups] */
    int32_t *shift;
} Activations;

/* Added to stored weights: the processor's products take them without a sign, but for ARM's and for 8 bits. */
#if defined(__ARM_FEATURE_DOTPROD)
#define OFFSET8 0
#else
#define OFFSET8 128
#endif
#define OFFSET4 8

INLINE int group_count(int in) { return (in + GROUP - 1) / GROUP; }

INLINE int64_t panel_bytes(int in, int format) {
    if (format == INT8) return (int64_t)group_count(in) * GROUP * PANEL;
    if (format == INT4) return (int64_t)group_count(in) * (GROUP * PANEL / 2 + PANEL * 2);
    return (int64_t)in * PANEL * (format == BF16 ? 2 : 4);
}

/* ------------------------------------------------------------------------------------------------ packing */

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

/* Bytes of a packed weight [out][in]. */
int64_t packed_bytes(int out, int in, int format) { return (int64_t)((out + PANEL - 1) / PANEL) * panel_bytes(in, format); }

/* weight [out][in], rows `stride` apart -> panels, FP32 or BF16, zeros below the last output */
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

/* numbers [out][groups * GROUP] -> panels, INT8 or INT4; scale, of INT4: [out][groups] in bfloat16 */
void lay_out_integers(const int8_t *numbers, const uint16_t *scale, int out, int in, int format, uint8_t *panels) {
    const int groups = group_count(in), weights = format == INT8 ? GROUP * PANEL : GROUP * PANEL / 2;
    const uint32_t zeros = format == INT4 ? OFFSET4 * 0x01010101u : OFFSET8 * 0x01010101u;
    memset(panels, 0, (size_t)packed_bytes(out, in, format));
    for (int first = 0; first < out; first += PANEL)
        for (int group = 0; group < groups; group++) {
            for (int j = 0; j < PANEL; j++) {
                const int64_t row = (int64_t)(first + j) * groups + group;
                const int upper = j >= LANES, used = first + j < out;
                for (int i = 0; i < GROUP / 4; i++) { /* four numbers, little-endian; adding an offset inverts a bit of each */
                    uint32_t bits = 0, *target = (uint32_t *)panels + (format == INT8 ? i * PANEL + j : i * LANES + j % LANES);
                    if (used) memcpy(&bits, numbers + row * GROUP + 4 * i, sizeof bits);
                    bits = (format == INT4 ? bits & 0x0f0f0f0fu : bits) ^ zeros;
                    *target |= format == INT4 && upper ? bits << 4 : bits;
                }
                if (format == INT4 && used) memcpy(panels + weights + j % LANES * 4 + upper * 2, scale + row, 2);
            }
            panels += weights + (format == INT4 ? PANEL * 2 : 0);
        }
}

/* ------------------------------------------------------------------------------------------------ one panel */

/* One panel for `rows` rows (1 to ROWS, or MANY_ROWS, known to the compiler). Several sums for few rows: an addition waits
 * for the last. */
INLINE void panel(const void *weight, int in, int half, const float *x, int rows, float (*y)[PANEL]) {
    const int ways = rows < ROWS ? ROWS / rows : 1;
    lanes low[MANY_ROWS] = {{0}}, high[MANY_ROWS] = {{0}};
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
                float each = x[(int64_t)row * in + i + way];
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
            for (int row = 0; row < rows; row++) y[row][j] += each * x[(int64_t)row * in + i];
        }
}

/* total [LANES] += weights [LANES][4] times the four numbers of x */
INLINE whole dot4(whole total, octets weights, uint32_t x) {
#if defined(__AVX512VNNI__) && LANES == 16
    return (whole)_mm512_dpbusd_epi32((__m512i)total, (__m512i)weights, _mm512_set1_epi32((int)x));
#elif defined(__AVXVNNI__) && LANES == 8
    return (whole)_mm256_dpbusd_avx_epi32((__m256i)total, (__m256i)weights, _mm256_set1_epi32((int)x));
#elif defined(__AVX512BW__) && LANES == 16
    __m512i even = _mm512_set1_epi32((int)((uint32_t)(int8_t)(x >> 16) << 16 | (uint16_t)(int8_t)x));
    __m512i odd = _mm512_set1_epi32((int)((uint32_t)(int8_t)(x >> 24) << 16 | (uint16_t)(int8_t)(x >> 8)));
    __m512i first = _mm512_madd_epi16(_mm512_and_si512((__m512i)weights, _mm512_set1_epi16(255)), even);
    return total + (whole)first + (whole)_mm512_madd_epi16(_mm512_srli_epi16((__m512i)weights, 8), odd);
#elif defined(__AVX2__) && LANES == 8
    __m256i even = _mm256_set1_epi32((int)((uint32_t)(int8_t)(x >> 16) << 16 | (uint16_t)(int8_t)x));
    __m256i odd = _mm256_set1_epi32((int)((uint32_t)(int8_t)(x >> 24) << 16 | (uint16_t)(int8_t)(x >> 8)));
    __m256i first = _mm256_madd_epi16(_mm256_and_si256((__m256i)weights, _mm256_set1_epi16(255)), even);
    return total + (whole)first + (whole)_mm256_madd_epi16(_mm256_srli_epi16((__m256i)weights, 8), odd);
#elif defined(__ARM_FEATURE_DOTPROD)
    int32x4_t parts[2];
    int8x16_t stored[2], each = vreinterpretq_s8_u32(vdupq_n_u32(x));
    memcpy(parts, &total, sizeof total), memcpy(stored, &weights, sizeof weights);
    parts[0] = vdotq_s32(parts[0], stored[0], each), parts[1] = vdotq_s32(parts[1], stored[1], each);
    memcpy(&total, parts, sizeof total);
    return total;
#else
    words all = (words)weights; /* the first of four weights in the lowest bits: little-endian */
    for (int k = 0; k < 4; k++, all >>= 8, x >>= 8) total += (whole)(all & 255) * (int32_t)(int8_t)x;
    return total;
#endif
}

/* One panel for `rows` rows (1 to ROWS, known to the compiler). */
INLINE void integer_panel(const uint8_t *weight, int groups, int bits, const Activations *a, int rows, float (*y)[PANEL]) {
    lanes low[ROWS] = {{0}}, high[ROWS] = {{0}};
    for (int group = 0; group < groups; group++) {
        whole first[ROWS], second[ROWS];
        for (int row = 0; row < rows; row++) first[row] = second[row] = a->shift[row * groups + group] - (whole){0};
        for (int i = 0; i < GROUP / 4; i++) {
            octets one = *(const octets *)weight, two;
            if (bits == 4) {
                two = one >> 4, one &= 15, weight += 4 * LANES;
            } else {
                two = *(const octets *)(weight + 4 * LANES), weight += 8 * LANES;
            }
            for (int row = 0; row < rows; row++) {
                uint32_t x;
                memcpy(&x, a->numbers + ((int64_t)row * groups + group) * GROUP + 4 * i, sizeof x);
                first[row] = dot4(first[row], one, x), second[row] = dot4(second[row], two, x);
            }
        }
        lanes scales[2] = {splat(1.0f), splat(1.0f)};
        if (bits == 4) {
            words both = *(const words *)weight;
            scales[0] = (lanes)(both << 16), scales[1] = (lanes)(both & 0xffff0000u), weight += 4 * LANES;
        }
        for (int row = 0; row < rows; row++) {
            float scale = a->scale[row * groups + group];
            low[row] += __builtin_convertvector(first[row], lanes) * (scale * scales[0]);
            high[row] += __builtin_convertvector(second[row], lanes) * (scale * scales[1]);
        }
    }
    for (int row = 0; row < rows; row++) *(lanes *)y[row] = low[row], *(lanes *)(y[row] + LANES) = high[row];
}

/* ------------------------------------------------------------------------------------------------ activations */

/* x [in] -> integers in -127..127, a scale and a shift for each group */
static void round_row(const float *x, int in, int offset, int8_t *numbers, float *scale, int32_t *shift) {
    for (int first = 0; first < in; first += GROUP, scale++, shift++) {
        lanes parts[GROUP / LANES], top = {0};
        whole total = {0};
        for (int i = 0; i < GROUP / LANES; i++) {
            int left = in - first - i * LANES;
            parts[i] = some(x + first + i * LANES, left < 0 ? 0 : left < LANES ? left : LANES);
            top = larger(top, absolute(parts[i]));
        }
        const float highest = largest(top), inverse = highest > 0.0f ? 127.0f / highest : 0.0f;
        for (int i = 0; i < GROUP / LANES; i++) { /* adding 1.5 x 2^23 rounds, and leaves the integer in the lowest bits */
            whole rounded = (whole)(parts[i] * inverse + 12582912.0f) - 0x4b400000;
            narrow(rounded, numbers + first + i * LANES);
            total += rounded;
        }
        int32_t all = 0;
        for (int i = 0; i < LANES; i++) all += total[i];
        *scale = highest / 127.0f, *shift = -offset * all;
    }
}

/* Room for `rows` rows of up to `in` inputs; its first address is what to free. NULL where there is no memory. */
static Activations activations_for(int rows, int in) {
    size_t groups = (size_t)rows * group_count(in);
    float *scale = malloc(groups * (sizeof(float) + sizeof(int32_t) + GROUP));
    return (Activations){(int8_t *)(scale + 2 * groups), scale, (int32_t *)(scale + groups)};
}

/* ------------------------------------------------------------------------------------------------ products */

typedef struct {
    const Product *p;
    const float *x;
    const Activations *a;
    int rows, add, panels, chunk; /* panels of a part; rows of a part of the rounding */
    float *y;
} ProductJob;

#define PANEL_FOR(rows_, x_)                                                                            \
    case 4 * rows_ + FP32: panel(weight, p->in, 0, x_, rows_, y); break;                                  \
    case 4 * rows_ + BF16: panel(weight, p->in, 1, x_, rows_, y); break;                                  \
    case 4 * rows_ + INT8: integer_panel(weight, groups, 8, a, rows_, y); break;                          \
    case 4 * rows_ + INT4: integer_panel(weight, groups, 4, a, rows_, y); break;

static void some_rows(const Product *p, const void *weight, const float *x, const Activations *a, int rows, float (*y)[PANEL]) {
    const int groups = group_count(p->in);
    switch (4 * rows + p->format) {
        PANEL_FOR(1, x) PANEL_FOR(2, x) PANEL_FOR(3, x) PANEL_FOR(4, x)
        case 4 * MANY_ROWS + FP32: panel(weight, p->in, 0, x, MANY_ROWS, y); break;
        case 4 * MANY_ROWS + BF16: panel(weight, p->in, 1, x, MANY_ROWS, y); break;
    }
}

static void product_panel(const ProductJob *job, int first) {
    const Product *p = job->p;
    const void *weight = (const char *)p->weight + first / PANEL * panel_bytes(p->in, p->format);
    const int few = p->out - first < PANEL ? p->out - first : PANEL, groups = group_count(p->in);
    float result[MANY_ROWS][PANEL];
    for (int row = 0, now; row < job->rows; row += now) {
        const int left = job->rows - row;
        now = left >= MANY_ROWS && !job->a ? MANY_ROWS : left < ROWS ? left : ROWS;
        Activations block = {0};
        if (job->a) {
            int64_t start = (int64_t)row * groups;
            block = (Activations){job->a->numbers + start * GROUP, job->a->scale + start, job->a->shift + start};
        }
        some_rows(p, weight, job->x + (int64_t)row * p->in, &block, now, result);
        for (int r = 0; r < now; r++) {
            float *out = job->y + (int64_t)(row + r) * p->out + first;
            for (int j = 0; j < few; j++) {
                float value = result[r][j] * (p->scale ? p->scale[first + j] : 1.0f) + (p->bias ? p->bias[first + j] : 0.0f);
                out[j] = job->add ? out[j] + value : value;
            }
        }
    }
}

static void product_part(const void *argument, int part) {
    const ProductJob *job = argument;
    const int end = (part + 1) * job->panels * PANEL;
    for (int first = part * job->panels * PANEL; first < end && first < job->p->out; first += PANEL) product_panel(job, first);
}

static void round_part(const void *argument, int part) {
    const ProductJob *job = argument;
    const int groups = group_count(job->p->in), offset = job->p->format == INT8 ? OFFSET8 : OFFSET4;
    for (int row = part * job->chunk; row < (part + 1) * job->chunk && row < job->rows; row++)
        round_row(job->x + (int64_t)row * job->p->in, job->p->in, offset, job->a->numbers + (int64_t)row * groups * GROUP,
                  job->a->scale + (int64_t)row * groups, job->a->shift + (int64_t)row * groups);
}

/* x [rows][in] -> y [rows][out], or added to what is there; `a` has room for x where the weights are integers */
static void multiply(const Product *p, const float *x, const Activations *a, int rows, float *y, int add, int threads) {
    const int64_t bytes = panel_bytes(p->in, p->format);
    const int panels = (p->out + PANEL - 1) / PANEL;
    int size = (int)((PART_BYTES + bytes - 1) / bytes);
    if (size * MAX_PARTS < panels) size = (panels + MAX_PARTS - 1) / MAX_PARTS;
    ProductJob job = {p, x, p->format < INT8 ? NULL : a, rows, add, size, rows / 64 + ROWS, y};
    if (job.a) run(round_part, &job, (rows + job.chunk - 1) / job.chunk, threads);
    run(product_part, &job, (panels + size - 1) / size, threads);
}

/* `multiply` with memory of its own. Returns 0, or 1 where there is none. */
int product(const Product *p, const float *x, int rows, float *y, int add, int threads) {
    Activations a = activations_for(rows, p->in);
    if (!a.scale) return 1;
    multiply(p, x, &a, rows, y, add, threads);
    free(a.scale);
    return 0;
}
